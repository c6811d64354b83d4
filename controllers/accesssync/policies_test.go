package accesssync

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/policies"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

var clusterKeys = wire.Issuer{Issuer: "https://kubernetes.default.svc", JWKS: `{"keys":[{"kid":"a"},{"kid":"b"}]}`}

// written is a policy of team-a for its registry charts, made age hours ago.
func written(name string, age int, change func(*v1alpha1.OIDCPolicy)) policyInput {
	p := &v1alpha1.OIDCPolicy{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "team-a", Name: name, UID: types.UID("uid-" + name), Finalizers: []string{v1alpha1.FinalizerPolicy},
			CreationTimestamp: metav1.NewTime(now.Add(-time.Duration(age) * time.Hour)),
		},
		Spec: v1alpha1.OIDCPolicySpec{
			RegistryRef: &v1alpha1.RegistryReference{Name: "charts", Namespace: "team-a"},
			Statements: []v1alpha1.PolicyStatement{{
				Iss:    "https://token.actions.githubusercontent.com",
				Scopes: []v1alpha1.Scope{v1alpha1.ScopeRead},
				Claims: &runtime.RawExtension{Raw: []byte(`{"repository":"acme/web","run_attempt":{"not_in":[1,"2",true]}}`)},
			}},
		},
	}
	if change != nil {
		change(p)
	}
	in := policyInput{policy: p, namespaceLabels: map[string]string{"team": "b"}}
	in.compiled, in.wrong = policies.Compile(p, nil)
	return in
}

func text(policy string) func(*v1alpha1.OIDCPolicy) {
	return func(p *v1alpha1.OIDCPolicy) { p.Spec.Statements, p.Spec.Policy = nil, policy }
}

// federated is the snapshot of a registry with policies.
func federated(registry *v1alpha1.HelmRegistry, cluster *wire.Issuer, inputs ...policyInput) compiled {
	c := compile(registry, nil)
	c.addPolicies(registry, inputs, cluster)
	return c
}

func names(c compiled) string {
	var all []string
	for _, p := range c.access.Policies {
		all = append(all, p.Name)
	}
	return strings.Join(all, " ")
}

func TestPoliciesOfASnapshot(t *testing.T) {
	deleted := metav1.NewTime(now)
	inputs := []policyInput{
		written("github", 3, nil),
		written("cluster", 2, text("- {iss: kubernetes, scopes: [read_packages], claims: {sub: \"system:serviceaccount:team-a:deployer\"}}")),
		written("chosen", 2, func(p *v1alpha1.OIDCPolicy) {
			p.Spec.RegistryRef, p.Spec.RegistrySelector = nil, &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "prod"}}
		}),
		written("not-chosen", 2, func(p *v1alpha1.OIDCPolicy) {
			p.Spec.RegistryRef, p.Spec.RegistrySelector = nil, &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "test"}}
		}),
		written("elsewhere", 2, func(p *v1alpha1.OIDCPolicy) { p.Spec.RegistryRef.Name = "other" }),
		written("wrong", 2, text("- {iss: kubernetes, scopes: [admin], claims: {a: b}}")),
		written("not-held", 2, func(p *v1alpha1.OIDCPolicy) { p.Finalizers = nil }),
		written("deleted", 2, func(p *v1alpha1.OIDCPolicy) { p.DeletionTimestamp = &deleted }),
		written("deleted-elsewhere", 2, func(p *v1alpha1.OIDCPolicy) { p.DeletionTimestamp, p.Spec.RegistryRef.Name = &deleted, "other" }),
		written("moved-and-deleted", 2, func(p *v1alpha1.OIDCPolicy) {
			p.DeletionTimestamp, p.Spec.RegistryRef.Name = &deleted, "other"
			p.Status.Registries = []v1alpha1.PolicyRegistry{{Namespace: "team-a", Name: "charts"}}
		}),
		written("foreign", 9, func(p *v1alpha1.OIDCPolicy) { p.Namespace = "team-b" }),
	}
	registry := newRegistry()
	registry.Labels = map[string]string{"tier": "prod"}
	c := federated(registry, &clusterKeys, inputs...)
	c.access.Revision = 7
	isGolden(t, "access-policies.json", &c.access)
	if got := names(c); got != "team-a/chosen team-a/cluster team-a/github" {
		t.Errorf("the policies are %s", got)
	}
	if _, err := access.Compile(c.access); err != nil {
		t.Errorf("the server refuses the snapshot: %v", err)
	}
	if diff := cmp.Diff(map[types.UID]bool{"uid-deleted": true, "uid-moved-and-deleted": true}, c.refused); diff != "" || len(c.unproved) != 2 {
		t.Errorf("refused: %s, unproved %v", diff, c.unproved)
	}
	slices.Reverse(inputs)
	if again := federated(registry, &clusterKeys, inputs...); again.access.ContentDigest() != c.access.ContentDigest() {
		t.Error("the order in which policies are listed changes the snapshot")
	}
	// The cluster's keys are in a snapshot only where somebody asks for them.
	if c := federated(newRegistry(), &clusterKeys, inputs[len(inputs)-1]); c.access.Kubernetes != nil || names(c) != "team-a/github" {
		t.Errorf("policies %s, keys %v", names(c), c.access.Kubernetes)
	}
}

func TestPoliciesOfOtherNamespaces(t *testing.T) {
	guest := written("guest", 9, func(p *v1alpha1.OIDCPolicy) {
		p.Namespace = "team-b"
		p.Spec.Statements[0].Scopes = []v1alpha1.Scope{v1alpha1.ScopeWrite}
	})
	for name, c := range map[string]struct {
		allowed v1alpha1.AllowedNamespaces
		want    string
	}{
		"not allowed":         {v1alpha1.AllowedNamespaces{}, ""},
		"with too few scopes": {v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesAll}, ""},
		"allowed":             {v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesAll, MaxScopes: []v1alpha1.Scope{v1alpha1.ScopeWrite}}, "team-b/guest"},
		"by another label": {v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesSelector, MaxScopes: []v1alpha1.Scope{v1alpha1.ScopeWrite},
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "c"}}}, ""},
		"by its label": {v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesSelector, MaxScopes: []v1alpha1.Scope{v1alpha1.ScopeWrite},
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "b"}}}, "team-b/guest"},
	} {
		registry := newRegistry()
		registry.Spec.AllowedNamespaces = c.allowed
		if got := names(federated(registry, nil, guest)); got != c.want {
			t.Errorf("%s: the policies are %q, want %q", name, got, c.want)
		}
	}
}

// A policy that passes a bound is left out together with those that are younger, and those of other namespaces go first.
func TestPoliciesLeftOut(t *testing.T) {
	many := func(n int, policy func(i int) string) []policyInput {
		var inputs []policyInput
		for i := range n {
			inputs = append(inputs, written(fmt.Sprintf("p%03d", i), n-i, text(policy(i))))
		}
		return inputs
	}
	short := func(iss string) string {
		return fmt.Sprintf("- {iss: %q, scopes: [read_packages], claims: {a: b}}", iss)
	}
	long := strings.Repeat("- {iss: kubernetes, scopes: [read_packages], claims: {a: {in: ["+strings.Repeat(strings.Repeat("x", 100)+",", 20)+"y]}}}\n", 20)
	for name, c := range map[string]struct {
		inputs []policyInput
		in     int
		why    string
	}{
		"by number":  {many(access.MaxPolicies+2, func(int) string { return short("kubernetes") }), access.MaxPolicies, "64 policies already"},
		"by size":    {many(10, func(int) string { return long }), 6, "256 KiB together"},
		"by issuers": {many(2, func(i int) string { return issuers(40, i) }), 1, "more than 64 issuers"},
		"one issuer": {many(access.MaxPolicies, func(int) string { return short("https://a.example") }), access.MaxPolicies, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, in := range c.inputs {
				if in.wrong != nil {
					t.Fatal(in.wrong)
				}
			}
			guest := written("guest", 1000, func(p *v1alpha1.OIDCPolicy) { p.Namespace = "team-b" })
			registry := newRegistry()
			registry.Spec.AllowedNamespaces.From = v1alpha1.NamespacesAll
			out := federated(registry, &clusterKeys, append([]policyInput{guest}, c.inputs...)...)
			if len(out.access.Policies) != c.in || len(out.policiesLeftOut) != len(c.inputs)+1-c.in {
				t.Fatalf("%d policies are in and %d out, want %d in", len(out.access.Policies), len(out.policiesLeftOut), c.in)
			}
			for uid, why := range out.policiesLeftOut {
				if !strings.Contains(why, c.why) {
					t.Errorf("%s is left out because %q, want something with %q", uid, why, c.why)
				}
				if uid != "uid-guest" && uid < types.UID(fmt.Sprintf("uid-p%03d", c.in)) {
					t.Errorf("%s gave way to a younger one", uid)
				}
			}
			if _, err := access.Compile(out.access); err != nil {
				t.Errorf("the server refuses the snapshot: %v", err)
			}
		})
	}
}

func issuers(n, of int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "- {iss: \"https://i%d-%d.example\", scopes: [read_packages], claims: {a: b}}\n", of, i)
	}
	return out.String()
}

// Tokens and policies together never make a snapshot that cannot be written.
func TestSnapshotsThatAreFull(t *testing.T) {
	globs := make([]string, 64)
	for i := range globs {
		globs[i] = fmt.Sprintf("%02d%s*", i, strings.Repeat("x", 248))
	}
	var inputs []tokens.Input
	for i := range 60 {
		inputs = append(inputs, issued(t, fmt.Sprintf("t%d", i), 1, func(token *v1alpha1.RegistryToken) { token.Spec.Charts = globs }))
	}
	c := compile(newRegistry(), inputs)
	statement := "- {iss: kubernetes, scopes: [read_packages], claims: {a: {in: [" + strings.Repeat(strings.Repeat("<", 30)+",", 60) + "y]}}}\n"
	var full []policyInput
	for i := range 60 {
		full = append(full, written(fmt.Sprintf("p%d", i), 1, text(strings.Repeat(statement, 10))))
	}
	keys := wire.Issuer{Issuer: "https://a.example", JWKS: strings.Repeat(`"`, 32<<10)}
	c.addPolicies(newRegistry(), full, &keys)
	if n := len(c.access.Encode()); n > wire.MaxAccessBytes || c.leftOut == 0 || len(c.policiesLeftOut) == 0 || len(c.access.Policies) == 0 {
		t.Errorf("the snapshot has %d bytes, %d tokens and %d policies are left out", n, c.leftOut, len(c.policiesLeftOut))
	}
}

func TestChangesOfPoliciesThatNarrow(t *testing.T) {
	of := func(cluster *wire.Issuer, inputs ...policyInput) wire.Access {
		return federated(newRegistry(), cluster, inputs...).access
	}
	keys := func(jwks string) *wire.Issuer { return &wire.Issuer{Issuer: clusterKeys.Issuer, JWKS: jwks} }
	a, b := written("a", 1, nil), written("b", 1, text("- {iss: kubernetes, scopes: [read_packages], claims: {sub: x}}"))
	edited := written("a", 1, func(p *v1alpha1.OIDCPolicy) { p.Spec.Statements[0].Charts = []string{"web"} })
	for name, c := range map[string]struct {
		older, newer wire.Access
		want         bool
	}{
		"none":             {of(nil), of(nil), false},
		"the same":         {of(&clusterKeys, a, b), of(&clusterKeys, b, a), false},
		"added":            {of(&clusterKeys, a), of(&clusterKeys, a, b), false},
		"removed":          {of(&clusterKeys, a, b), of(&clusterKeys, b), true},
		"edited":           {of(nil, a), of(nil, edited), true},
		"all removed":      {of(nil, a), of(nil), true},
		"issuer found":     {of(nil, b), of(&clusterKeys, b), false},
		"issuer lost":      {of(&clusterKeys, b), of(nil, b), true},
		"another issuer":   {of(&clusterKeys, b), of(&wire.Issuer{Issuer: "https://other", JWKS: clusterKeys.JWKS}, b), true},
		"a key added":      {of(&clusterKeys, b), of(keys(`{"keys":[{"kid":"a"},{"kid":"b"},{"kid":"c"}]}`), b), false},
		"a key removed":    {of(&clusterKeys, b), of(keys(`{"keys":[{"kid":"b"}]}`), b), true},
		"keys unreadable":  {of(&clusterKeys, b), of(keys("x"), b), true},
		"keys in disorder": {of(&clusterKeys, b), of(keys(`{"keys":[{"kid":"b"},{"kid":"a"}]}`), b), false},
	} {
		if got := narrows(c.older, c.newer, now); got != c.want {
			t.Errorf("%s: narrows is %v, want %v", name, got, c.want)
		}
	}
}

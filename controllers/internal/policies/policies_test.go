package policies_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/policies"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
)

func newPolicy(change func(*v1alpha1.OIDCPolicySpec)) *v1alpha1.OIDCPolicy {
	p := &v1alpha1.OIDCPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "ci"}, Spec: v1alpha1.OIDCPolicySpec{
		RegistryRef: &v1alpha1.RegistryReference{Name: "charts"},
		Statements: []v1alpha1.PolicyStatement{{
			Iss: "https://issuer.example", Scopes: []v1alpha1.Scope{v1alpha1.ScopeRead}, Claims: &runtime.RawExtension{Raw: []byte(`{"a":"b"}`)},
		}},
	}}
	change(&p.Spec)
	return p
}

func statement(change func(*v1alpha1.PolicyStatement)) func(*v1alpha1.OIDCPolicySpec) {
	return func(s *v1alpha1.OIDCPolicySpec) { change(&s.Statements[0]) }
}

func claims(text string) func(*v1alpha1.OIDCPolicySpec) {
	return statement(func(s *v1alpha1.PolicyStatement) { s.Claims = &runtime.RawExtension{Raw: []byte(text)} })
}

func text(policy string) func(*v1alpha1.OIDCPolicySpec) {
	return func(s *v1alpha1.OIDCPolicySpec) { s.Statements, s.Policy = nil, policy }
}

func TestCompile(t *testing.T) {
	ca := issuertest.New(t).CA()
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))
	authorities := policies.Authorities{"good": []byte(key + "a comment\n" + ca + key), "bad": []byte(key), "large": []byte(strings.Repeat(ca, 100))}
	refers := func(name string) func(*v1alpha1.OIDCPolicySpec) {
		return statement(func(s *v1alpha1.PolicyStatement) { s.CASecretRef = &v1alpha1.LocalObjectReference{Name: name} })
	}
	quoted, err := json.Marshal(ca)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*v1alpha1.OIDCPolicySpec)
		want   string // The entry's statements.
		wrong  string
	}{
		"the smallest": {claims(`{"a":"b"}`), `[{"claims":{"a":"b"},"iss":"https://issuer.example","scopes":["read_packages"]}]`, ""},
		"every matcher": {claims(`{"a":{"equals":1.5,"not_equals":false,"in":["x",1],"not_in":[true],"matches":["a*","?"]},"/x/y":true}`),
			`[{"claims":{"/x/y":true,"a":{"equals":1.5,"in":["x",1],"matches":["a*","?"],"not_equals":false,"not_in":[true]}},"iss":"https://issuer.example","scopes":["read_packages"]}]`, ""},
		"all else": {statement(func(s *v1alpha1.PolicyStatement) {
			s.Charts, s.Audiences, s.CA = []string{"web/*"}, []string{"x"}, ca
			s.MaxTokenLifetime = &metav1.Duration{Duration: 3600e9}
		}), `[{"audiences":["x"],"ca":` + string(quoted) + `,"charts":["web/*"],"claims":{"a":"b"},"iss":"https://issuer.example","maxTokenLifetime":"1h0m0s","scopes":["read_packages"]}]`, ""},
		"as YAML": {text("# all\n- iss: kubernetes\n  scopes: [read_packages]\n  claims: {a: null}"), `[{"claims":{"a":null},"iss":"kubernetes","scopes":["read_packages"]}]`, ""},
		"as JSON": {text(`[{"iss":"kubernetes","scopes":["read_packages"],"claims":{"a":1e2}}]`), `[{"claims":{"a":1e2},"iss":"kubernetes","scopes":["read_packages"]}]`, ""},
		"a Secret with more than certificates in it": {refers("good"),
			`[{"ca":` + string(quoted) + `,"claims":{"a":"b"},"iss":"https://issuer.example","scopes":["read_packages"]}]`, ""},
		"a Secret that is not there":              {refers("none"), "", "statements[0]: caSecretRef: there is no Secret none with an entry ca.crt"},
		"a Secret without certificates":           {refers("bad"), "", "statements[0]: caSecretRef: the entry ca.crt of the Secret bad holds no certificate"},
		"a Secret with many certificates":         {refers("large"), "", "statements[0]: caSecretRef: the entry ca.crt of the Secret large has more than 65536 bytes"},
		"a list for a rule":                       {claims(`{"ref":["a"]}`), "", "statements[0]: claims: ref: a list is no rule: write {in: [...]}"},
		"an unknown matcher":                      {claims(`{"ref":{"regex":"a"}}`), "", "statements[0]: claims: ref: regex: there is no such matcher"},
		"claims that are missing":                 {statement(func(s *v1alpha1.PolicyStatement) { s.Claims = nil }), "", "statements[0]: claims: write a map with at least one rule"},
		"claims that were emptied":                {claims(`{}`), "", "statements[0]: claims: write a map with at least one rule"},
		"bad keys":                                {statement(func(s *v1alpha1.PolicyStatement) { s.JWKS = "{}" }), "", "statements[0]: jwks: the key set has no list of keys"},
		"a map for a list":                        {text("iss: kubernetes"), "", "a policy is a list of statements"},
		"an anchor":                               {text("- &a {iss: kubernetes}"), "", "line 1: it has the anchor &a: leave it out"},
		"the second statement":                    {text("- {iss: kubernetes, scopes: [read_packages], claims: {a: b}}\n- {iss: kubernetes, claims: {a: b}}"), "", "statements[1]: scopes: write a list of what the statement grants"},
		"a reference where none can be":           {text("- {iss: kubernetes, scopes: [read_packages], claims: {a: b}, caSecretRef: {name: good}}"), "", "caSecretRef"},
		"neither statements nor a policy":         {text(""), "", "the policy has no statement"},
		"no statement":                            {func(s *v1alpha1.OIDCPolicySpec) { s.Statements = []v1alpha1.PolicyStatement{} }, "", "the policy has no statement"},
		"claims of more bytes than anybody reads": {claims(`{"a":"` + strings.Repeat("x", 256<<10) + `"}`), "", "statements[0]: claims: with those before it, it has more than 262144 bytes"},
		"claims of more than a policy has":        {claims(`{"a":{"in":[` + strings.Repeat(`1,`, 64) + `1]}}`), "", "statements[0]: claims: a: in: there are 65 values; at most 64 are allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := policies.Compile(newPolicy(c.change), authorities)
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) || strings.Contains(err.Error(), "secret\n") {
					t.Errorf("the error is %v, want something with %q", err, c.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			statements, err := json.Marshal(got.Entry.Statements)
			if err != nil || string(statements) != c.want || got.Entry.Name != "team-a/ci" || len(got.Policy.Statements) == 0 {
				t.Errorf("%s: %s (%v), want %s", got.Entry.Name, statements, err, c.want)
			}
		})
	}
}

// secrets are Secrets by namespace/name, which count how often they were read whole.
type secrets struct {
	client.Reader
	objects map[string]*corev1.Secret
	reads   int
	failing error
}

func (s *secrets) Get(_ context.Context, key types.NamespacedName, into client.Object, _ ...client.GetOption) error {
	found := s.objects[key.String()]
	if found == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, key.Name)
	}
	switch into := into.(type) {
	case *corev1.Secret:
		s.reads++
		found.DeepCopyInto(into)
		return s.failing
	case *metav1.PartialObjectMetadata:
		found.ObjectMeta.DeepCopyInto(&into.ObjectMeta)
	}
	return nil
}

func TestSecretsAreReadWhenTheyChange(t *testing.T) {
	all := &secrets{objects: map[string]*corev1.Secret{}}
	reader := &policies.Secrets{Cached: all, Live: all}
	p := newPolicy(statement(func(s *v1alpha1.PolicyStatement) { s.CASecretRef = &v1alpha1.LocalObjectReference{Name: "ca"} }))
	put := func(version, content string) {
		all.objects["team-a/ca"] = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}, Data: map[string][]byte{"ca.crt": []byte(content)}}
	}
	for i, step := range []struct {
		change func()
		want   string
		reads  int
	}{
		{func() {}, "none", 0},
		{func() { put("1", "first") }, "first", 1},
		{func() {}, "first", 1},
		{func() { put("2", "second") }, "second", 2},
		{func() { all.objects["team-a/ca"].Data, all.objects["team-a/ca"].ResourceVersion = nil, "3" }, "none", 3},
		{func() { put("4", strings.Repeat("x", 1<<20)) }, strings.Repeat("x", 64<<10+1), 4},
		{func() { delete(all.objects, "team-a/ca") }, "none", 4},
		{func() { put("5", "again") }, "again", 5},
	} {
		step.change()
		found, err := reader.Authorities(t.Context(), p)
		got, ok := found["ca"]
		if !ok {
			got = []byte("none")
		}
		if err != nil || string(got) != step.want || all.reads != step.reads {
			t.Errorf("step %d: %.20q after %d reads (%v), want %.20q after %d", i, got, all.reads, err, step.want, step.reads)
		}
	}
	all.objects["team-a/ca"].ResourceVersion, all.failing = "6", errors.New("down")
	if _, err := reader.Authorities(t.Context(), p); err == nil || !strings.Contains(err.Error(), "the Secret ca of the policy team-a/ci: down") {
		t.Errorf("the error is %v", err)
	}
}

func TestTargets(t *testing.T) {
	registry := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "charts", Labels: map[string]string{"tier": "prod"}}}
	chosen := func(selector metav1.LabelSelector) func(*v1alpha1.OIDCPolicySpec) {
		return func(s *v1alpha1.OIDCPolicySpec) { s.RegistryRef, s.RegistrySelector = nil, &selector }
	}
	named := func(namespace, name string) func(*v1alpha1.OIDCPolicySpec) {
		return func(s *v1alpha1.OIDCPolicySpec) {
			s.RegistryRef = &v1alpha1.RegistryReference{Namespace: namespace, Name: name}
		}
	}
	prod := metav1.LabelSelector{MatchLabels: map[string]string{"tier": "prod"}}
	for name, c := range map[string]struct {
		namespace string
		change    func(*v1alpha1.OIDCPolicySpec)
		want      bool
		index     string
	}{
		"named":                 {"team-a", named("", "charts"), true, "[team-a/charts]"},
		"named with namespace":  {"team-b", named("team-a", "charts"), true, "[team-a/charts]"},
		"another":               {"team-a", named("", "other"), false, "[team-a/other]"},
		"of another namespace":  {"team-b", named("", "charts"), false, "[team-b/charts]"},
		"chosen":                {"team-a", chosen(prod), true, "[team-a/]"},
		"all are chosen":        {"team-a", chosen(metav1.LabelSelector{}), true, "[team-a/]"},
		"not chosen":            {"team-a", chosen(metav1.LabelSelector{MatchLabels: map[string]string{"tier": "test"}}), false, "[team-a/]"},
		"chosen from elsewhere": {"team-b", chosen(prod), false, "[team-b/]"},
		"neither":               {"team-a", func(s *v1alpha1.OIDCPolicySpec) { s.RegistryRef = nil }, false, "[]"},
	} {
		p := newPolicy(c.change)
		p.Namespace = c.namespace
		if got := policies.Targets(p, registry); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if got := fmt.Sprint(policies.RegistriesOf(p)); got != c.index {
			t.Errorf("%s: indexed as %s, want %s", name, got, c.index)
		}
	}
	p := newPolicy(named("", "charts"))
	p.Status.Registries = []v1alpha1.PolicyRegistry{{Namespace: "team-a", Name: "charts"}, {Namespace: "team-b", Name: "old"}}
	if got := fmt.Sprint(policies.RegistriesOf(p)); got != "[team-a/charts team-b/old]" {
		t.Errorf("indexed as %s", got)
	}
	if !policies.Records(p, types.NamespacedName{Namespace: "team-b", Name: "old"}) || policies.Records(p, types.NamespacedName{Namespace: "team-b", Name: "charts"}) {
		t.Error("what the status records is not seen")
	}
}

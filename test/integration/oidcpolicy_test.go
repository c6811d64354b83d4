package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// newPolicy returns a policy of the registry "charts" of a namespace, in the same namespace, of one statement.
func newPolicy(namespace, name, iss, claims string, change func(*v1alpha1.OIDCPolicy)) *v1alpha1.OIDCPolicy {
	p := &v1alpha1.OIDCPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.OIDCPolicySpec{
			RegistryRef: &v1alpha1.RegistryReference{Name: "charts"},
			Statements: []v1alpha1.PolicyStatement{{
				Iss: iss, Scopes: []v1alpha1.Scope{v1alpha1.ScopeRead}, Claims: &runtime.RawExtension{Raw: []byte(claims)},
			}},
		},
	}
	if change != nil {
		change(p)
	}
	return p
}

// policyIs waits until a condition of a policy has a status and a reason, and returns its message.
func (c *cluster) policyIs(p *v1alpha1.OIDCPolicy, kind string, status metav1.ConditionStatus, reason string) string {
	c.t.Helper()
	defer func() {
		if c.t.Failed() {
			c.t.Logf("the status of the policy %s is %+v", p.Name, p.Status)
		}
	}()
	var condition *metav1.Condition
	c.eventually(fmt.Sprintf("%s of the policy %s is %s, %s", kind, p.Name, status, reason), func() bool {
		c.get(p)
		condition = meta.FindStatusCondition(p.Status.Conditions, kind)
		return condition != nil && condition.Status == status && condition.Reason == reason && condition.ObservedGeneration == p.Generation
	})
	return condition.Message
}

// admitsOIDC reports whether the pod lets the holder of a token read.
func (p *pod) admitsOIDC(token string) bool {
	p.c.t.Helper()
	id, err := p.enforcer.Authenticate(p.c.t.Context(), access.Credentials{Secret: token, Present: true})
	return err == nil && p.enforcer.Authorize(id, wire.ReadPackages, "web").Allowed
}

// serviceAccountToken returns a token of a service account of the test's namespace for the registry, as the kubelet would
// project it into a pod.
func (c *cluster) serviceAccountToken(name string, registry *v1alpha1.HelmRegistry) string {
	c.t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: name}}
	if !c.exists(account) {
		c.create(account)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{registry.URL()}}}
	if err := env.Client.SubResource("token").Create(c.t.Context(), account, request); err != nil {
		c.t.Fatal(err)
	}
	return request.Status.Token
}

func TestServiceAccountsNeedNoSecret(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	pod := c.startPod("charts-1")
	token, other := c.serviceAccountToken("deployer", registry), c.serviceAccountToken("other", registry)
	p := newPolicy(c.namespace, "deployer", "kubernetes", `{"sub":"system:serviceaccount:`+c.namespace+`:deployer"}`, nil)
	c.create(p)
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
	c.policyIs(p, v1alpha1.ConditionIssuersReachable, metav1.ConditionTrue, "Reachable")
	if len(p.Status.Registries) != 1 || p.Status.Registries[0] != (v1alpha1.PolicyRegistry{Namespace: c.namespace, Name: "charts", Accepted: true, Confirmed: 1, Total: 1}) {
		t.Errorf("the registries are %+v", p.Status.Registries)
	}
	if i := p.Status.Issuers; len(i) != 1 || i[0].Iss != "kubernetes" || !i[0].Reachable || i[0].Keys < 1 || i[0].LastRefreshed == nil {
		t.Errorf("the issuers are %+v", i)
	}
	if !pod.admitsOIDC(token) || pod.admitsOIDC(other) {
		t.Error("the pod does not admit exactly the service account that the policy names")
	}
	if c.floor().Version != wire.AccessVersionPolicies {
		t.Errorf("the snapshot is of version %d", c.floor().Version)
	}
	c.delete(p)
	c.eventually("the policy is gone", func() bool { return !c.exists(p) })
	if pod.admitsOIDC(token) {
		t.Error("the policy is gone, and the pod still admits its tokens")
	}
	if a := c.floor(); a.Version != wire.AccessVersion || a.Kubernetes != nil {
		t.Errorf("without policies the snapshot is of version %d, with the keys %v", a.Version, a.Kubernetes)
	}
}

func TestPolicyOfAPrivateIssuer(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	pod := c.startPod("charts-1")
	i := issuertest.New(t)
	token := i.Token(i.Claims(registry.URL(), time.Now(), map[string]any{"ref": "main"}))
	p := newPolicy(c.namespace, "ci", i.URL, `{"ref":"main"}`, func(p *v1alpha1.OIDCPolicy) {
		p.Spec.Statements[0].CASecretRef = &v1alpha1.LocalObjectReference{Name: "issuer-ca"}
	})
	c.create(p)
	if message := c.policyIs(p, v1alpha1.ConditionStalled, metav1.ConditionTrue, "InvalidPolicy"); !strings.Contains(message, "statements[0]: caSecretRef: there is no Secret issuer-ca") {
		t.Errorf("the message is %q", message)
	}
	authority := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "issuer-ca"}, StringData: map[string]string{"ca.crt": i.CA()}}
	c.create(authority)
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
	c.policyIs(p, v1alpha1.ConditionIssuersReachable, metav1.ConditionUnknown, "Pending")
	if !pod.admitsOIDC(token) {
		t.Error("the pod refuses the issuer's token")
	}
	c.policyIs(p, v1alpha1.ConditionIssuersReachable, metav1.ConditionTrue, "Reachable")
	if issuers := p.Status.Issuers; len(issuers) != 1 || issuers[0].Iss != i.URL || issuers[0].Keys != 1 || issuers[0].LastRefreshed == nil {
		t.Errorf("the issuers are %+v", issuers)
	}
	c.delete(authority)
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionFalse, "InvalidPolicy")
	c.eventually("the pod refuses the token", func() bool { return !pod.admitsOIDC(token) })
}

func TestWrongPolicyGrantsNothing(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	pod := c.startPod("charts-1")
	token := c.serviceAccountToken("deployer", registry)
	good := `- {iss: kubernetes, scopes: [read_packages], claims: {sub: {matches: "system:serviceaccount:` + c.namespace + `:*"}}}` + "\n"
	p := newPolicy(c.namespace, "ci", "", "", func(p *v1alpha1.OIDCPolicy) { p.Spec.Statements, p.Spec.Policy = nil, good })
	c.create(p)
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
	if !pod.admitsOIDC(token) {
		t.Error("the pod refuses what the policy admits")
	}
	c.update(p, func() { p.Spec.Policy = good + "- {iss: kubernetes, claims: {a: b}}" })
	if message := c.policyIs(p, v1alpha1.ConditionStalled, metav1.ConditionTrue, "InvalidPolicy"); !strings.Contains(message, "statements[1]: scopes: write a list") {
		t.Errorf("the message is %q", message)
	}
	c.eventually("the pod admits nobody", func() bool { return !pod.admitsOIDC(token) })
	if r := p.Status.Registries; len(r) != 1 || r[0].Accepted || r[0].Confirmed != 0 {
		t.Errorf("the registries are %+v", r)
	}
	c.eventually("there is an event", func() bool { return c.hasEvent(p, "InvalidPolicy") })
	c.update(p, func() { p.Spec.Policy = good })
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
}

func TestPolicyThatIsTooBroad(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	p := newPolicy(c.namespace, "ci", "https://token.actions.githubusercontent.com", `{"ref":"refs/heads/main"}`, nil)
	c.create(p)
	if message := c.policyIs(p, v1alpha1.ConditionPolicyTooBroad, metav1.ConditionTrue, "StrangersMayMatch"); !strings.Contains(message, "statements[0]: no claim says whose tokens are meant") {
		t.Errorf("the message is %q", message)
	}
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionFalse, "NoReplicas")
	c.eventually("there is an event", func() bool { return c.hasEvent(p, "PolicyTooBroad") })
	c.update(p, func() {
		p.Spec.Statements[0].Claims = &runtime.RawExtension{Raw: []byte(`{"repository":"acme/web","ref":"refs/heads/main"}`)}
	})
	c.eventually("nothing is said any more", func() bool {
		c.get(p)
		return p.Status.ObservedGeneration == p.Generation && meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionPolicyTooBroad) == nil
	})
}

func TestPolicyFollowsLabels(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	pod := c.startPod("charts-1")
	token := c.serviceAccountToken("deployer", registry)
	p := newPolicy(c.namespace, "ci", "kubernetes", `{"sub":"system:serviceaccount:`+c.namespace+`:deployer"}`, func(p *v1alpha1.OIDCPolicy) {
		p.Spec.RegistryRef, p.Spec.RegistrySelector = nil, &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "prod"}}
	})
	c.create(p)
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionFalse, "RegistryNotFound")
	c.update(registry, func() { registry.Labels = map[string]string{"tier": "prod"} })
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
	if !pod.admitsOIDC(token) {
		t.Error("the pod refuses what the policy admits")
	}
	c.update(registry, func() { registry.Labels = nil })
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionFalse, "RegistryNotFound")
	if len(p.Status.Registries) != 0 || pod.admitsOIDC(token) {
		t.Errorf("the registry is not chosen any more, and yet %+v", p.Status.Registries)
	}
	// The spec may change its mind too.
	c.update(p, func() {
		p.Spec.RegistrySelector, p.Spec.RegistryRef = nil, &v1alpha1.RegistryReference{Name: "charts"}
	})
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
	c.update(p, func() { p.Spec.RegistryRef.Name = "other" })
	c.eventually("the policy has left the registry", func() bool {
		c.get(p)
		return !pod.admitsOIDC(token) && len(p.Status.Registries) == 1 && p.Status.Registries[0].Name == "other"
	})
}

func TestPoliciesOfOtherNamespacesNeedPermission(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	pod := c.startPod("charts-1")
	token := c.serviceAccountToken("deployer", registry)
	guests := c.newNamespace(map[string]string{"team": c.namespace})
	p := newPolicy(guests.Name, "ci", "kubernetes", `{"sub":"system:serviceaccount:`+c.namespace+`:deployer"}`, func(p *v1alpha1.OIDCPolicy) {
		p.Spec.RegistryRef.Namespace = c.namespace
	})
	c.create(p)
	if message := c.policyIs(p, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NamespaceNotAllowed"); !strings.Contains(message, "admits policies of its own namespace only") {
		t.Errorf("the message is %q", message)
	}
	c.update(registry, func() {
		registry.Spec.AllowedNamespaces = v1alpha1.AllowedNamespaces{From: v1alpha1.NamespacesSelector, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": c.namespace}}}
	})
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
	if !pod.admitsOIDC(token) {
		t.Error("the pod refuses what the policy admits")
	}
	c.update(p, func() { p.Spec.Statements[0].Scopes = []v1alpha1.Scope{v1alpha1.ScopeRead, v1alpha1.ScopeWrite} })
	if message := c.policyIs(p, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NamespaceNotAllowed"); !strings.Contains(message, "write_packages") {
		t.Errorf("the message is %q", message)
	}
	c.eventually("the pod refuses the token", func() bool { return !pod.admitsOIDC(token) })
	c.update(p, func() { p.Spec.Statements[0].Scopes = []v1alpha1.Scope{v1alpha1.ScopeRead} })
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
	c.update(guests, func() { delete(guests.Labels, "team") })
	c.policyIs(p, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NamespaceNotAllowed")
	c.eventually("the pod refuses the token again", func() bool { return !pod.admitsOIDC(token) })
}

func TestPolicyDeletionWaitsForEveryPod(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	c.startPod("charts-1")
	silent := c.startPod("charts-2")
	token := c.serviceAccountToken("deployer", registry)
	p := newPolicy(c.namespace, "ci", "kubernetes", `{"sub":"system:serviceaccount:`+c.namespace+`:deployer"}`, nil)
	c.create(p)
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")

	c.waitsFor(silent, p, &p.Status.Conditions, func() bool { return silent.admitsOIDC(token) })
}

func TestPolicyDeletionNeverHangs(t *testing.T) {
	neverHangs(t, func(c *cluster) client.Object {
		p := newPolicy(c.namespace, "ci", "kubernetes", `{"sub":"x"}`, nil)
		c.create(p)
		c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
		return p
	})
	c := newCluster(t)
	p := newPolicy(c.namespace, "ci", "kubernetes", `{"sub":"x"}`, nil)
	c.create(p)
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionFalse, "RegistryNotFound")
	c.delete(p)
	c.eventually("the policy of no registry at any time is gone", func() bool { return !c.exists(p) })
}

// An operator that has just started, and is not told the cluster's issuer by the API server, sends on the keys that the last
// snapshot had, until it has read them anew.
func TestClusterKeysOutliveTheOperator(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	pod := c.startPod("charts-1")
	secret := c.serviceAccountToken("deployer", registry)
	p := newPolicy(c.namespace, "deployer", "kubernetes", `{"sub":"system:serviceaccount:`+c.namespace+`:deployer"}`, nil)
	c.create(p)
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
	keys := *c.floor().Kubernetes

	issuerHidden.Store(true)
	t.Cleanup(func() { issuerHidden.Store(false) })
	if err := op.stop(); err != nil {
		t.Fatal(err)
	}
	if err := op.start(); err != nil {
		t.Fatal(err)
	}
	if message := c.policyIs(p, v1alpha1.ConditionIssuersReachable, metav1.ConditionFalse, "IssuerUnreachable"); !strings.Contains(message, "could not be read from the API server") {
		t.Errorf("the message is %q", message)
	}
	// Another snapshot is made without the operator knowing the keys.
	token := newToken(c.namespace, "ci", nil)
	c.create(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	if now := c.floor().Kubernetes; now == nil || *now != keys {
		t.Errorf("the snapshot has the keys %v, want those of before", now)
	}
	if !pod.admitsOIDC(secret) {
		t.Error("the pod refuses the service account while the operator does not know its issuer")
	}
	issuerHidden.Store(false)
	c.policyIs(p, v1alpha1.ConditionIssuersReachable, metav1.ConditionTrue, "Reachable")
	if !pod.admitsOIDC(secret) {
		t.Error("the pod refuses the service account once the keys were read anew")
	}
}

// A policy that is made narrower takes a pod out of service that does not confirm it; one that is added does not.
func TestNarrowedPolicyFences(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	c.startPod("charts-1")
	p := newPolicy(c.namespace, "ci", "kubernetes", `{"sub":"x"}`, nil)
	c.create(p)
	c.policyIs(p, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
	silent := c.startPod("charts-2")
	c.eventually("the second pod enforces the policy", silent.inForce)
	silent.cutOff()
	c.update(p, func() { p.Spec.Statements[0].Charts = []string{"web"} })
	object := silent.object()
	c.eventually("the silent pod is taken out of service", func() bool { c.get(object); return !object.DeletionTimestamp.IsZero() })
	c.eventually("there is an event", func() bool { return c.hasEvent(registry, "ReplicaUnreachable") })
}

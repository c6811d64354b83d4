package integration

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// newToken returns a token of the registry "charts" of a namespace, in the same namespace.
func newToken(namespace, name string, change func(*v1alpha1.RegistryToken)) *v1alpha1.RegistryToken {
	token := &v1alpha1.RegistryToken{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.RegistryTokenSpec{RegistryRef: v1alpha1.RegistryReference{Name: "charts"}},
	}
	if change != nil {
		change(token)
	}
	return token
}

// eventuallyIs waits until a condition of a token has a status and a reason.
func (c *cluster) eventuallyIs(token *v1alpha1.RegistryToken, kind string, status metav1.ConditionStatus, reason string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s of the token %s is %s, %s", kind, token.Name, status, reason), func() bool {
		c.get(token)
		condition := meta.FindStatusCondition(token.Status.Conditions, kind)
		return condition != nil && condition.Status == status && condition.Reason == reason && condition.ObservedGeneration == token.Generation
	})
}

// issued waits until a token is in a Secret, and returns that.
func (c *cluster) issued(token *v1alpha1.RegistryToken) *corev1.Secret {
	c.t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: token.Namespace, Name: token.SecretName()}}
	c.eventually("the token "+token.Name+" is in its Secret", func() bool {
		c.get(token)
		return token.Status.TokenID != "" && c.exists(secret) && secret.Annotations[v1alpha1.AnnotationTokenID] == token.Status.TokenID
	})
	return secret
}

func TestTokenIsPublishedAndPropagated(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	token := newToken(c.namespace, "ci", func(token *v1alpha1.RegistryToken) {
		token.Spec.Scopes = []v1alpha1.Scope{v1alpha1.ScopeWrite, v1alpha1.ScopeRead}
		token.Spec.SecretTemplate.Labels = map[string]string{"example.com/team": "web"}
		token.Spec.TTL = &metav1.Duration{Duration: time.Hour}
	})
	c.create(token)
	secret := c.issued(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionFalse, "NoReplicas")

	pod := c.startPod("charts-1")
	c.eventuallyIs(token, v1alpha1.ConditionPropagated, metav1.ConditionTrue, "Confirmed")
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	c.eventually("the Secret has the authority's certificate", func() bool { c.get(secret); return len(secret.Data["ca.crt"]) > 0 })
	if !pod.admits(secret, wire.WritePackages) || pod.admits(secret, wire.DeletePackages) {
		t.Error("the pod does not admit exactly what the token's scopes say")
	}
	host := "charts." + c.namespace + ".svc"
	var docker struct {
		Auths map[string]struct{ Username, Password string }
	}
	if err := json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &docker); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{
		"type": string(secret.Type), "username": string(secret.Data["username"]), "registry": string(secret.Data["registry"]),
		"url": string(secret.Data["url"]), "docker": docker.Auths[host].Username + ":" + docker.Auths[host].Password,
		"template": secret.Labels["example.com/team"], "label": secret.Labels[v1alpha1.LabelToken],
		"expiry": secret.Annotations[v1alpha1.AnnotationExpiresAt], "secretRef": token.Status.SecretRef.Name,
	}
	want := map[string]string{
		"type": "kubernetes.io/dockerconfigjson", "username": "chartroom", "registry": host,
		"url": "https://" + host + "/" + c.namespace + "/charts", "docker": "chartroom:" + string(secret.Data["password"]),
		"template": "web", "label": "ci", "secretRef": "ci",
		"expiry": token.Status.IssuedAt.Add(time.Hour).UTC().Format(time.RFC3339),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !metav1.IsControlledBy(secret, token) {
		t.Error("the Secret does not belong to the token")
	}
	// A changed lifetime counts from the issue, and the token stays the same.
	c.update(token, func() { token.Spec.TTL = &metav1.Duration{Duration: 2 * time.Hour} })
	c.eventually("the expiry follows the spec", func() bool {
		c.get(token)
		return token.Status.ExpiresAt != nil && token.Status.ExpiresAt.Equal(&metav1.Time{Time: token.Status.IssuedAt.Add(2 * time.Hour)})
	})
	password := string(secret.Data["password"])
	if c.get(secret); string(secret.Data["password"]) != password {
		t.Error("a changed lifetime made another token")
	}
}

func TestSecretThatWasTamperedWithComesBack(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	pod := c.startPod("charts-1")
	token := newToken(c.namespace, "ci", func(token *v1alpha1.RegistryToken) {
		token.Spec.SecretTemplate.Labels = map[string]string{"example.com/team": "web"}
	})
	c.create(token)
	secret := c.issued(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")

	for name, edit := range map[string]func(){
		"user name":      func() { secret.Data["username"] = []byte("x") },
		"docker config":  func() { secret.Data[corev1.DockerConfigJsonKey] = []byte("{}") },
		"our labels":     func() { secret.Labels = nil },
		"template label": func() { delete(secret.Labels, "example.com/team") },
		"owner":          func() { secret.OwnerReferences = nil },
	} {
		c.get(secret)
		before := secret.DeepCopy()
		c.update(secret, edit)
		c.eventually("after the "+name+" was edited, the Secret is as it was", func() bool {
			c.get(secret)
			return cmp.Equal(before.Data, secret.Data) && cmp.Equal(before.Labels, secret.Labels) &&
				cmp.Equal(before.OwnerReferences, secret.OwnerReferences)
		})
	}
	// A label that leaves the template leaves the Secret.
	c.update(token, func() { token.Spec.SecretTemplate.Labels = nil })
	c.eventually("the label is gone", func() bool { c.get(secret); return secret.Labels["example.com/team"] == "" })

	for name, change := range map[string]func(){
		"password edited": func() { c.update(secret, func() { secret.Data["password"] = []byte("hunter2") }) },
		"Secret deleted":  func() { c.delete(secret) },
	} {
		c.get(secret)
		before, id := secret.DeepCopy(), token.Status.TokenID
		change()
		c.eventually(name+": another token is issued", func() bool { c.get(token); return token.Status.TokenID != id })
		secret = c.issued(token)
		c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
		if pod.admits(before, wire.ReadPackages) || !pod.admits(secret, wire.ReadPackages) {
			t.Errorf("%s: the pod admits the earlier token, or not the new one", name)
		}
	}
	c.eventually("events tell of both", func() bool {
		return c.hasEvent(token, "SecretChanged") && c.hasEvent(token, "SecretMissing")
	})
}

func TestForeignSecretIsLeftAlone(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "ci"}, StringData: map[string]string{"password": "mine"}}
	c.create(foreign)
	before := foreign.ResourceVersion
	token := newToken(c.namespace, "ci", nil)
	c.create(token)
	c.eventuallyIs(token, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NameTaken")
	c.delete(token)
	c.eventually("the token is gone", func() bool { return !c.exists(token) })
	if c.get(foreign); foreign.ResourceVersion != before {
		t.Error("the foreign Secret was touched")
	}
}

func TestRestoreAdoptsAndRevivesNothing(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	pod := c.startPod("charts-1")
	lost := newToken(c.namespace, "lost", func(token *v1alpha1.RegistryToken) { token.Spec.TTL = &metav1.Duration{Duration: time.Hour} })
	c.create(lost)
	secret := c.issued(lost)
	c.eventuallyIs(lost, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	c.delete(lost)
	c.eventually("the token is gone", func() bool { return !c.exists(lost) })

	restored := func(name string, change func(*corev1.Secret)) *v1alpha1.RegistryToken {
		copied := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: name, Annotations: secret.Annotations, Labels: map[string]string{
				v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelToken: name}},
			Type: secret.Type, Data: secret.Data,
		}
		if change != nil {
			change(copied)
		}
		c.create(copied)
		token := newToken(c.namespace, name, func(token *v1alpha1.RegistryToken) { token.Spec.TTL = lost.Spec.TTL })
		c.create(token)
		return token
	}
	adopted := restored("adopted", nil)
	c.eventuallyIs(adopted, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	kept := c.issued(adopted)
	if string(kept.Data["password"]) != string(secret.Data["password"]) || !metav1.IsControlledBy(kept, adopted) {
		t.Error("the restored Secret was not adopted as it was")
	}
	if got := adopted.Status.ExpiresAt.UTC().Format(time.RFC3339); got != secret.Annotations[v1alpha1.AnnotationExpiresAt] {
		t.Errorf("the adopted token expires at %s, want %s", got, secret.Annotations[v1alpha1.AnnotationExpiresAt])
	}
	c.delete(adopted)

	expired := restored("expired", func(s *corev1.Secret) {
		s.Annotations = map[string]string{
			v1alpha1.AnnotationTokenID:   secret.Annotations[v1alpha1.AnnotationTokenID],
			v1alpha1.AnnotationIssuedAt:  time.Now().Add(-2 * time.Hour).UTC().Format(time.RFC3339),
			v1alpha1.AnnotationExpiresAt: time.Now().Add(-time.Hour).UTC().Format(time.RFC3339),
		}
	})
	c.eventuallyIs(expired, v1alpha1.ConditionReady, metav1.ConditionFalse, "Expired")
	c.eventually("the adopted token is gone", func() bool { return !c.exists(adopted) })
	if pod.admits(secret, wire.ReadPackages) {
		t.Error("an expired token was revived")
	}
}

func TestTokenExpires(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	pod := c.startPod("charts-1")
	at := metav1.NewTime(time.Now().Add(3 * time.Second))
	token := newToken(c.namespace, "ci", func(token *v1alpha1.RegistryToken) { token.Spec.ExpiresAt = &at })
	c.create(token)
	secret := c.issued(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionFalse, "Expired")
	if pod.admits(secret, wire.ReadPackages) {
		t.Error("the pod admits an expired token")
	}
	c.delete(secret)
	c.update(token, func() { later := metav1.NewTime(time.Now().Add(time.Hour)); token.Spec.ExpiresAt = &later })
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionFalse, "Expired")
	if c.exists(secret) {
		t.Error("an expired token was issued again")
	}
}

func TestOtherNamespacesNeedPermission(t *testing.T) {
	c := newCluster(t)
	other := c.newNamespace(nil)
	token := newToken(other.Name, "pull", func(token *v1alpha1.RegistryToken) { token.Spec.RegistryRef.Namespace = c.namespace })
	c.create(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionFalse, "RegistryNotFound")
	registry := c.registry(nil)
	c.create(registry)
	pod := c.startPod("charts-1")
	c.eventuallyIs(token, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NamespaceNotAllowed")

	c.update(registry, func() {
		registry.Spec.AllowedNamespaces = v1alpha1.AllowedNamespaces{
			From: v1alpha1.NamespacesSelector, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"example.com/charts": "yes"}}}
	})
	c.update(other, func() { metav1.SetMetaDataLabel(&other.ObjectMeta, "example.com/charts", "yes") })
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	secret := c.issued(token)
	if !pod.admits(secret, wire.ReadPackages) {
		t.Error("the pod does not admit a token of an allowed namespace")
	}
	writer := newToken(other.Name, "push", func(token *v1alpha1.RegistryToken) {
		token.Spec.RegistryRef.Namespace = c.namespace
		token.Spec.Scopes = []v1alpha1.Scope{v1alpha1.ScopeRead, v1alpha1.ScopeWrite}
	})
	c.create(writer)
	c.eventuallyIs(writer, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NamespaceNotAllowed")
	c.update(registry, func() { registry.Spec.AllowedNamespaces.MaxScopes = writer.Spec.Scopes })
	c.eventuallyIs(writer, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	writing := c.issued(writer)
	if !pod.admits(writing, wire.WritePackages) || pod.admits(writing, wire.DeletePackages) {
		t.Error("the pod does not admit what the registry allows to other namespaces, or more")
	}
	c.update(registry, func() { registry.Spec.AllowedNamespaces.MaxScopes = nil })
	c.eventuallyIs(writer, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NamespaceNotAllowed")
	c.eventually("the pod refuses the token that wants more", func() bool { return !pod.admits(writing, wire.ReadPackages) })

	c.update(other, func() { delete(other.Labels, "example.com/charts") })
	c.eventuallyIs(token, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NamespaceNotAllowed")
	c.eventually("the pod refuses the token", func() bool { return !pod.admits(secret, wire.ReadPackages) })
}

func TestTemplateCannotSteerOtherControllers(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	token := newToken(c.namespace, "ci", func(token *v1alpha1.RegistryToken) {
		token.Spec.SecretTemplate.Labels = map[string]string{"argocd.argoproj.io/secret-type": "cluster"}
	})
	c.create(token)
	c.eventuallyIs(token, v1alpha1.ConditionStalled, metav1.ConditionTrue, "InvalidSecretTemplate")
	if message := meta.FindStatusCondition(token.Status.Conditions, v1alpha1.ConditionReady).Message; !strings.Contains(message, "argocd.argoproj.io/secret-type") {
		t.Errorf("the message does not name the label: %s", message)
	}
	if c.exists(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "ci"}}) {
		t.Error("the Secret was made all the same")
	}
}

func TestRevocationIsProved(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	pod := c.startPod("charts-1")
	for name, revoke := range map[string]func(*v1alpha1.RegistryToken){
		"deleted": func(token *v1alpha1.RegistryToken) {
			c.delete(token)
			c.eventually("the object is gone", func() bool { return !c.exists(token) })
		},
		"revoked": func(token *v1alpha1.RegistryToken) {
			c.update(token, func() { token.Spec.State = v1alpha1.TokenRevoked })
			c.eventuallyIs(token, v1alpha1.ConditionRevoked, metav1.ConditionTrue, "Confirmed")
		},
	} {
		token := newToken(c.namespace, name, nil)
		c.create(token)
		secret := c.issued(token)
		c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
		if !pod.admits(secret, wire.ReadPackages) {
			t.Fatal("the pod does not admit the token")
		}
		revoke(token)
		if pod.admits(secret, wire.ReadPackages) {
			t.Errorf("%s: the pod still admits the token", name)
		}
		c.eventually("the Secret is gone", func() bool { return !c.exists(secret) })
	}
}

func TestRevocationWaitsForEveryPod(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	c.startPod("charts-1")
	silent := c.startPod("charts-2")
	token := newToken(c.namespace, "ci", nil)
	c.create(token)
	secret := c.issued(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")

	c.waitsFor(silent, token, &token.Status.Conditions, func() bool { return silent.admits(secret, wire.ReadPackages) })
}

func TestRevocationNeverHangs(t *testing.T) {
	neverHangs(t, func(c *cluster) client.Object {
		token := newToken(c.namespace, "ci", nil)
		c.create(token)
		c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
		return token
	})
}

func TestTokenThatWasMadeElsewhere(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	pod := c.startPod("charts-1")
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "me"}, StringData: map[string]string{"password": "mine"}}
	c.create(foreign)
	before := foreign.ResourceVersion
	minted, err := access.Mint(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	mine := &corev1.Secret{Data: map[string][]byte{"password": []byte(minted.Reveal())}}
	token := newToken(c.namespace, "me", func(token *v1alpha1.RegistryToken) {
		token.Spec.SecretSHA256, token.Spec.TTL = minted.SHA256(), &metav1.Duration{Duration: time.Hour}
	})
	c.create(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	if !pod.admits(mine, wire.ReadPackages) || pod.admits(mine, wire.WritePackages) {
		t.Error("the pod does not admit exactly what the token's scopes say")
	}
	if token.Status.TokenID != minted.ID() || token.Status.SecretRef != nil || token.Annotations[v1alpha1.AnnotationIssuedAt] == "" {
		t.Errorf("the object says %+v, %v", token.Status, token.Annotations)
	}
	c.delete(token)
	c.eventually("the token is gone", func() bool { return !c.exists(token) })
	if pod.admits(mine, wire.ReadPackages) {
		t.Error("the pod admits the token of an object that is gone")
	}
	if c.get(foreign); foreign.ResourceVersion != before {
		t.Error("a Secret that has the same name was touched")
	}
}

func TestLastUseIsTold(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	pod := c.startPod("charts-1")
	used, unused := newToken(c.namespace, "used", nil), newToken(c.namespace, "unused", nil)
	c.create(used)
	c.create(unused)
	c.issued(unused)
	secret := c.issued(used)
	c.eventuallyIs(used, v1alpha1.ConditionPropagated, metav1.ConditionTrue, "Confirmed")
	c.eventuallyIs(unused, v1alpha1.ConditionPropagated, metav1.ConditionTrue, "Confirmed")
	if used.Status.LastUsed != nil {
		t.Errorf("it was used at %v, before it was", used.Status.LastUsed)
	}
	before := time.Now().Truncate(access.UseBucket)
	if !pod.admits(secret, wire.ReadPackages) {
		t.Fatal("the pod does not admit the token")
	}
	c.eventually("the status tells of it", func() bool {
		c.get(used)
		return used.Status.LastUsed != nil
	})
	if at := used.Status.LastUsed.Time; at.Before(before) || !at.Equal(at.Truncate(access.UseBucket)) {
		t.Errorf("the status says %v", at)
	}

	// More uses within ten minutes are no more writes.
	version := used.ResourceVersion
	pod.admits(secret, wire.ReadPackages)
	asked := pod.asked.Load()
	c.eventually("the pod was asked again", func() bool { return pod.asked.Load() >= asked+1 })
	if c.get(used); used.ResourceVersion != version && used.Status.LastUsed.Time.Equal(before) {
		t.Error("the status was written again")
	}
	if c.get(unused); unused.Status.LastUsed != nil {
		t.Error("another token's use counts")
	}
}

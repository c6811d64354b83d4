package integration

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// rotate asks for a rotation, as a person does.
func (c *cluster) rotate(token *v1alpha1.RegistryToken, request string) {
	c.t.Helper()
	c.update(token, func() {
		metav1.SetMetaDataAnnotation(&token.ObjectMeta, v1alpha1.AnnotationRotationRequested, request)
	})
}

// rotated waits until a request was acted on, and returns the Secret.
func (c *cluster) rotated(token *v1alpha1.RegistryToken, request string) *corev1.Secret {
	c.t.Helper()
	c.eventually("the rotation was done", func() bool {
		c.get(token)
		return token.Status.LastHandledRotationRequest == request
	})
	return c.issued(token)
}

func TestRotationWaitsForEveryPod(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	pods := []*pod{c.startPod("charts-1"), c.startPod("charts-2")}
	token := newToken(c.namespace, "ci", func(token *v1alpha1.RegistryToken) {
		token.Spec.Rotation = &v1alpha1.Rotation{Interval: metav1.Duration{Duration: time.Hour}, Overlap: &metav1.Duration{Duration: 10 * time.Minute}}
	})
	c.create(token)
	before := c.issued(token).DeepCopy()
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	if want := token.Status.IssuedAt.Add(time.Hour); !token.Status.NextRotation.Time.Equal(want) {
		t.Errorf("the next rotation is at %v, want %v", token.Status.NextRotation, want)
	}

	pods[1].cutOff()
	c.rotate(token, "first")
	secret := before.DeepCopy()
	c.eventually("the new token is staged and one pod knows it", func() bool {
		c.get(secret)
		staged := secret.DeepCopy()
		staged.Data["password"] = secret.Data["next-token"]
		return len(secret.Data["next-token"]) > 0 && pods[0].admits(staged, wire.ReadPackages)
	})
	if string(secret.Data["password"]) != string(before.Data["password"]) {
		t.Fatal("the Secret was switched before every pod enforced the new token")
	}
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")

	pods[1].serve()
	secret = c.rotated(token, "first")
	if string(secret.Data["password"]) == string(before.Data["password"]) || len(secret.Data["next-token"]) > 0 {
		t.Error("the Secret was not switched")
	}
	c.eventuallyIs(token, v1alpha1.ConditionPropagated, metav1.ConditionTrue, "Confirmed")
	for _, pod := range pods {
		if !pod.admits(before, wire.ReadPackages) || !pod.admits(secret, wire.ReadPackages) {
			t.Errorf("%s does not admit both tokens", pod.name)
		}
	}
	end := token.Status.PreviousExpiresAt
	if end == nil || time.Until(end.Time) > 10*time.Minute || token.Status.TokenID == before.Annotations[v1alpha1.AnnotationTokenID] {
		t.Fatalf("the status does not tell of the rotation: %+v", token.Status)
	}
	// What the pods have ends the old token, with no operator.
	var ends []time.Time
	for _, entry := range c.floor().Tokens {
		if entry.ExpiresAt != nil {
			ends = append(ends, *entry.ExpiresAt)
		}
	}
	if len(ends) != 1 || !ends[0].Equal(end.Time) {
		t.Errorf("tokens of the snapshot end at %v, want %v alone", ends, end)
	}
	c.eventually("an event tells of it", func() bool { return c.hasEvent(token, "Rotated") })

	c.delete(token)
	c.eventually("the token is gone", func() bool { return !c.exists(token) })
	for _, pod := range pods {
		if pod.admits(before, wire.ReadPackages) || pod.admits(secret, wire.ReadPackages) {
			t.Errorf("%s admits a token of an object that is gone", pod.name)
		}
	}
}

func TestRestoreWithoutStatusMakesUpForARotation(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	pod := c.startPod("charts-1")
	lost := newToken(c.namespace, "lost", nil)
	c.create(lost)
	c.issued(lost)
	c.rotate(lost, "once")
	secret := c.rotated(lost, "once")
	c.delete(lost)
	c.eventually("the token is gone", func() bool { return !c.exists(lost) })

	yesterday := time.Now().Add(-25 * time.Hour).UTC().Format(time.RFC3339)
	annotations := map[string]string{v1alpha1.AnnotationIssuedAt: yesterday}
	for _, key := range []string{v1alpha1.AnnotationTokenID, v1alpha1.AnnotationPreviousID, v1alpha1.AnnotationPreviousSHA256, v1alpha1.AnnotationRotationRequested} {
		annotations[key] = secret.Annotations[key]
	}
	annotations[v1alpha1.AnnotationPreviousExpiresAt] = yesterday
	restored := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "restored", Annotations: annotations, Labels: map[string]string{
			v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelToken: "restored"}},
		Type: secret.Type, Data: secret.Data,
	}
	c.create(restored)
	token := newToken(c.namespace, "restored", func(token *v1alpha1.RegistryToken) {
		metav1.SetMetaDataAnnotation(&token.ObjectMeta, v1alpha1.AnnotationRotationRequested, "once")
		token.Spec.Rotation = &v1alpha1.Rotation{Interval: metav1.Duration{Duration: 24 * time.Hour}}
	})
	c.create(token)
	c.eventually("the rotation is made up for", func() bool {
		c.get(token)
		return token.Status.PreviousExpiresAt != nil && token.Status.TokenID != secret.Annotations[v1alpha1.AnnotationTokenID]
	})
	c.eventuallyIs(token, v1alpha1.ConditionPropagated, metav1.ConditionTrue, "Confirmed")
	if !pod.admits(secret, wire.ReadPackages) || !pod.admits(c.issued(token), wire.ReadPackages) {
		t.Error("the pod does not admit both the restored token and the one that replaced it")
	}
	if n := len(c.floor().Tokens); n != 2 {
		t.Errorf("the snapshot has %d tokens, want the restored one and the new one", n)
	}
	id := token.Status.TokenID
	c.settle(func() int { return int(c.floor().Revision) })
	if c.get(token); token.Status.TokenID != id {
		t.Error("it was made up for more than once")
	}
}

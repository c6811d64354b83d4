package helmregistry_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// What is wrong with a receiver's Secrets is said, and the pods stay as they are.
func TestNotificationsWaitForTheirSecrets(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	before := get(t, &appsv1.Deployment{}, r.Namespace, r.Name).Generation
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) {
		s.Notifications = []v1alpha1.Notification{{
			Name: "flux", URL: "https://flux.example.com/hook", Format: "flux",
			Auth: &v1alpha1.NotificationAuth{HMAC: &v1alpha1.NotificationHMAC{SecretRef: v1alpha1.SecretEntryReference{LocalObjectReference: v1alpha1.LocalObjectReference{Name: "hook"}}}},
			TLS:  &v1alpha1.NotificationTLS{CASecretRef: &v1alpha1.LocalObjectReference{Name: "hook-ca"}},
		}}
	})
	says := func(reason, words string) {
		t.Helper()
		if c := condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, reason); !strings.Contains(c.Message, words) {
			t.Errorf("the message does not help: %s", c.Message)
		}
	}
	says("NotificationSecretNotFound", "There is no Secret hook in this namespace: create it with token")
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: "hook"}, Data: map[string][]byte{"other": []byte("x")}}
	if err := env.Client.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	says("NotificationSecretIncomplete", "Secret hook has no token")
	secret.Data["token"] = []byte("x")
	if err := env.Client.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	says("NotificationCANotFound", "There is no Secret hook-ca in this namespace: create it with ca.crt")
	ca := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: "hook-ca"}, Data: map[string][]byte{"ca.crt": []byte("x")}}
	if err := env.Client.Create(t.Context(), ca); err != nil {
		t.Fatal(err)
	}
	says("NotificationCAInvalid", "ca.crt of Secret hook-ca")
	if after := get(t, &appsv1.Deployment{}, r.Namespace, r.Name).Generation; after != before {
		t.Error("the Deployment was changed")
	}
	// A receiver that is told nothing needs nothing.
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Notifications[0].Disabled = true })
	becomeReady(t, r)
	pod := get(t, &appsv1.Deployment{}, r.Namespace, r.Name).Spec.Template.Spec
	if args := strings.Join(pod.Containers[0].Args, " "); !strings.Contains(args, `--notifications=[{"name":"flux","url":"https://flux.example.com/hook"`) {
		t.Errorf("the pods are started with %s", args)
	}
}

// The CRD's rules do not judge all of an address.
func TestNotificationsThatTheServerWouldRefuse(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{Notifications: []v1alpha1.Notification{{Name: "a", URL: "https://example.com/%zz", Format: "flux"}}})
	c := condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NotificationInvalid")
	if !strings.Contains(c.Message, "spec.notifications[0].url: is not an address such as") {
		t.Errorf("the message does not help: %s", c.Message)
	}
}

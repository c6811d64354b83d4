package helmregistry_test

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
)

func TestRetainKeepsTheClaimAndTheNextRegistryAdoptsIt(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	claim := get(t, &corev1.PersistentVolumeClaim{}, r.Namespace, "charts")
	if len(claim.OwnerReferences) != 0 {
		t.Fatalf("the claim has owners %v: it would go with the registry", claim.OwnerReferences)
	}
	deleteRegistry(t, r)
	if now := get(t, &corev1.PersistentVolumeClaim{}, r.Namespace, "charts"); now.DeletionTimestamp != nil {
		t.Fatal("the claim is being deleted")
	}
	collect(t, r)
	again := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: "charts"}}
	create(t, again)
	// Once the operator knows of it, it does not see the end of the one before any more, and forget what is confirmed.
	condition(t, again, v1alpha1.ConditionReady, metav1.ConditionFalse, "")
	confirm(again)
	becomeReady(t, again)
	if now := get(t, &corev1.PersistentVolumeClaim{}, r.Namespace, "charts"); now.UID != claim.UID {
		t.Error("the claim is another one")
	}
}

func TestRestoreWithoutOwnersAdoptsWhatIsThere(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	keys := get(t, &corev1.Secret{}, r.Namespace, "charts-keys")
	certificate := get(t, &corev1.Secret{}, r.Namespace, "charts-tls")
	deleteRegistry(t, r)
	// The operator must have seen the end of the registry, or it would see drift in what follows.
	settle(t)
	for _, o := range children(t, r) {
		o.SetOwnerReferences(nil)
		if err := env.Client.Update(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	again := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: "charts"}}
	create(t, again)
	becomeReady(t, again)
	for _, o := range children(t, r) {
		if !metav1.IsControlledBy(o, again) {
			t.Errorf("%T %s was not adopted", o, o.GetName())
		}
	}
	for _, before := range []*corev1.Secret{keys, certificate} {
		if now := get(t, &corev1.Secret{}, r.Namespace, before.Name); !reflect.DeepEqual(now.Data, before.Data) {
			t.Errorf("Secret %s was made anew", before.Name)
		}
	}
}

func deleteRegistry(t *testing.T, r *v1alpha1.HelmRegistry) {
	t.Helper()
	if err := env.Client.Delete(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	gone(t, r)
}

func gone(t *testing.T, r *v1alpha1.HelmRegistry) {
	t.Helper()
	eventually(t, "the registry is gone", func() bool {
		return apierrors.IsNotFound(env.Client.Get(t.Context(), client.ObjectKeyFromObject(r), &v1alpha1.HelmRegistry{}))
	})
}

// children are what goes with the registry.
func children(t *testing.T, r *v1alpha1.HelmRegistry) []client.Object {
	t.Helper()
	return []client.Object{
		get(t, &appsv1.Deployment{}, r.Namespace, "charts"), get(t, &corev1.Service{}, r.Namespace, "charts"),
		get(t, &networkingv1.NetworkPolicy{}, r.Namespace, "charts"), get(t, &corev1.Secret{}, r.Namespace, "charts-keys"),
		get(t, &corev1.Secret{}, r.Namespace, "charts-tls"), get(t, &corev1.Secret{}, r.Namespace, "charts-admin"),
		get(t, &corev1.ConfigMap{}, r.Namespace, "charts-ca"),
	}
}

// collect plays the garbage collector.
func collect(t *testing.T, r *v1alpha1.HelmRegistry) {
	t.Helper()
	for _, o := range children(t, r) {
		if err := env.Client.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

// If this fails, who narrows access is told that every pod enforces it before one has heard of it.
func TestNothingIsSaidOfAGenerationBeforeItIsLookedAt(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	old := r.Generation
	accesses.Set(client.ObjectKeyFromObject(r), ledger.State{Generation: old, Revision: 1, Confirmed: 1, Total: 1})
	watching, err := client.NewWithWatch(env.Admin, client.Options{Scheme: env.Client.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	seen, err := watching.Watch(t.Context(), &v1alpha1.HelmRegistryList{}, client.InNamespace(r.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer seen.Stop()
	update(t, r, func(spec *v1alpha1.HelmRegistrySpec) { spec.Visibility = v1alpha1.VisibilityPublic })
	announced := false
	for {
		event, open := <-seen.ResultChan()
		now, ok := event.Object.(*v1alpha1.HelmRegistry)
		if !open || !ok {
			t.Fatalf("the watch ended with %+v", event)
		}
		c := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionAccessConfirmed)
		if c.ObservedGeneration > old && c.Status == metav1.ConditionTrue {
			t.Fatalf("before anything was done for generation %d: %+v", now.Generation, c)
		}
		if now.Status.ObservedGeneration > old {
			break
		}
		announced = announced || meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionReady).ObservedGeneration > old
	}
	if !announced {
		t.Error("Ready was not taken back first: the test proves nothing")
	}
}

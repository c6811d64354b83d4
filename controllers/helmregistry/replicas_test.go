package helmregistry_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func deploymentOf(t *testing.T, r *v1alpha1.HelmRegistry) (replicas int32, strategy appsv1.DeploymentStrategyType) {
	t.Helper()
	d := get(t, &appsv1.Deployment{}, r.Namespace, r.Name)
	return *d.Spec.Replicas, d.Spec.Strategy.Type
}

func hasBudget(t *testing.T, r *v1alpha1.HelmRegistry) bool {
	t.Helper()
	err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(r), &policyv1.PodDisruptionBudget{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

func TestReplicasNeedStorageForSeveralPods(t *testing.T) {
	two := int32(2)
	r := registry(t, v1alpha1.HelmRegistrySpec{Replicas: &two})
	c := condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "ReplicasNotPossible")
	if !strings.Contains(c.Message, "claim charts is not ReadWriteMany") {
		t.Errorf("the message does not help: %s", c.Message)
	}
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Replicas = nil })
	bringUp(t, r)

	// What runs goes on while more is asked for than the volume bears.
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Replicas = &two })
	condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "ReplicasNotPossible")
	if n, strategy := deploymentOf(t, r); n != 1 || strategy != appsv1.RecreateDeploymentStrategyType {
		t.Errorf("%d replicas by %s", n, strategy)
	}
}

func TestReplicasOnAGivenClaim(t *testing.T) {
	two := int32(2)
	for mode, reason := range map[corev1.PersistentVolumeAccessMode]string{corev1.ReadWriteOnce: "ReplicasNotPossible", corev1.ReadWriteMany: "RolloutInProgress"} {
		t.Run(string(mode), func(t *testing.T) {
			space := namespace(t)
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "mine"}, Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{mode},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			}}
			create(t, claim)
			claim.Status.Phase = corev1.ClaimBound
			if err := env.Client.Status().Update(t.Context(), claim); err != nil {
				t.Fatal(err)
			}
			r := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "charts"}, Spec: v1alpha1.HelmRegistrySpec{
				Replicas: &two, Storage: v1alpha1.Storage{Filesystem: &v1alpha1.FilesystemStorage{ExistingClaim: "mine"}},
			}}
			create(t, r)
			condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, reason)
		})
	}
}

// Until a pod has tried whether the bucket bears two writers, there is one.
func TestReplicasOnABucket(t *testing.T) {
	three, one := int32(3), int32(1)
	r := registry(t, v1alpha1.HelmRegistrySpec{Replicas: &three, Storage: v1alpha1.Storage{S3: &v1alpha1.S3Storage{Bucket: "charts"}}})
	confirm(r)
	condition(t, r, v1alpha1.ConditionStorageReady, metav1.ConditionUnknown, "Pending")
	if n, strategy := deploymentOf(t, r); n != 1 || strategy != appsv1.RecreateDeploymentStrategyType {
		t.Errorf("before it is known what the bucket bears, there are %d replicas by %s", n, strategy)
	}
	generation := get(t, &appsv1.Deployment{}, r.Namespace, r.Name).Spec.Template

	report(r, wire.StorageState{Kind: wire.StorageS3})
	becomeReady(t, r)
	condition(t, r, v1alpha1.ConditionStorageReady, metav1.ConditionTrue, "BucketUsable")
	if n, strategy := deploymentOf(t, r); n != 3 || strategy != appsv1.RollingUpdateDeploymentStrategyType {
		t.Errorf("there are %d replicas by %s", n, strategy)
	}
	if after := get(t, &appsv1.Deployment{}, r.Namespace, r.Name).Spec.Template; after.String() != generation.String() {
		t.Error("more replicas roll the first one")
	}
	if !hasBudget(t, r) {
		t.Error("there is no disruption budget")
	}
	if claims := (&corev1.PersistentVolumeClaimList{}); env.Client.List(t.Context(), claims, client.InNamespace(r.Namespace)) != nil || len(claims.Items) > 0 {
		t.Errorf("there are %d claims", len(claims.Items))
	}

	// Nothing changes when nobody answers for a while, as when the operator has just started.
	said.Set(client.ObjectKeyFromObject(r), reports.State{})
	condition(t, r, v1alpha1.ConditionStorageReady, metav1.ConditionUnknown, "Pending")
	if n, _ := deploymentOf(t, r); n != 3 {
		t.Errorf("when no pod answers there are %d replicas", n)
	}

	report(r, wire.StorageState{Kind: wire.StorageS3, Problem: "access denied"})
	if c := condition(t, r, v1alpha1.ConditionStorageReady, metav1.ConditionFalse, "StorageFailing"); !strings.Contains(c.Message, "bucket charts: access denied") {
		t.Errorf("the message is %s", c.Message)
	}

	report(r, wire.StorageState{Kind: wire.StorageS3, SingleWriter: true})
	condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "SingleWriter")
	if n, strategy := deploymentOf(t, r); n != 1 || strategy != appsv1.RecreateDeploymentStrategyType {
		t.Errorf("on storage for a single writer there are %d replicas by %s", n, strategy)
	}
	eventually(t, "the disruption budget is gone", func() bool { return !hasBudget(t, r) })
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Replicas = &one })
	becomeReady(t, r)
	condition(t, r, v1alpha1.ConditionStorageReady, metav1.ConditionTrue, "SingleWriter")
}

func TestSecretsOfTheBucket(t *testing.T) {
	space := namespace(t)
	r := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "charts"}, Spec: v1alpha1.HelmRegistrySpec{
		Storage: v1alpha1.Storage{S3: &v1alpha1.S3Storage{
			Bucket: "charts", CredentialsSecretRef: &v1alpha1.LocalObjectReference{Name: "bucket"}, CASecretRef: &v1alpha1.LocalObjectReference{Name: "ca"},
		}},
	}}
	create(t, r)
	says := func(reason, words string) {
		t.Helper()
		if c := condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, reason); !strings.Contains(c.Message, words) {
			t.Errorf("%s says %q, want %q", reason, c.Message, words)
		}
		condition(t, r, v1alpha1.ConditionStorageReady, metav1.ConditionFalse, reason)
	}
	says("CredentialsNotFound", "no Secret bucket in this namespace: create it with accessKeyID and secretAccessKey")
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "bucket"}, Data: map[string][]byte{"accessKeyID": []byte("x")}}
	create(t, secret)
	says("CredentialsIncomplete", "Secret bucket has no secretAccessKey")
	secret.Data["secretAccessKey"] = []byte("y")
	if err := env.Client.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	says("CANotFound", "no Secret ca in this namespace: create it with ca.crt")
	ca := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "ca"}, Data: map[string][]byte{"ca.crt": []byte("nonsense")}}
	create(t, ca)
	says("CAInvalid", "ca.crt of Secret ca")
	eventually(t, "the authority is published", func() bool {
		published := &corev1.ConfigMap{}
		err := env.Client.Get(t.Context(), types.NamespacedName{Namespace: space, Name: "charts-ca"}, published)
		ca.Data["ca.crt"] = []byte(published.Data["ca.crt"])
		return err == nil
	})
	if err := env.Client.Update(t.Context(), ca); err != nil {
		t.Fatal(err)
	}
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, "Pending")

	// Rotated credentials reach the pods by themselves.
	before := get(t, &appsv1.Deployment{}, space, "charts").Generation
	secret.Data["secretAccessKey"] = []byte("z")
	if err := env.Client.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	settle(t)
	if after := get(t, &appsv1.Deployment{}, space, "charts").Generation; after != before {
		t.Error("rotated credentials changed the Deployment")
	}
}

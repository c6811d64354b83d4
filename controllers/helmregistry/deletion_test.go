package helmregistry_test

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// bucketRegistry is a registry on a bucket that is Ready with what it asks for.
func bucketRegistry(t *testing.T, spec v1alpha1.HelmRegistrySpec) *v1alpha1.HelmRegistry {
	t.Helper()
	spec.Storage.S3 = &v1alpha1.S3Storage{Bucket: "charts"}
	r := registry(t, spec)
	confirm(r)
	report(r, wire.StorageState{Kind: wire.StorageS3})
	becomeReady(t, r)
	return r
}

// report plays podreports.
func report(r *v1alpha1.HelmRegistry, storage wire.StorageState) {
	said.Set(client.ObjectKeyFromObject(r), reports.State{Pods: []reports.Pod{{Name: "charts-1", Storage: storage}}})
}

func startDeleting(t *testing.T, r *v1alpha1.HelmRegistry, options ...client.DeleteOption) {
	t.Helper()
	if err := env.Client.Delete(t.Context(), r, options...); err != nil {
		t.Fatal(err)
	}
}

// ready waits until Ready is False for a reason, with words.
func notReady(t *testing.T, r *v1alpha1.HelmRegistry, reason, words string) {
	t.Helper()
	eventually(t, "the registry says "+reason+": "+words, func() bool {
		c := meta.FindStatusCondition(refresh(t, r).Status.Conditions, v1alpha1.ConditionReady)
		return c != nil && c.Status == metav1.ConditionFalse && c.Reason == reason && strings.Contains(c.Message, words)
	})
}

// runPod plays the Deployment controller and the kubelet: a pod of the Deployment's template runs.
func runPod(t *testing.T, r *v1alpha1.HelmRegistry, name string) *corev1.Pod {
	t.Helper()
	template := get(t, &appsv1.Deployment{}, r.Namespace, r.Name).Spec.Template
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: name, Labels: template.Labels}, Spec: template.Spec}
	create(t, pod)
	pod.Status.Phase, pod.Status.PodIP = corev1.PodRunning, "10.0.0.1"
	if err := env.Client.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func endPod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := env.Client.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
}

// onlyDeletes waits until the Deployment is one whose pod only deletes.
func onlyDeletes(t *testing.T, r *v1alpha1.HelmRegistry) *appsv1.Deployment {
	t.Helper()
	d := &appsv1.Deployment{}
	eventually(t, "the Deployment only deletes", func() bool {
		return env.Client.Get(t.Context(), client.ObjectKeyFromObject(r), d) == nil && slices.Contains(d.Spec.Template.Spec.Containers[0].Args, "--purge")
	})
	return d
}

func TestDeleteDeletesTheCharts(t *testing.T) {
	two := int32(2)
	r := bucketRegistry(t, v1alpha1.HelmRegistrySpec{DeletionPolicy: v1alpha1.DeletionDelete, Replicas: &two})
	serving := runPod(t, r, "charts-1")
	startDeleting(t, r)

	d := onlyDeletes(t, r)
	if *d.Spec.Replicas != 1 || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType || metav1.GetControllerOf(d) != nil {
		t.Errorf("the Deployment has %d replicas, strategy %s and owner %v", *d.Spec.Replicas, d.Spec.Strategy.Type, metav1.GetControllerOf(d))
	}
	if secret := get(t, &corev1.Secret{}, r.Namespace, "charts-admin"); metav1.GetControllerOf(secret) != nil {
		t.Error("the Secret that the deleting pod needs would go with the registry")
	}
	// As long as somebody serves, nothing is deleted.
	deleting := runPod(t, r, "charts-2")
	purgers.set(r, wire.PurgeState{Phase: wire.PurgeIdle})
	notReady(t, r, "Purging", "when pod charts-1 has ended")
	if n := purgers.told(r); n != 0 {
		t.Fatalf("the pod was told to delete while another served")
	}
	endPod(t, serving)
	eventually(t, "the pod is told to delete", func() bool { return purgers.told(r) == 1 })
	purgers.set(r, wire.PurgeState{Phase: wire.PurgeRunning, Deleted: 1234})
	notReady(t, r, "Purging", "1234 objects")
	purgers.set(r, wire.PurgeState{Phase: wire.PurgeFailed, Deleted: 2000, Problem: "the bucket does not answer"})
	notReady(t, r, "PurgeFailed", "the bucket does not answer")
	if n := purgers.told(r); n != 2 {
		t.Errorf("the pod was told %d times to delete, want a second time after the failure", n)
	}
	purgers.set(r, wire.PurgeState{Phase: wire.PurgeDone, Deleted: 3000})
	gone(t, r)
	eventually(t, "nothing is left that deletes", func() bool {
		return apierrors.IsNotFound(env.Client.Get(t.Context(), client.ObjectKeyFromObject(r), &appsv1.Deployment{})) &&
			apierrors.IsNotFound(env.Client.Get(t.Context(), types.NamespacedName{Namespace: r.Namespace, Name: "charts-admin"}, &corev1.Secret{}))
	})
	endPod(t, deleting)
}

func TestDeleteDeletesTheClaimAfterTheCharts(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{DeletionPolicy: v1alpha1.DeletionDelete})
	bringUp(t, r)
	startDeleting(t, r)
	onlyDeletes(t, r)
	notReady(t, r, "Purging", "has not started")
	if claim := get(t, &corev1.PersistentVolumeClaim{}, r.Namespace, "charts"); claim.DeletionTimestamp != nil {
		t.Error("the claim is deleted before the charts are")
	}
	purgers.set(r, wire.PurgeState{Phase: wire.PurgeDone})
	endPod(t, runPod(t, r, "charts-0"))
	pod := runPod(t, r, "charts-1")
	gone(t, r)
	endPod(t, pod)
	claim := &corev1.PersistentVolumeClaim{}
	if err := env.Client.Get(t.Context(), types.NamespacedName{Namespace: r.Namespace, Name: "charts"}, claim); err == nil && claim.DeletionTimestamp == nil {
		t.Error("the claim is still there")
	} else if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}

	// A registry of the same name waits until the old claim is gone: its pod would keep it from going.
	again := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: "charts"}}
	create(t, again)
	condition(t, again, v1alpha1.ConditionReady, metav1.ConditionFalse, "Deleting")
	claim.Finalizers = nil
	if err := env.Client.Update(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
}

// Nobody can be kept from letting a registry go.
func TestPurgeCanBeGivenUp(t *testing.T) {
	for name, letGo := range map[string]func(r *v1alpha1.HelmRegistry){
		"by an annotation": func(r *v1alpha1.HelmRegistry) {
			r.Annotations = map[string]string{v1alpha1.AnnotationSkipPurge: "true"}
		},
		"by keeping the charts": func(r *v1alpha1.HelmRegistry) { r.Spec.DeletionPolicy = v1alpha1.DeletionRetain },
	} {
		t.Run(name, func(t *testing.T) {
			r := bucketRegistry(t, v1alpha1.HelmRegistrySpec{DeletionPolicy: v1alpha1.DeletionDelete})
			startDeleting(t, r)
			onlyDeletes(t, r)
			pod := runPod(t, r, "charts-1")
			defer endPod(t, pod)
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no node"}}
			if err := env.Client.Status().Update(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			notReady(t, r, "Purging", "does not start: Unschedulable: no node")
			eventually(t, "the registry is edited", func() bool {
				get(t, r, r.Namespace, r.Name)
				letGo(r)
				return env.Client.Update(t.Context(), r) == nil
			})
			gone(t, r)
		})
	}
}

// Argo CD and others delete what an object owns before the object itself.
func TestPurgeSurvivesForegroundDeletion(t *testing.T) {
	r := bucketRegistry(t, v1alpha1.HelmRegistrySpec{DeletionPolicy: v1alpha1.DeletionDelete})
	startDeleting(t, r, client.PropagationPolicy(metav1.DeletePropagationForeground))
	d := onlyDeletes(t, r)
	if metav1.GetControllerOf(d) != nil {
		t.Fatal("the garbage collector would end the pod that deletes")
	}
	// What it had deleted before it saw that nobody owns it any more is made again.
	if err := env.Client.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Deployment is made again", func() bool {
		again := &appsv1.Deployment{}
		return env.Client.Get(t.Context(), client.ObjectKeyFromObject(r), again) == nil && again.UID != d.UID
	})
	purgers.set(r, wire.PurgeState{Phase: wire.PurgeDone})
	pod := runPod(t, r, "charts-1")
	defer endPod(t, pod)
	eventually(t, "the operator lets the registry go", func() bool {
		err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(r), r)
		return apierrors.IsNotFound(err) || err == nil && !slices.Contains(r.Finalizers, v1alpha1.FinalizerRegistry)
	})
}

func TestWhatNeverRanIsLetGo(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{DeletionPolicy: v1alpha1.DeletionDelete, Storage: v1alpha1.Storage{S3: &v1alpha1.S3Storage{
		Bucket: "charts", CredentialsSecretRef: &v1alpha1.LocalObjectReference{Name: "missing"},
	}}})
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, "CredentialsNotFound")
	deleteRegistry(t, r)
}

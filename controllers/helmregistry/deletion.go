package helmregistry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/status"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Pods asks the pods of a registry on their admin port.
type Pods interface {
	// Purge asks how far the deletion of everything is, and, with begin, begins it or goes on with it.
	Purge(ctx context.Context, registry types.NamespacedName, ip string, begin bool) (wire.PurgeState, error)
}

// Reasons of Ready while a registry is being deleted with its charts.
const (
	reasonPurging     = "Purging"
	reasonPurgeFailed = "PurgeFailed"
)

const (
	// purgePause is the time between two looks at a purge; each tells how far it is.
	purgePause = 2 * time.Second
	// purgeRetry is the time until a purge that failed is tried again.
	purgeRetry = 10 * time.Second
)

// delete carries out the deletion policy and lets the registry go. All but claim and content goes with the registry by
// its owner references; the claim goes when the last pod has let go of it.
func (r *Reconciler) delete(ctx context.Context, registry *v1alpha1.HelmRegistry) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(registry, v1alpha1.FinalizerRegistry) {
		return reconcile.Result{}, nil
	}
	s := r.newScope(registry)
	s.params.Purging, s.params.Replicas = true, 1
	if registry.DeletionPolicy() == v1alpha1.DeletionDelete {
		needed, err := r.purgeNeeded(ctx, s)
		if err != nil {
			return reconcile.Result{}, err
		}
		if needed {
			if left := r.nextLook(registry.UID, s.now); left > 0 {
				return reconcile.Result{RequeueAfter: left}, nil
			}
			err := judged(r.purge(ctx, s))
			if err != nil {
				return r.tellPurge(ctx, s, err)
			}
		}
		if desired.OwnsClaim(registry) {
			if err := r.deleteClaim(ctx, registry); err != nil {
				return reconcile.Result{}, err
			}
		}
	}
	r.looked.Delete(registry.UID)
	if err := r.deletePurger(ctx, s); err != nil {
		return reconcile.Result{}, err
	}
	before := registry.DeepCopy()
	controllerutil.RemoveFinalizer(registry, v1alpha1.FinalizerRegistry)
	return reconcile.Result{}, client.IgnoreNotFound(r.applier().PatchFinalizers(ctx, before, registry))
}

// purgeNeeded says whether there may be content that only a pod can delete, and whether a pod can be had.
func (r *Reconciler) purgeNeeded(ctx context.Context, s *scope) (bool, error) {
	registry := s.registry
	if registry.Annotations[v1alpha1.AnnotationSkipPurge] == "true" {
		return false, nil
	}
	if registry.Spec.Storage.S3 == nil {
		claim := &corev1.PersistentVolumeClaim{}
		err := r.APIReader.Get(ctx, types.NamespacedName{Namespace: registry.Namespace, Name: desired.ClaimName(registry)}, claim)
		if err != nil {
			return false, client.IgnoreNotFound(err)
		}
		// What is not bound holds nothing, what is not ours stays, and no pod can use what is being deleted.
		if claim.Status.Phase != corev1.ClaimBound || ownership(registry, "PersistentVolumeClaim", claim) != nil {
			return false, nil //nolint:nilerr // It is the answer.
		}
	}
	namespace := &corev1.Namespace{}
	if err := r.APIReader.Get(ctx, types.NamespacedName{Name: registry.Namespace}, namespace); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	if namespace.DeletionTimestamp != nil {
		if registry.Spec.Storage.S3 != nil {
			ctrl.LoggerFrom(ctx).Info("the charts stay where they are: no pod can be started to delete them in a namespace that is being deleted", "storage", storageKind(registry))
		}
		return false, nil
	}
	if registry.Status.Image != "" {
		return true, nil
	}
	// A registry that never ran stored nothing.
	live, err := r.liveDeployment(ctx, s)
	return live != nil, err
}

// nextLook is how long it is until the purge may be looked at again. What is told of it wakes the controller at once.
func (r *Reconciler) nextLook(registry types.UID, now time.Time) time.Duration {
	last, _ := r.looked.LoadOrStore(registry, now)
	if at := last.(time.Time); at != now {
		if left := at.Add(purgePause).Sub(now); left > 0 {
			return left
		}
		r.looked.Store(registry, now)
	}
	return 0
}

// purge goes one step towards deleting all content, and returns nil when that is done. First no pod serves any more,
// then one starts that does nothing but delete.
func (r *Reconciler) purge(ctx context.Context, s *scope) error {
	if s.registry.Spec.Storage.S3 != nil {
		if err := r.readBucketSecrets(ctx, s); err != nil {
			return err
		}
	}
	if err := r.reconcileAdminCertificate(ctx, s); err != nil {
		return err
	}
	want, err := desired.Deployment(s.params)
	var refused *desired.PodTemplateError
	if errors.As(err, &refused) {
		return stalled("PodTemplateRefused", "%s", refused)
	}
	if err != nil {
		return err
	}
	live := &appsv1.Deployment{}
	there, err := r.read(ctx, s, want, live)
	if err != nil {
		return err
	}
	if err := r.write(ctx, want, live, there); err != nil {
		return err
	}
	pod, err := r.purger(ctx, s)
	if err != nil {
		return err
	}
	return r.askPurger(ctx, s, pod)
}

// purger returns the pod that deletes, once no other is left.
func (r *Reconciler) purger(ctx context.Context, s *scope) (*corev1.Pod, error) {
	var list corev1.PodList
	if err := r.APIReader.List(ctx, &list, client.InNamespace(s.registry.Namespace), client.MatchingLabels{
		v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelRegistry: s.registry.Name,
	}); err != nil {
		return nil, fmt.Errorf("listing the registry's pods: %w", err)
	}
	var purger *corev1.Pod
	for i := range list.Items {
		pod := &list.Items[i]
		switch {
		case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		case !purges(pod):
			return nil, waiting(reasonPurging, "the charts will be deleted when pod %s has ended", pod.Name)
		case pod.DeletionTimestamp == nil:
			purger = pod
		}
	}
	if purger == nil {
		return nil, waiting(reasonPurging, "the pod that deletes the charts has not started")
	}
	if problem := startProblem(purger); problem != "" {
		return nil, waiting(reasonPurging, "the pod %s that deletes the charts does not start: %s", purger.Name, problem)
	}
	if purger.Status.PodIP == "" {
		return nil, waiting(reasonPurging, "the pod %s that deletes the charts is starting", purger.Name)
	}
	return purger, nil
}

// purges says whether a pod is one that only deletes.
func purges(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		return c.Name == desired.Container && slices.Contains(c.Args, desired.ArgumentPurge)
	})
}

// startProblem says why the container of a pod does not run, as far as Kubernetes knows; empty when it does, or may soon.
func startProblem(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Reason + ": " + c.Message
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; c.Name == desired.Container && w != nil && w.Reason != "ContainerCreating" {
			return w.Reason + ": " + w.Message
		}
	}
	return ""
}

// askPurger tells the pod to delete and hears how far it is. It returns nil when all is deleted.
func (r *Reconciler) askPurger(ctx context.Context, s *scope, pod *corev1.Pod) error {
	key := client.ObjectKeyFromObject(s.registry)
	state, err := r.Pods.Purge(ctx, key, pod.Status.PodIP, false)
	if err == nil && (state.Phase == wire.PurgeIdle || state.Phase == wire.PurgeFailed) {
		failed := state
		state, err = r.Pods.Purge(ctx, key, pod.Status.PodIP, true)
		if err == nil && failed.Phase == wire.PurgeFailed {
			return waiting(reasonPurgeFailed, "deleting the charts failed after %d objects and is tried again: %s. To let the registry go with what is left, write deletionPolicy: Retain or annotate it with %s=true",
				failed.Deleted, failed.Problem, v1alpha1.AnnotationSkipPurge)
		}
	}
	switch {
	case err != nil:
		ctrl.LoggerFrom(ctx).Info("the pod that deletes the charts did not answer", "pod", pod.Name, "error", err.Error())
		return waiting(reasonPurging, "the pod %s that deletes the charts does not answer yet", pod.Name)
	case state.Phase != wire.PurgeDone:
		return waiting(reasonPurging, "the charts are being deleted: %d objects so far", state.Deleted)
	}
	r.Events.Eventf(s.registry, nil, corev1.EventTypeNormal, "ChartsDeleted", "Delete", "All charts in %s were deleted, %d objects, as deletionPolicy says.", storageKind(s.registry), state.Deleted)
	return nil
}

// tellPurge says in the status why the registry is still there.
func (r *Reconciler) tellPurge(ctx context.Context, s *scope, why error) (reconcile.Result, error) {
	var stop *stalledError
	var wait *waitingError
	summary := status.Summary{Ready: status.IsNot("ReconcileFailed", "something failed and is tried again; the operator's log says what")}
	pause, failure := purgePause, error(nil)
	switch {
	case errors.As(why, &stop):
		summary, pause = status.Summary{Ready: status.IsNot(stop.reason, stop.message), Stalled: true}, time.Minute
	case errors.As(why, &wait):
		summary.Ready = status.IsNot(wait.reason, wait.message)
		if wait.reason == reasonPurgeFailed {
			pause = purgeRetry
			r.looked.Store(s.registry.UID, s.now.Add(purgeRetry-purgePause))
		}
	default:
		failure = why
	}
	before := meta.FindStatusCondition(s.registry.Status.Conditions, v1alpha1.ConditionReady).DeepCopy()
	after := s.registry.Status.DeepCopy()
	after.ObservedGeneration = s.registry.Generation
	after.Conditions = status.Conditions(s.registry.Status.Conditions, s.registry.Generation, summary,
		[]status.Part{{Type: v1alpha1.ConditionAvailable, Finding: status.IsNot("Deleting", "the registry is being deleted with its charts")}})
	if err := errors.Join(failure, r.patchStatus(ctx, s.registry, after)); err != nil {
		return reconcile.Result{}, err
	}
	if ready := summary.Ready; before == nil || before.Reason != ready.Reason {
		kind := corev1.EventTypeNormal
		if ready.Reason != reasonPurging {
			kind = corev1.EventTypeWarning
		}
		r.Events.Eventf(s.registry, nil, kind, ready.Reason, "Delete", "%s", status.Note(ready.Message))
	}
	return reconcile.Result{RequeueAfter: pause}, nil
}

// deletePurger takes away what no owner reference takes away: while the registry is being deleted, the pod that deletes
// the charts must not go with it, whatever order its deletion asked for.
func (r *Reconciler) deletePurger(ctx context.Context, s *scope) error {
	for _, o := range []struct{ want, live client.Object }{
		{&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: s.registry.Namespace, Name: s.registry.Name}}, &appsv1.Deployment{}},
		{desired.Admin(s.params), &corev1.Secret{}},
	} {
		err := r.APIReader.Get(ctx, client.ObjectKeyFromObject(o.want), o.live)
		if err == nil && metav1.GetControllerOf(o.live) == nil && ownership(s.registry, "", o.live) == nil {
			uid := o.live.GetUID()
			err = r.Client.Delete(ctx, o.live, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
		}
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %s, which deleted the charts: %w", o.want.GetName(), err)
		}
	}
	return nil
}

func (r *Reconciler) deleteClaim(ctx context.Context, registry *v1alpha1.HelmRegistry) error {
	claim := &corev1.PersistentVolumeClaim{}
	key := types.NamespacedName{Namespace: registry.Namespace, Name: desired.ClaimName(registry)}
	if err := r.APIReader.Get(ctx, key, claim); err != nil {
		return client.IgnoreNotFound(err)
	}
	if ownership(registry, "PersistentVolumeClaim", claim) != nil {
		return nil //nolint:nilerr // Somebody else's claim is not ours to delete.
	}
	err := r.Client.Delete(ctx, claim, client.Preconditions{UID: &claim.UID})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting claim %s: %w", key, err)
	}
	r.Events.Eventf(registry, claim, corev1.EventTypeNormal, "ClaimDeleted", "Delete", "Claim %s was deleted with the charts in it, as deletionPolicy says.", key.Name)
	return nil
}

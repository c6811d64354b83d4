package helmregistry

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
)

// ownership says why an object under one of the registry's names must not be touched; nil when it may. The registry's
// are what it controls, and what carries its labels and nobody controls: a backup brings objects back without owner references.
func ownership(registry *v1alpha1.HelmRegistry, kind string, live client.Object) error {
	if live.GetDeletionTimestamp() != nil {
		return waiting("Deleting", "%s %s is still being deleted", kind, live.GetName())
	}
	labels := live.GetLabels()
	labelled := labels[v1alpha1.LabelManagedBy] == v1alpha1.ManagedBy && labels[v1alpha1.LabelRegistry] == registry.Name
	switch controller := metav1.GetControllerOf(live); {
	case controller == nil && labelled, controller != nil && controller.UID == registry.UID:
		return nil
	case controller != nil && controller.Kind == "HelmRegistry" && controller.Name == registry.Name && labelled:
		return waiting("Deleting", "%s %s belongs to an earlier HelmRegistry %s and will be deleted with it", kind, live.GetName(), registry.Name)
	}
	return stalled("NameTaken", "there is a %s %s that is not of this registry: rename or delete it, or create the HelmRegistry under another name", kind, live.GetName())
}

// ensureFinalizer holds the finalizer exactly while there would be something to do at deletion.
func (r *Reconciler) ensureFinalizer(ctx context.Context, registry *v1alpha1.HelmRegistry) error {
	before := registry.DeepCopy()
	set := controllerutil.RemoveFinalizer
	if registry.DeletionPolicy() == v1alpha1.DeletionDelete {
		set = controllerutil.AddFinalizer
	}
	if !set(registry, v1alpha1.FinalizerRegistry) {
		return nil
	}
	return r.patchFinalizers(ctx, before, registry)
}

func (r *Reconciler) patchFinalizers(ctx context.Context, before, registry *v1alpha1.HelmRegistry) error {
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, registry, patch, client.FieldOwner(FieldManager)); err != nil {
		return fmt.Errorf("writing the finalizers: %w", err)
	}
	return nil
}

// delete carries out the deletion policy and lets the registry go. All but the claim goes with the registry by its
// owner references; the claim goes when the last pod has let go of it.
func (r *Reconciler) delete(ctx context.Context, registry *v1alpha1.HelmRegistry) error {
	before := registry.DeepCopy()
	if !controllerutil.RemoveFinalizer(registry, v1alpha1.FinalizerRegistry) {
		return nil
	}
	if registry.DeletionPolicy() == v1alpha1.DeletionDelete && desired.OwnsClaim(registry) {
		if err := r.deleteClaim(ctx, registry); err != nil {
			return err
		}
	}
	return client.IgnoreNotFound(r.patchFinalizers(ctx, before, registry))
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

package helmregistry

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
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
	return r.applier().PatchFinalizers(ctx, before, registry)
}

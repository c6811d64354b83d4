package apply

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// conflictPause is the time until an object is looked at again that had changed since it was read.
const conflictPause = 50 * time.Millisecond

// PatchFinalizers writes what was changed of an object since before, its finalizers. It fails with a conflict where somebody
// else has changed the object too, since a list is written as a whole.
func (a Applier) PatchFinalizers(ctx context.Context, before, object client.Object) error {
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := a.Client.Patch(ctx, object, patch, client.FieldOwner(a.Owner)); err != nil {
		return fmt.Errorf("writing the finalizers: %w", err)
	}
	return nil
}

// SetFinalizer adds or removes a finalizer, as change does, in a pass of its own: the result is that of the whole pass.
// change reports whether it changed the object.
func (a Applier) SetFinalizer(ctx context.Context, object client.Object, finalizer string, change func(client.Object, string) bool) (reconcile.Result, error) {
	before := object.DeepCopyObject().(client.Object) //nolint:forcetypeassert // The copy of an object is one.
	if !change(object, finalizer) {
		return reconcile.Result{}, nil
	}
	err := a.PatchFinalizers(ctx, before, object)
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: conflictPause}, nil
	}
	return reconcile.Result{}, client.IgnoreNotFound(err)
}

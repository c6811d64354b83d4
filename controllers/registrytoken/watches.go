package registrytoken

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
)

// SetupWithManager registers the controller. The manager's cache must have tokens.IndexRegistry.
func (r *Reconciler) SetupWithManager(manager ctrl.Manager) error {
	generation := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	return ctrl.NewControllerManagedBy(manager).
		Named("registrytoken").
		For(&v1alpha1.RegistryToken{}, builder.WithPredicates(tokenChanged())).
		WatchesRawSource(source.Kind(r.Owned, &corev1.Secret{}, handler.TypedEnqueueRequestsFromMapFunc(tokenOfSecret))).
		WatchesRawSource(source.Kind(r.Owned, &corev1.ConfigMap{}, handler.TypedEnqueueRequestsFromMapFunc(r.tokensOfAuthority))).
		Watches(&v1alpha1.HelmRegistry{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.tokensOf(ctx, client.ObjectKeyFromObject(o))
		}), generation).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.tokensIn), builder.WithPredicates(namespaceChanged())).
		WatchesRawSource(r.Ledger.Source(r.tokensOf)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 8,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](250*time.Millisecond, 5*time.Minute),
		}).
		Complete(r)
}

// tokenChanged lets pass what is not this controller's own status, and the finalizer, whose addition goes before all else.
func tokenChanged() predicate.Predicate {
	return predicate.Or(predicate.GenerationChangedPredicate{}, predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			return len(e.ObjectOld.GetFinalizers()) != len(e.ObjectNew.GetFinalizers()) ||
				e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
		},
	})
}

// namespaceChanged lets pass what decisions depend on: labels, and that the namespace is being deleted.
func namespaceChanged() predicate.Predicate {
	return predicate.Or(predicate.LabelChangedPredicate{}, predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			return e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
		},
	})
}

func tokenOfSecret(_ context.Context, o *corev1.Secret) []reconcile.Request {
	name := o.GetLabels()[v1alpha1.LabelToken]
	if owner := metav1.GetControllerOf(o); owner != nil && owner.Kind == "RegistryToken" {
		name = owner.Name
	}
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}}
}

// tokensOf returns the tokens of a registry.
func (r *Reconciler) tokensOf(ctx context.Context, registry types.NamespacedName) []reconcile.Request {
	return r.list(ctx, client.MatchingFields{tokens.IndexRegistry: registry.String()})
}

func (r *Reconciler) tokensOfAuthority(ctx context.Context, o *corev1.ConfigMap) []reconcile.Request {
	name := o.GetLabels()[v1alpha1.LabelRegistry]
	if name == "" {
		return nil
	}
	return r.tokensOf(ctx, types.NamespacedName{Namespace: o.GetNamespace(), Name: name})
}

func (r *Reconciler) tokensIn(ctx context.Context, o client.Object) []reconcile.Request {
	return r.list(ctx, client.InNamespace(o.GetName()))
}

func (r *Reconciler) list(ctx context.Context, options ...client.ListOption) []reconcile.Request {
	list := &v1alpha1.RegistryTokenList{}
	if err := r.List(ctx, list, options...); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "the tokens that a change concerns could not be listed")
		return nil
	}
	requests := make([]reconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}

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
	"github.com/chartroom-dev/chartroom/controllers/internal/wake"
	"github.com/chartroom-dev/chartroom/registryserver/access"
)

// SetupWithManager registers the controller. The manager's cache must have tokens.IndexRegistry.
func (r *Reconciler) SetupWithManager(manager ctrl.Manager) error {
	changed := builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.LabelChangedPredicate{}))
	return ctrl.NewControllerManagedBy(manager).
		Named("registrytoken").
		For(&v1alpha1.RegistryToken{}, builder.WithPredicates(tokenChanged())).
		WatchesRawSource(source.Kind(r.Owned, &corev1.Secret{}, handler.TypedEnqueueRequestsFromMapFunc(tokenOfSecret))).
		WatchesRawSource(source.Kind(r.Owned, &corev1.ConfigMap{}, handler.TypedEnqueueRequestsFromMapFunc(r.tokensOfAuthority))).
		Watches(&v1alpha1.HelmRegistry{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.tokensOf(ctx, client.ObjectKeyFromObject(o))
		}), changed).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.tokensIn), builder.WithPredicates(predicate.Or(predicate.LabelChangedPredicate{}, wake.Deleted()))).
		WatchesRawSource(r.Ledger.Source(r.tokensOf)).
		WatchesRawSource(r.Uses.Source(r.tokensUsed)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 8,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](250*time.Millisecond, 5*time.Minute),
		}).
		Complete(r)
}

// tokenChanged lets pass what is not this controller's own status, requests for a rotation, and the finalizer, whose
// addition goes before all else.
func tokenChanged() predicate.Predicate {
	return predicate.Or(predicate.GenerationChangedPredicate{}, wake.Held(), predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			return e.ObjectOld.(*v1alpha1.RegistryToken).RotationRequest() != e.ObjectNew.(*v1alpha1.RegistryToken).RotationRequest()
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
	return r.requests(ctx, registry, func(*v1alpha1.RegistryToken) bool { return true })
}

func (r *Reconciler) requests(ctx context.Context, registry types.NamespacedName, which func(*v1alpha1.RegistryToken) bool) []reconcile.Request {
	all, err := tokens.ListOf(ctx, r.Client, registry)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "the tokens that a change concerns could not be listed")
		return nil
	}
	var requests []reconcile.Request
	for i := range all {
		if which(&all[i]) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all[i])})
		}
	}
	return requests
}

// tokensUsed returns the tokens of a registry whose status does not tell of their last use yet. Of one that is being
// replaced, which two are known by, it does not tell the first.
func (r *Reconciler) tokensUsed(ctx context.Context, registry types.NamespacedName) []reconcile.Request {
	uses, _ := r.Uses.State(registry)
	last := map[string]time.Time{}
	for _, pod := range uses {
		for sha256, at := range pod.At {
			if id, err := access.IDOf(sha256); err == nil && at.After(last[id]) {
				last[id] = at
			}
		}
	}
	return r.requests(ctx, registry, func(t *v1alpha1.RegistryToken) bool {
		at, used := last[t.Status.TokenID]
		return t.Status.PreviousExpiresAt != nil || used && (t.Status.LastUsed == nil || at.After(t.Status.LastUsed.Time))
	})
}

func (r *Reconciler) tokensOfAuthority(ctx context.Context, o *corev1.ConfigMap) []reconcile.Request {
	name := o.GetLabels()[v1alpha1.LabelRegistry]
	if name == "" {
		return nil
	}
	return r.tokensOf(ctx, types.NamespacedName{Namespace: o.GetNamespace(), Name: name})
}

func (r *Reconciler) tokensIn(ctx context.Context, o client.Object) []reconcile.Request {
	return wake.Listed[*v1alpha1.RegistryToken](ctx, r.Client, &v1alpha1.RegistryTokenList{}, nil, client.InNamespace(o.GetName()))
}

package oidcpolicy

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/policies"
	"github.com/chartroom-dev/chartroom/controllers/internal/wake"
)

// SetupWithManager registers the controller. The manager's cache must have the indexes of package policies.
func (r *Reconciler) SetupWithManager(manager ctrl.Manager) error {
	// Labels decide which registries are chosen, and which namespaces may attach.
	changed := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.LabelChangedPredicate{})
	err := ctrl.NewControllerManagedBy(manager).
		Named("oidcpolicy").
		For(&v1alpha1.OIDCPolicy{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, wake.Held()))).
		Watches(&v1alpha1.HelmRegistry{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.policiesOf(ctx, client.ObjectKeyFromObject(o))
		}), builder.WithPredicates(changed)).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.list(ctx, client.InNamespace(o.GetNamespace()), client.MatchingFields{policies.IndexSecret: o.GetName()})
		})).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.list(ctx, client.InNamespace(o.GetName()))
		}), builder.WithPredicates(predicate.Or(predicate.LabelChangedPredicate{}, wake.Deleted()))).
		WatchesRawSource(r.Ledger.Source(r.policiesOf)).
		WatchesRawSource(r.Reports.Source(r.policiesOf)).
		WatchesRawSource(r.Cluster.Source(func(ctx context.Context) []reconcile.Request { return r.list(ctx) })).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 4,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](250*time.Millisecond, 5*time.Minute),
		}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("setting up the controller of OIDCPolicies: %w", err)
	}
	return nil
}

// policiesOf returns the policies that are or were for a registry, or may be.
func (r *Reconciler) policiesOf(ctx context.Context, registry types.NamespacedName) []reconcile.Request {
	found, err := policies.Of(ctx, r.Client, registry)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "the policies that a change concerns could not be listed")
		return nil
	}
	requests := make([]reconcile.Request, 0, len(found))
	for _, p := range found {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)})
	}
	return requests
}

func (r *Reconciler) list(ctx context.Context, options ...client.ListOption) []reconcile.Request {
	return wake.Listed[*v1alpha1.OIDCPolicy](ctx, r.Client, &v1alpha1.OIDCPolicyList{}, nil, options...)
}

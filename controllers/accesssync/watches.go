package accesssync

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
	return ctrl.NewControllerManagedBy(manager).
		Named("accesssync").
		For(&v1alpha1.HelmRegistry{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.RegistryToken{}, handler.EnqueueRequestsFromMapFunc(registryOfToken), builder.WithPredicates(tokenChanged())).
		WatchesRawSource(source.Kind(r.Owned, &corev1.Secret{}, handler.TypedEnqueueRequestsFromMapFunc(r.registryOfSecret))).
		WatchesRawSource(source.Kind(r.Owned, &corev1.Pod{}, handler.TypedEnqueueRequestsFromMapFunc(registryOfPod))).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.registriesThatSelect), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		WithOptions(controller.Options{
			// A worker may wait a second for pods that do not answer; others go on.
			MaxConcurrentReconciles: 8,
			// A revocation must not wait for long after the API server was away.
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](250*time.Millisecond, 30*time.Second),
		}).
		Complete(r)
}

func request(namespace, name string) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}}
}

func registryOfToken(_ context.Context, o client.Object) []reconcile.Request {
	key := o.(*v1alpha1.RegistryToken).RegistryKey()
	return request(key.Namespace, key.Name)
}

func registryOfPod(_ context.Context, o *corev1.Pod) []reconcile.Request {
	if name := o.GetLabels()[v1alpha1.LabelRegistry]; name != "" {
		return request(o.GetNamespace(), name)
	}
	return nil
}

// registryOfSecret wakes for Secrets that hold a token, and for those of a registry, one of which is the snapshot's.
func (r *Reconciler) registryOfSecret(ctx context.Context, o *corev1.Secret) []reconcile.Request {
	if name := o.Labels[v1alpha1.LabelRegistry]; name != "" {
		return request(o.Namespace, name)
	}
	name := o.Labels[v1alpha1.LabelToken]
	if name == "" {
		return nil
	}
	token := &v1alpha1.RegistryToken{}
	if err := r.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, token); err != nil {
		return nil // It is gone, and its going has woken us.
	}
	return registryOfToken(ctx, token)
}

// registriesThatSelect wakes the registries for which a namespace's labels count.
func (r *Reconciler) registriesThatSelect(ctx context.Context, _ client.Object) []reconcile.Request {
	list := &v1alpha1.HelmRegistryList{}
	if err := r.List(ctx, list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "a changed namespace could not be compared with the registries")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if list.Items[i].Spec.AllowedNamespaces.AllowedFrom() == v1alpha1.NamespacesSelector {
			requests = append(requests, request(list.Items[i].Namespace, list.Items[i].Name)...)
		}
	}
	return requests
}

// tokenChanged lets pass the changes of a token that a snapshot depends on; conditions are written for each snapshot and
// must not lead to another.
func tokenChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*v1alpha1.RegistryToken), e.ObjectNew.(*v1alpha1.RegistryToken)
		return before.Generation != after.Generation || before.UID != after.UID ||
			before.DeletionTimestamp.IsZero() != after.DeletionTimestamp.IsZero() ||
			before.Status.TokenID != after.Status.TokenID ||
			!before.Status.IssuedAt.Equal(after.Status.IssuedAt) ||
			!before.Status.ExpiresAt.Equal(after.Status.ExpiresAt)
	}}
}

// gather reads the tokens of a registry with all that their decisions depend on.
func (r *Reconciler) gather(ctx context.Context, registry *v1alpha1.HelmRegistry, now time.Time) ([]tokens.Input, error) {
	list := &v1alpha1.RegistryTokenList{}
	key := client.ObjectKeyFromObject(registry).String()
	if err := r.List(ctx, list, client.MatchingFields{tokens.IndexRegistry: key}); err != nil {
		return nil, fmt.Errorf("listing the registry's tokens: %w", err)
	}
	inputs := make([]tokens.Input, 0, len(list.Items))
	for i := range list.Items {
		in, err := tokens.Gather(ctx, r.Client, r.Owned, &list.Items[i], registry, now)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, in)
	}
	return inputs, nil
}

package accesssync

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
	"github.com/chartroom-dev/chartroom/controllers/internal/policies"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
	"github.com/chartroom-dev/chartroom/controllers/internal/wake"
)

// SetupWithManager registers the controller. The manager's cache must have tokens.IndexRegistry and the indexes of
// package policies.
func (r *Reconciler) SetupWithManager(manager ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(manager).
		Named("accesssync").
		For(&v1alpha1.HelmRegistry{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.LabelChangedPredicate{}, conditionsChanged()))).
		Watches(&v1alpha1.RegistryToken{}, handler.EnqueueRequestsFromMapFunc(r.registriesOfToken), builder.WithPredicates(tokenChanged())).
		Watches(&v1alpha1.OIDCPolicy{}, handler.EnqueueRequestsFromMapFunc(r.registriesOfPolicy), builder.WithPredicates(policyChanged())).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.registriesOfAuthorities)).
		WatchesRawSource(r.Cluster.Source(r.registriesWithPolicies)).
		WatchesRawSource(source.Kind(r.Owned, &corev1.Secret{}, handler.TypedEnqueueRequestsFromMapFunc(r.registryOfSecret))).
		WatchesRawSource(source.Kind(r.Owned, &corev1.Pod{}, handler.TypedEnqueueRequestsFromMapFunc(wake.RegistryOfPod))).
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

// registriesOfToken wakes the registry that a token names, or all among which a selector chooses: also those that it no
// longer does.
func (r *Reconciler) registriesOfToken(ctx context.Context, o client.Object) []reconcile.Request {
	if key, named := o.(*v1alpha1.RegistryToken).RegistryKey(); named {
		return request(key.Namespace, key.Name)
	}
	return r.registries(ctx, nil, client.InNamespace(o.GetNamespace()))
}

func (r *Reconciler) registries(ctx context.Context, keep func(*v1alpha1.HelmRegistry) bool, options ...client.ListOption) []reconcile.Request {
	return wake.Listed(ctx, r.Client, &v1alpha1.HelmRegistryList{}, keep, options...)
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
	return r.registriesOfToken(ctx, token)
}

// registriesThatSelect wakes the registries for which a namespace's labels count.
func (r *Reconciler) registriesThatSelect(ctx context.Context, _ client.Object) []reconcile.Request {
	return r.registries(ctx, func(registry *v1alpha1.HelmRegistry) bool {
		return registry.Spec.AllowedNamespaces.AllowedFrom() == v1alpha1.NamespacesSelector
	})
}

// conditionsChanged lets pass what pods are told of a registry's status.
func conditionsChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*v1alpha1.HelmRegistry), e.ObjectNew.(*v1alpha1.HelmRegistry)
		return !equality.Semantic.DeepEqual(before.Status.Conditions, after.Status.Conditions)
	}}
}

// tokenChanged lets pass the changes of a token that a snapshot depends on; conditions are written for each snapshot and
// must not lead to another.
func tokenChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*v1alpha1.RegistryToken), e.ObjectNew.(*v1alpha1.RegistryToken)
		return before.Generation != after.Generation || before.UID != after.UID ||
			before.DeletionTimestamp.IsZero() != after.DeletionTimestamp.IsZero() ||
			tokens.Held(before) != tokens.Held(after) ||
			before.Status.TokenID != after.Status.TokenID ||
			!before.Status.IssuedAt.Equal(after.Status.IssuedAt) ||
			!before.Status.ExpiresAt.Equal(after.Status.ExpiresAt) ||
			!before.Status.PreviousExpiresAt.Equal(after.Status.PreviousExpiresAt) ||
			!slices.EqualFunc(before.Status.Registries, after.Status.Registries, func(a, b v1alpha1.TokenRegistry) bool { return a.Name == b.Name })
	}}
}

// policyChanged lets pass the changes of a policy that a snapshot depends on, as tokenChanged does.
func policyChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*v1alpha1.OIDCPolicy), e.ObjectNew.(*v1alpha1.OIDCPolicy)
		return before.Generation != after.Generation || before.UID != after.UID ||
			before.DeletionTimestamp.IsZero() != after.DeletionTimestamp.IsZero() ||
			policies.Held(before) != policies.Held(after)
	}}
}

// registriesOfPolicy wakes the registries that a policy is for, and those that it was for. Of an update both the old and
// the new object are asked.
func (r *Reconciler) registriesOfPolicy(ctx context.Context, o client.Object) []reconcile.Request {
	p := o.(*v1alpha1.OIDCPolicy)
	var requests []reconcile.Request
	if key, named := p.RegistryKey(); named {
		requests = request(key.Namespace, key.Name)
	}
	for _, recorded := range p.Status.Registries {
		requests = append(requests, request(recorded.Namespace, recorded.Name)...)
	}
	if p.Spec.RegistrySelector == nil {
		return requests
	}
	targeted := func(registry *v1alpha1.HelmRegistry) bool { return policies.Targets(p, registry) }
	return append(requests, r.registries(ctx, targeted, client.InNamespace(p.Namespace))...)
}

// registriesOfAuthorities wakes the registries of the policies that refer to a Secret.
func (r *Reconciler) registriesOfAuthorities(ctx context.Context, o client.Object) []reconcile.Request {
	return r.registriesOfPolicies(ctx, client.InNamespace(o.GetNamespace()), client.MatchingFields{policies.IndexSecret: o.GetName()})
}

// registriesWithPolicies wakes all that may have to do with the cluster's issuer.
func (r *Reconciler) registriesWithPolicies(ctx context.Context) []reconcile.Request {
	return r.registriesOfPolicies(ctx)
}

func (r *Reconciler) registriesOfPolicies(ctx context.Context, options ...client.ListOption) []reconcile.Request {
	list := &v1alpha1.OIDCPolicyList{}
	if err := r.List(ctx, list, options...); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "the policies that a change concerns could not be listed")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		requests = append(requests, r.registriesOfPolicy(ctx, &list.Items[i])...)
	}
	return requests
}

// gather reads the tokens of a registry with all that their decisions depend on.
func (r *Reconciler) gather(ctx context.Context, registry *v1alpha1.HelmRegistry, now time.Time) ([]tokens.Input, error) {
	all, err := tokens.ListOf(ctx, r.Client, client.ObjectKeyFromObject(registry))
	if err != nil {
		return nil, err
	}
	// Read once for all tokens, and only where one needs them.
	neighbours := sync.OnceValues(func() ([]v1alpha1.HelmRegistry, error) {
		list := &v1alpha1.HelmRegistryList{}
		if err := r.List(ctx, list, client.InNamespace(registry.Namespace)); err != nil {
			return nil, fmt.Errorf("listing the registries of the namespace %s: %w", registry.Namespace, err)
		}
		return list.Items, nil
	})
	inputs := make([]tokens.Input, 0, len(all))
	for i := range all {
		registries := []*v1alpha1.HelmRegistry{registry}
		if _, named := all[i].RegistryKey(); !named {
			found, err := neighbours()
			if err != nil {
				return nil, err
			}
			registries = tokens.Chosen(&all[i], found)
		}
		if !tokens.Concerns(&all[i], registries, registry.Name) {
			continue
		}
		in, err := tokens.Gather(ctx, r.Client, r.Owned, &all[i], registries, now)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, in)
	}
	return inputs, nil
}

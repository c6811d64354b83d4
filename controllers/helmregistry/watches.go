package helmregistry

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/pki"
	"github.com/chartroom-dev/chartroom/controllers/internal/wake"
)

// SetupWithManager adds the controller, its indexes and its watches to a manager. Of all objects but HelmRegistries only
// the metadata is watched and kept in memory.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	for name, value := range map[string]client.IndexerFunc{
		indexHost:   func(o client.Object) []string { return []string{desired.Hostname(o.(*v1alpha1.HelmRegistry))} },
		indexSecret: func(o client.Object) []string { return givenSecrets(o.(*v1alpha1.HelmRegistry)) },
	} {
		if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.HelmRegistry{}, name, value); err != nil {
			return fmt.Errorf("indexing HelmRegistries by %s: %w", name, err)
		}
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("helmregistry").
		For(&v1alpha1.HelmRegistry{}).
		Watches(&v1alpha1.HelmRegistry{}, handler.EnqueueRequestsFromMapFunc(r.ofSameHost)).
		Owns(&appsv1.Deployment{}, builder.OnlyMetadata).
		Owns(&corev1.Service{}, builder.OnlyMetadata).
		Owns(&corev1.ConfigMap{}, builder.OnlyMetadata).
		Owns(&networkingv1.NetworkPolicy{}, builder.OnlyMetadata).
		Owns(&policyv1.PodDisruptionBudget{}, builder.OnlyMetadata).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.ofSecret)).
		WatchesMetadata(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(r.ofClaim)).
		WatchesRawSource(r.Ledger.Source(nil)).
		WatchesRawSource(r.Reports.Source(nil)).
		WatchesRawSource(r.Inventories.Source(nil)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 4,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](250*time.Millisecond, 2*time.Minute),
		}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("setting up the controller of HelmRegistries: %w", err)
	}
	return nil
}

// givenSecrets are the names of the Secrets of the user's that a registry uses.
func givenSecrets(registry *v1alpha1.HelmRegistry) []string {
	refs := []*v1alpha1.LocalObjectReference{registry.Spec.TLS.SecretRef}
	if s3 := registry.Spec.Storage.S3; s3 != nil {
		refs = append(refs, s3.CredentialsSecretRef, s3.CASecretRef)
	}
	for _, n := range registry.Spec.Notifications {
		if name, _, found := desired.NotificationSecret(n); found {
			refs = append(refs, &v1alpha1.LocalObjectReference{Name: name})
		}
		if n.TLS != nil {
			refs = append(refs, n.TLS.CASecretRef)
		}
	}
	var names []string
	for _, ref := range refs {
		if ref != nil && !slices.Contains(names, ref.Name) {
			names = append(names, ref.Name)
		}
	}
	return names
}

// ofSameHost wakes those that wait for a host: the change may have set it free.
func (r *Reconciler) ofSameHost(ctx context.Context, object client.Object) []reconcile.Request {
	changed := object.(*v1alpha1.HelmRegistry)
	return r.find(ctx, func(other *v1alpha1.HelmRegistry) bool { return other.UID != changed.UID }, client.MatchingFields{indexHost: desired.Hostname(changed)})
}

// ofSecret wakes the registry that a Secret belongs to, those that use it, and all when it is an authority.
func (r *Reconciler) ofSecret(ctx context.Context, secret client.Object) []reconcile.Request {
	name, namespace := secret.GetName(), secret.GetNamespace()
	if namespace == r.OperatorNamespace && (name == pki.ServingSecret || name == pki.AdminSecret) {
		return r.find(ctx, nil)
	}
	found := r.find(ctx, nil, client.InNamespace(namespace), client.MatchingFields{indexSecret: name})
	return append(found, ofLabel(secret)...)
}

// ofClaim wakes the registry that keeps its charts on a claim.
func (r *Reconciler) ofClaim(ctx context.Context, claim client.Object) []reconcile.Request {
	return r.find(ctx, func(registry *v1alpha1.HelmRegistry) bool {
		return registry.Spec.Storage.S3 == nil && desired.ClaimName(registry) == claim.GetName()
	}, client.InNamespace(claim.GetNamespace()))
}

// ofLabel is the registry whose name a Secret of the operator's carries. Unlike an owner reference the label survives a
// backup.
func ofLabel(secret client.Object) []reconcile.Request {
	labels := secret.GetLabels()
	if labels[v1alpha1.LabelManagedBy] != v1alpha1.ManagedBy || labels[v1alpha1.LabelRegistry] == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: secret.GetNamespace(), Name: labels[v1alpha1.LabelRegistry]}}}
}

func (r *Reconciler) find(ctx context.Context, keep func(*v1alpha1.HelmRegistry) bool, options ...client.ListOption) []reconcile.Request {
	return wake.Listed(ctx, r.Client, &v1alpha1.HelmRegistryList{}, keep, options...)
}

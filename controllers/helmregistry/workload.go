package helmregistry

import (
	"context"
	"errors"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
)

// workloadOutcome is the Deployment as it is after the phase; nil when there is none.
type workloadOutcome struct {
	deployment *appsv1.Deployment
}

// reconcileWorkload runs the registry. When an earlier phase did not come through, what runs stays as it is.
func (r *Reconciler) reconcileWorkload(ctx context.Context, s *scope) error {
	if s.blocked() {
		return r.readDeployment(ctx, s)
	}
	want, err := desired.Deployment(s.params)
	var refused *desired.PodTemplateError
	if errors.As(err, &refused) {
		return errors.Join(stalled("PodTemplateRefused", "%s", refused), r.readDeployment(ctx, s))
	}
	if err != nil {
		return err
	}
	if err := r.reconcileChild(ctx, s, desired.NetworkPolicy(s.params), &networkingv1.NetworkPolicy{}); err != nil {
		return err
	}
	service := desired.Service(s.params)
	if err := r.reconcileChild(ctx, s, service, &corev1.Service{}); err != nil {
		return err
	}
	live := &appsv1.Deployment{}
	err = r.reconcileChild(ctx, s, want, live)
	if apierrors.IsInvalid(err) && s.registry.Spec.PodTemplate != nil {
		return errors.Join(stalled("PodTemplateRefused", "the API server refuses the pod template: %s", rootMessage(err)), r.readDeployment(ctx, s))
	}
	if live.UID != "" {
		s.workload.deployment = live
	}
	return err
}

// readDeployment looks at the Deployment without touching it.
func (r *Reconciler) readDeployment(ctx context.Context, s *scope) error {
	live := &appsv1.Deployment{}
	err := r.APIReader.Get(ctx, types.NamespacedName{Namespace: s.registry.Namespace, Name: s.registry.Name}, live)
	if err == nil && ownership(s.registry, "Deployment", live) == nil {
		s.workload.deployment = live
	}
	return client.IgnoreNotFound(err)
}

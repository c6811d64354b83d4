package helmregistry

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
)

const (
	// reachPatience is how long the Service may take to lead to pods that are ready. After that they count as available:
	// on a cluster whose policies keep the operator from them, clients may reach them all the same.
	reachPatience = 10 * time.Second
	// reachPause is the time between two tries.
	reachPause = 100 * time.Millisecond
)

// workloadOutcome is the Deployment as it is after the phase, nil when there is none, and the Service.
type workloadOutcome struct {
	deployment *appsv1.Deployment
	service    *corev1.Service
	// unreached says that the Service did not lead to a pod when it was tried.
	unreached bool
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
	s.workload.service = &corev1.Service{}
	if err := r.reconcileChild(ctx, s, desired.Service(s.params), s.workload.service); err != nil {
		return err
	}
	if err := r.holdImage(ctx, s, want); err != nil {
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
	if err == nil && s.params.Replicas > 1 {
		err = r.reconcileChild(ctx, s, desired.DisruptionBudget(s.params), &policyv1.PodDisruptionBudget{})
	}
	return err
}

// readDeployment looks at the Deployment without touching it.
func (r *Reconciler) readDeployment(ctx context.Context, s *scope) error {
	live, err := r.liveDeployment(ctx, s)
	if live != nil {
		s.workload.deployment = live
	}
	return err
}

// liveDeployment returns the registry's Deployment; nil when there is none of its own.
func (r *Reconciler) liveDeployment(ctx context.Context, s *scope) (*appsv1.Deployment, error) {
	live := &appsv1.Deployment{}
	err := r.APIReader.Get(ctx, types.NamespacedName{Namespace: s.registry.Namespace, Name: s.registry.Name}, live)
	if err != nil || ownership(s.registry, "Deployment", live) != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return live, nil
}

// reconcileReach tries the Service when pods have just become ready. Nodes learn a moment later where a Service leads to,
// and whoever waits for Ready connects at once.
func (r *Reconciler) reconcileReach(ctx context.Context, s *scope) error {
	d, service := s.workload.deployment, s.workload.service
	if r.DialService == nil || s.blocked() || service == nil || service.Spec.ClusterIP == "" || !rolledOut(d).True() ||
		meta.IsStatusConditionTrue(s.registry.Status.Conditions, v1alpha1.ConditionAvailable) {
		return nil
	}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentAvailable && s.now.Sub(c.LastTransitionTime.Time) > reachPatience {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	connection, err := r.DialService(ctx, "tcp", net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(int(service.Spec.Ports[0].Port))))
	if err != nil {
		s.workload.unreached = true
		return nil
	}
	return connection.Close()
}

package accesssync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
)

const (
	// fenceReadyAfter is how long a pod that clients are sent to may leave a revocation unanswered.
	fenceReadyAfter = 5 * time.Second
	// fenceUnreadyAfter is the same for a pod that is not ready and may just be starting.
	fenceUnreadyAfter = 30 * time.Second
)

// fence takes pods out of service that do not answer, and might go on admitting what was taken away. Nothing is done as
// long as access was only given: an operator that cannot reach its pods must not stop them over a new token.
func (r *Reconciler) fence(ctx context.Context, registry *v1alpha1.HelmRegistry, m *memory, c compiled, pods []*corev1.Pod) error {
	revoking := slices.ContainsFunc(c.unproved, func(token types.UID) bool {
		return m.inForce == nil || !m.inForce.Refused[token]
	})
	if !m.narrowed && !revoking {
		return nil
	}
	var errs []error
	for _, pod := range pods {
		if m.confirmed(pod) || !overdue(pod, m.pods[pod.UID].failing, r.Now()) {
			continue
		}
		if err := r.evict(ctx, registry, pod); err != nil {
			errs = append(errs, fmt.Errorf("taking the pod %s out of service: %w", pod.Name, err))
		}
	}
	return errors.Join(errs...)
}

// overdue reports whether a pod has left the operator without an answer for too long. One that is being deleted has
// been dealt with.
func overdue(pod *corev1.Pod, failing, now time.Time) bool {
	if failing.IsZero() || !live(pod) || !pod.DeletionTimestamp.IsZero() {
		return false
	}
	if ready(pod) {
		return now.Sub(failing) >= fenceReadyAfter
	}
	return now.Sub(failing) >= fenceUnreadyAfter
}

// evict takes a pod out of the Service, which selects by the label, and deletes it. It is not forced: a pod whose node is
// cut off may go on serving, and only its object's disappearance tells that it does not.
func (r *Reconciler) evict(ctx context.Context, registry *v1alpha1.HelmRegistry, pod *corev1.Pod) error {
	if _, serving := pod.Labels[v1alpha1.LabelServing]; serving {
		without := pod.DeepCopy()
		delete(without.Labels, v1alpha1.LabelServing)
		err := r.Patch(ctx, without, client.MergeFrom(pod), client.FieldOwner(FieldManager))
		if client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	err := r.Delete(ctx, pod, client.Preconditions{UID: &pod.UID})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r.Recorder.Eventf(registry, pod, corev1.EventTypeWarning, ledger.ReasonReplicaUnreachable, "Fence",
		"The pod %s did not confirm that access was taken away; it was taken out of the Service and deleted.", pod.Name)
	return nil
}

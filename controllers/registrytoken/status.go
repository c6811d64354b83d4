package registrytoken

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
)

// Reasons of conditions beside those of decisions and of the ledger.
const (
	reasonPending            = "Pending"
	reasonWriteFailed        = "WriteFailed"
	reasonConfirmed          = "Confirmed"
	reasonReplicaUnreachable = "ReplicaUnreachable"
	reasonRegistryGone       = "RegistryGone"
)

// unreachableAfter is how long a revocation may wait for a pod before it is called unreachable.
const unreachableAfter = 10 * time.Minute

// setConditions computes every condition of a token.
func setConditions(s *scope) {
	set := func(kind string, status metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&s.in.Token.Status.Conditions, metav1.Condition{
			Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: s.in.Token.Generation,
		})
	}
	// remarks sets Reconciling and Stalled, which are there only when they are true.
	remarks := func(reconciling, stalled bool, reason, message string) {
		for kind, holds := range map[string]bool{v1alpha1.ConditionReconciling: reconciling, v1alpha1.ConditionStalled: stalled} {
			if holds {
				set(kind, metav1.ConditionTrue, reason, message)
			} else {
				meta.RemoveStatusCondition(&s.in.Token.Status.Conditions, kind)
			}
		}
	}
	d := s.decision
	if d.Action == tokens.Revoke {
		reason, message, done := s.revocation()
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, d.Reason, d.Message)
		if !meta.IsStatusConditionTrue(s.in.Token.Status.Conditions, v1alpha1.ConditionRevoked) {
			set(v1alpha1.ConditionRevoked, truth(done), reason, message)
		}
		meta.RemoveStatusCondition(&s.in.Token.Status.Conditions, v1alpha1.ConditionPropagated)
		remarks(!done, done, d.Reason, d.Message)
		return
	}
	meta.RemoveStatusCondition(&s.in.Token.Status.Conditions, v1alpha1.ConditionRevoked)
	if s.failure != nil {
		message := fmt.Sprintf("the Secret %s could not be written (%s); the operator's log says more", s.in.Token.SecretName(), apierrors.ReasonForError(s.failure))
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, reasonWriteFailed, message)
		remarks(true, false, reasonWriteFailed, message)
		return
	}
	propagated, reason, message := s.propagation()
	set(v1alpha1.ConditionPropagated, propagated, reason, message)
	if d.Action == tokens.Wait || d.Action == tokens.Stall || d.Action == tokens.Expire {
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, d.Reason, d.Message)
		remarks(d.Action == tokens.Wait, d.Action != tokens.Wait, d.Reason, d.Message)
		return
	}
	if propagated == metav1.ConditionTrue {
		reason, message = tokens.ReasonPublished, fmt.Sprintf("the token is in the Secret %s and in force", s.in.Token.SecretName())
	}
	set(v1alpha1.ConditionReady, propagated, reason, message)
	stalled := propagated != metav1.ConditionTrue && s.known && s.state.Stalled
	remarks(propagated != metav1.ConditionTrue && !stalled, stalled, reason, message)
}

// propagation says whether every live pod enforces the token as it is now.
func (s *scope) propagation() (metav1.ConditionStatus, string, string) {
	if !s.decision.InForce {
		return metav1.ConditionFalse, s.decision.Reason, s.decision.Message
	}
	entry := tokens.Entry(s.in.Token, s.decision.Credential)
	switch before := meta.FindStatusCondition(s.in.Token.Status.Conditions, v1alpha1.ConditionPropagated); {
	case s.known && s.state.Holds(entry):
		return metav1.ConditionTrue, reasonConfirmed, "every pod of the registry enforces the token"
	case s.known && s.state.Reason != "":
		return metav1.ConditionFalse, s.state.Reason, s.state.Message
	case s.known:
		return metav1.ConditionFalse, ledger.ReasonWaitingForReplicas, "the access snapshot with the token is under way"
	case before != nil && before.ObservedGeneration == s.in.Token.Generation && s.decision.Action == tokens.Keep:
		// The operator has just started: what was proved before is not taken back before the pods were asked.
		return before.Status, before.Reason, before.Message
	}
	return metav1.ConditionFalse, reasonPending, "the pods of the registry have not been asked yet"
}

// revocation says whether every live pod refuses the token.
func (s *scope) revocation() (reason, message string, done bool) {
	if s.proved {
		return reasonConfirmed, "no pod of the registry admits the token since " + s.in.Now.UTC().Format(time.RFC3339), true
	}
	if s.gone {
		return reasonRegistryGone, "the registry or its namespace is gone or being deleted, and its pods with it", true
	}
	message = "the access snapshot without the token is under way"
	if s.known && s.state.Reason != "" {
		message = s.state.Message
	}
	if s.waited() >= unreachableAfter {
		return reasonReplicaUnreachable, message, false
	}
	return ledger.ReasonWaitingForReplicas, message, false
}

// waited is how long a revocation has been waiting for its proof.
func (s *scope) waited() time.Duration {
	if at := s.in.Token.DeletionTimestamp; at != nil {
		return s.in.Now.Sub(at.Time)
	}
	c := meta.FindStatusCondition(s.in.Token.Status.Conditions, v1alpha1.ConditionRevoked)
	if c == nil {
		return 0
	}
	return s.in.Now.Sub(c.LastTransitionTime.Time)
}

func truth(b bool) metav1.ConditionStatus {
	if b {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

// pause returns when time alone will change something; zero is never.
func (s *scope) pause() time.Duration {
	switch d := s.decision; {
	case d.Action == tokens.Revoke && !s.ended():
		return max(unreachableAfter-s.waited(), time.Minute)
	case d.Action == tokens.Stall && d.Reason == tokens.ReasonNameTaken:
		return time.Minute // What is not ours is not watched.
	case d.InForce && d.Credential.ExpiresAt != nil:
		return max(d.Credential.ExpiresAt.Sub(s.in.Now), 0) + time.Second
	}
	return 0
}

// tell makes events of the transitions that somebody may want to know of. Issuing tells of itself.
func (r *Reconciler) tell(before, after *v1alpha1.RegistryToken) {
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionRevoked} {
		was := meta.FindStatusCondition(before.Status.Conditions, kind)
		is := meta.FindStatusCondition(after.Status.Conditions, kind)
		if is == nil || was != nil && was.Status == is.Status && was.Reason == is.Reason {
			continue
		}
		switch is.Reason {
		case reasonPending, ledger.ReasonWaitingForReplicas, ledger.ReasonNoReplicas, tokens.ReasonRevoked:
			continue
		case tokens.ReasonPublished, reasonConfirmed, reasonRegistryGone:
			r.Recorder.Eventf(after, nil, corev1.EventTypeNormal, is.Reason, "Reconcile", "%s", is.Message)
		default:
			r.Recorder.Eventf(after, nil, corev1.EventTypeWarning, is.Reason, "Reconcile", "%s", is.Message)
		}
	}
}

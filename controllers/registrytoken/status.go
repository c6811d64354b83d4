package registrytoken

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/status"
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
	token := s.in.Token
	summary, parts := s.findings()
	token.Status.Conditions = status.Conditions(token.Status.Conditions, token.Generation, summary, parts)
}

// findings are what the conditions say.
func (s *scope) findings() (status.Summary, []status.Part) {
	d := s.decision
	if d.Action == tokens.Revoke {
		revoked := s.revocation()
		return status.Summary{Ready: status.IsNot(d.Reason, d.Message), Stalled: revoked.True()},
			[]status.Part{{Type: v1alpha1.ConditionRevoked, Finding: revoked}}
	}
	if s.failure != nil {
		message := fmt.Sprintf("the Secret %s could not be written (%s); the operator's log says more", s.in.Token.SecretName(), apierrors.ReasonForError(s.failure))
		var kept []status.Part
		if before := s.before(v1alpha1.ConditionPropagated); before != nil {
			kept = append(kept, status.Part{Type: v1alpha1.ConditionPropagated, Finding: *before})
		}
		return status.Summary{Ready: status.IsNot(reasonWriteFailed, message)}, kept
	}
	propagated := s.propagation()
	parts := []status.Part{{Type: v1alpha1.ConditionPropagated, Finding: propagated}}
	switch {
	case d.Action == tokens.Wait || d.Action == tokens.Stall || d.Action == tokens.Expire:
		return status.Summary{Ready: status.IsNot(d.Reason, d.Message), Stalled: d.Action != tokens.Wait}, parts
	case propagated.True():
		message := fmt.Sprintf("the token is in the Secret %s and in force", s.in.Token.SecretName())
		return status.Summary{Ready: status.Is(tokens.ReasonPublished, message)}, parts
	}
	return status.Summary{Ready: propagated, Stalled: s.known && s.state.Stalled}, parts
}

// before returns what a condition said before; nil when it was not there.
func (s *scope) before(kind string) *status.Finding {
	c := meta.FindStatusCondition(s.in.Token.Status.Conditions, kind)
	if c == nil {
		return nil
	}
	return &status.Finding{Status: c.Status, Reason: c.Reason, Message: c.Message}
}

// propagation says whether every live pod enforces the token as it is now.
func (s *scope) propagation() status.Finding {
	if !s.decision.InForce {
		return status.IsNot(s.decision.Reason, s.decision.Message)
	}
	entry := tokens.Entry(s.in.Token, s.decision.Credential)
	before := meta.FindStatusCondition(s.in.Token.Status.Conditions, v1alpha1.ConditionPropagated)
	switch {
	case s.known && s.state.Holds(entry):
		return status.Is(reasonConfirmed, "every pod of the registry enforces the token")
	case s.known && s.state.Reason != "":
		return status.IsNot(s.state.Reason, s.state.Message)
	case s.known:
		return status.IsNot(ledger.ReasonWaitingForReplicas, "the access snapshot with the token is under way")
	case before != nil && before.ObservedGeneration == s.in.Token.Generation && s.decision.Action == tokens.Keep:
		// The operator has just started: what was proved before is not taken back before the pods were asked.
		return *s.before(v1alpha1.ConditionPropagated)
	}
	return status.IsNot(reasonPending, "the pods of the registry have not been asked yet")
}

// revocation says whether every live pod refuses the token.
func (s *scope) revocation() status.Finding {
	if before := s.before(v1alpha1.ConditionRevoked); before != nil && before.True() {
		return *before
	}
	if s.proved {
		return status.Is(reasonConfirmed, "no pod of the registry admits the token since "+s.in.Now.UTC().Format(time.RFC3339))
	}
	if s.gone {
		return status.Is(reasonRegistryGone, "the registry or its namespace is gone or being deleted, and its pods with it")
	}
	message := "the access snapshot without the token is under way"
	if s.known && s.state.Reason != "" {
		message = s.state.Message
	}
	if s.waited() >= unreachableAfter {
		return status.IsNot(reasonReplicaUnreachable, message)
	}
	return status.IsNot(ledger.ReasonWaitingForReplicas, message)
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
			r.Recorder.Eventf(after, nil, corev1.EventTypeNormal, is.Reason, "Reconcile", "%s", status.Note(is.Message))
		default:
			r.Recorder.Eventf(after, nil, corev1.EventTypeWarning, is.Reason, "Reconcile", "%s", status.Note(is.Message))
		}
	}
}

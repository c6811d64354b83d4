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
	reasonPending      = "Pending"
	reasonWriteFailed  = "WriteFailed"
	reasonConfirmed    = "Confirmed"
	reasonRegistryGone = "RegistryGone"
	reasonExpiresSoon  = "ExpiresSoon"
)

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
	if at := tokens.Warning(s.in.Token, d.Credentials, s.in.Now); d.InForce && at != nil && !at.After(s.in.Now) {
		message := fmt.Sprintf("the token expires at %s; write a later end into the spec, or create another RegistryToken in time", d.Credentials.Current.ExpiresAt.Format(time.RFC3339))
		parts = append(parts, status.Part{Type: v1alpha1.ConditionExpiringSoon, Finding: status.Is(reasonExpiresSoon, message)})
	}
	switch {
	case d.Action == tokens.Wait || d.Action == tokens.Stall || d.Action == tokens.Expire:
		return status.Summary{Ready: status.IsNot(d.Reason, d.Message), Stalled: d.Action != tokens.Wait}, parts
	case propagated.True() || len(s.places) > 0 && s.first(s.holds) == nil:
		// Not only once the pods know when the replaced token ends: a rotation disturbs nobody.
		message := fmt.Sprintf("the token is in the Secret %s and in force", s.in.Token.SecretName())
		if s.in.Token.Unpublished() {
			message = "the token is in force; who made it has its secret"
		}
		if d.Credentials.Next != nil {
			message += "; the one that replaces it waits until every pod enforces it"
		}
		return status.Summary{Ready: status.Is(tokens.ReasonPublished, message)}, parts
	}
	obstacle := s.first(s.holdsAll)
	return status.Summary{Ready: propagated, Stalled: obstacle != nil && obstacle.known && obstacle.state.Stalled}, parts
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
	before := meta.FindStatusCondition(s.in.Token.Status.Conditions, v1alpha1.ConditionPropagated)
	obstacle := s.first(s.holdsAll)
	switch {
	case len(s.places) == 0: // Of what is in force there is one at least.
	case obstacle == nil && len(s.places) == 1:
		return status.Is(reasonConfirmed, "every pod of the registry enforces the token")
	case obstacle == nil:
		return status.Is(reasonConfirmed, fmt.Sprintf("every pod of all %d registries enforces the token", len(s.places)))
	case obstacle.known && obstacle.state.Reason != "":
		return status.IsNot(obstacle.state.Reason, s.at(obstacle, obstacle.state.Message))
	case obstacle.known && obstacle.left:
		return status.IsNot(ledger.ReasonWaitingForReplicas, s.at(obstacle, "the access snapshot without the token is under way"))
	case obstacle.known:
		return status.IsNot(ledger.ReasonWaitingForReplicas, s.at(obstacle, "the access snapshot with the token is under way"))
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
	if p := s.first(s.refuses); p != nil && p.known && p.state.Reason != "" {
		message = s.at(p, p.state.Message)
	}
	if s.waited() >= ledger.UnreachableAfter {
		return status.IsNot(ledger.ReasonReplicaUnreachable, message)
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
		return max(ledger.UnreachableAfter-s.waited(), time.Minute)
	case d.Action == tokens.Stall && d.Reason == tokens.ReasonNameTaken:
		return time.Minute // What is not ours is not watched.
	case d.InForce:
		return until(tokens.NextChange(s.in.Token, d.Credentials, s.in.Now), s.in.Now)
	}
	return 0
}

// until returns how long to wait for an instant, and a second more; zero where there is none.
func until(at *time.Time, now time.Time) time.Duration {
	if at == nil {
		return 0
	}
	return at.Sub(now) + time.Second
}

// tell makes events of the transitions that somebody may want to know of. Issuing tells of itself.
func (r *Reconciler) tell(before, after *v1alpha1.RegistryToken) {
	for _, is := range status.Changed(before.Status.Conditions, after.Status.Conditions,
		v1alpha1.ConditionReady, v1alpha1.ConditionRevoked, v1alpha1.ConditionExpiringSoon) {
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

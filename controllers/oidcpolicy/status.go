package oidcpolicy

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/policies"
	"github.com/chartroom-dev/chartroom/controllers/internal/status"
)

// Reasons of conditions, beside those of the ledger.
const (
	reasonInForce             = "InForce"
	reasonPending             = "Pending"
	reasonInvalidPolicy       = "InvalidPolicy"
	reasonRegistryNotFound    = "RegistryNotFound"
	reasonNamespaceNotAllowed = "NamespaceNotAllowed"
	reasonTooManyPolicies     = "TooManyPolicies"
	reasonDeleting            = "Deleting"
	reasonReachable           = "Reachable"
	reasonIssuerUnreachable   = "IssuerUnreachable"
	reasonTooBroad            = "StrangersMayMatch"
)

// maxMessage bounds the message of one registry or issuer, of which there are many.
const maxMessage = 500

// setStatus computes the whole status.
func (s *scope) setStatus() {
	p := s.policy
	places := s.judgeAll()
	out := &p.Status
	out.Registries = nil
	for _, j := range places[:min(len(places), v1alpha1.MaxPolicyRegistries)] {
		out.Registries = append(out.Registries, j.told)
	}
	summary, parts := s.findings(places)
	if s.wrong == nil && !policies.IsRevoked(p) {
		out.Issuers = s.issuers()
		parts = append(parts, status.Part{Type: v1alpha1.ConditionIssuersReachable, Finding: reachability(out.Issuers)})
		if broad := s.tooBroad(); broad.True() {
			parts = append(parts, status.Part{Type: v1alpha1.ConditionPolicyTooBroad, Finding: broad})
		}
	} else {
		out.Issuers = nil
	}
	out.Conditions = status.Conditions(out.Conditions, p.Generation, summary, parts)
	out.ObservedGeneration = p.Generation
}

// judgement is what became of the policy at one registry.
type judgement struct {
	told v1alpha1.PolicyRegistry
	// finding is True when every live pod enforces the policy.
	finding status.Finding
	// stalled says that nothing changes until somebody changes an object.
	stalled bool
	// over says that the policy has nothing to do with the registry any more.
	over bool
}

// judgeAll judges all registries that the policy has to do with.
func (s *scope) judgeAll() []judgement {
	all := make([]judgement, 0, len(s.registries))
	for _, at := range s.registries {
		j := s.judge(at)
		if j.over {
			continue
		}
		j.told.Namespace, j.told.Name = at.key.Namespace, at.key.Name
		if !j.finding.True() {
			j.told.Message = status.Sentence(clip(j.finding.Message))
			j.finding.Message = fmt.Sprintf("at the HelmRegistry %s: %s", at.key, j.finding.Message)
		}
		all = append(all, j)
	}
	return all
}

// judge says what became of the policy at one registry.
func (s *scope) judge(at place) judgement {
	waiting := func(reason, message string) judgement {
		return judgement{finding: status.IsNot(reason, message), told: v1alpha1.PolicyRegistry{Total: at.state.Total}}
	}
	stalled := func(reason, message string) judgement {
		j := waiting(reason, message)
		j.stalled = true
		return j
	}
	switch {
	case policies.IsRevoked(s.policy):
		j := waiting(ledger.ReasonWaitingForReplicas, "waiting for its pods to refuse what the policy admitted")
		if at.known && at.state.Message != "" {
			j.finding.Message = at.state.Message
		}
		j.over = !s.holds(at)
		return j
	case !at.targeted:
		j := waiting(ledger.ReasonWaitingForReplicas, "the policy is no longer for this registry; waiting for its pods to confirm that")
		j.over = at.registry == nil || at.known && at.state.FreesPolicy(s.policy.Namespace+"/"+s.policy.Name)
		return j
	case at.registry == nil:
		return waiting(reasonRegistryNotFound, "there is no such HelmRegistry; the policy comes into force when it appears")
	case s.wrong != nil:
		return stalled(reasonInvalidPolicy, "the policy is not right")
	case at.refused != nil:
		return stalled(reasonNamespaceNotAllowed, at.refused.Error())
	case !at.known:
		return s.before(at, waiting(reasonPending, "the registry's pods have not been asked yet"))
	case at.state.Newest != nil && at.state.Newest.LeftOut[s.policy.UID] != "":
		return stalled(reasonTooManyPolicies, at.state.Newest.LeftOut[s.policy.UID])
	}
	return s.enforced(at)
}

// enforced says how many pods enforce the policy.
func (s *scope) enforced(at place) judgement {
	entry := s.compiled.Entry
	told := v1alpha1.PolicyRegistry{Accepted: at.state.Accepts(entry), Confirmed: at.state.Enforcing(entry), Total: at.state.Total}
	j := judgement{told: told}
	switch {
	case told.Accepted && told.Confirmed == told.Total && told.Total > 0:
		j.finding = status.Is(reasonInForce, "every pod enforces the policy")
	case at.state.Reason != "":
		j.finding, j.stalled = status.IsNot(at.state.Reason, at.state.Message), at.state.Stalled
	default:
		j.finding = status.IsNot(ledger.ReasonWaitingForReplicas, "the access snapshot that has the policy is under way")
	}
	return j
}

// before is what was said before the operator started again, where the policy has not changed since.
func (s *scope) before(at place, otherwise judgement) judgement {
	if s.policy.Status.ObservedGeneration != s.policy.Generation {
		return otherwise
	}
	for _, told := range s.policy.Status.Registries {
		if told.Namespace == at.key.Namespace && told.Name == at.key.Name && told.Accepted && told.Confirmed == told.Total && told.Total > 0 {
			return judgement{told: told, finding: status.Is(reasonInForce, "every pod enforces the policy")}
		}
	}
	return otherwise
}

// findings are what the conditions say of the policy's place in the registries.
func (s *scope) findings(places []judgement) (status.Summary, []status.Part) {
	if policies.IsRevoked(s.policy) {
		revoked := s.revocation(places)
		return status.Summary{Ready: status.IsNot(reasonDeleting, "the policy is being deleted: "+revoked.Message)},
			[]status.Part{{Type: v1alpha1.ConditionRevoked, Finding: revoked}}
	}
	propagated := judgement{finding: status.Is(reasonInForce, inForce(places))}
	if len(places) == 0 {
		propagated.finding = status.IsNot(reasonRegistryNotFound, fmt.Sprintf("no HelmRegistry of the namespace %s has the labels that registrySelector asks for; the policy comes into force when one has", s.policy.Namespace))
	}
	for _, j := range places {
		// What stays until somebody does something goes first.
		if !j.finding.True() && (propagated.finding.True() || j.stalled && !propagated.stalled) {
			propagated = j
		}
	}
	summary := status.Summary{Ready: propagated.finding, Stalled: propagated.stalled}
	if s.wrong != nil {
		summary = status.Summary{Ready: status.IsNot(reasonInvalidPolicy, s.wrong.Error()), Stalled: true}
		propagated.finding = summary.Ready
	}
	return summary, []status.Part{{Type: v1alpha1.ConditionPropagated, Finding: propagated.finding}}
}

func inForce(places []judgement) string {
	if len(places) == 1 {
		return "every pod of the registry enforces the policy"
	}
	return fmt.Sprintf("every pod of the %d registries enforces the policy", len(places))
}

// revocation says which pods a deletion waits for.
func (s *scope) revocation(places []judgement) status.Finding {
	switch {
	case len(places) == 0:
		return status.IsNot(reasonPending, "no pod enforces it; it is about to be let go")
	case s.waited() >= ledger.UnreachableAfter:
		return status.IsNot(ledger.ReasonReplicaUnreachable, places[0].finding.Message)
	}
	return status.IsNot(ledger.ReasonWaitingForReplicas, places[0].finding.Message)
}

// waited is how long the policy has been being deleted.
func (s *scope) waited() time.Duration { return s.now.Sub(s.policy.DeletionTimestamp.Time) }

// pause returns when time alone will change something; zero is never.
func (s *scope) pause() time.Duration {
	if !policies.IsRevoked(s.policy) {
		return 0
	}
	return max(ledger.UnreachableAfter-s.waited(), time.Minute)
}

// tooBroad says whether strangers could satisfy the policy.
func (s *scope) tooBroad() status.Finding {
	warnings := s.compiled.Policy.Lint()
	if len(warnings) == 0 {
		return status.IsNot("", "")
	}
	texts := make([]string, 0, len(warnings))
	for _, w := range warnings {
		texts = append(texts, fmt.Sprintf("statements[%d]: %s", w.Statement, w.Text))
	}
	return status.Is(reasonTooBroad, strings.Join(texts, "; "))
}

// tell makes events of the transitions that somebody may want to know of.
func (r *Reconciler) tell(before, after *v1alpha1.OIDCPolicy) {
	for _, is := range status.Changed(before.Status.Conditions, after.Status.Conditions,
		v1alpha1.ConditionReady, v1alpha1.ConditionRevoked, v1alpha1.ConditionIssuersReachable, v1alpha1.ConditionPolicyTooBroad) {
		switch is.Reason {
		case reasonPending, reasonDeleting, reasonReachable, ledger.ReasonWaitingForReplicas, ledger.ReasonNoReplicas:
		case reasonInForce:
			r.Recorder.Eventf(after, nil, corev1.EventTypeNormal, is.Reason, "Reconcile", "%s", status.Note(is.Message))
		default:
			reason := is.Reason
			if is.Type == v1alpha1.ConditionPolicyTooBroad {
				reason = is.Type
			}
			r.Recorder.Eventf(after, nil, corev1.EventTypeWarning, reason, "Reconcile", "%s", status.Note(is.Message))
		}
	}
}

func clip(s string) string { return status.Shorten(s, maxMessage) }

func at(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	when := metav1.NewTime(t.UTC().Truncate(time.Second))
	return &when
}

package registrytoken

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// summary returns the conditions as "status reason" by type.
func summary(token *v1alpha1.RegistryToken) map[string]string {
	out := map[string]string{}
	for _, c := range token.Status.Conditions {
		out[c.Type] = string(c.Status) + " " + c.Reason
	}
	return out
}

func TestConditions(t *testing.T) {
	keep := tokens.Decision{Action: tokens.Keep, Reason: tokens.ReasonPublished, InForce: true}
	revoke := tokens.Decision{Action: tokens.Revoke, Reason: tokens.ReasonRevoked, Message: "the token is revoked"}
	newToken := func() *v1alpha1.RegistryToken {
		return &v1alpha1.RegistryToken{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "ci", UID: "uid", Generation: 2}}
	}
	entry := tokens.Entry(newToken(), tokens.Credential{})
	holding := &ledger.Snapshot{Access: wire.Access{Tokens: []wire.Token{entry}}}
	condition := func(kind string, status metav1.ConditionStatus, reason string, at time.Time, generation int64) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: "before", ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(at)}
	}
	for name, c := range map[string]struct {
		scope  scope
		before []metav1.Condition
		want   map[string]string
		// message is part of the message of the last condition that is not true.
		message string
	}{
		"in force": {
			scope{decision: keep, known: true, state: ledger.State{Total: 1, Confirmed: 1, Newest: holding, InForce: holding}}, nil,
			map[string]string{"Ready": "True Published", "Propagated": "True Confirmed"}, ""},
		"waiting for pods": {
			scope{decision: keep, known: true, state: ledger.State{Total: 2, Confirmed: 1, Newest: holding, Reason: "WaitingForReplicas", Message: "waiting for charts-2"}}, nil,
			map[string]string{"Ready": "False WaitingForReplicas", "Propagated": "False WaitingForReplicas", "Reconciling": "True Progressing"}, "charts-2"},
		"not compiled yet": {
			scope{decision: keep, known: true, state: ledger.State{Total: 1, Confirmed: 1}}, nil,
			map[string]string{"Ready": "False WaitingForReplicas", "Propagated": "False WaitingForReplicas", "Reconciling": "True Progressing"}, "under way"},
		"left out": {
			scope{decision: keep, known: true, state: ledger.State{Total: 1, Confirmed: 1, Reason: "TooManyTokens", Stalled: true}}, nil,
			map[string]string{"Ready": "False TooManyTokens", "Propagated": "False TooManyTokens", "Stalled": "True TooManyTokens"}, ""},
		"pods not asked yet": {
			scope{decision: keep}, nil,
			map[string]string{"Ready": "False Pending", "Propagated": "False Pending", "Reconciling": "True Progressing"}, ""},
		"operator started again": {
			scope{decision: keep}, []metav1.Condition{condition("Propagated", metav1.ConditionTrue, "Confirmed", now, 2)},
			map[string]string{"Ready": "True Published", "Propagated": "True Confirmed"}, ""},
		"operator started again, spec changed": {
			scope{decision: keep}, []metav1.Condition{condition("Propagated", metav1.ConditionTrue, "Confirmed", now, 1)},
			map[string]string{"Ready": "False Pending", "Propagated": "False Pending", "Reconciling": "True Progressing"}, ""},
		"no registry": {
			scope{decision: tokens.Decision{Action: tokens.Wait, Reason: "RegistryNotFound"}}, nil,
			map[string]string{"Ready": "False RegistryNotFound", "Propagated": "False RegistryNotFound", "Reconciling": "True Progressing"}, ""},
		"expired": {
			scope{decision: tokens.Decision{Action: tokens.Expire, Reason: "Expired"}}, nil,
			map[string]string{"Ready": "False Expired", "Propagated": "False Expired", "Stalled": "True Expired"}, ""},
		"template refused, token in force": {
			scope{decision: tokens.Decision{Action: tokens.Stall, Reason: "InvalidSecretTemplate", InForce: true}, known: true, state: ledger.State{Total: 1, Newest: holding, InForce: holding}}, nil,
			map[string]string{"Ready": "False InvalidSecretTemplate", "Propagated": "True Confirmed", "Stalled": "True InvalidSecretTemplate"}, ""},
		"Secret refused by the API server": {
			scope{decision: keep, failure: errors.New("secret content")}, nil,
			map[string]string{"Ready": "False WriteFailed", "Reconciling": "True Progressing"}, "log"},
		"revoked, waiting": {
			scope{decision: revoke, known: true, state: ledger.State{Total: 1, Reason: "WaitingForReplicas", Message: "waiting for charts-1"}},
			[]metav1.Condition{condition("Propagated", metav1.ConditionTrue, "Confirmed", now, 1), condition("Revoked", metav1.ConditionFalse, "WaitingForReplicas", now.Add(-time.Minute), 2)},
			map[string]string{"Ready": "False Revoked", "Revoked": "False WaitingForReplicas", "Reconciling": "True Progressing"}, "charts-1"},
		"revoked, waiting for long": {
			scope{decision: revoke, known: true, state: ledger.State{Total: 1, Reason: "WaitingForReplicas", Message: "waiting for charts-1"}},
			[]metav1.Condition{condition("Revoked", metav1.ConditionFalse, "WaitingForReplicas", now.Add(-10*time.Minute), 2)},
			map[string]string{"Ready": "False Revoked", "Revoked": "False ReplicaUnreachable", "Reconciling": "True Progressing"}, "charts-1"},
		"revoked, no registry": {
			scope{decision: revoke, gone: true}, nil,
			map[string]string{"Ready": "False Revoked", "Revoked": "True RegistryGone", "Stalled": "True Revoked"}, ""},
		"revoked": {
			scope{decision: revoke, proved: true}, nil,
			map[string]string{"Ready": "False Revoked", "Revoked": "True Confirmed", "Stalled": "True Revoked"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			token := newToken()
			token.Status.Conditions = c.before
			c.scope.in = tokens.Input{Token: token, Now: now}
			setConditions(&c.scope)
			if diff := cmp.Diff(c.want, summary(token)); diff != "" {
				t.Error(diff)
			}
			found := c.message == ""
			for _, condition := range token.Status.Conditions {
				found = found || strings.Contains(condition.Message, c.message)
				if strings.Contains(condition.Message, "secret content") {
					t.Errorf("the message quotes an error: %s", condition.Message)
				}
				if first := condition.Message[:min(1, len(condition.Message))]; first != strings.ToUpper(first) && condition.Message != "before" {
					t.Errorf("the message is no sentence: %s", condition.Message)
				}
				if condition.ObservedGeneration != 2 {
					t.Errorf("%s is about generation %d", condition.Type, condition.ObservedGeneration)
				}
			}
			if !found {
				t.Errorf("no message says %q: %v", c.message, token.Status.Conditions)
			}
			// Computed again a while later, nothing is another.
			before := token.DeepCopy()
			c.scope.in.Now = c.scope.in.Now.Add(time.Second)
			setConditions(&c.scope)
			if diff := cmp.Diff(before.Status, token.Status); diff != "" {
				t.Errorf("the conditions change by themselves: %s", diff)
			}
		})
	}
}

func TestProofKeepsItsInstant(t *testing.T) {
	token := &v1alpha1.RegistryToken{ObjectMeta: metav1.ObjectMeta{UID: "uid"}}
	s := &scope{decision: tokens.Decision{Action: tokens.Revoke, Reason: tokens.ReasonRevoked}, proved: true, in: tokens.Input{Token: token, Now: now}}
	setConditions(s)
	s.in.Now = now.Add(time.Hour)
	setConditions(s)
	if message := meta.FindStatusCondition(token.Status.Conditions, "Revoked").Message; !strings.Contains(message, "2026-03-01T12:00:00Z") {
		t.Errorf("the message %q does not say since when", message)
	}
}

func TestPause(t *testing.T) {
	soon := now.Add(time.Minute)
	deleted := metav1.NewTime(now.Add(-9 * time.Minute))
	for name, c := range map[string]struct {
		decision tokens.Decision
		deleted  *metav1.Time
		want     time.Duration
	}{
		"no expiry":  {tokens.Decision{Action: tokens.Keep, InForce: true}, nil, 0},
		"expiry":     {tokens.Decision{Action: tokens.Keep, InForce: true, Credential: tokens.Credential{ExpiresAt: &soon}}, nil, time.Minute + time.Second},
		"name taken": {tokens.Decision{Action: tokens.Stall, Reason: tokens.ReasonNameTaken}, nil, time.Minute},
		"stalled":    {tokens.Decision{Action: tokens.Stall, Reason: tokens.ReasonNamespaceNotAllowed}, nil, 0},
		"revocation": {tokens.Decision{Action: tokens.Revoke}, &deleted, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			token := &v1alpha1.RegistryToken{ObjectMeta: metav1.ObjectMeta{UID: types.UID("uid"), DeletionTimestamp: c.deleted}}
			s := &scope{decision: c.decision, in: tokens.Input{Token: token, Now: now}}
			if got := s.pause(); got != c.want {
				t.Errorf("the pause is %v, want %v", got, c.want)
			}
		})
	}
}

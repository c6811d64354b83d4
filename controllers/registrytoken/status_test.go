package registrytoken

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
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

// asked are the places of a token of one registry whose pods have been asked.
func asked(state ledger.State) []place { return []place{{state: state, known: true}} }

func TestConditions(t *testing.T) {
	keep := tokens.Decision{Action: tokens.Keep, Reason: tokens.ReasonPublished, InForce: true}
	replacing, staged := keep, keep
	replacing.Credentials.Previous = &tokens.Credential{ID: "before", ExpiresAt: &now}
	staged.Credentials.Next = &tokens.Credential{ID: "after"}
	revoke := tokens.Decision{Action: tokens.Revoke, Reason: tokens.ReasonRevoked, Message: "the token is revoked"}
	newToken := func() *v1alpha1.RegistryToken {
		return &v1alpha1.RegistryToken{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "ci", UID: "uid", Generation: 2},
			Spec: v1alpha1.RegistryTokenSpec{RegistryRef: v1alpha1.RegistryReference{Name: "charts"}}}
	}
	entry := tokens.Entry(newToken(), tokens.Credential{})
	holding := &ledger.Snapshot{Access: wire.Access{Tokens: []wire.Token{entry}}}
	expiring, end := keep, now.Add(time.Hour)
	expiring.Credentials.Current = tokens.Credential{IssuedAt: now.Add(-9 * time.Hour), ExpiresAt: &end}
	ending := tokens.Entry(newToken(), expiring.Credentials.Current)
	holdingEnding := &ledger.Snapshot{Access: wire.Access{Tokens: []wire.Token{ending}}}
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
			scope{decision: keep, places: asked(ledger.State{Total: 1, Confirmed: 1, Newest: holding, InForce: holding})}, nil,
			map[string]string{"Ready": "True Published", "Propagated": "True Confirmed"}, ""},
		"in force, and the pods do not know when the replaced one ends": {
			scope{decision: replacing, places: asked(ledger.State{Total: 1, Newest: holding, InForce: holding, Reason: "WaitingForReplicas", Message: "waiting for charts-1"})}, nil,
			map[string]string{"Ready": "True Published", "Propagated": "False WaitingForReplicas"}, "charts-1"},
		"in force, for another hour": {
			scope{decision: expiring, places: asked(ledger.State{Total: 1, Newest: holdingEnding, InForce: holdingEnding})}, nil,
			map[string]string{"Ready": "True Published", "Propagated": "True Confirmed", "ExpiringSoon": "True ExpiresSoon"}, "2026-03-01T13:00:00Z"},
		"in force, to be replaced": {
			scope{decision: staged, places: asked(ledger.State{Total: 1, Newest: holding, InForce: holding})}, nil,
			map[string]string{"Ready": "True Published", "Propagated": "True Confirmed"}, "waits until every pod enforces it"},
		"waiting for pods": {
			scope{decision: keep, places: asked(ledger.State{Total: 2, Confirmed: 1, Newest: holding, Reason: "WaitingForReplicas", Message: "waiting for charts-2"})}, nil,
			map[string]string{"Ready": "False WaitingForReplicas", "Propagated": "False WaitingForReplicas", "Reconciling": "True Progressing"}, "charts-2"},
		"not compiled yet": {
			scope{decision: keep, places: asked(ledger.State{Total: 1, Confirmed: 1})}, nil,
			map[string]string{"Ready": "False WaitingForReplicas", "Propagated": "False WaitingForReplicas", "Reconciling": "True Progressing"}, "under way"},
		"left out": {
			scope{decision: keep, places: asked(ledger.State{Total: 1, Confirmed: 1, Reason: "TooManyTokens", Stalled: true})}, nil,
			map[string]string{"Ready": "False TooManyTokens", "Propagated": "False TooManyTokens", "Stalled": "True TooManyTokens"}, ""},
		"pods not asked yet": {
			scope{decision: keep, places: []place{{}}}, nil,
			map[string]string{"Ready": "False Pending", "Propagated": "False Pending", "Reconciling": "True Progressing"}, ""},
		"nowhere": {
			scope{decision: keep}, nil,
			map[string]string{"Ready": "False Pending", "Propagated": "False Pending", "Reconciling": "True Progressing"}, ""},
		"operator started again": {
			scope{decision: keep, places: []place{{}}}, []metav1.Condition{condition("Propagated", metav1.ConditionTrue, "Confirmed", now, 2)},
			map[string]string{"Ready": "True Published", "Propagated": "True Confirmed"}, ""},
		"operator started again, spec changed": {
			scope{decision: keep, places: []place{{}}}, []metav1.Condition{condition("Propagated", metav1.ConditionTrue, "Confirmed", now, 1)},
			map[string]string{"Ready": "False Pending", "Propagated": "False Pending", "Reconciling": "True Progressing"}, ""},
		"no registry": {
			scope{decision: tokens.Decision{Action: tokens.Wait, Reason: "RegistryNotFound"}}, nil,
			map[string]string{"Ready": "False RegistryNotFound", "Propagated": "False RegistryNotFound", "Reconciling": "True Progressing"}, ""},
		"expired": {
			scope{decision: tokens.Decision{Action: tokens.Expire, Reason: "Expired"}}, nil,
			map[string]string{"Ready": "False Expired", "Propagated": "False Expired", "Stalled": "True Expired"}, ""},
		"template refused, token in force": {
			scope{decision: tokens.Decision{Action: tokens.Stall, Reason: "InvalidSecretTemplate", InForce: true}, places: asked(ledger.State{Total: 1, Newest: holding, InForce: holding})}, nil,
			map[string]string{"Ready": "False InvalidSecretTemplate", "Propagated": "True Confirmed", "Stalled": "True InvalidSecretTemplate"}, ""},
		"Secret refused by the API server": {
			scope{decision: keep, failure: errors.New("secret content")}, nil,
			map[string]string{"Ready": "False WriteFailed", "Reconciling": "True Progressing"}, "log"},
		"revoked, waiting": {
			scope{decision: revoke, places: asked(ledger.State{Total: 1, Reason: "WaitingForReplicas", Message: "waiting for charts-1"})},
			[]metav1.Condition{condition("Propagated", metav1.ConditionTrue, "Confirmed", now, 1), condition("Revoked", metav1.ConditionFalse, "WaitingForReplicas", now.Add(-time.Minute), 2)},
			map[string]string{"Ready": "False Revoked", "Revoked": "False WaitingForReplicas", "Reconciling": "True Progressing"}, "charts-1"},
		"revoked, waiting for long": {
			scope{decision: revoke, places: asked(ledger.State{Total: 1, Reason: "WaitingForReplicas", Message: "waiting for charts-1"})},
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
		"overlap":    {tokens.Decision{Action: tokens.Keep, InForce: true, Credentials: tokens.Credentials{Previous: &tokens.Credential{ExpiresAt: &soon}}}, nil, time.Minute + time.Second},
		"no expiry":  {tokens.Decision{Action: tokens.Keep, InForce: true}, nil, 0},
		"expiry":     {tokens.Decision{Action: tokens.Keep, InForce: true, Credentials: tokens.Credentials{Current: tokens.Credential{ExpiresAt: &soon}}}, nil, time.Minute + time.Second},
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

func TestLastUsed(t *testing.T) {
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	uses := func(token string, minutes int) reports.Uses {
		return reports.Uses{"pod": {At: map[string]time.Time{token: at(minutes)}}}
	}
	for name, c := range map[string]struct {
		recorded int // Minutes from now; 1 for never.
		uses     reports.Uses
		want     int
	}{
		"never":                          {1, nil, 1},
		"the first time":                 {1, uses("current", -20), -20},
		"another's":                      {1, uses("other", -20), 1},
		"later":                          {-20, uses("current", -10), -10},
		"the pod has forgotten":          {-20, reports.Uses{}, -20},
		"another pod knew of a later":    {-20, uses("current", -30), -20},
		"the one that was replaced":      {-20, uses("previous", -10), -10},
		"by a clock ahead":               {-20, uses("current", 40), 0},
		"by a clock ahead, the same day": {0, uses("current", 40), 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := scope{in: tokens.Input{Token: &v1alpha1.RegistryToken{}, Now: now.Add(time.Minute)}, uses: []reports.Uses{nil, c.uses}, decision: tokens.Decision{Credentials: tokens.Credentials{
				Current: tokens.Credential{SHA256: "current"}, Previous: &tokens.Credential{SHA256: "previous"}}}}
			if c.recorded <= 0 {
				s.in.Token.Status.LastUsed = &metav1.Time{Time: at(c.recorded)}
			}
			got := s.lastUsed()
			if (got == nil) != (c.want > 0) || got != nil && !got.Time.Equal(at(c.want)) {
				t.Errorf("it was used last at %v, want %d minutes from now", got, c.want)
			}
		})
	}
}

func TestSeveralRegistries(t *testing.T) {
	token := &v1alpha1.RegistryToken{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "ci", UID: "uid", Generation: 2},
		Spec:       v1alpha1.RegistryTokenSpec{RegistrySelector: &metav1.LabelSelector{}},
		Status:     v1alpha1.RegistryTokenStatus{Registries: []v1alpha1.TokenRegistry{{Name: "restarted", Reason: "Confirmed"}}},
	}
	keep := tokens.Decision{Action: tokens.Keep, Reason: tokens.ReasonPublished, InForce: true}
	entry := tokens.Entry(token, tokens.Credential{})
	holding := &ledger.Snapshot{Access: wire.Access{Tokens: []wire.Token{entry}}}
	refusing := &ledger.Snapshot{Refused: map[types.UID]bool{"uid": true}}
	at := func(name string, state ledger.State) place {
		return place{registry: types.NamespacedName{Namespace: "team-a", Name: name}, known: true, state: state}
	}
	good := at("good", ledger.State{Total: 1, Confirmed: 1, Newest: holding, InForce: holding})
	gone := at("gone", ledger.State{Total: 1, Confirmed: 1, Newest: refusing, InForce: refusing})
	slow := at("slow", ledger.State{Total: 2, Newest: holding, Reason: "WaitingForReplicas", Message: "waiting for slow-1"})
	restarted := place{registry: types.NamespacedName{Name: "restarted"}}
	left := at("left", ledger.State{Total: 1, Newest: holding, InForce: holding})
	left.left = true
	revoke := tokens.Decision{Action: tokens.Revoke, Reason: tokens.ReasonRevoked}
	for name, c := range map[string]struct {
		scope      scope
		conditions map[string]string
		registries map[string]string
		message    string
	}{
		"all": {scope{decision: keep, places: []place{good, good}},
			map[string]string{"Ready": "True Published", "Propagated": "True Confirmed"}, map[string]string{"good": "Confirmed"}, "all 2 registries"},
		"one waits": {scope{decision: keep, places: []place{good, slow}},
			map[string]string{"Ready": "False WaitingForReplicas", "Propagated": "False WaitingForReplicas", "Reconciling": "True Progressing"},
			map[string]string{"good": "Confirmed", "slow": "WaitingForReplicas"}, "slow-1 (at the registry slow)"},
		"one was left": {scope{decision: keep, places: []place{good, left}},
			map[string]string{"Ready": "True Published", "Propagated": "False WaitingForReplicas"},
			map[string]string{"good": "Confirmed", "left": "NotChosen"}, "without the token is under way (at the registry left)"},
		"one was not asked yet": {scope{decision: keep, places: []place{good, restarted}},
			map[string]string{"Ready": "False Pending", "Propagated": "False Pending", "Reconciling": "True Progressing"},
			map[string]string{"good": "Confirmed", "restarted": "Confirmed"}, ""},
		"expired": {scope{decision: tokens.Decision{Action: tokens.Expire, Reason: "Expired"}, places: []place{good}},
			map[string]string{"Ready": "False Expired", "Propagated": "False Expired", "Stalled": "True Expired"}, map[string]string{"good": "Expired"}, ""},
		"not written": {scope{decision: keep, places: []place{good}, failure: errors.New("x")},
			map[string]string{"Ready": "False WriteFailed", "Reconciling": "True Progressing"}, map[string]string{"good": "WriteFailed"}, ""},
		"revoked at one": {scope{decision: revoke, places: []place{gone, slow}},
			map[string]string{"Ready": "False Revoked", "Revoked": "False WaitingForReplicas", "Reconciling": "True Progressing"},
			map[string]string{"gone": "Confirmed", "slow": "WaitingForReplicas"}, "slow-1 (at the registry slow)"},
	} {
		t.Run(name, func(t *testing.T) {
			token := token.DeepCopy()
			c.scope.in = tokens.Input{Token: token, Now: now}
			setConditions(&c.scope)
			if diff := cmp.Diff(c.conditions, summary(token)); diff != "" {
				t.Error(diff)
			}
			got := map[string]string{}
			for _, r := range c.scope.registries() {
				got[r.Name] = r.Reason
			}
			if diff := cmp.Diff(c.registries, got); diff != "" {
				t.Error(diff)
			}
			if !slices.ContainsFunc(token.Status.Conditions, func(condition metav1.Condition) bool { return strings.Contains(condition.Message, c.message) }) {
				t.Errorf("no message says %q: %v", c.message, token.Status.Conditions)
			}
		})
	}

	// A rotation waits for all that the token is for, and for no other.
	for want, places := range map[bool][]place{true: {good, {left: true}}, false: {good, slow}} {
		if got := (&scope{in: tokens.Input{Token: token}, places: places}).enforces(tokens.Credential{}); got != want {
			t.Errorf("it is enforced: %t, want %t", got, want)
		}
	}
}

package oidcpolicy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/clusterissuer"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/policies"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const narrow = "- {iss: \"https://issuer.example\", scopes: [read_packages], claims: {a: b}}\n"

// newScope is a policy for the registry charts, with its places.
func newScope(t *testing.T, text string, places ...place) *scope {
	t.Helper()
	s := &scope{now: now, registries: places, policy: &v1alpha1.OIDCPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "ci", UID: "uid", Generation: 2},
		Spec:       v1alpha1.OIDCPolicySpec{RegistryRef: &v1alpha1.RegistryReference{Name: "charts"}, Policy: text},
	}}
	s.compiled, s.wrong = policies.Compile(s.policy, nil)
	return s
}

// newPlace is a registry that the policy is for.
func newPlace(name string, state ledger.State) place {
	return place{key: types.NamespacedName{Namespace: "team-a", Name: name}, registry: &v1alpha1.HelmRegistry{}, targeted: true, state: state, known: true}
}

func (s *scope) summary() string {
	var out []string
	for _, c := range s.policy.Status.Conditions {
		out = append(out, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
	}
	for _, r := range s.policy.Status.Registries {
		out = append(out, fmt.Sprintf("%s:%v %d/%d", r.Name, r.Accepted, r.Confirmed, r.Total))
	}
	return strings.Join(out, ", ")
}

func TestStatus(t *testing.T) {
	entry := newScope(t, narrow).compiled.Entry
	with := &ledger.Snapshot{Access: wire.Access{Policies: []wire.Policy{entry}}}
	without := &ledger.Snapshot{}
	full := &ledger.Snapshot{LeftOut: map[types.UID]string{"uid": "the registry has 64 policies already"}}
	refused := &ledger.Snapshot{Refused: map[types.UID]bool{"uid": true}}
	inForce := ledger.State{Total: 2, Confirmed: 2, Newest: with, InForce: with}
	onItsWay := ledger.State{Total: 2, Confirmed: 1, Newest: with, Reason: "WaitingForReplicas", Message: "1 of 2 pods; waiting for charts-2"}
	change := func(p place, do func(*place)) place { do(&p); return p }
	gone := func(p *place) { p.registry = nil }
	former := func(p *place) { p.targeted = false }
	unknown := func(p *place) { p.known, p.state = false, ledger.State{} }
	deleted := func(s *scope) {
		at := metav1.NewTime(now.Add(-time.Minute))
		s.policy.DeletionTimestamp = &at
	}
	const waits = ", IssuersReachable=Unknown Pending"
	for name, c := range map[string]struct {
		places []place
		change func(*scope)
		want   string
		// message is part of what Ready says.
		message string
		proved  bool
	}{
		"in force":     {[]place{newPlace("charts", inForce)}, nil, "Ready=True InForce, Propagated=True InForce" + waits + ", charts:true 2/2", "every pod of the registry", false},
		"several":      {[]place{newPlace("a", inForce), newPlace("b", inForce)}, nil, "Ready=True InForce, Propagated=True InForce" + waits + ", a:true 2/2, b:true 2/2", "every pod of the 2 registries", false},
		"one waits":    {[]place{newPlace("a", inForce), newPlace("b", onItsWay)}, nil, "Ready=False WaitingForReplicas, Reconciling=True Progressing, Propagated=False WaitingForReplicas" + waits + ", a:true 2/2, b:true 1/2", "team-a/b: 1 of 2 pods; waiting for charts-2", false},
		"no pods":      {[]place{newPlace("charts", ledger.State{Newest: with, InForce: with, Reason: "NoReplicas", Message: "the registry has no running pod"})}, nil, "Ready=False NoReplicas, Reconciling=True Progressing, Propagated=False NoReplicas" + waits + ", charts:true 0/0", "no running pod", false},
		"not compiled": {[]place{newPlace("charts", ledger.State{Total: 1, Confirmed: 1, Newest: without, InForce: without})}, nil, "Ready=False WaitingForReplicas, Reconciling=True Progressing, Propagated=False WaitingForReplicas" + waits + ", charts:false 0/1", "under way", false},
		"no registry":  {[]place{change(newPlace("charts", ledger.State{}), gone)}, nil, "Ready=False RegistryNotFound, Reconciling=True Progressing, Propagated=False RegistryNotFound" + waits + ", charts:false 0/0", "there is no such HelmRegistry", false},
		"none chosen":  {nil, nil, "Ready=False RegistryNotFound, Reconciling=True Progressing, Propagated=False RegistryNotFound" + waits, "has the labels that registrySelector asks for", true},
		"no room":      {[]place{newPlace("a", onItsWay), newPlace("b", ledger.State{Total: 1, Confirmed: 1, Newest: full, InForce: full})}, nil, "Ready=False TooManyPolicies, Stalled=True TooManyPolicies, Propagated=False TooManyPolicies" + waits + ", a:true 1/2, b:false 0/1", "64 policies already", false},
		"not admitted": {[]place{change(newPlace("charts", inForce), func(p *place) { p.refused = errors.New("no") })}, nil, "Ready=False NamespaceNotAllowed, Stalled=True NamespaceNotAllowed, Propagated=False NamespaceNotAllowed" + waits + ", charts:false 0/2", "team-a/charts: no", false},
		"wrong":        {[]place{newPlace("charts", inForce)}, func(s *scope) { s.wrong = errors.New("statements[3]: iss: bad") }, "Ready=False InvalidPolicy, Stalled=True InvalidPolicy, Propagated=False InvalidPolicy, charts:false 0/2", "statements[3]: iss: bad", false},
		"name taken":   {[]place{newPlace("charts", ledger.State{Total: 1, Newest: with, Reason: "NameTaken", Message: "taken", Stalled: true})}, nil, "Ready=False NameTaken, Stalled=True NameTaken, Propagated=False NameTaken" + waits + ", charts:true 0/1", "taken", false},

		"pods not asked yet": {[]place{change(newPlace("charts", inForce), unknown)}, nil, "Ready=False Pending, Reconciling=True Progressing, Propagated=False Pending" + waits + ", charts:false 0/0", "have not been asked", false},
		"operator started again": {[]place{change(newPlace("charts", inForce), unknown)}, func(s *scope) {
			s.policy.Status = v1alpha1.OIDCPolicyStatus{ObservedGeneration: 2, Registries: []v1alpha1.PolicyRegistry{{Namespace: "team-a", Name: "charts", Accepted: true, Confirmed: 2, Total: 2}}}
		}, "Ready=True InForce, Propagated=True InForce" + waits + ", charts:true 2/2", "", false},
		"operator started again, spec changed": {[]place{change(newPlace("charts", inForce), unknown)}, func(s *scope) {
			s.policy.Status = v1alpha1.OIDCPolicyStatus{ObservedGeneration: 1, Registries: []v1alpha1.PolicyRegistry{{Namespace: "team-a", Name: "charts", Accepted: true, Confirmed: 2, Total: 2}}}
		}, "Ready=False Pending, Reconciling=True Progressing, Propagated=False Pending" + waits + ", charts:false 0/0", "", false},

		"left a registry":              {[]place{change(newPlace("old", ledger.State{Total: 1, Confirmed: 1, Newest: without, InForce: without}), former), newPlace("charts", inForce)}, nil, "Ready=True InForce, Propagated=True InForce" + waits + ", charts:true 2/2", "", false},
		"left a registry that is gone": {[]place{change(change(newPlace("old", inForce), former), gone), newPlace("charts", inForce)}, nil, "Ready=True InForce, Propagated=True InForce" + waits + ", charts:true 2/2", "", false},
		"leaving a registry":           {[]place{change(newPlace("old", inForce), former), newPlace("zoo", inForce)}, nil, "Ready=False WaitingForReplicas, Reconciling=True Progressing, Propagated=False WaitingForReplicas" + waits + ", old:false 0/2, zoo:true 2/2", "no longer for this registry", false},
		"leaving, not asked yet":       {[]place{change(change(newPlace("old", inForce), former), unknown)}, nil, "Ready=False WaitingForReplicas, Reconciling=True Progressing, Propagated=False WaitingForReplicas" + waits + ", old:false 0/0", "", false},

		"deleted, waiting": {[]place{newPlace("charts", onItsWay)}, deleted, "Ready=False Deleting, Reconciling=True Progressing, Revoked=False WaitingForReplicas, charts:false 0/2", "charts-2", false},
		"deleted, waiting for long": {[]place{newPlace("charts", onItsWay)}, func(s *scope) {
			at := metav1.NewTime(now.Add(-10 * time.Minute))
			s.policy.DeletionTimestamp = &at
		}, "Ready=False Deleting, Reconciling=True Progressing, Revoked=False ReplicaUnreachable, charts:false 0/2", "charts-2", false},
		"deleted, not asked yet":  {[]place{change(newPlace("charts", inForce), unknown)}, deleted, "Ready=False Deleting, Reconciling=True Progressing, Revoked=False WaitingForReplicas, charts:false 0/0", "", false},
		"deleted, proved":         {[]place{newPlace("charts", ledger.State{Total: 1, Newest: refused, InForce: refused})}, deleted, "Ready=False Deleting, Reconciling=True Progressing, Revoked=False Pending", "let go", true},
		"deleted, gone and moved": {[]place{change(newPlace("a", inForce), gone), change(newPlace("b", inForce), former)}, deleted, "Ready=False Deleting, Reconciling=True Progressing, Revoked=False WaitingForReplicas, b:false 0/2", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScope(t, narrow, c.places...)
			if c.change != nil {
				c.change(s)
			}
			s.setStatus()
			if diff := cmp.Diff(c.want, s.summary()); diff != "" {
				t.Error(diff)
			}
			if got := s.proved(); policies.IsRevoked(s.policy) && got != c.proved {
				t.Errorf("proved is %v, want %v", got, c.proved)
			}
			if ready := meta.FindStatusCondition(s.policy.Status.Conditions, v1alpha1.ConditionReady); !strings.Contains(strings.ToLower(ready.Message), strings.ToLower(c.message)) {
				t.Errorf("Ready says %q, want something with %q", ready.Message, c.message)
			}
			// Computed again, nothing is another.
			before := s.policy.DeepCopy()
			s.setStatus()
			if diff := cmp.Diff(before.Status, s.policy.Status); diff != "" {
				t.Errorf("the status changes by itself: %s", diff)
			}
		})
	}
}

func TestStatusIsBounded(t *testing.T) {
	var places []place
	for i := range v1alpha1.MaxPolicyRegistries + 1 {
		places = append(places, newPlace(fmt.Sprintf("r%03d", i), ledger.State{Total: 1, Reason: "X", Message: strings.Repeat("x", 2000)}))
	}
	s := newScope(t, narrow, places...)
	s.setStatus()
	registries := s.policy.Status.Registries
	if len(registries) != v1alpha1.MaxPolicyRegistries || len(registries[0].Message) > 600 {
		t.Errorf("%d registries, the first with %d bytes", len(registries), len(registries[0].Message))
	}
}

func TestIssuers(t *testing.T) {
	i := issuertest.New(t)
	text := narrow + narrow +
		"- {iss: kubernetes, scopes: [read_packages], claims: {sub: x}}\n" +
		"- {iss: \"https://issuer.example\", scopes: [read_packages], claims: {a: b}, jwks: '" + i.JWKS() + "'}\n"
	source, _ := access.SourceOf(&newScope(t, narrow).compiled.Policy.Statements[0], nil)
	early, late := now.Add(-time.Hour), now.Add(-time.Minute)
	pod := func(name string, keys int, at *time.Time, problem string) reports.Pod {
		return reports.Pod{Name: name, Issuers: []wire.IssuerState{
			{Source: "other", Issuer: "https://issuer.example", Keys: 9, Problem: "not ours"},
			{Source: source.Fingerprint(), Issuer: "https://issuer.example", Keys: keys, Refreshed: at, Problem: problem},
		}}
	}
	read := clusterissuer.State{Issuer: wire.Issuer{Issuer: "https://k"}, Keys: 2, Refreshed: late}
	for name, c := range map[string]struct {
		pods    []reports.Pod
		cluster clusterissuer.State
		// want is what is said of the first issuer and of the cluster's, and the condition.
		want, message string
	}{
		"nobody has said anything": {nil, clusterissuer.State{}, "false 0 never, false 0 never, Unknown Pending", "nobody has said"},
		"pods say nothing of it":   {[]reports.Pod{{Name: "old"}}, read, "false 0 never, true 2 11:59:00, Unknown Pending", "https://issuer.example"},
		"nothing fetched yet":      {[]reports.Pod{pod("a", 0, nil, "")}, read, "false 0 never, true 2 11:59:00, Unknown Pending", ""},
		"all is well":              {[]reports.Pod{pod("a", 3, &late, ""), pod("b", 2, &early, "")}, read, "true 2 11:00:00, true 2 11:59:00, True Reachable", ""},
		"one cannot reach it":      {[]reports.Pod{pod("a", 3, &late, ""), pod("b", 0, nil, "no such host")}, read, "false 0 11:59:00, true 2 11:59:00, False IssuerUnreachable", "https://issuer.example: pod b: no such host"},
		"the last time it failed":  {[]reports.Pod{pod("a", 3, &early, "down")}, read, "false 3 11:00:00, true 2 11:59:00, False IssuerUnreachable", "pod a: down"},
		"the API server is down":   {[]reports.Pod{pod("a", 3, &late, "")}, clusterissuer.State{Problem: "down"}, "true 3 11:59:00, false 0 never, False IssuerUnreachable", "kubernetes: down"},
		"it was there before":      {[]reports.Pod{pod("a", 3, &late, "")}, clusterissuer.State{Keys: 2, Refreshed: early, Problem: "down"}, "true 3 11:59:00, false 2 11:00:00, False IssuerUnreachable", "kubernetes: down"},
	} {
		t.Run(name, func(t *testing.T) {
			at := newPlace("charts", ledger.State{})
			at.pods = c.pods
			s := newScope(t, text, at)
			if s.wrong != nil {
				t.Fatal(s.wrong)
			}
			s.cluster = c.cluster
			s.setStatus()
			issuers := s.policy.Status.Issuers
			if len(issuers) != 3 || issuers[2] != (v1alpha1.PolicyIssuer{Iss: "https://issuer.example", Reachable: true, Keys: 1}) {
				t.Fatalf("the issuers are %+v", issuers)
			}
			condition := meta.FindStatusCondition(s.policy.Status.Conditions, v1alpha1.ConditionIssuersReachable)
			got := fmt.Sprintf("%s, %s, %s %s", shown(issuers[0]), shown(issuers[1]), condition.Status, condition.Reason)
			if got != c.want || !strings.Contains(strings.ToLower(condition.Message), c.message) {
				t.Errorf("%s (%s), want %s (%s)", got, condition.Message, c.want, c.message)
			}
			// An operator that has just started has nothing to say, and says nothing.
			before := s.policy.DeepCopy()
			s.registries[0].pods, s.cluster = nil, clusterissuer.State{}
			s.setStatus()
			if diff := cmp.Diff(before.Status, s.policy.Status); diff != "" {
				t.Errorf("a new operator changes the status: %s", diff)
			}
		})
	}
}

// Keys that were fetched again are told of once an hour.
func TestRefreshesAreNotedNowAndThen(t *testing.T) {
	source, _ := access.SourceOf(&newScope(t, narrow).compiled.Policy.Statements[0], nil)
	s := newScope(t, narrow, newPlace("charts", ledger.State{}))
	for after, want := range map[time.Duration]time.Duration{0: 0, 59 * time.Minute: 0, time.Hour: time.Hour} {
		s.policy.Status.ObservedGeneration = 2
		s.policy.Status.Issuers = []v1alpha1.PolicyIssuer{{Iss: "https://issuer.example", LastRefreshed: at(now)}}
		fetched := now.Add(after)
		s.registries[0].pods = []reports.Pod{{Name: "a", Issuers: []wire.IssuerState{{Source: source.Fingerprint(), Keys: 1, Refreshed: &fetched}}}}
		s.setStatus()
		if got := s.policy.Status.Issuers[0]; !got.LastRefreshed.Time.Equal(now.Add(want)) || !got.Reachable {
			t.Errorf("%v later: %+v", after, got)
		}
	}
}

// What goes wrong has the time, or the port that it went wrong at, in its words, and is no news for that.
func TestTroubleIsToldOnce(t *testing.T) {
	source, _ := access.SourceOf(&newScope(t, narrow).compiled.Policy.Statements[0], nil)
	s := newScope(t, narrow, newPlace("charts", ledger.State{}))
	for _, step := range []struct{ problem, want string }{
		{"read udp 10.0.0.5:38291->10.0.0.1:53: i/o timeout", "pod a: read udp 10.0.0.5:38291->10.0.0.1:53: i/o timeout"},
		{"read udp 10.0.0.5:40112->10.0.0.1:53: i/o timeout", "pod a: read udp 10.0.0.5:38291->10.0.0.1:53: i/o timeout"},
		{"no such host", "pod a: no such host"},
		{"", ""},
	} {
		s.registries[0].pods = []reports.Pod{{Name: "a", Issuers: []wire.IssuerState{{Source: source.Fingerprint(), Keys: 1, Refreshed: &now, Problem: step.problem}}}}
		s.setStatus()
		if got := s.policy.Status.Issuers[0]; got.Message != step.want || got.Reachable != (step.want == "") {
			t.Errorf("after %q the status says %+v", step.problem, got)
		}
	}
}

func shown(i v1alpha1.PolicyIssuer) string {
	at := "never"
	if i.LastRefreshed != nil {
		at = i.LastRefreshed.Format(time.TimeOnly)
	}
	return fmt.Sprintf("%v %d %s", i.Reachable, i.Keys, at)
}

func TestTooBroad(t *testing.T) {
	for text, want := range map[string]string{
		narrow: "",
		"- {iss: \"https://token.actions.githubusercontent.com\", scopes: [write_packages], claims: {actor: me}}\n": "statements[0]: no claim says whose tokens are meant, and anybody can have one",
		narrow + "- {iss: \"https://issuer.example\", scopes: [read_packages], claims: {a: {matches: \"*x\"}}}\n":   "statements[1]: claims.a: a glob that begins with *",
	} {
		s := newScope(t, text, newPlace("charts", ledger.State{}))
		s.setStatus()
		condition := meta.FindStatusCondition(s.policy.Status.Conditions, v1alpha1.ConditionPolicyTooBroad)
		if (condition != nil) != (want != "") || condition != nil && !strings.HasPrefix(condition.Message, want) {
			t.Errorf("%s: %+v, want %q", text, condition, want)
		}
	}
}

func TestPause(t *testing.T) {
	s := newScope(t, narrow)
	if got := s.pause(); got != 0 {
		t.Errorf("the pause is %v", got)
	}
	for age, want := range map[time.Duration]time.Duration{time.Minute: 9 * time.Minute, time.Hour: time.Minute} {
		at := metav1.NewTime(now.Add(-age))
		s.policy.DeletionTimestamp = &at
		if got := s.pause(); got != want {
			t.Errorf("the pause is %v, want %v", got, want)
		}
	}
}

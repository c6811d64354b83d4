package ledger

import (
	"context"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

var charts = types.NamespacedName{Namespace: "team-a", Name: "charts"}

func token(id string, scopes ...wire.Scope) wire.Token {
	return wire.Token{ID: id, SHA256: "00", Scopes: scopes, Charts: []string{"*"}}
}

func snapshot(refused types.UID, tokens ...wire.Token) *Snapshot {
	return &Snapshot{Access: wire.Access{Tokens: tokens}, Refused: map[types.UID]bool{refused: true}}
}

func TestStateHoldsAndLacks(t *testing.T) {
	read, write := token("a", wire.ReadPackages), token("a", wire.WritePackages)
	for name, c := range map[string]struct {
		state                  State
		holds, lacks, enforces bool
	}{
		"nothing known":               {State{Total: 1}, false, false, false},
		"in force":                    {State{Total: 1, Newest: snapshot("", read), InForce: snapshot("", read)}, true, false, true},
		"no live pod":                 {State{Newest: snapshot("gone", read), InForce: snapshot("gone", read)}, false, true, true},
		"another scope in force":      {State{Total: 1, Newest: snapshot("", read), InForce: snapshot("", write)}, false, false, false},
		"about to lose it":            {State{Total: 1, Newest: snapshot("gone"), InForce: snapshot("", read)}, false, false, false},
		"refusal not yet confirmed":   {State{Total: 2, Newest: snapshot("gone", read)}, false, false, false},
		"refusal confirmed":           {State{Total: 2, Newest: snapshot("gone"), InForce: snapshot("gone")}, false, true, false},
		"another token was refused":   {State{Total: 2, Newest: snapshot("other"), InForce: snapshot("other")}, false, false, false},
		"held while others are added": {State{Total: 1, Newest: snapshot("", read, token("b")), InForce: snapshot("", read)}, true, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.state.Holds(read); got != c.holds {
				t.Errorf("Holds is %v, want %v", got, c.holds)
			}
			if got := c.state.Enforces(read); got != c.enforces {
				t.Errorf("Enforces is %v, want %v", got, c.enforces)
			}
			if got := c.state.Lacks("gone"); got != c.lacks {
				t.Errorf("Lacks is %v, want %v", got, c.lacks)
			}
		})
	}
}

func TestStateFrees(t *testing.T) {
	named := snapshot("", wire.Token{ID: "one", Name: "team-a/ci"}, wire.Token{ID: "two", Name: "team-a/other"})
	without := snapshot("", wire.Token{ID: "two", Name: "team-a/other"})
	for name, c := range map[string]struct {
		newest, inForce *Snapshot
		want            bool
	}{
		"nothing is known":       {nil, nil, false},
		"nothing is in force":    {without, nil, false},
		"no pod has it":          {without, without, true},
		"pods still have it":     {without, named, false},
		"pods will have it":      {named, without, false},
		"it was never taken out": {named, named, false},
	} {
		if got := (State{Newest: c.newest, InForce: c.inForce}).Frees("team-a/ci"); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

func TestLedgerWakesReaders(t *testing.T) {
	l := New()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	from := l.Source(nil)
	// Changes before the controller starts are not lost, and many of one registry wake once.
	for revision := range int64(1000) {
		l.Set(charts, State{Revision: revision, Total: 3, Confirmed: 1})
	}
	if got := l.Unconfirmed(); got != 2 {
		t.Errorf("%d pods are unconfirmed, want 2", got)
	}
	if err := from.Start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	take := func() {
		t.Helper()
		request, _ := queue.Get()
		queue.Done(request)
		if request.NamespacedName != charts {
			t.Fatalf("woken for %v, want %v", request, charts)
		}
	}
	take()
	l.Set(charts, State{Revision: 999, Total: 3, Confirmed: 1})
	l.Forget(charts)
	take()
	if _, ok := l.State(charts); ok {
		t.Error("a forgotten registry has a state")
	}
	if queue.Len() != 0 {
		t.Error("an equal state woke a reader")
	}
}

func TestLedgerMapsRegistriesToRequests(t *testing.T) {
	l := New()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	want := types.NamespacedName{Namespace: "team-b", Name: "ci"}
	from := l.Source(func(context.Context, types.NamespacedName) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: want}}
	})
	if err := from.Start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	l.Set(charts, State{Revision: 1})
	done := time.AfterFunc(10*time.Second, queue.ShutDown)
	defer done.Stop()
	if request, _ := queue.Get(); request.NamespacedName != want {
		t.Errorf("woken for %v, want %v", request, want)
	}
}

func TestPoliciesInForce(t *testing.T) {
	policy := func(name, claim string) wire.Policy {
		return wire.Policy{Name: name, Statements: []any{map[string]any{"claims": map[string]any{"a": claim}}}}
	}
	of := func(policies ...wire.Policy) *Snapshot { return &Snapshot{Access: wire.Access{Policies: policies}} }
	mine, edited, other := policy("team-a/ci", "x"), policy("team-a/ci", "y"), policy("team-a/other", "x")
	with, without := of(other, mine), of(other)
	for name, c := range map[string]struct {
		state     State
		accepted  bool
		enforcing int32
		free      bool
	}{
		"nothing known":              {State{Total: 2}, false, 0, false},
		"in force":                   {State{Total: 2, Confirmed: 2, Newest: with, InForce: with}, true, 2, false},
		"on its way":                 {State{Total: 2, Confirmed: 1, Newest: with, InForce: without}, true, 1, false},
		"nothing is proved":          {State{Total: 2, Confirmed: 1, Newest: with}, true, 1, false},
		"while others are added":     {State{Total: 2, Confirmed: 0, Newest: of(mine, other, policy("b/c", "x")), InForce: with}, true, 2, false},
		"edited":                     {State{Total: 2, Confirmed: 2, Newest: of(edited), InForce: of(edited)}, false, 0, false},
		"an edit is under way":       {State{Total: 2, Confirmed: 1, Newest: of(edited), InForce: with}, false, 0, false},
		"the edit is on its way":     {State{Total: 2, Confirmed: 1, Newest: with, InForce: of(edited)}, true, 1, false},
		"no live pod":                {State{Newest: with, InForce: with}, true, 0, false},
		"removed":                    {State{Total: 2, Confirmed: 2, Newest: without, InForce: without}, false, 0, true},
		"removal is not yet proved":  {State{Total: 2, Confirmed: 1, Newest: without, InForce: with}, false, 0, false},
		"removal is known to nobody": {State{Total: 2, Confirmed: 1, Newest: without}, false, 0, false},
		"removed, long before":       {State{Total: 2, Confirmed: 1, Newest: of(), InForce: without}, false, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.state.Accepts(mine); got != c.accepted {
				t.Errorf("Accepts is %v, want %v", got, c.accepted)
			}
			if got := c.state.Enforcing(mine); got != c.enforcing {
				t.Errorf("Enforcing is %d, want %d", got, c.enforcing)
			}
			if got := c.state.FreesPolicy("team-a/ci"); got != c.free {
				t.Errorf("FreesPolicy is %v, want %v", got, c.free)
			}
		})
	}
}

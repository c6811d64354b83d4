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
		state        State
		holds, lacks bool
	}{
		"nothing known":               {State{Total: 1}, false, false},
		"in force":                    {State{Total: 1, Newest: snapshot("", read), InForce: snapshot("", read)}, true, false},
		"no live pod":                 {State{Newest: snapshot("gone", read), InForce: snapshot("gone", read)}, false, true},
		"another scope in force":      {State{Total: 1, Newest: snapshot("", read), InForce: snapshot("", write)}, false, false},
		"about to lose it":            {State{Total: 1, Newest: snapshot("gone"), InForce: snapshot("", read)}, false, false},
		"refusal not yet confirmed":   {State{Total: 2, Newest: snapshot("gone", read)}, false, false},
		"refusal confirmed":           {State{Total: 2, Newest: snapshot("gone"), InForce: snapshot("gone")}, false, true},
		"another token was refused":   {State{Total: 2, Newest: snapshot("other"), InForce: snapshot("other")}, false, false},
		"held while others are added": {State{Total: 1, Newest: snapshot("", read, token("b")), InForce: snapshot("", read)}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.state.Holds(read); got != c.holds {
				t.Errorf("Holds is %v, want %v", got, c.holds)
			}
			if got := c.state.Lacks("gone"); got != c.lacks {
				t.Errorf("Lacks is %v, want %v", got, c.lacks)
			}
		})
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

package events_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

// of are how many of a type came.
func (l *listener) of(kind receivers.Event) int {
	n := 0
	for _, g := range l.got() {
		if strings.TrimPrefix(g.event.Type, "dev.chartroom.") == string(kind) {
			n++
		}
	}
	return n
}

// What was asked for by hand does not wait behind an event of the registry that the receiver refuses, nor does that come
// again sooner because of it.
func TestAskedForBesideARefusedTrouble(t *testing.T) {
	t.Parallel()
	l := listen(t, func(w http.ResponseWriter, _ *http.Request, g got) {
		if g.event.Type == "dev.chartroom.registry.quota" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	who := told("hook", l)
	who.Events = []receivers.Event{receivers.PackageCreated, receivers.QuotaReached}
	r := newReplica(t, newBucket(t), func(o *events.Options) { o.FirstPause, o.LongestPause = 1000*time.Hour, 1000*time.Hour }, who).run()
	r.push("web", "1.0.0", "x")
	eventually(t, "the push is told", func() bool { return len(r.state("hook").Deliveries) == 1 })
	id := r.state("hook").Deliveries[0].Event.ID
	r.Trouble(receivers.QuotaReached, "it is full")
	eventually(t, "the trouble is refused", func() bool { return r.seen.of("hook", events.Failed) == 1 })
	ping := func() {
		t.Helper()
		if _, err := r.Ping(t.Context(), "hook"); err != nil {
			t.Fatal(err)
		}
	}
	ping()
	eventually(t, "the ping is answered", func() bool { return l.of(receivers.Ping) == 1 })
	if err := r.Redeliver(t.Context(), "hook", id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the push is told again", func() bool { return l.of(receivers.PackageCreated) == 2 })
	// One that fails, too.
	l.answer(status(http.StatusBadRequest))
	ping()
	eventually(t, "the ping has failed", func() bool { return r.seen.of("hook", events.Dead) == 1 })
	l.answer(nil)
	r.push("web", "1.0.1", "x") // After which all has been looked at.
	eventually(t, "the push is told", func() bool { return l.of(receivers.PackageCreated) == 3 })
	r.stop()
	if n := l.of(receivers.QuotaReached); n != 1 {
		t.Errorf("the trouble was told %d times", n)
	}
}

// What was asked for by hand waits neither for a receiver that hangs at other events, nor because too many wait.
func TestAskedForWhileOthersHang(t *testing.T) {
	t.Parallel()
	l := listen(t, func(_ http.ResponseWriter, r *http.Request, g got) {
		if g.event.Type == "dev.chartroom.package.created" {
			<-r.Context().Done()
		}
	})
	const n = 10
	r := newReplica(t, newBucket(t), func(o *events.Options) { o.Timeout, o.MaxQueued = time.Hour, n }, told("hook", l)).run()
	for i := range n {
		r.push(fmt.Sprint("chart-", i), "1.0.0", "x")
	}
	eventually(t, "all wait, and some are tried", func() bool { return len(keys(t, r.b, "events/queue/hook/")) == n && len(l.got()) == 4 })
	if _, err := r.Ping(t.Context(), "hook"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ping is answered", func() bool { return l.of(receivers.Ping) == 1 && r.seen.of("hook", events.Delivered) == 1 })
}

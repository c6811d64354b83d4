package events_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

// enqueue puts an event into the queue of the receiver "hook" as if it had been there for a while, and returns its id.
func enqueue(t *testing.T, b bucket.Bucket, folder string, e events.Event, age time.Duration) string {
	t.Helper()
	e.Time = time.Now().Add(-age)
	e.ID = fmt.Sprintf("%016x-aaaaaaaaaa", e.Time.UnixMicro())
	content, err := json.Marshal(map[string]any{"event": e, "since": e.Time})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "events/queue/hook/"+folder+"/"+e.ID, strings.NewReader(string(content)), int64(len(content)), bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	return e.ID
}

// enqueueOld puts n events of a chart into the queue for which it is too late.
func enqueueOld(t *testing.T, b bucket.Bucket, chart string, n int) {
	t.Helper()
	for i := range n {
		e := events.Event{Type: receivers.PackageCreated, Chart: chart, Tag: fmt.Sprintf("1.0.%d", i)}
		enqueue(t, b, chart, e, 25*time.Hour-time.Duration(i)*time.Second)
	}
}

func at(o *events.Options, later *atomic.Int64) {
	o.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
}

// What is too old for a receiver that does not answer is put aside without being tried, and what is not is not even read.
func TestTheSweepReadsOnlyWhatIsOld(t *testing.T) {
	t.Parallel()
	const old, young = 200, 50
	l := listen(t, status(http.StatusServiceUnavailable))
	b := &hooked{Bucket: newBucket(t)}
	enqueueOld(t, b, "old", old)
	first := ""
	for i := range young {
		e := events.Event{Type: receivers.PackageCreated, Chart: "young", Tag: fmt.Sprintf("1.0.%d", i)}
		id := enqueue(t, b, "young", e, time.Minute-time.Duration(i)*time.Second)
		if first == "" {
			first = id
		}
	}
	var read, deadLists atomic.Int64
	b.before = func(operation, key string) {
		switch {
		case operation == "get" && strings.HasPrefix(key, "events/queue/hook/young/") && path.Base(key) != first:
			read.Add(1)
		case operation == "list" && key == "events/dead/hook/":
			deadLists.Add(1)
		}
	}
	r := newReplica(t, b, nil, told("hook", l)).run()
	eventually(t, "the old are given up", func() bool {
		s := r.state("hook")
		return s.Pending == young && s.Dead == old
	})
	r.stop()
	if n := len(l.got()); n >= old {
		t.Errorf("the receiver was asked %d times", n)
	}
	if n := read.Load(); n > 0 {
		t.Errorf("%d events were read for nothing", n)
	}
	if n := deadLists.Load(); n > old/2 {
		t.Errorf("the dead letters were listed %d times", n)
	}
	if n := len(keys(t, b, "events/dead/hook/")); n != old || r.seen.of("hook", events.Dead) != old {
		t.Errorf("there are %d dead letters, and %d were counted", n, r.seen.of("hook", events.Dead))
	}
}

// A receiver that answers again is told at once, and of what has not been put aside until then, too.
func TestTheSweepHoldsUpNothing(t *testing.T) {
	t.Parallel()
	const old = 300
	l := listen(t, status(http.StatusServiceUnavailable))
	b := &hooked{Bucket: newBucket(t)}
	enqueueOld(t, b, "old", old)
	var dead atomic.Int64
	b.before = func(operation, key string) {
		// More than were tried until it counts as down.
		if operation == "put" && strings.HasPrefix(key, "events/dead/hook/") && dead.Add(1) == 50 {
			l.answer(nil)
		}
	}
	r := newReplica(t, b, nil, told("hook", l)).run()
	r.push("api", "1.0.0", "x")
	eventually(t, "nothing waits", func() bool { return len(keys(t, b, "events/queue/")) == 0 })
	r.stop()
	if n := r.seen.of("hook", events.Delivered); n < old/2 || !strings.Contains(strings.Join(l.lines(), "\n"), "api:1.0.0") {
		t.Errorf("%d were told", n)
	}
	if n := r.seen.of("hook", events.Delivered) + r.seen.of("hook", events.Dead); n != old+1 {
		t.Errorf("%d were told or given up", n)
	}
}

// What is being told is not put aside at the same time.
func TestTheSweepLeavesWhatIsBeingTold(t *testing.T) {
	t.Parallel()
	held, hold := make(chan struct{}), atomic.Bool{}
	release, answer := make(chan struct{}), make(chan struct{})
	l := listen(t, func(w http.ResponseWriter, _ *http.Request, g got) {
		switch {
		case strings.HasSuffix(g.event.Type, "registry.quota"):
			<-answer
			return
		case hold.CompareAndSwap(true, false):
			close(held)
			<-release
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	b := newBucket(t)
	var later atomic.Int64
	r := newReplica(t, b, func(o *events.Options) { at(o, &later); o.Timeout = time.Minute }, told("hook", l)).run()
	r.push("web", "1.0.0", "x")
	eventually(t, "it counts as down", func() bool {
		all := r.state("hook").Deliveries
		return len(all) == 1 && all[0].Attempt >= 10
	})
	hold.Store(true)
	<-held
	trouble := enqueue(t, b, "-", events.Event{Type: receivers.QuotaReached, Message: "full"}, 25*time.Hour)
	r.push("api", "1.0.0", "x") // So that it looks.
	eventually(t, "it is told of the trouble", func() bool { return strings.Contains(strings.Join(l.lines(), "\n"), "registry.quota") })
	enqueueOld(t, b, "zzz", 1)
	later.Store(int64(2 * time.Minute))
	close(release)
	eventually(t, "the other is put aside", func() bool { return len(keys(t, b, "events/queue/hook/zzz/")) == 0 })
	for _, key := range keys(t, b, "events/dead/hook/") {
		if path.Base(key) == trouble {
			t.Error("what is being told was put aside")
		}
	}
	close(answer)
	eventually(t, "the trouble is told", func() bool { return r.seen.of("hook", events.Delivered) >= 1 })
	r.stop()
	if n := r.seen.of("hook", events.Dead); n != 1 {
		t.Errorf("%d were given up", n)
	}
}

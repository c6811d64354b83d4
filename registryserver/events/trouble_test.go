package events_test

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

func troubled(name string, l *listener) receivers.Receiver {
	r := told(name, l)
	r.Events = []receivers.Event{receivers.StorageFailed, receivers.QuotaReached}
	return r
}

// At most once an hour, over all replicas.
func TestTroubles(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := newBucket(t)
	var later atomic.Int64
	clock := func(o *events.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	}
	one, two := newReplica(t, b, clock, troubled("hook", l)).run(), newReplica(t, b, clock, troubled("hook", l)).run()
	one.Trouble(receivers.QuotaReached, "it is full")
	eventually(t, "it is told", func() bool { return len(l.got()) == 1 })
	if d := l.got()[0].event; d.Type != "dev.chartroom.registry.quota" || d.Data.Message != "it is full" || d.Subject != "" {
		t.Errorf("told of %+v", d)
	}
	for range 3 {
		one.Trouble(receivers.QuotaReached, "it is full")
		two.Trouble(receivers.QuotaReached, "it is full")
	}
	two.Trouble(receivers.StorageFailed, "it is broken")
	eventually(t, "the other trouble is told", func() bool { return len(l.got()) == 2 })
	later.Store(int64(59 * time.Minute))
	one.Trouble(receivers.QuotaReached, "too early")
	later.Store(int64(61 * time.Minute))
	two.Trouble(receivers.QuotaReached, "an hour later")
	eventually(t, "an hour later it is told again", func() bool { return len(l.got()) == 3 })
	var messages []string
	for _, g := range l.got() {
		messages = append(messages, g.event.Data.Message)
	}
	if diff := cmp.Diff([]string{"it is full", "it is broken", "an hour later"}, messages); diff != "" {
		t.Error(diff)
	}
}

// broken is storage that takes nothing.
type broken struct{ bucket.Bucket }

func (broken) Put(context.Context, string, io.Reader, int64, bucket.Condition) (bucket.Info, error) {
	return bucket.Info{}, bucket.ErrFull
}

// What cannot be kept is sent all the same.
func TestTroubleWithTheStorageIsTold(t *testing.T) {
	t.Parallel()
	tries := 0
	l := listen(t, nil)
	l.answer(func(w http.ResponseWriter, _ *http.Request, _ got) {
		if tries++; tries < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	b := newBucket(t)
	newReplica(t, b, nil, troubled("hook", l)) // So that there is a registry.
	r := newReplica(t, broken{b}, nil, troubled("hook", l), told("other", listen(t, nil))).run()
	r.Trouble(receivers.StorageFailed, "it is full")
	eventually(t, "it is told", func() bool { return r.seen.of("hook", events.Delivered) == 1 })
	if g := l.got(); len(g) != 3 || g[2].event.Data.Message != "it is full" || g[0].event.ID != g[2].event.ID {
		t.Errorf("told %v", g)
	}
	if r.seen.of("other", events.Delivered) != 0 {
		t.Error("somebody was told who had not asked for it")
	}
}

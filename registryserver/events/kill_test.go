package events_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events"
)

var errKilled = fmt.Errorf("killed: %w", bucket.ErrUnavailable)

// hooked calls before in front of each call to the bucket, and fails all from one on, as if the process had been killed.
type hooked struct {
	bucket.Bucket
	mu            sync.Mutex
	calls, killAt int
	before        func(operation, key string)
}

func (h *hooked) step(operation, key string) error {
	h.mu.Lock()
	h.calls++
	killed := h.killAt > 0 && h.calls >= h.killAt
	before := h.before
	h.mu.Unlock()
	if before != nil {
		before(operation, key)
	}
	if killed {
		return errKilled
	}
	return nil
}

func (h *hooked) killed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.killAt > 0 && h.calls >= h.killAt
}

func (h *hooked) Head(ctx context.Context, key string) (bucket.Info, error) {
	if err := h.step("head", key); err != nil {
		return bucket.Info{}, err
	}
	return h.Bucket.Head(ctx, key)
}

func (h *hooked) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if err := h.step("get", key); err != nil {
		return nil, bucket.Info{}, err
	}
	return h.Bucket.Get(ctx, key, r)
}

func (h *hooked) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	if err := h.step("put", key); err != nil {
		return bucket.Info{}, err
	}
	return h.Bucket.Put(ctx, key, body, size, c)
}

func (h *hooked) Delete(ctx context.Context, key string, c bucket.Condition) error {
	if err := h.step("delete", key); err != nil {
		return err
	}
	return h.Bucket.Delete(ctx, key, c)
}

func (h *hooked) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	if err := h.step("list", o.Prefix); err != nil {
		return bucket.Page{}, err
	}
	return h.Bucket.List(ctx, o)
}

// A server that pushes is killed at each of its calls to the storage, and another one tells of what it did: all of it, and
// nothing that it did not.
func TestKilledWhilePushing(t *testing.T) {
	t.Parallel()
	for killAt := 1; ; killAt++ {
		l := listen(t, nil)
		b := newBucket(t)
		whole := newReplica(t, b, nil, told("hook", l))
		whole.push("web", "1.0.0", "one")
		whole.push("web", "x-dev", "one")
		dying := &hooked{Bucket: b}
		r := newReplica(t, dying, nil, told("hook", l))
		dying.calls, dying.killAt = 0, killAt
		errs := errors.Join(
			push(t.Context(), r.chart("web"), "2.0.0", "two"),
			push(t.Context(), r.chart("web"), "x-dev", "two"),
			r.chart("web").DeleteManifest(t.Context(), "1.0.0"),
		)
		want := map[string]bool{"package.created web:1.0.0": true, "package.created web:x-dev": true}
		for tag, line := range map[string]string{"2.0.0": "package.created web:2.0.0", "x-dev": "tag.moved web:x-dev"} {
			d, _, err := whole.chart("web").Standing(t.Context(), tag)
			if err != nil {
				t.Fatal(err)
			}
			if d == digest.FromBytes(manifest("two")) {
				want[line] = true
			}
		}
		if d, _, err := whole.chart("web").Standing(t.Context(), "1.0.0"); err != nil {
			t.Fatal(err)
		} else if d == "" {
			want["package.deleted web:1.0.0"] = true
		}
		// The next pushes begin and end, so that all before must have been told.
		whole.run()
		whole.push("web", "9.9.9", "last")
		want["package.created web:9.9.9"] = true
		eventually(t, fmt.Sprintf("the last is told (killed at %d)", killAt), func() bool { return strings.Contains(strings.Join(l.lines(), "\n"), "9.9.9") })
		whole.stop()
		got := map[string]bool{}
		for _, line := range l.lines() {
			if got[line] {
				t.Errorf("killed at %d: told twice: %s", killAt, line)
			}
			got[line] = true
		}
		if !maps.Equal(got, want) {
			t.Errorf("killed at %d: told %v, want %v", killAt, got, want)
		}
		l.Close()
		if errs == nil {
			return
		}
	}
}

// A server that delivers is killed at each of its calls to the storage, and another one goes on: all are told.
func TestKilledWhileDelivering(t *testing.T) {
	t.Parallel()
	const n = 3
	for killAt := 1; ; killAt++ {
		hook, other := listen(t, nil), listen(t, nil)
		b := newBucket(t)
		dying := &hooked{Bucket: b}
		r := newReplica(t, dying, nil, told("hook", hook), told("other", other))
		for i := range n {
			r.push("web", fmt.Sprintf("1.0.%d", i), "x")
		}
		dying.calls, dying.killAt = 0, killAt
		r.run()
		empty := func() bool { return len(keys(t, b, "events/outbox/"))+len(keys(t, b, "events/queue/")) == 0 }
		eventually(t, "it is killed or done", func() bool { return dying.killed() || empty() })
		survived := !dying.killed()
		r.stop()
		// One that has seen the lease unchanged for long enough takes over.
		next := newReplica(t, b, func(o *events.Options) { o.LeaseTTL = 100 * time.Millisecond }, told("hook", hook), told("other", other)).run()
		eventually(t, fmt.Sprintf("all is told (killed at %d)", killAt), empty)
		next.stop()
		for _, l := range []*listener{hook, other} {
			ids := map[string]bool{}
			for _, g := range l.got() {
				ids[g.event.ID] = true
			}
			if len(ids) != n {
				t.Errorf("killed at %d: told of %d", killAt, len(ids))
			}
			l.Close()
		}
		if survived {
			return
		}
		if killAt > 12 {
			killAt += 4 // There are many, and they repeat.
		}
	}
}

// What was delivered, and cannot be taken out of the queue, is not delivered again by the same server.
func TestTheStorageFailsAfterTheDelivery(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := &failing{Bucket: newBucket(t)}
	b.fails.Store(true)
	r := newReplica(t, b, nil, told("hook", l)).run()
	r.push("web", "1.0.0", "x")
	eventually(t, "it is tried to take it out", func() bool { return b.failed.Load() > 3 })
	b.fails.Store(false)
	eventually(t, "it is out", func() bool { return len(keys(t, b, "events/queue/")) == 0 })
	r.push("web", "1.0.1", "x")
	eventually(t, "the next is told", func() bool { return len(l.got()) > 1 })
	if len(l.got()) != 2 {
		t.Errorf("told %v", l.lines())
	}
}

// failing fails to delete what is in a queue.
type failing struct {
	bucket.Bucket
	fails  atomic.Bool
	failed atomic.Int64
}

func (f *failing) Delete(ctx context.Context, key string, c bucket.Condition) error {
	if f.fails.Load() && strings.HasPrefix(key, "events/queue/") {
		f.failed.Add(1)
		return errKilled
	}
	return f.Bucket.Delete(ctx, key, c)
}

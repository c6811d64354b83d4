package events_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// remembering is a server that remembers its changes.
type remembering struct {
	*replica
	history *events.History
	log     *locked
	stop    func()
}

func remember(t *testing.T, b bucket.Bucket, change func(*repository.Options)) *remembering {
	t.Helper()
	r := &remembering{replica: newReplica(t, b, nil), log: &locked{}}
	r.history = events.NewHistory(events.HistoryOptions{
		Bucket: b, Actor: func(context.Context) string { return "somebody" }, Log: slog.New(slog.NewTextHandler(r.log, nil)),
	})
	o := repository.Options{
		TagMutable: func(tag string) bool { return strings.HasSuffix(tag, "-dev") },
		Sparse:     func(repository.Manifest) bool { return true },
		Changed:    r.history.Changed,
	}
	if change != nil {
		change(&o)
	}
	var err error
	if r.store, err = repository.Open(t.Context(), b, "acme/charts", o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.history.Run(ctx) })
	r.stop = func() { cancel(); running.Wait() }
	t.Cleanup(r.stop)
	return r
}

// recent are the changes as lines.
func (r *remembering) recent() []string {
	r.t.Helper()
	all, err := r.history.Recent(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var lines []string
	for _, e := range all {
		line := fmt.Sprintf("%s %s:%s by %s", e.Type, e.Chart, e.Version, e.By)
		if e.CopiedFrom != "" {
			line += " from " + e.CopiedFrom
		}
		if e.Before != "" {
			line += " before " + e.Before.Encoded()[:6]
		}
		if e.Digest == "" {
			line += " without digest"
		}
		lines = append(lines, line)
	}
	return lines
}

// Whether or not somebody is told of changes, they are remembered alike, where that is all that was done.
func TestHistory(t *testing.T) {
	for _, recorded := range []bool{false, true} {
		t.Run(fmt.Sprintf("recorded %t", recorded), func(t *testing.T) {
			r := remember(t, newBucket(t), func(o *repository.Options) {
				if recorded {
					o.Record = func(context.Context, repository.Change) (string, func(bool), error) { return "", func(bool) {}, nil }
				}
			})
			r.push("web", "1.0.0_a", "one")
			r.push("web", "1.0.0_a", "one") // The same again is no change.
			if err := push(t.Context(), r.chart("web"), "1.0.0_a", "two"); err == nil {
				t.Error("an immutable tag was moved")
			}
			r.push("web", "1-dev", "one")
			r.push("web", "1-dev", "two")
			if err := push(repository.Copying(t.Context(), "web:1.0.0"), r.chart("team/web"), "2.0.0", "three"); err != nil {
				t.Fatal(err)
			}
			r.push("web", "sha256-0000000000000000000000000000000000000000000000000000000000000000", "signature")
			r.delete("web", "1.0.0_a")
			if err := r.chart("web").DeleteManifest(t.Context(), "9.9.9"); err == nil {
				t.Error("what is not there was deleted")
			}
			m, err := r.chart("team/web").StatManifest(t.Context(), "2.0.0")
			if err != nil {
				t.Fatal(err)
			}
			r.delete("team/web", m.Digest.String())
			got := r.recent()
			for i, line := range got {
				got[i] = strings.TrimSuffix(line, " without digest")
			}
			before := digest.FromBytes(manifest("one")).Encoded()[:6]
			want := []string{
				"package.deleted team/web:2.0.0 by somebody", "package.deleted web:1.0.0+a by somebody", "package.copied team/web:2.0.0 by ci from web:1.0.0",
				"tag.moved web:1-dev by ci before " + before, "package.created web:1-dev by ci", "package.created web:1.0.0+a by ci",
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s", strings.Join(got, "\n"))
			}
		})
	}
}

// Replicas share what happened, the last 50 changes of all; and what is not written yet is written at the end.
func TestHistoryOfReplicas(t *testing.T) {
	b := newBucket(t)
	one, other := remember(t, b, nil), remember(t, b, nil)
	for i := range 40 {
		one.push("web", fmt.Sprintf("1.0.%d", i), "one")
		other.push("web", fmt.Sprintf("2.0.%d", i), "one")
	}
	one.stop()
	other.stop()
	third := remember(t, b, nil)
	got := third.recent()
	if len(got) != 50 || got[0] != "package.created web:2.0.39 by ci" || got[49] != "package.created web:1.0.15 by ci" {
		t.Errorf("%d changes: %s", len(got), strings.Join(got, "\n"))
	}
	third.push("web", "3.0.0", "one")
	if got := third.recent(); len(got) != 50 || got[0] != "package.created web:3.0.0 by ci" {
		t.Errorf("what is not written yet: %v", got[0])
	}
}

// unwritable refuses writes of an object while it is broken, and counts the others.
type unwritable struct {
	bucket.Bucket
	key    string
	broken atomic.Bool
	writes atomic.Int64
}

func (u *unwritable) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	if key == u.key {
		if u.broken.Load() {
			return bucket.Info{}, bucket.ErrUnavailable
		}
		u.writes.Add(1)
	}
	return u.Bucket.Put(ctx, key, body, size, c)
}

// What is there and is no history is replaced.
func TestHistoryThatIsDamaged(t *testing.T) {
	b := newBucket(t)
	if _, err := b.Put(t.Context(), "events/history.json", strings.NewReader("{"), 1, bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	r := remember(t, b, nil)
	if got := r.recent(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	r.push("web", "1.0.0", "one")
	r.stop()
	if got := remember(t, b, nil).recent(); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// A push goes on when the history cannot be written, which is said once.
func TestHistoryThatCannotBeWritten(t *testing.T) {
	b := &unwritable{Bucket: newBucket(t), key: "events/history.json"}
	r := remember(t, b, nil)
	b.broken.Store(true)
	r.push("web", "1.0.0", "one")
	eventually(t, "it is said", func() bool { return strings.Contains(r.log.String(), "cannot be written down") })
	if got := r.recent(); len(got) != 1 {
		t.Errorf("%v", got)
	}
	b.broken.Store(false)
	eventually(t, "it is written", func() bool { return len(keys(t, b, "events/history.json")) == 1 })
	if n := strings.Count(r.log.String(), "cannot be written down"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	// What was written is not written again.
	r.stop()
	if n := b.writes.Load(); n != 1 {
		t.Errorf("it is written %d times", n)
	}
}

package garbage_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/garbage"
	"github.com/chartroom-dev/chartroom/registryserver/lease"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// replica is a collector with its store.
type replica struct {
	*garbage.Collector
	store *repository.Store
}

// newReplica has garbage collected at once; interval is that of sweeps.
func newReplica(t *testing.T, b bucket.Bucket, interval time.Duration) *replica {
	t.Helper()
	r := &replica{}
	var err error
	r.store, err = repository.Open(t.Context(), b, "acme/charts", repository.Options{
		Grace: time.Millisecond, Unlinked: func(name string) { r.Queue(name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := lease.New(lease.Options{Bucket: b, Name: "garbage", TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	r.Collector = garbage.New(garbage.Options{
		Store: r.store, Lease: l, Interval: interval, Grace: time.Millisecond, Undo: time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	return r
}

// run runs the collector until the test ends, or stop is called.
func (r *replica) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func newBucket(t *testing.T) bucket.Bucket {
	t.Helper()
	b, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const content = "some bytes"

// push makes a chart with a version that is nothing but a config.
func (r *replica) push(t *testing.T, name, tag string) {
	t.Helper()
	chart := r.repository(t, name)
	d := digest.FromString(content)
	if err := chart.PutBlob(t.Context(), d, strings.NewReader(content), -1); err != nil {
		t.Fatal(err)
	}
	manifest := `{"schemaVersion":2,"config":{"mediaType":"text/plain","size":10,"digest":"` + d.String() + `"},"layers":[]}`
	if _, err := chart.PutManifest(t.Context(), tag, "application/vnd.oci.image.manifest.v1+json", []byte(manifest), "ci"); err != nil {
		t.Fatal(err)
	}
}

func (r *replica) repository(t *testing.T, name string) *repository.Repository {
	t.Helper()
	chart, err := r.store.Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	return chart
}

// until waits for a report.
func (r *replica) until(t *testing.T, what string, is func(garbage.Report) bool) garbage.Report {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		report := r.Report()
		if is(report) {
			return report
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come: %+v", what, report)
		}
	}
}

func TestWhatIsDeletedIsCollectedSoon(t *testing.T) {
	r := newReplica(t, newBucket(t), time.Hour)
	r.push(t, "web", "1.0.0")
	r.push(t, "other", "1.0.0")
	r.run(t)
	if err := r.repository(t, "web").DeleteManifest(t.Context(), "1.0.0"); err != nil {
		t.Fatal(err)
	}
	report := r.until(t, "the end of what was deleted", func(r garbage.Report) bool { return r.Total.Freed.Objects == 2 })
	if report.Total.Condemned != report.Total.Freed || report.Failures > 0 || report.Problem != "" || !report.LastSweep.IsZero() {
		t.Errorf("%+v", report)
	}
	r.until(t, "an empty trash", func(r garbage.Report) bool { return r.Total.Waiting.Objects == 0 })
	if _, err := r.repository(t, "other").StatManifest(t.Context(), "1.0.0"); err != nil {
		t.Error(err)
	}
}

func TestOneReplicaSweeps(t *testing.T) {
	b := newBucket(t)
	first, second := newReplica(t, b, 50*time.Millisecond), newReplica(t, b, 50*time.Millisecond)
	for _, name := range []string{"a", "b"} {
		first.push(t, name, "1.0.0")
		// As if a process had been killed: nobody is told.
		if err := b.Delete(t.Context(), "charts/"+name+"/tags/1.0.0", bucket.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	stop := first.run(t)
	first.until(t, "a sweep", func(r garbage.Report) bool { return !r.LastSweep.IsZero() && r.Total.Freed.Objects == 4 })
	second.run(t)
	first.until(t, "another sweep", func(r garbage.Report) bool {
		return r.Repositories > 10 || r.LastSweep.After(time.Now().Add(-time.Second))
	})
	if report := second.Report(); !report.LastSweep.IsZero() {
		t.Errorf("both sweep: %+v", report)
	}
	stop()
	second.until(t, "a sweep by the other", func(r garbage.Report) bool { return !r.LastSweep.IsZero() })
}

func TestProblemsAreToldUntilTheyAreGone(t *testing.T) {
	b := newBucket(t)
	r := newReplica(t, b, 20*time.Millisecond)
	r.push(t, "web", "1.0.0")
	if _, err := b.Put(t.Context(), "charts/web/tags/1.0.0", strings.NewReader(""), 0, bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	r.run(t)
	r.until(t, "the problem", func(r garbage.Report) bool {
		return strings.Contains(r.Problem, "the tag 1.0.0 of web is damaged") && r.Failures > 0
	})
	if err := r.repository(t, "web").DeleteManifest(t.Context(), "1.0.0"); err != nil {
		t.Fatal(err)
	}
	r.until(t, "the end of the problem", func(r garbage.Report) bool { return r.Problem == "" && r.Total.Freed.Objects == 2 })
}

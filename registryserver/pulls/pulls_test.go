package pulls_test

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
	"testing/synctest"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/leaktest"
	"github.com/chartroom-dev/chartroom/registryserver/pulls"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is set by the test.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.at.Load()) }

func (c *clock) set(at time.Time) { c.at.Store(at.UnixNano()) }

// counted counts the writes, and fails them where it is told to.
type counted struct {
	bucket.Bucket
	puts atomic.Int64
	fail atomic.Pointer[func(key string) error]
}

func (c *counted) Put(ctx context.Context, key string, body io.Reader, size int64, condition bucket.Condition) (bucket.Info, error) {
	c.puts.Add(1)
	if fail := c.fail.Load(); fail != nil {
		if err := (*fail)(key); err != nil {
			return bucket.Info{}, err
		}
	}
	return c.Bucket.Put(ctx, key, body, size, condition)
}

func newWorld(t *testing.T) (*counted, *clock) {
	t.Helper()
	d, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{}
	c.set(noon)
	return &counted{Bucket: d}, c
}

func newRecorder(b bucket.Bucket, c *clock) *pulls.Recorder {
	return pulls.New(pulls.Options{Bucket: b, Keep: 30 * 24 * time.Hour, Now: c.now})
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want compares what is known of a chart with the days, by digest, at whose end it was pulled at the latest.
func want(t *testing.T, r *pulls.Recorder, chart string, days map[string]string) {
	t.Helper()
	last, err := r.Last(t.Context(), chart)
	ok(t, err)
	got := map[string]string{}
	for digest, at := range last {
		got[digest] = at.Format(time.RFC3339)
	}
	for digest, day := range days {
		days[digest] = day + "T00:00:00Z"
	}
	if !maps.Equal(got, days) {
		t.Errorf("%s is known as %v, want %v", chart, got, days)
	}
}

func keys(t *testing.T, b bucket.Bucket, chart string) int {
	t.Helper()
	p, err := b.List(t.Context(), bucket.ListOptions{Prefix: "pulls/" + chart + "/"})
	ok(t, err)
	return len(p.Objects)
}

func TestTheLastDayOfAnyReplicaCounts(t *testing.T) {
	b, c := newWorld(t)
	first, second := newRecorder(b, c), newRecorder(b, c)
	want(t, first, "team/nginx", map[string]string{})
	first.Pulled("team/nginx", "a")
	first.Pulled("team/nginx", "b")
	first.Pulled("redis", "a")
	ok(t, first.Flush(t.Context()))
	c.set(noon.Add(12*time.Hour - 1))
	second.Pulled("team/nginx", "b")
	ok(t, second.Flush(t.Context()))
	want(t, second, "team/nginx", map[string]string{"a": "2026-03-02", "b": "2026-03-02"})
	c.set(noon.Add(12 * time.Hour))
	second.Pulled("team/nginx", "b")
	ok(t, second.Flush(t.Context()))
	c.set(noon)
	first.Pulled("team/nginx", "b") // A clock that is behind takes nothing back.
	ok(t, first.Flush(t.Context()))
	want(t, first, "team/nginx", map[string]string{"a": "2026-03-02", "b": "2026-03-03"})
	want(t, first, "redis", map[string]string{"a": "2026-03-02"})
	want(t, first, "team", map[string]string{})
	charts, err := first.Charts(t.Context())
	ok(t, err)
	if strings.Join(charts, " ") != "redis team/nginx" {
		t.Errorf("charts are %q", charts)
	}
}

// However often something is pulled, its day is written once.
func TestADayIsWrittenOnce(t *testing.T) {
	b, c := newWorld(t)
	r := newRecorder(b, c)
	for range 3 {
		for i := range 100 {
			r.Pulled("nginx", fmt.Sprint(i))
		}
		ok(t, r.Flush(t.Context()))
	}
	if n := b.puts.Load(); n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
	c.set(noon.AddDate(0, 0, 1))
	r.Pulled("nginx", "0")
	ok(t, r.Flush(t.Context()))
	if n := b.puts.Load(); n != 2 {
		t.Errorf("%d writes on the next day, want 2", n)
	}
	// More than is remembered: nothing is lost.
	for i := range 60_000 {
		r.Pulled("redis", fmt.Sprint(i))
	}
	ok(t, r.Flush(t.Context()))
	last, err := r.Last(t.Context(), "redis")
	ok(t, err)
	if len(last) != 60_000 {
		t.Errorf("%d are known", len(last))
	}
}

func TestWhatCannotBeWrittenIsWrittenLater(t *testing.T) {
	b, c := newWorld(t)
	r := newRecorder(b, c)
	r.Pulled("nginx", "a")
	r.Pulled("redis", "a")
	down := func(key string) error {
		if strings.Contains(key, "redis") {
			return bucket.ErrUnavailable
		}
		return nil
	}
	b.fail.Store(&down)
	if err := r.Flush(t.Context()); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("the error is %v", err)
	}
	c.set(noon.AddDate(0, 0, 1))
	r.Pulled("redis", "b")
	b.fail.Store(nil)
	ok(t, r.Flush(t.Context()))
	want(t, r, "nginx", map[string]string{"a": "2026-03-02"})
	want(t, r, "redis", map[string]string{"a": "2026-03-02", "b": "2026-03-03"})
}

func TestReplicasThatAreGoneAreFolded(t *testing.T) {
	b, c := newWorld(t)
	for i := range 5 {
		gone := newRecorder(b, c)
		gone.Pulled("nginx", "all")
		gone.Pulled("nginx", fmt.Sprint(i))
		ok(t, gone.Flush(t.Context()))
		c.set(c.now().AddDate(0, 0, 1))
	}
	r := newRecorder(b, c) // On the 6th.
	all := map[string]string{"0": "2026-03-02", "1": "2026-03-03", "2": "2026-03-04", "3": "2026-03-05", "4": "2026-03-06", "all": "2026-03-06"}
	want(t, r, "nginx", maps.Clone(all))
	for range 2 {
		ok(t, r.Fold(t.Context(), "nginx"))
		want(t, r, "nginx", maps.Clone(all))
		if n := keys(t, b, "nginx"); n != 2 {
			t.Errorf("there are %d objects, want the folded one and that of yesterday", n)
		}
	}
	// Once nothing is of use any more, it is forgotten.
	c.set(c.now().AddDate(0, 0, 29))
	ok(t, r.Fold(t.Context(), "nginx"))
	want(t, r, "nginx", map[string]string{"3": "2026-03-05", "4": "2026-03-06", "all": "2026-03-06"})
	for range 2 {
		c.set(c.now().AddDate(0, 0, 40))
		ok(t, r.Fold(t.Context(), "nginx"))
	}
	if n := keys(t, b, "nginx"); n != 0 {
		t.Errorf("%d objects are left of what nobody pulls", n)
	}
}

// A replica that was taken to be gone goes on, and nothing is lost.
func TestAReplicaIsFoldedAliveAndKilledInTheMiddle(t *testing.T) {
	b, c := newWorld(t)
	quiet, r := newRecorder(b, c), newRecorder(b, c)
	quiet.Pulled("nginx", "a")
	ok(t, quiet.Flush(t.Context()))
	c.set(noon.AddDate(0, 0, 5))
	// Killed between the write and the delete: the next time does it.
	broken := newRecorder(noDelete{b}, c)
	if err := broken.Fold(t.Context(), "nginx"); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("the error is %v", err)
	}
	want(t, r, "nginx", map[string]string{"a": "2026-03-02"})
	ok(t, r.Fold(t.Context(), "nginx"))
	quiet.Pulled("nginx", "b")
	ok(t, quiet.Flush(t.Context()))
	want(t, r, "nginx", map[string]string{"a": "2026-03-02", "b": "2026-03-07"})
}

type noDelete struct{ bucket.Bucket }

func (noDelete) Delete(context.Context, string, bucket.Condition) error { return bucket.ErrUnavailable }

func TestADamagedObjectIsNotTakenForEmpty(t *testing.T) {
	b, c := newWorld(t)
	_, err := b.Put(t.Context(), "pulls/nginx/x.json", strings.NewReader("{"), 1, bucket.Condition{})
	ok(t, err)
	r := newRecorder(b, c)
	if _, err := r.Last(t.Context(), "nginx"); err == nil || !strings.Contains(err.Error(), "pulls/nginx/x.json is damaged") {
		t.Errorf("the error is %v", err)
	}
	if err := r.Fold(t.Context(), "nginx"); err == nil {
		t.Error("it is folded")
	}
}

func TestRunWritesNowAndThenAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := newWorld(t)
		r := newRecorder(b, c)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		var problems atomic.Int32
		running.Go(func() { r.Run(ctx, func(error) { problems.Add(1) }) })
		r.Pulled("nginx", "a")
		time.Sleep(pulls.Interval + time.Second)
		synctest.Wait()
		want(t, r, "nginx", map[string]string{"a": "2026-03-02"})
		down := func(string) error { return bucket.ErrUnavailable }
		b.fail.Store(&down)
		r.Pulled("nginx", "b")
		time.Sleep(pulls.Interval)
		b.fail.Store(nil)
		r.Pulled("nginx", "c")
		cancel()
		running.Wait()
		want(t, r, "nginx", map[string]string{"a": "2026-03-02", "b": "2026-03-02", "c": "2026-03-02"})
		if problems.Load() != 1 {
			t.Errorf("%d problems were told, want 1", problems.Load())
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	b, c := newWorld(t)
	r := newRecorder(b, c)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				r.Pulled(fmt.Sprint("chart", j%3), fmt.Sprint(i*1000+j))
				if j%50 == 0 {
					if err := r.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	ok(t, r.Flush(t.Context()))
	n := 0
	for j := range 3 {
		last, err := r.Last(t.Context(), fmt.Sprint("chart", j))
		ok(t, err)
		n += len(last)
	}
	if n != 1600 {
		t.Errorf("%d are known, want 1600", n)
	}
}

func BenchmarkPulled(b *testing.B) {
	r := pulls.New(pulls.Options{})
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			r.Pulled("nginx", "sha256:0000000000000000000000000000000000000000000000000000000000000000")
		}
	})
}

package quota_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
)

// world is a registry's storage, whose content is what was settled and recorded.
type world struct {
	bucket bucket.Bucket
	stored atomic.Pointer[quota.Usage]
	now    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	b, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{bucket: b, now: time.Now()}
	w.stored.Store(&quota.Usage{})
	return w
}

func (w *world) replica(limits quota.Limits) *quota.Tracker {
	return quota.New(quota.Options{
		Bucket: w.bucket, Limits: limits,
		Count: func(context.Context) (quota.Usage, error) { return *w.stored.Load(), nil },
		Now:   func() time.Time { return w.now },
	})
}

func refresh(t *testing.T, trackers ...*quota.Tracker) {
	t.Helper()
	for _, tracker := range trackers {
		if err := tracker.RecountIfDue(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func wantUsage(t *testing.T, tracker *quota.Tracker, want quota.Usage) {
	t.Helper()
	if got, _ := tracker.Usage(); got != want {
		t.Fatalf("usage is %+v, want %+v", got, want)
	}
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	const mi = 1 << 20
	for name, c := range map[string]struct {
		limits    quota.Limits
		used, add quota.Usage
		want      string
	}{
		"no limits":          {quota.Limits{}, quota.Usage{Bytes: 1 << 50}, quota.Usage{Bytes: 1 << 50}, ""},
		"fits exactly":       {quota.Limits{Bytes: 10}, quota.Usage{Bytes: 4}, quota.Usage{Bytes: 6}, ""},
		"one byte too much":  {quota.Limits{Bytes: 10}, quota.Usage{Bytes: 4}, quota.Usage{Bytes: 7}, "this is over the registry's quota of 10 B (used: 4 B, wanted: 7 B more): delete versions that nobody needs, or have the quota raised"},
		"binary prefixes":    {quota.Limits{Bytes: 10 * mi}, quota.Usage{Bytes: 9*mi + mi/2}, quota.Usage{Bytes: mi}, "this is over the registry's quota of 10 MiB (used: 9.5 MiB, wanted: 1 MiB more): delete versions that nobody needs, or have the quota raised"},
		"charts":             {quota.Limits{Charts: 1}, quota.Usage{Charts: 1, Bytes: 5}, quota.Usage{Charts: 1}, "this is over the registry's quota of 1 chart (used: 1 chart, wanted: 1 chart more): delete a chart that nobody needs, or have the quota raised"},
		"versions":           {quota.Limits{Versions: 2}, quota.Usage{Versions: 2}, quota.Usage{Versions: 1}, "this is over the registry's quota of 2 versions (used: 2 versions, wanted: 1 version more): delete versions that nobody needs, or have the quota raised"},
		"limit was lowered":  {quota.Limits{Bytes: 1}, quota.Usage{Bytes: 5}, quota.Usage{Versions: 1}, ""},
		"another dimension":  {quota.Limits{Charts: 1}, quota.Usage{Charts: 1}, quota.Usage{Bytes: 5, Versions: 1}, ""},
		"a number that huge": {quota.Limits{Bytes: 10}, quota.Usage{Bytes: 4}, quota.Usage{Bytes: 1<<63 - 1}, "this is over the registry's quota of 10 B (used: 4 B, wanted: 8192.0 PiB more): delete versions that nobody needs, or have the quota raised"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.stored.Store(&c.used)
			tracker := w.replica(c.limits)
			refresh(t, tracker)
			room, err := tracker.Reserve(t.Context(), c.add)
			var refused *quota.Error
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				room.Store(c.add)
				return
			}
			if !errors.As(err, &refused) || refused.Reason != c.want {
				t.Fatalf("error is %v, want %s", err, c.want)
			}
			wantUsage(t, tracker, c.used)
		})
	}
}

func TestPushesAtTheSameMomentDoNotOvershoot(t *testing.T) {
	tracker := newWorld(t).replica(quota.Limits{Versions: 10})
	refresh(t, tracker)
	var admitted atomic.Int64
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if room, err := tracker.Reserve(t.Context(), quota.Usage{Versions: 1}); err == nil {
				admitted.Add(1)
				room.Store(quota.Usage{Versions: 1})
				room.Release()
			}
		})
	}
	wait.Wait()
	if admitted.Load() != 10 {
		t.Errorf("%d were admitted", admitted.Load())
	}
	wantUsage(t, tracker, quota.Usage{Versions: 10})
}

func reserve(t *testing.T, tracker *quota.Tracker, bytes int64) *quota.Room {
	t.Helper()
	room, err := tracker.Reserve(t.Context(), quota.Usage{Bytes: bytes})
	if err != nil {
		t.Fatal(err)
	}
	return room
}

func TestWhatIsGivenUpLeavesRoom(t *testing.T) {
	tracker := newWorld(t).replica(quota.Limits{Bytes: 10})
	refresh(t, tracker)
	room := reserve(t, tracker, 10)
	if _, err := tracker.Reserve(t.Context(), quota.Usage{Bytes: 1}); err == nil {
		t.Fatal("what is in flight does not count")
	}
	room.Release()
	room = reserve(t, tracker, 10)
	room.Store(quota.Usage{Bytes: 3})
	room.Release()
	wantUsage(t, tracker, quota.Usage{Bytes: 3})
	tracker.Record(quota.Usage{Bytes: -2})
	wantUsage(t, tracker, quota.Usage{Bytes: 1})
	reserve(t, tracker, 9).Release()
}

// However much is stored of what is reserved, and whether it is more or less, room is taken and given back once.
func TestRoomIsTakenOnce(t *testing.T) {
	tracker := newWorld(t).replica(quota.Limits{Bytes: 10})
	refresh(t, tracker)
	room := reserve(t, tracker, 4)
	for _, need := range []int64{2, 4, 6, 5} {
		if err := room.Cover(quota.Usage{Bytes: need}); err != nil {
			t.Fatal(err)
		}
	}
	var over *quota.Error
	if err := room.Cover(quota.Usage{Bytes: 11}); !errors.As(err, &over) {
		t.Fatalf("more than there is: %v", err)
	}
	rest := reserve(t, tracker, 4)
	room.Store(quota.Usage{Bytes: 3})
	room.Store(quota.Usage{Bytes: -1})
	room.Release()
	room.Release()
	rest.Store(quota.Usage{Bytes: 5})
	rest.Release()
	wantUsage(t, tracker, quota.Usage{Bytes: 7})
	reserve(t, tracker, 3)
}

func TestStreamsEndAtTheLimit(t *testing.T) {
	tracker := newWorld(t).replica(quota.Limits{Bytes: 1000})
	refresh(t, tracker)
	for _, c := range []struct{ bytes, want int }{{1000, 1000}, {1001, -1}, {0, 0}} {
		room := reserve(t, tracker, 0)
		n, err := io.Copy(io.Discard, iotest.OneByteReader(room.Meter(strings.NewReader(strings.Repeat("x", c.bytes)), 0)))
		var over *quota.Error
		if c.want < 0 && !errors.As(err, &over) || c.want >= 0 && (err != nil || n != int64(c.want)) {
			t.Errorf("of %d bytes %d came: %v", c.bytes, n, err)
		}
		room.Release()
	}
	var none *quota.Room
	if all, err := io.ReadAll(none.Meter(strings.NewReader("xyz"), 0)); err != nil || len(all) != 3 {
		t.Errorf("without limits %d bytes came: %v", len(all), err)
	}
}

// Before anybody has counted, nobody knows what fits. Who has no limit need not.
func TestPushesWaitForTheFirstCount(t *testing.T) {
	w := newWorld(t)
	tracker := w.replica(quota.Limits{Bytes: 10})
	if _, known := tracker.Usage(); known {
		t.Error("it is known what is stored")
	}
	if _, err := tracker.Reserve(t.Context(), quota.Usage{Versions: 1}); err != nil {
		t.Error(err)
	}
	synctest.Test(t, func(t *testing.T) {
		waiting := w.replica(quota.Limits{Bytes: 10})
		if _, err := waiting.Reserve(t.Context(), quota.Usage{Bytes: 1}); !errors.Is(err, quota.ErrCounting) {
			t.Errorf("error is %v", err)
		}
	})
	admitted := make(chan error)
	go func() {
		_, err := tracker.Reserve(t.Context(), quota.Usage{Bytes: 1})
		admitted <- err
	}()
	refresh(t, tracker)
	if err := <-admitted; err != nil {
		t.Error(err)
	}
	// Another one finds the base.
	again := w.replica(quota.Limits{Bytes: 10})
	if err := again.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, known := again.Usage(); !known {
		t.Error("there is a base, and it is not known what is stored")
	}
	reserve(t, again, 10)
}

func TestALostBaseIsCountedAnew(t *testing.T) {
	w := newWorld(t)
	w.stored.Store(&quota.Usage{Bytes: 8})
	tracker := w.replica(quota.Limits{Bytes: 10})
	refresh(t, tracker)
	if err := w.bucket.Delete(t.Context(), "usage/base.json", bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	if err := tracker.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantUsage(t, tracker, quota.Usage{Bytes: 8})
	w.stored.Store(&quota.Usage{Bytes: 9})
	refresh(t, tracker)
	wantUsage(t, tracker, quota.Usage{Bytes: 9})
}

// Of several replicas one counts everything anew, when it is due.
func TestOneCounts(t *testing.T) {
	w := newWorld(t)
	counts, alone := 0, 0
	var others func()
	tracker := quota.New(quota.Options{
		Bucket: w.bucket,
		Count:  func(context.Context) (quota.Usage, error) { counts++; return quota.Usage{}, nil },
		Alone: func(ctx context.Context, work func(context.Context)) (bool, error) {
			alone++
			others()
			work(ctx)
			return true, nil
		},
		Now: func() time.Time { return w.now },
	})
	for _, step := range []struct {
		what                   string
		later                  time.Duration
		others                 bool
		wantCounts, wantAlones int
	}{
		{"the first count waits for nobody", 0, false, 1, 0},
		{"it is good for a while", 5 * time.Hour, false, 1, 0},
		{"then one counts", time.Hour, false, 2, 1},
		{"unless somebody just did", 7 * time.Hour, true, 2, 2},
	} {
		w.now = w.now.Add(step.later)
		others = func() {
			if step.others {
				refresh(t, w.replica(quota.Limits{}))
			}
		}
		refresh(t, tracker)
		if counts != step.wantCounts || alone != step.wantAlones {
			t.Errorf("%s: %d counts, %d of them alone", step.what, counts, alone)
		}
	}
}

func TestTooLarge(t *testing.T) {
	for size, want := range map[int64]string{
		3 << 20: "a chart may have 1 MiB at most in this registry, and this one has 3 MiB: keep out of it what it does not need, with a .helmignore, or have the limit raised",
		-1:      "a chart may have 1 MiB at most in this registry, and this one has more: keep out of it what it does not need, with a .helmignore, or have the limit raised",
	} {
		if got := quota.TooLarge(1<<20, size).Error(); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}

func TestReplicasAddUp(t *testing.T) {
	w := newWorld(t)
	w.stored.Store(&quota.Usage{Bytes: 100, Charts: 1, Versions: 1})
	a, b := w.replica(quota.Limits{}), w.replica(quota.Limits{})
	refresh(t, a, b)
	a.Record(quota.Usage{Bytes: 10, Versions: 1})
	b.Record(quota.Usage{Bytes: 5})
	b.Record(quota.Usage{Bytes: -20})
	refresh(t, a, b, a)
	want := quota.Usage{Bytes: 95, Charts: 1, Versions: 2}
	wantUsage(t, a, want)
	wantUsage(t, b, want)

	// One that begins again counts from zero, and what it had counted stays counted.
	again := w.replica(quota.Limits{})
	refresh(t, again)
	wantUsage(t, again, want)
	again.Record(quota.Usage{Bytes: 1})
	refresh(t, again, b)
	wantUsage(t, b, quota.Usage{Bytes: 96, Charts: 1, Versions: 2})

	// Counting anew finds what killed replicas did not tell, and changes nothing of the rest.
	actual := quota.Usage{Bytes: 97, Charts: 1, Versions: 2}
	w.stored.Store(&actual)
	w.now = w.now.Add(7 * time.Hour)
	refresh(t, b, again)
	wantUsage(t, b, actual)
	wantUsage(t, again, actual)
	again.Record(quota.Usage{Bytes: 3})
	refresh(t, again, b)
	wantUsage(t, b, quota.Usage{Bytes: 100, Charts: 1, Versions: 2})

	// The counters of those that are gone do not stay for ever, nor does it show when they go.
	for range 3 {
		w.stored.Store(&quota.Usage{Bytes: 100, Charts: 1, Versions: 2})
		w.now = w.now.Add(7 * time.Hour)
		refresh(t, b)
	}
	wantUsage(t, b, quota.Usage{Bytes: 100, Charts: 1, Versions: 2})
	p, err := w.bucket.List(t.Context(), bucket.ListOptions{Prefix: "usage/"})
	if err != nil || len(p.Objects) != 2 {
		t.Errorf("of a base and one counter there is %v, %v", p.Objects, err)
	}
}

func TestTheRestIsToldAtTheEnd(t *testing.T) {
	w := newWorld(t)
	a := w.replica(quota.Limits{})
	refresh(t, a)
	a.Record(quota.Usage{Bytes: 7})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	a.Run(ctx, func(err error) { t.Error(err) })
	b := w.replica(quota.Limits{})
	refresh(t, b)
	wantUsage(t, b, quota.Usage{Bytes: 7})
}

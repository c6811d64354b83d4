package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/controllers/internal/registryclient"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// server plays the pods of a registry, all of which hold the same. It answers as a pod does.
type server struct {
	mu        sync.Mutex
	inventory wire.Inventory
	revision  int
	changed   chan struct{}
	err       error
	asked     []string
	waiting   int
}

func newServer() *server { return &server{changed: make(chan struct{}), revision: 1} }

func (s *server) set(change func(*wire.Inventory)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inventory.Charts = append([]wire.InventoryChart(nil), s.inventory.Charts...)
	change(&s.inventory)
	s.revision++
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *server) fail(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	s.set(func(*wire.Inventory) {})
}

func (s *server) ask(ctx context.Context, _, etag string) (*wire.Inventory, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, etag)
	s.waiting++
	defer func() { s.waiting-- }()
	end := time.After(wire.InventoryWait)
	for s.err == nil && etag == fmt.Sprint(s.revision) {
		changed := s.changed
		s.mu.Unlock()
		over := false
		select {
		case <-ctx.Done():
		case <-end:
			over = true
		case <-changed:
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
		if over {
			return nil, etag, nil
		}
	}
	if s.err != nil {
		return nil, "", s.err
	}
	inventory := s.inventory
	return &inventory, fmt.Sprint(s.revision), nil
}

// questions are the ETags of those that were asked, and how many are under way.
func (s *server) questions() (etags []string, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked), s.waiting
}

// board records what a watch tells.
type board struct {
	mu        sync.Mutex
	published []reports.Inventory
	at        []time.Time
	notes     []string
}

func (b *board) publish(i reports.Inventory) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published, b.at = append(b.published, i), append(b.at, time.Now())
}

func (b *board) announce(_ context.Context, note string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes = append(b.notes, note)
}

// told is how often something was published, what was last, and when.
func (b *board) told() (times int, last reports.Inventory, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if times = len(b.published); times > 0 {
		last, at = b.published[times-1], b.at[times-1]
	}
	return times, last, at
}

// noted returns the notes since it was called last.
func (b *board) noted() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	notes := b.notes
	b.notes = nil
	return notes
}

// watched runs a watch of pods that are played by a server, in a time of its own.
func watched(t *testing.T, test func(t *testing.T, s *server, b *board, w *watch)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, b := newServer(), &board{}
		w := newWatch(t.Context(), "uid", watchOptions{ask: s.ask, publish: b.publish, announce: b.announce})
		test(t, s, b, w)
		w.end()
		if _, waiting := s.questions(); waiting != 0 {
			t.Errorf("%d questions are under way after the end", waiting)
		}
	})
}

// pass lets time pass, and what happens in it be done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func push(chart, version string) func(*wire.Inventory) {
	return func(i *wire.Inventory) {
		i.Totals.Versions++
		for n := range i.Charts {
			if c := &i.Charts[n]; c.Name == chart {
				c.LatestVersion, c.Digest = version, "sha256:"+version
				c.Versions++
				return
			}
		}
		i.Totals.Charts++
		i.Charts = append(i.Charts, wire.InventoryChart{Name: chart, LatestVersion: version, Digest: "sha256:" + version, Versions: 1})
	}
}

func download(i *wire.Inventory) {
	i.Totals.Downloads++
	i.Charts[0].Downloads++
}

func TestAPushIsToldOfAtOnce(t *testing.T) {
	watched(t, func(t *testing.T, s *server, b *board, w *watch) {
		w.follow([]pod{one, two})
		pass(time.Minute)
		if times, last, _ := b.told(); times != 1 || last.Stale != nil || last.Known.Totals.Versions != 0 {
			t.Fatalf("at rest was published %d times, at last %+v", times, last)
		}
		before := time.Now()
		s.set(push("app", "1.0.0"))
		pass(time.Second)
		times, last, at := b.told()
		if times != 2 || at.Sub(before) > 300*time.Millisecond {
			t.Fatalf("a push was published after %s, %d times", at.Sub(before), times-1)
		}
		want := []wire.InventoryChart{{Name: "app", LatestVersion: "1.0.0", Digest: "sha256:1.0.0", Versions: 1}}
		if diff := cmp.Diff(want, last.Known.Charts); diff != "" {
			t.Error(diff)
		}
		pass(time.Hour)
		if times, last, _ := b.told(); times != 2 {
			t.Errorf("in an hour at rest was published: %+v", last)
		}
	})
}

// However much happens, it is told of in good time and no more often than a status can be written.
func TestABurstIsGathered(t *testing.T) {
	watched(t, func(t *testing.T, s *server, b *board, w *watch) {
		w.follow([]pod{one})
		pass(time.Minute)
		begun, _, _ := b.told()
		for n := range 1000 {
			s.set(push("app", fmt.Sprintf("1.0.%d", n)))
			pass(10 * time.Millisecond)
		}
		if times, _, _ := b.told(); times-begun < 5 || times-begun > 20 {
			t.Errorf("10 seconds of pushes were published %d times", times-begun)
		}
		pass(2 * time.Second)
		if _, last, _ := b.told(); last.Known.Totals.Versions != 1000 {
			t.Errorf("two seconds later %d versions of 1000 are known", last.Known.Totals.Versions)
		}
		pass(time.Minute)
		if notes := b.noted(); len(notes) < 1 || len(notes) > 3 {
			t.Errorf("events: %q", notes)
		}
	})
}

func TestDownloadsWait(t *testing.T) {
	watched(t, func(t *testing.T, s *server, b *board, w *watch) {
		s.set(push("app", "1.0.0"))
		w.follow([]pod{one})
		pass(time.Minute)
		begun, _, _ := b.told()
		for range 60 {
			s.set(download)
			pass(time.Second)
		}
		pass(downloadsPause)
		times, last, _ := b.told()
		if times-begun < 2 || times-begun > 4 {
			t.Errorf("a minute of downloads was published %d times", times-begun)
		}
		if last.Known.Totals.Downloads != 60 || last.Known.Charts[0].Downloads != 60 {
			t.Errorf("at last %+v is known", last.Known)
		}
		s.set(download)
		pass(time.Second)
		s.set(push("app", "1.1.0"))
		pass(time.Second)
		if _, last, _ := b.told(); last.Known.Totals.Downloads != 61 || last.Known.Totals.Versions != 2 {
			t.Errorf("a push waits for the downloads: %+v", last.Known)
		}
	})
}

func TestAPodThatFailsIsLeftAlone(t *testing.T) {
	for name, c := range map[string]struct {
		err         error
		least, most int64
		reason      string
	}{
		"it does not answer":    {errors.New("refused"), 100, 200, reports.ReasonNoAnswer},
		"it knows of no such":   {registryclient.ErrNoInventory, 10, 13, reports.ReasonPodsOutdated},
		"it answers in a hurry": {nil, 3500, 3700, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &board{}
				var asked atomic.Int64
				w := newWatch(t.Context(), "uid", watchOptions{
					ask: func(context.Context, string, string) (*wire.Inventory, string, error) {
						n := asked.Add(1)
						if c.err != nil {
							return nil, "", c.err
						}
						return &wire.Inventory{Totals: wire.InventoryTotals{Versions: n}}, fmt.Sprint(n), nil
					},
					publish: b.publish, announce: b.announce,
				})
				w.follow([]pod{one})
				pass(time.Hour)
				if n := asked.Load(); n < c.least || n > c.most {
					t.Errorf("in an hour it was asked %d times, want %d to %d", n, c.least, c.most)
				}
				if _, last, _ := b.told(); (last.Stale != nil) != (c.reason != "") || last.Stale != nil && last.Stale.Reason != c.reason {
					t.Errorf("stale: %+v, want %q", last.Stale, c.reason)
				}
				w.end()
			})
		})
	}
}

func TestWhatIsKnownStaysWhileNobodyAnswers(t *testing.T) {
	watched(t, func(t *testing.T, s *server, b *board, w *watch) {
		s.set(push("app", "1.0.0"))
		w.follow([]pod{one})
		pass(time.Minute)
		before, _ := s.questions()
		s.fail(errors.New("reset"))
		pass(5 * time.Second)
		if _, last, _ := b.told(); last.Stale != nil {
			t.Errorf("after five seconds it is stale: %+v", last.Stale)
		}
		pass(30 * time.Second)
		times, last, _ := b.told()
		if last.Stale == nil || last.Stale.Reason != reports.ReasonNoAnswer || last.Known == nil || last.Known.Totals.Versions != 1 {
			t.Errorf("while it does not answer: %+v", last)
		}
		// The next answer may be another process's, in which an old ETag stands for something else.
		after, _ := s.questions()
		for _, etag := range after[len(before):] {
			if etag != "" {
				t.Errorf("after an error the ETag %s was sent", etag)
			}
		}
		pass(time.Hour)
		if now, last, _ := b.told(); now != times {
			t.Errorf("while nothing changes was published: %+v", last)
		}
		s.fail(nil)
		s.set(push("app", "1.1.0"))
		pass(time.Minute)
		if _, last, _ = b.told(); last.Stale != nil || last.Known.Totals.Versions != 2 {
			t.Errorf("when it answers again: %+v", last)
		}
	})
}

func TestAFullReadNowAndThen(t *testing.T) {
	watched(t, func(t *testing.T, s *server, _ *board, w *watch) {
		w.follow([]pod{one})
		pass(time.Hour)
		full := 0
		etags, _ := s.questions()
		for _, etag := range etags {
			if etag == "" {
				full++
			}
		}
		if full < 5 || full > 7 {
			t.Errorf("in an hour there were %d full reads", full)
		}
	})
}

func TestPodsComeAndGo(t *testing.T) {
	watched(t, func(t *testing.T, s *server, b *board, w *watch) {
		for _, step := range []struct {
			pods []pod
			want int
		}{{[]pod{one}, 1}, {[]pod{one, two}, 2}, {[]pod{two}, 1}, {nil, 0}, {[]pod{one, two}, 2}} {
			w.follow(step.pods)
			pass(5 * time.Second)
			if _, waiting := s.questions(); waiting != step.want {
				t.Errorf("of the pods %v %d are asked", step.pods, waiting)
			}
		}
		w.follow(nil)
		pass(time.Minute)
		if _, last, _ := b.told(); last.Stale == nil || last.Stale.Reason != reports.ReasonNoReplicas {
			t.Errorf("without pods it says %+v", last)
		}
	})
}

func TestEventsOfChanges(t *testing.T) {
	watched(t, func(t *testing.T, s *server, b *board, w *watch) {
		s.set(push("app", "1.0.0"))
		w.follow([]pod{one})
		pass(time.Minute)
		expect := func(notes ...string) {
			t.Helper()
			pass(time.Minute)
			if diff := cmp.Diff(notes, b.noted()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		expect() // It was there before.
		s.set(push("app", "1.1.0"))
		expect("the latest version of app is now 1.1.0")
		s.set(download)
		expect()
		for _, chart := range []string{"a", "b", "c", "d", "e"} {
			s.set(push(chart, "1.0.0"))
			pass(500 * time.Millisecond)
		}
		expect("the latest version of a is now 1.0.0", "4 charts were changed: the latest version of b is now 1.0.0, the latest version of c is now 1.0.0, the latest version of d is now 1.0.0, and 1 more")
		s.set(func(i *wire.Inventory) { i.Charts = i.Charts[1:] })
		expect("the chart app is gone")
	})
}

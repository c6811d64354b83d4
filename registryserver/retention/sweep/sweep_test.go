package sweep_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
	"github.com/chartroom-dev/chartroom/registryserver/retention/sweep"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// world is a registry whose time the test sets.
type world struct {
	t      *testing.T
	bucket bucket.Bucket
	store  *repository.Store
	at     atomic.Int64
	log    bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	b, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, bucket: b}
	w.at.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	w.open(b)
	return w
}

// open opens the registry by another way to its storage.
func (w *world) open(b bucket.Bucket) {
	w.t.Helper()
	store, err := repository.Open(w.t.Context(), b, "acme/charts", repository.Options{
		Now: w.now, TagMutable: func(string) bool { return true }, Sparse: func(repository.Manifest) bool { return true },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.bucket, w.store = b, store
}

func (w *world) now() time.Time { return time.Unix(0, w.at.Load()).UTC() }

func (w *world) pass(d time.Duration) { w.at.Add(int64(d)) }

// push pushes content under tags, and returns its digest.
func (w *world) push(chart, content string, tags ...string) string {
	w.t.Helper()
	r := w.repository(chart)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"config":        map[string]any{"mediaType": "application/x", "size": 1, "digest": "sha256:" + strings.Repeat("a", 64)},
		"layers":        []any{}, "annotations": map[string]string{"content": content},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := r.PutManifest(w.t.Context(), tags[0], "application/vnd.oci.image.manifest.v1+json", manifest, "ci", tags[1:]...)
	if err != nil {
		w.t.Fatal(err)
	}
	return m.Digest.String()
}

func (w *world) repository(chart string) *repository.Repository {
	w.t.Helper()
	r, err := w.store.Repository(chart)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) wantTags(when, chart, want string) {
	w.t.Helper()
	tags, _, err := w.repository(chart).Tags(w.t.Context(), 0, "")
	if err != nil {
		w.t.Fatal(err)
	}
	if got := strings.Join(tags, " "); got != want {
		w.t.Errorf("%s: %s has %q, want %q", when, chart, got, want)
	}
}

func (w *world) options(p retention.Policy) sweep.Options {
	w.t.Helper()
	rules, err := retention.Compile(p)
	if err != nil {
		w.t.Fatal(err)
	}
	o := sweep.Options{Store: w.store, Bucket: w.bucket, Rules: rules, Log: slog.New(slog.NewTextHandler(&w.log, nil)), Now: w.now}
	if p.KeepPulledWithin > 0 {
		o.Pulls = pulls.New(pulls.Options{Bucket: w.bucket, Keep: time.Duration(p.KeepPulledWithin), Now: w.now})
	}
	return o
}

func (w *world) sweeper(p retention.Policy) *sweep.Sweeper {
	w.t.Helper()
	return w.sweeperOf(w.options(p))
}

func (w *world) sweeperOf(o sweep.Options) *sweep.Sweeper {
	w.t.Helper()
	s, err := sweep.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// once does what is due, and compares when the next look is.
func (w *world) once(s *sweep.Sweeper, want time.Duration) {
	w.t.Helper()
	pause, err := s.Once(w.t.Context())
	if err != nil || pause != want {
		w.t.Errorf("the next look is in %s, want %s; error: %v", pause, want, err)
	}
}

var keepOne = retention.Policy{Rules: []retention.Rule{{KeepNewest: 1}}}

func TestPlanFirstThenDelete(t *testing.T) {
	w := newWorld(t)
	for i := range 30 {
		w.push("nginx", fmt.Sprint(i), fmt.Sprintf("1.0.%d", 10+i))
	}
	w.push("team/redis", "a", "2.0.0")
	s := w.sweeper(keepOne)
	if s.State().Current {
		t.Error("there is a plan before the first run")
	}

	planned := w.now()
	w.once(s, time.Hour)
	state := s.State()
	if !state.Current || state.Plan.Planned != 29 || state.Plan.Deleted != 0 || !state.Plan.PlannedAt.Equal(planned) || !state.DeletesAfter.Equal(planned.Add(time.Hour)) {
		t.Errorf("after the first run: %+v", state)
	}
	if e := state.Plan.Examples; len(e) != 20 || e[0] != "nginx:1.0.10 (it is not the newest)" {
		t.Errorf("the examples are %q", e)
	}
	w.pass(59 * time.Minute)
	w.once(s, time.Minute)
	tags, _, err := w.repository("nginx").Tags(t.Context(), 0, "")
	if err != nil || len(tags) != 30 {
		t.Errorf("%d are left before the delay is over, %v", len(tags), err)
	}

	w.pass(time.Minute)
	w.once(s, time.Hour)
	w.wantTags("after the delay", "nginx", "1.0.39")
	w.wantTags("after the delay", "team/redis", "2.0.0")
	state = s.State()
	if state.Plan.Planned != 0 || state.Plan.Deleted != 29 || state.Plan.Examples != nil || !state.Plan.LastRun.Equal(w.now()) {
		t.Errorf("after the second run: %+v", state)
	}
	if line := `msg="a version was deleted" who=retention chart=nginx tag=1.0.38 digest=sha256:`; !strings.Contains(w.log.String(), line) {
		t.Errorf("the log says\n%s", &w.log)
	}

	// From now on there is no plan to be waited for, and another replica knows what this one did.
	w.push("nginx", "x", "1.1.0")
	other := w.sweeper(keepOne)
	w.pass(59 * time.Minute)
	w.once(other, time.Minute)
	if got := other.State(); got.Plan.Deleted != 29 || !got.Plan.LastRun.Equal(state.Plan.LastRun) {
		t.Errorf("the other replica knows %+v", got)
	}
	w.pass(time.Minute)
	w.once(other, time.Hour)
	w.wantTags("an hour later", "nginx", "1.1.0")
	w.once(s, time.Hour)
	if got := s.State().Plan.Deleted; got != 30 {
		t.Errorf("%d have gone, want 30", got)
	}
}

func TestAnotherPolicyIsPlannedAnew(t *testing.T) {
	w := newWorld(t)
	w.push("nginx", "a", "1.0.0")
	w.push("nginx", "b", "2.0.0-dev")
	w.push("nginx", "c", "3.0.0")
	gentle := retention.Policy{Rules: []retention.Rule{{Tags: []string{"*-dev"}, OlderThan: retention.Duration(time.Hour)}}}
	w.once(w.sweeper(gentle), time.Hour)
	w.pass(2 * time.Hour)
	// What was shown was another plan: this one waits, also where the replica is the same.
	s := w.sweeper(keepOne)
	w.once(s, time.Hour)
	w.wantTags("after the change", "nginx", "1.0.0 2.0.0-dev 3.0.0")
	if got := s.State(); got.Plan.Planned != 2 || !got.DeletesAfter.Equal(w.now().Add(time.Hour)) {
		t.Errorf("the plan is %+v", got)
	}
	// And back: no replica deletes by what another one has shown.
	w.pass(2 * time.Hour)
	w.once(w.sweeper(gentle), time.Hour)
	w.wantTags("after the change back", "nginx", "1.0.0 2.0.0-dev 3.0.0")
	w.pass(time.Hour)
	w.once(w.sweeper(gentle), time.Hour)
	w.wantTags("after its delay", "nginx", "1.0.0 3.0.0")
}

func TestADryRunDeletesNothing(t *testing.T) {
	w := newWorld(t)
	w.push("nginx", "a", "1.0.0")
	w.push("nginx", "b", "2.0.0")
	dry := keepOne
	dry.DryRun = true
	s := w.sweeper(dry)
	for range 5 {
		w.once(s, time.Hour)
		w.pass(24 * time.Hour)
	}
	w.wantTags("after days", "nginx", "1.0.0 2.0.0")
	if got := s.State(); got.Plan.Planned != 1 || !got.DeletesAfter.IsZero() {
		t.Errorf("the state is %+v", got)
	}
	// The plan was shown for long: once it is no dry run any more, it is carried out.
	w.once(w.sweeper(keepOne), time.Hour)
	w.wantTags("when it counts", "nginx", "2.0.0")
}

func TestADelayOfAnotherLength(t *testing.T) {
	w := newWorld(t)
	w.push("nginx", "a", "1.0.0")
	w.push("nginx", "b", "2.0.0")
	p := keepOne
	p.Delay = retention.Duration(150 * time.Minute)
	s := w.sweeper(p)
	w.once(s, time.Hour)
	w.pass(2 * time.Hour)
	w.once(s, 30*time.Minute)
	w.wantTags("after two hours", "nginx", "1.0.0 2.0.0")
	w.pass(30 * time.Minute)
	w.once(s, time.Hour)
	w.wantTags("after the delay", "nginx", "2.0.0")
}

// moving moves a tag just before it is deleted.
type moving struct {
	bucket.Bucket
	key  string
	move func()
}

func (m *moving) Delete(ctx context.Context, key string, c bucket.Condition) error {
	if move := m.move; move != nil && key == m.key {
		m.move = nil
		move()
	}
	return m.Bucket.Delete(ctx, key, c)
}

func TestATagThatIsMovedMeanwhileStays(t *testing.T) {
	w := newWorld(t)
	old := w.push("nginx", "a", "1.0.0")
	w.push("nginx", "sig", "sha256-"+strings.TrimPrefix(old, "sha256:")+".sig")
	w.push("nginx", "b", "0.9.0")
	w.push("nginx", "c", "2.0.0")
	w.once(w.sweeper(keepOne), time.Hour)
	w.pass(time.Hour)
	var moved string
	m := &moving{Bucket: w.bucket, key: "charts/nginx/tags/1.0.0", move: func() { moved = w.push("nginx", "new", "1.0.0") }}
	w.open(m)
	w.once(w.sweeper(keepOne), time.Hour)
	// Nothing stands for what was judged any more, so its signature goes.
	w.wantTags("after the run", "nginx", "1.0.0 2.0.0")
	if got, err := w.repository("nginx").StatManifest(t.Context(), "1.0.0"); err != nil || got.Digest.String() != moved {
		t.Errorf("it stands for %s, %v; want %s", got.Digest, err, moved)
	}
	if !strings.Contains(w.log.String(), "is left alone") {
		t.Errorf("the log says\n%s", &w.log)
	}
}

func TestSignaturesGoWithTheLastVersion(t *testing.T) {
	w := newWorld(t)
	signature := func(d string) string { return "sha256-" + strings.TrimPrefix(d, "sha256:") + ".sig" }
	first, second := w.push("nginx", "a", "1.0.0"), w.push("nginx", "b", "2.0.0", "3.0.0")
	w.push("nginx", "sig", signature(first), signature(second))
	w.once(w.sweeper(keepOne), time.Hour)
	w.pass(time.Hour)
	w.once(w.sweeper(keepOne), time.Hour)
	w.wantTags("after the run", "nginx", "3.0.0 "+signature(second))
}

// Somebody pushes a version of the same content while its last one goes.
func TestASignatureThatIsNeededAgainStays(t *testing.T) {
	w := newWorld(t)
	first := w.push("nginx", "a", "1.0.0")
	signature := "sha256-" + strings.TrimPrefix(first, "sha256:") + ".sig"
	w.push("nginx", "sig", signature)
	w.push("nginx", "b", "2.0.0")
	w.once(w.sweeper(keepOne), time.Hour)
	w.pass(time.Hour)
	w.open(&moving{Bucket: w.bucket, key: "charts/nginx/tags/1.0.0", move: func() { w.push("nginx", "a", "stable") }})
	w.once(w.sweeper(keepOne), time.Hour)
	w.wantTags("after the run", "nginx", "2.0.0 "+signature+" stable")
}

func TestWhatWasPulledStays(t *testing.T) {
	const month = 30 * 24 * time.Hour
	w := newWorld(t)
	w.push("nginx", "old", "0.1.0")
	p := keepOne
	p.KeepPulledWithin = retention.Duration(month)
	o := w.options(p)
	s := w.sweeperOf(o)
	w.once(s, time.Hour) // Since now, pulls are known.
	w.pass(time.Minute)
	a := w.push("nginx", "a", "1.0.0")
	w.push("nginx", "b", "1.1.0")
	w.push("nginx", "c", "1.2.0")
	w.push("nginx", "d", "2.0.0")
	w.pass(time.Hour)
	o.Pulls.Pulled("nginx", a) // Not written yet.
	w.once(s, time.Hour)
	w.wantTags("1.0.0 was pulled, and 0.1.0 may have been before anybody knew", "nginx", "0.1.0 1.0.0 2.0.0")

	run := func(days int) {
		t.Helper()
		for range days {
			w.pass(24 * time.Hour)
			w.once(s, time.Hour)
		}
	}
	run(29)
	w.wantTags("29 days later", "nginx", "0.1.0 1.0.0 2.0.0")
	run(1)
	w.wantTags("a month later 0.1.0 is known not to have been pulled", "nginx", "1.0.0 2.0.0")
	run(1)
	w.wantTags("a month after the end of the day", "nginx", "2.0.0")
}

// A time for which nobody noted pulls counts as if all that was there had been pulled in it.
func TestATimeWithoutNotesCounts(t *testing.T) {
	const day = 24 * time.Hour
	policy := func(keep time.Duration) retention.Policy {
		p := keepOne
		p.KeepPulledWithin = retention.Duration(keep)
		return p
	}
	for name, test := range map[string]struct {
		// between happens after ten days of notes for five.
		between func(w *world)
		policy  retention.Policy
		// stays is for how many days, from then on, the old version does.
		stays int
	}{
		"a pause of the servers":             {func(w *world) { w.pass(2 * day) }, policy(5 * day), 5},
		"a policy that did not ask":          {func(w *world) { w.once(w.sweeper(keepOne), time.Hour); w.pass(time.Hour) }, policy(5 * day), 5},
		"notes were kept for a shorter time": {func(w *world) { w.pass(time.Hour) }, policy(20 * day), 15},
		"a shorter time needs no more":       {func(w *world) { w.pass(time.Hour) }, policy(2 * day), 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.push("nginx", "a", "1.0.0") // It goes by the last policy, as far as the pulls are known.
			quiet := policy(5 * day)
			quiet.DryRun = true
			for range 10 {
				w.once(w.sweeper(quiet), time.Hour)
				w.pass(day)
			}
			w.once(w.sweeper(quiet), time.Hour)
			w.push("nginx", "b", "2.0.0")
			test.between(w)
			s := w.sweeper(test.policy)
			w.once(s, time.Hour)
			w.pass(time.Hour)
			for range test.stays {
				w.once(s, time.Hour)
				w.wantTags("too early", "nginx", "1.0.0 2.0.0")
				w.pass(day)
			}
			w.once(s, time.Hour)
			w.wantTags("in the end", "nginx", "2.0.0")
		})
	}
}

func TestOnlyCoveredChartsAreRead(t *testing.T) {
	w := newWorld(t)
	w.push("nginx", "a", "1.0.0")
	w.push("nginx", "b", "2.0.0")
	w.push("redis", "a", "1.0.0")
	w.push("redis", "b", "2.0.0")
	p := retention.Policy{Rules: []retention.Rule{{Charts: []string{"ng*"}, KeepNewest: 1}}}
	w.open(&forbidden{w.bucket, "charts/redis/tags/"})
	w.once(w.sweeper(p), time.Hour)
	w.pass(time.Hour)
	w.once(w.sweeper(p), time.Hour)
	w.wantTags("after the run", "nginx", "2.0.0")
}

// forbidden fails reads below a prefix.
type forbidden struct {
	bucket.Bucket
	prefix string
}

func (f *forbidden) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if strings.HasPrefix(key, f.prefix) {
		return nil, bucket.Info{}, fmt.Errorf("read %s: %w", key, bucket.ErrUnavailable)
	}
	return f.Bucket.Get(ctx, key, r)
}

// What could not be read whole was not shown, and is no reason to delete anything.
func TestAFailedRunShowsNothing(t *testing.T) {
	w := newWorld(t)
	w.push("a", "a", "1.0.0")
	w.push("a", "b", "2.0.0")
	w.push("b", "a", "1.0.0")
	good := w.bucket
	w.open(&forbidden{good, "charts/b/tags/"})
	s := w.sweeper(keepOne)
	pause, err := s.Once(t.Context())
	if !errors.Is(err, bucket.ErrUnavailable) || pause > time.Minute || !errors.Is(s.State().Problem, bucket.ErrUnavailable) || s.State().Current {
		t.Errorf("%s, %v, %+v", pause, err, s.State())
	}
	w.pass(2 * time.Hour)
	w.open(good)
	s = w.sweeper(keepOne)
	w.once(s, time.Hour)
	w.wantTags("after the plan", "a", "1.0.0 2.0.0")
	w.pass(time.Hour)
	w.once(s, time.Hour)
	w.wantTags("after the delay", "a", "2.0.0")
	if s.State().Problem != nil {
		t.Errorf("the problem is still %v", s.State().Problem)
	}
}

func TestADamagedPlanBeginsAnew(t *testing.T) {
	for _, content := range []string{"", "{", "[]", `{"policy":"x"}`, strings.Repeat("x", 1<<20)} {
		w := newWorld(t)
		w.push("nginx", "a", "1.0.0")
		w.push("nginx", "b", "2.0.0")
		w.once(w.sweeper(keepOne), time.Hour)
		w.pass(2 * time.Hour)
		if _, err := w.bucket.Put(t.Context(), "retention/plan.json", strings.NewReader(content), int64(len(content)), bucket.Condition{}); err != nil {
			t.Fatal(err)
		}
		w.once(w.sweeper(keepOne), time.Hour)
		w.wantTags("with a damaged plan", "nginx", "1.0.0 2.0.0")
		w.pass(time.Hour)
		w.once(w.sweeper(keepOne), time.Hour)
		w.wantTags("later", "nginx", "2.0.0")
	}
}

// Whatever many replicas do at once, each version is deleted once, and only after the delay.
func TestManyReplicas(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.push("nginx", fmt.Sprint(i), fmt.Sprintf("1.0.%d", 10+i))
	}
	var deleted atomic.Int64
	run := func() {
		var all sync.WaitGroup
		for range 4 {
			o := w.options(keepOne)
			o.Log, o.Deleted = slog.New(slog.DiscardHandler), func(_, _, _, _ string) { deleted.Add(1) }
			s := w.sweeperOf(o)
			all.Go(func() {
				if _, err := s.Once(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	run()
	if n := deleted.Load(); n != 0 {
		t.Errorf("%d went before the delay", n)
	}
	w.pass(time.Hour)
	run()
	if n := deleted.Load(); n != 19 {
		t.Errorf("%d were deleted, want 19", n)
	}
	w.wantTags("at the end", "nginx", "1.0.29")
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.push("nginx", "a", "1.0.0")
		w.push("nginx", "b", "2.0.0")
		o := w.options(keepOne)
		o.Now = time.Now
		s := w.sweeperOf(o)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var running sync.WaitGroup
		running.Go(func() { s.Run(ctx) })
		time.Sleep(59 * time.Minute)
		synctest.Wait()
		w.wantTags("before the delay is over", "nginx", "1.0.0 2.0.0")
		time.Sleep(time.Minute)
		synctest.Wait()
		w.wantTags("after it", "nginx", "2.0.0")
		w.push("nginx", "c", "3.0.0")
		time.Sleep(time.Hour)
		synctest.Wait()
		w.wantTags("after an hour more", "nginx", "3.0.0")
		cancel()
		running.Wait()
	})
}

func TestPreview(t *testing.T) {
	w := newWorld(t)
	w.push("nginx", "a", "1.0.0")
	w.push("nginx", "b", "2.0.0")
	w.push("team/redis", "a", "1.0.0")
	var got []string
	err := sweep.Preview(t.Context(), w.options(keepOne), func(chart string, d retention.Decision) {
		got = append(got, fmt.Sprintf("%s:%s %t", chart, d.Tag, d.Delete))
	})
	if s := strings.Join(got, ", "); err != nil || s != "nginx:1.0.0 true, nginx:2.0.0 false, team/redis:1.0.0 false" {
		t.Errorf("%s, %v", s, err)
	}
	w.wantTags("after a look", "nginx", "1.0.0 2.0.0")
	if _, err := w.bucket.Head(t.Context(), "retention/plan.json"); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("a look left a plan: %v", err)
	}
}

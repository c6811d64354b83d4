package inventory_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// counted counts requests, and fails them where it is told to.
type counted struct {
	bucket.Bucket
	mu   sync.Mutex
	did  map[string]int
	fail func(operation, key string) error
}

func (c *counted) done(operation, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.did == nil {
		c.did = map[string]int{}
	}
	section := key
	if parts := strings.Split(key, "/"); parts[0] == "charts" && len(parts) > 2 {
		section = parts[2]
	} else if parts[0] == "inventory" {
		section = strings.Join(parts[:2], "/")
	}
	c.did[operation+" "+section]++
	if c.fail != nil {
		return c.fail(operation, key)
	}
	return nil
}

// reset forgets what was counted, and returns it.
func (c *counted) reset() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	did := c.did
	c.did = nil
	return did
}

func (c *counted) failing(f func(operation, key string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = f
}

func (c *counted) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if err := c.done("get", key); err != nil {
		return nil, bucket.Info{}, err
	}
	return c.Bucket.Get(ctx, key, r)
}

func (c *counted) Put(ctx context.Context, key string, body io.Reader, size int64, condition bucket.Condition) (bucket.Info, error) {
	c.mu.Lock()
	fail := c.fail
	c.mu.Unlock()
	if fail != nil {
		if err := fail("put", key); err != nil {
			return bucket.Info{}, err
		}
	}
	// Counted when it is done, for who waits for it.
	info, err := c.Bucket.Put(ctx, key, body, size, condition)
	return info, cmp.Or(err, c.done("put", key))
}

func (c *counted) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	if err := c.done("list", o.Prefix); err != nil {
		return bucket.Page{}, err
	}
	return c.Bucket.List(ctx, o)
}

func read(tb testing.TB, b bucket.Bucket, key string) []byte {
	tb.Helper()
	body, _, err := b.Get(tb.Context(), key, nil)
	ok(tb, err)
	defer body.Close()
	content, err := io.ReadAll(body)
	ok(tb, err)
	return content
}

func same(a, b *replica) bool {
	return a.Totals(nil) == b.Totals(nil) && a.Index(nil).ETag(inventory.OCI, false) == b.Index(nil).ETag(inventory.OCI, false)
}

func TestReplicasLearnOfEachOther(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	first, second := built(t, b, nil), built(t, b, nil)
	first.push("web", "1.0.0", nil)
	second.push("web", "1.1.0", nil)
	first.untilTags("web", "1.1.0 1.0.0")
	second.untilTags("web", "1.1.0 1.0.0")
	old, _ := second.Version("web", "1.0.0")
	first.tag("web", "1.0.0", append([]byte(`{"schemaVersion":2,"layers":[],"config":`), []byte(first.blob("web", "text/plain", "moved")+"}")...))
	second.until("a tag is moved", func() bool { v, _ := second.Version("web", "1.0.0"); return v.Digest != old.Digest && !v.Chart })
	second.delete("web", "1.1.0")
	first.untilTags("web", "(1.0.0)")
	second.delete("web", "1.0.0")
	first.untilTags("web", "")
	if !same(first, second) {
		t.Errorf("%+v and %+v", first.Totals(nil), second.Totals(nil))
	}
	// What each knows of the other can be compared.
	first.push("web", "2.0.0", nil)
	first.until("both have seen it", func() bool {
		a, b := first.Wire(), second.Wire()
		return len(b.Clock) == 2 && a.Clock[newest(a, b)] == b.Clock[newest(a, b)] && !a.Behind(b) && !b.Behind(a) && len(a.Charts) == 1 && len(b.Charts) == 1
	})
}

// newest is the process that both know of with the highest count.
func newest(a, b wire.Inventory) string {
	most := ""
	for process, n := range a.Clock {
		if _, both := b.Clock[process]; both && n >= a.Clock[most] {
			most = process
		}
	}
	return most
}

// More changes than are told by name are followed too, and what was pushed by who was killed before it could tell.
func TestWhatNobodyTellsIsFound(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	other := built(t, b, nil)
	silent := &counted{Bucket: b}
	silent.failing(func(operation, key string) error {
		if operation == "put" && strings.HasPrefix(key, "inventory/") {
			return bucket.ErrUnavailable
		}
		return nil
	})
	killed := built(t, silent, nil)
	killed.push("web", "1.0.0", nil)
	killed.untilTags("web", "1.0.0")
	killed.stop()
	// Its successor has the cache, finds what that lacks, and tells.
	ok(t, other.WriteCache(t.Context()))
	next := built(t, b, nil)
	next.untilTags("web", "1.0.0")
	other.untilTags("web", "1.0.0")
	// Without anybody, it is found when all is compared.
	killed = built(t, silent, nil)
	killed.push("web", "1.1.0", nil)
	killed.stop()
	ok(t, other.Compare(t.Context()))
	other.untilTags("web", "1.1.0 1.0.0")
	next.untilTags("web", "1.1.0 1.0.0")
}

func TestTold(t *testing.T) {
	charts := func(n int) map[string]int {
		all := map[string]int{}
		for i := range n {
			all[fmt.Sprint("c", i)] = i
		}
		return all
	}
	for name, c := range map[string]struct {
		told  any
		since uint64
		want  string
	}{
		"all":          {map[string]any{"count": 3, "from": 0, "charts": map[string]int{"a": 3, "b": 2}}, 0, "[a b] true"},
		"some":         {map[string]any{"count": 3, "from": 0, "charts": map[string]int{"a": 3, "b": 2}}, 2, "[a] true"},
		"none":         {map[string]any{"count": 3, "from": 0, "charts": map[string]int{"a": 3, "b": 2}}, 3, "[] true"},
		"not complete": {map[string]any{"count": 3, "from": 2, "charts": map[string]int{"a": 3}}, 1, "[a] false"},
		"just so":      {map[string]any{"count": 3, "from": 2, "charts": map[string]int{"a": 3}}, 2, "[a] true"},
		"too many":     {map[string]any{"count": 3, "from": 2, "charts": charts(1001)}, 2, "error"},
		"backwards":    {map[string]any{"count": 3, "from": 4}, 2, "error"},
		"something":    {[]int{1}, 2, "error"},
	} {
		t.Run(name, func(t *testing.T) {
			content, err := json.Marshal(c.told)
			ok(t, err)
			charts, known, err := inventory.ReadTold(content, c.since)
			slices.Sort(charts)
			got := fmt.Sprint(charts, known)
			if err != nil {
				got = "error"
			}
			if got != c.want {
				t.Errorf("it is %s, want %s", got, c.want)
			}
		})
	}
}

func FuzzReadTold(f *testing.F) {
	f.Add([]byte(`{"count":3,"from":1,"charts":{"a":2}}`))
	f.Add([]byte(`{"count":-1}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		charts, _, err := inventory.ReadTold(content, 0)
		if err != nil && charts != nil || len(charts) > 1000 {
			t.Errorf("%d charts and %v", len(charts), err)
		}
	})
}

// A start with the cache reads what has changed since, and nothing else; without it, or with one that is no good, all.
func TestCache(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	first := built(t, b, nil)
	for i := range 20 {
		first.push(fmt.Sprint("chart", i%4), fmt.Sprintf("1.%d.0", i), fields{"description": fmt.Sprint(i)})
	}
	first.until("all are known", func() bool { return first.Totals(nil).Versions == 20 })
	ok(t, first.WriteCache(t.Context()))
	first.push("chart1", "2.0.0", nil)
	first.until("all are known", func() bool { return first.Totals(nil).Versions == 21 })
	want := first.Index(nil).ETag(inventory.Archives, true)
	first.stop()

	c := &counted{Bucket: b}
	second := built(t, c, nil)
	second.until("it is the same", func() bool { return second.Index(nil).ETag(inventory.Archives, true) == want })
	if did := c.reset(); did["get manifests"] != 1 || did["get tags"] != 1 || did["get blobs"] != 1 {
		t.Errorf("with a cache, it took %v", did)
	}
	if !same(first, second) {
		t.Errorf("%+v and %+v", first.Totals(nil), second.Totals(nil))
	}
	second.stop()

	good := read(t, b, "inventory/cache")
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 12 {
		bad := slices.Clone(good)
		switch i % 3 {
		case 0:
			bad = bad[:random.IntN(len(bad))]
		case 1:
			bad[random.IntN(len(bad))] ^= 1 << random.IntN(8)
		default:
			bad = append(bad[:random.IntN(len(bad))], good...)
		}
		if _, err := inventory.ReadCache(bad); !errors.Is(err, inventory.ErrCache) {
			t.Errorf("a damaged cache is taken, or refused with %v", err)
		}
	}
	_, err := b.Put(t.Context(), "inventory/cache", bytes.NewReader(good[:len(good)-1]), int64(len(good)-1), bucket.Condition{})
	ok(t, err)
	third := built(t, c, nil)
	if did := c.reset(); did["get manifests"] != 21 || !same(first, third) {
		t.Errorf("with a damaged cache, it took %v", did)
	}
	third.until("the cache is written again", func() bool {
		again, err := inventory.ReadCache(read(t, b, "inventory/cache"))
		return err == nil && len(again) > 0
	})
}

// The cache is written by who may, when much has changed, or something for long, and nobody else has.
func TestTheCacheIsWrittenWhenItIsDue(t *testing.T) {
	t.Parallel()
	c := &counted{Bucket: newBucket(t)}
	var may atomic.Bool
	alone := func(ctx context.Context, work func(context.Context)) (bool, error) {
		if may.Load() {
			work(ctx)
		}
		return may.Load(), nil
	}
	r := built(t, c, func(o *inventory.Options) { o.Alone = alone })
	r.push("web", "1.0.0", nil)
	r.untilTags("web", "1.0.0")
	r.stop()
	due := func(after time.Duration) int {
		t.Helper()
		c.reset()
		ok(t, r.CacheIfDue(t.Context(), time.Now().Add(after)))
		return c.reset()["put inventory/cache"]
	}
	if due(0) != 0 {
		t.Error("it is written by who may not")
	}
	may.Store(true)
	if due(0) != 1 || due(2*time.Hour) != 0 {
		t.Error("it is not written once")
	}
	other := built(t, c, nil)
	other.push("web", "1.1.0", nil)
	other.untilTags("web", "1.1.0 1.0.0")
	other.stop()
	ok(t, r.Compare(t.Context()))
	if due(0) != 0 || due(2*time.Hour) != 1 {
		t.Error("it is not written once something has changed for long")
	}
	ok(t, other.WriteCache(t.Context()))
	ok(t, r.repository("web").DeleteManifest(t.Context(), "1.1.0"))
	ok(t, r.Compare(t.Context()))
	if due(2*time.Hour) != 0 {
		t.Error("it is written although another replica has")
	}
}

func FuzzReadCache(f *testing.F) {
	r := built(f, newBucket(f), nil)
	r.push("team/web", "1.0.0", fields{"description": "x", "deprecated": true})
	r.push("team/web", "1.1.0", nil)
	r.until("both are known", func() bool { return r.Totals(nil).Versions == 2 })
	ok(f, r.WriteCache(f.Context()))
	body, _, err := r.bucket.Get(f.Context(), "inventory/cache", nil)
	ok(f, err)
	content, err := io.ReadAll(body)
	ok(f, err)
	_ = body.Close()
	r.stop()
	f.Add(content[:len(content)-32])
	f.Add([]byte("chartroom inventory 1\n\x00\x01\x01a\x01"))
	f.Fuzz(func(t *testing.T, content []byte) {
		// With the sum that it ought to have, so that what is before it is read.
		whole := append(slices.Clone(content), digestBytes(content)...)
		again, err := inventory.ReadCache(whole)
		if err != nil {
			return
		}
		twice, err := inventory.ReadCache(again)
		if err != nil || !bytes.Equal(again, twice) {
			t.Errorf("written again it is another one: %v", err)
		}
	})
}

func digestBytes(content []byte) []byte {
	h := digest.SHA256.Hash()
	_, _ = h.Write(content)
	return h.Sum(nil)
}

// What cannot be read now is read later, and not taken for gone.
func TestWhatCannotBeReadIsReadLater(t *testing.T) {
	t.Parallel()
	c := &counted{Bucket: newBucket(t)}
	r := built(t, c, nil)
	r.push("web", "1.0.0", nil)
	r.untilTags("web", "1.0.0")
	c.failing(func(operation, key string) error {
		if operation == "get" && strings.Contains(key, "/tags/") {
			return bucket.ErrUnavailable
		}
		return nil
	})
	m := r.push("web", "1.1.0", nil)
	clock := r.Wire().Clock
	ok(t, r.repository("web").DeleteManifest(t.Context(), "1.0.0"))
	r.until("it fails", func() bool { return r.Health().Failures > 0 })
	if got := r.tags("web"); got != "1.0.0" {
		t.Errorf("known are %s", got)
	}
	c.failing(nil)
	r.untilTags("web", "1.1.0")
	if v, _ := r.Version("web", "1.1.0"); v.Digest != m.Digest {
		t.Errorf("it is %+v", v)
	}
	r.until("the clock goes on", func() bool {
		now := r.Wire().Clock
		for process, n := range now {
			if n > clock[process] {
				return true
			}
		}
		return false
	})
}

// A registry that cannot be listed is not taken for an empty one.
func TestBuildingWaitsForTheStorage(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	writer := built(t, b, nil)
	writer.push("web", "1.0.0", nil)
	writer.stop()
	c := &counted{Bucket: b}
	var started atomic.Bool
	c.failing(func(operation, _ string) error {
		if started.Load() && operation == "list" {
			return bucket.ErrUnavailable
		}
		return nil
	})
	started.Store(true)
	r := start(t, c, nil)
	r.until("it fails", func() bool { return r.Health().Failures > 1 })
	if !r.Building() || !r.Wire().Building {
		t.Error("it is built")
	}
	c.failing(nil)
	r.untilTags("web", "1.0.0")
	r.until("it is built", func() bool { return !r.Building() })
	if r.Health().Built == 0 {
		t.Error("it took no time")
	}
}

func TestWire(t *testing.T) {
	t.Parallel()
	r := built(t, newBucket(t), nil)
	if w := r.Wire(); w.Totals != (wire.InventoryTotals{}) || w.Charts != nil || w.Truncated || w.Building {
		t.Errorf("of nothing the operator is told %+v", w)
	}
	for i := range 101 {
		r.push(fmt.Sprintf("c%03d", i), "1.0.0+b", nil)
	}
	m := r.push("c000", "1.1.0-rc.1", fields{"appVersion": "3"})
	r.until("all are known", func() bool { return r.Totals(nil).Versions == 102 })
	w, total := r.Wire(), r.Totals(nil)
	if len(w.Charts) != 100 || !w.Truncated || w.Totals.Charts != 101 || w.Totals.Versions != 102 || w.Totals.SizeBytes != total.SizeBytes || !w.Totals.LastPushed.Equal(total.LastPushed) {
		t.Errorf("it is told %+v", w.Totals)
	}
	c, _ := r.Chart("c000")
	if got := w.Charts[0]; got.Name != "c000" || got.LatestVersion != "1.0.0+b" || got.Versions != 2 || got.Digest != c.Latest.Digest.String() || got.SizeBytes != c.SizeBytes || !got.LastPushed.Equal(c.LastPushed) {
		t.Errorf("it is told %+v", got)
	}
	r.delete("c000", "1.0.0_b")
	r.until("the rest is a pre-release", func() bool {
		got := r.Wire().Charts[0]
		return got.LatestVersion == "1.1.0-rc.1" && got.AppVersion == "3" && got.Digest == m.Digest.String()
	})
	if len(r.Wire().Clock) != 1 {
		t.Errorf("the clock is %v", r.Wire().Clock)
	}
}

// aged is a bucket in which what some keys have is older than it is.
type aged struct {
	bucket.Bucket
	key string
	by  time.Duration
}

func (a aged) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	p, err := a.Bucket.List(ctx, o)
	for i := range p.Objects {
		if p.Objects[i].Key == a.key {
			p.Objects[i].Modified = p.Objects[i].Modified.Add(-a.by)
		}
	}
	return p, err
}

// What a process that is gone has told is removed a day after the others have told something.
func TestWhatIsGoneIsTidiedUp(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	gone := built(t, b, nil)
	gone.push("web", "1.0.0", nil)
	gone.untilTags("web", "1.0.0")
	gone.stop()
	told := func() []bucket.Info {
		t.Helper()
		p, err := b.List(t.Context(), bucket.ListOptions{Prefix: "inventory/changes/"})
		ok(t, err)
		return p.Objects
	}
	old := told()
	if len(old) != 1 {
		t.Fatalf("told are %v", old)
	}
	for by, want := range map[time.Duration]int{23 * time.Hour: 2, 25 * time.Hour: 1} {
		r := built(t, aged{b, old[0].Key, by}, nil)
		r.push("web", "1.1.0", nil)
		r.until("it is told", func() bool {
			return slices.ContainsFunc(told(), func(i bucket.Info) bool { return i.Key != old[0].Key })
		})
		ok(t, r.Tidy(t.Context(), time.Now().Add(2*time.Hour)))
		if got := len(told()); by > 24*time.Hour && got != want || by < 24*time.Hour && got < want {
			t.Errorf("after %s there are %d", by, got)
		}
		r.delete("web", "1.1.0")
		r.stop()
		for _, i := range told() {
			if i.Key != old[0].Key {
				ok(t, b.Delete(t.Context(), i.Key, bucket.Condition{}))
			}
		}
		content := []byte(`{"count":1,"from":0,"charts":{"web":1}}`)
		_, err := b.Put(t.Context(), old[0].Key, bytes.NewReader(content), int64(len(content)), bucket.Condition{})
		ok(t, err)
	}
}

// More charts than are named are told as so many that everything is to be looked at.
func TestMoreChangesThanAreTold(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{3: "3 true", 1000: "1000 true", 1001: "1000 false", 2500: "1000 false"} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprint("chart", i))
		}
		content, err := json.Marshal(inventory.Told(append(names, names[n-1])))
		ok(t, err)
		charts, known, err := inventory.ReadTold(content, 0)
		ok(t, err)
		if got := fmt.Sprint(len(charts), known); got != want {
			t.Errorf("of %d changes is told %s, want %s", n, got, want)
		}
		// Who knows of all but the last ones is told which those are.
		if charts, known, _ := inventory.ReadTold(content, uint64(n-2)); len(charts) != 2 && n > 3 || !known {
			t.Errorf("of the last of %d changes is told %v, %t", n, charts, known)
		}
	}
}

// How long it took to see everything is said once, with the rate.
func TestBuildingIsLogged(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	first := built(t, b, func(o *inventory.Options) { o.CacheFrom = 100 })
	first.push("web", "1.0.0", nil)
	first.untilTags("web", "1.0.0")
	var lines bytes.Buffer
	second := built(t, b, func(o *inventory.Options) { o.Log = slog.New(slog.NewTextHandler(&lines, nil)) })
	second.stop()
	if got := lines.String(); !strings.Contains(got, "tags=1 cached=false") || !strings.Contains(got, "tagsPerSecond=") {
		t.Errorf("the log is %q", got)
	}
}

// What is known of a version stays when it is read again and the storage does not answer.
func TestWhatIsKnownOutlivesFailures(t *testing.T) {
	t.Parallel()
	c := &counted{Bucket: newBucket(t)}
	r := built(t, c, nil)
	r.push("web", "1.0.0", fields{"appVersion": "7"})
	r.untilTags("web", "1.0.0")
	before, _ := r.Version("web", "1.0.0")
	index := r.Index(nil).ETag(inventory.OCI, false)
	c.failing(func(operation, key string) error {
		if operation == "get" && (strings.Contains(key, "/blobs/") || strings.Contains(key, "/manifests/")) {
			return bucket.ErrUnavailable
		}
		return nil
	})
	r.Tagged("web", "1.0.0")
	r.until("it fails", func() bool { return r.Health().Failures > 0 })
	if after, _ := r.Version("web", "1.0.0"); after != before || after.AppVersion != "7" {
		t.Errorf("it is %+v, and was %+v", after, before)
	}
	if r.Index(nil).ETag(inventory.OCI, false) != index {
		t.Error("the index is another one")
	}
}

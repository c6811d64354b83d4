package repository_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// newTracker returns one that has counted.
func newTracker(t *testing.T, b bucket.Bucket, limits quota.Limits) *quota.Tracker {
	t.Helper()
	tracker := quota.New(quota.Options{
		Bucket: b, Limits: limits,
		Count: func(ctx context.Context) (quota.Usage, error) { return repository.Count(ctx, b) },
	})
	ok(t, tracker.RecountIfDue(t.Context()))
	return tracker
}

// limited opens a store with limits.
func limited(t *testing.T, b bucket.Bucket, limits quota.Limits) (*repository.Store, *quota.Tracker) {
	t.Helper()
	tracker := newTracker(t, b, limits)
	return openStore(t, b, repository.Options{Quota: tracker, TagMutable: func(tag string) bool { return tag == "dev" }}), tracker
}

// wantCounted compares what is counted with what there is.
func wantCounted(t *testing.T, b bucket.Bucket, tracker *quota.Tracker) {
	t.Helper()
	actual, err := repository.Count(t.Context(), b)
	ok(t, err)
	if used, _ := tracker.Usage(); used != actual {
		t.Errorf("%+v is counted, and there is %+v", used, actual)
	}
}

func wantRefused(t *testing.T, err error, words string) {
	t.Helper()
	var over *quota.Error
	if !errors.As(err, &over) || !strings.Contains(over.Reason, words) {
		t.Fatalf("error is %v, want one that says %q", err, words)
	}
}

// untouched fails the test when it is read.
type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body is read")
	return 0, io.ErrUnexpectedEOF
}

func TestCount(t *testing.T) {
	b := newBucket(t)
	s := openStore(t, b, repository.Options{})
	for _, name := range []string{"a", "a-b", "a/b"} {
		mustPutChart(t, openRepository(t, s, name), "1.0.0", "layer")
	}
	a := openRepository(t, s, "a")
	mustPutChart(t, a, "1.0.1", "layer")
	mustPutChart(t, a, "sha256-"+strings.Repeat("0", 64)+".sig", "layer")
	mustPutChart(t, openRepository(t, s, "signed"), "artifacthub.io", "layer")
	putBlob(t, openRepository(t, s, "untagged"), "x")
	appendChunk(t, a.Upload("u"), 0, "chunk", 5)
	putObject(t, b, "usage/base.json", "{}")
	got, err := repository.Count(t.Context(), b)
	ok(t, err)
	if got.Charts != 3 || got.Versions != 4 {
		t.Errorf("%+v", got)
	}
	var bytes int64
	for _, key := range keys(t, b) {
		if strings.Contains(key, "/blobs/") || strings.Contains(key, "/manifests/") {
			info, err := b.Head(t.Context(), key)
			ok(t, err)
			bytes += info.Size
		}
	}
	if got.Bytes != bytes {
		t.Errorf("%d bytes are counted of %d", got.Bytes, bytes)
	}
}

func TestWhatIsCounted(t *testing.T) {
	b := newBucket(t)
	s, tracker := limited(t, b, quota.Limits{Bytes: 1 << 20})
	r, other := openRepository(t, s, "a"), openRepository(t, s, "b/c")
	before := func() quota.Usage { u, _ := tracker.Usage(); return u }
	for _, step := range []struct {
		what             string
		do               func() error
		charts, versions int64
		bytes            bool
	}{
		{"a blob", func() error {
			return r.PutBlob(t.Context(), digest.FromString("config"), strings.NewReader("config"), 6)
		}, 0, 0, true},
		{"the same again", func() error {
			return r.PutBlob(t.Context(), digest.FromString("config"), strings.NewReader("config"), 6)
		}, 0, 0, false},
		{"and of unknown size", func() error {
			return r.PutBlob(t.Context(), digest.FromString("config"), strings.NewReader("config"), -1)
		}, 0, 0, false},
		{"another", func() error {
			return r.PutBlob(t.Context(), digest.FromString("layer"), strings.NewReader("layer"), -1)
		}, 0, 0, true},
		{"a wrong one", func() error {
			err := r.PutBlob(t.Context(), digest.FromString("x"), strings.NewReader("layer"), -1)
			want(t, err, repository.ErrDigestMismatch)
			return nil
		}, 0, 0, false},
		{"a manifest", func() error { return put(t, r, digest.FromBytes(chart(t, "layer")).String()) }, 0, 0, true},
		{"its first tag", func() error { return put(t, r, "1.0.0") }, 1, 1, false},
		{"its first tag again", func() error { return put(t, r, "1.0.0") }, 0, 0, false},
		{"a second", func() error { return put(t, r, "1.0.1") }, 0, 1, false},
		{"a signature's", func() error { return put(t, r, "sha256-0.sig") }, 0, 0, false},
		{"two with one that is there", func() error { return put(t, r, "2.0.0", "1.0.0", "v2", "v2") }, 0, 2, false},
		{"a mount", func() error { _, err := other.Mount(t.Context(), digest.FromString("layer"), r); return err }, 0, 0, true},
		{"a mount of what is there", func() error { _, err := other.Mount(t.Context(), digest.FromString("layer"), r); return err }, 0, 0, false},
		{"a chunk", func() error {
			_, err := r.Upload("u").Append(t.Context(), -1, strings.NewReader("chu"), -1)
			return err
		}, 0, 0, false},
		{"the whole", func() error {
			return r.Upload("u").Commit(t.Context(), digest.FromString("chunk"), -1, strings.NewReader("nk"), 2)
		}, 0, 0, true},
		{"a chunk that is given up", func() error {
			_, err := r.Upload("v").Append(t.Context(), -1, strings.NewReader("chu"), 3)
			return errors.Join(err, r.Upload("v").Cancel(t.Context()))
		}, 0, 0, false},
		{"a delete of a tag", func() error { return r.DeleteManifest(t.Context(), "1.0.1") }, 0, -1, false},
		{"of a signature's", func() error { return r.DeleteManifest(t.Context(), "sha256-0.sig") }, 0, 0, false},
		{"of a manifest with the last tags", func() error { return r.DeleteManifest(t.Context(), digest.FromBytes(chart(t, "layer")).String()) }, -1, -3, true},
		{"of a blob", func() error { return r.DeleteBlob(t.Context(), digest.FromString("layer")) }, 0, 0, true},
	} {
		was := before()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		is := before()
		if is.Charts-was.Charts != step.charts || is.Versions-was.Versions != step.versions || (is.Bytes != was.Bytes) != step.bytes {
			t.Errorf("%s: from %+v to %+v", step.what, was, is)
		}
		wantCounted(t, b, tracker)
	}
}

func put(t *testing.T, r *repository.Repository, reference string, tags ...string) error {
	t.Helper()
	_, err := r.PutManifest(t.Context(), reference, imageType, chart(t, "layer"), "ci", tags...)
	return err
}

func TestBytesOverTheQuota(t *testing.T) {
	b := newBucket(t)
	s, tracker := limited(t, b, quota.Limits{Bytes: 100})
	r := openRepository(t, s, "a")
	full := strings.Repeat("x", 100)
	long := strings.Repeat("y", 100_000)
	push := func(content string, size int64) error {
		return r.PutBlob(t.Context(), digest.FromString(content), strings.NewReader(content), size)
	}
	const used = "(used: 0 B, wanted: "
	wantRefused(t, r.PutBlob(t.Context(), digest.FromString(long), untouched{t}, 101), used+"101 B more)")
	wantRefused(t, push(long, -1), used)
	_, err := r.Upload("u").Append(t.Context(), -1, untouched{t}, 101)
	wantRefused(t, err, used+"101 B more)")
	_, err = r.Upload("u").Append(t.Context(), -1, strings.NewReader(long), -1)
	wantRefused(t, err, used)
	wantRefused(t, r.Upload("u").Commit(t.Context(), digest.FromString(long), -1, untouched{t}, 101), used)
	if got := keys(t, b); len(got) != 1 {
		t.Errorf("%q stayed behind", got)
	}

	// Chunk by chunk, and at the end.
	appendChunk(t, r.Upload("v"), 0, full[:60], 60)
	_, err = r.Upload("v").Append(t.Context(), -1, untouched{t}, 41)
	wantRefused(t, err, used+"101 B more)")
	_, err = r.Upload("v").Append(t.Context(), -1, strings.NewReader(long), -1)
	wantRefused(t, err, used)
	wantRefused(t, r.Upload("v").Commit(t.Context(), digest.FromString(long), -1, untouched{t}, 41), used+"101 B more)")
	wantRefused(t, r.Upload("v").Commit(t.Context(), digest.FromString(long), -1, strings.NewReader(long), -1), used)
	wantOffsetOf(t, r.Upload("v"), 60)
	ok(t, r.Upload("v").Commit(t.Context(), digest.FromString(full), -1, strings.NewReader(full[60:]), 40))
	wantCounted(t, b, tracker)

	// Full: nothing more fits, but the same does, by whatever way.
	wantRefused(t, push("z", 1), "(used: 100 B, wanted: 1 B more)")
	wantRefused(t, r.PutBlob(t.Context(), digest.FromString("z"), untouched{t}, -1), "(used: 100 B, wanted: 1 B more)")
	_, err = openRepository(t, s, "b").Mount(t.Context(), digest.FromString(full), r)
	wantRefused(t, err, "(used: 100 B, wanted: 100 B more)")
	ok(t, push(full, 100))
	ok(t, push(full, -1))
	// Deletes give room.
	ok(t, r.DeleteBlob(t.Context(), digest.FromString(full)))
	ok(t, push("z", 1))
	wantCounted(t, b, tracker)
}

// A push that is refused leaves nothing behind, its manifest neither.
func TestChartsAndVersionsOverTheQuota(t *testing.T) {
	b := newBucket(t)
	s, tracker := limited(t, b, quota.Limits{Charts: 1, Versions: 3})
	a, other := openRepository(t, s, "a"), openRepository(t, s, "b")
	for _, r := range []*repository.Repository{a, other} {
		putBlob(t, r, "config")
		putBlob(t, r, "layer")
	}
	refused := func(err error, words string) {
		t.Helper()
		before := keys(t, b)
		wantRefused(t, err, words)
		if after := keys(t, b); len(after) != len(before) {
			t.Errorf("%q", after)
		}
		wantCounted(t, b, tracker)
	}
	refused(put(t, a, "1.0.0", "1.0.1", "1.0.2", "1.0.3"), "3 versions (used: 0 versions, wanted: 4 versions more)")
	ok(t, put(t, a, "1.0.0"))
	refused(put(t, other, "1.0.0"), "1 chart (used: 1 chart, wanted: 1 chart more)")
	ok(t, put(t, a, "1.0.1", "dev"))
	refused(put(t, a, "1.0.3"), "3 versions (used: 3 versions, wanted: 1 version more)")
	// What is there, what is moved, and what is no version.
	ok(t, put(t, a, "1.0.1", "1.0.0", "sha256-0.sig", "artifacthub.io"))
	_, err := putChart(t, a, "dev", "another")
	ok(t, err)
	// Deletes give room.
	ok(t, a.DeleteManifest(t.Context(), "1.0.1"))
	ok(t, put(t, a, "1.0.3"))
	for _, tag := range []string{"1.0.0", "1.0.3", "dev"} {
		ok(t, a.DeleteManifest(t.Context(), tag))
	}
	ok(t, put(t, other, "v1"))
	wantCounted(t, b, tracker)
}

// A limit below what is there deletes nothing, and lets through what does not add to it.
func TestALimitThatWasLowered(t *testing.T) {
	b := newBucket(t)
	s := openStore(t, b, repository.Options{})
	mustPutChart(t, openRepository(t, s, "a"), "1.0.0", "layer")
	mustPutChart(t, openRepository(t, s, "b"), "1.0.0", "layer")
	s, tracker := limited(t, b, quota.Limits{Bytes: 1, Charts: 1, Versions: 1})
	a := openRepository(t, s, "a")
	mustPutChart(t, a, "1.0.0", "layer")
	wantRefused(t, put(t, a, "1.0.1"), "1 version")
	ok(t, a.DeleteManifest(t.Context(), "1.0.0"))
	wantRefused(t, put(t, a, "1.0.0"), "1 chart")
	wantCounted(t, b, tracker)
}

func TestChartsOverTheirSize(t *testing.T) {
	b := newBucket(t)
	s := openStore(t, b, repository.Options{MaxChartBytes: 10, MaxBlobBytes: 100})
	r := openRepository(t, s, "a")
	content := strings.Repeat("x", 11)
	d := digest.FromString(content)
	for what, c := range map[string]struct {
		err  error
		want string
	}{
		"announced":  {r.PutBlob(t.Context(), d, untouched{t}, 11), "a chart may have 10 B at most in this registry, and this one has 11 B"},
		"streamed":   {r.PutBlob(t.Context(), d, strings.NewReader(content), -1), "this one has more"},
		"at the end": {r.Upload("u").Commit(t.Context(), d, -1, strings.NewReader(content), -1), "this one has more"},
		"a chunk":    {appendError(t, r.Upload("u"), untouched{t}, 11), "this one has more"},
		"a stream":   {appendError(t, r.Upload("u"), strings.NewReader(content), -1), "this one has more"},
	} {
		wantRefused(t, c.err, c.want)
		if !errors.Is(c.err, repository.ErrTooLarge) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
	ok(t, r.PutBlob(t.Context(), digest.FromString(content[1:]), strings.NewReader(content[1:]), -1))
	if got := keys(t, b); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

func appendError(t *testing.T, u *repository.Upload, body io.Reader, size int64) error {
	t.Helper()
	_, err := u.Append(t.Context(), -1, body, size)
	return err
}

// Whatever happens at the same moment, what is counted is what there is.
func TestCountedAtOnce(t *testing.T) {
	b := newBucket(t)
	s, tracker := limited(t, b, quota.Limits{Bytes: 1 << 20, Charts: 100, Versions: 100})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wait sync.WaitGroup
	for worker := range uint64(8) {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(seed, worker))
			for range 60 {
				// Refusals are right here: others delete what is needed.
				_ = randomStep(t, random, s)
			}
		})
	}
	wait.Wait()
	wantCounted(t, b, tracker)
}

func randomStep(t *testing.T, random *rand.Rand, s *repository.Store) error {
	t.Helper()
	r := openRepository(t, s, fmt.Sprintf("chart-%d", random.IntN(2)))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	layer, tag := pick("red", "green"), pick("1.0.0", "2.0.0", "dev", "sha256-0.sig")
	content := chart(t, layer)
	d := digest.FromBytes(content).String()
	switch random.IntN(8) {
	case 0:
		return r.DeleteBlob(t.Context(), digest.FromString(layer))
	case 1, 2:
		return r.DeleteManifest(t.Context(), tag)
	case 3:
		return r.DeleteManifest(t.Context(), d)
	case 4:
		target := openRepository(t, s, "mounted-"+r.Name())
		if random.IntN(2) == 0 {
			return target.DeleteBlob(t.Context(), digest.FromString(layer))
		}
		_, err := target.Mount(t.Context(), digest.FromString(layer), r)
		return err
	case 5:
		return r.PutBlob(t.Context(), digest.FromString(layer), strings.NewReader(layer), -1)
	}
	for _, blob := range []string{"config", layer} {
		if err := r.PutBlob(t.Context(), digest.FromString(blob), strings.NewReader(blob), int64(len(blob))); err != nil {
			return err
		}
	}
	_, err := r.PutManifest(t.Context(), pick(tag, d), imageType, content, "ci")
	return err
}

// Two replicas see what the other has stored once both have told, and overshoot until then.
func TestReplicasOvershootUntilTheyTell(t *testing.T) {
	b := newBucket(t)
	limits := quota.Limits{Bytes: 100}
	one, oneTracker := limited(t, b, limits)
	two, twoTracker := limited(t, b, limits)
	x, y := strings.Repeat("x", 80), strings.Repeat("y", 80)
	ok(t, openRepository(t, one, "a").PutBlob(t.Context(), digest.FromString(x), strings.NewReader(x), 80))
	ok(t, openRepository(t, two, "a").PutBlob(t.Context(), digest.FromString(y), strings.NewReader(y), 80))
	for range 2 {
		ok(t, oneTracker.Refresh(t.Context()))
		ok(t, twoTracker.Refresh(t.Context()))
	}
	for _, s := range []*repository.Store{one, two} {
		wantRefused(t, openRepository(t, s, "a").PutBlob(t.Context(), digest.FromString("z"), untouched{t}, 1), "(used: 160 B, wanted: 1 B more)")
	}
	ok(t, openRepository(t, two, "a").DeleteBlob(t.Context(), digest.FromString(x)))
	ok(t, twoTracker.Refresh(t.Context()))
	ok(t, oneTracker.Refresh(t.Context()))
	wantCounted(t, b, oneTracker)
	ok(t, openRepository(t, one, "a").PutBlob(t.Context(), digest.FromString("z"), strings.NewReader("z"), 1))
}

// What a killed process has not told is found by the next recount.
func TestARecountFindsWhatWasNotTold(t *testing.T) {
	b := newBucket(t)
	killed, _ := limited(t, b, quota.Limits{Bytes: 1 << 20})
	mustPutChart(t, openRepository(t, killed, "a"), "1.0.0", "layer")
	_, tracker := limited(t, b, quota.Limits{Bytes: 1 << 20})
	if used, _ := tracker.Usage(); used != (quota.Usage{}) {
		t.Fatalf("%+v is known of what was not told", used)
	}
	ok(t, tracker.Recount(t.Context()))
	wantCounted(t, b, tracker)
}

// A chart with nothing but signatures is none, however many there are.
func TestSignaturesAreSteppedOver(t *testing.T) {
	b := newBucket(t)
	s, tracker := limited(t, b, quota.Limits{Charts: 1})
	r := openRepository(t, s, "a")
	putBlob(t, r, "config")
	putBlob(t, r, "layer")
	for i := range 20 {
		ok(t, put(t, r, fmt.Sprintf("sha256-%d.sig", i), fmt.Sprintf("sha512-%d.sig", i), "artifacthub.io"))
	}
	wantCounted(t, b, tracker)
	ok(t, put(t, r, "v1.0.0"))
	wantCounted(t, b, tracker)
	// Another process finds the chart behind them, at the cost of few listings.
	lists := &listing{Bucket: b}
	again := openStore(t, lists, repository.Options{Quota: newTracker(t, b, quota.Limits{Charts: 1})})
	lists.n = 0
	ok(t, put(t, openRepository(t, again, "a"), "v1.0.1"))
	if lists.n > 4 {
		t.Errorf("%d listings", lists.n)
	}
	lists.n = 0
	ok(t, put(t, openRepository(t, again, "a"), "v1.0.2"))
	if lists.n != 0 {
		t.Errorf("%d listings of a chart that is known", lists.n)
	}
}

// listing counts listings.
type listing struct {
	bucket.Bucket
	n int
}

func (l *listing) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	l.n++
	return l.Bucket.List(ctx, o)
}

// What is brought back within a chart is counted, and never refused.
func TestCopiesWithinAChartAreNotRefused(t *testing.T) {
	b := newBucket(t)
	putObject(t, b, "charts/a/elsewhere/x", "content")
	tracker := newTracker(t, b, quota.Limits{Bytes: 1})
	c := repository.Counted(b, tracker)
	for range 2 {
		_, err := c.Copy(t.Context(), "charts/a/elsewhere/x", "charts/a/blobs/sha256/x")
		ok(t, err)
		wantCounted(t, b, tracker)
	}
	_, err := c.Copy(t.Context(), "charts/a/elsewhere/x", "charts/b/blobs/sha256/x")
	wantRefused(t, err, "7 B more")
	wantCounted(t, b, tracker)
}

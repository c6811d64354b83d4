package repository_test

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// counting counts what reads ask of a bucket.
type counting struct {
	bucket.Bucket
	heads, gets atomic.Int64
}

func (c *counting) Head(ctx context.Context, key string) (bucket.Info, error) {
	c.heads.Add(1)
	return c.Bucket.Head(ctx, key)
}

func (c *counting) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	c.gets.Add(1)
	return c.Bucket.Get(ctx, key, r)
}

// asked returns how many requests f makes.
func (c *counting) asked(f func()) int64 {
	before := c.heads.Load() + c.gets.Load()
	f()
	return c.heads.Load() + c.gets.Load() - before
}

// cached is a repository with a cache whose clock the test turns, beside another process at the same bucket.
type cached struct {
	t      *testing.T
	bucket *counting
	now    time.Time
	r      *repository.Repository
	other  *repository.Repository
}

func newCached(t *testing.T, o repository.CacheOptions) *cached {
	t.Helper()
	b := newBucket(t)
	asked := &counting{Bucket: b}
	c := cachedOver(t, o, b, asked)
	c.bucket = asked
	return c
}

// cachedOver is newCached with nothing counted: the store uses own, which is a view of b.
func cachedOver(t *testing.T, o repository.CacheOptions, b, own bucket.Bucket) *cached {
	t.Helper()
	c := &cached{t: t, now: time.Unix(1_700_000_000, 0)}
	mutable := func(string) bool { return true }
	c.r = openRepository(t, openStore(t, own, repository.Options{Cache: o, TagMutable: mutable, Now: func() time.Time { return c.now }}), "a")
	c.other = openRepository(t, openStore(t, b, repository.Options{TagMutable: mutable}), "a")
	return c
}

// pull reads a version as helm does, and returns its manifest.
func (c *cached) pull(tag, layer string) repository.Manifest {
	c.t.Helper()
	m := c.manifest(tag)
	if got := blob(c.t, c.r, digest.FromString(layer), nil); got != layer {
		c.t.Errorf("the layer is %q", got)
	}
	return m
}

func (c *cached) manifest(reference string) repository.Manifest {
	c.t.Helper()
	content, m, err := c.r.OpenManifest(c.t.Context(), reference)
	ok(c.t, err)
	defer content.Close()
	read, err := io.ReadAll(content)
	ok(c.t, err)
	if digest.FromBytes(read) != m.Digest || int64(len(read)) != m.Size {
		c.t.Errorf("the manifest %s has %q", m.Digest, read)
	}
	return m
}

var roomy = repository.CacheOptions{Bytes: 1 << 20, BlobBytes: 1 << 10, BlobsFresh: 5 * time.Second}

func TestWarmPullAsksOnce(t *testing.T) {
	c := newCached(t, roomy)
	m := mustPutChart(t, c.other, "1.0.0", "layer")
	c.pull("1.0.0", "layer")
	if n := c.bucket.asked(func() { c.pull("1.0.0", "layer") }); n != 1 {
		t.Errorf("a warm pull made %d requests", n)
	}
	if n := c.bucket.asked(func() { c.manifest(m.Digest.String()) }); n != 1 {
		t.Errorf("a manifest by digest made %d requests", n)
	}
	stale := roomy
	stale.TagsFresh = 3 * time.Second
	c = newCached(t, stale)
	mustPutChart(t, c.other, "1.0.0", "layer")
	c.pull("1.0.0", "layer")
	if n := c.bucket.asked(func() { c.pull("1.0.0", "layer") }); n != 0 {
		t.Errorf("a warm pull made %d requests where none was needed", n)
	}
	c.now = c.now.Add(3 * time.Second)
	if n := c.bucket.asked(func() { c.pull("1.0.0", "layer"); c.pull("1.0.0", "layer") }); n != 1 {
		t.Errorf("two pulls after the tag's time made %d requests", n)
	}
}

// What another process deletes or moves is gone, or moved, at once; a blob within the time that was said.
func TestWhatAnotherProcessChanges(t *testing.T) {
	t.Run("seen by Head", func(t *testing.T) { testWhatAnotherProcessChanges(t, newCached(t, roomy)) })
	t.Run("seen by a bucket that compares", func(t *testing.T) {
		b := newBucket(t)
		testWhatAnotherProcessChanges(t, cachedOver(t, roomy, b, b))
	})
}

func testWhatAnotherProcessChanges(t *testing.T, c *cached) {
	t.Helper()
	mustPutChart(t, c.other, "1.0.0", "layer")
	c.pull("1.0.0", "layer")
	second := mustPutChart(t, c.other, "1.0.0", "second")
	if m := c.pull("1.0.0", "second"); m.Digest != second.Digest {
		t.Error("the tag was not seen to move")
	}
	ok(t, c.other.DeleteManifest(t.Context(), "1.0.0"))
	wantUnknown(t, c.r, "1.0.0")
	c.manifest(second.Digest.String())
	ok(t, c.other.DeleteManifest(t.Context(), second.Digest.String()))
	wantUnknown(t, c.r, second.Digest.String())
	d := digest.FromString("second")
	ok(t, c.other.DeleteBlob(t.Context(), d))
	c.now = c.now.Add(roomy.BlobsFresh)
	_, _, err := c.r.OpenBlob(t.Context(), d, nil)
	want(t, err, repository.ErrBlobUnknown)
	// And what comes back is there.
	putBlob(t, c.other, "second")
	blob(t, c.r, d, nil)
	third := mustPutChart(t, c.other, "1.0.0", "third")
	if m := c.pull("1.0.0", "third"); m.Digest != third.Digest {
		t.Error("the tag was not seen to come back")
	}
}

func TestWhatThisStoreChanges(t *testing.T) {
	stale := roomy
	stale.TagsFresh = time.Hour
	c := newCached(t, stale)
	mustPutChart(t, c.r, "1.0.0", "layer")
	c.pull("1.0.0", "layer")
	second := mustPutChart(t, c.r, "1.0.0", "second")
	if m := c.pull("1.0.0", "second"); m.Digest != second.Digest {
		t.Error("the tag was not seen to move")
	}
	ok(t, c.r.DeleteManifest(t.Context(), second.Digest.String()))
	wantUnknown(t, c.r, "1.0.0")
	wantUnknown(t, c.r, second.Digest.String())
	mustPutChart(t, c.r, "1.0.0", "layer")
	c.pull("1.0.0", "layer")
	ok(t, c.r.DeleteManifest(t.Context(), "1.0.0"))
	wantUnknown(t, c.r, "1.0.0")
	d := digest.FromString("layer")
	ok(t, c.r.DeleteBlob(t.Context(), d))
	_, _, err := c.r.OpenBlob(t.Context(), d, nil)
	want(t, err, repository.ErrBlobUnknown)
}

// A read that began before a delete must not bring back what was deleted.
func TestReadAroundADelete(t *testing.T) {
	b := newBucket(t)
	slow := &slowGet{Bucket: b}
	r := openRepository(t, openStore(t, slow, repository.Options{Cache: roomy}), "a")
	d := putBlob(t, r, "layer")
	slow.after = func() { ok(t, r.DeleteBlob(t.Context(), d)) }
	if got := blob(t, r, d, nil); got != "layer" {
		t.Errorf("the blob is %q", got)
	}
	_, _, err := r.OpenBlob(t.Context(), d, nil)
	want(t, err, repository.ErrBlobUnknown)
}

// slowGet calls after once, when something was opened.
type slowGet struct {
	bucket.Bucket
	after func()
}

func (s *slowGet) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	content, info, err := s.Bucket.Get(ctx, key, r)
	if after := s.after; after != nil {
		s.after = nil
		after()
	}
	return content, info, err
}

func TestLeastRecentlyUsedGoFirst(t *testing.T) {
	const size = 1000
	c := newCached(t, repository.CacheOptions{Bytes: 10 * (size + 900), BlobBytes: size, BlobsFresh: time.Hour})
	var digests []digest.Digest
	for i := range 20 {
		digests = append(digests, putBlob(t, c.other, strings.Repeat(string(rune('a'+i)), size)))
	}
	large := putBlob(t, c.other, strings.Repeat("large", size))
	read := func(d digest.Digest) int64 {
		return c.bucket.asked(func() { blob(t, c.r, d, nil) })
	}
	for _, d := range digests {
		read(d)
		read(digests[0])
	}
	if n := read(digests[0]); n != 0 {
		t.Errorf("what is read all the time made %d requests", n)
	}
	if n := read(digests[19]); n != 0 {
		t.Errorf("what was read just now made %d requests", n)
	}
	if n := read(digests[1]); n == 0 {
		t.Error("more is kept than there is room for")
	}
	read(large)
	if n := read(large); n != 1 {
		t.Errorf("a blob that is too large to be kept made %d requests", n)
	}
	if n := read(digests[19]); n != 0 {
		t.Error("a blob that is not kept has taken the place of one that is")
	}
}

package repository_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

const owner = "acme/charts"

func newBucket(t *testing.T) bucket.Bucket {
	t.Helper()
	b, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openStore opens a store that keeps what it can, and compares it with the bucket each time: what is true of a store
// without a cache must be true of it.
func openStore(t *testing.T, b bucket.Bucket, o repository.Options) *repository.Store {
	t.Helper()
	if o.Cache == (repository.CacheOptions{}) {
		o.Cache = repository.CacheOptions{Bytes: 1 << 20, BlobBytes: 1 << 10}
	}
	s, err := repository.Open(t.Context(), b, owner, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openRepository(t *testing.T, s *repository.Store, name string) *repository.Repository {
	t.Helper()
	r, err := s.Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func want(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// faulty is a bucket that fails as it is told.
type faulty struct {
	bucket.Bucket
	readErr, writeErr error
}

func (f *faulty) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if f.readErr != nil {
		return nil, bucket.Info{}, f.readErr
	}
	return f.Bucket.Get(ctx, key, r)
}

func (f *faulty) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	if f.writeErr != nil {
		return bucket.Info{}, f.writeErr
	}
	return f.Bucket.Put(ctx, key, body, size, c)
}

// keys lists what the bucket has, without the layout document.
func keys(t *testing.T, b bucket.Bucket) []string {
	t.Helper()
	p, err := b.List(t.Context(), bucket.ListOptions{})
	ok(t, err)
	var all []string
	for _, i := range p.Objects {
		if i.Key != "layout.json" {
			all = append(all, i.Key)
		}
	}
	return all
}

func putObject(t *testing.T, b bucket.Bucket, key, content string) {
	t.Helper()
	_, err := b.Put(t.Context(), key, strings.NewReader(content), -1, bucket.Condition{})
	ok(t, err)
}

func TestOpenKeepsToItsOwner(t *testing.T) {
	b := newBucket(t)
	openStore(t, b, repository.Options{})
	openStore(t, b, repository.Options{})
	_, err := repository.Open(t.Context(), b, "acme/other", repository.Options{})
	if err == nil || !strings.Contains(err.Error(), "belongs to the registry acme/charts, not to acme/other") {
		t.Fatalf("another owner: %v", err)
	}
	for _, o := range []string{"", "acme", "acme/", "/charts", "a/b/c"} {
		if _, err := repository.Open(t.Context(), newBucket(t), o, repository.Options{}); err == nil {
			t.Errorf("the owner %q is accepted", o)
		}
	}
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, c := range map[string]struct{ key, content, want string }{
		"newer layout": {"layout.json", `{"version":2,"organization":"acme","registry":"charts"}`, "layout version 2"},
		"no version":   {"layout.json", `{}`, "layout version 0"},
		"damaged":      {"layout.json", `{"version":`, "layout.json is damaged"},
		"empty":        {"layout.json", ``, "layout.json is damaged"},
		"large":        {"layout.json", strings.Repeat(" ", 100_000), "layout.json is damaged"},
		"foreign":      {"photos/cat.jpg", `x`, "is not empty (it has photos/)"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t)
			putObject(t, b, c.key, c.content)
			_, err := repository.Open(t.Context(), b, owner, repository.Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, want %q", err, c.want)
			}
			if found, err := b.Head(t.Context(), c.key); err != nil || found.Size != int64(len(c.content)) {
				t.Fatalf("it was changed: %+v, %v", found, err)
			}
		})
	}
}

func TestOpenOfManyOwnersAtOnce(t *testing.T) {
	b := newBucket(t)
	var wait sync.WaitGroup
	var winners atomic.Int32
	for _, o := range []string{"acme/a", "acme/b", "acme/c", "acme/d"} {
		for range 2 {
			wait.Go(func() {
				if _, err := repository.Open(t.Context(), b, o, repository.Options{}); err == nil {
					winners.Add(1)
				}
			})
		}
	}
	wait.Wait()
	if n := winners.Load(); n != 2 {
		t.Fatalf("%d of 8 opened it, want the 2 of one owner", n)
	}
}

func TestCheckAndReadOnlyStorage(t *testing.T) {
	b := &faulty{Bucket: newBucket(t)}
	b.writeErr = bucket.ErrReadOnly
	_, err := repository.Open(t.Context(), b, owner, repository.Options{})
	want(t, err, bucket.ErrReadOnly)
	b.writeErr = nil
	openStore(t, b, repository.Options{})

	b.writeErr = bucket.ErrReadOnly
	s := openStore(t, b, repository.Options{})
	readable, writable := s.Check(t.Context())
	ok(t, readable)
	want(t, writable, bucket.ErrReadOnly)

	b.writeErr, b.readErr = nil, bucket.ErrUnavailable
	readable, writable = s.Check(t.Context())
	want(t, readable, bucket.ErrUnavailable)
	ok(t, writable)

	b.readErr = nil
	readable, writable = s.Check(t.Context())
	ok(t, readable)
	ok(t, writable)
	if left := keys(t, b); left != nil {
		t.Fatalf("the probe left %v", left)
	}
}

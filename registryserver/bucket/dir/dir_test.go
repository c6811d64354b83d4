package dir_test

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/buckettest"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
)

func open(tb testing.TB, root string) *dir.Bucket {
	tb.Helper()
	b, err := dir.New(root)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestConformance(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) bucket.Bucket {
		t.Helper()
		return open(t, t.TempDir())
	}, buckettest.DeletesOnce)
}

func TestConformanceWithoutSpecialCalls(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) bucket.Bucket {
		t.Helper()
		b := open(t, t.TempDir())
		b.Plain()
		return b
	})
}

// Two instances share nothing but the directory, as two processes would.
func TestConformanceOfTwoInstancesOnOneDirectory(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) bucket.Bucket {
		t.Helper()
		root := t.TempDir()
		return &alternating{buckets: [2]bucket.Bucket{open(t, root), open(t, root)}}
	}, buckettest.DeletesOnce)
}

// Garbage collection relies on it: a blob that is pushed again is not deleted by who saw the one before.
func TestETagChangesWithEveryPut(t *testing.T) {
	b := open(t, t.TempDir())
	seen := map[string]bool{}
	for range 20 {
		info, err := b.Put(t.Context(), "k", strings.NewReader("same"), 4, bucket.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		if seen[info.ETag] {
			t.Fatal("an object that was replaced by the same bytes has an ETag that an earlier one had")
		}
		seen[info.ETag] = true
	}
}

// alternating sends every operation to another instance than the one before.
type alternating struct {
	buckets [2]bucket.Bucket
	calls   atomic.Uint64
}

func (a *alternating) next() bucket.Bucket { return a.buckets[a.calls.Add(1)%2] }

func (a *alternating) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	return a.next().Get(ctx, key, r)
}

func (a *alternating) Head(ctx context.Context, key string) (bucket.Info, error) {
	return a.next().Head(ctx, key)
}

func (a *alternating) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	return a.next().Put(ctx, key, body, size, c)
}

func (a *alternating) Delete(ctx context.Context, key string, c bucket.Condition) error {
	return a.next().Delete(ctx, key, c)
}

func (a *alternating) Copy(ctx context.Context, from, to string) (bucket.Info, error) {
	return a.next().Copy(ctx, from, to)
}

func (a *alternating) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	return a.next().List(ctx, o)
}

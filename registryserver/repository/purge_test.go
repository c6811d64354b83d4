package repository_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// unreliable fails to delete after a number of deletes.
type unreliable struct {
	bucket.Bucket
	left atomic.Int64
}

func (u *unreliable) Delete(ctx context.Context, key string, c bucket.Condition) error {
	if u.left.Add(-1) < 0 {
		return fmt.Errorf("delete %s: %w", key, bucket.ErrUnavailable)
	}
	return u.Bucket.Delete(ctx, key, c)
}

func fill(t *testing.T, b bucket.Bucket, objects int) {
	t.Helper()
	openStore(t, b, repository.Options{})
	for i := range objects {
		putObject(t, b, fmt.Sprintf("charts/app/tags/layout.json.%d", i), "x")
	}
	putObject(t, b, "charts/app/tags/layout.json", "x")
	putObject(t, b, "leases/layout.json", "x")
}

func TestPurgeDeletesEverything(t *testing.T) {
	b := newBucket(t)
	const objects = 1500
	fill(t, b, objects)
	var told []int64
	ok(t, repository.Purge(t.Context(), b, owner, func(deleted int64) { told = append(told, deleted) }))
	if left := keys(t, b); len(left) > 0 {
		t.Errorf("these are left: %q", left)
	}
	if len(told) < 2 || told[len(told)-1] != objects+2 {
		t.Errorf("progress is told as %v", told)
	}
	// An empty bucket is none of anybody's, and stays empty.
	ok(t, repository.Purge(t.Context(), b, owner, func(int64) {}))
	if left := keys(t, b); len(left) > 0 {
		t.Errorf("a purge of nothing left %q", left)
	}
	openStore(t, b, repository.Options{})
}

// Wherever a purge is broken off, nobody serves or claims what is left, and another purge goes on.
func TestPurgeIsGoneOnWith(t *testing.T) {
	const objects = 6
	for n := range int64(objects + 4) {
		b := newBucket(t)
		fill(t, b, objects)
		broken := &unreliable{Bucket: b}
		broken.left.Store(n)
		err := repository.Purge(t.Context(), broken, owner, func(int64) {})
		want(t, err, bucket.ErrUnavailable)
		_, err = repository.Open(t.Context(), b, owner, repository.Options{})
		want(t, err, repository.ErrPurging)
		ok(t, repository.Purge(t.Context(), b, owner, func(int64) {}))
		if left := keys(t, b); len(left) > 0 {
			t.Fatalf("broken off after %d objects, these are left: %q", n, left)
		}
	}
}

func TestPurgeRefusesWhatIsNotTheRegistrys(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(b bucket.Bucket)
		words   string
	}{
		"another owner": {func(b bucket.Bucket) {
			_, err := repository.Open(t.Context(), b, "other/charts", repository.Options{})
			ok(t, err)
		}, "belongs to the registry other/charts"},
		"no registry":    {func(b bucket.Bucket) { putObject(t, b, "photos/1", "x") }, "is not this program's"},
		"another layout": {func(b bucket.Bucket) { putObject(t, b, "layout.json", `{"version":99}`) }, "layout version 99"},
		"another registry inside": {func(b bucket.Bucket) {
			fill(t, b, 3)
			putObject(t, b, "team-b/charts/layout.json", "{}")
		}, "another registry is in the same bucket, under team-b/charts"},
		"somebody else's purge": {func(b bucket.Bucket) {
			putObject(t, b, "purging", `{"version":1,"organization":"other","registry":"charts"}`)
		}, "belongs to the registry other/charts"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t)
			test.prepare(b)
			before := keys(t, b)
			err := repository.Purge(t.Context(), b, owner, func(int64) {})
			if err == nil || !strings.Contains(err.Error(), test.words) {
				t.Errorf("the error is %v, want one that says %q", err, test.words)
			}
			if after := keys(t, b); strings.Join(after, " ") != strings.Join(before, " ") {
				t.Errorf("it changed %q to %q", before, after)
			}
		})
	}
}

// A server that was ending may have written these after the rest was deleted.
func TestWhatIsBesideTheChartsMakesNoBucketSomebodys(t *testing.T) {
	b := newBucket(t)
	for _, key := range []string{"leases/sweep.json", "usage/replicas/a", "check/race-1", "downloads/parts/a-1", "inventory/changes/a.json"} {
		putObject(t, b, key, "{}")
	}
	ok(t, repository.Purge(t.Context(), b, owner, func(int64) {}))
	openStore(t, b, repository.Options{})
}

func TestPurgeEndsWithItsContext(t *testing.T) {
	b := newBucket(t)
	fill(t, b, 5)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := repository.Purge(ctx, b, owner, func(int64) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

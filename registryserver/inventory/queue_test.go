package inventory_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// far is a bucket each read of which takes a while.
type far struct{ bucket.Bucket }

func (f far) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	time.Sleep(15 * time.Millisecond)
	return f.Bucket.Get(ctx, key, r)
}

// flooded runs a test with a clock of its own, in which tell says of one of these versions, NAME:VERSION, that it was pushed just
// now.
func flooded(t *testing.T, versions []string, test func(t *testing.T, r *replica, tell func(version string))) {
	t.Helper()
	b := newBucket(t)
	synctest.Test(t, func(t *testing.T) {
		r := built(t, far{b}, func(o *inventory.Options) { o.Poll, o.PollIdle = time.Hour, time.Hour })
		writer := &replica{t: t, bucket: b}
		var err error
		writer.store, err = repository.Open(t.Context(), b, owner, repository.Options{})
		ok(t, err)
		for _, v := range versions {
			name, version, _ := strings.Cut(v, ":")
			writer.push(name, version, nil)
		}
		test(t, r, func(v string) { r.Tagged(strings.Split(v, ":")[0], strings.Split(v, ":")[1]) })
		r.stop()
	})
}

func TestManyChartsAtOnceAreKnownSoon(t *testing.T) {
	t.Parallel()
	var versions []string
	for n := range 100 {
		versions = append(versions, fmt.Sprintf("team-%d/web:1.0.0", n))
	}
	flooded(t, versions, func(t *testing.T, r *replica, tell func(string)) {
		for _, v := range versions {
			tell(v)
		}
		time.Sleep(2 * time.Second)
		if got := r.Totals(nil); got.Charts != 100 {
			t.Errorf("of 100 charts %d are known after two seconds", got.Charts)
		}
	})
}

// What is pushed to one chart in quick succession is read together, and what is pushed to another one meanwhile at once.
func TestAFloodIsReadInFewPieces(t *testing.T) {
	t.Parallel()
	var versions []string
	for n := range 100 {
		versions = append(versions, fmt.Sprintf("flooded:1.0.%d", n))
	}
	flooded(t, append(versions, "alone:1.0.0"), func(t *testing.T, r *replica, tell func(string)) {
		before, _ := r.Changed()
		for n, v := range versions {
			tell(v)
			if n == 50 {
				tell("alone:1.0.0")
				time.Sleep(100 * time.Millisecond)
				if _, known := r.Chart("alone"); !known {
					t.Error("a chart waits for another one")
				}
			}
			time.Sleep(30 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if after, _ := r.Changed(); after-before > 15 {
			t.Errorf("100 pushes to one chart in three seconds are %d changes", after-before)
		}
		if c, _ := r.Chart("flooded"); c.Versions != len(versions) {
			t.Errorf("of %d versions %d are known", len(versions), c.Versions)
		}
	})
}

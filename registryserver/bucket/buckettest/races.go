//nolint:thelper // These are the tests themselves: a failure is to name their own line.
package buckettest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const racers = 12

// race calls f from many goroutines at the same moment.
func race(f func(racer int)) {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range racers {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			f(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}

func testRaceAbsent(t *testing.T, b bucket.Bucket) {
	for round := range 10 {
		key := fmt.Sprintf("race/%d/tag", round)
		var winners atomic.Int32
		var winner atomic.Value
		race(func(racer int) {
			content := fmt.Sprintf("racer %d", racer)
			_, err := put(t.Context(), b, key, content, bucket.Condition{Absent: true})
			switch {
			case err == nil:
				winners.Add(1)
				winner.Store(content)
			case !errors.Is(err, bucket.ErrExists):
				t.Error(err)
			}
		})
		if winners.Load() != 1 {
			t.Fatalf("%d of %d created the same object", winners.Load(), racers)
		}
		wantContent(t, b, key, winner.Load().(string))
	}
}

func testRaceCounter(t *testing.T, b bucket.Bucket) {
	const each = 10
	mustPut(t, b, "counter", "0")
	race(func(int) {
		for counted := 0; counted < each; {
			content, info, err := get(t.Context(), b, "counter", nil)
			if err != nil {
				t.Error(err)
				return
			}
			n, err := strconv.Atoi(content)
			if err != nil {
				t.Error(err)
				return
			}
			_, err = put(t.Context(), b, "counter", strconv.Itoa(n+1), bucket.Condition{ETag: info.ETag})
			switch {
			case err == nil:
				counted++
			case !errors.Is(err, bucket.ErrChanged):
				t.Error(err)
				return
			}
		}
	})
	wantContent(t, b, "counter", strconv.Itoa(racers*each))
}

// testRaceReplace looks for objects that are half old and half new.
func testRaceReplace(t *testing.T, b bucket.Bucket) {
	mustPut(t, b, "k", "start")
	race(func(racer int) {
		for i := range 20 {
			if racer%2 == 0 {
				content := strings.Repeat("abcdefghijkl"[racer:racer+1], 1+(racer*20+i)*1000)
				if _, err := put(t.Context(), b, "k", content, bucket.Condition{}); err != nil {
					t.Error(err)
				}
				continue
			}
			content, info, err := get(t.Context(), b, "k", nil)
			switch {
			case err != nil:
				t.Error(err)
			case content != "start" && (len(content) == 0 || strings.Trim(content, content[:1]) != ""):
				t.Errorf("torn: %d bytes", len(content))
			case info.Size != int64(len(content)):
				t.Errorf("%d bytes come for an object of %d", len(content), info.Size)
			}
		}
	})
}

// testRacePutAndDelete checks that creations and conditional deletes of one key take turns.
func testRacePutAndDelete(t *testing.T, b bucket.Bucket) {
	created, deleted, left := racePutAndDelete(t, b)
	if created > deleted+left {
		t.Fatalf("%d created, %d deleted, %d left", created, deleted, left)
	}
}

func testDeletesOnce(t *testing.T, b bucket.Bucket) {
	if created, deleted, left := racePutAndDelete(t, b); created != deleted+left {
		t.Fatalf("%d created, %d deleted, %d left", created, deleted, left)
	}
	wantError(t, b.Delete(t.Context(), "gone", bucket.Condition{ETag: "x"}), bucket.ErrChanged)
}

func racePutAndDelete(t *testing.T, b bucket.Bucket) (created, deleted, left int32) {
	var creations, deletions atomic.Int32
	race(func(racer int) {
		for range 20 {
			if racer%2 == 0 {
				_, err := put(t.Context(), b, "d/k", "x", bucket.Condition{Absent: true})
				if err == nil {
					creations.Add(1)
				} else if !errors.Is(err, bucket.ErrExists) {
					t.Error(err)
				}
				continue
			}
			info, err := b.Head(t.Context(), "d/k")
			if errors.Is(err, bucket.ErrNotFound) {
				continue
			}
			if err == nil {
				err = b.Delete(t.Context(), "d/k", bucket.Condition{ETag: info.ETag})
			}
			if err == nil {
				deletions.Add(1)
			} else if !errors.Is(err, bucket.ErrChanged) {
				t.Error(err)
			}
		}
	})
	if _, err := b.Head(t.Context(), "d/k"); err == nil {
		left = 1
	}
	return creations.Load(), deletions.Load(), left
}

// testRaceInOneDirectory checks that deletes do not take away the directory under a neighbour's put.
func testRaceInOneDirectory(t *testing.T, b bucket.Bucket) {
	race(func(racer int) {
		key := fmt.Sprintf("x/y/z/%d", racer)
		for i := range 20 {
			content := strconv.Itoa(i)
			if _, err := put(t.Context(), b, key, content, bucket.Condition{Absent: racer%2 == 0}); err != nil {
				t.Error(err)
			}
			if got, _, err := get(t.Context(), b, key, nil); err != nil || got != content {
				t.Errorf("%s has %q, %v", key, got, err)
			}
			if err := b.Delete(t.Context(), key, bucket.Condition{}); err != nil {
				t.Error(err)
			}
		}
	})
	wantNothing(t, b)
}

// testRaceList checks that listings go on while what they list comes and goes, and never leave out what stays.
func testRaceList(t *testing.T, b bucket.Bucket) {
	mustPut(t, b, "list/stays", "x")
	race(func(racer int) {
		for range 50 {
			if racer%2 == 0 {
				key := fmt.Sprintf("list/goes/%d/k", racer%4)
				if _, err := put(t.Context(), b, key, "x", bucket.Condition{}); err != nil {
					t.Error(err)
				}
				if err := b.Delete(t.Context(), key, bucket.Condition{}); err != nil {
					t.Error(err)
				}
				continue
			}
			for _, o := range []bucket.ListOptions{{Prefix: "list/"}, {Prefix: "list/", Delimiter: "/"}, {Prefix: "list/goes/"}} {
				p, err := b.List(t.Context(), o)
				if err != nil {
					t.Errorf("list %+v: %v", o, err)
				}
				if o.Prefix == "list/" && (len(p.Objects) == 0 || p.Objects[len(p.Objects)-1].Key != "list/stays") {
					t.Errorf("list %+v: %+v", o, p.Objects)
				}
			}
		}
	})
}

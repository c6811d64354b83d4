package pulls_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/pulls"
)

// faulty is a bucket some of whose writes fail, or succeed without an answer.
type faulty struct {
	bucket.Bucket
	mu     sync.Mutex
	puts   int
	before func(operation, key string) error
	after  func(operation, key string) error
}

func (f *faulty) ask(which func(*faulty) func(string, string) error, operation, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ask := which(f); ask != nil {
		return ask(operation, key)
	}
	return nil
}

func before(f *faulty) func(string, string) error { return f.before }
func after(f *faulty) func(string, string) error  { return f.after }

// failing sets what fails, and what succeeds without an answer.
func (f *faulty) failing(before, after func(operation, key string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *faulty) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	if err := f.ask(before, "put", key); err != nil {
		return bucket.Info{}, err
	}
	info, err := f.Bucket.Put(ctx, key, body, size, c)
	if err == nil {
		f.mu.Lock()
		f.puts++
		f.mu.Unlock()
		err = f.ask(after, "put", key)
	}
	return info, err
}

func (f *faulty) Delete(ctx context.Context, key string, c bucket.Condition) error {
	if err := f.ask(before, "delete", key); err != nil {
		return err
	}
	return f.Bucket.Delete(ctx, key, c)
}

func newFaulty(tb testing.TB) *faulty {
	tb.Helper()
	b, err := dir.New(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return &faulty{Bucket: b}
}

var (
	archiveA = digest.FromString("a")
	archiveB = digest.FromString("b")
)

func everything(string, digest.Digest) (is, known bool) { return true, true }

func newDownloads(b bucket.Bucket, c *clock) *pulls.Downloads {
	return pulls.NewDownloads(pulls.DownloadsOptions{Bucket: b, Archive: everything, Now: c.now})
}

func wantDownloads(t *testing.T, d *pulls.Downloads, chart string, of digest.Digest, n int64) {
	t.Helper()
	if got, _ := d.Of(chart, of); got != n {
		t.Errorf("%s of %s was downloaded %d times, want %d", of, chart, got, n)
	}
}

func objects(t *testing.T, b bucket.Bucket) string {
	t.Helper()
	p, err := b.List(t.Context(), bucket.ListOptions{Prefix: "downloads/"})
	ok(t, err)
	parts, sum := 0, ""
	for _, i := range p.Objects {
		if i.Key == "downloads/folded" {
			sum = " and a sum"
		} else {
			parts++
		}
	}
	return fmt.Sprintf("%d parts%s", parts, sum)
}

func newClock() *clock {
	c := &clock{}
	c.set(noon)
	return c
}

func TestDownloadsAddUp(t *testing.T) {
	t.Parallel()
	b, c := newFaulty(t), newClock()
	first, second := newDownloads(b, c), newDownloads(b, c)
	revision := first.Revision("web")
	for range 3 {
		first.Downloaded("web", archiveA)
	}
	first.Downloaded("team/web", archiveA)
	first.Downloaded("web", "no digest")
	second.Downloaded("web", archiveA)
	wantDownloads(t, first, "web", archiveA, 3)
	if first.Revision("web") <= revision {
		t.Error("the revision is the same")
	}
	ok(t, first.Flush(t.Context()))
	ok(t, first.Flush(t.Context()))
	if b.puts != 1 {
		t.Errorf("%d writes, want 1", b.puts)
	}
	ok(t, second.Flush(t.Context()))
	c.set(noon.AddDate(0, 0, 1))
	first.Downloaded("web", archiveA)
	revision = second.Revision("web")
	ok(t, second.Refresh(t.Context()))
	ok(t, first.Refresh(t.Context()))
	wantDownloads(t, first, "web", archiveA, 5)
	wantDownloads(t, second, "web", archiveA, 4)
	wantDownloads(t, second, "team/web", archiveA, 1)
	wantDownloads(t, second, "web", archiveB, 0)
	if second.Revision("web") <= revision || second.Counted() != 1 || first.Counted() != 5 {
		t.Errorf("they have counted %d and %d", first.Counted(), second.Counted())
	}
	if _, last := first.Of("web", archiveA); !last.Equal(time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("it was last downloaded at %s", last)
	}
	if _, last := first.Of("web", archiveB); !last.IsZero() {
		t.Errorf("what nobody downloaded was last downloaded at %s", last)
	}
	// What is new of it is not lost at the end, and is there after a restart.
	ok(t, first.Close(t.Context()))
	ok(t, second.Close(t.Context()))
	third := newDownloads(b, c)
	ok(t, third.Refresh(t.Context()))
	wantDownloads(t, third, "web", archiveA, 5)
	// Both have said that they are gone, so that it can be folded at once.
	ok(t, third.Fold(t.Context()))
	wantDownloads(t, third, "web", archiveA, 5)
	if got := objects(t, b); got != "0 parts and a sum" {
		t.Errorf("left are %s", got)
	}
	fourth := newDownloads(b, c)
	ok(t, fourth.Refresh(t.Context()))
	wantDownloads(t, fourth, "web", archiveA, 5)
	wantDownloads(t, fourth, "team/web", archiveA, 1)
}

// A blob counts only once it is known for an archive; what nobody knows as one after ten minutes does not.
func TestOnlyArchivesCount(t *testing.T) {
	t.Parallel()
	b, c := newFaulty(t), newClock()
	var known, none atomic.Bool
	d := pulls.NewDownloads(pulls.DownloadsOptions{Bucket: b, Now: c.now, Archive: func(_ string, d digest.Digest) (bool, bool) {
		return known.Load() && d == archiveA, known.Load() && d == archiveA || none.Load()
	}})
	for range 2 {
		d.Downloaded("web", archiveA)
		d.Downloaded("web", archiveB)
	}
	ok(t, d.Flush(t.Context()))
	wantDownloads(t, d, "web", archiveA, 0)
	known.Store(true)
	ok(t, d.Flush(t.Context()))
	wantDownloads(t, d, "web", archiveA, 2)
	known.Store(false)
	none.Store(true)
	d.Downloaded("web", archiveA)
	none.Store(false)
	known.Store(true)
	ok(t, d.Flush(t.Context()))
	wantDownloads(t, d, "web", archiveA, 2)
	known.Store(false)
	d.Downloaded("web", archiveA)
	c.set(noon.Add(10 * time.Minute))
	ok(t, d.Flush(t.Context()))
	known.Store(true)
	ok(t, d.Flush(t.Context()))
	wantDownloads(t, d, "web", archiveA, 2)
	wantDownloads(t, d, "web", archiveB, 0)
}

// Downloads while it is not known yet what is stored are not lost, however long that takes, and not where the server ends
// before it is.
func TestDownloadsWhileTheInventoryIsBuilt(t *testing.T) {
	t.Parallel()
	for _, ends := range []bool{false, true} {
		b, c := newFaulty(t), newClock()
		var built atomic.Bool
		o := pulls.DownloadsOptions{Bucket: b, Now: c.now, Building: func() bool { return !built.Load() }, Archive: func(_ string, d digest.Digest) (bool, bool) {
			return built.Load() && d == archiveA, built.Load()
		}}
		d := pulls.NewDownloads(o)
		for range 2 {
			d.Downloaded("web", archiveA)
		}
		c.set(noon.Add(3 * time.Hour))
		ok(t, d.Flush(t.Context()))
		if ends {
			ok(t, d.Close(t.Context()))
			built.Store(true)
			d = pulls.NewDownloads(o)
			ok(t, d.Refresh(t.Context()))
		} else {
			built.Store(true)
			ok(t, d.Flush(t.Context()))
		}
		wantDownloads(t, d, "web", archiveA, 2)
	}
}

// A write that arrived without an answer counts once, and so does one that did not arrive.
func TestAnswersThatAreLost(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*faulty, func(string, string) error){
		"the write is lost":  func(f *faulty, err func(string, string) error) { f.failing(err, nil) },
		"the answer is lost": func(f *faulty, err func(string, string) error) { f.failing(nil, err) },
	} {
		t.Run(name, func(t *testing.T) {
			b, c := newFaulty(t), newClock()
			d := newDownloads(b, c)
			for range 3 {
				d.Downloaded("web", archiveA)
				set(b, func(string, string) error { return bucket.ErrUnavailable })
				for range 2 {
					if err := d.Flush(t.Context()); !errors.Is(err, bucket.ErrUnavailable) && !errors.Is(err, bucket.ErrChanged) && err != nil {
						t.Errorf("the error is %v", err)
					}
					d.Downloaded("web", archiveA)
				}
				b.failing(nil, nil)
				ok(t, d.Flush(t.Context()))
			}
			wantDownloads(t, d, "web", archiveA, 9)
			ok(t, d.Flush(t.Context()))
			other := newDownloads(b, c)
			ok(t, other.Refresh(t.Context()))
			wantDownloads(t, other, "web", archiveA, 9)
		})
	}
}

// A replica that was taken to be gone goes on with another part, whatever of the fold it notices when.
func TestAReplicaThatIsNotGone(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]func(t *testing.T, quiet *pulls.Downloads){
		"and notices at its next write":                    func(*testing.T, *pulls.Downloads) {},
		"and notices when it looks":                        func(t *testing.T, quiet *pulls.Downloads) { ok(t, quiet.Refresh(t.Context())) },
		"of which an answer was lost, and notices then":    func(*testing.T, *pulls.Downloads) {},
		"of which an answer was lost, and notices looking": func(t *testing.T, quiet *pulls.Downloads) { ok(t, quiet.Refresh(t.Context())) },
	} {
		for fault, fail := range map[string]string{
			"a whole fold": "", "a fold that is killed before the sum": "put downloads/folded", "a fold that is killed before the delete": "delete downloads/parts/",
		} {
			t.Run(fault+" "+name, func(t *testing.T) {
				b, c := newFaulty(t), newClock()
				quiet, other := newDownloads(b, c), newDownloads(b, c)
				quiet.Downloaded("web", archiveA)
				ok(t, quiet.Flush(t.Context()))
				quiet.Downloaded("web", archiveB)
				if strings.Contains(name, "lost") { // Before the long silence.
					b.failing(nil, func(string, string) error { return bucket.ErrUnavailable })
					if quiet.Flush(t.Context()) == nil {
						t.Error("nothing is wrong")
					}
					b.failing(nil, nil)
				}
				quiet.Downloaded("web", archiveA)
				c.set(noon.AddDate(0, 0, 5))
				b.failing(func(operation, key string) error {
					if fail != "" && strings.HasPrefix(operation+" "+key, fail) {
						return bucket.ErrUnavailable
					}
					return nil
				}, nil)
				if err := other.Fold(t.Context()); (err != nil) != (fail != "") {
					t.Errorf("the fold: %v", err)
				}
				b.failing(nil, nil)
				for range 3 {
					meanwhile(t, quiet)
					wantDownloads(t, quiet, "web", archiveA, 2)
					wantDownloads(t, quiet, "web", archiveB, 1)
					ok(t, quiet.Flush(t.Context()))
					ok(t, quiet.Refresh(t.Context()))
					wantDownloads(t, quiet, "web", archiveA, 2)
					wantDownloads(t, quiet, "web", archiveB, 1)
					ok(t, other.Fold(t.Context()))
					wantDownloads(t, other, "web", archiveA, 2)
					wantDownloads(t, other, "web", archiveB, 1)
					c.set(c.now().AddDate(0, 0, 5))
				}
				if got := objects(t, b); got != "0 parts and a sum" {
					t.Errorf("left are %s", got)
				}
			})
		}
	}
}

// Whatever fails when, what was downloaded is counted once: replicas that come and go, write, fold and are killed at any
// point, compared with what happened. Of who is killed, what was not written yet may be lost.
func TestNothingIsCountedTwice(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			b, c := newFaulty(t), newClock()
			var truth int64
			replicas := []*pulls.Downloads{newDownloads(b, c), newDownloads(b, c)}
			for range 80 {
				i := random.IntN(len(replicas))
				r := replicas[i]
				b.failing(nil, nil)
				if random.IntN(3) == 0 {
					chance := func(string, string) error {
						if random.IntN(2) == 0 {
							return bucket.ErrUnavailable
						}
						return nil
					}
					b.failing(chance, chance)
				}
				switch random.IntN(8) {
				case 0, 1, 2:
					r.Downloaded("web", archiveA)
					truth++
				case 3:
					_ = r.Flush(t.Context())
				case 4:
					_ = r.Refresh(t.Context())
				case 5:
					_ = r.Fold(t.Context())
				case 6:
					c.set(c.now().AddDate(0, 0, random.IntN(4)))
				case 7:
					// It ends, as it should, and another one begins.
					b.failing(nil, nil)
					ok(t, r.Close(t.Context()))
					replicas[i] = newDownloads(b, c)
				}
			}
			b.failing(nil, nil)
			for _, r := range replicas {
				ok(t, r.Flush(t.Context()))
			}
			for _, r := range append(replicas, newDownloads(b, c)) {
				ok(t, r.Refresh(t.Context()))
				wantDownloads(t, r, "web", archiveA, truth)
			}
		})
	}
}

// Many archives are written in several parts, so that none grows without end.
func TestAPartDoesNotGrowWithoutEnd(t *testing.T) {
	t.Parallel()
	b, c := newFaulty(t), newClock()
	d := newDownloads(b, c)
	for i := range 25_000 {
		d.Downloaded("web", digest.FromString(fmt.Sprint(i%24_000)))
		if i%6000 == 0 {
			ok(t, d.Flush(t.Context()))
		}
	}
	ok(t, d.Flush(t.Context()))
	if got := objects(t, b); got != "3 parts" && got != "2 parts" {
		t.Errorf("there are %s", got)
	}
	other := newDownloads(b, c)
	ok(t, other.Fold(t.Context()))
	wantDownloads(t, other, "web", digest.FromString("1"), 2)
	wantDownloads(t, other, "web", digest.FromString("23999"), 1)
}

// What cannot be read counts nothing, and is left for people to look at.
func TestADamagedPart(t *testing.T) {
	t.Parallel()
	b, c := newFaulty(t), newClock()
	d := newDownloads(b, c)
	d.Downloaded("web", archiveA)
	ok(t, d.Close(t.Context()))
	_, err := b.Put(t.Context(), "downloads/parts/x-1", strings.NewReader("x"), 1, bucket.Condition{})
	ok(t, err)
	other := newDownloads(b, c)
	ok(t, other.Fold(t.Context()))
	wantDownloads(t, other, "web", archiveA, 1)
	if got := objects(t, b); got != "1 parts and a sum" {
		t.Errorf("left are %s", got)
	}
	_, err = b.Put(t.Context(), "downloads/folded", strings.NewReader("x"), 1, bucket.Condition{})
	ok(t, err)
	if err := other.Fold(t.Context()); err == nil || !strings.Contains(err.Error(), "downloads/folded") {
		t.Errorf("over a damaged sum another one is written: %v", err)
	}
}

func TestDownloadsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFaulty(t)
		d := pulls.NewDownloads(pulls.DownloadsOptions{Bucket: b, Archive: everything})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		var problems atomic.Int32
		running.Go(func() { d.Run(ctx, func(error) { problems.Add(1) }) })
		other := pulls.NewDownloads(pulls.DownloadsOptions{Bucket: b, Archive: everything})
		d.Downloaded("web", archiveA)
		time.Sleep(pulls.Interval + time.Second)
		synctest.Wait()
		ok(t, other.Refresh(t.Context()))
		wantDownloads(t, other, "web", archiveA, 1)
		other.Downloaded("web", archiveA)
		ok(t, other.Flush(t.Context()))
		time.Sleep(pulls.RefreshInterval)
		synctest.Wait()
		wantDownloads(t, d, "web", archiveA, 2)
		b.failing(func(string, string) error { return bucket.ErrUnavailable }, nil)
		d.Downloaded("web", archiveA)
		time.Sleep(pulls.Interval)
		synctest.Wait()
		b.failing(nil, nil)
		d.Downloaded("web", archiveA)
		cancel()
		running.Wait()
		ok(t, other.Refresh(t.Context()))
		wantDownloads(t, other, "web", archiveA, 4)
		if problems.Load() != 1 {
			t.Errorf("%d problems were told, want 1", problems.Load())
		}
	})
}

func TestABookIsBounded(t *testing.T) {
	t.Parallel()
	var days []int
	for i := range pulls.MaxArchives + 5 {
		switch {
		case i < 3:
			days = append(days, 1)
		case i < 10:
			days = append(days, 2)
		default:
			days = append(days, 3)
		}
	}
	left := pulls.Bounded(days)
	if left[1] != 0 || left[2] != 5 || left[3] != pulls.MaxArchives-5 {
		t.Errorf("left are %v", left)
	}
}

func FuzzBook(f *testing.F) {
	for _, text := range []string{
		`{"sequence":3,"written":7,"sealed":true,"absorbed":{"x":{"sequence":1,"day":2}}}` + "\n1 2 " + strings.Repeat("ab", 32) + " team/web\n",
		"{}\n0 2 x web\n", "{}", "",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		_, _ = z.Write(text)
		_ = z.Close()
		again, err := pulls.RewriteBook(zipped.Bytes())
		if err != nil {
			return
		}
		twice, err := pulls.RewriteBook(again)
		if err != nil || !bytes.Equal(again, twice) {
			t.Errorf("written again it is another one: %v", err)
		}
	})
}

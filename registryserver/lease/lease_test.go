package lease_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/lease"
)

const ttl = time.Minute

// storage holds one object in memory. Its ETags are of the content, as S3's are.
type storage struct {
	bucket.Bucket
	mu      sync.Mutex
	content []byte
	puts    int
	// careless storage ignores conditions.
	careless bool
}

func etag(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }

func (s *storage) Get(_ context.Context, key string, _ *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content == nil {
		return nil, bucket.Info{}, bucket.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(s.content)), bucket.Info{Key: key, Size: int64(len(s.content)), ETag: etag(s.content)}, nil
}

func (s *storage) Put(_ context.Context, key string, body io.Reader, _ int64, c bucket.Condition) (bucket.Info, error) {
	content, err := io.ReadAll(body)
	if err != nil {
		return bucket.Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.careless:
	case c.Absent && s.content != nil:
		return bucket.Info{}, bucket.ErrExists
	case c.ETag != "" && (s.content == nil || etag(s.content) != c.ETag):
		return bucket.Info{}, bucket.ErrChanged
	}
	s.content = content
	s.puts++
	return bucket.Info{Key: key, Size: int64(len(content)), ETag: etag(content)}, nil
}

func (s *storage) set(content string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content = []byte(content)
}

func (s *storage) written() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts
}

// line is the way of one process to the storage.
type line struct {
	*storage
	fault atomic.Pointer[func(ctx context.Context, write func() (bucket.Info, error)) (bucket.Info, error)]
}

func (l *line) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	write := func() (bucket.Info, error) { return l.storage.Put(ctx, key, body, size, c) }
	if f := l.fault.Load(); f != nil {
		return (*f)(ctx, write)
	}
	return write()
}

func (l *line) breaks(f func(ctx context.Context, write func() (bucket.Info, error)) (bucket.Info, error)) {
	l.fault.Store(&f)
}

// Faults of a line.
var errLine = fmt.Errorf("the line is down: %w", bucket.ErrUnavailable)

func refuse(context.Context, func() (bucket.Info, error)) (bucket.Info, error) {
	return bucket.Info{}, errLine
}

func hang(ctx context.Context, _ func() (bucket.Info, error)) (bucket.Info, error) {
	<-ctx.Done()
	return bucket.Info{}, ctx.Err()
}

func loseAnswer(_ context.Context, write func() (bucket.Info, error)) (bucket.Info, error) {
	if _, err := write(); err != nil {
		return bucket.Info{}, err
	}
	return bucket.Info{}, errLine
}

func newLease(t *testing.T, b bucket.Bucket) *lease.Lease {
	t.Helper()
	l, err := lease.New(lease.Options{Bucket: b, Name: "sweep", TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// process is a replica that runs for its lease.
type process struct {
	*line
	working  atomic.Bool
	problems atomic.Int32
	stop     func()
}

// start runs a process; exclusive counts those that work.
func start(t *testing.T, s *storage, exclusive *atomic.Int32) *process {
	t.Helper()
	p := &process{line: &line{storage: s}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	p.stop = func() { cancel(); <-ended }
	l := newLease(t, p.line)
	go func() {
		defer close(ended)
		l.Run(ctx, func(ctx context.Context) {
			if n := exclusive.Add(1); n != 1 {
				t.Errorf("%d work at the same time", n)
			}
			p.working.Store(true)
			<-ctx.Done()
			p.working.Store(false)
			exclusive.Add(-1)
		}, func(error) { p.problems.Add(1) })
	}()
	synctest.Wait()
	return p
}

func expect(t *testing.T, when string, first, second *process, firstWorks, secondWorks bool) {
	t.Helper()
	synctest.Wait()
	if first.working.Load() != firstWorks || second.working.Load() != secondWorks {
		t.Errorf("%s: the first works: %t, the second: %t; want %t and %t", when, first.working.Load(), second.working.Load(), firstWorks, secondWorks)
	}
}

func TestOneAtATimeAndTheNextTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var exclusive atomic.Int32
		s := &storage{}
		first := start(t, s, &exclusive)
		second := start(t, s, &exclusive)
		defer second.stop()
		time.Sleep(time.Hour)
		expect(t, "after an hour", first, second, true, false)
		if n := s.written(); n < 150 || n > 200 {
			t.Errorf("an hour took %d writes, want three for each minute", n)
		}
		first.stop()
		time.Sleep(ttl / 3)
		expect(t, "after the first ended", first, second, false, true)
		if n := first.problems.Load() + second.problems.Load(); n > 0 {
			t.Errorf("%d problems", n)
		}
	})
}

// A process that is killed writes nothing any more.
func TestAKilledHolderIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var exclusive atomic.Int32
		s := &storage{content: []byte(`{"holder":"killed","count":7}`)}
		first, second := start(t, s, &exclusive), start(t, s, &exclusive)
		defer func() { first.stop(); second.stop() }()
		time.Sleep(ttl - time.Second)
		expect(t, "before its end", first, second, false, false)
		time.Sleep(ttl/3 + time.Second)
		synctest.Wait()
		if exclusive.Load() != 1 {
			t.Errorf("%d work, want one", exclusive.Load())
		}
	})
}

func TestADamagedLeaseIsWaitedFor(t *testing.T) {
	for _, content := range []string{"", "{", "[]", strings.Repeat("x", 1<<20)} {
		synctest.Test(t, func(t *testing.T) {
			var exclusive atomic.Int32
			s := &storage{content: []byte(content)}
			p := start(t, s, &exclusive)
			defer p.stop()
			time.Sleep(ttl - time.Second)
			expect(t, "before its end", p, p, false, false)
			time.Sleep(ttl/3 + time.Second)
			expect(t, "after its end", p, p, true, true)
		})
	}
}

// Whatever cuts off the holder, it ends before anybody else begins; start counts that.
func TestAHolderThatIsCutOffEndsInTime(t *testing.T) {
	for name, fault := range map[string]func(context.Context, func() (bucket.Info, error)) (bucket.Info, error){"refused": refuse, "hanging": hang} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var exclusive atomic.Int32
				s := &storage{}
				first, second := start(t, s, &exclusive), (*process)(nil)
				second = start(t, s, &exclusive)
				defer func() { first.stop(); second.stop() }()
				first.breaks(fault)
				time.Sleep(ttl*2/3 + time.Second)
				expect(t, "past its time", first, second, false, false)
				time.Sleep(ttl)
				expect(t, "a minute later", first, second, false, true)
				if first.problems.Load() == 0 {
					t.Error("that it was lost was not told")
				}
				first.fault.Store(nil)
				time.Sleep(ttl)
				expect(t, "when the line is good again", first, second, false, true)
			})
		})
	}
}

func TestShortFaultsAreSurvived(t *testing.T) {
	for name, fault := range map[string]func(context.Context, func() (bucket.Info, error)) (bucket.Info, error){
		"refused": refuse, "hanging": hang, "stored without an answer": loseAnswer,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var exclusive atomic.Int32
				p := start(t, &storage{}, &exclusive)
				defer p.stop()
				for range 5 {
					p.breaks(fault)
					time.Sleep(ttl / 5)
					p.fault.Store(nil)
					time.Sleep(ttl * 5)
				}
				expect(t, "after all", p, p, true, true)
				if n := p.problems.Load(); n > 0 {
					t.Errorf("it was lost %d times", n)
				}
			})
		})
	}
}

// The write that took the lease went through, though its answer was lost: nobody else can have it, so it is ours.
func TestTakenWithoutAnAnswer(t *testing.T) {
	b := &line{storage: &storage{}}
	l := newLease(t, b)
	b.breaks(loseAnswer)
	if had, err := l.Try(t.Context(), func(context.Context) {}); had || !errors.Is(err, bucket.ErrUnavailable) {
		t.Fatalf("%t, %v", had, err)
	}
	b.fault.Store(nil)
	if had, err := newLease(t, b).Try(t.Context(), func(context.Context) {}); had || err != nil {
		t.Fatalf("another one: %t, %v", had, err)
	}
	if had, err := l.Try(t.Context(), func(context.Context) {}); !had || err != nil {
		t.Fatalf("the same one again: %t, %v", had, err)
	}
}

func TestLostToSomebodyElse(t *testing.T) {
	for name, content := range map[string]string{"taken": `{"holder":"other","count":99}`, "damaged": "{"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &storage{}
				had, err := newLease(t, s).Try(t.Context(), func(ctx context.Context) {
					s.set(content)
					<-ctx.Done()
					if !errors.Is(context.Cause(ctx), lease.ErrLost) {
						t.Errorf("the work ended because of %v", context.Cause(ctx))
					}
				})
				if !had || !errors.Is(err, lease.ErrLost) {
					t.Errorf("%t, %v", had, err)
				}
				if string(s.content) != content {
					t.Errorf("it was changed to %q", s.content)
				}
			})
		})
	}
}

func TestTryDoesWorkAndReleases(t *testing.T) {
	for name, b := range map[string]bucket.Bucket{"S3": &storage{}, "a single writer's": &storage{careless: true}, "a directory": directory(t)} {
		t.Run(name, func(t *testing.T) {
			first, second := newLease(t, b), newLease(t, b)
			for range 3 {
				worked := false
				had, err := first.Try(t.Context(), func(ctx context.Context) {
					worked = ctx.Err() == nil
					for _, l := range []*lease.Lease{first, second} {
						if had, err := l.Try(ctx, func(context.Context) { t.Error("two work at the same time") }); had || err != nil {
							t.Errorf("while it is held: %t, %v", had, err)
						}
					}
				})
				if !had || err != nil || !worked {
					t.Fatalf("had it: %t, worked: %t, error: %v", had, worked, err)
				}
				first, second = second, first
			}
		})
	}
}

// Where tries are rare, one that sees what an earlier one saw need not wait any more.
func TestTryRemembersWhatItSaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &storage{content: []byte(`{"holder":"killed","count":7}`)}
		l := newLease(t, s)
		for i, want := range []bool{false, true} {
			if had, err := l.Try(t.Context(), func(context.Context) {}); had != want || err != nil {
				t.Errorf("try %d: %t, %v", i, had, err)
			}
			time.Sleep(time.Hour)
		}
	})
}

func TestMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &storage{}
		var working, worked atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			l := newLease(t, s)
			all.Go(func() {
				for range 50 {
					_, err := l.Try(t.Context(), func(context.Context) {
						if n := working.Add(1); n != 1 {
							t.Errorf("%d work at the same time", n)
						}
						time.Sleep(time.Second)
						working.Add(-1)
						worked.Add(1)
					})
					if err != nil {
						t.Error(err)
					}
					time.Sleep(time.Second)
				}
			})
		}
		all.Wait()
		if worked.Load() < 20 {
			t.Errorf("it was had %d times", worked.Load())
		}
	})
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "-", "A", "a/b", "a.b", "ü", strings.Repeat("a", 64)} {
		if _, err := lease.New(lease.Options{Name: name}); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	b := directory(t)
	l, err := lease.New(lease.Options{Bucket: b, Name: "garbage-2"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Try(t.Context(), func(context.Context) {}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Head(t.Context(), "leases/garbage-2.json"); err != nil {
		t.Error(err)
	}
}

func directory(t *testing.T) bucket.Bucket {
	t.Helper()
	b, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

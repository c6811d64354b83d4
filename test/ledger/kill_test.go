package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
)

// rounds is how often a server is killed; LEDGER_ROUNDS overrides it.
func rounds(t *testing.T, usual int) int {
	t.Helper()
	value := os.Getenv("LEDGER_ROUNDS")
	if value == "" {
		return usual
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("LEDGER_ROUNDS is %q: write a number of rounds", value)
	}
	return n
}

// maker makes charts for one goroutine.
func maker(t *testing.T, seed int) *load.Maker {
	t.Helper()
	m, err := load.NewMaker(byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func eachStorage(t *testing.T, test func(t *testing.T, s *storage)) {
	t.Helper()
	t.Run("directory", func(t *testing.T) { test(t, onDirectory(t)) })
	t.Run("S3", func(t *testing.T) { test(t, onS3(t)) })
}

// Several clients push until the server is killed, over and over.
func TestKilledServer(t *testing.T) {
	eachStorage(t, func(t *testing.T, s *storage) {
		l := newLedger(t)
		const workers = 4
		var makers [workers]*load.Maker
		for i := range makers {
			makers[i] = maker(t, i)
		}
		n := rounds(t, 200)
		// A machine that is slow, or busy with other things, needs longer for a push.
		within := 120 * time.Millisecond
		for round := range n {
			r := s.serve(t)
			if round%50 == 0 {
				l.audit(t, r)
			}
			if round%10 == 9 && l.size() < round/2 {
				within = min(2*within, 2*time.Second)
			}
			var wait sync.WaitGroup
			for i := range workers {
				wait.Go(func() {
					c := newClient(r)
					defer c.http.CloseIdleConnections()
					for version := 0; ; version++ {
						// Two workers each push to one chart.
						chart, err := makers[i].Make(folder, fmt.Sprintf("chart-%d", i/2), fmt.Sprintf("%d.%d.%d", i, round, version), 500, 8)
						if err != nil {
							t.Error(err)
							return
						}
						l.begin(chart)
						if err := c.push(t.Context(), chart); err != nil {
							if status := new(statusError); errors.As(err, &status) {
								t.Error(err)
							}
							return
						}
						l.acknowledged(chart)
					}
				})
			}
			time.Sleep(rand.N(within))
			r.kill()
			wait.Wait()
			if t.Failed() {
				t.Fatal(r.log.end())
			}
		}
		l.audit(t, s.serve(t))
		t.Logf("the server was killed %d times; %d pushes were acknowledged, and all are there", n, l.size())
		if l.size() < n/4 {
			t.Errorf("in %d rounds there were only %d pushes: the server was killed before it could do anything", n, l.size())
		}
	})
}

// Three servers take pushes of the same and of other charts; of those that race for a version, exactly one wins.
func TestSeveralServers(t *testing.T) {
	eachStorage(t, func(t *testing.T, s *storage) {
		l := newLedger(t)
		servers := []*server{s.serve(t), s.serve(t), s.serve(t)}
		var wait sync.WaitGroup
		for i, r := range servers {
			m := maker(t, i)
			wait.Go(func() {
				c := newClient(r)
				for version := range 60 {
					for _, name := range []string{"shared", fmt.Sprintf("own-%d", i)} {
						chart, err := m.Make(folder, name, fmt.Sprintf("%d.0.%d", i, version), 500, 8)
						if err != nil {
							t.Error(err)
							return
						}
						l.begin(chart)
						if err := c.push(t.Context(), chart); err != nil {
							t.Error(err)
							return
						}
						l.acknowledged(chart)
					}
				}
			})
		}
		wait.Wait()
		for version := range 30 {
			var won, lost atomic.Int64
			start := make(chan struct{})
			for i := range 6 {
				m := maker(t, 10+i)
				chart, err := m.Make(folder, "raced", fmt.Sprintf("1.0.%d", version), 500, 8+version)
				if err != nil {
					t.Fatal(err)
				}
				l.begin(chart)
				wait.Go(func() {
					c := newClient(servers[i%len(servers)])
					<-start
					err := c.push(t.Context(), chart)
					status := new(statusError)
					switch {
					case err == nil:
						won.Add(1)
						l.acknowledged(chart)
					case errors.As(err, &status) && status.status == http.StatusConflict:
						lost.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			close(start)
			wait.Wait()
			if won.Load() != 1 || lost.Load() != 5 {
				t.Fatalf("of 6 that raced for one version, %d won and %d were refused", won.Load(), lost.Load())
			}
		}
		for _, r := range servers {
			l.audit(t, r)
		}
	})
}

// The S3 server is killed and comes back while clients push and try again.
func TestKilledS3Server(t *testing.T) {
	s := onS3(t)
	l := newLedger(t)
	r := s.serve(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var failures atomic.Int64
	var wait sync.WaitGroup
	for i := range 4 {
		m := maker(t, i)
		wait.Go(func() {
			c := newClient(r)
			for version := 0; ctx.Err() == nil; version++ {
				chart, err := m.Make(folder, fmt.Sprintf("chart-%d", i/2), fmt.Sprintf("%d.0.%d", i, version), 500, 8)
				if err != nil {
					t.Error(err)
					return
				}
				l.begin(chart)
				for {
					err := c.push(t.Context(), chart)
					if err == nil {
						l.acknowledged(chart)
						break
					}
					status := new(statusError)
					if !errors.As(err, &status) || status.status != http.StatusServiceUnavailable {
						t.Errorf("while the storage is away, a push is answered otherwise than with 503: %v", err)
						return
					}
					failures.Add(1)
					if ctx.Err() != nil {
						return
					}
				}
			}
		})
	}
	for range rounds(t, 10) {
		time.Sleep(time.Duration(rand.Int64N(int64(300 * time.Millisecond))))
		s.s3.Kill()
		time.Sleep(time.Duration(rand.Int64N(int64(300 * time.Millisecond))))
		if err := s.s3.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wait.Wait()
	l.audit(t, r)
	l.audit(t, s.serve(t))
	t.Logf("%d pushes were acknowledged and %d failed", l.size(), failures.Load())
}

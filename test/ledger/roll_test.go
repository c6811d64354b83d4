package ledger_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// balancer passes connections on to the servers that it knows, in turn, and as the nodes of a cluster do it: it tries no
// connection again, leaves those alone that are open, and learns late which servers are ending.
type balancer struct {
	net.Listener
	mu    sync.Mutex
	to    []string
	turns int
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{Listener: listener}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			open.Go(func() { b.pass(from) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		open.Wait()
	})
	return b
}

func (b *balancer) pass(from net.Conn) {
	defer from.Close()
	b.mu.Lock()
	b.turns++
	address := b.to[b.turns%len(b.to)]
	b.mu.Unlock()
	to, err := new(net.Dialer).DialContext(context.Background(), "tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			// When one side breaks off, so does the other.
			_, _ = io.Copy(way[1], way[0])
			if half, ok := way[1].(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
		})
	}
	both.Wait()
}

func (b *balancer) add(r *server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.to = append(b.to, strings.TrimPrefix(r.base, "http://"))
}

func (b *balancer) remove(r *server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.to = slices.DeleteFunc(b.to, func(a string) bool { return a == strings.TrimPrefix(r.base, "http://") })
}

// end tells a server to stop and waits until it has.
func (r *server) end(t *testing.T) {
	t.Helper()
	if err := r.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.ended = true
	if err := r.process.Wait(); err != nil {
		t.Errorf("the server ended with %v:\n%s", err, r.log.end())
	}
}

// Two servers are replaced, one after the other and twice, while clients push and pull: not one request is lost, although
// the balancer learns later than the drain delay which server is ending.
func TestRoll(t *testing.T) {
	const drainDelay, late = time.Second, 1500 * time.Millisecond
	eachStorage(t, func(t *testing.T, s *storage) {
		l := newLedger(t)
		b := newBalancer(t)
		start := func() *server {
			r := s.serve(t, "--drain-delay", drainDelay.String())
			b.add(r)
			return r
		}
		servers := []*server{start(), start()}
		behind := &server{base: "http://" + b.Addr().String(), token: servers[0].token, log: new(log)}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var lost atomic.Int64
		var wait sync.WaitGroup
		for i := range 3 {
			m := maker(t, i)
			wait.Go(func() {
				c := newClient(behind)
				defer c.http.CloseIdleConnections()
				for version := 0; ctx.Err() == nil; version++ {
					chart, err := m.Make(folder, fmt.Sprintf("chart-%d", i), fmt.Sprintf("1.0.%d", version), 500, 8)
					if err != nil {
						t.Error(err)
						return
					}
					l.begin(chart)
					if err := c.push(t.Context(), chart); err != nil {
						lost.Add(1)
						t.Errorf("a push was lost: %v", err)
						return
					}
					l.acknowledged(chart)
					if _, err := c.get(t.Context(), "/v2/"+chart.Repository+"/manifests/"+chart.Tag); err != nil {
						lost.Add(1)
						t.Errorf("a pull was lost: %v", err)
						return
					}
				}
			})
		}
		for range 2 {
			for i, old := range servers {
				servers[i] = start()
				learned := time.AfterFunc(late, func() { b.remove(old) })
				old.end(t)
				learned.Stop()
				b.remove(old)
			}
		}
		stop()
		wait.Wait()
		if lost.Load() == 0 && l.size() < 10 {
			t.Errorf("there were only %d pushes", l.size())
		}
		for _, r := range servers {
			l.audit(t, r)
		}
	})
}

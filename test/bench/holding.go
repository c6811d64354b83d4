package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
)

// largeBlobs measures one large blob on its way up and down.
func largeBlobs(ctx context.Context, b *bench) error {
	servers, err := b.freshAll(ctx, b.disk, ours, durable)
	if err != nil {
		return err
	}
	const base = "/v2/" + folder + "large"
	piece := make([]byte, 1<<20)
	times := int(b.blob >> 20)
	digests := map[int]string{}
	up := fmt.Sprintf("blob of %d MiB up", times)
	pushed, err := b.interleave(ctx, up, servers, func(ctx context.Context, s *server, round int) (load.Result, error) {
		if digests[round] == "" {
			_, _ = rand.Read(piece)
			hash := sha256.New()
			for range times {
				_, _ = hash.Write(piece)
			}
			digests[round] = fmt.Sprintf("sha256:%x", hash.Sum(nil))
		}
		return load.Run(ctx, &s.Target, 1, load.Bounds{Operations: 1, Time: forever}, func(ctx context.Context, c *load.Conn, _ int) error {
			return s.PutBlob(ctx, c, base, digests[round], piece, times)
		})
	})
	if err != nil {
		return err
	}
	down := fmt.Sprintf("blob of %d MiB down", times)
	pulled, err := b.interleave(ctx, down, servers, func(ctx context.Context, s *server, round int) (load.Result, error) {
		head := s.Head(http.MethodGet, base+"/blobs/"+digests[round], -1)
		return load.Run(ctx, &s.Target, 1, load.Bounds{Operations: 4, Time: forever}, func(ctx context.Context, c *load.Conn, _ int) error {
			answer, err := c.Do(ctx, http.StatusOK, head, nil)
			if err == nil && answer.Length != b.blob {
				err = fmt.Errorf("%d bytes in place of %d", answer.Length, b.blob)
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	mib := func(s sample) float64 { return s.rate * float64(times) }
	b.report.target(up+", rate over the durable ceiling's", pushed.ratio(ours, durable, rate), atLeast(0.9), pushed.figures(" MiB/s", mib, []string{ours, durable}))
	b.report.target(down+", rate over the durable ceiling's", pulled.ratio(ours, durable, rate), atLeast(0.9), pulled.figures(" MiB/s", mib, []string{ours, durable}))
	peak, err := memoryOf(servers[0].process.Process.Pid, "VmHWM")
	if err != nil {
		return err
	}
	b.report.target("memory after large blobs, peak", peak, below(60, "MiB"), "the target is the report's own: memory does not grow with the blob")
	return nil
}

// settle is how long a server is left alone before its memory is looked at.
const settle = 2 * time.Second

// memoryHeld measures resident memory, idle and after pulls from a large registry.
func memoryHeld(ctx context.Context, b *bench) error {
	idle, err := b.fresh(ctx, ours, b.memory)
	if err != nil {
		return err
	}
	time.Sleep(settle)
	held, err := memoryOf(idle.process.Process.Pid, "VmRSS")
	if err != nil {
		return err
	}
	b.report.target("resident memory, idle and empty", held, below(30, "MiB"), "")
	s, err := b.serveStore(ctx, b.versions)
	if err != nil {
		return err
	}
	charts, err := b.pullCharts()
	if err != nil {
		return err
	}
	_, err = load.Run(ctx, &s.Target, pullConnections, load.Bounds{Operations: 5 * len(charts), Time: forever},
		func(ctx context.Context, c *load.Conn, i int) error {
			p := s.Pull(charts[i%len(charts)])
			return p.Do(ctx, c)
		})
	if err != nil {
		return err
	}
	time.Sleep(settle)
	pid := s.process.Process.Pid
	after, err := memoryOf(pid, "VmRSS")
	if err != nil {
		return err
	}
	peak, err := memoryOf(pid, "VmHWM")
	if err != nil {
		return err
	}
	b.report.target(fmt.Sprintf("resident memory with %d versions, after %d pulls of %d charts", b.versions, 5*len(charts), len(charts)),
		after, below(150, "MiB"), fmt.Sprintf("peak %s MiB", short(peak)))
	return nil
}

// starts measures the time from the start of the process until /readyz says that it is ready.
func starts(ctx context.Context, b *bench) error {
	const times = 11
	for _, versions := range []int{0, b.versions} {
		var took []float64
		for range times {
			ready, err := b.startOnce(ctx, versions)
			if err != nil {
				return err
			}
			took = append(took, ready.Seconds())
		}
		b.report.target(fmt.Sprintf("start to ready with %d versions", versions), median(took), below(0.3, "s"),
			fmt.Sprintf("median of %d starts", times))
	}
	return nil
}

func (b *bench) startOnce(ctx context.Context, versions int) (time.Duration, error) {
	health, err := freeAddress(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := b.storeOrEmpty(ctx, versions); err != nil {
		return 0, err
	}
	started := time.Now()
	var s *server
	if versions == 0 {
		s, err = b.fresh(ctx, ours, b.memory, "--metrics-listen", health)
	} else {
		s, err = b.serveStore(ctx, versions, "--metrics-listen", health)
	}
	if err != nil {
		return 0, err
	}
	defer s.stop()
	for !isReady(ctx, health) {
		if time.Since(started) > startPatience {
			return 0, fmt.Errorf("our server is not ready after %s", startPatience)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(started), nil
}

func (b *bench) storeOrEmpty(ctx context.Context, versions int) (string, error) {
	if versions == 0 {
		return "", nil
	}
	return b.store(ctx, versions)
}

// growth measures what a pull, a push and a list cost as the registry grows.
func growth(ctx context.Context, b *bench) error {
	steps := []int{b.versions / 100, b.versions / 10, b.versions}
	var servers []*server
	for _, versions := range steps {
		s, err := b.serveStore(ctx, versions)
		if err != nil {
			return err
		}
		s.name = fmt.Sprintf("%s with %d versions", ours, versions)
		servers = append(servers, s)
	}
	charts, err := b.pullCharts()
	if err != nil {
		return err
	}
	works := []struct {
		work string
		do   func(context.Context, *server, int) (load.Result, error)
	}{
		{"pull", puller(b, servers, charts, b.time)},
		{"push in memory, 1 connection", b.pusher(200)},
		{"tags/list of 100", func(ctx context.Context, s *server, _ int) (load.Result, error) {
			head := s.Head(http.MethodGet, "/v2/"+folder+smallName("small", 0)+"/tags/list", -1)
			return load.Run(ctx, &s.Target, 1, load.Bounds{Time: b.time / 2}, func(ctx context.Context, c *load.Conn, _ int) error {
				_, err := c.Do(ctx, http.StatusOK, head, nil)
				return err
			})
		}},
	}
	for _, w := range works {
		all, err := b.interleave(ctx, w.work+" as the registry grows", servers, w.do)
		if err != nil {
			return err
		}
		b.report.target(fmt.Sprintf("%s, CPU with %d versions over that with %d", w.work, steps[2], steps[0]),
			all.ratio(servers[2].name, servers[0].name, cpu), atMost(1.1),
			strings.ReplaceAll(all.figures(" µs", cpu, []string{servers[0].name, servers[1].name, servers[2].name}), ours+" with ", ""))
	}
	return nil
}

// pusher pushes new versions of one chart.
func (b *bench) pusher(operations int) func(context.Context, *server, int) (load.Result, error) {
	return func(ctx context.Context, s *server, round int) (load.Result, error) {
		charts, err := makeCharts(operations, func(i int) (string, string) { return "growing", fmt.Sprintf("%d.%d.0", round, i) })
		if err != nil {
			return load.Result{}, err
		}
		return load.Run(ctx, &s.Target, 1, load.Bounds{Operations: operations, Time: forever},
			func(ctx context.Context, c *load.Conn, i int) error { return s.Push(ctx, c, charts[i]) })
	}
}

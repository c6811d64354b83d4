package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
)

// pushPatience ends a run of pushes to a server that is slow.
const pushPatience = 5 * time.Second

// pushes measures durable pushes as helm makes them.
func pushes(ctx context.Context, b *bench) error {
	servers, err := b.freshAll(ctx, b.disk, ours, durable, distribution, crane)
	if err != nil {
		return err
	}
	for _, w := range []struct {
		connections, operations int
		least                   float64
	}{{1, 400, 0.9}, {16, 1600, 1.0}} {
		work := fmt.Sprintf("push, %d connections", w.connections)
		if b.sizes.charts < whole.charts {
			w.operations /= 4
		}
		all, err := b.pushTo(ctx, work, servers, w.connections, w.operations)
		if err != nil {
			return err
		}
		b.report.target(work+", rate over the durable ceiling's", all.ratio(ours, durable, rate), atLeast(w.least),
			all.rates(ours, durable)+"; "+all.cpus(ours, durable))
	}
	return nil
}

// pushTo lets all servers get the same charts, which are others in each round. The charts exist: what is measured is
// another version.
func (b *bench) pushTo(ctx context.Context, work string, servers []*server, connections, operations int) (samples, error) {
	made := map[int][]load.Chart{}
	prefix := fmt.Sprintf("push%d", connections)
	for _, s := range servers {
		if err := seedSmall(ctx, s, prefix, pushedCharts, 1); err != nil {
			return nil, err
		}
	}
	return b.interleave(ctx, work, servers, func(ctx context.Context, s *server, round int) (load.Result, error) {
		if made[round] == nil {
			clear(made)
			charts, err := makeCharts(operations, func(i int) (string, string) {
				return smallName(prefix, i%pushedCharts), fmt.Sprintf("%d.%d.0", 1+round, i/pushedCharts)
			})
			if err != nil {
				return load.Result{}, err
			}
			made[round] = charts
		}
		return load.Run(ctx, &s.Target, connections, load.Bounds{Operations: operations, Time: pushPatience},
			func(ctx context.Context, c *load.Conn, i int) error { return s.Push(ctx, c, made[round][i]) })
	})
}

// pushedCharts is how many charts get the versions that are pushed.
const pushedCharts = 50

func makeCharts(n int, name func(i int) (chart, version string)) ([]load.Chart, error) {
	maker, err := random()
	if err != nil {
		return nil, err
	}
	charts := make([]load.Chart, n)
	for i := range charts {
		chart, version := name(i)
		if charts[i], err = maker.Make(folder, chart, version, payload, description); err != nil {
			return nil, err
		}
	}
	return charts, nil
}

// lateTags compares a push to a chart of many tags with one to a chart of a hundred, in turn on one connection.
func lateTags(ctx context.Context, b *bench) error {
	s, err := b.grownOnDisk(ctx, b.manyTags)
	if err != nil {
		return err
	}
	const pairs = 200
	var took [2][]float64
	for round := range b.rounds {
		var charts [2][]load.Chart
		for i, name := range []string{"young-0000", "old-0000"} {
			charts[i], err = makeCharts(pairs, func(j int) (string, string) { return name, fmt.Sprintf("%d.%d.0", 1+round, j) })
			if err != nil {
				return err
			}
		}
		var times [2][]time.Duration
		_, err := load.Run(ctx, &s.Target, 1, load.Bounds{Operations: pairs, Time: forever}, func(ctx context.Context, c *load.Conn, i int) error {
			for which := range charts {
				which = (which + i) % 2
				started := time.Now()
				if err := s.Push(ctx, c, charts[which][i]); err != nil {
					return err
				}
				times[which] = append(times[which], time.Since(started))
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i := range took {
			slices.Sort(times[i])
			took[i] = append(took[i], millis(times[i][len(times[i])/2]))
		}
	}
	var ratios []float64
	for i := range took[0] {
		ratios = append(ratios, took[1][i]/took[0][i])
	}
	b.report.target(fmt.Sprintf("push to a chart of %d tags over one to a chart of 100, p50", b.manyTags), median(ratios), atMost(1.1),
		fmt.Sprintf("%.2f ms, %.2f ms", median(took[1]), median(took[0])))
	return nil
}

// grownOnDisk is our server, on the disk, with a chart "old" of so many tags and a chart "young" of 100.
func (b *bench) grownOnDisk(ctx context.Context, tags int) (*server, error) {
	s, err := b.fresh(ctx, ours, b.memory)
	if err != nil {
		return nil, err
	}
	if err := seedSmall(ctx, s, "old", 1, tags); err != nil {
		return nil, err
	}
	if err := seedSmall(ctx, s, "young", 1, 100); err != nil {
		return nil, err
	}
	s.stop()
	dir, err := b.onDisk(s.dir)
	if err != nil {
		return nil, err
	}
	return b.start(ctx, ours, dir)
}

// neighbours compares pushes to a small chart while others push to a chart of many tags of the same registry with such
// pushes while the same load is on another registry.
func neighbours(ctx context.Context, b *bench) error {
	var servers [2]*server
	for i := range servers {
		var err error
		if servers[i], err = b.grownOnDisk(ctx, b.tags); err != nil {
			return err
		}
	}
	var p50s [2][]float64
	for round := range b.rounds {
		for which, loaded := range servers {
			took, err := b.disturbed(ctx, servers[0], loaded, 1+2*round+which)
			if err != nil {
				return err
			}
			p50s[which] = append(p50s[which], millis(took.P50))
		}
	}
	var ratios []float64
	for i := range p50s[0] {
		ratios = append(ratios, p50s[0][i]/p50s[1][i])
	}
	b.report.target(fmt.Sprintf("push to a small chart while two push to a chart of %d tags, over the same load on another registry, p50", b.tags),
		median(ratios), atMost(1.2), fmt.Sprintf("%.2f ms, %.2f ms", median(p50s[0]), median(p50s[1])))
	return nil
}

// disturbed measures pushes to the young chart of s while two connections push to the old chart of loaded.
func (b *bench) disturbed(ctx context.Context, s, loaded *server, major int) (load.Result, error) {
	charts, err := makeCharts(150, func(i int) (string, string) { return "young-0000", fmt.Sprintf("%d.%d.0", major, i) })
	if err != nil {
		return load.Result{}, err
	}
	disturbing, err := makeCharts(2000, func(i int) (string, string) { return "old-0000", fmt.Sprintf("%d.%d.0", major, i) })
	if err != nil {
		return load.Result{}, err
	}
	loadCtx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		_, err := load.Run(ctx, &loaded.Target, 2, load.Bounds{Operations: len(disturbing), Time: forever},
			func(ctx context.Context, c *load.Conn, i int) error {
				select {
				case <-loadCtx.Done():
					return nil
				default:
					return loaded.Push(ctx, c, disturbing[i])
				}
			})
		ended <- err
	}()
	result, err := load.Run(ctx, &s.Target, 1, load.Bounds{Operations: len(charts), Time: pushPatience},
		func(ctx context.Context, c *load.Conn, i int) error { return s.Push(ctx, c, charts[i]) })
	stop()
	if loadErr := <-ended; err == nil {
		err = loadErr
	}
	return result, err
}

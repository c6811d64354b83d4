package load

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Result is what a run measured at the client.
type Result struct {
	// Operations that were done in Elapsed.
	Operations int
	Elapsed    time.Duration
	// P50 and P99 are quantiles of the time of one.
	P50, P99 time.Duration
}

// Rate is in operations per second.
func (r Result) Rate() float64 { return float64(r.Operations) / r.Elapsed.Seconds() }

// Bounds end a run: after so many operations, if not 0, or after so long, whichever is first.
type Bounds struct {
	Operations int
	Time       time.Duration
}

// Run does operations on so many connections until the bounds, or the first error. Operation i is given to do once.
func Run(ctx context.Context, t *Target, connections int, b Bounds, do func(ctx context.Context, c *Conn, i int) error) (Result, error) {
	var next atomic.Int64
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	started := time.Now()
	end := started.Add(b.Time)
	var workers sync.WaitGroup
	for range connections {
		workers.Go(func() {
			took, err := work(ctx, t, &next, b.Operations, end, do)
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, took...), errors.Join(failed, err)
			if err != nil {
				next.Store(1 << 40) // Beyond any bound: the others end too.
			}
		})
	}
	workers.Wait()
	r := Result{Operations: len(all), Elapsed: time.Since(started)}
	if failed != nil || len(all) == 0 {
		return r, failed
	}
	slices.Sort(all)
	r.P50, r.P99 = all[len(all)/2], all[len(all)*99/100]
	return r, nil
}

func work(ctx context.Context, t *Target, next *atomic.Int64, most int, end time.Time, do func(context.Context, *Conn, int) error) ([]time.Duration, error) {
	c := t.Dial()
	defer c.Close()
	took := make([]time.Duration, 0, 1<<14)
	for at := time.Now(); at.Before(end); {
		i := int(next.Add(1) - 1)
		if i >= 1<<40 || most > 0 && i >= most {
			break
		}
		if err := do(ctx, c, i); err != nil {
			return took, err
		}
		now := time.Now()
		took = append(took, now.Sub(at))
		at = now
	}
	return took, nil
}

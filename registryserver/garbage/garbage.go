// Package garbage decides when the garbage of which repositories is collected, and keeps account of it. What garbage is,
// and how it is collected safely, is package repository's.
//
// Each replica collects the repositories in which it has seen something become garbage. All repositories are gone through
// by one replica, every now and then, for what no replica has seen, or has forgotten.
package garbage

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/lease"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

const (
	// maxQueued bounds the repositories that are waited for; of more, the next sweep takes care.
	maxQueued = 10_000

	// settling is how long a repository is left alone after something became garbage in it, at most: who deletes one
	// version often deletes others next.
	settling = 10 * time.Second

	// retryAfter is how long a repository is left alone after a failure.
	retryAfter = time.Minute

	// firstSweep is how long after it has begun a replica goes through all repositories for the first time, at most.
	firstSweep = 5 * time.Minute
)

// Options configure a Collector.
type Options struct {
	// Store has the repositories. Its Options.Unlinked should call Queue.
	Store *repository.Store
	// Lease is held by the replica that goes through all repositories.
	Lease *lease.Lease
	// Interval is the time between two sweeps.
	Interval time.Duration
	// Grace is that of the store, and Undo that of repository.CollectorOptions.
	Grace, Undo time.Duration
	// Log gets what went wrong.
	Log *slog.Logger
}

// Report is the account of one replica since it began.
type Report struct {
	// Repositories is how often one was collected, and Failures how often that failed.
	Repositories, Failures int64
	// Total is the sum of all; its Waiting is what is in the trash, as far as this replica knows.
	Total repository.Collection
	// LastSweep is when all repositories had been gone through by this replica; zero before the first time.
	LastSweep time.Time
	// Sweeping is true while they are gone through, of which there are about Repositories, Done of them so far.
	Sweeping   bool
	SweepTotal int
	SweepDone  int
	// Pending are the repositories that wait to be collected.
	Pending int
	// Problem is what went wrong last, in one sentence; empty when the last sweep, and what was collected since, went
	// well.
	Problem string
}

// Collector collects garbage in the background. Make it with New.
type Collector struct {
	o         Options
	collector *repository.Collector
	// woken has something in it when the queue has changed.
	woken chan struct{}

	mu     sync.Mutex
	queue  map[string]time.Time
	report Report
	// waiting is what each repository has in the trash that has any.
	waiting map[string]repository.Tally
}

// New returns a collector that does nothing before Run.
func New(o Options) *Collector {
	return &Collector{
		o: o, collector: o.Store.NewCollector(repository.CollectorOptions{Undo: o.Undo}), woken: make(chan struct{}, 1),
		queue: map[string]time.Time{}, waiting: map[string]repository.Tally{},
	}
}

// Queue has a repository collected soon. It does not block.
func (c *Collector) Queue(name string) {
	c.queueAt(name, time.Now().Add(min(settling, c.o.Grace/4)))
}

func (c *Collector) queueAt(name string, at time.Time) {
	c.mu.Lock()
	before, queued := c.queue[name]
	if !queued && len(c.queue) >= maxQueued || queued && !at.Before(before) {
		c.mu.Unlock()
		return
	}
	c.queue[name] = at
	c.mu.Unlock()
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

// Report says what was done so far.
func (c *Collector) Report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.report
	r.Pending = len(c.queue)
	r.Total.Waiting = repository.Tally{}
	for _, t := range c.waiting {
		r.Total.Waiting.Add(t.Objects, t.Bytes)
	}
	return r
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { c.collectQueued(ctx) })
	running.Go(func() {
		c.o.Lease.Run(ctx, c.sweepOften, func(err error) {
			c.o.Log.Warn("the lease for garbage collection cannot be had; it is tried again", "error", err)
		})
	})
	running.Wait()
}

// collectQueued collects what is in the queue, each when it is due.
func (c *Collector) collectQueued(ctx context.Context) {
	for ctx.Err() == nil {
		name, at := c.next()
		if wait := time.Until(at); name == "" || wait > 0 {
			c.wait(ctx, name != "", wait)
			continue
		}
		c.mu.Lock()
		delete(c.queue, name)
		c.mu.Unlock()
		o, err := c.collector.Collect(ctx, name)
		c.account(ctx, name, o, err)
	}
}

// next is what is due first; empty when nothing is in the queue.
func (c *Collector) next() (name string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, t := range c.queue {
		if name == "" || t.Before(at) {
			name, at = n, t
		}
	}
	return name, at
}

// wait returns when the queue has changed, or, when timed, after d.
func (c *Collector) wait(ctx context.Context, timed bool, d time.Duration) {
	var passed <-chan time.Time
	if timed {
		timer := time.NewTimer(d)
		defer timer.Stop()
		passed = timer.C
	}
	select {
	case <-ctx.Done():
	case <-c.woken:
	case <-passed:
	}
}

// account notes what came of collecting a repository, and when it is to be done again.
func (c *Collector) account(ctx context.Context, name string, o repository.Collection, err error) {
	if ctx.Err() != nil {
		return
	}
	due := o.Due
	c.mu.Lock()
	c.report.Repositories++
	c.report.Total = c.report.Total.Plus(o)
	if delete(c.waiting, name); o.Waiting.Objects > 0 && len(c.waiting) < maxQueued {
		c.waiting[name] = o.Waiting
	}
	if err != nil {
		c.report.Failures++
		c.report.Problem = err.Error()
		due = time.Now().Add(retryAfter)
	}
	c.mu.Unlock()
	if err != nil {
		c.o.Log.Warn("collecting garbage failed; it is tried again", "chart", name, "error", err)
	}
	// What is due later than the next sweep is found by it.
	if !due.IsZero() && time.Until(due) < c.o.Interval {
		c.queueAt(name, due)
	}
}

// sweepOften goes through all repositories again and again, for as long as this is the replica to do so.
func (c *Collector) sweepOften(ctx context.Context) {
	timer := time.NewTimer(min(c.o.Interval, firstSweep))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		c.sweep(ctx)
		timer.Reset(c.o.Interval)
	}
}

func (c *Collector) sweep(ctx context.Context) {
	names, _, err := c.o.Store.Repositories(ctx, 0, "")
	c.mu.Lock()
	c.report.Sweeping, c.report.SweepTotal, c.report.SweepDone = true, len(names), 0
	before := c.report.Failures
	c.mu.Unlock()
	seen := map[string]bool{}
	if err == nil {
		err = c.collector.CollectAll(ctx, func(name string, o repository.Collection, err error) error {
			c.account(ctx, name, o, err)
			seen[name] = o.Waiting.Objects > 0
			c.mu.Lock()
			defer c.mu.Unlock()
			c.report.SweepDone++
			return nil
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Sweeping = false
	if err != nil {
		if ctx.Err() == nil {
			c.report.Failures++
			c.report.Problem = err.Error()
			c.o.Log.Warn("going through all charts for garbage failed; it is done again", "error", err, "after", c.o.Interval)
		}
		return
	}
	c.report.LastSweep = time.Now()
	if c.report.Failures == before {
		c.report.Problem = ""
	}
	for name := range c.waiting {
		if !seen[name] {
			delete(c.waiting, name) // Nothing of it is left.
		}
	}
}

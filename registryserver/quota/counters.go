package quota

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	baseKey        = "usage/base.json"
	countersPrefix = "usage/replicas/"

	// maxDocumentBytes bounds a count when it is read; the base holds one counter for each replica.
	maxDocumentBytes = 1 << 20

	// recountAfter is the age of a base at which everything is counted anew, so that the counts that were lost when a
	// replica was killed do not add up.
	recountAfter = 6 * time.Hour

	// goneAfter is the age at which a counter is that of a replica that does not run any more; one that runs writes it
	// at least this often.
	goneAfter = 3 * time.Hour

	// dueInterval is how often the age of the base is looked at.
	dueInterval = time.Minute
	// again is the pause while pushes wait for the first count, which went wrong.
	again = time.Second
)

// counter is what one replica has added and removed since it began.
type counter struct {
	Usage Usage     `json:"usage"`
	At    time.Time `json:"at"`
}

// base is what was counted by listing everything.
type base struct {
	Usage Usage     `json:"usage"`
	At    time.Time `json:"at"`
	// Counted are the counters whose additions the listing has seen, by replica.
	Counted map[string]counter `json:"counted"`
}

// Run keeps the count until ctx ends, and then tells the rest of its own. problem is told what went wrong; the count goes on.
func (t *Tracker) Run(ctx context.Context, problem func(error)) {
	var working sync.WaitGroup
	for _, w := range []struct {
		pause time.Duration
		work  func(context.Context) error
	}{{Interval, t.Refresh}, {dueInterval, t.RecountIfDue}} {
		working.Go(func() {
			for {
				err := w.work(ctx)
				if ctx.Err() != nil {
					return
				}
				pause := w.pause
				if err != nil {
					problem(err)
				}
				if _, known := t.Usage(); !known {
					pause = again
				}
				wait(ctx, pause)
			}
		})
	}
	working.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), Interval)
	defer cancel()
	if err := t.flush(last); err != nil {
		problem(err)
	}
}

func wait(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// Refresh tells the own count and learns those of the others.
func (t *Tracker) Refresh(ctx context.Context) error {
	t.exchange.Lock()
	defer t.exchange.Unlock()
	if err := t.flush(ctx); err != nil {
		return err
	}
	return t.read(ctx)
}

// RecountIfDue counts everything anew where nobody has for long. Before the first count nothing can be said, so it does
// not wait for others that may be counting too.
func (t *Tracker) RecountIfDue(ctx context.Context) error {
	if err := t.Refresh(ctx); err != nil {
		return err
	}
	age := t.age()
	switch {
	case age < recountAfter:
		return nil
	case age == never, t.o.Alone == nil:
		return t.Recount(ctx)
	}
	var failed error
	_, err := t.o.Alone(ctx, func(ctx context.Context) {
		// Somebody else may have counted since.
		if failed = t.Refresh(ctx); failed == nil && t.age() >= recountAfter {
			failed = t.Recount(ctx)
		}
	})
	return errors.Join(failed, err)
}

// never is the age of a base that is not there.
const never = time.Duration(math.MaxInt64)

// age is that of the base.
func (t *Tracker) age() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost || t.base.At.IsZero() {
		return never
	}
	return t.o.Now().Sub(t.base.At)
}

// flush writes the own counter when it changed, or is about to look like that of a replica that is gone.
func (t *Tracker) flush(ctx context.Context) error {
	t.mu.Lock()
	own, due := t.own, t.own.Usage != t.written.Usage || t.own.Usage != (Usage{}) && t.o.Now().Sub(t.written.At) >= goneAfter/3
	t.mu.Unlock()
	if !due {
		return nil
	}
	own.At = t.o.Now().UTC()
	if err := t.write(ctx, countersPrefix+t.replica, own); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.written = own
	return nil
}

func (t *Tracker) read(ctx context.Context) error {
	var b base
	if err := t.get(ctx, baseKey, &b); err != nil && !errors.Is(err, bucket.ErrNotFound) {
		return err
	}
	counters, err := t.counters(ctx)
	if err != nil {
		return err
	}
	delete(counters, t.replica)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.others, t.lost = counters, b.At.IsZero()
	if !t.lost {
		t.base = b
		t.isKnown.Do(func() { close(t.known) })
	}
	return nil
}

func (t *Tracker) counters(ctx context.Context) (map[string]counter, error) {
	all := map[string]counter{}
	for after := ""; ; {
		p, err := t.o.Bucket.List(ctx, bucket.ListOptions{Prefix: countersPrefix, StartAfter: after})
		if err != nil {
			return nil, fmt.Errorf("list the replicas' counts: %w", err)
		}
		for _, i := range p.Objects {
			var c counter
			if err := t.get(ctx, i.Key, &c); errors.Is(err, bucket.ErrNotFound) {
				continue
			} else if err != nil {
				return nil, err
			}
			all[strings.TrimPrefix(i.Key, countersPrefix)] = c
		}
		if p.Next == "" {
			return all, nil
		}
		after = p.Next
	}
}

// Recount counts everything. What is pushed while it counts may be counted twice until the next time.
func (t *Tracker) Recount(ctx context.Context) error {
	if err := t.Refresh(ctx); err != nil {
		return err
	}
	counted, err := t.counters(ctx)
	if err != nil {
		return err
	}
	usage, err := t.o.Count(ctx)
	if err != nil {
		return fmt.Errorf("count what is stored: %w", err)
	}
	now := t.o.Now().UTC()
	if err := t.write(ctx, baseKey, base{Usage: usage, At: now, Counted: counted}); err != nil {
		return err
	}
	// The base holds what the counters of replicas that are gone say, and goes on doing so until the next one is
	// written, which does not: without the counter there is nothing to hold.
	for name, c := range counted {
		if name != t.replica && now.Sub(c.At) >= goneAfter {
			if err := t.o.Bucket.Delete(ctx, countersPrefix+name, bucket.Condition{}); err != nil {
				return fmt.Errorf("remove the count of a replica that is gone: %w", err)
			}
		}
	}
	return t.Refresh(ctx)
}

func (t *Tracker) get(ctx context.Context, key string, into any) error {
	r, info, err := t.o.Bucket.Get(ctx, key, nil)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	defer r.Close()
	content, err := io.ReadAll(io.LimitReader(r, maxDocumentBytes))
	if err != nil {
		return fmt.Errorf("read %s: %w: %w", key, bucket.ErrUnavailable, err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		// Counting anew mends it.
		return fmt.Errorf("%s of %d bytes is damaged: %w: %w", key, info.Size, bucket.ErrNotFound, err)
	}
	return nil
}

func (t *Tracker) write(ctx context.Context, key string, document any) error {
	content, err := json.Marshal(document)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	if _, err := t.o.Bucket.Put(ctx, key, bytes.NewReader(content), int64(len(content)), bucket.Condition{}); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

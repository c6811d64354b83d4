package inventory

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// A repository that was worked on rests so many times as long, but for maxRest at most.
const (
	restFactor = 10
	maxRest    = 500 * time.Millisecond
)

// queue has what this process has changed and what is not part of the inventory yet.
type queue struct {
	mu      sync.Mutex
	pending map[string]*work
	// order are the names in pending that are due, the oldest first; later are those that are to be tried again. What is
	// pending of those in resting is not due: they are worked on, or were until a moment ago.
	order   []string
	later   []*work
	resting map[string]bool
	running map[*work]bool
	// woken has something in it when there may be something due.
	woken chan struct{}
}

// work is what is to be read of one repository.
type work struct {
	name string
	// tags is nil for all.
	tags map[string]bool
	// first is the number of the oldest change among them.
	first uint64
	tries int
	at    time.Time
}

func (q *queue) init() {
	q.pending, q.resting, q.running, q.woken = map[string]*work{}, map[string]bool{}, map[*work]bool{}, make(chan struct{}, 1)
}

// add adds a tag; number is called once, for the number of the change.
func (q *queue) add(name, tag string, number func() uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := number()
	w := q.pending[name]
	if w == nil {
		w = &work{name: strings.Clone(name), tags: map[string]bool{}, first: n}
		q.put(w)
	}
	if w.tags != nil && len(w.tags) < maxPending {
		w.tags[strings.Clone(tag)] = true
	} else {
		w.tags = nil
	}
}

// put adds the only work of a repository. mu is held.
func (q *queue) put(w *work) {
	q.pending[w.name] = w
	if !q.resting[w.name] {
		q.order = append(q.order, w.name)
		q.wake()
	}
}

// wake is called with mu held.
func (q *queue) wake() {
	select {
	case q.woken <- struct{}{}:
	default:
	}
}

// take returns what is due first, or nil and how long to wait for what is due next; a long time where nothing is.
func (q *queue) take(now time.Time) (*work, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	wait := time.Hour
	q.later = slices.DeleteFunc(q.later, func(w *work) bool {
		if left := w.at.Sub(now); left > 0 {
			wait = min(wait, left)
			return false
		}
		delete(q.running, w)
		if before := q.pending[w.name]; before != nil {
			before.first, before.tries = min(before.first, w.first), w.tries
			if before.tags == nil || w.tags == nil || len(before.tags)+len(w.tags) > maxPending {
				before.tags = nil
			} else {
				for tag := range w.tags {
					before.tags[tag] = true
				}
			}
			return true
		}
		q.put(w)
		return true
	})
	if len(q.order) == 0 {
		return nil, wait
	}
	w := q.pending[q.order[0]]
	delete(q.pending, w.name)
	q.order = q.order[1:]
	q.resting[w.name], q.running[w] = true, true
	if len(q.order) > 0 {
		q.wake()
	}
	return w, 0
}

// done says that work has come to its end.
func (q *queue) done(w *work) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.running, w)
}

// rest has what is added of a repository wait so long, and not longer.
func (q *queue) rest(name string, d time.Duration) {
	time.AfterFunc(d, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.resting, name)
		if q.pending[name] != nil {
			q.order = append(q.order, name)
			q.wake()
		}
	})
}

// again has work done once more, later each time.
func (q *queue) again(w *work, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.tries++
	w.at = now.Add(backOff(w.tries))
	q.later = append(q.later, w)
	q.wake()
}

// applied is the number of the last change before which none is left to be done; last is that of the last one at all.
func (q *queue) applied(last func() uint64) uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := last()
	for _, w := range q.pending {
		n = min(n, w.first-1)
	}
	for w := range q.running {
		n = min(n, w.first-1)
	}
	return n
}

// work does what is in the queue until ctx ends.
func (i *Inventory) work(ctx context.Context) {
	for ctx.Err() == nil {
		w, wait := i.queue.take(time.Now())
		if w == nil {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-i.queue.woken:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		var tags []string
		for tag := range w.tags {
			tags = append(tags, tag)
		}
		began := time.Now()
		_, err := i.refresh(ctx, w.name, tags)
		took := time.Since(began)
		switch {
		case err == nil || ctx.Err() != nil:
			i.queue.done(w)
		case errors.Is(err, errUnread) && w.tries >= tries:
			i.queue.done(w)
			i.problem("what was pushed could not be read for the inventory, and is left out until it can", err)
		default:
			i.queue.again(w, time.Now())
			i.problem("what was pushed could not be read for the inventory; it is tried again", err)
		}
		// Who pushes much to one repository is not to share the machine with this: what comes meanwhile is one piece of work.
		i.queue.rest(w.name, min(restFactor*took, maxRest))
	}
}

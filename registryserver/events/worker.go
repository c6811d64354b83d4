package events

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

const (
	// deliveriesAtOnce bounds the charts of which one receiver is told at the same time.
	deliveriesAtOnce = 4
	// turn is how long one chart has its turn while others wait.
	turn = 10 * time.Second
	// page is how many events of a chart are listed at once.
	page = 100
	// keptDeliveries is how many deliveries of a receiver are kept, the youngest.
	keptDeliveries = 20
	// queueLocks is the number of locks that charts share.
	queueLocks = 64
	// flushed is how often what became of deliveries is written, if anything did.
	flushed = time.Second
	// maxDone bounds the events that are known to be delivered, though they are still in the queue: charts are told one
	// event at a time, so these are few.
	maxDone = 10_000
)

// queued is an object in a receiver's queue.
type queued struct {
	Event Event `json:"event"`
	// Since is when it was put there.
	Since time.Time `json:"since"`
	// Asked says that somebody asked for it by hand.
	Asked bool `json:"asked,omitempty"`
}

// worker tells one receiver.
type worker struct {
	n *Notifier
	r receivers.Receiver
	// woken has something in it when there is something to deliver, asked when it was asked for by hand, and failed when
	// the receiver was not told of an event.
	woken, asked, failed chan struct{}
	// loaded is set while this replica delivers, once it knows what is in the bucket.
	loaded        atomic.Bool
	pending, dead atomic.Int64

	// queues are held, by chart, while an event is put into the queue and while the queue is listed: a list that is made
	// meanwhile could have what is put there later, and lack what comes before it.
	queues [queueLocks]sync.Mutex
	seed   maphash.Seed

	mu sync.Mutex
	// kept is what is in the bucket, or is to be; changed says which.
	kept    kept
	changed bool
	// busy are the charts of which it is being told.
	busy map[string]bool
	// held are the keys of events that are being told or put aside. When one is not any more, released says so.
	held     map[string]bool
	released *sync.Cond
	// failures are those of the first event that waits, by chart.
	failures map[string]failure
	// done are the keys of events that were delivered and could not be taken out of the queue yet.
	done map[string]bool
	// inARow counts failures that were not about one event; until then nothing is tried after the last of them.
	inARow int
	until  time.Time
}

// failure says how often in a row, and when it is tried again.
type failure struct {
	count int
	until time.Time
}

func (w *worker) key() string { return receiversPrefix + w.r.Name + ".json" }

func (w *worker) prefix() string { return queuePrefix + w.r.Name + "/" }

func (w *worker) read(ctx context.Context) (kept, error) {
	var k kept
	err := w.n.read(ctx, w.key(), maxStateBytes, &k)
	if errors.Is(err, bucket.ErrNotFound) || errors.Is(err, errDamaged) {
		k, err = kept{}, nil // It can be done without.
	}
	if k.GoneAs != w.r.Fingerprint() {
		k.GoneAs, k.State.Gone = "", false
	}
	k.State.Name, k.State.Receiver, k.State.Disabled = w.r.Name, w.r, w.r.Disabled
	return k, err
}

// silent reports that the receiver is told only what was asked for by hand.
func (w *worker) silent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.r.Disabled || w.kept.State.Gone
}

// run tells the receiver what is in its queue, until ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.loaded.Store(false)
	for !w.load(ctx) {
		wait(ctx, nil, w.n.o.Poll)
		if ctx.Err() != nil {
			return
		}
	}
	wake(w.n.woken)
	// At the end, too, and then what has just come of it.
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shortly)
		defer cancel()
		w.flush(last)
	}()
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { w.keep(ctx) })
	running.Go(func() { w.sweep(ctx) })
	running.Go(func() { w.answer(ctx) })
	slots := make(chan struct{}, deliveriesAtOnce)
	for ctx.Err() == nil {
		next, err := w.dispatch(ctx, slots, &running)
		if err != nil && ctx.Err() == nil {
			w.n.o.Log.Warn("what waits for a receiver cannot be read, and is later", "receiver", w.r.Name, "error", err)
			next = w.n.o.Now().Add(w.n.o.Poll)
		}
		pause := time.Hour
		if !next.IsZero() {
			pause = max(next.Sub(w.n.o.Now()), 0)
		}
		wait(ctx, w.woken, pause)
	}
}

// load finds out what is in the bucket.
func (w *worker) load(ctx context.Context) bool {
	k, err := w.read(ctx)
	if err == nil {
		err = w.count(ctx)
	}
	var dead []string
	if err == nil {
		dead, err = w.deadKeys(ctx)
	}
	if err != nil {
		if ctx.Err() == nil {
			w.n.o.Log.Warn("what is kept of a receiver cannot be read; it is tried again", "receiver", w.r.Name, "error", err)
		}
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept, w.changed = k, true
	w.busy, w.failures, w.done = map[string]bool{}, map[string]failure{}, map[string]bool{}
	w.held, w.released = map[string]bool{}, sync.NewCond(&w.mu)
	w.inARow, w.until = 0, time.Time{}
	w.dead.Store(int64(len(dead)))
	w.loaded.Store(true)
	return true
}

// count counts what waits.
func (w *worker) count(ctx context.Context) error {
	var waiting int64
	err := w.n.names(ctx, w.prefix(), func(string) bool {
		waiting++
		return true
	})
	if err == nil {
		w.pending.Store(waiting)
	}
	return err
}

// keep writes what became of deliveries, until ctx ends.
func (w *worker) keep(ctx context.Context) {
	for {
		wait(ctx, nil, flushed)
		if ctx.Err() != nil {
			return
		}
		w.flush(ctx)
	}
}

func (w *worker) flush(ctx context.Context) {
	w.mu.Lock()
	k, changed := w.kept, w.changed
	k.State.Deliveries = slices.Clone(k.State.Deliveries)
	k.State.Pending, k.State.Dead = max(w.pending.Load(), 0), w.dead.Load()
	changed = changed || k.State.Pending != w.kept.State.Pending || k.State.Dead != w.kept.State.Dead
	w.kept.State.Pending, w.kept.State.Dead, w.changed = k.State.Pending, k.State.Dead, false
	w.mu.Unlock()
	if !changed {
		return
	}
	if err := w.n.write(ctx, w.key(), k, bucket.Condition{}); err != nil {
		w.mu.Lock()
		w.changed = true
		w.mu.Unlock()
	}
}

// queue puts an event into the queue if the receiver is to be told of it.
func (w *worker) queue(ctx context.Context, in intent) error {
	asked := in.To == w.r.Name
	if !asked && (in.To != "" || w.silent() || !w.r.Wants(in.Event.Type, in.Event.Chart, in.Event.Version)) {
		return nil
	}
	if waiting := w.pending.Load(); !asked && waiting >= int64(w.n.o.MaxQueued) {
		w.n.dropped(w.r.Name, "a receiver is not told of an event, because too many wait for it", "receiver", w.r.Name, "waiting", waiting)
		return nil
	}
	chart, woken := segment(in.Event.Chart), w.woken
	if asked {
		chart, woken = byHand, w.asked // Whatever waits for the chart.
		// It is in the outbox still, and becomes a dead letter again should it fail.
		if err := w.revive(ctx, in.Event.ID); err != nil {
			return err
		}
	}
	key := w.prefix() + chart + "/" + in.Event.ID
	lock := w.lock(chart)
	lock.Lock()
	err := w.n.write(ctx, key, queued{Event: in.Event, Since: w.n.o.Now().UTC(), Asked: asked}, bucket.Condition{Absent: true})
	lock.Unlock()
	switch {
	case err == nil:
		w.pending.Add(1)
	case !errors.Is(err, bucket.ErrExists): // A replica that was killed has put it there.
		return err
	}
	wake(woken)
	return nil
}

// answer tells the receiver what was asked for by hand, until ctx ends. It waits for nothing else that is to be told.
func (w *worker) answer(ctx context.Context) {
	for ctx.Err() == nil {
		if w.tell(ctx, byHand) {
			wait(ctx, w.asked, time.Hour)
		} else {
			wait(ctx, nil, w.n.o.Poll)
		}
	}
}

// dispatch begins to tell the receiver of all charts that are due, and says when the next is; zero when none is known.
func (w *worker) dispatch(ctx context.Context, slots chan struct{}, running *sync.WaitGroup) (next time.Time, err error) {
	later := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	enough := errors.New("no more now")
	err = w.n.folders(ctx, w.prefix(), func(chart string) error {
		if chart == byHand || w.silent() {
			return nil
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		begun, at, more := w.begin(chart)
		if !begun {
			<-slots
			if !at.IsZero() {
				later(at)
			}
			if !more {
				return enough
			}
			return nil
		}
		running.Go(func() {
			defer func() {
				w.end(chart)
				<-slots
				wake(w.woken)
			}()
			w.tell(ctx, chart)
		})
		return nil
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return next, err
}

// begin reports whether the receiver may be told of a chart now, and if not, when; at is zero where that is when another
// chart has had its turn. more says that another chart may be tried all the same.
func (w *worker) begin(chart string) (begun bool, at time.Time, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.n.o.Now()
	// What is about no chart does not wait for the receiver to answer others. It comes first.
	first := chart == noChart
	switch f := w.failures[chart]; {
	case !first && now.Before(w.until):
		return false, w.until, false
	case !first && w.inARow > 0 && len(w.busy) > 0:
		return false, time.Time{}, false // One is enough to find out whether it answers again.
	case w.busy[chart]:
		return false, time.Time{}, true
	case now.Before(f.until):
		return false, f.until, true
	}
	w.busy[chart] = true
	return true, time.Time{}, true
}

func (w *worker) end(chart string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.busy, chart)
}

// hold keeps others from an event until release. Where somebody has it, it waits or reports that it could not.
func (w *worker) hold(key string, wait bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.held[key] {
		if !wait {
			return false
		}
		w.released.Wait()
	}
	w.held[key] = true
	return true
}

func (w *worker) release(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.held, key)
	w.released.Broadcast()
}

func (w *worker) lock(chart string) *sync.Mutex {
	return &w.queues[maphash.String(w.seed, chart)%queueLocks]
}

// tell tells the receiver of one chart, in order, for as long as that goes well and it has its turn, and reports whether
// nothing is left.
func (w *worker) tell(ctx context.Context, chart string) bool {
	prefix, until := w.prefix()+chart+"/", time.Now().Add(turn)
	for after := ""; ; {
		lock := w.lock(chart)
		lock.Lock()
		p, err := w.n.o.Bucket.List(ctx, bucket.ListOptions{Prefix: prefix, StartAfter: after, NamesOnly: true, Limit: page})
		lock.Unlock()
		if err != nil {
			w.storageFailed(ctx, chart, err)
			return false
		}
		for _, i := range p.Objects {
			if !w.deliver(ctx, chart, i.Key) || time.Now().After(until) {
				return false
			}
			after = i.Key
		}
		if len(p.Objects) == 0 {
			w.mu.Lock()
			delete(w.failures, chart)
			w.mu.Unlock()
			return true
		}
	}
}

func (w *worker) storageFailed(ctx context.Context, chart string, err error) {
	if ctx.Err() != nil {
		return
	}
	w.n.o.Log.Warn("an event cannot be read or put away, and is told later", "receiver", w.r.Name, "error", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.again(chart)
}

// again has a chart tried again later. w is locked.
func (w *worker) again(chart string) {
	f := w.failures[chart]
	f.count++
	f.until = w.n.o.Now().Add(w.n.pause(f.count))
	w.failures[chart] = f
}

// deliver tells the receiver of one event, and reports whether the next one is due.
func (w *worker) deliver(ctx context.Context, chart, key string) bool {
	w.hold(key, true)
	defer w.release(key)
	var q queued
	err := w.n.read(ctx, key, maxDocumentBytes, &q)
	if err == nil && !isID(q.Event.ID) {
		err = errDamaged
	}
	switch {
	case errors.Is(err, bucket.ErrNotFound):
		return true
	case errors.Is(err, errDamaged):
		w.n.o.Log.Error("an event is damaged, and is not told", "receiver", w.r.Name, "object", key)
		return w.finish(ctx, chart, key)
	case err != nil:
		w.storageFailed(ctx, chart, err)
		return false
	}
	if w.isDone(key) || !q.Asked && w.silent() {
		return w.finish(ctx, chart, key)
	}
	w.mu.Lock()
	attempt := w.failures[chart].count + 1
	w.mu.Unlock()
	d := w.n.send(ctx, w.r, q.Event, attempt)
	if d.Outcome != Delivered && ctx.Err() != nil {
		return false // Broken off; another replica does it again.
	}
	tooOld := w.n.o.Now().Sub(q.Since) >= w.n.o.Patience
	if d.Outcome == Failed && (tooOld || d.gone() || q.Asked) {
		d.Outcome = Dead
	}
	w.note(chart, q, d)
	w.n.o.Observe(w.r.Name, d.Outcome, w.n.o.Now().Sub(q.Event.Time))
	switch d.Outcome {
	case Delivered:
		return w.finish(ctx, chart, key)
	case Dead:
		wake(w.failed)
		buried := w.bury(ctx, chart, key, q.Event, d.Problem)
		w.trimDead(ctx)
		return buried && (q.Asked || d.about())
	}
	wake(w.failed)
	return false
}

// note remembers what became of an attempt.
func (w *worker) note(chart string, q queued, d Delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.kept.State.Problem
	s := &w.kept.State
	defer func() {
		s.Next = w.failures[chart].until
		if w.until.After(s.Next) {
			s.Next = w.until
		}
	}()
	s.Deliveries = slices.DeleteFunc(s.Deliveries, func(other Delivery) bool { return other.Event.ID == d.Event.ID })
	s.Deliveries = slices.Insert(s.Deliveries, 0, d)
	s.Deliveries = s.Deliveries[:min(len(s.Deliveries), keptDeliveries)]
	s.Problem, w.changed = d.Problem, true
	if d.Outcome == Delivered {
		w.inARow, w.until, s.FailingSince = 0, time.Time{}, time.Time{}
		delete(w.failures, chart)
		if before != "" {
			w.n.o.Log.Info("a receiver is told of events again", "receiver", w.r.Name)
			wake(w.woken)
		}
		return
	}
	if s.FailingSince.IsZero() {
		s.FailingSince = d.At
	}
	switch {
	case d.gone() && !q.Asked:
		s.Gone, w.kept.GoneAs = true, w.r.Fingerprint()
		w.n.o.Log.Warn("a receiver has said that it is gone, and is told nothing more until its configuration changes", "receiver", w.r.Name)
		return
	case before == "":
		w.n.o.Log.Warn("a receiver cannot be told of an event; it is tried again", "receiver", w.r.Name, "type", d.Event.Type, "event", d.Event.ID, "problem", d.Problem)
	}
	if d.Outcome == Dead {
		w.n.o.Log.Error("a receiver was not told of an event, and it is not tried again", "receiver", w.r.Name, "type", d.Event.Type, "event", d.Event.ID, "problem", d.Problem)
		delete(w.failures, chart)
	} else {
		w.again(chart)
	}
	if d.about() {
		return
	}
	w.inARow++
	w.until = w.n.o.Now().Add(w.n.pause(w.inARow))
}

// finish takes an event out of the queue.
func (w *worker) finish(ctx context.Context, chart, key string) bool {
	// Also at the end: what was delivered need not be again.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shortly)
	defer cancel()
	err := w.n.o.Bucket.Delete(last, key, bucket.Condition{})
	w.mu.Lock()
	if err == nil {
		delete(w.done, key)
	} else if len(w.done) < maxDone {
		w.done[key] = true
	}
	w.mu.Unlock()
	if err != nil {
		w.storageFailed(ctx, chart, err)
		return false
	}
	w.pending.Add(-1)
	return true
}

func (w *worker) isDone(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done[key]
}

// withSecretsMasked is a request's header as it may be shown.
func withSecretsMasked(header map[string][]string, secret string) map[string]string {
	shown := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(header)) {
		value := strings.Join(header[name], ", ")
		if name == secret {
			value = masked
		}
		shown[name] = value
	}
	return shown
}

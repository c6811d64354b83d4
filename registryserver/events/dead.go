package events

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

const (
	// keptDead is how many dead letters of a receiver are kept, the youngest; maxDeadListed is how many are listed at once.
	keptDead      = 1000
	maxDeadListed = 2 * keptDead
	// hopeless is after how many failures in a row a receiver counts as one that does not answer at all.
	hopeless = 10
	// swept is how often what is too old is looked for of a receiver that does not answer.
	swept = time.Minute
)

// DeadLetter is an event that a receiver was not told of in time.
type DeadLetter struct {
	Event Event `json:"event"`
	// At is when it was given up, and Problem what went wrong last.
	At      time.Time `json:"at"`
	Problem string    `json:"problem"`
}

// DeadLetters are events that were given up, the youngest first, at most limit of them. Errors: ErrUnknown, and those of
// the bucket.
func (n *Notifier) DeadLetters(ctx context.Context, receiver string, limit int) ([]DeadLetter, error) {
	w := n.worker(receiver)
	if w == nil {
		return nil, fmt.Errorf("receiver %.80q: %w", receiver, ErrUnknown)
	}
	keys, err := w.deadKeys(ctx)
	if err != nil {
		return nil, err
	}
	var letters []DeadLetter
	for _, key := range slices.Backward(keys) {
		var d DeadLetter
		err := n.read(ctx, key, maxDocumentBytes, &d)
		if errors.Is(err, bucket.ErrNotFound) || errors.Is(err, errDamaged) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if letters = append(letters, d); len(letters) == limit {
			break
		}
	}
	return letters, nil
}

func deadKey(receiver, id string) string { return deadPrefix + receiver + "/" + id }

func (w *worker) deadKeys(ctx context.Context) (keys []string, err error) {
	err = w.n.names(ctx, deadKey(w.r.Name, ""), func(key string) bool {
		keys = append(keys, key)
		return len(keys) < maxDeadListed
	})
	return keys, err
}

// revive makes a dead letter, if there is one, an event like others.
func (w *worker) revive(ctx context.Context, id string) error {
	if err := w.n.o.Bucket.Delete(ctx, deadKey(w.r.Name, id), bucket.Condition{}); err != nil {
		return fmt.Errorf("delete a dead letter: %w", err)
	}
	dead, err := w.deadKeys(ctx)
	if err == nil {
		w.dead.Store(int64(len(dead)))
	}
	return err
}

// bury puts an event aside that is not tried again. Who calls it trims the dead letters afterwards.
func (w *worker) bury(ctx context.Context, chart, key string, e Event, problem string) bool {
	d := DeadLetter{Event: e, At: w.n.o.Now().UTC(), Problem: problem}
	if e.Type != receivers.Ping { // Nobody misses one.
		if err := w.n.write(ctx, deadKey(w.r.Name, e.ID), d, bucket.Condition{}); err != nil {
			w.storageFailed(ctx, chart, err)
			return false
		}
	}
	return w.finish(ctx, chart, key)
}

// trimDead deletes the oldest dead letters where there are too many.
func (w *worker) trimDead(ctx context.Context) {
	for {
		keys, err := w.deadKeys(ctx)
		all := len(keys) < maxDeadListed
		for len(keys) > keptDead && err == nil {
			err = w.n.o.Bucket.Delete(ctx, keys[0], bucket.Condition{})
			keys = keys[1:]
		}
		if err == nil {
			w.dead.Store(int64(len(keys)))
		}
		if err != nil || all {
			return
		}
	}
}

// sweep puts aside what is too old, until ctx ends, while the receiver does not answer at all: there may be more than is
// ever tried. Deliveries go on beside it.
func (w *worker) sweep(ctx context.Context) {
	for last := (time.Time{}); ctx.Err() == nil; wait(ctx, w.failed, time.Hour) {
		if _, down := w.down(); !down || w.n.o.Now().Sub(last) < swept {
			continue
		}
		last = w.n.o.Now()
		if err := w.buryOld(ctx, last); err != nil && ctx.Err() == nil {
			w.n.o.Log.Warn("what waits for a receiver cannot be read", "receiver", w.r.Name, "error", err)
		}
	}
}

// down reports that the receiver does not answer at all, and why.
func (w *worker) down() (problem string, yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kept.State.Problem, w.inARow >= hopeless
}

// buryOld puts aside what is too old now, but nothing that the receiver is being told, nor what was asked for by hand.
func (w *worker) buryOld(ctx context.Context, now time.Time) error {
	buried := 0
	var failed error
	err := w.n.names(ctx, w.prefix(), func(key string) bool {
		problem, down := w.down()
		if !down || ctx.Err() != nil {
			return false
		}
		chart, id := path.Base(path.Dir(key)), path.Base(key)
		// It was queued when it happened, or later: what is young by its name need not be read.
		if chart == byHand || now.Sub(time.UnixMicro(madeAt(id))) < w.n.o.Patience || !w.hold(key, false) {
			return true
		}
		defer w.release(key)
		var q queued
		switch failed = w.n.read(ctx, key, maxDocumentBytes, &q); {
		case errors.Is(failed, bucket.ErrNotFound), errors.Is(failed, errDamaged):
			failed = nil // It was told meanwhile, or is seen to be damaged when it is.
			return true
		case failed != nil:
			return false
		case now.Sub(q.Since) < w.n.o.Patience || w.isDone(key):
			return true
		case !w.bury(ctx, chart, key, q.Event, problem):
			return false
		}
		w.n.o.Observe(w.r.Name, Dead, now.Sub(q.Event.Time))
		if buried++; buried%keptDead == 0 {
			w.trimDead(ctx)
		}
		return true
	})
	if buried > 0 {
		w.trimDead(ctx)
	}
	return errors.Join(err, failed)
}

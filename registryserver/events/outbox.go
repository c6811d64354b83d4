package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// intent is an object in the outbox.
type intent struct {
	Event Event `json:"event"`
	// Certain says that it has happened, so that nobody need look whether it has.
	Certain bool `json:"certain,omitempty"`
	// Replaces is what the tag stands for before, as identity writes it.
	Replaces string `json:"replaces,omitempty"`
	// To is the one receiver that is to be told, where it was asked for by hand.
	To string `json:"to,omitempty"`
}

// identity tells what a tag stands for: the mark of the change that made it so, or the digest where that was not recorded.
func identity(mark, digest string) string {
	if mark != "" {
		return mark
	}
	return digest
}

// outboxKey is where an intent is. The mark that it replaces is part of the name, so that a listing shows what replaced
// what.
func outboxKey(chart, id, replaced string) string {
	key := outboxPrefix + segment(chart) + "/" + id
	if isID(replaced) {
		key += "." + replaced
	}
	return key
}

// Record is for repository.Options: it writes down what is about to happen. An error says that it could not, so that it
// must not happen. Where too much waits already it is let happen untold.
func (n *Notifier) Record(ctx context.Context, c repository.Change) (mark string, done func(happened bool), err error) {
	if !n.active() {
		return "", func(bool) {}, nil
	}
	if waiting := n.outbox.Load() + n.written.Add(1); waiting > int64(n.o.MaxQueued) {
		n.dropped("", "an event is not told, because too many wait to be told: is there a server that delivers?", "waiting", waiting)
		return "", func(bool) {}, nil
	}
	e := eventOf(ctx, n.ids.after(c.BeforeMark), n.o.Now(), c, n.o.Actor)
	key := outboxKey(e.Chart, e.ID, c.BeforeMark)
	if err := n.write(ctx, key, intent{Event: e, Replaces: identity(c.BeforeMark, string(c.Before))}, bucket.Condition{Absent: true}); err != nil {
		return "", nil, err
	}
	return e.ID, func(happened bool) {
		if happened {
			wake(n.woken)
			return
		}
		// Also when whoever pushed has gone. Should it stay, it is found not to have happened.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shortly)
		defer cancel()
		_ = n.o.Bucket.Delete(last, key, bucket.Condition{})
	}, nil
}

// active reports whether anybody is to be told of anything.
func (n *Notifier) active() bool {
	for _, r := range n.o.Receivers {
		if !r.Disabled {
			return true
		}
	}
	return false
}

// dropped tells that an event is not told.
func (n *Notifier) dropped(receiver, why string, args ...any) {
	n.o.Observe(receiver, Dropped, 0)
	n.mu.Lock()
	now := n.o.Now()
	quiet := now.Sub(n.warned) < time.Minute
	if !quiet {
		n.warned = now
	}
	n.mu.Unlock()
	if !quiet {
		n.o.Log.Warn(why, args...)
	}
}

// countOutbox keeps count of what waits in the outbox, while this replica adds to it.
func (n *Notifier) countOutbox(ctx context.Context) {
	for ctx.Err() == nil {
		wait(ctx, nil, outboxCounted)
		if added := n.written.Load(); added > 0 {
			n.recount(ctx, added)
		}
	}
}

func (n *Notifier) recount(ctx context.Context, added int64) {
	counted := int64(0)
	err := n.names(ctx, outboxPrefix, func(string) bool {
		counted++
		return counted <= int64(n.o.MaxQueued)
	})
	if err != nil {
		return // It is tried again, and the outbox counts as what it was, with all that was added.
	}
	n.outbox.Store(counted)
	n.written.Add(-added)
}

// Ping sends an event to a receiver that says nothing but that it was asked for, and returns its id. It is sent by the
// replica that delivers, after a few seconds: see State for what became of it. Errors: ErrUnknown, and those of the
// bucket.
func (n *Notifier) Ping(ctx context.Context, receiver string) (id string, err error) {
	if n.worker(receiver) == nil {
		return "", fmt.Errorf("ping %.80q: %w", receiver, ErrUnknown)
	}
	e := Event{ID: n.ids.after(""), Type: receivers.Ping, Time: n.o.Now().UTC(), By: clip(n.o.Actor(ctx))}
	return e.ID, n.ask(ctx, receiver, e)
}

// Redeliver sends an event to a receiver once more, as Ping does: one of those that State or DeadLetters has for it.
// Errors: ErrUnknown, and those of the bucket.
func (n *Notifier) Redeliver(ctx context.Context, receiver, id string) error {
	if n.worker(receiver) == nil || !isID(id) {
		return fmt.Errorf("redeliver to %.80q: %w", receiver, ErrUnknown)
	}
	var dead DeadLetter
	err := n.read(ctx, deadKey(receiver, id), maxDocumentBytes, &dead)
	if err == nil {
		return n.ask(ctx, receiver, dead.Event) // Whoever delivers takes it from the dead letters.
	}
	if !errors.Is(err, bucket.ErrNotFound) {
		return err
	}
	state, err := n.State(ctx, receiver)
	if err != nil {
		return err
	}
	for _, d := range state.Deliveries {
		if d.Event.ID == id {
			return n.ask(ctx, receiver, d.Event)
		}
	}
	return fmt.Errorf("redeliver %s to %s: %w", id, receiver, ErrUnknown)
}

// ask puts what was asked for by hand into the outbox.
func (n *Notifier) ask(ctx context.Context, receiver string, e Event) error {
	err := n.write(ctx, outboxKey("", n.ids.after(e.ID), ""), intent{Event: e, Certain: true, To: receiver}, bucket.Condition{Absent: true})
	wake(n.woken)
	return err
}

func (n *Notifier) worker(receiver string) *worker {
	for _, w := range n.workers {
		if w.r.Name == receiver {
			return w
		}
	}
	return nil
}

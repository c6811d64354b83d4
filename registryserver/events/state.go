package events

import (
	"context"
	"fmt"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

// Delivery is the last attempt to tell a receiver of an event.
type Delivery struct {
	Event Event `json:"event"`
	// Attempt counts from 1, since this replica has begun to deliver.
	Attempt int `json:"attempt"`
	// At is when it began, and Took how long it took.
	At      time.Time     `json:"at"`
	Took    time.Duration `json:"took"`
	Outcome Outcome       `json:"outcome"`
	// Problem is why it failed, in one sentence; empty where it did not.
	Problem string `json:"problem,omitempty"`
	// Request and Response are what was sent, without secrets, and what came back.
	Request  Request  `json:"request"`
	Response Response `json:"response"`
}

// State is what is known of a receiver.
type State struct {
	Name string `json:"name"`
	// Receiver is its configuration. It is not kept.
	Receiver receivers.Receiver `json:"-"`
	// Disabled says that its configuration does, and Gone that it has said, with the status 410, that it wants nothing more;
	// until its configuration changes it is told nothing but what was asked for by hand.
	Disabled bool `json:"disabled,omitempty"`
	Gone     bool `json:"gone,omitempty"`
	// Pending are the events that wait for it, and Dead those that were given up.
	Pending int64 `json:"pending"`
	Dead    int64 `json:"dead"`
	// Problem is what is wrong, in one sentence; empty when the last delivery succeeded. FailingSince is when it began, and
	// Next when the receiver is tried again; both are zero where nothing is wrong, and Next where that is at once.
	Problem      string    `json:"problem,omitempty"`
	FailingSince time.Time `json:"failingSince,omitzero"`
	Next         time.Time `json:"next,omitzero"`
	// Deliveries are the last ones, the youngest first; of each event the last attempt.
	Deliveries []Delivery `json:"deliveries,omitempty"`
}

// kept is the object that is kept of a receiver.
type kept struct {
	State State `json:"state"`
	// GoneAs is the fingerprint of the configuration that the receiver has had when it said that it is gone.
	GoneAs string `json:"goneAs,omitempty"`
}

// Receivers are the names of those who are told.
func (n *Notifier) Receivers() []string {
	var names []string
	for _, r := range n.o.Receivers {
		names = append(names, r.Name)
	}
	return names
}

// State is what is known of a receiver, a second ago or so, on whichever replica it is asked for. Errors: ErrUnknown, and
// those of the bucket.
func (n *Notifier) State(ctx context.Context, receiver string) (State, error) {
	w := n.worker(receiver)
	if w == nil {
		return State{}, fmt.Errorf("receiver %.80q: %w", receiver, ErrUnknown)
	}
	k, err := w.read(ctx)
	return k.State, err
}

// Counts are how many events wait for a receiver and how many were given up, as far as this replica knows: both are 0 on
// one that does not deliver.
func (n *Notifier) Counts(receiver string) (pending, dead int64) {
	w := n.worker(receiver)
	if w == nil || !w.loaded.Load() {
		return 0, 0
	}
	return max(w.pending.Load(), 0), w.dead.Load()
}

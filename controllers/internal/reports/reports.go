// Package reports holds what the pods of each registry last said of themselves, as the controllers read it. podreports
// writes it.
package reports

import (
	"time"

	"github.com/chartroom-dev/chartroom/controllers/internal/board"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Pod is what one pod said.
type Pod struct {
	// Name of the pod.
	Name string
	// Storage is how it finds its storage.
	Storage wire.StorageState
	// Retention is what it knows of the retention policy; nil where it has none, or knows nothing yet.
	Retention *wire.RetentionState
	// Garbage is what its garbage collection has done.
	Garbage wire.GarbageState
	// Issuers are those of OIDC tokens that it asks for their keys.
	Issuers []wire.IssuerState
}

// State is what the pods of one registry said, sorted by name. A pod that does not answer is not in it.
type State struct {
	Pods []Pod
	// Usage is what the registry stores; nil where nobody counts it. It is renewed now and then, since UsageAt last.
	Usage   *wire.UsageState
	UsageAt time.Time
}

// usagePause is the least time between two changes of Usage: each is a write to the API server.
const usagePause = 30 * time.Second

// Used adds what a pod said of the usage, nil when none did, to a state that follows another one.
func (s State) Used(said *wire.UsageState, before State, now time.Time) State {
	unchanged := said != nil && before.Usage != nil && *said == *before.Usage
	if unchanged || len(s.Pods) == 0 || said != nil && before.Usage != nil && now.Sub(before.UsageAt) < usagePause {
		said, now = before.Usage, before.UsageAt
	}
	s.Usage, s.UsageAt = said, now
	if said == nil {
		s.UsageAt = time.Time{}
	}
	return s
}

// Board records the state of every registry.
type Board = board.Board[State]

// New returns an empty board.
func New() *Board { return board.New[State]() }

// SingleWriter says whether the storage bears one writing pod only; known is false while no pod could tell.
func (s State) SingleWriter() (single, known bool) {
	for _, pod := range s.Pods {
		if pod.Storage.SingleWriter {
			return true, true
		}
		known = known || pod.Storage.Problem == ""
	}
	return false, known
}

// Problem returns the first pod that cannot use its storage; nil when there is none.
func (s State) Problem() *Pod {
	for i := range s.Pods {
		if s.Pods[i].Storage.Problem != "" {
			return &s.Pods[i]
		}
	}
	return nil
}

// Garbage sums up what the pods' garbage collection has done; known is false while no pod could tell. What is in the
// trash, the pod knows that was the last to go through all charts.
func (s State) Garbage() (sum wire.GarbageState, known bool) {
	for _, pod := range s.Pods {
		g := pod.Garbage
		sum.FreedObjects += g.FreedObjects
		sum.FreedBytes += g.FreedBytes
		if sum.Problem == "" {
			sum.Problem = g.Problem
		}
		switch {
		case g.LastSweep != nil && (sum.LastSweep == nil || g.LastSweep.After(*sum.LastSweep)):
			sum.LastSweep, sum.WaitingBytes = g.LastSweep, g.WaitingBytes
		case g.LastSweep == nil && sum.LastSweep == nil:
			sum.WaitingBytes += g.WaitingBytes
		}
	}
	return sum, len(s.Pods) > 0
}

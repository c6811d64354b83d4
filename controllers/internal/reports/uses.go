package reports

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/controllers/internal/board"
)

// Uses says, by pod, which tokens of a registry the pods have accepted. It is not changed after it was set.
type Uses map[types.UID]PodUses

// PodUses is what one pod said.
type PodUses struct {
	// Count is wire.Uses.Count.
	Count uint64
	// At is when a token was used last, to ten minutes, by the SHA-256 of its secret.
	At map[string]time.Time
}

// Of returns when any pod accepted a token last; zero when none has said so.
func (u Uses) Of(sha256 string) time.Time {
	var last time.Time
	for _, pod := range u {
		if at := pod.At[sha256]; at.After(last) {
			last = at
		}
	}
	return last
}

// UsesBoard records the uses of every registry's tokens.
type UsesBoard = board.Board[Uses]

// NewUses returns an empty board.
func NewUses() *UsesBoard { return board.New[Uses]() }

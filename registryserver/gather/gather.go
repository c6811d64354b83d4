// Package gather writes lines a moment after they are made, many at once: a system call for each would cost more than
// most of what the lines are about.
package gather

import (
	"context"
	"io"
	"sync"
	"time"
)

const (
	// wait is how long a line waits for others that are written with it.
	wait = 50 * time.Millisecond
	// maxPending bounds the lines, in bytes, that wait for an output which does not take them.
	maxPending = 1 << 20
	// farewell is how long an output has at the end to take the last lines.
	farewell = 2 * time.Second
)

// Lines writes lines to an output. Those that an output which stalls does not take are counted, and their number is
// written in their place: a log that nobody reads must not stop a registry. Make it with New.
type Lines struct {
	out  io.Writer
	lost func(b []byte, lines int) []byte
	// wake has a value while there are lines, and Run is to write them.
	wake chan struct{}

	mu      sync.Mutex
	pending []byte
	missing int

	// writing is held while lines are given to out; spare is the buffer that is not pending.
	writing sync.Mutex
	spare   []byte
}

// New returns what writes to out. lost appends the line that says how many are missing.
func New(out io.Writer, lost func(b []byte, lines int) []byte) *Lines {
	return &Lines{out: out, lost: lost, wake: make(chan struct{}, 1)}
}

// Add takes a line, which format appends, its end included. It never waits for the output.
func (l *Lines) Add(format func(b []byte) []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) >= maxPending {
		l.missing++
		return
	}
	l.pending = format(l.pending)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run writes lines until ctx ends, and then those that are left, for two seconds at most: an output that stalls must not
// keep the program from ending either.
func (l *Lines) Run(ctx context.Context) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		l.write(ctx)
	}()
	<-ctx.Done()
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
	}
}

func (l *Lines) write(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			l.Flush()
			return
		case <-l.wake:
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		l.Flush()
	}
}

// Flush writes the lines that are pending.
func (l *Lines) Flush() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	lines, missing := l.pending, l.missing
	l.pending, l.missing = l.spare[:0], 0
	l.mu.Unlock()
	if missing > 0 {
		lines = l.lost(lines, missing)
	}
	if len(lines) > 0 {
		// There is nowhere to say that a log cannot be written: outputs for which there is say it themselves.
		_, _ = l.out.Write(lines)
	}
	l.spare = lines
}

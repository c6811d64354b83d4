package quota

import (
	"context"
	"io"
	"time"
)

// patience is how long a push waits for the first count.
const patience = 5 * time.Second

// Room is reserved for what is about to be stored. A nil Room is room without limits. Its methods are called by one
// goroutine at a time.
type Room struct {
	t *Tracker
	// left is reserved and not stored yet.
	left Usage
}

// Reserve takes room for what is about to be stored. The caller releases it in the end, whatever was stored. Errors:
// *Error when it does not fit, which leaves nothing reserved, and ErrCounting.
func (t *Tracker) Reserve(ctx context.Context, need Usage) (*Room, error) {
	if t.o.Limits.bound(need) {
		if err := t.await(ctx); err != nil {
			return nil, err
		}
	}
	r := &Room{t: t}
	if err := r.Cover(need); err != nil {
		return nil, err
	}
	return r, nil
}

// await waits for the first count, not for long.
func (t *Tracker) await(ctx context.Context) error {
	select {
	case <-t.known:
		return nil
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-t.known:
		return nil
	case <-timer.C:
		return ErrCounting
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Cover takes what is missing to need. Errors: *Error when that does not fit, and ErrCounting; what was reserved before
// stays so.
func (r *Room) Cover(need Usage) error {
	if r == nil {
		return nil
	}
	more := need.minus(r.left).positive()
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	if r.t.base.At.IsZero() && r.t.o.Limits.bound(more) {
		return ErrCounting
	}
	// What is reserved already is part of what is wanted, not of what is used.
	if err := r.t.o.Limits.check(r.t.used().plus(r.t.inFlight).minus(r.left), need.where(more)); err != nil {
		return err
	}
	r.left = r.left.plus(more)
	r.t.inFlight = r.t.inFlight.plus(more)
	return nil
}

// Store counts what was stored, in place of so much of what is reserved.
func (r *Room) Store(stored Usage) {
	if r == nil {
		return
	}
	taken := stored.positive().least(r.left)
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	r.left = r.left.minus(taken)
	r.t.inFlight = r.t.inFlight.minus(taken)
	r.t.own.Usage = r.t.own.Usage.plus(stored)
}

// Release gives back what is reserved and was not stored.
func (r *Room) Release() {
	if r == nil {
		return
	}
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	r.t.inFlight = r.t.inFlight.minus(r.left)
	r.left = Usage{}
}

// Meter reserves what body yields as it comes, behind start bytes that are reserved already, and fails with *Error where
// there is no room for more.
func (r *Room) Meter(body io.Reader, start int64) io.Reader {
	if r == nil {
		return body
	}
	return &meter{body: body, room: r, read: start}
}

type meter struct {
	body io.Reader
	room *Room
	read int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.body.Read(p)
	m.read += int64(n)
	if over := m.room.Cover(Usage{Bytes: m.read}); over != nil {
		return n, over
	}
	return n, err
}

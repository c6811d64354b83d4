package events

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

// directTries is how often an event is sent that cannot be kept.
const directTries = 5

// trouble is the object that says when receivers were last told of one.
type trouble struct {
	At time.Time `json:"at"`
	// ID makes each differ from the one before.
	ID string `json:"id"`
}

// Trouble tells that something is wrong with the storage or the quota, at most once an hour each. It does not wait. What
// cannot be written into the storage is sent at once instead, by each replica that notices, and lost with it.
func (n *Notifier) Trouble(kind receivers.Event, message string) {
	wanted := false
	for _, r := range n.o.Receivers {
		wanted = wanted || r.Wants(kind, "", "")
	}
	if !wanted {
		return
	}
	n.mu.Lock()
	now := n.o.Now()
	quiet := now.Sub(n.told[kind]) < troubleEvery
	if !quiet {
		n.told[kind] = now
	}
	n.mu.Unlock()
	if quiet {
		return
	}
	select {
	case n.troubles <- Event{ID: n.ids.after(""), Type: kind, Time: now.UTC(), Message: clip(message)}:
	default:
	}
}

func (n *Notifier) tellTroubles(ctx context.Context) {
	var sending sync.WaitGroup
	defer sending.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-n.troubles:
			if err := n.keepTrouble(ctx, e); err != nil && ctx.Err() == nil {
				n.o.Log.Warn("an event cannot be kept, and is sent at once", "type", e.Type, "error", err)
				sending.Go(func() { n.sendDirectly(ctx, e) })
			}
		}
	}
}

// keepTrouble puts an event into the outbox, unless another replica did within the hour.
func (n *Notifier) keepTrouble(ctx context.Context, e Event) error {
	ctx, cancel := context.WithTimeout(ctx, n.o.Timeout)
	defer cancel()
	key := troublesPrefix + strings.ReplaceAll(string(e.Type), ".", "-") + ".json"
	info, err := n.o.Bucket.Head(ctx, key)
	condition := bucket.Condition{ETag: info.ETag}
	switch {
	case errors.Is(err, bucket.ErrNotFound):
		condition = bucket.Condition{Absent: true}
	case err != nil:
		return fmt.Errorf("read %s: %w", key, err)
	default:
		var last trouble
		if err := n.read(ctx, key, maxDocumentBytes, &last); err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		// A clock that is ahead must not keep others quiet for long.
		if since := e.Time.Sub(last.At); since > -troubleEvery && since < troubleEvery {
			return nil
		}
	}
	err = n.write(ctx, key, trouble{At: e.Time, ID: e.ID}, condition)
	if errors.Is(err, bucket.ErrExists) || errors.Is(err, bucket.ErrChanged) {
		return nil // Another replica is about to tell.
	}
	if err == nil {
		err = n.write(ctx, outboxKey("", e.ID, ""), intent{Event: e, Certain: true}, bucket.Condition{Absent: true})
		wake(n.woken)
	}
	return err
}

// sendDirectly sends what cannot be kept.
func (n *Notifier) sendDirectly(ctx context.Context, e Event) {
	var sending sync.WaitGroup
	for _, r := range n.o.Receivers {
		if !r.Wants(e.Type, "", "") {
			continue
		}
		sending.Go(func() {
			for try := 1; try <= directTries && ctx.Err() == nil; try++ {
				d := n.send(ctx, r, e, try)
				n.o.Observe(r.Name, d.Outcome, d.At.Sub(e.Time))
				if d.Outcome == Delivered {
					return
				}
				wait(ctx, nil, n.pause(try))
			}
		})
	}
	sending.Wait()
}

// pause is how long to wait after so many failures one after the other: any time up to a bound that doubles with each, so
// that many who wait for the same do not come back at once.
func (n *Notifier) pause(failures int) time.Duration {
	bound := n.o.LongestPause
	if shift := failures - 1; shift < 30 {
		bound = min(bound, n.o.FirstPause<<max(shift, 0))
	}
	return rand.N(bound) + 1 //nolint:gosec // It is no secret.
}

package inventory

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
)

// watchOptions are what a watch asks, and whom it tells.
type watchOptions struct {
	ask ask
	// publish records what the registry holds.
	publish func(reports.Inventory)
	// announce tells people of a change.
	announce func(ctx context.Context, note string)
	// log is told of pods that do not answer.
	log logr.Logger
}

// watch follows one registry. Everything but its channels belongs to the goroutine that runs it.
type watch struct {
	uid    types.UID
	cancel context.CancelFunc
	pods   chan []pod
	done   chan struct{}
}

// newWatch begins to follow a registry, until end is called.
func newWatch(ctx context.Context, uid types.UID, o watchOptions) *watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{uid: uid, cancel: cancel, pods: make(chan []pod, 1), done: make(chan struct{})}
	go w.run(ctx, o)
	return w
}

// follow says which pods there are now. One goroutine at a time may call it.
func (w *watch) follow(pods []pod) {
	select {
	case <-w.pods: // Not taken yet, and out of date.
	default:
	}
	w.pods <- pods
}

// end ends the watch, and returns when nothing of it runs any more.
func (w *watch) end() {
	w.cancel()
	<-w.done
}

func (w *watch) run(ctx context.Context, o watchOptions) {
	defer close(w.done)
	var polls sync.WaitGroup
	defer polls.Wait()
	stops, heard := map[pod]context.CancelFunc{}, make(chan answer)
	view, told := newView(time.Now()), record{}
	alarm := time.NewTimer(grace)
	defer alarm.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case pods := <-w.pods:
			view.set(pods, time.Now())
			for p, stop := range stops {
				if _, there := view.pods[p]; !there {
					stop()
					delete(stops, p)
				}
			}
			for p := range view.pods {
				if stops[p] == nil {
					polling, stop := context.WithCancel(ctx)
					stops[p] = stop
					polls.Go(func() { poll(polling, p, o.ask, heard) })
				}
			}
		case a := <-heard:
			if a.err != nil && view.pods[a.from].trouble == "" {
				o.log.Info("a pod does not say what the registry holds, and is asked again", "pod", a.from.ip, "error", a.err.Error())
			}
			view.hear(a, time.Now())
		case <-alarm.C:
		}
		now := time.Now()
		said, known, next := view.report(now)
		if known {
			published, at := told.publish(said, now)
			if published {
				o.publish(said)
			}
			next = earlier(next, at)
		}
		note, at := told.announce(now)
		if note != "" {
			o.announce(ctx, note)
		}
		if next = earlier(next, at); !next.IsZero() {
			alarm.Reset(time.Until(next))
		}
	}
}

// earlier returns the earlier of two instants, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

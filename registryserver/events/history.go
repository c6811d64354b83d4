package events

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

const (
	historyKey = "events/history.json"
	// keptHistory is how many changes are kept, the youngest.
	keptHistory = 50
	// maxHistoryBytes bounds the object: a change has five texts of maxTextBytes at most.
	maxHistoryBytes = 2 << 20
	// historyEvery is how far apart two writes are, and so how much is lost with a server that is killed.
	historyEvery = 2 * time.Second
	// historyTries is how often a write is tried while other replicas are faster.
	historyTries = 5
)

// HistoryOptions configure a History. Fields without a default are needed.
type HistoryOptions struct {
	// Bucket is where the changes are kept, in one object that all replicas share.
	Bucket bucket.Bucket
	// Actor is as in Options.
	Actor func(ctx context.Context) string
	Log   *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// History keeps the last changes of all replicas, 50 of them. Nobody who makes one waits for it to be written. Make it with
// NewHistory. Its methods may be called from many goroutines.
type History struct {
	o   HistoryOptions
	ids ids
	// woken has something in it when there is something to write.
	woken chan struct{}

	mu sync.Mutex
	// waiting are changes that are not written yet.
	waiting []Event
}

// NewHistory returns a history that remembers at once, and writes while Run runs.
func NewHistory(o HistoryOptions) *History {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &History{o: o, ids: ids{now: o.Now}, woken: make(chan struct{}, 1)}
}

// Changed is for repository.Options.
func (h *History) Changed(ctx context.Context, c repository.Change) {
	h.mu.Lock()
	// Within the lock, so that their order is that of their ids.
	h.waiting = append(h.waiting, eventOf(ctx, h.ids.after(c.BeforeMark), h.o.Now(), c, h.o.Actor))
	h.waiting = h.waiting[max(0, len(h.waiting)-keptHistory):]
	h.mu.Unlock()
	wake(h.woken)
}

// Recent are the last changes, the youngest first, those of other replicas as they were seconds ago. Errors: those of the
// bucket.
func (h *History) Recent(ctx context.Context) ([]Event, error) {
	// Before the object is read: what is written meanwhile is in one of the two.
	waiting := h.unwritten()
	kept, _, err := h.read(ctx)
	return youngest(append(kept, waiting...)), err
}

// Run writes what changes, until ctx ends, and then what is left.
func (h *History) Run(ctx context.Context) {
	failed := false
	for done := false; !done; {
		select {
		case <-ctx.Done():
		case <-h.woken:
		}
		wait(ctx, nil, historyEvery)
		// Before it is written, so that all there was at the end is.
		done = ctx.Err() != nil
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shortly)
		err := h.flush(last)
		cancel()
		if err != nil {
			if !failed {
				h.o.Log.Warn("the last changes cannot be written down for people to look at; it is tried again", "error", err)
			}
			wake(h.woken)
		}
		failed = err != nil
	}
}

func (h *History) unwritten() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.waiting)
}

func (h *History) read(ctx context.Context) (kept []Event, etag string, err error) {
	etag, err = readDocument(ctx, h.o.Bucket, historyKey, maxHistoryBytes, &kept)
	if errors.Is(err, bucket.ErrNotFound) || errors.Is(err, errDamaged) {
		return nil, etag, nil // It can be done without.
	}
	return kept, etag, err
}

// flush adds what waits to what is kept.
func (h *History) flush(ctx context.Context) error {
	waiting := h.unwritten()
	if len(waiting) == 0 {
		return nil
	}
	for try := 1; ; try++ {
		kept, etag, err := h.read(ctx)
		if err != nil {
			return err
		}
		err = writeDocument(ctx, h.o.Bucket, historyKey, youngest(append(kept, waiting...)), bucket.Condition{ETag: etag, Absent: etag == ""})
		if err == nil {
			break
		}
		if try == historyTries || !errors.Is(err, bucket.ErrExists) && !errors.Is(err, bucket.ErrChanged) {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = slices.DeleteFunc(h.waiting, func(e Event) bool { return e.ID <= waiting[len(waiting)-1].ID })
	return nil
}

// youngest are the last of some changes, each once, the youngest first.
func youngest(all []Event) []Event {
	slices.SortFunc(all, func(a, b Event) int { return cmp.Compare(b.ID, a.ID) })
	all = slices.CompactFunc(all, func(a, b Event) bool { return a.ID == b.ID })
	return all[:min(len(all), keptHistory)]
}

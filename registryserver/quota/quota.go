// Package quota keeps count of what a registry stores, over all of its replicas, and says whether more fits.
//
// Each replica counts what it adds and removes in an object of its own, so that no push waits for another. The sum is
// that of a base, which somebody counted by listing everything, and of what each replica has counted since. A replica
// writes its own count, and reads those of the others, every [Interval]: what is in flight on other replicas for that
// long may overshoot a limit.
package quota

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// Interval is how often a replica tells its own count and learns those of the others.
const Interval = 10 * time.Second

// Usage is what a registry stores, or what is added to it; removals are negative.
type Usage struct {
	// Bytes of blobs and manifests.
	Bytes int64 `json:"bytes"`
	// Charts that have a tag.
	Charts int64 `json:"charts"`
	// Versions are the tags of all charts.
	Versions int64 `json:"versions"`
}

func (u Usage) plus(v Usage) Usage {
	return Usage{u.Bytes + v.Bytes, u.Charts + v.Charts, u.Versions + v.Versions}
}

func (u Usage) minus(v Usage) Usage {
	return Usage{u.Bytes - v.Bytes, u.Charts - v.Charts, u.Versions - v.Versions}
}

// positive is u without what is negative.
func (u Usage) positive() Usage {
	return Usage{max(u.Bytes, 0), max(u.Charts, 0), max(u.Versions, 0)}
}

func (u Usage) least(v Usage) Usage {
	return Usage{min(u.Bytes, v.Bytes), min(u.Charts, v.Charts), min(u.Versions, v.Versions)}
}

// where is u in the places in which v has anything.
func (u Usage) where(v Usage) Usage {
	for _, place := range []struct{ u, v *int64 }{{&u.Bytes, &v.Bytes}, {&u.Charts, &v.Charts}, {&u.Versions, &v.Versions}} {
		if *place.v == 0 {
			*place.u = 0
		}
	}
	return u
}

// Limits are the most that a registry may store; 0 is no limit.
type Limits Usage

// Error says that what was asked for does not fit, in a sentence for the person who pushes.
type Error struct {
	Reason string
	// Discreet is Reason without what is stored in all charts together, for who may not know of all of them. Empty where
	// Reason says nothing of that.
	Discreet string
}

// Error is the reason.
func (e *Error) Error() string { return e.Reason }

// ErrCounting says that it is not known yet what is stored, so that it cannot be said whether more fits.
var ErrCounting = errors.New("what is stored is being counted for the first time")

// TooLarge is for a chart over the limit of one. size is what it has; negative where only that it is more is known.
func TooLarge(limit, size int64) *Error {
	has := "more"
	if size >= 0 {
		has = Size(size)
	}
	return &Error{Reason: fmt.Sprintf("a chart may have %s at most in this registry, and this one has %s: keep out of it what it does not need, with a .helmignore, or have the limit raised",
		Size(limit), has)}
}

// bound is true where add could be over a limit. What adds nothing never is, also where a limit was lowered below what is
// there.
func (l Limits) bound(add Usage) bool {
	return l.Bytes > 0 && add.Bytes > 0 || l.Charts > 0 && add.Charts > 0 || l.Versions > 0 && add.Versions > 0
}

// check judges what would be stored when add is added to used.
func (l Limits) check(used, add Usage) error {
	for _, c := range []struct {
		limit, used, add int64
		say              func(int64) string
		help             string
	}{
		{l.Bytes, used.Bytes, add.Bytes, Size, "delete versions that nobody needs"},
		{l.Charts, used.Charts, add.Charts, count("chart"), "delete a chart that nobody needs"},
		{l.Versions, used.Versions, add.Versions, count("version"), "delete versions that nobody needs"},
	} {
		if c.limit > 0 && c.add > 0 && c.add > c.limit-c.used {
			const over = "this is over the registry's quota of %s (%swanted: %s more): %s, or have the quota raised"
			say := func(used string) string { return fmt.Sprintf(over, c.say(c.limit), used, c.say(c.add), c.help) }
			return &Error{Reason: say("used: " + c.say(max(c.used, 0)) + ", "), Discreet: say("")}
		}
	}
	return nil
}

func count(what string) func(int64) string {
	return func(n int64) string {
		if n == 1 {
			return "1 " + what
		}
		return fmt.Sprintf("%d %ss", n, what)
	}
}

// Size writes a number of bytes with binary prefixes (IEC 80000-13), as Kubernetes' quantities have.
func Size(n int64) string {
	unit, prefix := int64(1), ""
	for _, next := range []string{"Ki", "Mi", "Gi", "Ti", "Pi"} {
		if n/unit < 1024 {
			break
		}
		unit, prefix = unit*1024, next
	}
	if n%unit == 0 {
		return fmt.Sprintf("%d %sB", n/unit, prefix)
	}
	return fmt.Sprintf("%.1f %sB", float64(n)/float64(unit), prefix)
}

// Options configure a Tracker.
type Options struct {
	// Bucket is where the counts are kept, below "usage/".
	Bucket bucket.Bucket
	// Limits are the most that may be stored.
	Limits Limits
	// Count lists everything and adds it up.
	Count func(ctx context.Context) (Usage, error)
	// Alone, when not nil, does work if no other replica does so at this moment, and says whether it did: counting
	// everything anew would be wasted on more than one.
	Alone func(ctx context.Context, work func(context.Context)) (did bool, err error)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Tracker knows what a registry stores. Its methods may be called from many goroutines.
type Tracker struct {
	o Options
	// replica names this process alone: one that is started again counts from zero, under another name.
	replica string
	// known is closed once there is a base.
	known   chan struct{}
	isKnown sync.Once
	// exchange is held while the counts of others are learned, so that older ones do not replace newer ones.
	exchange sync.Mutex

	mu   sync.Mutex
	base base
	// lost is true where the base is not in the bucket: the last one is good until it is counted anew.
	lost    bool
	own     counter
	written counter
	others  map[string]counter
	// inFlight is reserved and neither stored nor given up yet.
	inFlight Usage
}

// New returns a tracker that knows of nothing yet; Run tells it.
func New(o Options) *Tracker {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Tracker{o: o, replica: rand.Text(), known: make(chan struct{})}
}

// Limits are the most that may be stored.
func (t *Tracker) Limits() Limits { return t.o.Limits }

// Usage is what is stored, as far as it is told here. known is false before the first count.
func (t *Tracker) Usage() (used Usage, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used(), !t.base.At.IsZero()
}

func (t *Tracker) used() Usage {
	sum := t.base.Usage.plus(t.own.Usage.minus(t.base.Counted[t.replica].Usage))
	for name, c := range t.others {
		sum = sum.plus(c.Usage.minus(t.base.Counted[name].Usage))
	}
	return sum
}

// Record counts what was removed, or stored without being asked for before.
func (t *Tracker) Record(delta Usage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.own.Usage = t.own.Usage.plus(delta)
}

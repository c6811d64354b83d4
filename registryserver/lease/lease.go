// Package lease lets one of several replicas at a time do work that would be wasted on more: a sweep, or deliveries.
//
// A lease is an object in the bucket, "leases/<name>.json", that is replaced only on condition that it has not changed
// since it was read. Its bytes differ each time, because some stores' ETags are made of the content. Clocks need not
// agree: who waits calls a lease ended when it has seen it unchanged for the whole time to live by its own clock, and
// who holds one gives up its work well before that.
//
// A lease spares work. It does not guard data: a process that was stopped in the middle of a write goes on with it
// whoever holds the lease by then, so what is written must be safe by itself. Where the storage ignores conditions, and
// so has a single writer, a lease is simply had.
package lease

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	prefix = "leases/"

	// maxDocumentBytes bounds a lease when it is read.
	maxDocumentBytes = 4 << 10

	defaultTTL = time.Minute
)

// ErrLost says that the work was ended because the lease could not be renewed in time, or somebody else has it.
var ErrLost = errors.New("the lease was lost")

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Options configure a Lease.
type Options struct {
	// Bucket is where the lease is kept.
	Bucket bucket.Bucket
	// Name of the lease: lower-case letters, digits and "-". What shares a name excludes each other.
	Name string
	// TTL is how long others wait for a holder that is gone; 0 means a minute. While held, a lease is written three times in
	// this time; while waited for, it is read three times.
	TTL time.Duration
}

// Lease is one process's part in a lease. Its methods may be called from many goroutines.
type Lease struct {
	bucket bucket.Bucket
	key    string
	ttl    time.Duration
	// holder names this process alone.
	holder string

	// busy is locked while the lease is held or being taken.
	busy sync.Mutex
	// seen is the ETag of the lease that somebody else holds, and since when it is known here.
	seen  string
	since time.Time
}

// document is the content of a lease's object.
type document struct {
	// Holder made the last change.
	Holder string `json:"holder"`
	// Count grows with each change, so that no two have the same bytes.
	Count int64 `json:"count"`
	// Released is true when the holder has let go: the next one need not wait.
	Released bool `json:"released,omitempty"`
}

// held is a lease as this process wrote it last.
type held struct {
	etag  string
	count int64
}

// New returns a lease that is not held. An error is about the name.
func New(o Options) (*Lease, error) {
	if !namePattern.MatchString(o.Name) {
		return nil, fmt.Errorf("the name of a lease %.70q must be lower-case letters, digits and -, at most 63", o.Name)
	}
	if o.TTL <= 0 {
		o.TTL = defaultTTL
	}
	return &Lease{bucket: o.Bucket, key: prefix + o.Name + ".json", ttl: o.TTL, holder: rand.Text()}, nil
}

// Run does work whenever the lease can be had, until ctx ends. Work should go on until its own context ends, which it does
// with ctx and when the lease is lost; after it the lease is released. problem is told what went wrong with the storage.
func (l *Lease) Run(ctx context.Context, work func(context.Context), problem func(error)) {
	for ctx.Err() == nil {
		if _, err := l.Try(ctx, work); err != nil && ctx.Err() == nil {
			problem(err)
		}
		wait(ctx, l.ttl/3)
	}
}

// Try does work if the lease can be had now, and says whether it did; afterwards the lease is released. Whoever holds it
// is called gone when two calls that are at least the time to live apart see no change between them. The work's context
// ends with ctx, and with ErrLost as its cause when the lease is lost. Errors: ErrLost, which is no error of the work's,
// and those of the storage.
func (l *Lease) Try(ctx context.Context, work func(context.Context)) (had bool, err error) {
	if !l.busy.TryLock() {
		return false, nil
	}
	defer l.busy.Unlock()
	began := time.Now()
	taking, cancel := context.WithTimeout(ctx, l.patience())
	h, err := l.take(taking)
	cancel()
	if h == nil || err != nil {
		return false, err
	}
	working, end := context.WithCancelCause(ctx)
	// A renewal that hangs must not keep the work going.
	deadline := time.AfterFunc(l.until(began), func() { end(ErrLost) })
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		l.keep(working, h, deadline, end)
	}()
	work(working)
	deadline.Stop()
	end(nil)
	<-kept
	err = l.release(ctx, h)
	if errors.Is(context.Cause(working), ErrLost) {
		return true, fmt.Errorf("%s: %w", l.key, errors.Join(ErrLost, err))
	}
	return true, err
}

// patience is how long one write may take: two fit in what is left when a renewal is due.
func (l *Lease) patience() time.Duration { return l.ttl / 6 }

// until is how long the work may go on after a write that began at the time given: others may have seen it from then on.
func (l *Lease) until(began time.Time) time.Duration { return l.ttl*2/3 - time.Since(began) }

// take returns nil when somebody else holds the lease, or was quicker.
func (l *Lease) take(ctx context.Context) (*held, error) {
	d, etag, err := l.read(ctx)
	condition := bucket.Condition{ETag: etag}
	switch {
	case errors.Is(err, bucket.ErrNotFound):
		condition = bucket.Condition{Absent: true}
	case err != nil:
		return nil, err
	case d.Released, d.Holder == l.holder:
		// The latter is a lease that could not be released.
	case etag != l.seen:
		l.seen, l.since = etag, time.Now()
		return nil, nil //nolint:nilnil // It is held, which is no error.
	case time.Since(l.since) < l.ttl:
		return nil, nil //nolint:nilnil // As above.
	}
	etag, err = l.write(ctx, document{Holder: l.holder, Count: d.Count + 1}, condition)
	if errors.Is(err, bucket.ErrExists) || errors.Is(err, bucket.ErrChanged) {
		return nil, nil //nolint:nilnil // As above.
	}
	if err != nil {
		return nil, err
	}
	return &held{etag: etag, count: d.Count + 1}, nil
}

// keep renews the lease until ctx ends.
func (l *Lease) keep(ctx context.Context, h *held, deadline *time.Timer, end context.CancelCauseFunc) {
	for pause := l.ttl / 3; ; {
		wait(ctx, pause)
		if ctx.Err() != nil {
			return
		}
		began := time.Now()
		renewing, cancel := context.WithTimeout(ctx, l.patience())
		err := l.replace(renewing, h, false)
		cancel()
		switch {
		case errors.Is(err, ErrLost):
			end(ErrLost)
			return
		case err != nil:
			// The deadline ends it when this goes on.
			pause = l.ttl / 12
		case deadline.Reset(l.until(began)):
			pause = l.ttl / 3
		default:
			// The deadline has passed meanwhile: ctx is about to end.
			deadline.Stop()
			return
		}
	}
}

// replace writes the lease again. ErrLost says that it is somebody else's.
func (l *Lease) replace(ctx context.Context, h *held, released bool) error {
	err := l.replaceOnce(ctx, h, released)
	if !errors.Is(err, bucket.ErrChanged) {
		return err
	}
	// It may have been changed by a write of our own whose answer was lost.
	d, etag, readErr := l.read(ctx)
	switch {
	case errors.Is(readErr, bucket.ErrNotFound), readErr == nil && (d.Holder != l.holder || d.Released):
		return ErrLost
	case readErr != nil:
		return readErr
	}
	h.etag, h.count = etag, d.Count
	return l.replaceOnce(ctx, h, released)
}

func (l *Lease) replaceOnce(ctx context.Context, h *held, released bool) error {
	etag, err := l.write(ctx, document{Holder: l.holder, Count: h.count + 1, Released: released}, bucket.Condition{ETag: h.etag})
	if err == nil {
		h.etag, h.count = etag, h.count+1
	}
	return err
}

// release lets go of the lease, also when ctx has ended.
func (l *Lease) release(ctx context.Context, h *held) error {
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.patience())
	defer cancel()
	if err := l.replace(last, h, true); err != nil && !errors.Is(err, ErrLost) {
		return err
	}
	return nil
}

// read returns an empty document for one that is damaged: it ends like one whose holder is gone.
func (l *Lease) read(ctx context.Context) (d document, etag string, err error) {
	r, info, err := l.bucket.Get(ctx, l.key, nil)
	if err != nil {
		return d, "", fmt.Errorf("read %s: %w", l.key, err)
	}
	defer r.Close()
	content, err := io.ReadAll(io.LimitReader(r, maxDocumentBytes))
	if err != nil {
		return d, "", fmt.Errorf("read %s: %w: %w", l.key, bucket.ErrUnavailable, err)
	}
	if json.Unmarshal(content, &d) != nil {
		d = document{}
	}
	return d, info.ETag, nil
}

func (l *Lease) write(ctx context.Context, d document, c bucket.Condition) (etag string, err error) {
	content, err := json.Marshal(d)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", l.key, err)
	}
	info, err := l.bucket.Put(ctx, l.key, bytes.NewReader(content), int64(len(content)), c)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", l.key, err)
	}
	return info.ETag, nil
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

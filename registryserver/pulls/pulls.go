// Package pulls remembers on which day each manifest of a chart was last pulled, over all replicas of a registry.
//
// A pull costs a look into a map. Each replica writes what is new, every [Interval], into an object of its own for each
// chart, "pulls/<chart>/<replica>.json", so that no replica waits for another; the last day of a manifest is the latest
// that any of them has. Objects of replicas that are gone are folded into one.
package pulls

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// Interval is how often what is new is written, and so how much is lost of what was pulled when a server is killed.
const Interval = 10 * time.Second

const (
	prefix = "pulls/"
	// folded is the name of the object of all replicas that are gone.
	folded = "folded"
	// goneAfter is the age in days at which an object is that of a replica that does not write it any more; one that does
	// makes another.
	goneAfter = 2
	// maxDocumentBytes bounds an object when it is read: about a million manifests.
	maxDocumentBytes = 64 << 20
	// maxKnown bounds the manifests of which it is known in memory that their day is written.
	maxKnown = 50_000
	// maxTries bounds how often an object is written that changes at the same time.
	maxTries = 8
	// parallel bounds the objects that are written at the same time.
	parallel = 8
	// lastPatience is how long the last write may take.
	lastPatience = 10 * time.Second
)

// Options configure a Recorder.
type Options struct {
	// Bucket is where the days are kept, below "pulls/".
	Bucket bucket.Bucket
	// Keep is for how long a day is of use; older ones are forgotten.
	Keep time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Recorder is one replica's part. Its methods may be called from many goroutines.
type Recorder struct {
	o Options
	// replica names this process alone.
	replica string

	mu sync.Mutex
	// today is the day that known is about.
	today day
	known map[pulled]struct{}
	// fresh is what is not written yet, by chart.
	fresh map[string]days

	// writing is locked while objects are written.
	writing sync.Mutex
}

type pulled struct{ chart, digest string }

// day counts days since 1970-01-01 UTC.
type day int64

func dayOf(at time.Time) day { return day(at.Unix() / int64(24*time.Hour/time.Second)) }

// end is the end of the day: when on it something was pulled is not known.
func (d day) end() time.Time { return time.Unix(int64(d+1)*int64(24*time.Hour/time.Second), 0).UTC() }

// days are the last days of manifests, by digest.
type days map[string]day

// document is an object.
type document struct {
	// Written is the day on which it was last changed, so that one that is not changed any more can be told.
	Written day  `json:"written"`
	Days    days `json:"days"`
}

// New returns a recorder.
func New(o Options) *Recorder {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Recorder{o: o, replica: rand.Text(), known: map[pulled]struct{}{}, fresh: map[string]days{}}
}

// Pulled notes that a manifest of a chart is being pulled now.
func (r *Recorder) Pulled(chart, digest string) {
	today := dayOf(r.o.Now())
	p := pulled{chart, digest}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.known[p]; ok && r.today == today {
		return
	}
	if r.today != today || len(r.known) >= maxKnown {
		// What is forgotten here is written once more.
		r.today, r.known = today, map[pulled]struct{}{}
	}
	// The strings may be parts of a larger one, which is not to stay in memory.
	p = pulled{strings.Clone(chart), strings.Clone(digest)}
	r.known[p] = struct{}{}
	if r.fresh[p.chart] == nil {
		r.fresh[p.chart] = days{}
	}
	r.fresh[p.chart][p.digest] = today
}

// Run writes what is new until ctx ends, and then the rest. problem is told what went wrong; it is tried again.
func (r *Recorder) Run(ctx context.Context, problem func(error)) {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			if err := r.Flush(ctx); err != nil && ctx.Err() == nil {
				problem(err)
			}
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPatience)
	defer cancel()
	if err := r.Flush(last); err != nil {
		problem(err)
	}
}

// Flush writes what is new.
func (r *Recorder) Flush(ctx context.Context) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	fresh := r.fresh
	r.fresh = map[string]days{}
	r.mu.Unlock()
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for chart, days := range fresh {
		group.Go(func() error {
			err := r.merge(groupCtx, key(chart, r.replica), days)
			if err != nil {
				r.again(chart, days)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("note what was pulled: %w", err)
	}
	return nil
}

// again keeps what could not be written for the next time.
func (r *Recorder) again(chart string, ds days) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ds.add(r.fresh[chart])
	r.fresh[chart] = ds
}

// add takes over what another has that is later.
func (ds days) add(other days) {
	for digest, d := range other {
		ds[digest] = max(ds[digest], d)
	}
}

// Last is when each manifest of a chart that was pulled at all was last pulled, at the latest, by digest. What was pulled
// in the last moments, by Interval, may be missing; Flush first to have all of this replica's.
func (r *Recorder) Last(ctx context.Context, chart string) (map[string]time.Time, error) {
	objects, err := r.objects(ctx, chart)
	if err != nil {
		return nil, err
	}
	all := days{}
	for _, o := range objects {
		all.add(o.Days)
	}
	last := make(map[string]time.Time, len(all))
	for digest, d := range all {
		last[digest] = d.end()
	}
	return last, nil
}

// Fold moves what replicas that are gone have written of a chart into one object, and forgets what is too old. Only one
// replica should do so at a time; more of them lose nothing.
func (r *Recorder) Fold(ctx context.Context, chart string) error {
	objects, err := r.objects(ctx, chart)
	if err != nil {
		return err
	}
	gone, today := days{}, dayOf(r.o.Now())
	objects = slices.DeleteFunc(objects, func(o object) bool {
		if o.info.Key == key(chart, folded) {
			// All that it holds is too old once it has not been written for so long; where it is written below, it stays.
			return o.Written >= r.oldest()-goneAfter
		}
		if o.Written > today-goneAfter {
			return true
		}
		gone.add(o.Days)
		return false
	})
	if len(gone) > 0 {
		if err := r.merge(ctx, key(chart, folded), gone); err != nil {
			return fmt.Errorf("fold what was pulled: %w", err)
		}
	}
	for _, o := range objects {
		// One that is written meanwhile stays.
		if err := r.o.Bucket.Delete(ctx, o.info.Key, bucket.Condition{ETag: o.info.ETag}); err != nil && !errors.Is(err, bucket.ErrChanged) {
			return fmt.Errorf("fold what was pulled: %w", err)
		}
	}
	return nil
}

// Charts are those of which anything is written, in no order.
func (r *Recorder) Charts(ctx context.Context) ([]string, error) {
	var charts []string
	for after := ""; ; {
		p, err := r.o.Bucket.List(ctx, bucket.ListOptions{Prefix: prefix, StartAfter: after, Delimiter: "/"})
		if err != nil {
			return nil, fmt.Errorf("list what was pulled: %w", err)
		}
		for _, found := range p.Prefixes {
			charts = append(charts, strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(found, prefix), "/"), "+", "/"))
		}
		if after = p.Next; after == "" {
			return charts, nil
		}
	}
}

// oldest is the first day that is of use.
func (r *Recorder) oldest() day { return dayOf(r.o.Now().Add(-r.o.Keep)) - 1 }

// key is that of a replica's object of a chart. No chart has a "+" in its name.
func key(chart, replica string) string {
	return prefix + strings.ReplaceAll(chart, "/", "+") + "/" + replica + ".json"
}

// object is a document as it was read.
type object struct {
	document
	info bucket.Info
}

func (r *Recorder) objects(ctx context.Context, chart string) ([]object, error) {
	var all []object
	for after := ""; ; {
		p, err := r.o.Bucket.List(ctx, bucket.ListOptions{Prefix: strings.TrimSuffix(key(chart, ""), ".json"), StartAfter: after})
		if err != nil {
			return nil, fmt.Errorf("list what was pulled: %w", err)
		}
		for _, i := range p.Objects {
			o, err := r.read(ctx, i.Key)
			if errors.Is(err, bucket.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			all = append(all, o)
		}
		if after = p.Next; after == "" {
			return all, nil
		}
	}
}

// merge adds days to an object, and leaves out what is too old.
func (r *Recorder) merge(ctx context.Context, key string, fresh days) error {
	var err error
	for range maxTries {
		var o object
		o, err = r.read(ctx, key)
		condition := bucket.Condition{ETag: o.info.ETag}
		if errors.Is(err, bucket.ErrNotFound) {
			condition = bucket.Condition{Absent: true}
		} else if err != nil {
			return err
		}
		if o.Days == nil {
			o.Days = days{}
		}
		o.Days.add(fresh)
		maps.DeleteFunc(o.Days, func(_ string, d day) bool { return d < r.oldest() })
		o.Written = dayOf(r.o.Now())
		var content []byte
		if content, err = json.Marshal(o.document); err != nil {
			return fmt.Errorf("write %s: %w", key, err)
		}
		_, err = r.o.Bucket.Put(ctx, key, bytes.NewReader(content), int64(len(content)), condition)
		if err == nil {
			return nil
		}
		if !errors.Is(err, bucket.ErrExists) && !errors.Is(err, bucket.ErrChanged) {
			break
		}
		// Folded meanwhile, or written without an answer.
	}
	return fmt.Errorf("write %s: %w", key, err)
}

// read returns bucket.ErrNotFound for an object that is not there. A damaged one is an error: to take it for empty would
// make what was pulled look as if it was not.
func (r *Recorder) read(ctx context.Context, key string) (object, error) {
	body, info, err := r.o.Bucket.Get(ctx, key, nil)
	if err != nil {
		return object{}, fmt.Errorf("read %s: %w", key, err)
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, maxDocumentBytes))
	if err != nil {
		return object{}, fmt.Errorf("read %s: %w: %w", key, bucket.ErrUnavailable, err)
	}
	o := object{info: info}
	if err := json.Unmarshal(content, &o.document); err != nil {
		return object{}, fmt.Errorf("%s is damaged: %w: %w: delete it, and what was pulled before counts as never pulled", key, bucket.ErrUnavailable, err)
	}
	return o, nil
}

package registryserver

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/check"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// diagnosisInterval is how often the storage is tried out whole, which takes some thirty requests.
	diagnosisInterval = 5 * time.Minute
	// diagnosisPatience is how long one may take, and the question for conditional writes at the start.
	diagnosisPatience = time.Minute
	// staleInterval is how often leftovers of killed servers are looked for.
	staleInterval = 24 * time.Hour
)

const (
	ignoresPuts    = "the storage ignores conditional writes (If-None-Match, If-Match): only one server may use it, since several would overwrite each other's pushes"
	ignoresDeletes = "the storage ignores conditional deletes (If-Match): only one server may use it, since garbage collection beside another server's pushes would not be safe"
)

// diagnosis is what is known of what the storage can do.
type diagnosis struct {
	kind   string
	bucket bucket.Bucket
	log    *slog.Logger

	mu sync.Mutex
	// known is set once the storage has shown whether it decides between writers; a directory always does.
	known bool
	// singleWriter is why only one server may use the storage; empty where any number may.
	singleWriter string
	results      []check.Result
	at           time.Time
}

// storageReport is what /readyz says of the storage.
type storageReport struct {
	// Kind is filesystem or s3.
	Kind string `json:"kind"`
	// SingleWriter is true where only one server may use the storage.
	SingleWriter bool `json:"singleWriter,omitempty"`
	// Checks are the outcomes of what `chartroom storage check` tries, at CheckedAt; none before the first time.
	Checks    []check.Result `json:"checks,omitempty"`
	CheckedAt *time.Time     `json:"checkedAt,omitempty"`
}

// learn finds out, in S3 and until it is known, whether more than one server may use the storage.
func (d *diagnosis) learn(ctx context.Context) {
	if d.kind != wire.StorageS3 || d.knows() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, diagnosisPatience)
	defer cancel()
	puts, err := check.ConditionalWrites(ctx, d.bucket)
	deletes := false
	if err == nil {
		deletes, err = check.ConditionalDeletes(ctx, d.bucket)
	}
	if err != nil {
		d.log.Warn("it could not be found out whether several servers may use the storage; it is tried again", "error", err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known = true
	switch {
	case !puts:
		d.singleWriter = ignoresPuts
	case !deletes:
		d.singleWriter = ignoresDeletes
	}
	if d.singleWriter != "" {
		d.log.Error(d.singleWriter)
	}
}

func (d *diagnosis) knows() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known
}

// watch tries out the storage every now and then, when there is somebody to show it to, and clears away what killed
// servers left behind, until ctx ends.
func (d *diagnosis) watch(ctx context.Context, shown bool) {
	ticker := time.NewTicker(diagnosisInterval)
	defer ticker.Stop()
	for swept := (time.Time{}); ; {
		d.learn(ctx)
		if shown {
			d.run(ctx)
		}
		if leftovers, ok := d.bucket.(interface {
			AbortStale(ctx context.Context, now time.Time) error
		}); ok && time.Since(swept) >= staleInterval {
			swept = time.Now()
			if err := leftovers.AbortStale(ctx, swept); err != nil && ctx.Err() == nil {
				d.log.Warn("uploads that were never finished could not be cleared away", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (d *diagnosis) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, diagnosisPatience)
	defer cancel()
	var results []check.Result
	check.Diagnose(ctx, d.bucket, func(r check.Result) { results = append(results, r) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.results, d.at = results, time.Now()
}

func (d *diagnosis) report() storageReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := storageReport{Kind: d.kind, SingleWriter: d.singleWriter != "", Checks: d.results}
	if !d.at.IsZero() {
		at := d.at.UTC().Truncate(time.Second)
		r.CheckedAt = &at
	}
	return r
}

// warning is why only one server may use the storage; empty where any number may.
func (d *diagnosis) warning() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.singleWriter
}

package registryserver

import (
	"fmt"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/garbage"
	"github.com/chartroom-dev/chartroom/registryserver/lease"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/prometheus/client_golang/prometheus"
)

// maxSweeperGone is how long others wait, at most, for the server that goes through all charts when it is gone.
const maxSweeperGone = 10 * time.Minute

// collectGarbage prepares the collector of garbage, which begins with Run.
func (s *Server) collectGarbage(b bucket.Bucket, store *repository.Store) error {
	c := s.config.GarbageCollection
	// A lease costs the storage a few requests in each such time.
	sweeper, err := lease.New(lease.Options{Bucket: b, Name: "garbage", TTL: max(time.Second, min(maxSweeperGone, time.Duration(c.Interval)/2))})
	if err != nil {
		return fmt.Errorf("garbage collection: %w", err)
	}
	s.garbage = garbage.New(garbage.Options{
		Store: store, Lease: sweeper, Interval: time.Duration(c.Interval), Grace: time.Duration(c.Grace), Undo: time.Duration(c.Undo), Log: s.log,
	})
	s.metrics.registry.MustRegister(garbageMetrics{s.garbage})
	return nil
}

// garbageState is what the operator is told.
func (s *Server) garbageState() wire.GarbageState {
	r := s.garbage.Report()
	state := wire.GarbageState{
		FreedObjects: r.Total.Freed.Objects, FreedBytes: r.Total.Freed.Bytes, WaitingBytes: r.Total.Waiting.Bytes, Problem: r.Problem,
	}
	if !r.LastSweep.IsZero() {
		at := r.LastSweep.UTC().Truncate(time.Second)
		state.LastSweep = &at
	}
	if r.Sweeping {
		state.ChartsDone, state.ChartsTotal = r.SweepDone, r.SweepTotal
	}
	return state
}

// garbageMetrics reads the account of garbage collection whenever somebody asks for metrics.
type garbageMetrics struct{ collector *garbage.Collector }

var (
	garbageRuns     = prometheus.NewDesc("chartroom_garbage_collections_total", "Times that a chart was looked through for garbage.", nil, nil)
	garbageFailures = prometheus.NewDesc("chartroom_garbage_failures_total", "Times that looking through a chart, or all, for garbage failed.", nil, nil)
	garbageObjects  = prometheus.NewDesc("chartroom_garbage_objects_total", "Objects that garbage collection moved into the trash (condemned), brought back (restored) or deleted (freed).", []string{"action"}, nil)
	garbageBytes    = prometheus.NewDesc("chartroom_garbage_bytes_total", "Bytes of the same.", []string{"action"}, nil)
	garbageWaiting  = prometheus.NewDesc("chartroom_garbage_trash_bytes", "Bytes in the trash, as far as this server has seen.", nil, nil)
	garbagePending  = prometheus.NewDesc("chartroom_garbage_pending_charts", "Charts that wait to be looked through because something in them was deleted or replaced.", nil, nil)
	garbageSweep    = prometheus.NewDesc("chartroom_garbage_last_sweep_timestamp_seconds", "When this server had last gone through all charts; 0 for never.", nil, nil)
	garbageDone     = prometheus.NewDesc("chartroom_garbage_sweep_charts", "Charts that a sweep under way has gone through (done) and has to (total); both 0 when none is.", []string{"state"}, nil)
)

// Describe implements prometheus.Collector.
func (m garbageMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{garbageRuns, garbageFailures, garbageObjects, garbageBytes, garbageWaiting, garbagePending, garbageSweep, garbageDone} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m garbageMetrics) Collect(to chan<- prometheus.Metric) {
	r := m.collector.Report()
	counter := func(d *prometheus.Desc, n int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	counter(garbageRuns, r.Repositories)
	counter(garbageFailures, r.Failures)
	for action, t := range map[string]repository.Tally{
		repository.Condemned: r.Total.Condemned, repository.Restored: r.Total.Restored, repository.Freed: r.Total.Freed,
	} {
		counter(garbageObjects, t.Objects, action)
		counter(garbageBytes, t.Bytes, action)
	}
	gauge(garbageWaiting, r.Total.Waiting.Bytes)
	gauge(garbagePending, int64(r.Pending))
	var swept, done, total int64
	if !r.LastSweep.IsZero() {
		swept = r.LastSweep.Unix()
	}
	if r.Sweeping {
		done, total = int64(r.SweepDone), int64(r.SweepTotal)
	}
	gauge(garbageSweep, swept)
	gauge(garbageDone, done, "done")
	gauge(garbageDone, total, "total")
}

package registryserver

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/helmrepo"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/lease"
	"github.com/chartroom-dev/chartroom/registryserver/pulls"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// inventoryWork keeps the inventory, and counts what is downloaded. A nil one has nothing to do.
type inventoryWork struct {
	*inventory.Inventory
	downloads *pulls.Downloads
	log       *slog.Logger
}

// newInventory prepares both; they begin with Run, behind serving.
func (s *Server) newInventory(store *repository.Store, b bucket.Bucket) (*inventoryWork, error) {
	w := &inventoryWork{log: s.log}
	var alone [2]*lease.Lease
	for i, name := range []string{"inventory", "downloads"} {
		var err error
		if alone[i], err = lease.New(lease.Options{Bucket: b, Name: name}); err != nil {
			return nil, fmt.Errorf("inventory: %w", err)
		}
	}
	o := inventory.Options{
		Store: store, Bucket: b, Alone: alone[0].Try, Log: s.log,
		Address:     func() string { return "oci://" + s.external.Host + "/" + s.config.owner() },
		ContextPath: helmrepo.Path(s.config.owner()),
	}
	if s.config.Storage.S3.Bucket != "" {
		// Each request is waited for, and paid.
		o.Parallel, o.Poll, o.PollIdle, o.CompareEvery = 32, time.Second, 5*time.Second, 6*time.Hour
	} else {
		o.Parallel, o.Poll, o.PollIdle, o.CompareEvery = 4, time.Second, time.Second, time.Hour
	}
	w.downloads = pulls.NewDownloads(pulls.DownloadsOptions{
		Bucket: b, Alone: alone[1].Try,
		// Not before there is an inventory.
		Archive:  func(chart string, d digest.Digest) (is, known bool) { return w.Archive(chart, d) },
		Building: func() bool { return w.Building() },
	})
	o.Downloads = w.downloads
	w.Inventory = inventory.New(o)
	s.metrics.registry.MustRegister(inventoryMetrics{w})
	return w, nil
}

// Inventory is what the registry holds; nil when the server only deletes.
func (s *Server) Inventory() inventory.Reader {
	if s.inventory == nil {
		return nil
	}
	return s.inventory
}

// start works in the background until ctx ends.
func (w *inventoryWork) start(ctx context.Context, running *sync.WaitGroup) {
	if w == nil {
		return
	}
	running.Go(func() { w.Run(ctx) })
	running.Go(func() {
		w.downloads.Run(ctx, func(err error) { w.log.Warn("downloads could not be counted, and are tried again", "error", err) })
	})
}

// inventoryMetrics reads the inventory whenever somebody asks for metrics.
type inventoryMetrics struct{ of *inventoryWork }

var (
	inventoryCharts    = prometheus.NewDesc("chartroom_charts", "Charts that have a version, as far as this server knows.", nil, nil)
	inventoryVersions  = prometheus.NewDesc("chartroom_versions", "Versions of all charts, as far as this server knows.", nil, nil)
	inventoryArtifacts = prometheus.NewDesc("chartroom_artifacts", "Tags beside the versions of charts: signatures and the like.", nil, nil)
	inventoryBytes     = prometheus.NewDesc("chartroom_stored_bytes", "Bytes of the versions of all charts, as far as this server knows: manifests, configs, archives and provenance.", nil, nil)
	inventoryDownloads = prometheus.NewDesc("chartroom_downloads_total", "Whole downloads of charts' archives from this server since it started.", nil, nil)
	inventoryBuilding  = prometheus.NewDesc("chartroom_inventory_building", "1 while this server has not yet seen all that is stored.", nil, nil)
	inventoryBuilt     = prometheus.NewDesc("chartroom_inventory_build_seconds", "How long it took this server to see all that is stored; 0 while it has not.", nil, nil)
	inventoryFailures  = prometheus.NewDesc("chartroom_inventory_failures_total", "Times that something could not be read or written for the inventory, and was or will be tried again.", nil, nil)
)

// Describe implements prometheus.Collector.
func (inventoryMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		inventoryCharts, inventoryVersions, inventoryArtifacts, inventoryBytes, inventoryDownloads, inventoryBuilding, inventoryBuilt, inventoryFailures,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m inventoryMetrics) Collect(to chan<- prometheus.Metric) {
	t, h, building := m.of.Totals(nil), m.of.Health(), 0.0
	if m.of.Building() {
		building = 1
	}
	for d, value := range map[*prometheus.Desc]float64{
		inventoryCharts: float64(t.Charts), inventoryVersions: float64(t.Versions), inventoryArtifacts: float64(t.Artifacts),
		inventoryBytes: float64(t.SizeBytes), inventoryBuilding: building, inventoryBuilt: h.Built.Seconds(),
	} {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	to <- prometheus.MustNewConstMetric(inventoryDownloads, prometheus.CounterValue, float64(m.of.downloads.Counted()))
	to <- prometheus.MustNewConstMetric(inventoryFailures, prometheus.CounterValue, float64(h.Failures))
}

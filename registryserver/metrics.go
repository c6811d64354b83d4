package registryserver

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics are what the server counts. Every label has few values: a route's pattern, a known method, a class of status.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	running  prometheus.Gauge
	revision prometheus.Gauge
	refused  prometheus.Gauge
	damaged  prometheus.Counter
	// decisions are those of the audit record.
	decisions *prometheus.CounterVec
	// Requests as they were sent to an S3 server.
	storageRequests *prometheus.CounterVec
	storageDuration *prometheus.HistogramVec

	mu sync.Mutex
	// known are the series that were resolved from their labels before; the map is replaced, never changed.
	known atomic.Pointer[map[requestLabels]requestSeries]
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chartroom_http_requests_total",
			Help: "Requests answered on the public listener.",
		}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "chartroom_http_request_duration_seconds",
			Help:    "Time from the head of a request to the end of its answer.",
			Buckets: []float64{0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60},
		}, []string{"route", "method"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "chartroom_http_requests_running",
			Help: "Requests that are being answered now.",
		}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "chartroom_access_revision",
			Help: "Revision of the access snapshot in force; 0 before the first.",
		}),
		refused: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "chartroom_access_refused",
			Help: "1 when the newest access snapshot seen was not taken, so that the one before it is in force.",
		}),
	}
	m.damaged = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "chartroom_storage_damaged_total",
		Help: "Times that a stored blob or manifest turned out not to have its digest, and so was not served.",
	})
	m.decisions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "chartroom_audit_records_total",
		Help: "Decisions in the audit record: what was changed and what was refused, and what was read where that is recorded.",
	}, []string{"action", "result"})
	m.storageRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "chartroom_storage_requests_total",
		Help: "Requests that were sent to the S3 server, retries too.",
	}, []string{"operation", "outcome"})
	m.storageDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "chartroom_storage_request_duration_seconds",
		Help:    "Time until the head of the S3 server's answer.",
		Buckets: []float64{0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60},
	}, []string{"operation"})
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "chartroom_build_info", Help: "Always 1; the label is the version.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.duration, m.running, m.revision, m.refused, m.damaged, m.decisions, m.storageRequests, m.storageDuration, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

var knownMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// requestLabels are the labels of a request, class being the first digit of its status.
type requestLabels struct {
	route, method string
	class         int
}

type requestSeries struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

func (m *metrics) observe(route, method string, status int, took time.Duration) {
	labels := requestLabels{route, method, status / 100}
	var series requestSeries
	var found bool
	if known := m.known.Load(); known != nil {
		series, found = (*known)[labels]
	}
	if !found {
		series = m.resolve(labels)
	}
	series.requests.Inc()
	series.duration.Observe(took.Seconds())
}

func (m *metrics) resolve(l requestLabels) requestSeries {
	known := slices.Contains(knownMethods, l.method)
	method := l.method
	if !known {
		method = "other"
	}
	series := requestSeries{
		requests: m.requests.WithLabelValues(l.route, method, strconv.Itoa(l.class)+"xx"),
		duration: m.duration.WithLabelValues(l.route, method),
	}
	if !known {
		return series // Whatever clients call methods must not be kept.
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next := map[requestLabels]requestSeries{l: series}
	if before := m.known.Load(); before != nil {
		maps.Copy(next, *before)
	}
	m.known.Store(&next)
	return series
}

func (m *metrics) storage(operation, outcome string, took time.Duration) {
	m.storageRequests.WithLabelValues(operation, outcome).Inc()
	m.storageDuration.WithLabelValues(operation).Observe(took.Seconds())
}

func (m *metrics) decided(a audit.Action, r audit.Result) {
	m.decisions.WithLabelValues(string(a), string(r)).Inc()
}

// issuers counts those of OIDC tokens that are asked for their keys, without their names: people choose them.
func (m *metrics) issuers(states func() []wire.IssuerState) {
	gauge := func(name, help string, counts func(wire.IssuerState) bool) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "chartroom_oidc_" + name, Help: help}, func() float64 {
			n := 0
			for _, s := range states() {
				if counts(s) {
					n++
				}
			}
			return float64(n)
		})
	}
	m.registry.MustRegister(
		gauge("issuers", "Issuers of OIDC tokens that policies name, and that are asked for their keys.", func(wire.IssuerState) bool { return true }),
		gauge("issuers_failing", "Those of them that did not give their keys the last time.", func(s wire.IssuerState) bool { return s.Problem != "" }),
		gauge("issuers_without_keys", "Those of them without keys, whose tokens are all refused.", func(s wire.IssuerState) bool { return s.Keys == 0 }),
	)
}

func (m *metrics) access(s wire.AccessState) {
	m.revision.Set(float64(s.Revision))
	m.refused.Set(0)
	if s.Problem != "" {
		m.refused.Set(1)
	}
}

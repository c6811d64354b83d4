package registryserver

import (
	"net/http"
	"slices"
	"strconv"
	"time"

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
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "chartroom_build_info", Help: "Always 1; the label is the version.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.duration, m.running, m.revision, m.refused, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

var knownMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

func (m *metrics) observe(route, method string, status int, took time.Duration) {
	if !slices.Contains(knownMethods, method) {
		method = "other"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status/100)+"xx").Inc()
	m.duration.WithLabelValues(route, method).Observe(took.Seconds())
}

func (m *metrics) access(s wire.AccessState) {
	m.revision.Set(float64(s.Revision))
	m.refused.Set(0)
	if s.Problem != "" {
		m.refused.Set(1)
	}
}

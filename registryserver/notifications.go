package registryserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// maxReceiversBytes bounds a list of receivers when it is read.
const maxReceiversBytes = 256 << 10

// ParseNotifications reads a list of receivers in YAML or JSON, with the names that it has in a configuration file, and
// judges it.
func ParseNotifications(data []byte) ([]receivers.Receiver, error) {
	if len(data) > maxReceiversBytes {
		return nil, fmt.Errorf("the list of receivers has more than %d bytes", maxReceiversBytes)
	}
	var all []receivers.Receiver
	if err := decode(data, &all); err != nil {
		return nil, fmt.Errorf("reading the list of receivers: %w", err)
	}
	return all, errors.Join(checkNotifications(all)...)
}

// checkNotifications says what is wrong with receivers, by fields of the configuration.
func checkNotifications(all []receivers.Receiver) (problems []error) {
	for _, err := range receivers.Validate(all) {
		problems = append(problems, fmt.Errorf("notifications%w", err))
	}
	return problems
}

// newNotifier returns nil where nobody is to be told. store is called once there is one.
func (s *Server) newNotifier(b bucket.Bucket, store func() *repository.Store) (*events.Notifier, error) {
	if len(s.config.Notifications) == 0 {
		return nil, nil //nolint:nilnil // There is nobody to tell.
	}
	allowed, err := networks(s.config.AllowEgressCIDRs)
	if err != nil {
		return nil, err
	}
	m := newEventMetrics()
	n, err := events.New(events.Options{
		Bucket:    b,
		Receivers: s.config.Notifications,
		Standing: func(ctx context.Context, chart, tag string) (digest.Digest, string, error) {
			r, err := store().Repository(chart)
			if err != nil {
				return "", "", err
			}
			return r.Standing(ctx, tag)
		},
		Registry: func() events.Registry {
			public := s.enforcer.Authorize(access.Identity{Anonymous: true}, wire.ReadPackages, "any").Allowed
			return events.Registry{Organization: s.config.Organization, Registry: s.config.Registry, URL: s.external, Public: public}
		},
		Allowed:   allowed,
		Actor:     actor,
		Observe:   m.observe,
		UserAgent: "chartroom/" + s.config.Version,
		Log:       s.log,
		Poll:      s.config.Storage.eventsPoll(),
	})
	if err != nil {
		return nil, fmt.Errorf("notifications: %w", err)
	}
	m.register(s.metrics.registry, n)
	return n, nil
}

// actor is on whose behalf ctx is: a request's, or else the retention policy's, which is all that changes anything without
// being asked.
func actor(ctx context.Context) string {
	if _, ok := ctx.Value(requestInfoKey{}).(*requestInfo); !ok {
		return "retention"
	}
	return observe(ctx).Identity.ID
}

// eventsPoll is how often the server that delivers looks for what others have recorded: S3 servers charge for each look.
func (c StorageConfig) eventsPoll() time.Duration {
	if c.S3.Bucket != "" {
		return 5 * time.Second
	}
	return time.Second
}

// requestFailed tells receivers of what is wrong with the storage or the quota.
func (s *Server) requestFailed(err error) {
	if s.notifier == nil {
		return
	}
	var over *quota.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, repository.ErrTagDamaged), errors.Is(err, repository.ErrTooLarge):
	case errors.As(err, &over):
		s.notifier.Trouble(receivers.QuotaReached, "a push was refused: "+over.Reason)
	case errors.Is(err, bucket.ErrFull):
		s.notifier.Trouble(receivers.StorageFailed, "the storage is full, so that pushes fail; pulls go on")
	case errors.Is(err, bucket.ErrReadOnly):
		s.notifier.Trouble(receivers.StorageFailed, "the storage cannot be written to, so that pushes fail; pulls go on")
	case errors.Is(err, bucket.ErrUnavailable):
		s.notifier.Trouble(receivers.StorageFailed, "the storage does not answer, or what is stored cannot be read; the log of the server says more")
	}
}

// eventMetrics count what receivers are told. Receivers are few, and named by the administrator.
type eventMetrics struct {
	deliveries *prometheus.CounterVec
	latency    *prometheus.HistogramVec
}

func newEventMetrics() eventMetrics {
	return eventMetrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chartroom_events_deliveries_total",
			Help: "Attempts to tell a receiver of an event, by what became of it: delivered, failed (it is tried again), dead (it is not) or dropped (too many waited).",
		}, []string{"receiver", "outcome"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "chartroom_events_delivery_seconds",
			Help:    "Time from an event to the answer of the receiver that was told of it.",
			Buckets: []float64{0.05, 0.2, 1, 5, 30, 300, 3600, 86400},
		}, []string{"receiver"}),
	}
}

func (m eventMetrics) observe(receiver string, o events.Outcome, since time.Duration) {
	m.deliveries.WithLabelValues(receiver, string(o)).Inc()
	if o == events.Delivered {
		m.latency.WithLabelValues(receiver).Observe(since.Seconds())
	}
}

func (m eventMetrics) register(registry *prometheus.Registry, n *events.Notifier) {
	registry.MustRegister(m.deliveries, m.latency)
	for _, receiver := range n.Receivers() {
		for _, g := range []struct {
			name, help string
			value      func() int64
		}{
			{"pending", "Events that wait for a receiver, on the server that delivers; 0 on others.", func() int64 { pending, _ := n.Counts(receiver); return pending }},
			{"dead", "Events that were given up, on the server that delivers; 0 on others.", func() int64 { _, dead := n.Counts(receiver); return dead }},
		} {
			registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "chartroom_events_" + g.name, Help: g.help, ConstLabels: prometheus.Labels{"receiver": receiver},
			}, func() float64 { return float64(g.value()) }))
		}
	}
}

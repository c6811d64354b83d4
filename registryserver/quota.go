package registryserver

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/lease"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"
)

// QuotaConfig bounds what the registry stores. What is there already stays, whatever is written here.
type QuotaConfig struct {
	// Size is the most that all blobs and manifests may have together. Default: 0, which is no limit, as everywhere here.
	Size Quantity `yaml:"size"`
	// Charts is the most charts that may have a version.
	Charts int64 `yaml:"charts"`
	// Versions is the most versions that all charts may have together. Tags of signatures and of artifacthub.io are none.
	Versions int64 `yaml:"versions"`
	// ChartSize is the most that the archive of one chart may have, and any other blob.
	ChartSize Quantity `yaml:"chartSize"`
}

// Quantity is a number of bytes that is written as in "10Gi", "500M" or "1048576".
type Quantity int64

// units are the suffixes of Kubernetes' quantities.
var units = map[string]int64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50,
}

// ParseQuantity reads a whole number with or without a unit.
func ParseQuantity(s string) (Quantity, error) {
	digits := strings.TrimLeft(s, "0123456789")
	number, suffix := s[:len(s)-len(digits)], digits
	unit, known := units[suffix]
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case !known || number == "":
		return 0, fmt.Errorf("%.40q is not a size such as 10Gi, 500M or 1048576: a whole number, and one of Ki, Mi, Gi, Ti, Pi, k, M, G, T, P or nothing", s)
	case err != nil || n > math.MaxInt64/unit:
		return 0, fmt.Errorf("%.40q is more bytes than can be counted", s)
	}
	return Quantity(n * unit), nil
}

// UnmarshalText reads what ParseQuantity does.
func (q *Quantity) UnmarshalText(text []byte) (err error) {
	*q, err = ParseQuantity(string(text))
	return err
}

// UnmarshalYAML does what UnmarshalText does; its error names the line.
func (q *Quantity) UnmarshalYAML(n *yaml.Node) error { return unmarshalScalar(n, q) }

func (q QuotaConfig) validate(refuse func(field, format string, args ...any)) {
	for _, n := range []struct {
		field string
		value int64
	}{{"quota.size", int64(q.Size)}, {"quota.charts", q.Charts}, {"quota.versions", q.Versions}, {"quota.chartSize", int64(q.ChartSize)}} {
		if n.value < 0 {
			refuse(n.field, "is negative: write 0, or nothing, for no limit")
		}
	}
	if q.Size > 0 && q.ChartSize > q.Size {
		refuse("quota.chartSize", "is more than quota.size: such a chart would never fit")
	}
}

func (q QuotaConfig) limits() quota.Limits {
	return quota.Limits{Bytes: int64(q.Size), Charts: q.Charts, Versions: q.Versions}
}

// tracker counts what is in b; nil where nothing is limited, because counting costs requests.
func (q QuotaConfig) tracker(b bucket.Bucket) (*quota.Tracker, error) {
	if q.limits() == (quota.Limits{}) {
		return nil, nil //nolint:nilnil // A store without a tracker does not count.
	}
	alone, err := lease.New(lease.Options{Bucket: b, Name: "usage"})
	if err != nil {
		return nil, err
	}
	return quota.New(quota.Options{
		Bucket: b, Limits: q.limits(), Alone: alone.Try,
		Count: func(ctx context.Context) (quota.Usage, error) { return repository.Count(ctx, b) },
	}), nil
}

// keepCount keeps the count until ctx ends.
func keepCount(ctx context.Context, t *quota.Tracker, log *slog.Logger) {
	t.Run(ctx, func(err error) {
		log.Warn("what is stored could not be counted; it is tried again", "error", err)
	})
}

// usage is what the operator is told; nil where nothing is counted, and before the first count.
func usage(t *quota.Tracker) *wire.UsageState {
	if t == nil {
		return nil
	}
	used, known := t.Usage()
	if !known {
		return nil
	}
	return &wire.UsageState{SizeBytes: max(used.Bytes, 0), Charts: max(used.Charts, 0), Versions: max(used.Versions, 0)}
}

// quota makes the metrics of a tracker.
func (m *metrics) quota(t *quota.Tracker) {
	limits := t.Limits()
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "chartroom_usage_known", Help: "1 once what is stored was counted; before that, pushes wait.",
	}, func() float64 {
		if _, known := t.Usage(); known {
			return 1
		}
		return 0
	}))
	for _, g := range []struct {
		name, what string
		of         func(quota.Usage) int64
	}{
		{"bytes", "Bytes of blobs and manifests", func(u quota.Usage) int64 { return u.Bytes }},
		{"charts", "Charts that have a version", func(u quota.Usage) int64 { return u.Charts }},
		{"versions", "Versions of all charts", func(u quota.Usage) int64 { return u.Versions }},
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "chartroom_usage_" + g.name, Help: g.what + " that are stored, by all servers of the registry. Counted only where the registry has a quota.",
		}, func() float64 {
			used, _ := t.Usage()
			return float64(g.of(used))
		}))
		if limit := g.of(quota.Usage(limits)); limit > 0 {
			gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "chartroom_quota_" + g.name, Help: g.what + " that may be stored."})
			gauge.Set(float64(limit))
			m.registry.MustRegister(gauge)
		}
	}
}

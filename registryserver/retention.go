package registryserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/pulls"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
	"github.com/chartroom-dev/chartroom/registryserver/retention/sweep"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// maxPolicyBytes bounds a policy when it is read.
const maxPolicyBytes = 64 << 10

// ParseRetention reads a retention policy in YAML or JSON, with the names that it has in a configuration file, and judges
// it.
func ParseRetention(data []byte) (retention.Policy, error) {
	var p retention.Policy
	if len(data) > maxPolicyBytes {
		return p, fmt.Errorf("the retention policy has more than %d bytes", maxPolicyBytes)
	}
	if err := decode(data, &p); err != nil {
		return p, fmt.Errorf("reading the retention policy: %w", err)
	}
	return p, errors.Join(checkRetention(p)...)
}

// checkRetention says what is wrong with a policy, by fields of the configuration.
func checkRetention(p retention.Policy) []error {
	_, err := retention.Compile(p)
	if err == nil {
		return nil
	}
	var problems []error
	for line := range strings.Lines(err.Error()) {
		problems = append(problems, errors.New("retention."+strings.TrimSpace(line)))
	}
	return problems
}

// retentionWork carries out a retention policy. A nil one has nothing to do.
type retentionWork struct {
	sweeper *sweep.Sweeper
	// recorder is nil where the policy does not ask what was pulled.
	recorder *pulls.Recorder
	log      *slog.Logger
}

// newRetention returns nil where there is no policy.
func (s *Server) newRetention(store *repository.Store, b bucket.Bucket) (*retentionWork, error) {
	if s.config.Retention.IsZero() {
		return nil, nil //nolint:nilnil // Without a policy there is no work.
	}
	rules, err := retention.Compile(s.config.Retention)
	if err != nil {
		return nil, fmt.Errorf("retention: %w", err)
	}
	w := &retentionWork{recorder: newRecorder(rules.Policy(), b), log: s.log}
	deleted := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "chartroom_retention_deleted_total",
		Help: "Versions that this server deleted because of the retention policy.",
	})
	w.sweeper, err = sweep.New(sweep.Options{
		Store: store, Bucket: b, Rules: rules, Pulls: w.recorder, Log: s.log,
		Deleted: func(chart, tag, digest, reason string) {
			deleted.Inc()
			s.audit.Add(audit.Record{Action: audit.Delete, Result: audit.Done, Chart: chart, Reference: tag, Digest: digest, Identity: "retention", Reason: reason})
		},
	})
	if err != nil {
		return nil, fmt.Errorf("retention: %w", err)
	}
	s.metrics.registry.MustRegister(append(w.gauges(), deleted)...)
	return w, nil
}

// newRecorder returns nil where the policy does not ask what was pulled.
func newRecorder(p retention.Policy, b bucket.Bucket) *pulls.Recorder {
	if p.KeepPulledWithin == 0 {
		return nil
	}
	return pulls.New(pulls.Options{Bucket: b, Keep: time.Duration(p.KeepPulledWithin)})
}

func (w *retentionWork) gauges() []prometheus.Collector {
	gauge := func(name, help string, value func(sweep.State) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "chartroom_retention_" + name, Help: help}, func() float64 {
			return value(w.sweeper.State())
		})
	}
	return []prometheus.Collector{
		gauge("planned_versions", "Versions that would have gone in the last run of the retention policy, had they not to wait.", func(s sweep.State) float64 {
			if !s.Current {
				return 0
			}
			return float64(s.Plan.Planned)
		}),
		gauge("last_run_timestamp_seconds", "When the retention policy was last carried out, on whichever server; 0 before the first time.", func(s sweep.State) float64 {
			if !s.Current {
				return 0
			}
			return float64(s.Plan.LastRun.Unix())
		}),
		gauge("failing", "1 when this server could not carry out the retention policy the last time it was its turn.", func(s sweep.State) float64 {
			if s.Problem != nil {
				return 1
			}
			return 0
		}),
	}
}

// pulled is a function for ociapi.Options; nil where nobody asks what was pulled.
func (w *retentionWork) pulled() func(chart, digest string) {
	if w == nil || w.recorder == nil {
		return nil
	}
	return w.recorder.Pulled
}

// start works in the background until ctx ends.
func (w *retentionWork) start(ctx context.Context, running *sync.WaitGroup) {
	if w == nil {
		return
	}
	running.Go(func() { w.sweeper.Run(ctx) })
	if w.recorder != nil {
		running.Go(func() {
			w.recorder.Run(ctx, func(err error) { w.log.Error("what was pulled could not be noted, and is tried again", "error", err) })
		})
	}
}

// state is what the operator is told; nil where there is nothing to tell.
func (w *retentionWork) state() *wire.RetentionState {
	if w == nil {
		return nil
	}
	s := w.sweeper.State()
	out := &wire.RetentionState{}
	if s.Problem != nil {
		// Errors can hold what differs at each attempt, which would look like news each time.
		out.Problem = "retention cannot do its work, and tries again; the log of the server says why"
	}
	if !s.Current {
		if out.Problem == "" {
			return nil
		}
		return out
	}
	out.PlannedAt, out.LastRun = s.Plan.PlannedAt, s.Plan.LastRun
	out.Planned, out.Deleted, out.Examples = s.Plan.Planned, s.Plan.Deleted, s.Plan.Examples
	if !s.DeletesAfter.IsZero() {
		out.DeletesAfter = &s.DeletesAfter
	}
	return out
}

// PlanRetention tells report what would become of each version of each chart that the policy of c is about, by its rules
// alone and as things are now. It deletes nothing. c needs no defaults filled in, and the storage is opened as
// OpenExisting does.
func PlanRetention(ctx context.Context, c Config, report func(chart string, d retention.Decision)) error {
	rules, err := retention.Compile(c.Retention)
	if err != nil {
		return fmt.Errorf("retention: %w", err)
	}
	store, b, err := openExisting(ctx, c)
	if err != nil {
		return err
	}
	return sweep.Preview(ctx, sweep.Options{Store: store, Bucket: b, Rules: rules, Pulls: newRecorder(rules.Policy(), b)}, report)
}

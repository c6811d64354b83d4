package helmregistry

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/status"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// lastRunPatience is how old the last run in the status may become while each finds what the one before found: an
	// hourly write that says nothing new would wake everybody who watches.
	lastRunPatience = 24 * time.Hour
	// maxRetentionText bounds what a pod says.
	maxRetentionText = 1024
	// maxRetentionExamples bounds the versions that the status names.
	maxRetentionExamples = 20
)

// reconcileRetention judges what the rules of the CRD cannot: constraints on versions.
func (r *Reconciler) reconcileRetention(_ context.Context, s *scope) error {
	_, err := retention.Compile(desired.RetentionPolicy(s.registry))
	if err == nil {
		return nil
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return stalled("RetentionInvalid", "spec.retention.%s", first)
}

// retentionStatus is what pods say of retention; what was said before while none says anything.
func (s *scope) retentionStatus() *v1alpha1.RetentionStatus {
	before := s.registry.Status.Retention
	if s.registry.Spec.Retention == nil {
		return nil
	}
	said := s.reports.Retention()
	if said == nil {
		return before
	}
	out := retentionStatus(*said)
	if before == nil || before.LastRun == nil || out.LastRun == nil {
		return out
	}
	same := out.DeepCopy()
	same.LastRun = before.LastRun
	if equality.Semantic.DeepEqual(same, before) && out.LastRun.Sub(before.LastRun.Time) < lastRunPatience {
		return before
	}
	return out
}

// retentionStatus writes a report as the status has it: times in whole seconds, and all within its bounds.
func retentionStatus(said wire.RetentionState) *v1alpha1.RetentionStatus {
	out := &v1alpha1.RetentionStatus{Planned: said.Planned, Deleted: said.Deleted, Problem: bounded(said.Problem)}
	if !said.PlannedAt.IsZero() {
		out.PlannedAt, out.LastRun = instant(said.PlannedAt), instant(said.LastRun)
	}
	if said.DeletesAfter != nil {
		out.DeletesAfter = instant(*said.DeletesAfter)
	}
	for _, example := range said.Examples[:min(len(said.Examples), maxRetentionExamples)] {
		out.Examples = append(out.Examples, bounded(example))
	}
	return out
}

func instant(at time.Time) *metav1.Time {
	out := metav1.NewTime(at.Truncate(time.Second)).Rfc3339Copy()
	return &out
}

func bounded(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxRetentionText)], "")
}

// announceRetention records an event when it can first be seen what goes by these rules.
func (r *Reconciler) announceRetention(registry *v1alpha1.HelmRegistry, before *v1alpha1.RetentionStatus) {
	after := registry.Status.Retention
	if after == nil || after.PlannedAt == nil || after.Planned == 0 || before != nil && before.PlannedAt.Equal(after.PlannedAt) {
		return
	}
	when := "nothing is deleted while spec.retention.dryRun is true"
	if after.DeletesAfter != nil {
		when = "they are deleted after " + after.DeletesAfter.UTC().Format(time.RFC3339)
	}
	r.Events.Eventf(registry, nil, corev1.EventTypeNormal, "RetentionPlanned", "Reconcile", "%s",
		status.Note(fmt.Sprintf("versions that go by spec.retention: %d; %s; status.retention.examples names some", after.Planned, when)))
}

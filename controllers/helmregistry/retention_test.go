package helmregistry_test

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// reportRetention plays pods that say what they know of retention, and of nothing else.
func reportRetention(r *v1alpha1.HelmRegistry, states ...*wire.RetentionState) {
	var state reports.State
	for i, s := range states {
		if s != nil {
			said := *s
			s = &said
		}
		state.Pods = append(state.Pods, reports.Pod{Name: "charts-" + string(rune('a'+i)), Retention: s})
	}
	said.Set(client.ObjectKeyFromObject(r), state)
}

func eventsOf(t *testing.T, r *v1alpha1.HelmRegistry, reason string) []string {
	t.Helper()
	var list eventsv1.EventList
	if err := env.Client.List(t.Context(), &list, client.InNamespace(r.Namespace)); err != nil {
		t.Fatal(err)
	}
	var notes []string
	for _, e := range list.Items {
		if e.Reason == reason {
			notes = append(notes, e.Note)
		}
	}
	return notes
}

func keep(n int32) *v1alpha1.Retention {
	return &v1alpha1.Retention{Rules: []v1alpha1.RetentionRule{{KeepNewest: n}}}
}

// The CRD cannot judge constraints.
func TestRetentionThatCannotBeReadStalls(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	before := get(t, &appsv1.Deployment{}, r.Namespace, r.Name).Generation
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) {
		s.Retention = keep(1)
		s.Retention.Rules = append(s.Retention.Rules, v1alpha1.RetentionRule{KeepNewest: 1, Versions: "newest"})
	})
	c := condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "RetentionInvalid")
	if !strings.Contains(c.Message, `spec.retention.rules[1].versions: "newest" is not a constraint on versions`) {
		t.Errorf("the message does not help: %s", c.Message)
	}
	if after := get(t, &appsv1.Deployment{}, r.Namespace, r.Name).Generation; after != before {
		t.Error("the Deployment was changed")
	}
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Retention.Rules[1].Versions = "<1.0.0-0" })
	becomeReady(t, r)
	args := strings.Join(get(t, &appsv1.Deployment{}, r.Namespace, r.Name).Spec.Template.Spec.Containers[0].Args, " ")
	if !strings.Contains(args, `--retention={"rules":[{"keepNewest":1},{"versions":"<1.0.0-0","keepNewest":1}]}`) {
		t.Errorf("the pods are started with %s", args)
	}
}

func TestRetentionIsShown(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{Retention: keep(1)})
	bringUp(t, r)
	planned := time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC)
	first := planned.Add(time.Hour)
	state := wire.RetentionState{PlannedAt: planned, DeletesAfter: &first, LastRun: planned, Planned: 3, Examples: []string{"web:1.0.0 (old)", strings.Repeat("x", 5000)}}
	older := state
	older.LastRun, older.Planned, older.Problem = planned.Add(-time.Hour), 7, "it is broken"
	reportRetention(r, &older, &state, nil)
	eventually(t, "the plan is in the status", func() bool { return refresh(t, r).Status.Retention != nil })
	got := r.Status.Retention
	if got.Planned != 3 || got.Deleted != 0 || !got.DeletesAfter.Time.Equal(first.Truncate(time.Second)) || got.Problem != "pod charts-a: it is broken" ||
		len(got.Examples) != 2 || len(got.Examples[1]) != 1024 {
		t.Errorf("the status is %+v", got)
	}
	eventually(t, "there is an event", func() bool { return len(eventsOf(t, r, "RetentionPlanned")) > 0 })
	if notes := eventsOf(t, r, "RetentionPlanned"); len(notes) != 1 || !strings.Contains(notes[0], "3") || !strings.Contains(notes[0], "2026-03-01T13:00:00Z") {
		t.Errorf("the events are %q", notes)
	}

	// A run that finds the same is no news, until it is a day old.
	version := r.ResourceVersion
	state.LastRun = planned.Add(23 * time.Hour)
	reportRetention(r, &older, &state)
	marker := registry(t, v1alpha1.HelmRegistrySpec{Retention: keep(1)}) // Reconciled later than that.
	condition(t, marker, v1alpha1.ConditionReady, metav1.ConditionFalse, "")
	if refresh(t, r); r.ResourceVersion != version {
		t.Errorf("the status was written for a run that found nothing new: %+v", r.Status.Retention)
	}
	state.LastRun = planned.Add(25 * time.Hour)
	reportRetention(r, &older, &state)
	eventually(t, "the day is shown", func() bool {
		return refresh(t, r).Status.Retention.LastRun.Time.Equal(state.LastRun.Truncate(time.Second))
	})

	state.Planned, state.Deleted, state.Examples = 0, 3, nil
	reportRetention(r, &state)
	eventually(t, "the deletions are shown", func() bool { return refresh(t, r).Status.Retention.Deleted == 3 })
	if got := r.Status.Retention; got.Planned != 0 || got.Examples != nil || got.Problem != "" {
		t.Errorf("the status is %+v", got)
	}
	// Pods that do not answer take nothing back, a spec without rules does.
	reportRetention(r)
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.DisplayName = "x" })
	becomeReady(t, r)
	if r.Status.Retention == nil {
		t.Error("the status was taken back while no pod answered")
	}
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Retention = nil })
	becomeReady(t, r)
	if r.Status.Retention != nil {
		t.Errorf("without rules the status is %+v", r.Status.Retention)
	}
	if notes := eventsOf(t, r, "RetentionPlanned"); len(notes) != 1 {
		t.Errorf("the events are %q", notes)
	}
}

package helmregistry_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// What garbage collection has done is in the status; that there was another sweep is told once an hour at most.
func TestGarbageInTheStatus(t *testing.T) {
	versions := int64(100)
	r := registry(t, v1alpha1.HelmRegistrySpec{Quota: v1alpha1.Quota{Versions: &versions}})
	now := func() *v1alpha1.HelmRegistry { return get(t, &v1alpha1.HelmRegistry{}, r.Namespace, r.Name) }
	begin := r.CreationTimestamp.Time
	at := func(d time.Duration) *time.Time {
		sweep := begin.Add(d).UTC()
		return &sweep
	}
	status := func(sweep *time.Time, freed, waiting int64, problem string) *v1alpha1.GarbageCollectionStatus {
		s := &v1alpha1.GarbageCollectionStatus{FreedBytes: freed, WaitingBytes: waiting, Problem: problem}
		if sweep != nil {
			s.LastSweep = &metav1.Time{Time: *sweep}
		}
		return s
	}
	for n, step := range []struct {
		said wire.GarbageState
		want *v1alpha1.GarbageCollectionStatus
	}{
		{wire.GarbageState{LastSweep: at(5 * time.Minute)}, nil},
		{wire.GarbageState{LastSweep: at(5 * time.Minute), WaitingBytes: 10}, status(at(5*time.Minute), 0, 10, "")},
		{wire.GarbageState{LastSweep: at(time.Hour), WaitingBytes: 10}, status(at(5*time.Minute), 0, 10, "")},
		{wire.GarbageState{LastSweep: at(time.Hour), FreedBytes: 10}, status(at(time.Hour), 10, 0, "")},
		{wire.GarbageState{LastSweep: at(2 * time.Hour), FreedBytes: 10}, status(at(2*time.Hour), 10, 0, "")},
		{wire.GarbageState{FreedBytes: 0, Problem: "broken"}, status(at(2*time.Hour), 0, 0, "broken")},
	} {
		// The usage tells when the step has been read.
		said.Set(client.ObjectKeyFromObject(r), reports.State{
			Pods: []reports.Pod{{Name: "charts-1", Garbage: step.said}}, Usage: &wire.UsageState{Versions: int64(n)},
		})
		eventually(t, "the report is read", func() bool {
			used := now().Status.Usage
			return used != nil && used.Versions == int64(n)
		})
		if diff := cmp.Diff(step.want, now().Status.GarbageCollection, cmp.Transformer("utc", func(t metav1.Time) time.Time { return t.UTC() })); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", n, diff)
		}
	}
}

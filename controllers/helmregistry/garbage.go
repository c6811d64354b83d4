package helmregistry

import (
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// sweepPause is the least time between two changes of the status that tell of nothing but another sweep.
const sweepPause = time.Hour

// garbage is what is to be said of garbage collection: what was said before, while no pod can tell, or nothing but
// another sweep is to be told so soon.
func (s *scope) garbage() *v1alpha1.GarbageCollectionStatus {
	before := s.registry.Status.GarbageCollection
	said, known := s.reports.Garbage()
	if !known {
		return before
	}
	now := &v1alpha1.GarbageCollectionStatus{FreedBytes: said.FreedBytes, WaitingBytes: said.WaitingBytes, Problem: said.Problem}
	same, since := v1alpha1.GarbageCollectionStatus{}, s.registry.CreationTimestamp.Time
	if before != nil {
		same = *before
		if before.LastSweep != nil {
			since, same.LastSweep = before.LastSweep.Time, nil
		}
	}
	unchanged := equality.Semantic.DeepEqual(*now, same)
	if unchanged && (said.LastSweep == nil || said.LastSweep.Sub(since) < sweepPause) {
		return before
	}
	if said.LastSweep != nil {
		now.LastSweep = &metav1.Time{Time: *said.LastSweep}
	} else if before != nil {
		now.LastSweep = before.LastSweep // By a pod that is gone.
	}
	return now
}

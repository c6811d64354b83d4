package helmregistry

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// usage is what is to be said of what the registry stores: nothing where it has no quota, and what was known last while
// no pod could tell.
func (s *scope) usage() *v1alpha1.UsageStatus {
	if !s.registry.Spec.Quota.Counts() {
		return nil
	}
	if s.reports.Usage == nil {
		return s.registry.Status.Usage
	}
	u := *s.reports.Usage
	return &v1alpha1.UsageStatus{SizeBytes: u.SizeBytes, Charts: u.Charts, Versions: u.Versions}
}

// fullness is how much of a quota is used.
type fullness int

const (
	roomy fullness = iota
	nearlyUsed
	reached
)

// nearly is the percentage from which on a quota is nearly used.
const nearly = 90

// fullnessOf says how much of each limit is used, in the order of the fields.
func fullnessOf(q v1alpha1.Quota, used *v1alpha1.UsageStatus) (out [3]fullness) {
	if used == nil {
		return out
	}
	var size *int64
	if q.Size != nil {
		value := q.Size.Value()
		size = &value
	}
	for i, l := range []struct {
		limit *int64
		used  int64
	}{{size, used.SizeBytes}, {q.Charts, used.Charts}, {q.Versions, used.Versions}} {
		switch {
		case l.limit == nil:
		case l.used >= *l.limit:
			out[i] = reached
		case float64(l.used) >= float64(*l.limit)*nearly/100:
			out[i] = nearlyUsed
		}
	}
	return out
}

// warnOfQuota records an event when more of a limit is used than before, from 90 % on.
func (r *Reconciler) warnOfQuota(registry *v1alpha1.HelmRegistry, before *v1alpha1.UsageStatus) {
	q, used := registry.Spec.Quota, registry.Status.Usage
	if used == nil {
		return
	}
	was, is := fullnessOf(q, before), fullnessOf(q, used)
	worst := roomy
	var full []string
	for i, say := range []func() string{
		func() string { return fmt.Sprintf("%d of %s bytes", used.SizeBytes, q.Size) },
		func() string { return fmt.Sprintf("%d of %d charts", used.Charts, *q.Charts) },
		func() string { return fmt.Sprintf("%d of %d versions", used.Versions, *q.Versions) },
	} {
		if is[i] > was[i] {
			worst = max(worst, is[i])
			full = append(full, say())
		}
	}
	reason, words := "QuotaNearlyUsed", "nearly all of the quota is used"
	switch worst {
	case roomy:
		return
	case nearlyUsed:
	case reached:
		reason, words = "QuotaReached", "the quota is used up, and pushes that add to it are refused"
	}
	r.Events.Eventf(registry, nil, corev1.EventTypeWarning, reason, "Reconcile", "%s: %s", words, strings.Join(full, ", "))
}

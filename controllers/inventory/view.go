package inventory

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/chartroom-dev/chartroom/controllers/internal/registryclient"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// grace is how long no pod may tell what the registry holds before the inventory is stale: pods that are replaced, and
	// connections that end, are nothing to speak of.
	grace = 15 * time.Second
	// trust is how long what a pod said that is gone counts for newer than what others say who have seen less. What it did
	// they find in the storage, although it may have had no time to tell them that it was its doing.
	trust = time.Minute
)

// view is what is known of one registry.
type view struct {
	pods map[pod]said
	// known is the newest that a pod said, and from is the pod; lost is when it was last found to answer no more.
	known *wire.Inventory
	from  pod
	lost  time.Time
	// silent is since when no pod tells what the registry holds; zero while one does.
	silent time.Time
}

// said is what a pod said last.
type said struct {
	// inventory is complete; nil where the pod has none.
	inventory *wire.Inventory
	// trouble is the reason for which it has none; empty before the pod has said anything.
	trouble string
}

func newView(now time.Time) *view { return &view{pods: map[pod]said{}, silent: now} }

// set says which pods there are.
func (v *view) set(pods []pod, now time.Time) {
	before := v.pods
	v.pods = make(map[pod]said, len(pods))
	for _, p := range pods {
		v.pods[p] = before[p]
	}
	v.weigh(before[v.from].inventory != nil, now)
}

// hear takes what a pod said.
func (v *view) hear(a answer, now time.Time) {
	if _, there := v.pods[a.from]; !there {
		return
	}
	answered := v.pods[v.from].inventory != nil
	heard := said{inventory: a.inventory}
	switch {
	case errors.Is(a.err, registryclient.ErrNoInventory):
		heard = said{trouble: reports.ReasonPodsOutdated}
	case a.err != nil:
		heard = said{trouble: reports.ReasonNoAnswer}
	case a.inventory.Building:
		heard = said{trouble: reports.ReasonBuilding}
	}
	v.pods[a.from] = heard
	v.weigh(answered, now)
}

// weigh chooses the newest of what the pods say. answered says that the pod which the newest is from told it before.
func (v *view) weigh(answered bool, now time.Time) {
	if answered && v.pods[v.from].inventory == nil {
		v.lost = now
	}
	silent := true
	for _, p := range slices.SortedFunc(maps.Keys(v.pods), func(a, b pod) int { return cmp.Compare(a.uid, b.uid) }) {
		if i := v.pods[p].inventory; i != nil {
			silent = false
			if v.prefers(p, *i, now) {
				v.known, v.from = i, p
			}
		}
	}
	switch {
	case !silent:
		v.silent = time.Time{}
	case v.silent.IsZero():
		v.silent = now
	}
}

// prefers says whether what a pod says is taken. Of two pods that each have seen something the other has not, the one
// stays that was taken: they agree within moments, and a list that jumps to and fro would tell of charts that go and come.
func (v *view) prefers(p pod, i wire.Inventory, now time.Time) bool {
	if v.known == nil || p == v.from {
		return true
	}
	answers := v.pods[v.from].inventory != nil
	switch {
	case i.Behind(*v.known):
		return !answers && now.Sub(v.lost) >= trust
	case v.known.Behind(i):
		return true
	}
	return !answers
}

// report is what is to be said now, and when that changes by itself; zero is never. There is nothing to say before a pod
// has told something, or had the time to.
func (v *view) report(now time.Time) (said reports.Inventory, ok bool, next time.Time) {
	if v.known != nil {
		known := *v.known
		known.Clock = nil
		said.Known = &known
	}
	switch {
	case v.silent.IsZero():
	case now.Sub(v.silent) < grace:
		next = v.silent.Add(grace)
	default:
		said.Stale = &reports.Stale{Reason: v.trouble(), Since: v.silent.UTC().Truncate(time.Second)}
	}
	return said, said.Known != nil || said.Stale != nil, next
}

// trouble is why no pod tells what the registry holds.
func (v *view) trouble() string {
	found := map[string]bool{}
	for _, p := range v.pods {
		found[cmp.Or(p.trouble, reports.ReasonNoAnswer)] = true
	}
	for _, reason := range []string{reports.ReasonBuilding, reports.ReasonNoAnswer, reports.ReasonPodsOutdated} {
		if found[reason] {
			return reason
		}
	}
	return reports.ReasonNoReplicas
}

package inventory

import (
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/controllers/internal/registryclient"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// holding is an inventory of so many versions.
func holding(versions int64, clock map[string]uint64) *wire.Inventory {
	return &wire.Inventory{Clock: clock, Totals: wire.InventoryTotals{Versions: versions}}
}

var (
	one = pod{"1", "10.0.0.1"}
	two = pod{"2", "10.0.0.2"}
)

func TestTheNewestIsChosen(t *testing.T) {
	type clock = map[string]uint64
	says := func(p pod, versions int64, c clock) answer { return answer{from: p, inventory: holding(versions, c)} }
	fails := func(p pod) answer { return answer{from: p, err: errors.New("gone")} }
	building := func(p pod, versions int64, c clock) answer {
		a := says(p, versions, c)
		a.inventory.Building = true
		return a
	}
	for name, c := range map[string]struct {
		heard []answer
		want  int64 // -1 for none
	}{
		"nobody has spoken":                {nil, -1},
		"the first":                        {[]answer{says(one, 3, clock{"a": 3})}, 3},
		"the same pod, fewer":              {[]answer{says(one, 3, clock{"a": 3}), says(one, 2, clock{"a": 4})}, 2},
		"another that has seen more":       {[]answer{says(one, 3, clock{"a": 3, "b": 1}), says(two, 4, clock{"a": 3, "b": 2})}, 4},
		"another that has seen less":       {[]answer{says(one, 3, clock{"a": 3, "b": 1}), says(two, 2, clock{"a": 2, "b": 1})}, 3},
		"another that has seen others":     {[]answer{says(one, 3, clock{"a": 3, "b": 1}), says(two, 4, clock{"a": 2, "b": 2})}, 3},
		"another of the same":              {[]answer{says(one, 3, clock{"a": 3}), says(two, 3, clock{"a": 3})}, 3},
		"others, and the first is gone":    {[]answer{says(one, 3, clock{"a": 3, "b": 1}), says(two, 4, clock{"a": 2, "b": 2}), fails(one)}, 4},
		"less, and the first is just gone": {[]answer{says(one, 3, clock{"a": 3, "b": 1}), says(two, 2, clock{"a": 2, "b": 1}), fails(one)}, 3},
		"building":                         {[]answer{building(one, 3, clock{"a": 3})}, -1},
		"building again":                   {[]answer{says(one, 3, clock{"a": 3}), building(one, 1, clock{"a": 4})}, 3},
		"another is building":              {[]answer{says(one, 3, clock{"a": 3}), building(two, 1, clock{"a": 4})}, 3},
		"a process that starts over":       {[]answer{says(one, 3, clock{"a": 3}), says(one, 2, clock{"a": 2})}, 2},
		"no pod of this registry":          {[]answer{says(pod{"3", "10.0.0.3"}, 3, clock{"a": 3})}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			v := newView(now)
			v.set([]pod{one, two}, now)
			for _, a := range c.heard {
				v.hear(a, now)
			}
			said, known, _ := v.report(now)
			switch {
			case known != (c.want >= 0):
				t.Errorf("known: %t", known)
			case known && said.Known.Totals.Versions != c.want:
				t.Errorf("%d versions are known, want %d", said.Known.Totals.Versions, c.want)
			case known && said.Known.Clock != nil:
				t.Error("the clock goes on, which makes a difference where there is none")
			}
		})
	}
}

// What a pod did that is gone is not for ever newer than what others find.
func TestWhatIsLostIsNotTrustedForEver(t *testing.T) {
	now := time.Now()
	v := newView(now)
	v.set([]pod{one, two}, now)
	v.hear(answer{from: one, inventory: holding(3, map[string]uint64{"a": 3})}, now)
	v.set([]pod{two}, now)
	behind := answer{from: two, inventory: holding(2, map[string]uint64{"a": 2})}
	for _, step := range []struct {
		after time.Duration
		want  int64
	}{{0, 3}, {59 * time.Second, 3}, {60 * time.Second, 2}} {
		v.hear(behind, now.Add(step.after))
		if said, _, _ := v.report(now.Add(step.after)); said.Known.Totals.Versions != step.want {
			t.Errorf("after %s: %d versions, want %d", step.after, said.Known.Totals.Versions, step.want)
		}
	}
}

func TestWhyAnInventoryIsStale(t *testing.T) {
	good := holding(3, nil)
	building := &wire.Inventory{Building: true}
	start := time.Date(2026, 1, 1, 0, 0, 0, 5, time.UTC)
	for name, c := range map[string]struct {
		pods  []pod
		heard []answer
		want  string
	}{
		"no pods":                      {nil, nil, reports.ReasonNoReplicas},
		"nothing heard":                {[]pod{one}, nil, reports.ReasonNoAnswer},
		"it fails":                     {[]pod{one}, []answer{{from: one, err: errors.New("x")}}, reports.ReasonNoAnswer},
		"it knows of no such thing":    {[]pod{one}, []answer{{from: one, err: registryclient.ErrNoInventory}}, reports.ReasonPodsOutdated},
		"one of two knows of none":     {[]pod{one, two}, []answer{{from: one, err: registryclient.ErrNoInventory}}, reports.ReasonNoAnswer},
		"it is building":               {[]pod{one}, []answer{{from: one, inventory: building}}, reports.ReasonBuilding},
		"one is building, one silent":  {[]pod{one, two}, []answer{{from: one, inventory: building}}, reports.ReasonBuilding},
		"one is building, one answers": {[]pod{one, two}, []answer{{from: one, inventory: building}, {from: two, inventory: good}}, ""},
		"it answered and fails":        {[]pod{one}, []answer{{from: one, inventory: good}, {from: one, err: errors.New("x")}}, reports.ReasonNoAnswer},
		"it failed and answers":        {[]pod{one}, []answer{{from: one, err: errors.New("x")}, {from: one, inventory: good}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := newView(start)
			v.set(c.pods, start)
			for _, a := range c.heard {
				v.hear(a, start)
			}
			if said, _, next := v.report(start.Add(grace - 1)); said.Stale != nil || (c.want != "") != next.Equal(start.Add(grace)) {
				t.Errorf("at once it is stale: %+v, and next is %v", said.Stale, next)
			}
			said, known, next := v.report(start.Add(grace))
			switch {
			case !known || !next.IsZero():
				t.Errorf("nothing is said, or it will change: %t, %v", known, next)
			case (said.Stale != nil) != (c.want != ""):
				t.Errorf("stale: %+v, want %q", said.Stale, c.want)
			case said.Stale != nil && (said.Stale.Reason != c.want || !said.Stale.Since.Equal(start.Truncate(time.Second))):
				t.Errorf("stale: %+v, want %q since the start", said.Stale, c.want)
			}
		})
	}
}

func TestTheAddressIsPartOfAPod(t *testing.T) {
	now := time.Now()
	v := newView(now)
	v.set([]pod{one}, now)
	v.hear(answer{from: one, inventory: holding(3, nil)}, now)
	moved := pod{types.UID("1"), "10.0.0.9"}
	v.set([]pod{moved}, now)
	v.hear(answer{from: one, inventory: holding(9, nil)}, now)
	if said, _, _ := v.report(now); said.Known.Totals.Versions != 3 {
		t.Errorf("what came late from the old address was taken: %+v", said.Known)
	}
}

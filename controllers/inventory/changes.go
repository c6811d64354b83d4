package inventory

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// maxNamed bounds the changes that one event names.
const maxNamed = 3

// note is one sentence of several changes; empty of none.
func note(changes []string) string {
	if more := len(changes) - maxNamed; more > 0 {
		return fmt.Sprintf("%d charts were changed: %s, and %d more", len(changes), strings.Join(changes[:maxNamed], ", "), more)
	}
	return strings.Join(changes, ", ")
}

// changes says in words what became of each chart, in the order of their names; of those that are not listed, together, where
// there is nothing to say of the others.
func changes(before, after wire.Inventory) []string {
	was, is := byName(before), byName(after)
	every := maps.Clone(was)
	maps.Copy(every, is)
	var out []string
	for _, name := range slices.Sorted(maps.Keys(every)) {
		if !covers(before, name) || !covers(after, name) {
			continue // It may have been there before, or be there still.
		}
		b, a := was[name], is[name]
		switch {
		case a.Name == "":
			out = append(out, "the chart "+name+" is gone")
		case a.LatestVersion != b.LatestVersion:
			out = append(out, fmt.Sprintf("the latest version of %s is now %s", name, a.LatestVersion))
		case a.Digest != b.Digest:
			out = append(out, fmt.Sprintf("version %s of %s was replaced", a.LatestVersion, name))
		case a.Versions != b.Versions:
			out = append(out, fmt.Sprintf("the chart %s has %d versions, %+d", name, a.Versions, a.Versions-b.Versions))
		case younger(a.LastPushed, b.LastPushed):
			out = append(out, fmt.Sprintf("a version of %s was replaced", name))
		}
	}
	switch b, a := before.Totals, after.Totals; {
	case len(out) > 0:
	case a.Charts != b.Charts || a.Versions != b.Versions:
		out = append(out, fmt.Sprintf("the registry has %d versions of %d charts, %+d and %+d", a.Versions, a.Charts, a.Versions-b.Versions, a.Charts-b.Charts))
	case younger(a.LastPushed, b.LastPushed):
		out = append(out, "a version of a chart that is not listed was replaced")
	}
	return out
}

// younger says whether something was pushed after what was there before.
func younger(after, before *time.Time) bool {
	return after != nil && before != nil && after.After(*before)
}

func byName(i wire.Inventory) map[string]wire.InventoryChart {
	out := make(map[string]wire.InventoryChart, len(i.Charts))
	for _, c := range i.Charts {
		out[c.Name] = c
	}
	return out
}

// covers says whether an inventory lists a chart of that name if there is one.
func covers(i wire.Inventory, name string) bool {
	return !i.Truncated || len(i.Charts) > 0 && name <= i.Charts[len(i.Charts)-1].Name
}

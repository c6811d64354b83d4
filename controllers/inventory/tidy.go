package inventory

import (
	"cmp"
	"slices"
	"strings"
	"unicode"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Bounds of what a pod says, in bytes. The status has room for as much.
const (
	maxName    = 255
	maxVersion = 128
	maxDigest  = 160
)

// tidy returns what a pod said as the status can hold it: charts in the order of their names, each once, as many as are
// told of, and no text that is too long or would move the cursor of whoever looks. A pod is believed about what its registry
// holds and about nothing else: it must not be able to make the status of the registry one that the API server refuses.
func tidy(said wire.Inventory) wire.Inventory {
	listed := len(said.Charts)
	charts := slices.DeleteFunc(slices.Clone(said.Charts), func(c wire.InventoryChart) bool {
		return c.Name == "" || c.Name != legible(c.Name, maxName) // Of another name it would be another chart.
	})
	slices.SortStableFunc(charts, func(a, b wire.InventoryChart) int { return cmp.Compare(a.Name, b.Name) })
	charts = slices.CompactFunc(charts, func(a, b wire.InventoryChart) bool { return a.Name == b.Name })
	charts = charts[:min(len(charts), wire.MaxInventoryCharts)]
	for n := range charts {
		c := &charts[n]
		c.LatestVersion, c.AppVersion, c.Digest = legible(c.LatestVersion, maxVersion), legible(c.AppVersion, maxVersion), legible(c.Digest, maxDigest)
	}
	said.Truncated = said.Truncated || len(charts) < listed
	said.Charts = slices.Clip(charts)
	return said
}

// legible returns at most that many bytes of a text, and nothing in it that cannot be printed.
func legible(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if len(text) <= most {
		return text
	}
	const more = "…"
	return strings.ToValidUTF8(text[:most-len(more)], "") + more
}

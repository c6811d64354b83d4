package wire

import "time"

// PathInventory answers GET with [Inventory] and its ETag. A request with If-None-Match that names the newest waits until
// there is another, or for [InventoryWait], after which it is answered with 304 (RFC 9110 section 13.1.2).
const PathInventory = "/admin/v1/inventory"

// InventoryWait is how long a pod lets the operator wait for a change; the request must be given more time than this.
const InventoryWait = 25 * time.Second

// MaxInventoryCharts is how many charts an [Inventory] describes at most.
const MaxInventoryCharts = 100

// Inventory is what a registry holds, as one of its pods knows it.
type Inventory struct {
	// Clock has, for each pod that ever changed anything as far as this one knows, how many of its changes are part of
	// this inventory. One that is behind another in one of them, and ahead in none, is older. See [Inventory.Behind].
	Clock map[string]uint64 `json:"clock"`
	// Building is true while the pod has not yet seen all that is stored: the counts are too low.
	Building bool `json:"building,omitempty"`
	// Totals are over all charts.
	Totals InventoryTotals `json:"totals"`
	// Charts are the first MaxInventoryCharts by name.
	Charts []InventoryChart `json:"charts,omitempty"`
	// Truncated is true where there are more.
	Truncated bool `json:"truncated,omitempty"`
}

// InventoryTotals add up what all charts have.
type InventoryTotals struct {
	// Charts is how many repositories have a version of a Helm chart, Versions how many there are of all of them.
	Charts   int64 `json:"charts"`
	Versions int64 `json:"versions"`
	// SizeBytes is what the versions take: manifests, configs, archives and provenance, each once for each chart.
	SizeBytes int64 `json:"sizeBytes"`
	// Downloads counts whole downloads of archives, ever, of the versions that are there.
	Downloads int64 `json:"downloads"`
	// LastPushed is when the youngest version that is there was pushed; nil where there is none.
	LastPushed *time.Time `json:"lastPushed,omitempty"`
}

// InventoryChart is one chart.
type InventoryChart struct {
	// Name is the path below the registry.
	Name string `json:"name"`
	// LatestVersion is the highest by semantic versioning, a pre-release only where there is no other; AppVersion and Digest
	// (that of the manifest) are those of it.
	LatestVersion string `json:"latestVersion"`
	AppVersion    string `json:"appVersion,omitempty"`
	Digest        string `json:"digest"`
	// Versions, SizeBytes, Downloads and LastPushed are as in [InventoryTotals].
	Versions   int64      `json:"versions"`
	SizeBytes  int64      `json:"sizeBytes"`
	Downloads  int64      `json:"downloads"`
	LastPushed *time.Time `json:"lastPushed,omitempty"`
}

// Behind reports that an inventory is older than another one: it lacks a change that the other has, and has none that the
// other lacks, as far as both know of the same pods.
func (i Inventory) Behind(other Inventory) bool {
	behind := false
	for pod, seen := range i.Clock {
		known, ok := other.Clock[pod]
		switch {
		case ok && seen < known:
			behind = true
		case seen > known:
			return false
		}
	}
	return behind
}

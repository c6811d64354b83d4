package inventory

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Name is the version, in which "+" may be.
func (v Version) Name() string { return versionOf(v.Tag) }

// Building implements Reader.
func (i *Inventory) Building() bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.building
}

// Changed implements Reader.
func (i *Inventory) Changed() (revision uint64, next <-chan struct{}) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.revision, i.next
}

// Health is how the keeping of an inventory goes.
type Health struct {
	// Failures counts what went wrong, and was or will be tried again.
	Failures int64
	// Built is how long it took until all that is stored was known; 0 while it is not.
	Built time.Duration
}

// Health says how it goes.
func (i *Inventory) Health() Health {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return Health{Failures: i.failures, Built: i.built}
}

// Totals implements Reader.
func (i *Inventory) Totals(may func(chart string) bool) Totals {
	var t Totals
	for _, c := range i.contents(may) {
		if c.charts == 0 {
			continue
		}
		t.Charts++
		t.Versions += c.charts
		t.Artifacts += len(c.records) - c.charts
		t.SizeBytes += c.sizeBytes
		t.Downloads += i.downloads(c)
		if c.lastPushed.After(t.LastPushed) {
			t.LastPushed = c.lastPushed
		}
	}
	return t
}

// Charts implements Reader.
func (i *Inventory) Charts(may func(chart string) bool) []Chart {
	var charts []Chart
	for _, c := range i.contents(may) {
		if c.charts > 0 {
			charts = append(charts, i.chart(c))
		}
	}
	return charts
}

// Chart implements Reader.
func (i *Inventory) Chart(name string) (Chart, bool) {
	c := i.content(name)
	if c == nil || c.charts == 0 {
		return Chart{}, false
	}
	return i.chart(c), true
}

func (i *Inventory) chart(c *content) Chart {
	return Chart{
		Name: c.name, Latest: i.version(c, c.latest), Versions: c.charts, Artifacts: len(c.records) - c.charts,
		SizeBytes: c.sizeBytes, Downloads: i.downloads(c), LastPushed: c.lastPushed,
	}
}

func (i *Inventory) version(c *content, r *record) Version {
	v := r.version()
	v.Signatures, v.Attestations = c.refersTo(r)
	if i.o.Downloads != nil && v.Archive != "" {
		v.Downloads, v.LastPulled = i.o.Downloads.Of(c.name, v.Archive)
	}
	return v
}

// downloads adds up those of a chart's archives.
func (i *Inventory) downloads(c *content) int64 {
	if i.o.Downloads == nil {
		return 0
	}
	i.mu.RLock()
	r := i.repos[c.name]
	i.mu.RUnlock()
	if r == nil {
		return 0
	}
	revision := i.o.Downloads.Revision(c.name)
	if known := r.downloads.Load(); known != nil && known.of == c && known.revision == revision {
		return known.n
	}
	sum := &downloadSum{of: c, revision: revision}
	seen := make(map[string]bool, c.charts)
	for _, record := range c.records[:c.charts] {
		archive := record.hash(archiveHash)
		if archive == "" || seen[archive] {
			continue
		}
		seen[archive] = true
		n, _ := i.o.Downloads.Of(c.name, digestOf(archive))
		sum.n += n
	}
	r.downloads.Store(sum)
	return sum.n
}

// Versions implements Reader.
func (i *Inventory) Versions(name string) []Version {
	c := i.content(name)
	if c == nil {
		return nil
	}
	versions := make([]Version, 0, len(c.records))
	for _, r := range c.records {
		versions = append(versions, i.version(c, r))
	}
	return versions
}

// Version implements Reader.
func (i *Inventory) Version(name, tag string) (Version, bool) {
	if c := i.content(name); c != nil {
		tag = strings.ReplaceAll(tag, "+", "_")
		for _, r := range c.records {
			if r.tag() == tag {
				return i.version(c, r), true
			}
		}
	}
	return Version{}, false
}

// Archive says whether a blob is the archive of a version of a chart, and whether it is known what the blob is.
func (i *Inventory) Archive(chart string, d digest.Digest) (is, known bool) {
	hash, c := hashOf(d), i.content(chart)
	if c == nil || hash == "" {
		return false, false
	}
	for _, r := range c.records[:c.charts] {
		if r.hash(archiveHash) == hash {
			return true, true
		}
		known = known || r.hash(configHash) == hash || r.hash(provenanceHash) == hash
	}
	return false, known
}

// Metadata implements Reader.
func (i *Inventory) Metadata(ctx context.Context, name string, v Version) ([]byte, error) {
	r, err := i.o.Store.Repository(name)
	if err != nil {
		return nil, err
	}
	blob, info, err := r.OpenBlob(ctx, v.Config, nil)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	if info.Size > maxConfigBytes {
		return nil, fmt.Errorf("read the config of %s %s: %w", name, v.Tag, &repository.TooLargeError{What: "blob", Limit: maxConfigBytes})
	}
	content, err := io.ReadAll(blob)
	if err != nil {
		return nil, fmt.Errorf("read the config of %s %s: %w", name, v.Tag, err)
	}
	return content, nil
}

// Wire is the inventory for the operator.
func (i *Inventory) Wire() wire.Inventory {
	// What is only found out later must not look newer than it is.
	w := wire.Inventory{Clock: i.clock(), Building: i.Building()}
	last := func(at time.Time) *time.Time {
		if at.IsZero() {
			return nil
		}
		return &at
	}
	var newest time.Time
	for _, c := range i.contents(nil) {
		if c.charts == 0 {
			continue
		}
		n := i.downloads(c)
		w.Totals.Charts++
		w.Totals.Versions += int64(c.charts)
		w.Totals.SizeBytes += c.sizeBytes
		w.Totals.Downloads += n
		if c.lastPushed.After(newest) {
			newest = c.lastPushed
		}
		if len(w.Charts) == wire.MaxInventoryCharts {
			w.Truncated = true
			continue
		}
		w.Charts = append(w.Charts, wire.InventoryChart{
			Name: c.name, LatestVersion: versionOf(c.latest.tag()), AppVersion: c.latest.appVersion(), Digest: digestOf(c.latest.hash(manifestHash)).String(),
			Versions: int64(c.charts), SizeBytes: c.sizeBytes, Downloads: n, LastPushed: last(c.lastPushed),
		})
	}
	w.Totals.LastPushed = last(newest)
	return w
}

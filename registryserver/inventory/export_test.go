package inventory

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// WriteCache writes the cache now.
func (i *Inventory) WriteCache(ctx context.Context) error {
	i.cache.mu.Lock()
	defer i.cache.mu.Unlock()
	return i.writeCache(ctx)
}

// CacheIfDue writes it if it is due at that time.
func (i *Inventory) CacheIfDue(ctx context.Context, now time.Time) error {
	return i.cacheIfDue(ctx, now)
}

// Tidy removes what processes told that are gone, if that is due at that time.
func (i *Inventory) Tidy(ctx context.Context, now time.Time) error { return i.tidyIfDue(ctx, now) }

// Compare compares everything, as is done now and then.
func (i *Inventory) Compare(ctx context.Context) error { return i.compare(ctx, true) }

// Hear takes over what others have changed.
func (i *Inventory) Hear(ctx context.Context) error {
	_, err := i.hear(ctx)
	return err
}

// ReadCache reads what a cache has, and writes it again.
func ReadCache(content []byte) (again []byte, err error) {
	s, err := decodeSnapshot(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	for _, c := range s.contents {
		for _, r := range c.records {
			r.version()
		}
	}
	var b bytes.Buffer
	err = s.encode(&b)
	return b.Bytes(), err
}

// ReadTold reads what a process has told, and returns what it says was changed since a change.
func ReadTold(content []byte, n uint64) (charts []string, known bool, err error) {
	t, err := decodeTold(content)
	if err != nil {
		return nil, false, err
	}
	charts, known = t.since(n)
	return charts, known, nil
}

// ErrCache says that something is no cache.
var ErrCache = errCache

// MaxEntryBytes bounds an entry of the index.
const MaxEntryBytes = maxEntryBytes

// Told is what is told of changes in charts, one behind the other.
func Told(charts []string) any {
	t := told{Charts: map[string]uint64{}}
	for _, chart := range charts {
		t.note(chart)
	}
	return t
}

// MaxCounted bounds the referrers of one manifest that are counted.
const MaxCounted = maxCounted

// Process is what this process is called in clocks.
func (i *Inventory) Process() string { return i.process }

// Fill has it know of so many charts with so many versions each, which are not stored.
func (i *Inventory) Fill(charts, versions int) {
	for c := range charts {
		var records []*record
		for v := range versions {
			d := digest.FromString(fmt.Sprint(c, v))
			manifest := fmt.Sprintf(`{"config":{"mediaType":%q,"digest":%q},"layers":[{"mediaType":%q,"digest":%q,"size":9}]}`, chart.ConfigMediaType, d, chart.ContentMediaType, d)
			records = append(records, describe(repository.Version{Tag: fmt.Sprintf("1.0.%d", v), Digest: d, PushedAt: time.Unix(int64(v*charts+c), 0)}, []byte(manifest)))
		}
		i.put(newContent(fmt.Sprintf("team/chart-%d", c), insert(nil, records), nil))
	}
}

package inventory

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	cacheKey = prefix + "cache"
	// cacheMagic begins a cache. Another form of it has another number.
	cacheMagic = "chartroom inventory 1\n"

	// cacheLook is how often it is looked whether the cache is to be written again; that is so after cacheChanges changes,
	// or, when there were any, after cacheAge.
	cacheLook    = time.Minute
	cacheChanges = 1000
	cacheAge     = time.Hour
	// defaultCacheFrom is the number of tags from which on a cache is worth its room.
	defaultCacheFrom = 1000

	// Bounds of what a cache may have; a sound one is far below.
	maxCacheBytes  = 1 << 30
	maxStringBytes = 2 << 10
	maxZippedBytes = 2 * maxBlockBytes
)

// cacheState is what is known of the cache.
type cacheState struct {
	// mu is held while the cache is looked at or written.
	mu sync.Mutex
	// etag is that of the cache when it was last read, written or found, revision the one that the inventory had then.
	etag     string
	revision uint64
	at       time.Time
	// tidied is when what processes told that are gone was last removed.
	tidied time.Time
}

// snapshot is what a cache holds.
type snapshot struct {
	clock    map[string]uint64
	contents []*content
}

// errCache says that it is no cache, or a damaged one.
var errCache = errors.New("the cache of the inventory is damaged, or of another program")

// encoder writes the form of a cache: numbers are varints (encoding/binary), a string is its length and its bytes, and one
// that the same repository had before is its place among them.
type encoder struct {
	w       *bufio.Writer
	strings map[string]uint64
	buffer  []byte
}

func (e *encoder) number(n uint64) {
	e.buffer = binary.AppendUvarint(e.buffer[:0], n)
	_, _ = e.w.Write(e.buffer) // The writer remembers its first error.
}

func (e *encoder) signed(n int64) {
	e.buffer = binary.AppendVarint(e.buffer[:0], n)
	_, _ = e.w.Write(e.buffer)
}

func (e *encoder) text(s string) {
	e.number(uint64(len(s)))
	_, _ = e.w.WriteString(s)
}

func (e *encoder) shared(s string) {
	at, ok := e.strings[s]
	if !ok {
		at = uint64(len(e.strings))
		e.strings[s] = at
	}
	e.number(at)
	if !ok {
		e.text(s)
	}
}

// encode writes a cache: the same bytes for the same snapshot.
func (s *snapshot) encode(to io.Writer) error {
	sum := sha256.New()
	e := encoder{w: bufio.NewWriterSize(io.MultiWriter(to, sum), 64<<10), strings: map[string]uint64{}}
	_, _ = e.w.WriteString(cacheMagic)
	e.number(uint64(len(s.clock)))
	for _, process := range slices.Sorted(maps.Keys(s.clock)) {
		e.text(process)
		e.number(s.clock[process])
	}
	e.number(uint64(len(s.contents)))
	for _, c := range s.contents {
		e.content(c)
	}
	if err := e.w.Flush(); err != nil {
		return err
	}
	_, err := to.Write(sum.Sum(nil))
	return err
}

func (e *encoder) content(c *content) {
	clear(e.strings)
	e.text(c.name)
	e.number(uint64(len(c.records)))
	for _, r := range c.records {
		e.text(r.packed)
		e.number(uint64(r.tagLength))
		e.number(uint64(r.flags))
		e.number(r.etag)
		e.signed(r.pushedAt)
		for _, n := range []int64{r.archiveSize, r.storedSize, int64(r.manifestSize), int64(r.configSize), int64(r.provenanceSize)} {
			e.signed(n)
		}
		e.shared(r.said)
	}
	e.number(uint64(len(c.refers)))
	for _, hash := range slices.Sorted(maps.Keys(c.refers)) {
		of := c.refers[hash]
		e.text(hash)
		for _, n := range []uint64{uint64(of.signatures), uint64(of.others), of.sum} {
			e.number(n)
		}
	}
	e.number(uint64(len(c.blocks)))
	for _, b := range c.blocks {
		e.number(uint64(len(b.records)))
		e.number(uint64(b.size)) //nolint:gosec // It is a length.
		_, _ = e.w.Write(b.sum[:])
		e.number(uint64(len(b.zipped)))
		_, _ = e.w.Write(b.zipped)
	}
}

// decoder reads it. Its first error stays, and after it all is empty.
type decoder struct {
	r       *bufio.Reader
	sum     hash.Hash
	read    bytes.Buffer
	one     [1]byte
	strings []string
	err     error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errCache
	}
}

// ReadByte implements io.ByteReader.
func (d *decoder) ReadByte() (byte, error) {
	b, err := d.r.ReadByte()
	if err == nil {
		d.one[0] = b
		_, _ = d.sum.Write(d.one[:])
	}
	return b, err
}

func (d *decoder) number(limit uint64) uint64 {
	if d.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(d)
	if err != nil || n > limit {
		d.fail()
		return 0
	}
	return n
}

func (d *decoder) signed() int64 {
	if d.err != nil {
		return 0
	}
	n, err := binary.ReadVarint(d)
	if err != nil {
		d.fail()
		return 0
	}
	return n
}

// bytes are good until it is called again.
func (d *decoder) bytes(n int) []byte {
	if d.err != nil {
		return nil
	}
	// In steps, so that a length that is not true takes no memory.
	d.read.Reset()
	if copied, err := io.CopyN(&d.read, d.r, int64(n)); err != nil || copied != int64(n) {
		d.fail()
		return nil
	}
	_, _ = d.sum.Write(d.read.Bytes())
	return d.read.Bytes()
}

func (d *decoder) text() string { return string(d.bytes(int(d.number(maxStringBytes)))) } //nolint:gosec // Bounded.

func (d *decoder) shared() string {
	at := d.number(uint64(len(d.strings)))
	if d.err != nil {
		return ""
	}
	if at == uint64(len(d.strings)) {
		d.strings = append(d.strings, d.text())
	}
	return d.strings[at]
}

const (
	anyNumber  = 1<<64 - 1
	manyThings = 1 << 24
)

// decodeSnapshot returns errCache for what encode has not written.
func decodeSnapshot(from io.Reader) (*snapshot, error) {
	d := &decoder{r: bufio.NewReaderSize(io.LimitReader(from, maxCacheBytes), 64<<10), sum: sha256.New()}
	if string(d.bytes(len(cacheMagic))) != cacheMagic {
		d.fail()
	}
	s := &snapshot{clock: map[string]uint64{}}
	for n := d.number(manyThings); n > 0 && d.err == nil; n-- {
		process := d.text()
		s.clock[process] = d.number(anyNumber)
	}
	for n := d.number(manyThings); n > 0 && d.err == nil; n-- {
		s.contents = append(s.contents, d.content())
	}
	if d.err != nil {
		return nil, d.err
	}
	want := d.sum.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(d.r, got); err != nil || !bytes.Equal(got, want) {
		return nil, errCache
	}
	return s, nil
}

func (d *decoder) content() *content {
	clear(d.strings)
	d.strings = d.strings[:0]
	name := d.text()
	var records, indexed []*record
	for n := d.number(manyThings); n > 0 && d.err == nil; n-- {
		r := d.record()
		if d.err != nil {
			return nil
		}
		records = append(records, r)
		if r.has(isIndexed) {
			indexed = append(indexed, r)
		}
	}
	var refer map[string]refers
	for n := d.number(manyThings); n > 0 && d.err == nil; n-- {
		if refer == nil {
			refer = map[string]refers{}
		}
		hash := d.text()
		refer[hash] = refers{signatures: uint32(d.number(math.MaxUint32)), others: uint32(d.number(math.MaxUint32)), sum: d.number(anyNumber)} //nolint:gosec // Bounded.
		if digestOf(hash) == "" {
			d.fail()
		}
	}
	var blocks []block
	for n := d.number(manyThings); n > 0 && d.err == nil; n-- {
		count := int(d.number(maxBlock)) //nolint:gosec // Bounded.
		if count == 0 || count > len(indexed) {
			d.fail()
			return nil
		}
		b := block{records: slices.Clone(indexed[:count]), size: int(d.number(maxBlockBytes))} //nolint:gosec // Bounded.
		copy(b.sum[:], d.bytes(len(b.sum)))
		b.zipped = bytes.Clone(d.bytes(int(d.number(maxZippedBytes)))) //nolint:gosec // Bounded.
		blocks, indexed = append(blocks, b), indexed[count:]
	}
	if len(indexed) > 0 {
		d.fail()
	}
	if d.err != nil {
		return nil
	}
	c := newContent(name, records, blocks)
	c.refers = refer
	return c
}

func (d *decoder) record() *record {
	r := &record{packed: d.text(), tagLength: uint8(d.number(128)), flags: flags(d.number(uint64(allFlags)))} //nolint:gosec // Bounded.
	r.etag, r.pushedAt = d.number(anyNumber), d.signed()
	r.archiveSize, r.storedSize = d.signed(), d.signed()
	r.manifestSize, r.configSize, r.provenanceSize = small(d.signed()), small(d.signed()), small(d.signed())
	r.said = d.shared()
	if !r.sound() {
		d.fail()
	}
	return r
}

// sound says whether a record's strings are put together as pack does.
func (r *record) sound() bool {
	if _, ok := decodeSaid(r.said); !ok || len(r.packed) < int(r.tagLength) || r.archiveSize < 0 || r.storedSize < 0 {
		return false
	}
	rest := r.packed[r.tagLength:]
	for range hashCount {
		if rest == "" || len(rest) < 1+int(rest[0]) {
			return false
		}
		if n := rest[0]; n != 0 && n != 32 && n != 64 {
			return false
		}
		rest = rest[1+rest[0]:]
	}
	return len(rest) <= maxTextBytes
}

// loadCache fills the inventory with what the cache has, and says whether there was one. Of repositories of which this
// process has changed something meanwhile, which are stale, it takes over nothing.
func (i *Inventory) loadCache(ctx context.Context) (loaded bool, stale []string) {
	body, info, err := i.o.Bucket.Get(ctx, cacheKey, nil)
	if err != nil {
		if !errors.Is(err, bucket.ErrNotFound) && ctx.Err() == nil {
			i.problem("the cache of the inventory could not be read; all is read without it", err)
		}
		return false, nil
	}
	defer body.Close()
	s, err := decodeSnapshot(body)
	if err != nil {
		if ctx.Err() == nil {
			i.problem("all is read without the cache of the inventory, which is written anew", err)
		}
		return false, nil
	}
	i.changes.mu.Lock()
	for process, n := range s.clock {
		i.changes.heard[process] = heard{count: n}
	}
	i.changes.mu.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, c := range s.contents {
		if i.repos[c.name] != nil {
			stale = append(stale, c.name)
			continue
		}
		i.putAll(c)
	}
	i.changed()
	i.cache.etag, i.cache.revision, i.cache.at = info.ETag, i.revision, info.Modified
	return true, stale
}

// keepCache writes the cache now and then until ctx ends.
func (i *Inventory) keepCache(ctx context.Context) {
	for ctx.Err() == nil {
		if err := i.cacheIfDue(ctx, time.Now()); err != nil && ctx.Err() == nil {
			i.problem("the cache of the inventory could not be written; it is tried again", err)
		}
		if err := i.tidyIfDue(ctx, time.Now()); err != nil && ctx.Err() == nil {
			i.problem("what servers that are gone have told of their changes could not be removed; it is tried again", err)
		}
		pause(ctx, cacheLook)
	}
}

func (i *Inventory) cacheIfDue(ctx context.Context, now time.Time) error {
	i.cache.mu.Lock()
	defer i.cache.mu.Unlock()
	revision, _ := i.Changed()
	n := revision - i.cache.revision
	if i.cache.etag == "" && i.readCount() < i.o.CacheFrom {
		return nil
	}
	if i.cache.etag != "" && n < cacheChanges && (n == 0 || now.Sub(i.cache.at) < cacheAge) {
		return nil
	}
	info, err := i.o.Bucket.Head(ctx, cacheKey)
	switch {
	case err == nil && i.cache.etag != "" && info.ETag != i.cache.etag:
		// Another replica has, and knew about the same.
		i.cached(info)
		return nil
	case err != nil && !errors.Is(err, bucket.ErrNotFound):
		return err
	}
	return i.alone(ctx, i.writeCache)
}

// alone does work if no other replica does so.
func (i *Inventory) alone(ctx context.Context, work func(context.Context) error) error {
	if i.o.Alone == nil {
		return work(ctx)
	}
	var failed error
	_, err := i.o.Alone(ctx, func(ctx context.Context) { failed = work(ctx) })
	return errors.Join(failed, err)
}

func (i *Inventory) tagCount() int {
	n := 0
	for _, c := range i.contents(nil) {
		n += len(c.records)
	}
	return n
}

// readCount is of how much a start without a cache would have to read: of tags, and of manifests that something refers to,
// which need no tag, or not be there.
func (i *Inventory) readCount() int {
	n := i.tagCount()
	for _, c := range i.contents(nil) {
		n += len(c.refers)
	}
	return n
}

// tidyIfDue removes, now and then, what processes told that are gone.
func (i *Inventory) tidyIfDue(ctx context.Context, now time.Time) error {
	i.cache.mu.Lock()
	defer i.cache.mu.Unlock()
	i.changes.mu.Lock()
	others := len(i.changes.heard)
	i.changes.mu.Unlock()
	if others == 0 || now.Sub(i.cache.tidied) < cacheAge {
		return nil
	}
	i.cache.tidied = now
	return i.alone(ctx, i.tidy)
}

// cached notes that there is a good cache. The lock of the cache is held.
func (i *Inventory) cached(info bucket.Info) {
	revision, _ := i.Changed()
	i.cache.etag, i.cache.revision, i.cache.at = info.ETag, revision, time.Now()
}

// writeCache writes the cache. The lock of the cache is held.
func (i *Inventory) writeCache(ctx context.Context) error {
	// The clock first: what changes after that is looked at once more.
	s := &snapshot{clock: i.clock()}
	revision, _ := i.Changed()
	s.contents = i.contents(nil)
	var size counter
	if err := s.encode(&size); err != nil {
		return fmt.Errorf("write %s: %w", cacheKey, err)
	}
	body, to := io.Pipe()
	defer func() { _ = body.Close() }()
	go func() { _ = to.CloseWithError(s.encode(to)) }()
	info, err := i.o.Bucket.Put(ctx, cacheKey, body, int64(size), bucket.Condition{})
	if err != nil {
		return fmt.Errorf("write %s: %w", cacheKey, err)
	}
	i.cached(info)
	i.cache.revision = revision
	// The next time is far off.
	debug.FreeOSMemory()
	return nil
}

// counter counts bytes.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// tidy removes what processes told that have told nothing for long while others have, by the bucket's clock. One of them
// that is not gone tells it all again.
func (i *Inventory) tidy(ctx context.Context) error {
	p, err := i.o.Bucket.List(ctx, bucket.ListOptions{Prefix: changesPrefix})
	if err != nil {
		return fmt.Errorf("list what other servers have changed: %w", err)
	}
	var newest time.Time
	for _, o := range p.Objects {
		if o.Modified.After(newest) {
			newest = o.Modified
		}
	}
	for _, o := range p.Objects {
		if newest.Sub(o.Modified) < silentAfter || strings.Contains(o.Key, i.process) {
			continue
		}
		if err := i.o.Bucket.Delete(ctx, o.Key, bucket.Condition{ETag: o.ETag}); err != nil && !errors.Is(err, bucket.ErrChanged) {
			return fmt.Errorf("delete %s: %w", o.Key, err)
		}
	}
	return nil
}

package inventory

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// content is what one repository holds. It is not changed once it is made; a change makes another.
type content struct {
	name string
	// records are sorted, see place.
	records []*record
	// charts is how many of them are charts.
	charts int
	// blocks are the entries of the index of those that have one, in the same order.
	blocks []block
	// latest is nil where nothing is a chart.
	latest     *record
	sizeBytes  int64
	lastPushed time.Time
	// refers is what is listed as referring to manifests, by their hashes, and tagged what tags do.
	refers, tagged map[string]refers
}

// empty says that there is nothing to be known.
func (c *content) empty() bool { return len(c.records) == 0 && len(c.refers) == 0 }

// block is some entries of the index, each on a line: JSON with "," between them, as a gzip member (RFC 1952 section 2.2), which
// may stand between others in a gzip stream.
type block struct {
	// records are those whose entries it has.
	records []*record
	zipped  []byte
	size    int
	// sum tells blocks of other content apart.
	sum [16]byte
}

const (
	entrySeparator = ",\n"
	// maxBlock bounds the entries of a block, so that one more version compresses few of them anew. A few together take
	// little more room than one, because they are much alike.
	maxBlock = 64
	// blockMean is the number of entries that a block has on average, but for that bound.
	blockMean = 32
	// maxBlockBytes bounds a block before it is compressed.
	maxBlockBytes = maxBlock * (maxEntryBytes + 1<<10)
)

// newContent describes a repository. What it is given is its own.
func newContent(name string, records []*record, blocks []block) *content {
	c := &content{name: name, records: records, blocks: blocks, tagged: referredTags(records)}
	sizes := map[string]int64{}
	for _, r := range records {
		if !r.has(isChart) {
			continue
		}
		c.charts++
		if c.latest == nil || c.latest.has(isPrerelease) && !r.has(isPrerelease) {
			c.latest = r
		}
		if at := r.pushed(); at.After(c.lastPushed) {
			c.lastPushed = at
		}
		// What two versions have in common is stored once.
		rest := r.storedSize
		for which, size := range [hashCount]int64{
			manifestHash: int64(r.manifestSize), configHash: int64(r.configSize), archiveHash: r.archiveSize, provenanceHash: int64(r.provenanceSize),
		} {
			if hash := r.hash(which); hash != "" && size <= rest {
				sizes[hash] = size
				rest -= size
			}
		}
		if rest > 0 {
			sizes["rest of "+r.hash(manifestHash)] = rest
		}
	}
	for _, size := range sizes {
		c.sizeBytes += size
	}
	return c
}

// item is a record that is being added, with its entry in the index; nil for none.
type item struct {
	record *record
	line   []byte
	// unread says that something of it could not be read, and will be tried again.
	unread bool
}

// with is a content in which items take the place of what has their tags, and what has one of the tags in gone is
// gone. It is c itself where that changes nothing.
func (c *content) with(items []item, gone map[string]bool) (*content, error) {
	there := make(map[string]*record, len(items)+len(gone))
	known := sayings{}
	for _, i := range items {
		there[i.record.tag()] = nil
	}
	for tag := range gone {
		there[tag] = nil
	}
	for _, r := range c.records {
		known.know(r)
		if _, concerned := there[r.tag()]; concerned {
			there[r.tag()] = r
		}
	}
	drop := make(map[*record]bool, len(there))
	for tag := range gone {
		drop[there[tag]] = true
	}
	lines := make(map[*record][]byte, len(items))
	added := make([]*record, 0, len(items))
	for _, i := range items {
		if i.line != nil {
			i.record.flags |= isIndexed
		}
		known.share(i.record)
		before := there[i.record.tag()]
		if before != nil && (*before == *i.record || i.unread && before.etag != 0 && before.hash(manifestHash) == i.record.hash(manifestHash)) {
			continue // What is known of a manifest is better than what could not be read of it now.
		}
		drop[before] = true
		lines[i.record] = i.line
		added = append(added, i.record)
	}
	delete(drop, nil)
	if len(drop) == 0 && len(added) == 0 {
		return c, nil
	}
	kept := make([]*record, 0, len(c.records)+len(added))
	for _, r := range c.records {
		if !drop[r] {
			kept = append(kept, r)
		}
	}
	records := insert(kept, added)
	blocks, err := c.cutBlocks(records, lines)
	if err != nil {
		return c, err
	}
	after := newContent(c.name, records, blocks)
	after.refers = c.refers
	return after, nil
}

// cutBlocks divides the entries of records into blocks, of which it takes over those that c has already. Where they are
// cut follows from the records alone, so that all replicas have the same, and a version more changes little: before a tag
// whose hash says so, and before what would be one too many.
func (c *content) cutBlocks(records []*record, lines map[*record][]byte) ([]block, error) {
	known := make(map[*record]*block, len(c.blocks))
	for i := range c.blocks {
		known[c.blocks[i].records[0]] = &c.blocks[i]
	}
	var blocks []block
	var open map[*record][]byte
	finish := func(run []*record) error {
		if len(run) == 0 {
			return nil
		}
		if b := known[run[0]]; b != nil && slices.Equal(b.records, run) {
			blocks = append(blocks, *b)
			return nil
		}
		var text [][]byte
		for _, r := range run {
			line, ok := lines[r]
			if !ok {
				var err error
				if line, err = c.line(r, &open); err != nil {
					return err
				}
			}
			text = append(text, line)
		}
		blocks = append(blocks, newBlock(slices.Clone(run), text))
		return nil
	}
	var run []*record
	for _, r := range records {
		if !r.has(isIndexed) {
			continue
		}
		if len(run) == maxBlock || beginsBlock(r.tag()) {
			if err := finish(run); err != nil {
				return nil, err
			}
			run = run[:0]
		}
		run = append(run, r)
	}
	return blocks, finish(run)
}

func beginsBlock(tag string) bool {
	h := fnv.New32a()
	_, _ = io.WriteString(h, tag)
	return h.Sum32()%blockMean == 0
}

// line is the entry of a record that c has. open holds what was unpacked for others before.
func (c *content) line(r *record, open *map[*record][]byte) ([]byte, error) {
	if line, ok := (*open)[r]; ok {
		return line, nil
	}
	if *open == nil {
		*open = map[*record][]byte{}
	}
	for _, b := range c.blocks {
		if !slices.Contains(b.records, r) {
			continue
		}
		lines, err := b.lines()
		if err != nil {
			return nil, fmt.Errorf("the index of %s: %w", c.name, err)
		}
		for i, of := range b.records {
			(*open)[of] = []byte(lines[i])
		}
		return (*open)[r], nil
	}
	return nil, fmt.Errorf("the index of %s has no entry of %s", c.name, r.tag())
}

var compressors = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// compress makes a gzip member.
func compress(text []byte) []byte {
	var zipped bytes.Buffer
	z, _ := compressors.Get().(*gzip.Writer)
	defer compressors.Put(z)
	z.Reset(&zipped)
	_, _ = z.Write(text) // A buffer takes everything.
	_ = z.Close()
	return bytes.Clone(zipped.Bytes())
}

func newBlock(records []*record, lines [][]byte) block {
	text := bytes.Join(lines, []byte(entrySeparator))
	sum := sha256.Sum256(text)
	return block{records: records, zipped: compress(text), size: len(text), sum: [16]byte(sum[:])}
}

// lines unpacks the entries.
func (b *block) lines() ([]string, error) {
	z, err := gzip.NewReader(bytes.NewReader(b.zipped))
	if err != nil {
		return nil, err
	}
	text := make([]byte, b.size)
	if _, err := io.ReadFull(z, text); err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), entrySeparator)
	if len(lines) != len(b.records) {
		return nil, fmt.Errorf("a block of %d entries has %d", len(b.records), len(lines))
	}
	return lines, nil
}

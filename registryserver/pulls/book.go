package pulls

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	// maxArchives bounds a book; of more, those that were downloaded last are kept.
	maxArchives = 1_000_000
	// maxLineBytes bounds a line of a book. The first has the names of parts in it.
	maxLineBytes = 1 << 20
	// maxAbsorbed bounds those.
	maxAbsorbed = 10_000
	// maxChartBytes bounds the name of a chart.
	maxChartBytes = 255
)

// errDamaged says that an object is no book. What it counted is lost.
var errDamaged = errors.New("damaged")

// hash is the beginning of an archive's hash, of whatever algorithm: enough to tell it from every other one.
type hash [32]byte

// hashOf is false for what is no digest.
func hashOf(d digest.Digest) (h hash, ok bool) {
	_, encoded, found := strings.Cut(string(d), ":")
	if !found || len(encoded) < 2*len(h) {
		return h, false
	}
	_, err := hex.Decode(h[:], []byte(encoded[:2*len(h)]))
	return h, err == nil
}

// tally is how often an archive was downloaded, and on which day for the last time.
type tally struct {
	n    int64
	last day
}

func (t *tally) add(other tally) {
	t.n += other.n
	t.last = max(t.last, other.last)
}

// begin is the beginning of the day.
func (d day) begin() time.Time { return time.Unix(int64(d)*int64(24*time.Hour/time.Second), 0).UTC() }

// counts are by chart.
type counts map[string]map[hash]tally

func (c counts) add(chart string, h hash, t tally) {
	if c[chart] == nil {
		c[chart] = map[hash]tally{}
	}
	sum := c[chart][h]
	sum.add(t)
	c[chart][h] = sum
}

func (c counts) merge(other counts) {
	for chart, of := range other {
		for h, t := range of {
			c.add(chart, h, t)
		}
	}
}

// minus is what c has that other, which was c once, has not.
func (c counts) minus(other counts) counts {
	rest := counts{}
	for chart, of := range c {
		for h, t := range of {
			if more := t.n - other[chart][h].n; more > 0 {
				rest.add(chart, h, tally{more, t.last})
			}
		}
	}
	return rest
}

func (c counts) archives() int {
	n := 0
	for _, of := range c {
		n += len(of)
	}
	return n
}

// bound forgets what was not downloaded for longest, where there is too much.
func (c counts) bound() {
	over := c.archives() - maxArchives
	if over <= 0 {
		return
	}
	days := make([]day, 0, maxArchives+over)
	for _, of := range c {
		for _, t := range of {
			days = append(days, t.last)
		}
	}
	slices.Sort(days)
	oldest, left := days[over-1], over
	for _, last := range []func(day) bool{func(d day) bool { return d < oldest }, func(d day) bool { return d == oldest }} {
		for chart, of := range c {
			for h, t := range of {
				if left > 0 && last(t.last) {
					delete(of, h)
					left--
				}
			}
			if len(of) == 0 {
				delete(c, chart)
			}
		}
	}
}

// book is an object with counts. It is compressed text: a line of JSON with its fields, and then, for each archive, how
// often, the day, the hash, and the chart.
type book struct {
	// Sequence grows with every write.
	Sequence uint64 `json:"sequence"`
	// Written is the day of the last.
	Written day `json:"written"`
	// Sealed says that nobody writes it any more.
	Sealed bool `json:"sealed,omitempty"`
	// Absorbed are the parts that are in the sum.
	Absorbed map[string]absorbed `json:"absorbed,omitempty"`
	counts   counts
}

// absorbed says with which sequence number a part got into the sum, and when.
type absorbed struct {
	Sequence uint64 `json:"sequence"`
	Day      day    `json:"day"`
}

func (b *book) clone() book {
	c := *b
	c.counts = counts{}
	c.counts.merge(b.counts)
	return c
}

// absorb adds a part.
func (b *book) absorb(name string, p part, today day) {
	if b.Absorbed == nil {
		b.Absorbed = map[string]absorbed{}
	}
	if b.counts == nil {
		b.counts = counts{}
	}
	b.Absorbed[name] = absorbed{p.Sequence, today}
	b.counts.merge(p.counts)
}

func (b *book) encode(to io.Writer) error {
	header, err := json.Marshal(b)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(to)
	w := bufio.NewWriter(z)
	_, _ = w.Write(append(header, '\n'))
	for _, chart := range slices.Sorted(maps.Keys(b.counts)) {
		of := b.counts[chart]
		for _, h := range slices.SortedFunc(maps.Keys(of), func(a, b hash) int { return bytes.Compare(a[:], b[:]) }) {
			fmt.Fprintf(w, "%d %d %x %s\n", of[h].n, of[h].last, h, chart)
		}
	}
	return cmp.Or(w.Flush(), z.Close())
}

// decodeBook returns errDamaged for what is no book.
func decodeBook(from io.Reader) (book, error) {
	var b book
	z, err := gzip.NewReader(from)
	if err != nil {
		return book{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(make([]byte, 0, 4<<10), maxLineBytes)
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &b) != nil || len(b.Absorbed) > maxAbsorbed {
		return book{}, fmt.Errorf("%w: its first line is not what this program writes: %w", errDamaged, lines.Err())
	}
	b.counts = counts{}
	for n := 0; lines.Scan(); n++ {
		chart, h, t, ok := parseTally(lines.Text())
		if !ok || n >= 2*maxArchives {
			return book{}, fmt.Errorf("%w: line %d is not what this program writes", errDamaged, n+2)
		}
		b.counts.add(chart, h, t)
	}
	if err := lines.Err(); err != nil {
		return book{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return b, nil
}

func parseTally(line string) (chart string, h hash, t tally, ok bool) {
	fields := strings.Split(line, " ")
	if len(fields) != 4 || fields[3] == "" || len(fields[3]) > maxChartBytes || len(fields[2]) != 2*len(h) {
		return "", h, t, false
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	last, dayErr := strconv.ParseInt(fields[1], 10, 32)
	_, hashErr := hex.Decode(h[:], []byte(fields[2]))
	// A count beyond that could make a sum negative.
	if n <= 0 || n > math.MaxInt64/maxAbsorbed || errors.Join(err, dayErr, hashErr) != nil {
		return "", h, t, false
	}
	return strings.Clone(fields[3]), h, tally{n, day(last)}, true
}

func putBook(ctx context.Context, to bucket.Bucket, key string, b book, c bucket.Condition) (etag string, err error) {
	var content bytes.Buffer
	if err := b.encode(&content); err != nil {
		return "", fmt.Errorf("write %s: %w", key, err)
	}
	info, err := to.Put(ctx, key, &content, int64(content.Len()), c)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", key, err)
	}
	return info.ETag, nil
}

// getBook returns bucket.ErrNotFound for an object that is not there, and errDamaged, with the ETag, for one that is no
// book.
func getBook(ctx context.Context, from bucket.Bucket, key string) (b book, etag string, err error) {
	body, info, err := from.Get(ctx, key, nil)
	if err != nil {
		return book{}, "", fmt.Errorf("read %s: %w", key, err)
	}
	defer body.Close()
	source := &readErrors{r: io.LimitReader(body, maxDocumentBytes)}
	b, err = decodeBook(source)
	if source.err != nil {
		return book{}, "", fmt.Errorf("read %s: %w: %w", key, bucket.ErrUnavailable, source.err)
	}
	if err != nil {
		return book{}, info.ETag, fmt.Errorf("read %s: %w: delete it, and what it counts is lost", key, err)
	}
	return b, info.ETag, nil
}

// readErrors tells errors of the storage from those of what is stored.
type readErrors struct {
	r   io.Reader
	err error
}

func (r *readErrors) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

package inventory

import (
	"bytes"
	"cmp"
	"compress/flate"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"time"
)

// Index implements Reader.
func (i *Inventory) Index(may func(chart string) bool) Index {
	x := &index{base: i.o.Address, contextPath: i.o.ContextPath}
	for _, c := range i.contents(may) {
		if len(c.blocks) > 0 {
			x.contents = append(x.contents, c)
		}
		if c.charts > 0 && c.lastPushed.After(x.generated) {
			x.generated = c.lastPushed
		}
	}
	slices.SortFunc(x.contents, func(a, b *content) int {
		// Of those of one name the shortest path comes first.
		return cmp.Or(strings.Compare(a.base(), b.base()), cmp.Compare(len(a.name), len(b.name)), strings.Compare(a.name, b.name))
	})
	return x
}

// index is an Index. It consists of blocks, which are there, and of what stands between them.
type index struct {
	base        func() string
	contextPath string
	generated   time.Time
	contents    []*content
}

// ETag implements Index.
func (x *index) ETag(form IndexForm, gzipped bool) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%d %t %s", form, gzipped, x.header())
	if form == OCI {
		fmt.Fprintf(sum, " %s", x.base())
	}
	for _, c := range x.contents {
		fmt.Fprintf(sum, "\n%s\n", c.name)
		for _, b := range c.blocks {
			_, _ = sum.Write(b.sum[:])
		}
	}
	return `"` + hex.EncodeToString(sum.Sum(nil)[:16]) + `"`
}

// header is what stands before the entries. The time is that of the newest version, so that all replicas say the same.
func (x *index) header() string {
	info := ""
	if x.contextPath != "" {
		info = fmt.Sprintf(`"serverInfo":{"contextPath":%q},`, x.contextPath)
	}
	return `{"apiVersion":"v1","generated":"` + x.generated.UTC().Format(time.RFC3339Nano) + `",` + info + `"entries":{`
}

const footer = "}}\n"

// Write implements Index.
func (x *index) Write(w io.Writer, form IndexForm, gzipped bool) error {
	var s sink
	switch {
	case form == OCI && gzipped:
		// Not from the blocks: the addresses are others.
		z, err := gzip.NewWriterLevel(w, flate.BestSpeed)
		if err != nil {
			return err
		}
		if err := x.write(&plainSink{w: z, base: x.base(), started: z.Flush}); err != nil {
			return err
		}
		return z.Close()
	case form == OCI:
		s = &plainSink{w: w, base: x.base()}
	case gzipped:
		s = &zippedSink{w: w}
	default:
		s = &plainSink{w: w}
	}
	return x.write(s)
}

// sink takes the pieces of an index.
type sink interface {
	// glue is what stands between blocks.
	glue(text string) error
	block(repository string, b *block) error
	// some are some of the entries of a block.
	some(repository string, lines []string) error
}

func (x *index) write(to sink) error {
	if err := to.glue(x.header()); err != nil {
		return err
	}
	for i := 0; i < len(x.contents); {
		same := x.contents[i:]
		end := slices.IndexFunc(same, func(c *content) bool { return c.base() != same[0].base() })
		if end > 0 {
			same = same[:end]
		}
		name, err := json.Marshal(same[0].base())
		if err != nil {
			return err
		}
		separator := "\n"
		if i > 0 {
			separator = ",\n"
		}
		if err := writeChart(to, separator+string(name)+":[\n", same); err != nil {
			return err
		}
		i += len(same)
	}
	return to.glue(footer)
}

// writeChart writes the versions of the charts of one name. Of those that several have, that of the first stands for all:
// helm knows only one.
func writeChart(to sink, opening string, same []*content) error {
	seen := map[string]bool{}
	before := opening
	for i, c := range same {
		for j := range c.blocks {
			b := &c.blocks[j]
			if !slices.ContainsFunc(b.records, func(r *record) bool { return seen[r.tag()] }) {
				if err := cmp.Or(to.glue(before), to.block(c.name, b)); err != nil {
					return err
				}
				before = entrySeparator
				continue
			}
			lines, err := b.lines()
			if err != nil {
				return err
			}
			var rest []string
			for k, r := range b.records {
				if !seen[r.tag()] {
					rest = append(rest, lines[k])
				}
			}
			if rest == nil {
				continue
			}
			if err := cmp.Or(to.glue(before), to.some(c.name, rest)); err != nil {
				return err
			}
			before = entrySeparator
		}
		if i < len(same)-1 {
			for _, r := range c.records {
				if r.has(isIndexed) {
					seen[r.tag()] = true
				}
			}
		}
	}
	return to.glue("]")
}

// zippedSink writes gzip members one behind the other.
type zippedSink struct{ w io.Writer }

// glue is not compressed: it is short.
func (s *zippedSink) glue(text string) error {
	_, err := s.w.Write(storedMember(text))
	return err
}

func (s *zippedSink) block(_ string, b *block) error {
	_, err := s.w.Write(b.zipped)
	return err
}

func (s *zippedSink) some(_ string, lines []string) error {
	_, err := s.w.Write(compress([]byte(strings.Join(lines, entrySeparator))))
	return err
}

// storedMember is a gzip member of a text of at most 65,535 bytes that is not compressed (RFC 1951 section 3.2.4).
func storedMember(text string) []byte {
	var b bytes.Buffer
	b.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}) // No name, no time, no system.
	n := uint16(len(text))                                 //nolint:gosec // A name has at most 255 bytes.
	b.Write(binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16([]byte{1}, n), ^n))
	b.WriteString(text)
	sum := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(text)))
	b.Write(binary.LittleEndian.AppendUint32(sum, uint32(n)))
	return b.Bytes()
}

// plainSink writes text.
type plainSink struct {
	w io.Writer
	// base, when not empty, takes the place of the archives' addresses.
	base string
	// started, when not nil, is called behind the first piece.
	started func() error
	// unzip is for one block after the other: each of its own would take 40 KiB.
	unzip gzip.Reader
}

func (s *plainSink) glue(text string) error {
	_, err := io.WriteString(s.w, text)
	if err == nil && s.started != nil {
		err = s.started()
		s.started = nil
	}
	return err
}

func (s *plainSink) block(repository string, b *block) error {
	if s.base != "" {
		lines, err := b.lines()
		if err != nil {
			return err
		}
		return s.some(repository, lines)
	}
	if err := s.unzip.Reset(bytes.NewReader(b.zipped)); err != nil {
		return err
	}
	_, err := io.Copy(s.w, io.LimitReader(&s.unzip, maxBlockBytes))
	return err
}

func (s *plainSink) some(repository string, lines []string) error {
	if s.base != "" {
		for i, line := range lines {
			lines[i] = ociLine(line, s.base, repository)
		}
	}
	_, err := io.WriteString(s.w, strings.Join(lines, entrySeparator))
	return err
}

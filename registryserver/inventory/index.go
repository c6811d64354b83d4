package inventory

import (
	"bytes"
	"cmp"
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
	slices.SortFunc(x.contents, func(a, b *content) int { return strings.Compare(a.name, b.name) })
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
	base := ""
	if form == OCI {
		base = x.base()
	}
	if gzipped {
		return x.write(&zippedSink{w: w, base: base})
	}
	return x.write(&plainSink{w: w, base: base})
}

// sink takes the pieces of an index.
type sink interface {
	// glue is what stands between blocks.
	glue(text string) error
	block(repository string, b *block) error
}

func (x *index) write(to sink) error {
	if err := to.glue(x.header()); err != nil {
		return err
	}
	separator := "\n"
	for _, c := range x.contents {
		// The whole path: who may write one chart is not to add versions to another that ends in the same name.
		name, err := json.Marshal(c.name)
		if err != nil {
			return err
		}
		before := separator + string(name) + ":[\n"
		for i := range c.blocks {
			if err := cmp.Or(to.glue(before), to.block(c.name, &c.blocks[i])); err != nil {
				return err
			}
			before = entrySeparator
		}
		if err := to.glue("]"); err != nil {
			return err
		}
		separator = ",\n"
	}
	return to.glue(footer)
}

// ociText is a block whose addresses are those in the OCI registry at base.
func ociText(b *block, base, repository string) (string, error) {
	lines, err := b.lines()
	for i, line := range lines {
		lines[i] = ociLine(line, base, repository)
	}
	return strings.Join(lines, entrySeparator), err
}

// zippedSink writes gzip members one behind the other.
type zippedSink struct {
	w io.Writer
	// base, when not empty, takes the place of the archives' addresses.
	base string
}

// glue is not compressed: it is short.
func (s *zippedSink) glue(text string) error {
	_, err := s.w.Write(storedMember(text))
	return err
}

func (s *zippedSink) block(repository string, b *block) error {
	zipped := b.zipped
	if s.base != "" {
		text, err := ociText(b, s.base, repository)
		if err != nil {
			return err
		}
		zipped = compress([]byte(text))
	}
	_, err := s.w.Write(zipped)
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
	// base is as zippedSink has it.
	base string
	// unzip is for one block after the other: each of its own would take 40 KiB.
	unzip gzip.Reader
}

func (s *plainSink) glue(text string) error {
	_, err := io.WriteString(s.w, text)
	return err
}

func (s *plainSink) block(repository string, b *block) error {
	if s.base != "" {
		text, err := ociText(b, s.base, repository)
		if err != nil {
			return err
		}
		_, err = io.WriteString(s.w, text)
		return err
	}
	if err := s.unzip.Reset(bytes.NewReader(b.zipped)); err != nil {
		return err
	}
	_, err := io.Copy(s.w, io.LimitReader(&s.unzip, maxBlockBytes))
	return err
}

package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxEntries and maxIndexBytes bound an archive: an entry of the index takes about 250 bytes.
	maxEntries    = 2_000_000
	maxIndexBytes = 64 << 20
)

// Layout is a tar archive of an OCI image layout (OCI Image Specification, "OCI Image Layout"), as a source. The index
// names the versions by org.opencontainers.image.ref.name: "chart:tag", or "chart@digest" without a tag.
type Layout struct {
	file *os.File
	// as is the chart of entries that name a tag alone.
	as    string
	blobs map[digest.Digest]place
	index []ocispec.Descriptor
	// by chart: what its tags stand for, and which manifests refer to a digest.
	charts map[string]*layoutChart
}

type place struct{ offset, size int64 }

// layoutChart is the content of one chart.
type layoutChart struct {
	*Layout
	tags map[string]ocispec.Descriptor
	// untagged are the manifests that the index names without a tag, and subjects those of them that refer to a digest.
	untagged []ocispec.Descriptor
	subjects map[digest.Digest][]ocispec.Descriptor
}

// OpenLayout reads what an archive holds, without the blobs. as names the chart of entries whose reference is a tag
// alone, as other programs write them; it may be empty. An archive that is not a plain layout is refused.
func OpenLayout(ctx context.Context, name, as string) (_ *Layout, err error) {
	file, err := os.Open(name) //nolint:gosec // The file is the user's to choose.
	if err != nil {
		return nil, err
	}
	l := &Layout{file: file, as: as, blobs: map[digest.Digest]place{}, charts: map[string]*layoutChart{}}
	defer func() {
		if err != nil {
			_ = file.Close()
			err = fmt.Errorf("%s: %w", name, err)
		}
	}()
	first := make([]byte, 2)
	if _, err := file.ReadAt(first, 0); err == nil && bytes.Equal(first, []byte{0x1f, 0x8b}) {
		return nil, errors.New("it is compressed: unpack it first, with gunzip")
	}
	if err := l.scan(ctx); err != nil {
		return nil, err
	}
	return l, l.assign()
}

// Close closes the file.
func (l *Layout) Close() error { return l.file.Close() }

// scan finds out where in the file everything is, and reads the index.
func (l *Layout) scan(ctx context.Context) error {
	archive := tar.NewReader(l.file)
	found := map[string]bool{}
	for entries := 0; ; entries++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("it is not a tar archive, or is cut off: %w", err)
		}
		if entries == maxEntries {
			return fmt.Errorf("it has more than %d entries", maxEntries)
		}
		name, err := entryName(header)
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		if found[name] {
			return fmt.Errorf("it has the entry %.200q twice", name)
		}
		found[name] = true
		if err := l.entry(name, header.Size, archive); err != nil {
			return err
		}
	}
	if !found[ocispec.ImageLayoutFile] || !found[ocispec.ImageIndexFile] {
		return fmt.Errorf("it is not an OCI image layout: it has no %s or no %s", ocispec.ImageLayoutFile, ocispec.ImageIndexFile)
	}
	return nil
}

// entryName is the path of a file of the layout; empty for what is no file of one and does no harm.
func entryName(h *tar.Header) (string, error) {
	clean := path.Clean(h.Name)
	if path.IsAbs(h.Name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsAny(h.Name, "\\\x00") {
		return "", fmt.Errorf("it has an entry with the path %.200q, which leads out of it", h.Name)
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse") {
			return "", fmt.Errorf("its entry %.200q is a sparse file: pack it without", h.Name)
		}
	}
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return "", nil
	case tar.TypeReg:
	default:
		return "", fmt.Errorf("its entry %.200q is a link or device: only plain files are taken", h.Name)
	}
	if clean == ocispec.ImageLayoutFile || clean == ocispec.ImageIndexFile || strings.HasPrefix(clean, ocispec.ImageBlobsDir+"/") {
		return clean, nil
	}
	return "", nil
}

func (l *Layout) entry(name string, size int64, content io.Reader) error {
	switch name {
	case ocispec.ImageLayoutFile:
		var layout ocispec.ImageLayout
		if err := readJSON(content, 4<<10, &layout); err != nil {
			return fmt.Errorf("its %s cannot be read: %w", name, err)
		}
		if layout.Version != ocispec.ImageLayoutVersion {
			return fmt.Errorf("it is a layout of version %.20q, and only %s is known", layout.Version, ocispec.ImageLayoutVersion)
		}
		return nil
	case ocispec.ImageIndexFile:
		var index ocispec.Index
		if err := readJSON(content, maxIndexBytes, &index); err != nil {
			return fmt.Errorf("its %s cannot be read: %w", name, err)
		}
		l.index = index.Manifests
		return nil
	}
	algorithm, encoded, _ := strings.Cut(strings.TrimPrefix(name, ocispec.ImageBlobsDir+"/"), "/")
	d := digest.Digest(algorithm + ":" + encoded)
	if err := d.Validate(); err != nil {
		return fmt.Errorf("its entry %.200q is not named by a digest", name)
	}
	// The tar reader has read nothing behind the entry's header.
	offset, err := l.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	l.blobs[d] = place{offset, size}
	return nil
}

func readJSON(r io.Reader, limit int64, v any) error {
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return err
	}
	if int64(len(content)) > limit {
		return fmt.Errorf("it has more than %d bytes", limit)
	}
	return json.Unmarshal(content, v)
}

// assign sorts the entries of the index by chart.
func (l *Layout) assign() error {
	for _, d := range l.index {
		name, tag := splitName(d.Annotations[ocispec.AnnotationRefName], l.as)
		if name == "" {
			continue
		}
		c := l.charts[name]
		if c == nil {
			c = &layoutChart{Layout: l, tags: map[string]ocispec.Descriptor{}, subjects: map[digest.Digest][]ocispec.Descriptor{}}
			l.charts[name] = c
		}
		if err := d.Digest.Validate(); err != nil {
			return fmt.Errorf("its index names %s with the digest %.150q", name, d.Digest)
		}
		d.Annotations = nil
		if tag == "" {
			c.untagged = append(c.untagged, d)
			continue
		}
		if other, twice := c.tags[tag]; twice && other.Digest != d.Digest {
			return fmt.Errorf("its index names %s:%s twice, as %s and as %s", name, tag, other.Digest, d.Digest)
		}
		c.tags[tag] = d
	}
	if len(l.charts) == 0 && len(l.index) > 0 {
		return errors.New("its index names no entry as chart:version; say which chart its entries are of")
	}
	return nil
}

// splitName divides a reference into chart and tag; the tag is empty where there is a digest or nothing.
func splitName(reference, as string) (chart, tag string) {
	if chart, _, found := strings.Cut(reference, "@"); found {
		return chart, ""
	}
	if i := strings.LastIndexByte(reference, ':'); i > strings.LastIndexByte(reference, '/') {
		return reference[:i], reference[i+1:]
	}
	if strings.Contains(reference, "/") {
		return "", ""
	}
	return as, reference
}

// Versions implements Source.
func (l *Layout) Versions(ctx context.Context) ([]Version, error) {
	var versions []Version
	for _, name := range slices.Sorted(maps.Keys(l.charts)) {
		c := l.charts[name]
		add := func(tag string, d ocispec.Descriptor) {
			versions = append(versions, Version{Chart: name, Tag: tag, Digest: d.Digest, move: func(ctx context.Context, t Target, dry bool) (moved, error) {
				return moveManifest(ctx, c, t, name, tag, d, dry)
			}})
		}
		for _, tag := range slices.Sorted(maps.Keys(c.tags)) {
			add(tag, c.tags[tag])
		}
		for _, d := range c.untagged {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			add("", d)
			// What cannot be read is reported when its own turn comes.
			if content, err := c.manifest(ctx, d.Digest); err == nil {
				if parsed, err := parse(content); err == nil && parsed.Subject != nil {
					c.subjects[parsed.Subject.Digest] = append(c.subjects[parsed.Subject.Digest], d)
				}
			}
		}
	}
	return versions, nil
}

func (c *layoutChart) manifest(_ context.Context, d digest.Digest) ([]byte, error) {
	at, found := c.blobs[d]
	if !found {
		return nil, fmt.Errorf("the archive lacks %s: %w", d, ErrNotThere)
	}
	if at.size > repository.MaxManifestBytes {
		return nil, fmt.Errorf("%s has %d bytes: %w", d, at.size, repository.ErrTooLarge)
	}
	content := make([]byte, at.size)
	if _, err := c.file.ReadAt(content, at.offset); err != nil {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	return content, nil
}

func (c *layoutChart) blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	at, found := c.blobs[d.Digest]
	if !found {
		return nil, fmt.Errorf("the archive lacks it: %w", ErrNotThere)
	}
	return io.NopCloser(io.NewSectionReader(c.file, at.offset, at.size)), nil
}

func (c *layoutChart) referrers(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	return c.subjects[d.Digest], nil
}

func (c *layoutChart) signatures(_ context.Context, d digest.Digest) (map[string]ocispec.Descriptor, error) {
	found := map[string]ocispec.Descriptor{}
	for _, tag := range signatureTags(d) {
		if s, ok := c.tags[tag]; ok {
			found[tag] = s
		}
	}
	return found, nil
}

// signatureTags are the tags by which a manifest's signatures and the like are found: that of the OCI Distribution
// Specification, "Referrers Tag Schema", and those of cosign.
func signatureTags(d digest.Digest) []string {
	tag := d.Algorithm().String() + "-" + d.Encoded()
	tag = tag[:min(len(tag), 128)]
	return []string{tag, tag + ".sig", tag + ".att", tag + ".sbom"}
}

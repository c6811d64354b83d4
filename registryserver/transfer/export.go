package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// smallBlob is what an export holds in memory at once. Larger blobs are read twice: a damaged one must be known before
// its first byte is in the archive.
const smallBlob = 4 << 20

// Selection names what to export: a chart, and one of its versions or, without one, all.
type Selection struct {
	Chart, Version string
}

// Export writes charts of a store as a tar archive of an OCI image layout, in an order that depends on nothing but the
// content. Without selections it takes all. report is called for each version. A version that is damaged, or deleted
// meanwhile, is left out and reported; the error is for an archive that is of no use.
func Export(ctx context.Context, s *repository.Store, w io.Writer, selected []Selection, report func(Result)) error {
	e := &export{store: s, archive: tar.NewWriter(w), written: map[digest.Digest]bool{}, report: report}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := e.file(ocispec.ImageLayoutFile, layout); err != nil {
		return err
	}
	versions, err := e.choose(ctx, selected)
	if err != nil {
		return err
	}
	e.total = len(versions)
	for _, v := range versions {
		if err := e.version(ctx, v); err != nil {
			return err
		}
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: e.index}
	index.SchemaVersion = 2
	content, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if len(content) > maxIndexBytes {
		return fmt.Errorf("the archive would have an index of more than %d bytes: export fewer charts at once", maxIndexBytes)
	}
	if err := e.file(ocispec.ImageIndexFile, content); err != nil {
		return err
	}
	return e.archive.Close()
}

type export struct {
	store   *repository.Store
	archive *tar.Writer
	written map[digest.Digest]bool
	index   []ocispec.Descriptor
	report  func(Result)
	total   int
}

type taggedManifest struct {
	*repository.Repository
	tag string
}

// choose lists the versions to export, in the order of charts and tags.
func (e *export) choose(ctx context.Context, selected []Selection) ([]taggedManifest, error) {
	all := len(selected) == 0
	if all {
		names, _, err := e.store.Repositories(ctx, 0, "")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			selected = append(selected, Selection{Chart: name})
		}
	}
	wanted := map[string][]string{}
	var charts []string
	for _, s := range selected {
		if _, seen := wanted[s.Chart]; !seen {
			charts = append(charts, s.Chart)
		}
		wanted[s.Chart] = append(wanted[s.Chart], strings.ReplaceAll(s.Version, "+", "_"))
	}
	slices.Sort(charts)
	var versions []taggedManifest
	for _, name := range charts {
		r, err := e.store.Repository(name)
		if err != nil {
			return nil, err
		}
		tags, _, err := r.Tags(ctx, 0, "")
		if all && errors.Is(err, repository.ErrRepositoryUnknown) {
			continue // The remains of a push that was given up, or what was deleted since.
		}
		if err != nil {
			return nil, err
		}
		some := wanted[name]
		if slices.Contains(some, "") {
			some = tags
		} else if some, err = withSignatures(ctx, r, tags, some); err != nil {
			return nil, err
		}
		slices.Sort(some)
		for _, tag := range slices.Compact(some) {
			versions = append(versions, taggedManifest{r, tag})
		}
	}
	return versions, nil
}

// withSignatures adds to some tags those of their signatures.
func withSignatures(ctx context.Context, r *repository.Repository, tags, some []string) ([]string, error) {
	for _, tag := range slices.Clone(some) {
		m, err := r.StatManifest(ctx, tag)
		if err != nil {
			return nil, err
		}
		for _, signature := range signatureTags(m.Digest) {
			if slices.Contains(tags, signature) {
				some = append(some, signature)
			}
		}
	}
	return some, nil
}

// version writes one version, with what refers to it.
func (e *export) version(ctx context.Context, v taggedManifest) error {
	r := Result{Chart: v.Name(), Version: v.tag, Outcome: Imported, Total: e.total}
	m, err := v.StatManifest(ctx, v.tag)
	if err == nil {
		r.Bytes, err = e.tree(ctx, v.Repository, m, v.Name()+":"+v.tag, 0)
	}
	var fatal *archiveError
	if errors.As(err, &fatal) {
		return err
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.Outcome, r.Reason = Failed, err.Error()
	}
	e.report(r)
	return nil
}

// tree writes a manifest with all that it names and, when it has a name of its own, all that refers to it.
func (e *export) tree(ctx context.Context, r *repository.Repository, m repository.Manifest, name string, depth int) (written int64, err error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("manifests name each other more than %d levels deep", maxDepth)
	}
	content, err := readManifest(ctx, r, m.Digest)
	if err != nil {
		return 0, err
	}
	parsed, err := parse(content)
	if err != nil {
		return 0, err
	}
	for _, b := range parsed.needs() {
		n, err := e.blob(ctx, r, b)
		if errors.Is(err, repository.ErrBlobUnknown) && !errors.Is(err, repository.ErrDamaged) && (elsewhere(b) || slices.Contains(m.Missing, b.Digest)) {
			continue
		}
		if err != nil {
			return written, err
		}
		written += n
	}
	for _, child := range parsed.Manifests {
		if slices.Contains(m.Missing, child.Digest) {
			continue
		}
		c, err := r.StatManifest(ctx, child.Digest.String())
		if err != nil {
			return written, err
		}
		n, err := e.tree(ctx, r, c, "", depth+1)
		if err != nil {
			return written, err
		}
		written += n
	}
	if !e.written[m.Digest] {
		if err := e.file(blobName(m.Digest), content); err != nil {
			return written, err
		}
		e.written[m.Digest] = true
		written += m.Size
	}
	if name != "" {
		e.index = append(e.index, ocispec.Descriptor{
			MediaType: m.MediaType, Digest: m.Digest, Size: m.Size, Annotations: map[string]string{ocispec.AnnotationRefName: name},
		})
	}
	n, err := e.referrers(ctx, r, m.Digest, depth)
	return written + n, err
}

func (e *export) referrers(ctx context.Context, r *repository.Repository, subject digest.Digest, depth int) (written int64, err error) {
	for last := ""; ; {
		list, next, err := r.Referrers(ctx, subject, "", last)
		if err != nil {
			return written, err
		}
		for _, found := range list {
			m, err := r.StatManifest(ctx, found.Digest.String())
			if err != nil {
				return written, err
			}
			n, err := e.tree(ctx, r, m, r.Name()+"@"+m.Digest.String(), depth+1)
			if err != nil {
				return written, err
			}
			written += n
		}
		if next == "" {
			return written, nil
		}
		last = next
	}
}

func readManifest(ctx context.Context, r *repository.Repository, d digest.Digest) ([]byte, error) {
	object, _, err := r.OpenManifest(ctx, d.String())
	if err != nil {
		return nil, err
	}
	defer object.Close()
	return io.ReadAll(object)
}

// blob writes a blob that is not in the archive yet.
func (e *export) blob(ctx context.Context, r *repository.Repository, d ocispec.Descriptor) (written int64, err error) {
	if e.written[d.Digest] {
		return 0, nil
	}
	content, b, err := r.OpenBlob(ctx, d.Digest, nil)
	if err != nil {
		return 0, err
	}
	defer content.Close()
	if b.Size <= smallBlob {
		whole, err := io.ReadAll(content)
		if err != nil {
			return 0, err
		}
		err = e.file(blobName(d.Digest), whole)
		e.written[d.Digest] = err == nil
		return b.Size, err
	}
	if _, err := io.Copy(io.Discard, content); err != nil {
		return 0, err
	}
	again, b, err := r.OpenBlob(ctx, d.Digest, nil)
	if err != nil {
		return 0, err
	}
	defer again.Close()
	err = e.entry(blobName(d.Digest), b.Size, again)
	e.written[d.Digest] = err == nil
	return b.Size, err
}

func blobName(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

func (e *export) file(name string, content []byte) error {
	return e.entry(name, int64(len(content)), bytes.NewReader(content))
}

func (e *export) entry(name string, size int64, content io.Reader) error {
	err := e.archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644})
	if err == nil {
		_, err = io.Copy(e.archive, content)
	}
	if err != nil {
		return &archiveError{fmt.Errorf("write the archive: %w", err)}
	}
	return nil
}

// archiveError is one after which an archive cannot be gone on with.
type archiveError struct{ err error }

func (e *archiveError) Error() string { return e.err.Error() }
func (e *archiveError) Unwrap() error { return e.err }

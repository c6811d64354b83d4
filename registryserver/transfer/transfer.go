// Package transfer moves charts between registries: out of a store into an OCI image layout and back, and out of other
// registries, OCI ones and those with an index.yaml, into a store or another registry.
//
// What is moved keeps its bytes, so that digests and signatures stay valid. Blobs come before the manifests that name
// them, and manifests before tags, so that whoever reads the target meanwhile sees a version whole or not at all; and
// what is there already is not moved again, so that a transfer that was broken off is gone on with by beginning it anew.
package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxDepth bounds how deep manifests may name manifests: an index of indexes with referrers of referrers.
	maxDepth = 8
	// maxReferrers bounds what one manifest may have.
	maxReferrers = 1000
)

// ErrNotThere says that the source or the target does not have it.
var ErrNotThere = errors.New("not there")

// Target is a registry that versions are moved to. All methods may be called from several goroutines.
type Target interface {
	// Manifest returns the manifest behind a tag or digest. Error: ErrNotThere.
	Manifest(ctx context.Context, chart, reference string) (mediaType string, content []byte, err error)
	// HasBlob says whether a blob is there.
	HasBlob(ctx context.Context, chart string, d digest.Digest) (bool, error)
	// PutBlob stores a blob, whose digest it checks.
	PutBlob(ctx context.Context, chart string, d digest.Digest, size int64, content io.Reader) error
	// PutManifest stores a manifest under a tag or digest. Error: a *ConflictError when the tag stands for another one
	// and may not be moved.
	PutManifest(ctx context.Context, chart, reference, mediaType string, content []byte) error
}

// ConflictError says that a tag of the target stands for something else and stays.
type ConflictError struct {
	// Stands is the digest that the tag stands for.
	Stands digest.Digest
}

// Error names the digest.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("the version exists already with other content (%s), and stays as it is: delete it first if it should be replaced", e.Stands)
}

// Source is where versions come from.
type Source interface {
	// Versions lists what there is, the versions of a chart one behind the other.
	Versions(ctx context.Context) ([]Version, error)
}

// Version is one that can be moved.
type Version struct {
	// Chart is its name in the target.
	Chart string
	// Tag is its tag in the target; empty for a manifest that has none, which Digest names then.
	Tag    string
	Digest digest.Digest
	// move copies it; dry says to find out only what would be done.
	move func(ctx context.Context, t Target, dry bool) (moved, error)
}

// Name is the tag, or the digest where there is no tag.
func (v Version) Name() string {
	if v.Tag != "" {
		return v.Tag
	}
	return v.Digest.String()
}

// moved is what moving a version has done.
type moved struct {
	outcome Outcome
	bytes   int64
}

// Outcome is what became of a version.
type Outcome string

// The outcomes. Conflict and Failed are those that the caller must look after.
const (
	Imported Outcome = "imported"
	Present  Outcome = "present"
	Missing  Outcome = "missing" // It would be imported; dry runs only.
	Ignored  Outcome = "ignored" // It is not a chart, and only charts are wanted.
	Conflict Outcome = "conflict"
	Failed   Outcome = "failed"
)

// Result is what became of one version.
type Result struct {
	Chart   string  `json:"chart"`
	Version string  `json:"version"`
	Outcome Outcome `json:"outcome"`
	// Bytes that were moved.
	Bytes int64 `json:"bytes"`
	// Reason of a conflict or failure.
	Reason string `json:"reason,omitempty"`
	// Total is the number of versions in this import.
	Total int `json:"-"`
}

// Options of an import; the zero value moves all, one at a time.
type Options struct {
	// Parallel is how many versions are moved at the same time.
	Parallel int
	// DryRun only says what would be done.
	DryRun bool
	// Wanted says which versions to move; nil means all.
	Wanted func(chart, tag string) bool
}

// Import moves the versions of a source to a target. report is called for each as it is done, never twice at the same
// moment. What fails does not stop the others; an error means that it could not begin, or that ctx has ended.
func Import(ctx context.Context, s Source, t Target, o Options, report func(Result)) error {
	versions, err := s.Versions(ctx)
	if err != nil {
		return err
	}
	if o.Wanted != nil {
		kept := versions[:0]
		for _, v := range versions {
			if o.Wanted(v.Chart, v.Tag) {
				kept = append(kept, v)
			}
		}
		versions = kept
	}
	queue := make(chan Version)
	var running sync.WaitGroup
	var reporting sync.Mutex
	for range max(o.Parallel, 1) {
		running.Go(func() {
			for v := range queue {
				r := result(ctx, v, t, o.DryRun)
				r.Total = len(versions)
				reporting.Lock()
				if ctx.Err() == nil {
					report(r)
				}
				reporting.Unlock()
			}
		})
	}
	for _, v := range versions {
		select {
		case queue <- v:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(queue)
	running.Wait()
	return ctx.Err()
}

func result(ctx context.Context, v Version, t Target, dry bool) Result {
	r := Result{Chart: v.Chart, Version: v.Name()}
	m, err := v.move(ctx, t, dry)
	r.Outcome, r.Bytes = m.outcome, m.bytes
	var conflict *ConflictError
	switch {
	case errors.As(err, &conflict):
		r.Outcome, r.Reason = Conflict, conflict.Error()
	case err != nil:
		r.Outcome, r.Reason = Failed, err.Error()
	}
	return r
}

// origin is where the manifests and blobs of one chart come from. Digests are checked by the caller.
type origin interface {
	// manifest returns a manifest of at most repository.MaxManifestBytes. Error: ErrNotThere.
	manifest(ctx context.Context, d digest.Digest) ([]byte, error)
	// blob opens a blob. Error: ErrNotThere.
	blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	// referrers lists the manifests that refer to one.
	referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error)
	// signatures are the tags with which signatures and the like name a manifest by its digest, and what they stand for.
	signatures(ctx context.Context, d digest.Digest) (map[string]ocispec.Descriptor, error)
}

// document is what manifests and indexes have in common (OCI Image Specification, "Image Manifest", "Image Index").
type document struct {
	MediaType string               `json:"mediaType"`
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Blobs     []ocispec.Descriptor `json:"blobs"`
	Manifests []ocispec.Descriptor `json:"manifests"`
	Subject   *ocispec.Descriptor  `json:"subject"`
}

// needs are the blobs that a manifest names.
func (d document) needs() []ocispec.Descriptor {
	blobs := slices.Concat(d.Layers, d.Blobs)
	if d.Config != nil {
		blobs = append(blobs, *d.Config)
	}
	return blobs
}

func parse(manifest []byte) (document, error) {
	var d document
	if err := json.Unmarshal(manifest, &d); err != nil {
		return d, fmt.Errorf("the manifest is not one that can be read: %w", err)
	}
	return d, nil
}

// elsewhere is true for layers that registries need not have (OCI Image Specification, "Non-Distributable Layers").
func elsewhere(d ocispec.Descriptor) bool {
	return len(d.URLs) > 0 || strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".rootfs.foreign.")
}

// copier moves manifests of one chart with all that they need and all that refers to them.
type copier struct {
	from  origin
	to    Target
	chart string
	bytes int64
	// manifests counts those that were not there.
	manifests int
	seen      map[digest.Digest]bool
}

// version moves a manifest, what refers to it, and then its tag.
func (c *copier) version(ctx context.Context, root ocispec.Descriptor, tag string) error {
	content, err := c.tree(ctx, root, 0)
	if err != nil {
		return err
	}
	signatures, err := c.from.signatures(ctx, root.Digest)
	if err != nil {
		return fmt.Errorf("look for signatures: %w", err)
	}
	for name, d := range signatures {
		if err := c.signature(ctx, d, name); err != nil {
			return fmt.Errorf("signature %s: %w", name, err)
		}
	}
	if tag == "" {
		return nil
	}
	return c.to.PutManifest(ctx, c.chart, tag, root.MediaType, content)
}

func (c *copier) signature(ctx context.Context, d ocispec.Descriptor, tag string) error {
	content, err := c.tree(ctx, d, 1)
	if err != nil {
		return err
	}
	if _, stands, err := c.to.Manifest(ctx, c.chart, tag); err == nil && d.Digest.Algorithm().FromBytes(stands) == d.Digest {
		return nil
	}
	c.manifests++
	return c.to.PutManifest(ctx, c.chart, tag, d.MediaType, content)
}

// tree moves a manifest after what it names and before what refers to it, and returns it.
func (c *copier) tree(ctx context.Context, d ocispec.Descriptor, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("manifests name each other more than %d levels deep", maxDepth)
	}
	mediaType, content, err := c.to.Manifest(ctx, c.chart, d.Digest.String())
	if errors.Is(err, ErrNotThere) {
		content, err = c.manifest(ctx, &d, depth)
	} else if err == nil && d.MediaType == "" {
		d.MediaType = mediaType
	}
	if err != nil {
		return nil, err
	}
	if c.seen[d.Digest] {
		return content, nil
	}
	c.seen[d.Digest] = true
	referrers, err := c.from.referrers(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("look for referrers of %s: %w", d.Digest, err)
	}
	if len(referrers) > maxReferrers {
		return nil, fmt.Errorf("%s has %d referrers; at most %d are moved", d.Digest, len(referrers), maxReferrers)
	}
	for _, r := range referrers {
		if _, err := c.tree(ctx, r, depth+1); err != nil {
			return nil, fmt.Errorf("referrer %s: %w", r.Digest, err)
		}
	}
	return content, nil
}

// manifest moves a manifest that is not there yet, with what it names.
func (c *copier) manifest(ctx context.Context, d *ocispec.Descriptor, depth int) ([]byte, error) {
	content, err := c.from.manifest(ctx, d.Digest)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", d.Digest, err)
	}
	if len(content) > repository.MaxManifestBytes {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, repository.ErrTooLarge)
	}
	if got := d.Digest.Algorithm().FromBytes(content); got != d.Digest {
		return nil, fmt.Errorf("the source's manifest %s is damaged: its content has %s", d.Digest, got)
	}
	parsed, err := parse(content)
	if err != nil {
		return nil, err
	}
	if d.MediaType == "" {
		d.MediaType = parsed.MediaType
	}
	for _, child := range parsed.Manifests {
		if _, err := c.tree(ctx, child, depth+1); err != nil && !errors.Is(err, ErrNotThere) {
			return nil, err
		}
	}
	for _, b := range parsed.needs() {
		if err := c.blob(ctx, b); err != nil && (!errors.Is(err, ErrNotThere) || !elsewhere(b)) {
			return nil, err
		}
	}
	c.manifests++
	c.bytes += int64(len(content))
	return content, c.to.PutManifest(ctx, c.chart, d.Digest.String(), d.MediaType, content)
}

func (c *copier) blob(ctx context.Context, d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil || d.Size < 0 {
		return fmt.Errorf("the manifest names a blob with the digest %.150q and %d bytes", d.Digest, d.Size)
	}
	there, err := c.to.HasBlob(ctx, c.chart, d.Digest)
	if err != nil || there {
		return err
	}
	content, err := c.from.blob(ctx, d)
	if err != nil {
		return fmt.Errorf("read blob %s: %w", d.Digest, err)
	}
	defer content.Close()
	if err := c.to.PutBlob(ctx, c.chart, d.Digest, d.Size, io.LimitReader(content, d.Size+1)); err != nil {
		return fmt.Errorf("copy blob %s: %w", d.Digest, err)
	}
	c.bytes += d.Size
	return nil
}

// moveManifest is Version.move for everything that is a manifest in its source.
func moveManifest(ctx context.Context, from origin, t Target, chart, tag string, root ocispec.Descriptor, dry bool) (moved, error) {
	there := false
	if tag != "" {
		_, stands, err := t.Manifest(ctx, chart, tag)
		if err != nil && !errors.Is(err, ErrNotThere) {
			return moved{}, err
		}
		there = err == nil && root.Digest.Algorithm().FromBytes(stands) == root.Digest
		if checker, ok := t.(interface {
			CheckTag(ctx context.Context, chart, tag string, d digest.Digest) error
		}); ok && !there {
			if err := checker.CheckTag(ctx, chart, tag, root.Digest); err != nil {
				return moved{}, err
			}
		}
	}
	if dry {
		if there {
			return moved{outcome: Present}, nil
		}
		return moved{outcome: Missing}, nil
	}
	c := copier{from: from, to: t, chart: chart, seen: map[digest.Digest]bool{}}
	if there {
		// Signatures may have been added since.
		tag, c.seen = "", map[digest.Digest]bool{}
	}
	err := c.version(ctx, root, tag)
	m := moved{outcome: Imported, bytes: c.bytes}
	if c.manifests == 0 && tag == "" {
		m.outcome = Present
	}
	return m, err
}

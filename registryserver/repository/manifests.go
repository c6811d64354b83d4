package repository

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

// Manifest is a manifest with what is known of it.
type Manifest struct {
	// Repository is the name of the repository.
	Repository string
	// Tag under which it was asked for or is pushed; empty when by digest.
	Tag string
	// Digest of Content.
	Digest digest.Digest
	// MediaType as it was pushed.
	MediaType string
	// Size of Content in bytes.
	Size int64
	// Content is the manifest, byte for byte, of a manifest that is being pushed; nil of one that is stored.
	Content []byte
}

// envelope is the first line of a manifest's object; the content follows. Without it the media type would be lost:
// Helm's manifests do not name theirs.
type envelope struct {
	MediaType string    `json:"mediaType"`
	PushedAt  time.Time `json:"pushedAt"`
	PushedBy  string    `json:"pushedBy"`
}

const (
	// maxByBytes bounds the name of who pushed, which is a token's and may be made by others.
	maxByBytes = 1024
	// maxHeaderBytes bounds an envelope when it is read; its own bounds keep it below that.
	maxHeaderBytes = 16 << 10
)

// StatManifest describes the manifest behind a tag or digest without its content, which it has read and checked: a
// damaged manifest is bucket.ErrUnavailable. Errors: ErrManifestUnknown, ErrReferenceInvalid.
func (r *Repository) StatManifest(ctx context.Context, reference string) (Manifest, error) {
	s, err := r.find(ctx, reference)
	return s.Manifest, err
}

// OpenManifest is StatManifest with the content, which the caller closes. However many read slowly at once, no manifest
// is held in memory.
func (r *Repository) OpenManifest(ctx context.Context, reference string) (io.ReadCloser, Manifest, error) {
	for {
		s, err := r.find(ctx, reference)
		if err != nil {
			return nil, Manifest{}, err
		}
		content, info, err := r.s.bucket.Get(ctx, r.manifestKey(s.Digest), &bucket.Range{Offset: s.header, Length: -1})
		if err != nil {
			return nil, Manifest{}, r.manifestError(s.Digest, err)
		}
		if info.ETag == s.etag {
			return content, s.Manifest, nil
		}
		_ = content.Close() // Deleted and pushed again since it was checked: the content may begin elsewhere now.
	}
}

// stored is a manifest as its object has it.
type stored struct {
	Manifest
	// etag is that of the object, in which the content begins behind so many bytes of header.
	etag   string
	header int64
}

func (r *Repository) find(ctx context.Context, reference string) (stored, error) {
	tag, d, err := parseReference(reference)
	if err != nil {
		return stored{}, err
	}
	if tag != "" {
		t, _, err := r.readTag(ctx, tag)
		if errors.Is(err, bucket.ErrNotFound) {
			return stored{}, fmt.Errorf("%w: %s has no tag %s", ErrManifestUnknown, r.name, tag)
		}
		if err != nil {
			return stored{}, err
		}
		d = t.Digest
	}
	s, err := r.readManifest(ctx, d)
	if err != nil {
		return stored{}, r.manifestError(d, err)
	}
	s.Tag = tag
	return s, nil
}

func (r *Repository) manifestError(d digest.Digest, err error) error {
	if errors.Is(err, bucket.ErrNotFound) {
		return fmt.Errorf("%w: %s has no %s", ErrManifestUnknown, r.name, d)
	}
	return err
}

// readManifest checks a manifest's digest as it reads it, and keeps none of the content. It returns bucket.ErrNotFound
// for a manifest that is not there.
func (r *Repository) readManifest(ctx context.Context, d digest.Digest) (stored, error) {
	object, info, err := r.s.bucket.Get(ctx, r.manifestKey(d), nil)
	if err != nil {
		return stored{}, fmt.Errorf("read manifest %s: %w", d, err)
	}
	defer object.Close()
	reader := bufio.NewReaderSize(io.LimitReader(object, maxHeaderBytes+MaxManifestBytes), maxHeaderBytes)
	var e envelope
	header, headerErr := reader.ReadSlice('\n')
	if headerErr == nil {
		headerErr = json.Unmarshal(header, &e)
	}
	verifier := d.Verifier()
	size, err := reader.WriteTo(verifier)
	if err != nil {
		return stored{}, fmt.Errorf("read manifest %s: %w: %w", d, bucket.ErrUnavailable, err)
	}
	if headerErr != nil || e.MediaType == "" || !verifier.Verified() {
		return stored{}, fmt.Errorf("manifest %s is damaged: %w: push it again to mend it", d, bucket.ErrUnavailable)
	}
	return stored{
		Manifest: Manifest{Repository: r.name, Digest: d, MediaType: e.MediaType, Size: size},
		etag:     info.ETag,
		header:   info.Size - size,
	}, nil
}

// PutManifest stores a manifest and, when reference is a tag, points the tag at it. mediaType is the Content-Type of
// the push. by names who pushed, for the record, which keeps its first 1,024 bytes. Putting what is there already succeeds. Errors: ErrReferenceInvalid,
// ErrDigestMismatch, ErrTooLarge, ErrTagImmutable, *UnknownBlobsError, *InvalidManifestError.
func (r *Repository) PutManifest(ctx context.Context, reference, mediaType string, content []byte, by string) (Manifest, error) {
	tag, d, err := parseReference(reference)
	if err != nil {
		return Manifest{}, err
	}
	if len(content) > MaxManifestBytes {
		return Manifest{}, tooLarge("manifest", MaxManifestBytes)
	}
	if tag != "" {
		d = digest.FromBytes(content)
	} else if got := d.Algorithm().FromBytes(content); got != d {
		return Manifest{}, fmt.Errorf("%w: announced was %s, the manifest received has %s", ErrDigestMismatch, d, got)
	}
	named, err := parseManifest(mediaType, content)
	if err != nil {
		return Manifest{}, err
	}
	by = strings.ToValidUTF8(by[:min(len(by), maxByBytes)], "")
	m := Manifest{Repository: r.name, Tag: tag, Digest: d, MediaType: mediaType, Size: int64(len(content)), Content: content}
	if tag != "" {
		if err := r.checkTag(ctx, tag, d); err != nil {
			return Manifest{}, err
		}
	}
	if err := r.checkPresent(ctx, named); err != nil {
		return Manifest{}, err
	}
	if r.s.o.Check != nil {
		if err := r.s.o.Check(ctx, m); err != nil {
			return Manifest{}, err
		}
	}
	if err := r.storeManifest(ctx, m, by); err != nil {
		return Manifest{}, err
	}
	if tag == "" {
		return m, nil
	}
	if err := r.putTag(ctx, m, by); err != nil {
		return Manifest{}, err
	}
	// A delete of the manifest that began before the tag was there has not removed the tag, but perhaps the manifest.
	if err := r.storeManifest(ctx, m, by); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// checkPresent compares what a manifest names with what the repository has.
func (r *Repository) checkPresent(ctx context.Context, named []descriptor) error {
	var missing []digest.Digest
	seen := map[digest.Digest]int64{}
	for _, n := range named {
		size, known := seen[n.digest]
		if !known {
			var err error
			size, err = r.sizeOf(ctx, n)
			if errors.Is(err, ErrBlobUnknown) || errors.Is(err, bucket.ErrNotFound) {
				size = -1
				missing = append(missing, n.digest)
			} else if err != nil {
				return err
			}
			seen[n.digest] = size
		}
		if size >= 0 && size != n.size {
			return invalid("%s has %d bytes, but the manifest says %d", n.digest, size, n.size)
		}
	}
	if missing != nil {
		return &UnknownBlobsError{Digests: missing}
	}
	return nil
}

func (r *Repository) sizeOf(ctx context.Context, n descriptor) (int64, error) {
	if n.manifest {
		m, err := r.readManifest(ctx, n.digest)
		return m.Size, err
	}
	b, err := r.StatBlob(ctx, n.digest)
	return b.Size, err
}

// storeManifest stores a manifest unless it is there. A damaged one is replaced.
func (r *Repository) storeManifest(ctx context.Context, m Manifest, by string) error {
	stored, readErr := r.readManifest(ctx, m.Digest)
	if readErr == nil {
		if stored.MediaType != m.MediaType {
			return invalid("the manifest %s was pushed before as %s, not as %s", m.Digest, stored.MediaType, m.MediaType)
		}
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	header, err := json.Marshal(envelope{MediaType: m.MediaType, PushedAt: r.s.o.Now().UTC(), PushedBy: by})
	if err != nil {
		return fmt.Errorf("store manifest %s: %w", m.Digest, err)
	}
	object := append(append(header, '\n'), m.Content...)
	missing := errors.Is(readErr, bucket.ErrNotFound)
	err = r.s.write(ctx, r.manifestKey(m.Digest), object, bucket.Condition{Absent: missing})
	if errors.Is(err, bucket.ErrExists) {
		return r.storeManifest(ctx, m, by) // Somebody else was faster: compare with what they stored.
	}
	if err != nil {
		return fmt.Errorf("store manifest %s: %w", m.Digest, err)
	}
	return nil
}

// DeleteManifest removes a tag (the manifest stays), or a manifest with all tags that point at it. Error:
// ErrManifestUnknown.
func (r *Repository) DeleteManifest(ctx context.Context, reference string) error {
	tag, d, err := parseReference(reference)
	if err != nil {
		return err
	}
	if tag != "" {
		return r.deleteTag(ctx, tag)
	}
	if _, err := r.s.bucket.Head(ctx, r.manifestKey(d)); errors.Is(err, bucket.ErrNotFound) {
		return fmt.Errorf("%w: %s has no %s", ErrManifestUnknown, r.name, d)
	} else if err != nil {
		return fmt.Errorf("delete manifest %s: %w", d, err)
	}
	if err := r.deleteTagsOf(ctx, d); err != nil {
		return err
	}
	if err := r.s.bucket.Delete(ctx, r.manifestKey(d), bucket.Condition{}); err != nil {
		return fmt.Errorf("delete manifest %s: %w", d, err)
	}
	// Tags that a push has made meanwhile would point at nothing, unless it has stored the manifest again.
	if _, err := r.s.bucket.Head(ctx, r.manifestKey(d)); errors.Is(err, bucket.ErrNotFound) {
		return r.deleteTagsOf(ctx, d)
	}
	return nil
}

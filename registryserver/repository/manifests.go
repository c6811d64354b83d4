package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	// Content is the manifest, byte for byte; nil in answers of StatManifest.
	Content []byte
}

// envelope is the first line of a manifest's object; the content follows. Without it the media type would be lost:
// Helm's manifests do not name theirs.
type envelope struct {
	MediaType string    `json:"mediaType"`
	PushedAt  time.Time `json:"pushedAt"`
	PushedBy  string    `json:"pushedBy"`
}

// maxByBytes bounds the name of who pushed, which is a token's and may be made by others.
const maxByBytes = 1024

// StatManifest describes the manifest behind a tag or digest without its content. Errors: ErrManifestUnknown,
// ErrReferenceInvalid.
func (r *Repository) StatManifest(ctx context.Context, reference string) (Manifest, error) {
	m, err := r.GetManifest(ctx, reference)
	m.Content = nil
	return m, err
}

// GetManifest reads the manifest behind a tag or digest, and checks its digest: a damaged one is
// bucket.ErrUnavailable. Errors: ErrManifestUnknown, ErrReferenceInvalid.
func (r *Repository) GetManifest(ctx context.Context, reference string) (Manifest, error) {
	tag, d, err := parseReference(reference)
	if err != nil {
		return Manifest{}, err
	}
	if tag != "" {
		t, _, err := r.readTag(ctx, tag)
		if errors.Is(err, bucket.ErrNotFound) {
			return Manifest{}, fmt.Errorf("%w: %s has no tag %s", ErrManifestUnknown, r.name, tag)
		}
		if err != nil {
			return Manifest{}, err
		}
		d = t.Digest
	}
	m, err := r.readManifest(ctx, d)
	if errors.Is(err, bucket.ErrNotFound) {
		return Manifest{}, fmt.Errorf("%w: %s has no %s", ErrManifestUnknown, r.name, d)
	}
	if err != nil {
		return Manifest{}, err
	}
	m.Tag = tag
	return m, nil
}

// readManifest returns bucket.ErrNotFound for a manifest that is not there.
func (r *Repository) readManifest(ctx context.Context, d digest.Digest) (Manifest, error) {
	object, _, err := r.s.read(ctx, r.manifestKey(d), maxDocumentBytes+MaxManifestBytes)
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest %s: %w", d, err)
	}
	header, content, found := bytes.Cut(object, []byte("\n"))
	var e envelope
	if !found || json.Unmarshal(header, &e) != nil || e.MediaType == "" || d.Algorithm().FromBytes(content) != d {
		return Manifest{}, fmt.Errorf("manifest %s is damaged: %w: push it again to mend it", d, bucket.ErrUnavailable)
	}
	return Manifest{Repository: r.name, Digest: d, MediaType: e.MediaType, Size: int64(len(content)), Content: content}, nil
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

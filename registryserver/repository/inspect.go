package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

// What follows is for who looks at very much: nothing of it is put into the store's cache, so that it drives out nothing
// that is asked for.

// EachTag calls f with every tag and the ETag of its object, in ascending byte order, until f returns an error. It costs a
// listing for each thousand tags.
func (r *Repository) EachTag(ctx context.Context, f func(tag, etag string) error) error {
	prefix := r.tagKey("")
	return r.s.each(ctx, prefix, func(i bucket.Info) error {
		if tag := strings.TrimPrefix(i.Key, prefix); isTag(tag) {
			return f(tag, i.ETag)
		}
		return nil
	})
}

// EachReferrer calls f with every entry in the lists of referrers, in an order that gathers those of one subject, until f
// returns an error. An entry whose manifest is gone may be among them. It costs a listing for each thousand.
func (r *Repository) EachReferrer(ctx context.Context, f func(subject, referrer digest.Digest) error) error {
	prefix := r.key(referrersSection, "")
	return r.s.each(ctx, prefix, func(i bucket.Info) error {
		of, segment, _ := strings.Cut(strings.TrimPrefix(i.Key, prefix), "/")
		subject, known := fromSegment(of)
		referrer, ok := fromSegment(segment)
		if !known || !ok {
			return nil
		}
		return f(subject, referrer)
	})
}

// ReadVersion reads a tag from the bucket. Errors: ErrManifestUnknown, ErrTagDamaged.
func (r *Repository) ReadVersion(ctx context.Context, tag string) (Version, error) {
	if !isTag(tag) {
		return Version{}, tagInvalid(tag)
	}
	content, info, err := r.s.read(ctx, r.tagKey(tag), maxDocumentBytes)
	if errors.Is(err, bucket.ErrNotFound) {
		return Version{}, fmt.Errorf("%w: %s has no tag %s", ErrManifestUnknown, r.name, tag)
	}
	if err != nil && info.Size <= maxDocumentBytes {
		return Version{}, fmt.Errorf("read tag %s: %w", tag, err)
	}
	var t tagObject
	if err != nil || json.Unmarshal(content, &t) != nil || checkDigest(t.Digest) != nil {
		return Version{}, fmt.Errorf("tag %s: %w", tag, ErrTagDamaged)
	}
	return Version{Tag: tag, Digest: t.Digest, MediaType: t.MediaType, Size: t.Size, PushedAt: t.PushedAt, PushedBy: t.PushedBy, ETag: info.ETag}, nil
}

// ReadManifest reads a manifest of at most limit bytes whole, wherever it is, and checks it. Errors: ErrManifestUnknown,
// which is ErrDamaged too where it is damaged, ErrTooLarge.
func (r *Repository) ReadManifest(ctx context.Context, d digest.Digest, limit int64) ([]byte, Manifest, error) {
	if err := checkDigest(d); err != nil {
		return nil, Manifest{}, err
	}
	var s stored
	if k, _, _ := r.s.cache.get(r.manifestKey(d)); k != nil {
		s = k.manifest
	} else {
		var err error
		if s, _, err = r.findManifest(ctx, d); err != nil {
			return nil, Manifest{}, r.manifestError(d, err)
		}
	}
	switch {
	case s.Size > limit:
		return nil, s.Manifest, tooLarge("manifest", limit)
	case s.content != nil:
		return s.content, s.Manifest, nil
	}
	object, _, err := r.s.getThrough(ctx, r.manifestKey(d), &bucket.Range{Offset: s.header, Length: s.Size})
	if err != nil {
		return nil, s.Manifest, r.manifestError(d, err)
	}
	content, err := readVerified(object, d, s.Size)
	if err != nil {
		return nil, s.Manifest, fmt.Errorf("read manifest %s: %w", d, err)
	}
	return content, s.Manifest, nil
}

// ReadBlob reads a blob of at most limit bytes whole, and checks it. Errors: ErrBlobUnknown, which is ErrDamaged too where
// it is damaged, ErrTooLarge.
func (r *Repository) ReadBlob(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	if k, checked, _ := r.s.cache.get(r.blobKey(d)); k != nil && r.s.o.Now().Sub(checked) < r.s.cache.o.BlobsFresh {
		if int64(len(k.content)) > limit {
			return nil, tooLarge("blob", limit)
		}
		return k.content, nil
	}
	object, info, err := r.s.getThrough(ctx, r.blobKey(d), nil)
	if err != nil {
		return nil, r.blobError(d, err)
	}
	if info.Size > limit {
		_ = object.Close()
		return nil, tooLarge("blob", limit)
	}
	content, err := readVerified(object, d, info.Size)
	if errors.Is(err, ErrDigestMismatch) {
		return nil, r.damaged(d, ErrBlobUnknown)
	}
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	return content, nil
}

// readVerified reads size bytes and closes what it reads from.
func readVerified(object io.ReadCloser, d digest.Digest, size int64) ([]byte, error) {
	defer object.Close()
	content := make([]byte, size)
	if _, err := io.ReadFull(object, content); err != nil {
		return nil, fmt.Errorf("%w: %w", bucket.ErrUnavailable, err)
	}
	if d.Algorithm().FromBytes(content) != d {
		return nil, ErrDigestMismatch
	}
	return content, nil
}

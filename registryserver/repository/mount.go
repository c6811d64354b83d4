package repository

import (
	"context"
	"errors"
	"fmt"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

const (
	// maxMountNames bounds the repositories whose names MountFound considers, maxMountSources those that it looks into.
	maxMountNames   = 1000
	maxMountSources = 32
)

// Mount makes a blob of another repository of the same store a blob of this one too, without moving its bytes through
// this program. A blob that is there already is not copied. Errors: ErrBlobUnknown, ErrDigestUnsupported.
func (r *Repository) Mount(ctx context.Context, d digest.Digest, from *Repository) (Blob, error) {
	b, err := r.HoldBlob(ctx, d)
	if !errors.Is(err, ErrBlobUnknown) {
		return b, err
	}
	var info bucket.Info
	err = r.s.through(ctx, from.blobKey(d), func(key string) (err error) {
		info, err = r.s.bucket.Copy(ctx, key, r.blobKey(d))
		return err
	})
	if errors.Is(err, bucket.ErrNotFound) {
		return Blob{}, from.blobError(d, err)
	}
	if err != nil {
		return Blob{}, fmt.Errorf("mount blob %s from %s: %w", d, from.name, err)
	}
	// A hard link is as old as the blob; see HoldBlob for why this may fail.
	_ = r.hold(ctx, r.blobKey(d), d)
	return Blob{Digest: d, Size: info.Size}, nil
}

// MountFound is Mount from whichever repository that may allows has the blob. It looks into the first 32 that may
// allows, of the first 1,000 that there are, so it may not find what is there. Errors: those of Mount.
func (r *Repository) MountFound(ctx context.Context, d digest.Digest, may func(name string) bool) (Blob, error) {
	b, err := r.HoldBlob(ctx, d)
	if !errors.Is(err, ErrBlobUnknown) {
		return b, err
	}
	names, _, err := r.s.Repositories(ctx, maxMountNames, "")
	if err != nil {
		return Blob{}, err
	}
	tried := 0
	for _, name := range names {
		if name == r.name || !may(name) {
			continue
		}
		if tried++; tried > maxMountSources {
			break
		}
		from := r.s.repository(name)
		if _, err := from.StatBlob(ctx, d); errors.Is(err, ErrBlobUnknown) {
			continue
		} else if err != nil {
			return Blob{}, err
		}
		return r.Mount(ctx, d, from)
	}
	return Blob{}, r.blobError(d, bucket.ErrNotFound)
}

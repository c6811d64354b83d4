package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// by is who is recorded as having pushed.
const by = "import"

// Store is a store as a target. Servers may go on serving it.
type Store struct{ *repository.Store }

// Manifest implements Target. A damaged manifest is not there, so that it is mended.
func (s Store) Manifest(ctx context.Context, chart, reference string) (mediaType string, content []byte, err error) {
	r, err := s.Repository(chart)
	if err != nil {
		return "", nil, err
	}
	object, m, err := r.OpenManifest(ctx, reference)
	if errors.Is(err, repository.ErrManifestUnknown) {
		return "", nil, fmt.Errorf("%s: %w", reference, ErrNotThere)
	}
	if err != nil {
		return "", nil, err
	}
	defer object.Close()
	content, err = io.ReadAll(object)
	return m.MediaType, content, err
}

// HasBlob implements Target.
func (s Store) HasBlob(ctx context.Context, chart string, d digest.Digest) (bool, error) {
	r, err := s.Repository(chart)
	if err != nil {
		return false, err
	}
	_, err = r.HoldBlob(ctx, d)
	if errors.Is(err, repository.ErrBlobUnknown) {
		return false, nil
	}
	return err == nil, err
}

// PutBlob implements Target.
func (s Store) PutBlob(ctx context.Context, chart string, d digest.Digest, size int64, content io.Reader) error {
	r, err := s.Repository(chart)
	if err != nil {
		return err
	}
	return r.PutBlob(ctx, d, content, size)
}

// PutManifest implements Target.
func (s Store) PutManifest(ctx context.Context, chart, reference, mediaType string, content []byte) error {
	r, err := s.Repository(chart)
	if err != nil {
		return err
	}
	_, err = r.PutManifest(ctx, reference, mediaType, content, by)
	return s.conflict(ctx, r, reference, err)
}

// CheckTag returns a *ConflictError when PutManifest would, so that nothing is moved in vain.
func (s Store) CheckTag(ctx context.Context, chart, tag string, d digest.Digest) error {
	r, err := s.Repository(chart)
	if err != nil {
		return err
	}
	return s.conflict(ctx, r, tag, r.CheckTag(ctx, tag, d))
}

func (s Store) conflict(ctx context.Context, r *repository.Repository, tag string, err error) error {
	if !errors.Is(err, repository.ErrTagImmutable) {
		return err
	}
	m, statErr := r.StatManifest(ctx, tag)
	if statErr != nil {
		return err
	}
	return &ConflictError{Stands: m.Digest}
}

// Empty is a target that has nothing, for dry runs where there is no registry yet.
type Empty struct{ Target }

// Manifest implements Target.
func (Empty) Manifest(context.Context, string, string) (mediaType string, content []byte, err error) {
	return "", nil, ErrNotThere
}

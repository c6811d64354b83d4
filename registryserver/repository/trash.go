package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// The trash is another place where a blob or a manifest may be, while it is found out whether anything names it:
// "charts/<chart>/trash/<blobs or manifests>-<digest>/<run>", for the run of garbage collection that put it there. Who
// reads does not notice; who pushes what names it brings it back to its usual key.
//
// Each run has a name of its own, so that what one run frees is never what another has just put there.
const (
	trashSection = "trash"
	// finishedName is beside the objects in the trash: "trash/finished/<run>" says that nothing of the run is under way
	// any more, and since when.
	finishedName = "finished"
)

// trashPrefix is what the keys begin with that an object, a blob or a manifest, may have in the trash.
func trashPrefix(key string) string {
	at := strings.Split(key, "/")
	return strings.Join(at[:2], "/") + "/" + trashSection + "/" + strings.Join(at[2:], "-") + "/"
}

// usualKey is the inverse: where the object with this key in the trash is otherwise. ok is false for other keys.
func (r *Repository) usualKey(trashed string) (key string, ok bool) {
	at := strings.SplitN(path.Base(path.Dir(trashed)), "-", 3)
	if len(at) != 3 || at[0] != blobsSection && at[0] != manifestsSection {
		return "", false
	}
	return r.key(at...), true
}

// inTrash finds the newest place of an object in the trash; empty where it has none.
func (s *Store) inTrash(ctx context.Context, key string) (string, error) {
	found := ""
	err := s.each(ctx, trashPrefix(key), func(i bucket.Info) error {
		found = i.Key
		return nil
	})
	return found, err
}

// through reads a blob or manifest where it is: at its usual key or in the trash. read is called with the one and, as
// long as it returns bucket.ErrNotFound, with the other.
func (s *Store) through(ctx context.Context, key string, read func(key string) error) error {
	err := read(key)
	if !errors.Is(err, bucket.ErrNotFound) {
		return err
	}
	trashed, listErr := s.inTrash(ctx, key)
	switch {
	case listErr != nil:
		return listErr
	case trashed == "":
		return err
	}
	if err = read(trashed); errors.Is(err, bucket.ErrNotFound) {
		return read(key) // Brought back meanwhile.
	}
	return err
}

// headThrough is bucket.Head of a blob or manifest wherever it is. The info's Key says where.
func (s *Store) headThrough(ctx context.Context, key string) (info bucket.Info, err error) {
	err = s.through(ctx, key, func(key string) error {
		info, err = s.bucket.Head(ctx, key)
		return err
	})
	return info, err
}

// getThrough is bucket.Get of a blob or manifest wherever it is.
func (s *Store) getThrough(ctx context.Context, key string, rng *bucket.Range) (content io.ReadCloser, info bucket.Info, err error) {
	err = s.through(ctx, key, func(key string) error {
		content, info, err = s.bucket.Get(ctx, key, rng)
		return err
	})
	return content, info, err
}

// restore brings a blob or manifest back from the trash to its usual key. restored is false where the trash has none.
// The copy in the trash stays until it is freed.
func (s *Store) restore(ctx context.Context, key string) (restored bool, err error) {
	for {
		trashed, err := s.inTrash(ctx, key)
		if err != nil || trashed == "" {
			return false, err
		}
		_, err = s.bucket.Copy(ctx, trashed, key)
		if errors.Is(err, bucket.ErrNotFound) {
			continue // Freed meanwhile; there may be another.
		}
		if err != nil {
			return false, fmt.Errorf("bring %s back: %w", key, err)
		}
		return true, nil
	}
}

// recovered calls f, which wants the object at its usual key, and once more when that is missing and could be brought
// back.
func (s *Store) recovered(ctx context.Context, key string, f func() error) error {
	err := f()
	if !errors.Is(err, bucket.ErrNotFound) {
		return err
	}
	restored, restoreErr := s.restore(ctx, key)
	if restoreErr != nil {
		return restoreErr
	}
	if restored {
		return f()
	}
	return err
}

// erase removes a blob or manifest from wherever it is, so that it is gone at once: what a client deletes has no undo.
func (s *Store) erase(ctx context.Context, key string) error {
	defer s.cache.remove(key)
	for {
		if err := s.bucket.Delete(ctx, key, bucket.Condition{}); err != nil {
			return err
		}
		// Garbage collection may have moved it here before, or brought it back from here since.
		found := false
		err := s.each(ctx, trashPrefix(key), func(i bucket.Info) error {
			found = true
			return s.bucket.Delete(ctx, i.Key, bucket.Condition{})
		})
		if err != nil || !found {
			return err
		}
	}
}

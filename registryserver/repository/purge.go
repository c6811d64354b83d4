package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// purgingKey marks a bucket whose content is being deleted. It holds the layout document, and is the last object to go.
const purgingKey = "purging"

// purgeParallel is the number of objects that are deleted at the same time: each is a round trip to the store.
const purgeParallel = 16

// ErrPurging says that the content is being deleted, and that what is left of it is not served any more.
var ErrPurging = errors.New("the content is being deleted")

// Purge deletes everything that the registry owner ("organization/slug") keeps in b, and tells progress how many objects
// it has deleted so far. Nobody may write meanwhile; who opens the bucket gets ErrPurging until it is empty. A purge that
// was broken off is gone on with by another call. A bucket of another owner, one that was never a registry's and one that
// holds another registry below a prefix of its own are left as they are, with an error.
func Purge(ctx context.Context, b bucket.Bucket, owner string, progress func(deleted int64)) error {
	s := &Store{bucket: b}
	if err := s.purge(ctx, owner, progress); err != nil {
		return fmt.Errorf("delete the content: %w", err)
	}
	return nil
}

func (s *Store) purge(ctx context.Context, owner string, progress func(deleted int64)) error {
	mine, err := s.mayPurge(ctx, owner)
	if err != nil || !mine {
		return err
	}
	if err := s.noOtherInside(ctx); err != nil {
		return err
	}
	content, err := json.Marshal(layoutOf(owner))
	if err != nil {
		return err
	}
	if err := s.write(ctx, purgingKey, content, bucket.Condition{}); err != nil {
		return err
	}
	deleted := int64(0)
	// Until a whole look finds nothing: what was being written when the last server ended may have become visible late.
	for before := int64(-1); deleted != before; {
		before = deleted
		if err := s.purgeOnce(ctx, &deleted, progress); err != nil {
			return err
		}
	}
	for _, last := range []string{layoutKey, purgingKey} {
		if err := s.bucket.Delete(ctx, last, bucket.Condition{}); err != nil {
			return err
		}
	}
	return nil
}

// mayPurge reports whether there is anything to delete, and refuses what is not the owner's.
func (s *Store) mayPurge(ctx context.Context, owner string) (bool, error) {
	found := false
	for _, key := range []string{layoutKey, purgingKey} {
		got, err := s.readLayoutAt(ctx, key)
		switch {
		case errors.Is(err, bucket.ErrNotFound):
			continue
		case err != nil:
			return false, err
		case got.Version != layoutVersion:
			return false, fmt.Errorf("it has layout version %d, and this program knows version %d", got.Version, layoutVersion)
		case got != layoutOf(owner):
			return false, fmt.Errorf("it belongs to the registry %s/%s, not to %s", got.Organization, got.Registry, owner)
		}
		found = true
	}
	if found {
		return true, nil
	}
	return false, s.checkEmpty(ctx)
}

// checkEmpty refuses a bucket without a layout document that holds more than what can be done without.
func (s *Store) checkEmpty(ctx context.Context) error {
	p, err := s.bucket.List(ctx, bucket.ListOptions{Delimiter: "/"})
	if err != nil {
		return err
	}
	held := p.Prefixes
	for _, i := range p.Objects {
		held = append(held, i.Key)
	}
	for _, key := range held {
		if key != layoutKey && !isBeside(key) {
			return fmt.Errorf("the storage is not empty (it has %s) and has no %s: it is not this program's, or it was damaged", key, layoutKey)
		}
	}
	return nil
}

// noOtherInside refuses a bucket in which another registry lives below a prefix of its own. Charts cannot be mistaken for
// one: a tag may have the document's name.
func (s *Store) noOtherInside(ctx context.Context) error {
	for after := ""; ; {
		p, err := s.bucket.List(ctx, bucket.ListOptions{StartAfter: after, Delimiter: "/"})
		if err != nil {
			return err
		}
		for _, prefix := range p.Prefixes {
			if prefix == chartsPrefix || isBeside(prefix) {
				continue
			}
			err := s.each(ctx, prefix, func(i bucket.Info) error {
				if path.Base(i.Key) == layoutKey {
					return fmt.Errorf("another registry is in the same bucket, under %s: move it, or delete the objects of this one yourself", path.Dir(i.Key))
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		if p.Next == "" {
			return nil
		}
		after = p.Next
	}
}

// purgeOnce deletes all objects that a listing finds, but the two that tell whose they were.
func (s *Store) purgeOnce(ctx context.Context, deleted *int64, progress func(int64)) error {
	for after := ""; ; {
		p, err := s.bucket.List(ctx, bucket.ListOptions{StartAfter: after})
		if err != nil {
			return err
		}
		group, within := errgroup.WithContext(ctx)
		group.SetLimit(purgeParallel)
		for _, i := range p.Objects {
			if i.Key == layoutKey || i.Key == purgingKey {
				continue
			}
			*deleted++
			group.Go(func() error { return s.bucket.Delete(within, i.Key, bucket.Condition{}) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		progress(*deleted)
		if p.Next == "" {
			return nil
		}
		after = p.Next
	}
}

func layoutOf(owner string) layout {
	organization, registry, _ := strings.Cut(owner, "/")
	return layout{Version: layoutVersion, Organization: organization, Registry: registry}
}

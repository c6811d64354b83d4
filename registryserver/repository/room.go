package repository

import (
	"context"
	"errors"
	"fmt"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
)

// roomKey is the key of a context's *quota.Room, which what is written on its behalf is stored in: a push of a manifest is
// several writes, and is to be refused before the first of them.
type roomKey struct{}

// room is that of the context, or one of its own. release is called once it is not needed any more.
func (c *counted) room(ctx context.Context, need quota.Usage) (room *quota.Room, release func(), err error) {
	if room, ok := ctx.Value(roomKey{}).(*quota.Room); ok {
		return room, func() {}, room.Cover(need)
	}
	room, err = c.tracker.Reserve(ctx, need)
	return room, room.Release, err
}

// reserve takes room for bytes that are about to come; nil where nobody counts.
func (s *Store) reserve(ctx context.Context, bytes int64) (*quota.Room, error) {
	if s.o.Quota == nil {
		return nil, nil //nolint:nilnil // A nil room is one without limits.
	}
	return s.o.Quota.Reserve(ctx, quota.Usage{Bytes: bytes})
}

// withRoom takes room for all that a push of a manifest stores, where anybody counts. What is not limited is not looked up.
func (r *Repository) withRoom(ctx context.Context, p push) (_ context.Context, release func(), err error) {
	c, ok := r.s.bucket.(*counted)
	if !ok {
		return ctx, func() {}, nil
	}
	need, err := r.needs(ctx, c, p)
	if err != nil {
		return ctx, nil, err
	}
	room, err := c.tracker.Reserve(ctx, need)
	if err != nil {
		return ctx, nil, err
	}
	return context.WithValue(ctx, roomKey{}, room), room.Release, nil
}

// Admit refuses what would begin another chart where there are as many as there may be: before any of its blobs is taken,
// as nobody may ever name them. It costs nothing before that. Error: *quota.Error.
func (r *Repository) Admit(ctx context.Context) error {
	c, ok := r.s.bucket.(*counted)
	if !ok {
		return nil
	}
	limit := c.tracker.Limits().Charts
	if used, known := c.tracker.Usage(); limit == 0 || !known || used.Charts < limit {
		return nil
	}
	// Signatures alone make no chart, and more of them may come.
	tagged, err := c.List(ctx, bucket.ListOptions{Prefix: r.tagKey(""), Limit: 1})
	if err != nil {
		return fmt.Errorf("list tags: %w", err)
	}
	if len(tagged.Objects) > 0 {
		return nil
	}
	room, err := c.tracker.Reserve(ctx, quota.Usage{Charts: 1})
	room.Release()
	return err
}

func (r *Repository) needs(ctx context.Context, c *counted, p push) (need quota.Usage, err error) {
	limits := c.tracker.Limits()
	if limits.Bytes > 0 {
		if there, err := r.s.exists(ctx, r.manifestKey(p.Digest)); err != nil {
			return need, err
		} else if !there {
			need.Bytes = p.Size
		}
	}
	if limits.Charts == 0 && limits.Versions == 0 {
		return need, nil
	}
	tags := p.tags
	if p.coming != "" {
		// helm pushes by digest first: it is to leave nothing behind where its tag will have no room.
		tags = []string{p.coming}
	}
	seen := map[string]bool{}
	for _, tag := range tags {
		if ExemptTag(tag) || seen[tag] {
			continue
		}
		seen[tag] = true
		if there, err := r.s.exists(ctx, r.tagKey(tag)); err != nil {
			return need, err
		} else if !there {
			need.Versions++
		}
	}
	if need.Versions > 0 && limits.Charts > 0 {
		has, err := c.hasVersion(ctx, encodeName(r.name))
		if err != nil {
			return need, err
		}
		if !has {
			need.Charts = 1
		}
	}
	return need, nil
}

// exists reports whether there is an object.
func (s *Store) exists(ctx context.Context, key string) (bool, error) {
	_, err := s.bucket.Head(ctx, key)
	if err == nil {
		return true, nil
	}
	if errors.Is(err, bucket.ErrNotFound) {
		return false, nil
	}
	return false, fmt.Errorf("look for %s: %w", key, err)
}

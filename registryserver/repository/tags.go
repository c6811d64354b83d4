package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

// tagObject is what a tag stands for, with what listings need.
type tagObject struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	PushedAt  time.Time     `json:"pushedAt"`
	PushedBy  string        `json:"pushedBy"`
}

// readTag returns bucket.ErrNotFound for a tag that is not there.
func (r *Repository) readTag(ctx context.Context, tag string) (tagObject, bucket.Info, error) {
	var t tagObject
	content, info, err := r.s.read(ctx, r.tagKey(tag), maxDocumentBytes)
	if err != nil {
		return t, info, fmt.Errorf("read tag %s: %w", tag, err)
	}
	if json.Unmarshal(content, &t) != nil || checkDigest(t.Digest) != nil {
		return t, info, fmt.Errorf("tag %s is damaged: %w: delete it and push again", tag, bucket.ErrUnavailable)
	}
	return t, info, nil
}

func (s *Store) mutable(tag string) bool {
	if strings.HasPrefix(tag, "sha256-") || strings.HasPrefix(tag, "sha512-") || tag == "artifacthub.io" {
		return true
	}
	return s.o.TagMutable != nil && s.o.TagMutable(tag)
}

// checkTag returns ErrTagImmutable when the tag stands for another manifest and may not be moved.
func (r *Repository) checkTag(ctx context.Context, tag string, d digest.Digest) error {
	if r.s.mutable(tag) {
		return nil
	}
	t, _, err := r.readTag(ctx, tag)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if t.Digest == d {
		return nil
	}
	if _, err := r.s.bucket.Head(ctx, r.manifestKey(t.Digest)); errors.Is(err, bucket.ErrNotFound) {
		return nil // Half-deleted: what it stands for is gone.
	} else if err != nil {
		return fmt.Errorf("read manifest %s: %w", t.Digest, err)
	}
	return fmt.Errorf("%w: %s of %s stands for %s and cannot become %s: push under a new version, or delete this version first",
		ErrTagImmutable, tag, r.name, t.Digest, d)
}

// putTag points a tag at a manifest that is stored.
func (r *Repository) putTag(ctx context.Context, m Manifest, by string) error {
	content, err := json.Marshal(tagObject{Digest: m.Digest, MediaType: m.MediaType, Size: m.Size, PushedAt: r.s.o.Now().UTC(), PushedBy: by})
	if err != nil {
		return fmt.Errorf("store tag %s: %w", m.Tag, err)
	}
	condition := bucket.Condition{Absent: true}
	for {
		err := r.s.write(ctx, r.tagKey(m.Tag), content, condition)
		if err == nil {
			return nil
		}
		if !errors.Is(err, bucket.ErrExists) && !errors.Is(err, bucket.ErrChanged) {
			return fmt.Errorf("store tag %s: %w", m.Tag, err)
		}
		stands, info, err := r.readTag(ctx, m.Tag)
		switch {
		case errors.Is(err, bucket.ErrNotFound):
			condition = bucket.Condition{Absent: true}
			continue
		case err == nil && stands.Digest == m.Digest:
			return nil
		case err != nil && (info.ETag == "" || !r.s.mutable(m.Tag)):
			return err
		}
		if err := r.checkTag(ctx, m.Tag, m.Digest); err != nil {
			return err
		}
		condition = bucket.Condition{ETag: info.ETag}
	}
}

func (r *Repository) deleteTag(ctx context.Context, tag string) error {
	if _, err := r.s.bucket.Head(ctx, r.tagKey(tag)); errors.Is(err, bucket.ErrNotFound) {
		return fmt.Errorf("%w: %s has no tag %s", ErrManifestUnknown, r.name, tag)
	} else if err != nil {
		return fmt.Errorf("delete tag %s: %w", tag, err)
	}
	if err := r.s.bucket.Delete(ctx, r.tagKey(tag), bucket.Condition{}); err != nil {
		return fmt.Errorf("delete tag %s: %w", tag, err)
	}
	return nil
}

// deleteTagsOf removes the tags that stand for a manifest. Those that are moved to another meanwhile stay.
func (r *Repository) deleteTagsOf(ctx context.Context, d digest.Digest) error {
	return r.s.each(ctx, r.tagKey(""), func(i bucket.Info) error {
		tag := path.Base(i.Key)
		t, info, err := r.readTag(ctx, tag)
		if err == nil && t.Digest == d {
			err = r.s.bucket.Delete(ctx, i.Key, bucket.Condition{ETag: info.ETag})
		}
		if err != nil && !errors.Is(err, bucket.ErrNotFound) && !errors.Is(err, bucket.ErrChanged) {
			return fmt.Errorf("delete tag %s: %w", tag, err)
		}
		return nil
	})
}

// Tags lists at most n tags greater than last, in ascending byte order; n of 0 means all. last need not exist. more
// says that there are others behind. Error: ErrRepositoryUnknown when the repository has no manifest at all.
func (r *Repository) Tags(ctx context.Context, n int, last string) (tags []string, more bool, err error) {
	prefix := r.tagKey("")
	for after := prefix + last; ; {
		o := bucket.ListOptions{Prefix: prefix, StartAfter: after}
		if n > 0 {
			o.Limit = n - len(tags) + 1
		}
		p, err := r.s.bucket.List(ctx, o)
		if err != nil {
			return nil, false, fmt.Errorf("list tags: %w", err)
		}
		for _, i := range p.Objects {
			tag := strings.TrimPrefix(i.Key, prefix)
			if !tagPattern.MatchString(tag) {
				continue
			}
			if n > 0 && len(tags) == n {
				return tags, true, nil
			}
			tags = append(tags, tag)
		}
		if p.Next == "" {
			break
		}
		after = p.Next
	}
	if tags == nil {
		return nil, false, r.checkKnown(ctx)
	}
	return tags, false, nil
}

// checkKnown returns ErrRepositoryUnknown when the repository has no manifest, and so no tag.
func (r *Repository) checkKnown(ctx context.Context) error {
	p, err := r.s.bucket.List(ctx, bucket.ListOptions{Prefix: r.key("manifests", ""), Limit: 1})
	if err != nil {
		return fmt.Errorf("list manifests: %w", err)
	}
	if len(p.Objects) == 0 {
		return fmt.Errorf("%w: %s", ErrRepositoryUnknown, r.name)
	}
	return nil
}

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
	"golang.org/x/sync/errgroup"
)

// tagObject is what a tag stands for, with what listings need.
type tagObject struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	PushedAt  time.Time     `json:"pushedAt"`
	PushedBy  string        `json:"pushedBy"`
	// Mark is what Options.Record gave the change that made the tag stand for this.
	Mark string `json:"mark,omitempty"`
}

func tagOf(m Manifest, at time.Time, by, mark string) tagObject {
	return tagObject{Digest: m.Digest, MediaType: m.MediaType, Size: m.Size, PushedAt: at.UTC(), PushedBy: by, Mark: mark}
}

// ErrTagDamaged says that nothing tells any more what a tag stood for. It is bucket.ErrUnavailable too, so that nobody takes
// the tag for one that is not there.
var ErrTagDamaged = fmt.Errorf("the tag is damaged: %w: delete it and push again", bucket.ErrUnavailable)

// readTag returns bucket.ErrNotFound for a tag that is not there.
func (r *Repository) readTag(ctx context.Context, tag string) (tagObject, bucket.Info, error) {
	var t tagObject
	key, now := r.tagKey(tag), r.s.o.Now()
	k, removals, err := r.s.current(ctx, key)
	if err != nil {
		return t, bucket.Info{}, fmt.Errorf("read tag %s: %w", tag, err)
	}
	if k != nil {
		return k.tag, k.info, nil
	}
	content, info, err := r.s.read(ctx, key, maxDocumentBytes)
	if err != nil {
		return t, info, fmt.Errorf("read tag %s: %w", tag, err)
	}
	if json.Unmarshal(content, &t) != nil || checkDigest(t.Digest) != nil {
		return t, info, fmt.Errorf("tag %s: %w", tag, ErrTagDamaged)
	}
	r.s.cache.put(&kept{key: key, info: info, tag: t, checked: now}, removals)
	return t, info, nil
}

// servedTag is readTag for who only reads, and may get what was true a moment ago if the store's cache says so.
func (r *Repository) servedTag(ctx context.Context, tag string) (tagObject, error) {
	if fresh := r.s.cache.o.TagsFresh; fresh > 0 {
		if k, checked, _ := r.s.cache.get(r.tagKey(tag)); k != nil && r.s.o.Now().Sub(checked) < fresh {
			return k.tag, nil
		}
	}
	t, _, err := r.readTag(ctx, tag)
	return t, err
}

// ExemptTag reports tags that rules for versions do not hold for, because signatures and metadata use them: those that
// begin with "sha256-" or "sha512-", and "artifacthub.io".
func ExemptTag(tag string) bool {
	return strings.HasPrefix(tag, "sha256-") || strings.HasPrefix(tag, "sha512-") || tag == "artifacthub.io"
}

func (s *Store) mutable(tag string) bool {
	if ExemptTag(tag) {
		return true
	}
	return s.o.TagMutable != nil && s.o.TagMutable(tag)
}

// CheckTag returns ErrTagImmutable when the tag may not be pointed at the manifest d, without changing anything.
func (r *Repository) CheckTag(ctx context.Context, tag string, d digest.Digest) error {
	if !isTag(tag) {
		return fmt.Errorf("%w: %.150q", ErrReferenceInvalid, tag)
	}
	return r.checkTag(ctx, tag, d)
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
	if _, err := r.s.headThrough(ctx, r.manifestKey(t.Digest)); errors.Is(err, bucket.ErrNotFound) {
		return nil // Half-deleted: what it stands for is gone.
	} else if err != nil {
		return fmt.Errorf("read manifest %s: %w", t.Digest, err)
	}
	return &ImmutableTagError{Repository: r.name, Tag: tag, Stands: t.Digest, Pushed: d}
}

// putTag points a tag at a manifest that is stored.
func (r *Repository) putTag(ctx context.Context, m Manifest, tag, by string) error {
	if r.s.recorded(tag) {
		return r.putRecordedTag(ctx, m, tag, by)
	}
	object, condition := tagOf(m, r.s.o.Now(), by, ""), bucket.Condition{Absent: true}
	var stood tagObject
	for {
		err := r.writeTag(ctx, tag, object, condition)
		if err == nil {
			r.s.changed(ctx, r.pushOf(ctx, m, tag, by, stood))
			if condition.ETag != "" {
				r.unlinked() // What the tag stood for before.
			}
			return nil
		}
		if !errors.Is(err, bucket.ErrExists) && !errors.Is(err, bucket.ErrChanged) {
			return err
		}
		stands, info, err := r.readTag(ctx, tag)
		switch {
		case errors.Is(err, bucket.ErrNotFound):
			stood, condition = tagObject{}, bucket.Condition{Absent: true}
			continue
		case err == nil && stands.Digest == m.Digest:
			return nil
		case err != nil && (info.ETag == "" || !r.s.mutable(tag)):
			return err
		}
		if err := r.checkTag(ctx, tag, m.Digest); err != nil {
			return err
		}
		stood, condition = stands, bucket.Condition{ETag: info.ETag}
	}
}

func (r *Repository) writeTag(ctx context.Context, tag string, t tagObject, c bucket.Condition) error {
	content, err := json.Marshal(t)
	if err == nil {
		err = r.s.write(ctx, r.tagKey(tag), content, c)
		r.touched(tag)
	}
	if err != nil {
		return fmt.Errorf("store tag %s: %w", tag, err)
	}
	return nil
}

// removeTag removes a tag that is there; stands is what it stands for, as far as that is known.
func (r *Repository) removeTag(ctx context.Context, tag string, stands tagObject, etag string) error {
	err := r.s.bucket.Delete(ctx, r.tagKey(tag), bucket.Condition{ETag: etag})
	r.touched(tag)
	if err != nil {
		return fmt.Errorf("delete tag %s: %w", tag, err)
	}
	r.s.changed(ctx, r.removalOf(tag, stands))
	return nil
}

// touched is called after an attempt to change a tag, also one that failed: its answer may have been lost.
func (r *Repository) touched(tag string) {
	r.s.cache.remove(r.tagKey(tag))
	if r.s.o.Tagged != nil {
		r.s.o.Tagged(r.name, tag)
	}
}

// deleteTag removes a tag that is there; with an ETag, only if that is the tag's, and otherwise it is bucket.ErrChanged.
func (r *Repository) deleteTag(ctx context.Context, tag, etag string) error {
	if r.s.recorded(tag) {
		return r.deleteRecordedTag(ctx, tag, etag)
	}
	if _, err := r.s.bucket.Head(ctx, r.tagKey(tag)); errors.Is(err, bucket.ErrNotFound) {
		return fmt.Errorf("%w: %s has no tag %s", ErrManifestUnknown, r.name, tag)
	} else if err != nil {
		return fmt.Errorf("delete tag %s: %w", tag, err)
	}
	if err := r.removeTag(ctx, tag, tagObject{}, etag); err != nil {
		return err
	}
	r.unlinked()
	return nil
}

// unlinked tells that something may have become garbage.
func (r *Repository) unlinked() {
	if r.s.o.Unlinked != nil {
		r.s.o.Unlinked(r.name)
	}
}

// maxParallel bounds the requests to the bucket that one call makes at once.
const maxParallel = 16

// deleteTagsOf removes the tags that stand for a manifest, but not those that seen has as they are; it adds what it has
// looked at to seen, ETags by keys. Tags that are moved to another manifest meanwhile stay.
//
// What a tag stands for is in its object alone, so that a push writes one object per tag. Here that costs a read of
// every tag of the repository.
func (r *Repository) deleteTagsOf(ctx context.Context, d digest.Digest, seen map[string]string) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	err := r.s.each(groupCtx, r.tagKey(""), func(i bucket.Info) error {
		if i.ETag != "" && seen[i.Key] == i.ETag {
			return nil
		}
		seen[i.Key] = i.ETag
		group.Go(func() error { return r.deleteTagOf(groupCtx, path.Base(i.Key), d) })
		return nil
	})
	if groupErr := group.Wait(); groupErr != nil {
		return groupErr
	}
	return err
}

func (r *Repository) deleteTagOf(ctx context.Context, tag string, d digest.Digest) error {
	t, info, err := r.readTag(ctx, tag)
	if err == nil && t.Digest == d && r.s.recorded(tag) {
		err = r.removeRecordedTag(ctx, tag, t, info.ETag)
	} else if err == nil && t.Digest == d {
		err = r.removeTag(ctx, tag, t, info.ETag)
	}
	if errors.Is(err, bucket.ErrNotFound) || errors.Is(err, bucket.ErrChanged) {
		return nil
	}
	return err
}

// Tags lists at most n tags greater than last, in ascending byte order; n of 0 means all. last need not exist. more
// says that there are others behind. Error: ErrRepositoryUnknown when the repository has no manifest at all.
func (r *Repository) Tags(ctx context.Context, n int, last string) (tags []string, more bool, err error) {
	prefix := r.tagKey("")
	for after := prefix + last; ; {
		o := bucket.ListOptions{Prefix: prefix, StartAfter: after, NamesOnly: true}
		if n > 0 {
			o.Limit = n - len(tags) + 1
		}
		p, err := r.s.bucket.List(ctx, o)
		if err != nil {
			return nil, false, fmt.Errorf("list tags: %w", err)
		}
		for _, i := range p.Objects {
			tag := strings.TrimPrefix(i.Key, prefix)
			if !isTag(tag) {
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

// TagsVersion is another one after any change of what Tags lists, by whatever process. It is empty while that cannot be
// told for certain, and always so in storage that cannot tell it.
func (r *Repository) TagsVersion(ctx context.Context) (string, error) {
	versioner, ok := r.s.bucket.(bucket.Versioner)
	if !ok {
		return "", nil
	}
	version, err := versioner.Version(ctx, r.tagKey(""))
	if err != nil {
		return "", fmt.Errorf("list tags: %w", err)
	}
	return version, nil
}

// checkKnown returns ErrRepositoryUnknown when the repository has no manifest, and so no tag.
func (r *Repository) checkKnown(ctx context.Context) error {
	empty, err := r.empty(ctx)
	if err == nil && empty {
		err = fmt.Errorf("%w: %s", ErrRepositoryUnknown, r.name)
	}
	return err
}

// empty reports whether the repository has no manifest.
func (r *Repository) empty(ctx context.Context) (bool, error) {
	p, err := r.s.bucket.List(ctx, bucket.ListOptions{Prefix: r.key("manifests", ""), Limit: 1})
	if err != nil {
		return false, fmt.Errorf("list manifests: %w", err)
	}
	return len(p.Objects) == 0, nil
}

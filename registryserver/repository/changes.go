package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/opencontainers/go-digest"
)

// Change is what is about to become of a tag, for Options.Record.
type Change struct {
	// Repository and Tag are what it is about.
	Repository, Tag string
	// Digest, MediaType and Size are those of the manifest that the tag is about to stand for. Of a tag that is about to be
	// removed Digest is empty, and the others are those of what it stands for.
	Digest    digest.Digest
	MediaType string
	Size      int64
	// Before is what the tag stands for until then, and BeforeMark the mark of the change that made it so; empty where
	// there is no such tag, or where nobody can tell.
	Before     digest.Digest
	BeforeMark string
	// By is who pushes. Empty where the tag is about to be removed.
	By string
	// CopiedFrom is what Copying was told.
	CopiedFrom string
}

// copyingKey is the key of a context's string.
type copyingKey struct{}

// Copying marks all pushes on behalf of ctx as copies of what is elsewhere: from says of what, as in "web:1.0.0".
func Copying(ctx context.Context, from string) context.Context {
	return context.WithValue(ctx, copyingKey{}, from)
}

// Standing is what a tag stands for in the storage at this moment, and the mark of the change that made it so. Both are
// empty where there is no such tag; the mark is, too, where nobody recorded the change.
func (r *Repository) Standing(ctx context.Context, tag string) (d digest.Digest, mark string, err error) {
	if err := checkTags([]string{tag}); err != nil {
		return "", "", err
	}
	content, info, err := r.s.read(ctx, r.tagKey(tag), maxDocumentBytes)
	if errors.Is(err, bucket.ErrNotFound) {
		return "", "", nil
	}
	tooLarge := info.Size > maxDocumentBytes
	if err != nil && !tooLarge {
		return "", "", fmt.Errorf("read tag %s: %w", tag, err)
	}
	var t tagObject
	if tooLarge || json.Unmarshal(content, &t) != nil || checkDigest(t.Digest) != nil {
		return "", "", fmt.Errorf("tag %s: %w", tag, ErrTagDamaged)
	}
	return t.Digest, t.Mark, nil
}

// recorded reports whether changes of a tag are told before they are made.
func (s *Store) recorded(tag string) bool { return s.o.Record != nil && !ExemptTag(tag) }

// changed tells of a change that was made.
func (s *Store) changed(ctx context.Context, c Change) {
	if s.o.Changed != nil && !ExemptTag(c.Tag) {
		s.o.Changed(ctx, c)
	}
}

// pushOf is the change that a push of a tag makes, from what it has stood for before.
func (r *Repository) pushOf(ctx context.Context, m Manifest, tag, by string, stands tagObject) Change {
	from, _ := ctx.Value(copyingKey{}).(string)
	return Change{
		Repository: r.name, Tag: tag, Digest: m.Digest, MediaType: m.MediaType, Size: m.Size,
		Before: stands.Digest, BeforeMark: stands.Mark, By: by, CopiedFrom: from,
	}
}

// removalOf is the change that the removal of a tag makes.
func (r *Repository) removalOf(tag string, stands tagObject) Change {
	return Change{Repository: r.name, Tag: tag, MediaType: stands.MediaType, Size: stands.Size, Before: stands.Digest, BeforeMark: stands.Mark}
}

// putRecordedTag is putTag where changes are recorded. What is recorded must be what happens, so it looks before it
// writes, and writes only over what it has seen.
func (r *Repository) putRecordedTag(ctx context.Context, m Manifest, tag, by string) error {
	for {
		stands, info, err := r.readTag(ctx, tag)
		condition := bucket.Condition{ETag: info.ETag}
		switch {
		case errors.Is(err, bucket.ErrNotFound):
			stands, condition = tagObject{}, bucket.Condition{Absent: true}
		case err != nil && (info.ETag == "" || !r.s.mutable(tag)):
			return err
		case err != nil:
			stands = tagObject{}
		case stands.Digest == m.Digest:
			return nil
		default:
			if err := r.checkTag(ctx, tag, m.Digest); err != nil {
				return err
			}
		}
		change := r.pushOf(ctx, m, tag, by, stands)
		mark, done, err := r.s.o.Record(ctx, change)
		if err != nil {
			return fmt.Errorf("record the push of tag %s: %w", tag, err)
		}
		err = r.writeTag(ctx, tag, tagOf(m, r.s.o.Now(), by, mark), condition)
		var over *quota.Error
		switch {
		case err == nil:
			done(true)
			r.s.changed(ctx, change)
			if condition.ETag != "" {
				r.unlinked() // What the tag stood for before.
			}
			return nil
		case errors.As(err, &over):
			done(false)
			return err
		case !errors.Is(err, bucket.ErrExists) && !errors.Is(err, bucket.ErrChanged):
			return err // It may have been written.
		}
		// Somebody else was faster; or the answer to a write of our own was lost, and this was the second.
		if now, _, err := r.readTag(ctx, tag); err == nil {
			ours := mark != "" && now.Mark == mark
			done(ours)
			if ours {
				r.s.changed(ctx, change)
				return nil
			}
		}
	}
}

// deleteRecordedTag is deleteTag where changes are recorded.
func (r *Repository) deleteRecordedTag(ctx context.Context, tag, etag string) error {
	for first := true; ; first = false {
		stands, info, err := r.readTag(ctx, tag)
		switch {
		case errors.Is(err, bucket.ErrNotFound) && first:
			return fmt.Errorf("%w: %s has no tag %s", ErrManifestUnknown, r.name, tag)
		case errors.Is(err, bucket.ErrNotFound):
			return nil
		case err != nil && info.ETag == "":
			return fmt.Errorf("delete tag %s: %w", tag, err)
		case err != nil:
			stands = tagObject{} // A damaged one is to go too.
		}
		if etag != "" && etag != info.ETag {
			return fmt.Errorf("delete tag %s: %w", tag, bucket.ErrChanged)
		}
		err = r.removeRecordedTag(ctx, tag, stands, info.ETag)
		if err == nil || etag != "" || !errors.Is(err, bucket.ErrChanged) {
			return err
		}
	}
}

// removeRecordedTag removes a tag that was seen to stand for something. bucket.ErrChanged says that it does not any more.
func (r *Repository) removeRecordedTag(ctx context.Context, tag string, stands tagObject, etag string) error {
	_, done, err := r.s.o.Record(ctx, r.removalOf(tag, stands))
	if err != nil {
		return fmt.Errorf("record the removal of tag %s: %w", tag, err)
	}
	if err := r.removeTag(ctx, tag, stands, etag); err != nil {
		if errors.Is(err, bucket.ErrChanged) {
			done(false) // Somebody else was faster. Of any other error nobody can tell.
		}
		return err
	}
	done(true)
	r.unlinked()
	return nil
}

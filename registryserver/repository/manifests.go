package repository

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
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
	// Subject is the digest of the manifest that this one refers to; empty when it has none.
	Subject digest.Digest
	// ConfigType is the media type of the config of a manifest that is being pushed; empty when it has none.
	ConfigType string
	// Missing are the blobs and manifests that a sparse manifest lacked when it was pushed.
	Missing []digest.Digest
	// Content is the manifest, byte for byte, of a manifest that is being pushed; nil of one that is stored.
	Content []byte
}

// envelope is the first line of a manifest's object; the content follows. Without it the media type would be lost:
// Helm's manifests do not name theirs.
type envelope struct {
	MediaType string    `json:"mediaType"`
	PushedAt  time.Time `json:"pushedAt"`
	PushedBy  string    `json:"pushedBy"`
	// Subject is the manifest's, so that a delete need not read the manifest to find the list that it is in.
	Subject digest.Digest `json:"subject,omitempty"`
	// Missing is what a sparse manifest lacked when it was pushed.
	Missing []digest.Digest `json:"missing,omitempty"`
}

const (
	// maxMissing keeps an envelope of sha512 digests below maxHeaderBytes.
	maxMissing = 64
	// maxByBytes bounds the name of who pushed, which is a token's and may be made by others.
	maxByBytes = 1024
	// maxHeaderBytes bounds an envelope when it is read; its own bounds keep it below that.
	maxHeaderBytes = 16 << 10
)

// StatManifest describes the manifest behind a tag or digest without its content, which it has read and checked: a
// damaged manifest is ErrDamaged as well as ErrManifestUnknown. Errors: ErrManifestUnknown, ErrReferenceInvalid.
func (r *Repository) StatManifest(ctx context.Context, reference string) (Manifest, error) {
	s, err := r.find(ctx, reference)
	return s.Manifest, err
}

// OpenManifest is StatManifest with the content, which the caller closes. However many read slowly at once, no large
// manifest is held in memory.
func (r *Repository) OpenManifest(ctx context.Context, reference string) (io.ReadCloser, Manifest, error) {
	for {
		s, err := r.find(ctx, reference)
		if err != nil {
			return nil, Manifest{}, err
		}
		if s.content != nil {
			return readerOf(s.content), s.Manifest, nil
		}
		content, info, err := r.s.getThrough(ctx, r.manifestKey(s.Digest), &bucket.Range{Offset: s.header, Length: -1})
		if err != nil {
			return nil, Manifest{}, r.manifestError(s.Digest, err)
		}
		if info.ETag == s.etag {
			return content, s.Manifest, nil
		}
		_ = content.Close() // Deleted and pushed again since it was checked: the content may begin elsewhere now.
	}
}

// stored is a manifest as its object has it.
type stored struct {
	Manifest
	// etag is that of the object, in which the content begins behind so many bytes of header; modified is when it was
	// written.
	etag     string
	modified time.Time
	header   int64
	// content of a small manifest.
	content []byte
}

func (r *Repository) find(ctx context.Context, reference string) (stored, error) {
	tag, d, err := parseReference(reference)
	if err != nil {
		return stored{}, err
	}
	if tag != "" {
		t, err := r.servedTag(ctx, tag)
		if errors.Is(err, bucket.ErrNotFound) {
			return stored{}, fmt.Errorf("%w: %s has no tag %s", ErrManifestUnknown, r.name, tag)
		}
		if err != nil {
			return stored{}, err
		}
		d = t.Digest
	}
	s, err := r.keptManifest(ctx, d, tag != "")
	if err != nil {
		return stored{}, r.manifestError(d, err)
	}
	s.Tag = tag
	return s, nil
}

// keptManifest returns a manifest out of the cache, or reads it, and keeps a small one. tagged says that a tag stands for
// it at this moment.
func (r *Repository) keptManifest(ctx context.Context, d digest.Digest, tagged bool) (stored, error) {
	key := r.manifestKey(d)
	k, _, removals := r.s.cache.get(key)
	if k != nil && !tagged {
		var err error
		if k, removals, err = r.s.current(ctx, key); err != nil && !errors.Is(err, bucket.ErrNotFound) {
			return stored{}, fmt.Errorf("read manifest %s: %w", d, err)
		}
	}
	if k != nil {
		return k.manifest, nil
	}
	s, trashed, err := r.findManifest(ctx, d)
	if err == nil && s.content != nil && !trashed {
		r.s.cache.put(&kept{key: key, info: bucket.Info{ETag: s.etag}, manifest: s, content: s.content}, removals)
	}
	return s, err
}

func (r *Repository) manifestError(d digest.Digest, err error) error {
	if errors.Is(err, bucket.ErrNotFound) {
		return fmt.Errorf("%w: %s has no %s", ErrManifestUnknown, r.name, d)
	}
	return err
}

// findManifest is readManifest wherever the manifest is. trashed says that it is in the trash.
func (r *Repository) findManifest(ctx context.Context, d digest.Digest) (s stored, trashed bool, err error) {
	key := r.manifestKey(d)
	err = r.s.through(ctx, key, func(at string) (err error) {
		s, err = r.readManifestAt(ctx, at, d)
		trashed = at != key
		return err
	})
	return s, trashed, err
}

// readManifest checks a manifest's digest as it reads it, and keeps the content of a small one only. It returns
// bucket.ErrNotFound for a manifest that is not at its usual key.
func (r *Repository) readManifest(ctx context.Context, d digest.Digest) (stored, error) {
	return r.readManifestAt(ctx, r.manifestKey(d), d)
}

func (r *Repository) readManifestAt(ctx context.Context, key string, d digest.Digest) (stored, error) {
	object, info, err := r.s.bucket.Get(ctx, key, nil)
	if err != nil {
		return stored{}, fmt.Errorf("read manifest %s: %w", d, err)
	}
	defer object.Close()
	reader := bufio.NewReaderSize(io.LimitReader(object, maxHeaderBytes+MaxManifestBytes), int(min(info.Size+1, maxHeaderBytes)))
	var e envelope
	header, headerErr := reader.ReadSlice('\n')
	if headerErr == nil {
		headerErr = json.Unmarshal(header, &e)
	}
	verifier := d.Verifier()
	var content bytes.Buffer
	to := io.Writer(verifier)
	if info.Size <= maxKeptManifest {
		content.Grow(int(info.Size))
		to = io.MultiWriter(verifier, &content)
	}
	size, err := reader.WriteTo(to)
	if err != nil {
		return stored{}, fmt.Errorf("read manifest %s: %w: %w", d, bucket.ErrUnavailable, err)
	}
	if headerErr != nil || e.MediaType == "" || !verifier.Verified() {
		if r.s.o.Damaged != nil {
			r.s.o.Damaged(r.name, d)
		}
		return stored{}, r.damaged(d, ErrManifestUnknown)
	}
	return stored{
		Manifest: Manifest{Repository: r.name, Digest: d, MediaType: e.MediaType, Size: size, Subject: e.Subject, Missing: e.Missing},
		etag:     info.ETag,
		modified: info.Modified,
		header:   info.Size - size,
		content:  content.Bytes(),
	}, nil
}

// PutManifest stores a manifest and points tags at it: reference, when it is one, and those that follow. mediaType is
// the Content-Type of the push. by names who pushed, for the record, which keeps its first 1,024 bytes. Putting what is
// there already succeeds. Errors: ErrReferenceInvalid, ErrDigestMismatch, ErrTooLarge, ErrTagImmutable,
// *UnknownBlobsError, *InvalidManifestError.
func (r *Repository) PutManifest(ctx context.Context, reference, mediaType string, content []byte, by string, tags ...string) (Manifest, error) {
	tag, d, err := parseReference(reference)
	if err != nil {
		return Manifest{}, err
	}
	if tag != "" {
		tags = append([]string{tag}, tags...)
	}
	if err := checkTags(tags); err != nil {
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
	parsed, err := parseManifest(mediaType, content)
	if err != nil {
		return Manifest{}, err
	}
	p := push{
		Manifest: Manifest{
			Repository: r.name, Tag: tag, Digest: d, MediaType: mediaType, Size: int64(len(content)), Content: content,
			Subject: parsed.subject, ConfigType: parsed.configType,
		},
		form: parsed, tags: tags, by: strings.ToValidUTF8(by[:min(len(by), maxByBytes)], ""),
	}
	if err := r.judge(ctx, &p); err != nil {
		return Manifest{}, err
	}
	ctx, release, err := r.withRoom(ctx, p)
	if err != nil {
		return Manifest{}, err
	}
	defer release()
	return p.Manifest, r.store(ctx, p)
}

// push is a manifest that is being pushed.
type push struct {
	Manifest
	form form
	tags []string
	by   string
	// coming is the tag that is expected of a push by digest.
	coming string
	// lacking is what the manifests of an index did not have when it was judged.
	lacking map[id]bool
}

// judge says whether a push may go on. It sets Missing and coming.
func (r *Repository) judge(ctx context.Context, p *push) error {
	for _, tag := range p.tags {
		if err := r.checkTag(ctx, tag, p.Digest); err != nil {
			return err
		}
	}
	if err := r.checkComplete(ctx, p); err != nil {
		return err
	}
	var err error
	if p.lacking, err = r.below(ctx, p.form.needs); err != nil {
		return err
	}
	if r.s.o.Check == nil {
		return nil
	}
	if len(p.tags) == 0 {
		p.coming, err = r.s.o.Check(ctx, r, p.Manifest)
		return err
	}
	for _, tag := range p.tags {
		m := p.Manifest
		m.Tag = tag
		if _, err := r.s.o.Check(ctx, r, m); err != nil {
			return err
		}
	}
	return nil
}

// store writes a manifest, and then what leads to it: nothing ever leads to what is not there.
//
// Garbage collection moves what nothing names into the trash and then looks again for what names it; a push writes what
// names something and then looks whether that is at its usual key, and brings it back from the trash. Whatever their
// order, one of the two sees what the other did, so a push that succeeds loses nothing.
func (r *Repository) store(ctx context.Context, p push) error {
	for {
		before, _, err := r.storeManifest(ctx, p)
		if err != nil {
			return err
		}
		if len(p.tags) == 0 && !r.s.young(before.modified) {
			// Nothing need lead to it yet: whoever pushes by digest is about to push the tag, or an index.
			err := r.hold(ctx, r.manifestKey(p.Digest), p.Digest)
			if errors.Is(err, bucket.ErrNotFound) {
				continue // Deleted, or freed, since.
			}
			if err != nil {
				return fmt.Errorf("store manifest %s: %w", p.Digest, err)
			}
		}
		if err := r.checkKept(ctx, p); err != nil {
			return err
		}
		if len(p.tags) == 0 && p.Subject == "" {
			return nil
		}
		if err := r.link(ctx, p); err != nil {
			return err
		}
		// A delete of the manifest that began before these were there has not removed them, but perhaps the manifest; and
		// one that began later may have removed them before it.
		after, written, err := r.storeManifest(ctx, p)
		switch {
		case err != nil:
			return err
		case written:
			continue
		case after.etag == before.etag && r.s.young(after.modified):
			return nil // It named its blobs all the time since they were looked at.
		}
		return r.checkKept(ctx, p)
	}
}

// link writes what leads to a manifest that is stored.
func (r *Repository) link(ctx context.Context, p push) error {
	if err := r.putReferrer(ctx, p); err != nil {
		return err
	}
	for _, tag := range p.tags {
		if err := r.putTag(ctx, p.Manifest, tag, p.by); err != nil {
			return err
		}
	}
	return nil
}

// checkKept finds out whether garbage collection, or somebody's delete, has taken away what a manifest names since it
// was judged.
func (r *Repository) checkKept(ctx context.Context, p push) error {
	err := r.checkPresent(ctx, slices.DeleteFunc(slices.Clone(p.form.needs), func(n descriptor) bool {
		return slices.Contains(p.Missing, n.digest)
	}))
	if err != nil {
		return err
	}
	lacking, err := r.below(ctx, p.form.needs)
	if err != nil {
		return err
	}
	unknown := &UnknownBlobsError{}
	for lost := range lacking {
		if !p.lacking[lost] {
			unknown.Digests = append(unknown.Digests, lost.digest())
		}
	}
	if unknown.Digests != nil {
		slices.Sort(unknown.Digests)
		return unknown
	}
	return nil
}

// checkComplete compares what a manifest names with what the repository has, and notes what a sparse one lacks.
func (r *Repository) checkComplete(ctx context.Context, p *push) error {
	err := r.checkPresent(ctx, p.form.needs)
	var unknown *UnknownBlobsError
	if !errors.As(err, &unknown) || r.s.o.Sparse == nil || !r.s.o.Sparse(p.Manifest) {
		return err
	}
	if len(unknown.Digests) > maxMissing {
		return invalid("the manifest names %d blobs or manifests that the repository does not have, and may lack %d at most: push some of them first", len(unknown.Digests), maxMissing)
	}
	p.Missing = unknown.Digests
	return nil
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
			if errors.Is(err, ErrBlobUnknown) || errors.Is(err, ErrDamaged) || errors.Is(err, bucket.ErrNotFound) {
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

// sizeOf is the size of what a manifest names, which is brought back from the trash where it is there.
func (r *Repository) sizeOf(ctx context.Context, n descriptor) (int64, error) {
	if n.manifest {
		var m stored
		err := r.s.recovered(ctx, r.manifestKey(n.digest), func() (err error) {
			m, err = r.readManifest(ctx, n.digest)
			return err
		})
		return m.Size, err
	}
	var info bucket.Info
	err := r.s.recovered(ctx, r.blobKey(n.digest), func() (err error) {
		info, err = r.s.bucket.Head(ctx, r.blobKey(n.digest))
		return err
	})
	b, err := r.describeBlob(n.digest, info, err)
	if err == nil && b.Size != n.size {
		err = r.checkBlob(ctx, n.digest)
	}
	return b.Size, err
}

// storeManifest stores a manifest unless it is there. A damaged one is replaced. written says whether it was not there.
// Of what it returns, only etag and modified are for use.
func (r *Repository) storeManifest(ctx context.Context, p push) (there stored, written bool, err error) {
	there, readErr := r.readManifest(ctx, p.Digest)
	if readErr == nil {
		if there.MediaType != p.MediaType {
			return there, false, invalid("the manifest %s was pushed before as %s, not as %s", p.Digest, there.MediaType, p.MediaType)
		}
		return there, false, nil
	}
	if err := ctx.Err(); err != nil {
		return there, false, err
	}
	header, err := json.Marshal(envelope{
		MediaType: p.MediaType, PushedAt: r.s.o.Now().UTC(), PushedBy: p.by, Subject: p.Subject, Missing: p.Missing,
	})
	if err != nil {
		return there, false, fmt.Errorf("store manifest %s: %w", p.Digest, err)
	}
	object := append(append(header, '\n'), p.Content...)
	missing := errors.Is(readErr, bucket.ErrNotFound)
	info, err := r.s.bucket.Put(ctx, r.manifestKey(p.Digest), bytes.NewReader(object), int64(len(object)), bucket.Condition{Absent: missing})
	if errors.Is(err, bucket.ErrExists) {
		return r.storeManifest(ctx, p) // Somebody else was faster: compare with what they stored.
	}
	if err != nil {
		return there, false, fmt.Errorf("store manifest %s: %w", p.Digest, err)
	}
	return stored{etag: info.ETag, modified: info.Modified}, true, nil
}

// DeleteManifest removes a tag (the manifest stays), or a manifest with all that leads to it: the tags that stand for
// it, which costs a read of every tag of the repository, and its entry among the referrers of its subject. Error:
// ErrManifestUnknown.
func (r *Repository) DeleteManifest(ctx context.Context, reference string) error {
	tag, d, err := parseReference(reference)
	if err != nil {
		return err
	}
	if tag != "" {
		return r.deleteTag(ctx, tag, "")
	}
	m, _, err := r.findManifest(ctx, d)
	if errors.Is(err, bucket.ErrNotFound) {
		return r.manifestError(d, err)
	}
	if err != nil {
		// A damaged one is to go too. Lists leave out what they cannot find, should it have been a referrer.
		if _, err := r.s.headThrough(ctx, r.manifestKey(d)); err != nil {
			return r.manifestError(d, fmt.Errorf("delete manifest %s: %w", d, err))
		}
	}
	seen := map[string]string{}
	unlink := func() error {
		if err := r.deleteTagsOf(ctx, d, seen); err != nil {
			return err
		}
		return r.deleteReferrer(ctx, m.Subject, d)
	}
	if err := unlink(); err != nil {
		return err
	}
	if err := r.s.erase(ctx, r.manifestKey(d)); err != nil {
		return fmt.Errorf("delete manifest %s: %w", d, err)
	}
	r.unlinked()
	// What a push has made meanwhile would lead to nothing, unless it has stored the manifest again.
	if _, err := r.s.bucket.Head(ctx, r.manifestKey(d)); errors.Is(err, bucket.ErrNotFound) {
		return unlink()
	}
	return nil
}

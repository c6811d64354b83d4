package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	// maxReferrers bounds the referrers that one call looks at, and maxReferrersBytes what it reads of them, unless the
	// first alone is larger.
	maxReferrers      = 100
	maxReferrersBytes = 1 << 20

	// maxReferrerBytes bounds one: the annotations of a manifest, and little else.
	maxReferrerBytes = MaxManifestBytes + maxDocumentBytes
)

// ErrReferrerDamaged says that nothing tells any more what the list of a subject's referrers shows of one. It is
// bucket.ErrUnavailable too, so that nobody takes a signature for one that is not there.
var ErrReferrerDamaged = fmt.Errorf("the referrer is damaged: %w: push it again to mend it", bucket.ErrUnavailable)

// Referrer describes a manifest that refers to a subject, as lists of referrers show it (OCI Distribution
// Specification, "Listing Referrers").
type Referrer struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	// Size of the manifest in bytes.
	Size int64 `json:"size"`
	// ArtifactType is the manifest's, or the media type of its config where it has none.
	ArtifactType string `json:"artifactType,omitempty"`
	// Annotations are those of the manifest: a JSON object of strings, or nil.
	Annotations json.RawMessage `json:"annotations,omitempty"`
}

// Referrers lists manifests that refer to subject, in the order of their digests, those behind last; "" begins. With an
// artifactType, only those of that type are listed. It looks at no more than 100, so the list may be short, or empty,
// and yet have a next, which is the last that continues it; empty at the end. That there is no such subject, or no
// such repository, is no error. Errors: ErrDigestUnsupported, ErrReferrerDamaged.
func (r *Repository) Referrers(ctx context.Context, subject digest.Digest, artifactType, last string) (list []Referrer, next string, err error) {
	if err := checkDigest(subject); err != nil {
		return nil, "", err
	}
	prefix := r.referrersPrefix(subject)
	page, err := r.s.bucket.List(ctx, bucket.ListOptions{Prefix: prefix, StartAfter: prefix + last, Limit: maxReferrers})
	if err != nil {
		return nil, "", fmt.Errorf("list referrers: %w", err)
	}
	objects := page.Objects
	if page.Next != "" {
		next = path.Base(page.Next)
	}
	var size int64
	for i, o := range objects {
		if size += o.Size; size > maxReferrersBytes && i > 0 {
			objects, next = objects[:i], path.Base(objects[i-1].Key)
			break
		}
	}
	found := make([]*Referrer, len(objects))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	for i, o := range objects {
		group.Go(func() (err error) {
			found[i], err = r.readReferrer(groupCtx, o.Key)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, "", err
	}
	for _, f := range found {
		if f != nil && (artifactType == "" || f.ArtifactType == artifactType) {
			list = append(list, *f)
		}
	}
	return list, next, nil
}

// readReferrer returns nil for one whose manifest is not there.
func (r *Repository) readReferrer(ctx context.Context, key string) (*Referrer, error) {
	content, info, err := r.s.read(ctx, key, maxReferrerBytes)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil, nil
	}
	if err != nil && info.Size <= maxReferrerBytes {
		return nil, fmt.Errorf("read referrer: %w", err)
	}
	var f Referrer
	if err != nil || json.Unmarshal(content, &f) != nil || checkDigest(f.Digest) != nil || digestSegment(f.Digest) != path.Base(key) {
		return nil, fmt.Errorf("referrer %s: %w", path.Base(key), ErrReferrerDamaged)
	}
	// A process that was killed in the middle of a delete or a push may have left the entry alone.
	if _, err := r.s.headThrough(ctx, r.manifestKey(f.Digest)); errors.Is(err, bucket.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", f.Digest, err)
	}
	return &f, nil
}

// putReferrer adds a manifest to the list of its subject's referrers; one without a subject is in none.
func (r *Repository) putReferrer(ctx context.Context, p push) error {
	if p.Subject == "" {
		return nil
	}
	content, err := p.form.referrer(p.Manifest)
	if err == nil {
		err = r.s.write(ctx, r.referrerKey(p.Subject, p.Digest), content, bucket.Condition{})
		r.referred(p.Subject)
	}
	if err != nil {
		return fmt.Errorf("store referrer %s: %w", p.Digest, err)
	}
	return nil
}

func (r *Repository) deleteReferrer(ctx context.Context, subject, d digest.Digest) error {
	if subject == "" {
		return nil
	}
	err := r.s.bucket.Delete(ctx, r.referrerKey(subject, d), bucket.Condition{})
	r.referred(subject)
	if err != nil {
		return fmt.Errorf("delete referrer %s: %w", d, err)
	}
	return nil
}

// referred is called after an attempt to change the list of a subject's referrers, also one that failed: its answer may
// have been lost.
func (r *Repository) referred(subject digest.Digest) {
	if r.s.o.Referred != nil {
		r.s.o.Referred(r.name, subject)
	}
}

// referrer is the document that stands for a manifest in the list of its subject's referrers.
func (f form) referrer(m Manifest) ([]byte, error) {
	artifactType := f.artifactType
	if artifactType == "" {
		artifactType = f.configType
	}
	var document bytes.Buffer
	encoder := json.NewEncoder(&document)
	// Escaping could make annotations six times as long.
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(Referrer{
		MediaType: m.MediaType, Digest: m.Digest, Size: m.Size, ArtifactType: artifactType, Annotations: f.annotations,
	})
	return document.Bytes(), err
}

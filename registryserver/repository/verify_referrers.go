package repository

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

// expected is the entry that a good manifest must have among the referrers of its subject.
type expected struct {
	subject digest.Digest
	// document is the digest of the entry's content.
	document digest.Digest
}

// fromSegment is the inverse of digestSegment; ok is false for what is no digest.
func fromSegment(s string) (d digest.Digest, ok bool) {
	d = digest.Digest(strings.Replace(s, "-", ":", 1))
	return d, checkDigest(d) == nil
}

// expect notes the entry that a manifest must have; one without a subject has none.
func (c *chartContent) expect(d digest.Digest, e envelope, f form, size int) error {
	if f.subject == "" {
		return nil
	}
	document, err := f.referrer(Manifest{MediaType: e.MediaType, Digest: d, Size: int64(size)})
	if err != nil {
		return fmt.Errorf("verify referrer %s: %w", d, err)
	}
	c.referrers[d] = expected{f.subject, digest.FromBytes(document)}
	return nil
}

// referrer verifies the entry of a manifest in the list of the referrers of a subject, both of which its key has.
func (v *verification) referrer(ctx context.Context, key, subjectSegment, segment string) error {
	subject, subjectOK := fromSegment(subjectSegment)
	d, ok := fromSegment(segment)
	if !subjectOK || !ok {
		v.foreign(key)
		return nil
	}
	c := v.chart
	if want, ok := c.referrers[d]; ok && want.subject == subject {
		good, err := c.listed(ctx, d, want)
		if good {
			delete(c.referrers, d)
		}
		return err
	}
	if _, err := v.s.bucket.Head(ctx, c.manifestKey(d)); errors.Is(err, bucket.ErrNotFound) {
		v.harmless(c.name, key, "it is the entry of a manifest that is gone", "nothing: lists of referrers leave it out")
	} else if err != nil {
		return err
	}
	return nil
}

// listed reports whether the entry is as it must be. One that cannot be read is not.
func (c *chartContent) listed(ctx context.Context, d digest.Digest, want expected) (bool, error) {
	content, _, err := c.s.read(ctx, c.referrerKey(want.subject, d), maxReferrerBytes)
	return err == nil && digest.FromBytes(content) == want.document, ctx.Err()
}

// unlisted reports manifests whose entries among the referrers of their subjects are missing or damaged, and writes
// them anew where repairs are wanted.
func (v *verification) unlisted(ctx context.Context, c *chartContent) error {
	for _, d := range slices.Sorted(maps.Keys(c.referrers)) {
		want := c.referrers[d]
		good, err := c.listed(ctx, d, want)
		if err != nil {
			return err
		}
		if good {
			continue // Pushed meanwhile.
		}
		object, _, err := v.s.read(ctx, c.manifestKey(d), maxHeaderBytes+MaxManifestBytes)
		if errors.Is(err, bucket.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		f := Finding{
			Repository: c.name, Key: c.referrerKey(want.subject, d),
			Problem: fmt.Sprintf("the list of the referrers of %s lacks the manifest %s, or has it wrong", want.subject, d),
			Advice:  "push the manifest again; --repair puts the list right",
		}
		if v.o.Repair {
			if err := c.list(ctx, object, d); err != nil {
				return err
			}
			f.Repaired = "written anew from the manifest"
		}
		v.problem(f)
	}
	return nil
}

// list writes the entry of a manifest from the manifest's object.
func (r *Repository) list(ctx context.Context, object []byte, d digest.Digest) error {
	e, content, _ := cutEnvelope(object)
	parsed, err := parseManifest(e.MediaType, content)
	if err != nil {
		return err
	}
	return r.putReferrer(ctx, push{
		Manifest: Manifest{MediaType: e.MediaType, Digest: d, Size: int64(len(content)), Subject: parsed.subject},
		form:     parsed,
	})
}

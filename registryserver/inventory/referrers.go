package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"regexp"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// refers is what refers to one manifest.
type refers struct {
	// signatures and others count those that there are.
	signatures, others uint32
	// sum tells the lists that they were counted from apart; 0 says that they are to be counted again.
	sum uint64
}

// Referred tells that this process put or deleted a referrer of subject. It does not wait for anything.
func (i *Inventory) Referred(repository string, subject digest.Digest) {
	// No tag has a ":" in it.
	i.queue.add(repository, subject.String(), func() uint64 { return i.changes.note(repository) })
}

// apart divides what the queue has of a repository.
func apart(queued []string) (tags []string, subjects []digest.Digest) {
	for _, q := range queued {
		if strings.Contains(q, ":") {
			subjects = append(subjects, digest.Digest(q))
		} else {
			tags = append(tags, q)
		}
	}
	return tags, subjects
}

const (
	// maxCounted bounds the referrers of one manifest that are counted, the first by their digests, and maxCountedBytes about
	// what is read of them: after each change they are read anew, one by one.
	maxCounted      = 200
	maxCountedBytes = 4 << 20
)

// add adds one more to the sum of a list of which i are in it.
func (r *refers) add(i int, referrer digest.Digest) {
	if i >= maxCounted {
		return
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(referrer))
	r.sum += h.Sum64() // In whatever order.
}

// staleSubjects are those of which what is known is not what is listed.
func (i *Inventory) staleSubjects(ctx context.Context, r *repository.Repository) ([]digest.Digest, error) {
	leave, err := i.reading.Enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	listed := map[digest.Digest]*refers{}
	n := 0 // Of one subject.
	err = r.EachReferrer(ctx, func(subject, referrer digest.Digest) error {
		if listed[subject] == nil {
			listed[subject] = &refers{}
			n = 0
		}
		listed[subject].add(n, referrer)
		n++
		return nil
	})
	if err != nil {
		return nil, err
	}
	known := map[string]refers{}
	if c := i.content(r.Name()); c != nil {
		known = c.refers
	}
	var stale []digest.Digest
	for subject, now := range listed {
		if before, ok := known[hashOf(subject)]; !ok || before.sum != now.sum {
			stale = append(stale, subject)
		}
	}
	for hash := range known {
		if subject := digestOf(hash); listed[subject] == nil {
			stale = append(stale, subject)
		}
	}
	return stale, nil
}

// readReferrers brings what refers to some manifests of a repository up to date. unread says that there is one of which
// that could not be read.
func (i *Inventory) readReferrers(ctx context.Context, r *repository.Repository, subjects []digest.Digest) (changed, unread bool, err error) {
	if len(subjects) == 0 {
		return false, false, nil
	}
	found := make(map[string]refers, len(subjects))
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(i.o.Parallel)
	for _, subject := range subjects {
		group.Go(func() error {
			of, err := i.countReferrers(groupCtx, r, subject)
			if groupCtx.Err() != nil {
				return groupCtx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				unread = true
				return nil
			}
			found[hashOf(subject)] = of
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return false, false, err
	}
	before := i.content(r.Name())
	if before == nil {
		before = &content{name: r.Name()}
	}
	after := before.referred(found)
	if after == before {
		return false, unread, nil
	}
	i.put(after)
	return true, unread, nil
}

// countReferrers counts what refers to a manifest: nothing where the list of it is damaged, until that is mended.
func (i *Inventory) countReferrers(ctx context.Context, r *repository.Repository, subject digest.Digest) (refers, error) {
	var of refers
	leave, err := i.reading.Enter(ctx)
	if err != nil {
		return of, err
	}
	defer leave()
	counted, size := 0, 0
	for last := ""; ; {
		list, next, err := r.Referrers(ctx, subject, "", last)
		if errors.Is(err, repository.ErrReferrerDamaged) {
			return refers{}, nil
		}
		if err != nil {
			return of, fmt.Errorf("read what refers to %s: %w", subject, err)
		}
		for _, referrer := range list[:min(len(list), maxCounted-counted)] {
			of.add(counted, referrer.Digest)
			counted++
			size += len(referrer.Annotations)
			if isSignature(referrer) {
				of.signatures++
			} else {
				of.others++
			}
		}
		if last = next; last == "" || counted == maxCounted || size >= maxCountedBytes {
			return of, nil
		}
	}
}

const (
	sigstoreBundle = "application/vnd.dev.sigstore.bundle"
	// What a bundle says, and what it says when it is a signature (sigstore/cosign, "Cosign Bundle Specification").
	predicateAnnotation = "dev.sigstore.bundle.predicateType"
	signPredicate       = "https://sigstore.dev/cosign/sign/"
)

// isSignature tells signatures from attestations, bills of materials and whatever else refers to a manifest.
func isSignature(r repository.Referrer) bool {
	if strings.HasPrefix(r.ArtifactType, sigstoreBundle) {
		var annotations map[string]string
		_ = json.Unmarshal(r.Annotations, &annotations) // What is none says nothing.
		predicate := annotations[predicateAnnotation]
		return predicate == "" || strings.HasPrefix(predicate, signPredicate)
	}
	return strings.HasPrefix(r.ArtifactType, "application/vnd.cncf.notary.signature") ||
		strings.HasPrefix(r.ArtifactType, "application/vnd.dev.cosign.artifact.sig")
}

// attached are tags that older programs name after the manifest that they refer to (sigstore/cosign, "Signature
// Specification").
var attached = regexp.MustCompile(`^(sha256|sha512)-([0-9a-f]{64,128})\.(sig|att|sbom)$`)

// referredTags adds up what is attached by tags.
func referredTags(records []*record) map[string]refers {
	var all map[string]refers
	for _, r := range records {
		if r.has(isChart) {
			continue
		}
		m := attached.FindStringSubmatch(r.tag())
		if m == nil {
			continue
		}
		hash := hashOf(digest.Digest(m[1] + ":" + m[2]))
		if hash == "" {
			continue
		}
		if all == nil {
			all = map[string]refers{}
		}
		of := all[hash]
		if m[3] == "sig" {
			of.signatures++
		} else {
			of.others++
		}
		all[hash] = of
	}
	return all
}

// referred is a content in which that is known of what refers to some manifests. It is c itself where that changes nothing.
func (c *content) referred(found map[string]refers) *content {
	all := maps.Clone(c.refers)
	if all == nil {
		all = map[string]refers{}
	}
	for hash, of := range found {
		if of.signatures+of.others == 0 {
			delete(all, hash)
		} else {
			all[hash] = of
		}
	}
	if maps.Equal(all, c.refers) {
		return c
	}
	changed := *c
	changed.refers = all
	return &changed
}

// refersTo is what refers to the manifest of a record.
func (c *content) refersTo(r *record) (signatures, others int) {
	hash := r.hash(manifestHash)
	listed, tagged := c.refers[hash], c.tagged[hash]
	return int(listed.signatures + tagged.signatures), int(listed.others + tagged.others)
}

package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/opencontainers/go-digest"
)

const (
	layoutVersion = 1
	layoutKey     = "layout.json"
	probeKey      = "probe"

	// maxDocumentBytes bounds layout documents and tags when they are read.
	maxDocumentBytes = 64 << 10

	defaultMaxBlobBytes = 1 << 30
)

// Options are what a Store may be told; the zero value is good.
type Options struct {
	// MaxBlobBytes bounds one blob; 0 means 1 GiB.
	MaxBlobBytes int64
	// TagMutable says whether a tag may be moved to another digest; nil: none may. The tags of
	// ExemptTag may always.
	TagMutable func(tag string) bool
	// Sparse says whether a manifest that is being pushed may lack what it names: blobs, or manifests of an index. nil:
	// none may.
	Sparse func(m Manifest) bool
	// Check judges a manifest beyond the specification, before it is stored; nil passes all. An *InvalidManifestError
	// is shown to the person who pushed. r is the repository that it is pushed to, whose blobs it may read. It returns the
	// tag that the content asks for, "" where it asks for none: who pushes by digest is about to push that one.
	Check func(ctx context.Context, r *Repository, m Manifest) (tag string, err error)
	// Damaged, when not nil, is called when a blob or manifest turns out to be damaged: once for each blob, and each time
	// that somebody asks for a manifest.
	Damaged func(repository string, d digest.Digest)
	// MaxChartBytes bounds one blob as MaxBlobBytes does, with words for who pushes a chart: what a blob is part of is
	// not known before its manifest comes. 0 means no such bound.
	MaxChartBytes int64
	// Quota, when not nil, counts what is stored, and refuses what is over its limits, with *quota.Error. Its Count is Count
	// of the same bucket.
	Quota *quota.Tracker
	// Grace is how long garbage collection leaves alone what nothing names: whoever pushed it, or was told that it is
	// there, may be about to name it. 0 means 24 hours.
	Grace time.Duration
	// Unlinked, when not nil, is called when something in a repository may have become garbage.
	Unlinked func(repository string)
	// Tagged, when not nil, is called after each attempt of this store to put, move or delete a tag, whatever came of it. It
	// must be quick, and is called from many goroutines.
	Tagged func(repository, tag string)
	// Record, when not nil, is called before a tag begins to stand for something else, or ends to, unless it is one of
	// ExemptTag. An error breaks the push or delete off. mark is kept with the tag; it tells this change from all others.
	// done is called once it is certain whether the change was made, and not at all where that cannot be known.
	Record func(ctx context.Context, c Change) (mark string, done func(happened bool), err error)
	// Changed, when not nil, is called once a tag stands for something else, or no longer does, unless it is one of
	// ExemptTag. Of a tag that was removed it may lack what that stood for. It must be quick, and is called from many
	// goroutines. What happened although its answer was lost is not told.
	Changed func(ctx context.Context, c Change)
	// Cache bounds what is kept in memory.
	Cache CacheOptions
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Store is the content of one registry.
type Store struct {
	bucket   bucket.Bucket
	o        Options
	verdicts verdicts
	cache    cache
	leases   leases
	learnt   known
}

// layout is the document at the root of a bucket.
type layout struct {
	Version      int    `json:"version"`
	Organization string `json:"organization"`
	Registry     string `json:"registry"`
}

// Open makes b the store of the registry owner ("organization/slug"): it writes the layout document into an empty
// bucket and otherwise refuses a bucket of another owner, of an unknown layout version, or whose content is
// being deleted. A bucket that cannot be written to but has the document opens, so that reading goes on. An empty owner stands for whoever owns b; then a
// bucket without the document is ErrNoRegistry, and nothing is written.
func Open(ctx context.Context, b bucket.Bucket, owner string, o Options) (*Store, error) {
	organization, registry, found := strings.Cut(owner, "/")
	if owner == "" {
		found, organization, registry = true, "any", "any"
	}
	if !found || organization == "" || registry == "" || strings.Contains(registry, "/") {
		return nil, fmt.Errorf("open store: the owner %q is not of the form organization/registry", owner)
	}
	if o.MaxBlobBytes <= 0 {
		o.MaxBlobBytes = defaultMaxBlobBytes
	}
	if o.Grace <= 0 {
		o.Grace = defaultGrace
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{bucket: b, o: o, cache: cache{o: o.Cache}}
	if o.Quota != nil {
		s.bucket = newCounted(b, o.Quota, o.Now)
	}
	switch _, err := s.bucket.Head(ctx, purgingKey); {
	case err == nil:
		return nil, fmt.Errorf("open store: %w: it can be used again when that has come to its end", ErrPurging)
	case !errors.Is(err, bucket.ErrNotFound):
		return nil, fmt.Errorf("open store: %w", err)
	}
	want := layoutOf(owner)
	got, err := s.readLayout(ctx)
	if errors.Is(err, bucket.ErrNotFound) {
		if owner == "" {
			return nil, fmt.Errorf("open store: %w: it has no %s", ErrNoRegistry, layoutKey)
		}
		if err := s.writeLayout(ctx, want); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
		got, err = s.readLayout(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if got.Version != layoutVersion {
		return nil, fmt.Errorf("open store: it has layout version %d, and this program knows version %d: use the program that wrote it, or a newer one", got.Version, layoutVersion)
	}
	if owner != "" && got != want {
		return nil, fmt.Errorf("open store: it belongs to the registry %s/%s, not to %s: give each registry storage of its own", got.Organization, got.Registry, owner)
	}
	return s, nil
}

func (s *Store) readLayout(ctx context.Context) (layout, error) {
	return s.readLayoutAt(ctx, layoutKey)
}

func (s *Store) readLayoutAt(ctx context.Context, key string) (layout, error) {
	var l layout
	content, _, err := s.read(ctx, key, maxDocumentBytes)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(content, &l); err != nil {
		return l, fmt.Errorf("%s is damaged: %w: %w: write it again, as {\"version\":%d,\"organization\":\"…\",\"registry\":\"…\"} with the names that this registry had", key, bucket.ErrUnavailable, err, layoutVersion)
	}
	return l, nil
}

// writeLayout claims an empty bucket. Of several that do so at the same moment, one wins, and all read what it wrote.
func (s *Store) writeLayout(ctx context.Context, l layout) error {
	if err := s.checkEmpty(ctx); err != nil {
		return err
	}
	content, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := s.write(ctx, layoutKey, content, bucket.Condition{Absent: true}); !errors.Is(err, bucket.ErrExists) {
		return err
	}
	return nil
}

// Check reports whether the store can be read, and whether it can be written to: it reads the layout document and
// writes and deletes a probe object. For readiness.
func (s *Store) Check(ctx context.Context) (readable, writable error) {
	_, readable = s.readLayout(ctx)
	// Replicas that probe at the same moment do not disturb each other: deleting what is gone is no error.
	writable = s.write(ctx, probeKey, []byte("{}"), bucket.Condition{})
	if writable == nil {
		writable = s.bucket.Delete(ctx, probeKey, bucket.Condition{})
	}
	return readable, writable
}

// read reads a small object whole. Errors: bucket.ErrNotFound, bucket.ErrUnavailable.
func (s *Store) read(ctx context.Context, key string, limit int64) ([]byte, bucket.Info, error) {
	r, info, err := s.bucket.Get(ctx, key, nil)
	if err != nil {
		return nil, info, err
	}
	defer r.Close()
	if info.Size > limit {
		return nil, info, fmt.Errorf("%s is damaged: %w: it has %d bytes", key, bucket.ErrUnavailable, info.Size)
	}
	content := make([]byte, info.Size)
	if _, err := io.ReadFull(r, content); err != nil {
		return nil, info, fmt.Errorf("read %s: %w: %w", key, bucket.ErrUnavailable, err)
	}
	return content, info, nil
}

func (s *Store) write(ctx context.Context, key string, content []byte, c bucket.Condition) error {
	_, err := s.bucket.Put(ctx, key, bytes.NewReader(content), int64(len(content)), c)
	return err
}

// each calls f with every object below prefix, in order, until f returns an error.
func (s *Store) each(ctx context.Context, prefix string, f func(bucket.Info) error) error {
	return s.eachOf(ctx, bucket.ListOptions{Prefix: prefix}, f)
}

// eachOf is each of what o lists, by the page.
func (s *Store) eachOf(ctx context.Context, o bucket.ListOptions, f func(bucket.Info) error) error {
	for {
		p, err := s.bucket.List(ctx, o)
		if err != nil {
			return fmt.Errorf("list %s: %w", o.Prefix, err)
		}
		for _, i := range p.Objects {
			if err := f(i); err != nil {
				return err
			}
		}
		if p.Next == "" {
			return nil
		}
		o.StartAfter = p.Next
	}
}

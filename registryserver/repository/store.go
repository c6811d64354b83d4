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
	// TagMutable says whether a tag may be moved to another digest; nil: none may. Tags that begin with "sha256-" or
	// "sha512-" and the tag "artifacthub.io", which signatures and metadata use, may always.
	TagMutable func(tag string) bool
	// Check judges a manifest beyond the specification, before it is stored; nil passes all. An *InvalidManifestError
	// is shown to the person who pushed.
	Check func(ctx context.Context, m Manifest) error
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Store is the content of one registry.
type Store struct {
	bucket bucket.Bucket
	o      Options
}

// layout is the document at the root of a bucket.
type layout struct {
	Version      int    `json:"version"`
	Organization string `json:"organization"`
	Registry     string `json:"registry"`
}

// Open makes b the store of the registry owner ("organization/slug"): it writes the layout document into an empty
// bucket and otherwise refuses a bucket of another owner or of an unknown layout version. A bucket that cannot be
// written to but has the document opens, so that reading goes on.
func Open(ctx context.Context, b bucket.Bucket, owner string, o Options) (*Store, error) {
	organization, registry, found := strings.Cut(owner, "/")
	if !found || organization == "" || registry == "" || strings.Contains(registry, "/") {
		return nil, fmt.Errorf("open store: the owner %q is not of the form organization/registry", owner)
	}
	if o.MaxBlobBytes <= 0 {
		o.MaxBlobBytes = defaultMaxBlobBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{bucket: b, o: o}
	want := layout{Version: layoutVersion, Organization: organization, Registry: registry}
	got, err := s.readLayout(ctx)
	if errors.Is(err, bucket.ErrNotFound) {
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
	if got != want {
		return nil, fmt.Errorf("open store: it belongs to the registry %s/%s, not to %s: give each registry storage of its own", got.Organization, got.Registry, owner)
	}
	return s, nil
}

func (s *Store) readLayout(ctx context.Context) (layout, error) {
	var l layout
	content, _, err := s.read(ctx, layoutKey, maxDocumentBytes)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(content, &l); err != nil {
		return l, fmt.Errorf("%s is damaged: %w: %w", layoutKey, bucket.ErrUnavailable, err)
	}
	return l, nil
}

// writeLayout claims an empty bucket. Of several that do so at the same moment, one wins, and all read what it wrote.
func (s *Store) writeLayout(ctx context.Context, l layout) error {
	p, err := s.bucket.List(ctx, bucket.ListOptions{Limit: 2})
	if err != nil {
		return err
	}
	for _, i := range p.Objects {
		if i.Key != layoutKey {
			return fmt.Errorf("the storage is not empty (it has %s) and has no %s: it is not this program's, or it was damaged", i.Key, layoutKey)
		}
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
	for after := ""; ; {
		p, err := s.bucket.List(ctx, bucket.ListOptions{Prefix: prefix, StartAfter: after})
		if err != nil {
			return err
		}
		for _, i := range p.Objects {
			if err := f(i); err != nil {
				return err
			}
		}
		if p.Next == "" {
			return nil
		}
		after = p.Next
	}
}

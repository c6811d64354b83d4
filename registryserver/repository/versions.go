package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// Version is a tag with what is known of its push.
type Version struct {
	Tag string
	// Digest, MediaType and Size are those of the manifest that the tag stands for.
	Digest    digest.Digest
	MediaType string
	Size      int64
	// PushedAt is when the tag was pushed, by the clock of the server that took it, and PushedBy who pushed it.
	PushedAt time.Time
	PushedBy string
	// ETag is that of the tag's object: another one as soon as the tag was pushed again.
	ETag string
}

// Versions reads every tag of the repository, which costs a request for each, and keeps none of them in the store's
// cache. They come in no order. Damaged tags are left out: Verify reports them.
func (r *Repository) Versions(ctx context.Context) ([]Version, error) {
	var mu sync.Mutex
	var versions []Version
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	err := r.s.each(groupCtx, r.tagKey(""), func(i bucket.Info) error {
		tag := path.Base(i.Key)
		if !isTag(tag) {
			return nil
		}
		group.Go(func() error {
			content, info, err := r.s.read(groupCtx, i.Key, maxDocumentBytes)
			if errors.Is(err, bucket.ErrNotFound) {
				return nil
			}
			if err != nil && info.Size <= maxDocumentBytes {
				return err
			}
			var t tagObject
			if err != nil || json.Unmarshal(content, &t) != nil || checkDigest(t.Digest) != nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			versions = append(versions, Version{
				Tag: tag, Digest: t.Digest, MediaType: t.MediaType, Size: t.Size, PushedAt: t.PushedAt, PushedBy: t.PushedBy, ETag: info.ETag,
			})
			return nil
		})
		return nil
	})
	if groupErr := group.Wait(); groupErr != nil {
		err = groupErr
	}
	if err != nil {
		return nil, fmt.Errorf("read the tags of %s: %w", r.name, err)
	}
	return versions, nil
}

// DeleteVersion removes a tag, as DeleteManifest does, if it is still as Versions read it. One that was moved or pushed
// again meanwhile stays, which is bucket.ErrChanged; one that was deleted is ErrManifestUnknown, or bucket.ErrChanged.
func (r *Repository) DeleteVersion(ctx context.Context, v Version) error {
	return r.deleteTag(ctx, v.Tag, v.ETag)
}

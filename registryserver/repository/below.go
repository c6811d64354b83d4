package repository

import (
	"context"
	"errors"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

// maxBelow bounds what the manifests that an index names may name in turn; each is looked up in the bucket.
const maxBelow = 16 * maxDescriptors

// below finds what the manifests name that an index names, down to the last, brings it back where it is in the trash,
// and returns what is nowhere: a push of an index lets all of it live. A child's content may be in the trash although
// the child is not, when it was brought back a moment ago.
func (r *Repository) below(ctx context.Context, needs []descriptor) (missing map[id]bool, err error) {
	seen := map[id]bool{}
	missing = map[id]bool{}
	var open []id
	for _, n := range needs {
		if n.manifest {
			open = append(open, idOf(n.digest))
		}
	}
	for len(open) > 0 {
		next := open[len(open)-1]
		open = open[:len(open)-1]
		f, err := r.learn(ctx, next)
		if errors.Is(err, bucket.ErrNotFound) || errors.Is(err, errUnreadable) {
			continue // The index is sparse; or nothing leads on.
		}
		if err != nil {
			return nil, err
		}
		for _, name := range f.names {
			if seen[name] {
				continue
			}
			if seen[name] = true; len(seen) > maxBelow {
				return nil, invalid("the manifests of the index name more than %d others: push it in parts", maxBelow)
			}
			isManifest, err := r.recover(ctx, name.digest())
			switch {
			case errors.Is(err, bucket.ErrNotFound):
				missing[name] = true
			case err != nil:
				return nil, err
			case isManifest:
				open = append(open, name)
			}
		}
	}
	return missing, nil
}

// recover brings a blob or manifest back from the trash unless it is at its usual key. Error: bucket.ErrNotFound.
func (r *Repository) recover(ctx context.Context, d digest.Digest) (isManifest bool, err error) {
	for _, key := range []string{r.blobKey(d), r.manifestKey(d)} {
		isManifest = key == r.manifestKey(d)
		err = r.s.recovered(ctx, key, func() error {
			_, err := r.s.bucket.Head(ctx, key)
			return err
		})
		if !errors.Is(err, bucket.ErrNotFound) {
			return isManifest, err
		}
	}
	return false, err
}

package repository

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

const (
	// defaultGrace is how long what nothing names is left alone, since whoever pushed it may be about to name it.
	defaultGrace = 24 * time.Hour

	// renewAfter is how often one process renews a lease; more often where the grace period is short.
	renewAfter = 10 * time.Minute

	// maxLeases bounds what is remembered of leases that were written; an entry takes about 250 bytes.
	maxLeases = 8 << 10
)

// leases remember which were written when, so that they are not written again and again. The zero value is ready for
// use.
type leases struct {
	mu sync.Mutex
	// young takes new ones; when it is full, it becomes old, and what was old is forgotten.
	young, old map[string]time.Time
}

func (l *leases) written(key string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.young[key]; ok {
		return at
	}
	return l.old[key]
}

func (l *leases) set(key string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.young == nil || len(l.young) >= maxLeases/2 {
		l.young, l.old = map[string]time.Time{}, l.young
	}
	l.young[key] = at
}

func (r *Repository) leaseKey(d digest.Digest) string { return r.key(leasesSection, digestSegment(d)) }

// young is true for an object that garbage collection will leave alone for at least half of the grace period.
func (s *Store) young(modified time.Time) bool {
	return s.o.Now().Sub(modified) < s.o.Grace/2
}

// HoldBlob is StatBlob for who may go on to push a manifest that names the blob: a blob that is not young is given a
// lease, for the length of the grace period, in which garbage collection does not take it away. Where that fails, for
// the storage may be full, the push of the manifest finds out.
func (r *Repository) HoldBlob(ctx context.Context, d digest.Digest) (Blob, error) {
	if err := checkDigest(d); err != nil {
		return Blob{}, err
	}
	_ = r.hold(ctx, r.blobKey(d), d)
	return r.StatBlob(ctx, d)
}

// HoldManifest is StatManifest for who may go on to push an index that names the manifest; see HoldBlob. What tags stand
// for needs no lease.
func (r *Repository) HoldManifest(ctx context.Context, reference string) (Manifest, error) {
	if tag, d, err := parseReference(reference); err == nil && tag == "" {
		_ = r.hold(ctx, r.manifestKey(d), d)
	}
	return r.StatManifest(ctx, reference)
}

// hold gives a blob or manifest a lease unless it is young or has one, and brings it back from the trash. Error:
// bucket.ErrNotFound.
func (r *Repository) hold(ctx context.Context, key string, d digest.Digest) error {
	info, err := r.s.bucket.Head(ctx, key)
	missing := errors.Is(err, bucket.ErrNotFound)
	if err != nil && !missing {
		return err
	}
	if missing {
		if trashed, err := r.s.inTrash(ctx, key); err != nil || trashed == "" {
			return errors.Join(err, bucket.ErrNotFound)
		}
	}
	if !missing && r.s.young(info.Modified) {
		return nil
	}
	renewed, err := r.lease(ctx, d)
	if err != nil || !renewed && !missing {
		return err
	}
	// Garbage collection looks for leases after it has moved something: either it sees this one, or this sees what it did.
	return r.s.recovered(ctx, key, func() error {
		_, err := r.s.bucket.Head(ctx, key)
		return err
	})
}

// lease writes a lease unless this process has done so a short while ago.
func (r *Repository) lease(ctx context.Context, d digest.Digest) (renewed bool, err error) {
	key, now := r.leaseKey(d), r.s.o.Now()
	if now.Sub(r.s.leases.written(key)) < min(renewAfter, r.s.o.Grace/4) {
		return false, nil
	}
	// Different bytes each time, so that who removes an old lease does not take this one for it.
	if err := r.s.write(ctx, key, strconv.AppendInt(nil, now.UnixNano(), 10), bucket.Condition{}); err != nil {
		return false, err
	}
	r.s.leases.set(key, now)
	return true, nil
}

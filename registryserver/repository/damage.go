package repository

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sync"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

const (
	// maxVerdicts bounds what is remembered of which blobs are good; an entry takes about 20 bytes.
	maxVerdicts = 64 << 10

	// maxReadAhead bounds the blobs that are read whole before a part of them is served for the first time. Who fetches
	// a larger one in parts puts them together and looks at the digest.
	maxReadAhead = 64 << 20
)

// ErrDamaged says that the stored bytes are not those that the digest stands for. It comes with ErrBlobUnknown or
// ErrManifestUnknown, so that a push of the same content takes it for missing, and mends it.
var ErrDamaged = errors.New("the stored content is damaged: push it again to mend it")

// verdicts remember which objects were read whole and had their digest, and which had not. An object that is replaced
// has another ETag, and so no verdict. The zero value is ready for use.
type verdicts struct {
	mu   sync.Mutex
	seed maphash.Seed
	// young takes new ones; when it is full, it becomes old, and what was old is forgotten.
	young, old map[uint64]bool
}

// of returns the verdict on an object, if there is one.
func (v *verdicts) of(i bucket.Info) (good, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.young == nil {
		return false, false
	}
	key := v.key(i)
	if good, known = v.young[key]; known {
		return good, known
	}
	if good, known = v.old[key]; known {
		v.add(key, good)
	}
	return good, known
}

// set remembers a verdict. isNew is false when the same was known.
func (v *verdicts) set(i bucket.Info, good bool) (isNew bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.young == nil {
		v.seed, v.young = maphash.MakeSeed(), map[uint64]bool{}
	}
	key := v.key(i)
	before, known := v.young[key]
	v.add(key, good)
	return !known || before != good
}

func (v *verdicts) add(key uint64, good bool) {
	if len(v.young) >= maxVerdicts/2 {
		v.young, v.old = map[uint64]bool{}, v.young
	}
	v.young[key] = good
}

func (v *verdicts) key(i bucket.Info) uint64 {
	return maphash.String(v.seed, i.Key+"\x00"+i.ETag)
}

// verdict returns an error for a blob that is known to be damaged. known says that it is known to be good.
func (r *Repository) verdict(d digest.Digest, i bucket.Info) (known bool, err error) {
	good, known := r.s.verdicts.of(i)
	if !known && i.Size == 0 && d != d.Algorithm().FromBytes(nil) {
		known = true
		r.settle(d, i, false)
	}
	if known && !good {
		return true, r.damaged(d, ErrBlobUnknown)
	}
	return known, nil
}

// settle remembers the verdict on a blob and tells of damage, once.
func (r *Repository) settle(d digest.Digest, i bucket.Info, good bool) {
	if r.s.verdicts.set(i, good) && !good && r.s.o.Damaged != nil {
		r.s.o.Damaged(r.name, d)
	}
}

func (r *Repository) damaged(d digest.Digest, unknown error) error {
	return fmt.Errorf("%w: %s of %s: %w", unknown, d, r.name, ErrDamaged)
}

// checkBlob reads a blob whole, unless there is a verdict on it already.
func (r *Repository) checkBlob(ctx context.Context, d digest.Digest) error {
	content, _, err := r.OpenBlob(ctx, d, nil)
	if err != nil {
		return err
	}
	defer content.Close()
	if _, unknown := content.(*checked); !unknown {
		return nil
	}
	_, err = io.Copy(io.Discard, content)
	return err
}

// checked hashes a blob while it is read, and fails before it gives away the last bytes of one that is damaged.
type checked struct {
	io.ReadCloser
	r        *Repository
	d        digest.Digest
	info     bucket.Info
	verifier digest.Verifier
	left     int64
	judged   bool
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	_, _ = c.verifier.Write(p[:n]) // A hash never fails.
	c.left -= int64(n)
	switch {
	case c.left > 0 && err == io.EOF:
		// The storage broke off, which says nothing of what it has.
		return n, fmt.Errorf("read blob %s: %w: %w", c.d, bucket.ErrUnavailable, io.ErrUnexpectedEOF)
	case c.left > 0 || c.judged:
		return n, err
	}
	good := c.verifier.Verified()
	c.r.settle(c.d, c.info, good)
	if !good {
		return 0, c.r.damaged(c.d, ErrBlobUnknown)
	}
	c.judged = true
	return n, err
}

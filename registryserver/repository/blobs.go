package repository

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/opencontainers/go-digest"
)

// Blob describes a stored blob.
type Blob struct {
	Digest digest.Digest
	Size   int64
}

// StatBlob describes a blob. Errors: ErrBlobUnknown, ErrDigestUnsupported.
func (r *Repository) StatBlob(ctx context.Context, d digest.Digest) (Blob, error) {
	if err := checkDigest(d); err != nil {
		return Blob{}, err
	}
	info, err := r.s.headThrough(ctx, r.blobKey(d))
	return r.describeBlob(d, info, err)
}

// describeBlob describes what a Head found.
func (r *Repository) describeBlob(d digest.Digest, info bucket.Info, err error) (Blob, error) {
	if err != nil {
		return Blob{}, r.blobError(d, err)
	}
	if _, err := r.verdict(d, info); err != nil {
		return Blob{}, err
	}
	return Blob{Digest: d, Size: info.Size}, nil
}

// OpenBlob opens a blob, or the part that rng names; rng may be nil. The caller closes the reader. A blob that was not
// read before is hashed on the way, and reading it fails before its end when it is damaged. Errors: ErrBlobUnknown,
// which is ErrDamaged too where the blob is damaged, ErrDigestUnsupported, bucket.ErrRange.
func (r *Repository) OpenBlob(ctx context.Context, d digest.Digest, rng *bucket.Range) (io.ReadCloser, Blob, error) {
	if err := checkDigest(d); err != nil {
		return nil, Blob{}, err
	}
	content, info, sound, err := r.open(ctx, d, rng)
	if errors.Is(err, ErrDamaged) {
		return nil, Blob{}, err
	}
	if err != nil {
		return nil, Blob{}, r.blobError(d, err)
	}
	b := Blob{Digest: d, Size: info.Size}
	if sound {
		return content, b, nil
	}
	known, err := r.verdict(d, info)
	if err == nil && !known && rng != nil && info.Size <= maxReadAhead {
		known, err = true, r.checkBlob(ctx, d)
	}
	if err != nil {
		_ = content.Close()
		return nil, Blob{}, err
	}
	if known || rng != nil {
		return content, b, nil
	}
	return &checked{ReadCloser: content, r: r, d: d, info: info, verifier: d.Verifier(), left: info.Size}, b, nil
}

// PresignBlob returns an address from which everybody can read the blob for a while, with the content type given. The
// blob need not exist. It is an error where the store's bucket cannot do this, see bucket.Presigner.
func (r *Repository) PresignBlob(ctx context.Context, d digest.Digest, contentType string, expires time.Duration) (string, error) {
	if err := checkDigest(d); err != nil {
		return "", err
	}
	presigner, ok := r.s.bucket.(bucket.Presigner)
	if !ok {
		return "", fmt.Errorf("presign blob %s: this storage has no addresses of its own", d)
	}
	return presigner.Presign(ctx, r.blobKey(d), contentType, expires)
}

// PutBlob stores a blob whole while hashing it, straight under its final key. size is negative when unknown. A blob
// that is there already is replaced by the same bytes, which mends a damaged one. Errors: ErrDigestMismatch,
// ErrDigestUnsupported, ErrTooLarge; on any error nothing stays behind.
func (r *Repository) PutBlob(ctx context.Context, d digest.Digest, body io.Reader, size int64) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	if err := r.s.checkBlobSize(size, true); err != nil {
		return err
	}
	verified := &verifier{body: body, size: size, want: d, hash: d.Algorithm().Hash(), check: r.s.checkBlobSize}
	info, err := r.s.bucket.Put(ctx, r.blobKey(d), verified, size, bucket.Condition{})
	if err != nil {
		return fmt.Errorf("store blob %s: %w", d, err)
	}
	r.settle(d, info, true)
	return nil
}

// DeleteBlob removes a blob. A blob that a stored manifest still names may be deleted: that is the specification's
// right of the client. Error: ErrBlobUnknown.
func (r *Repository) DeleteBlob(ctx context.Context, d digest.Digest) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	if _, err := r.s.headThrough(ctx, r.blobKey(d)); err != nil {
		return r.blobError(d, err)
	}
	if err := r.s.erase(ctx, r.blobKey(d)); err != nil {
		return fmt.Errorf("delete blob %s: %w", d, err)
	}
	return nil
}

func (r *Repository) blobError(d digest.Digest, err error) error {
	if errors.Is(err, bucket.ErrNotFound) {
		return fmt.Errorf("%w: %s has no %s", ErrBlobUnknown, r.name, d)
	}
	return fmt.Errorf("read blob %s: %w", d, err)
}

// checkBlobSize returns ErrTooLarge for more bytes than a blob may have. whole says that they are all of it.
func (s *Store) checkBlobSize(size int64, whole bool) error {
	switch limit := s.o.MaxChartBytes; {
	case limit > 0 && limit <= s.o.MaxBlobBytes && size > limit:
		if !whole {
			size = -1
		}
		return fmt.Errorf("%w: %w", ErrTooLarge, quota.TooLarge(limit, size))
	case size > s.o.MaxBlobBytes:
		return tooLarge("blob", s.o.MaxBlobBytes)
	}
	return nil
}

func tooLarge(what string, limit int64) error {
	return &TooLargeError{What: what, Limit: limit}
}

// TooLargeError is an ErrTooLarge that says what is over which limit.
type TooLargeError struct {
	// What is "blob" or "manifest".
	What string
	// Limit is the most bytes that one may have.
	Limit int64
}

// Error says both.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%v: a %s may have at most %d bytes", ErrTooLarge, e.What, e.Limit)
}

// Is makes it an ErrTooLarge.
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }

// verifier passes a body on and fails in place of io.EOF when the body did not have the digest, so that a put of it
// makes nothing else visible.
type verifier struct {
	body  io.Reader
	size  int64 // What was announced; negative when nothing was.
	want  digest.Digest
	hash  hash.Hash
	read  int64
	check func(size int64, whole bool) error
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.body.Read(p)
	v.hash.Write(p[:n])
	v.read += int64(n)
	if over := v.check(v.read, false); over != nil {
		return n, over
	}
	if err == io.EOF {
		// A body that broke off is not a wrong one: the client may go on.
		if v.read < v.size {
			return n, io.ErrUnexpectedEOF
		}
		if got := digest.NewDigest(v.want.Algorithm(), v.hash); got != v.want {
			return n, fmt.Errorf("%w: announced was %s, the %d bytes received have %s", ErrDigestMismatch, v.want, v.read, got)
		}
	}
	return n, err
}

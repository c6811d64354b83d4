package repository

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
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
	info, err := r.s.bucket.Head(ctx, r.blobKey(d))
	if err != nil {
		return Blob{}, r.blobError(d, err)
	}
	return Blob{Digest: d, Size: info.Size}, nil
}

// OpenBlob opens a blob, or the part that rng names; rng may be nil. The caller closes the reader. Errors:
// ErrBlobUnknown, ErrDigestUnsupported, bucket.ErrRange.
func (r *Repository) OpenBlob(ctx context.Context, d digest.Digest, rng *bucket.Range) (io.ReadCloser, Blob, error) {
	if err := checkDigest(d); err != nil {
		return nil, Blob{}, err
	}
	content, info, err := r.s.bucket.Get(ctx, r.blobKey(d), rng)
	if err != nil {
		return nil, Blob{}, r.blobError(d, err)
	}
	return content, Blob{Digest: d, Size: info.Size}, nil
}

// PutBlob stores a blob whole while hashing it, straight under its final key. size is negative when unknown. A blob
// that is there already is replaced by the same bytes, which mends a damaged one. Errors: ErrDigestMismatch,
// ErrDigestUnsupported, ErrTooLarge; on any error nothing stays behind.
func (r *Repository) PutBlob(ctx context.Context, d digest.Digest, body io.Reader, size int64) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	if size > r.s.o.MaxBlobBytes {
		return tooLarge("blob", r.s.o.MaxBlobBytes)
	}
	verified := &verifier{body: body, size: size, want: d, hash: d.Algorithm().Hash(), limit: r.s.o.MaxBlobBytes}
	if _, err := r.s.bucket.Put(ctx, r.blobKey(d), verified, size, bucket.Condition{}); err != nil {
		return fmt.Errorf("store blob %s: %w", d, err)
	}
	return nil
}

// DeleteBlob removes a blob. A blob that a stored manifest still names may be deleted: that is the specification's
// right of the client. Error: ErrBlobUnknown.
func (r *Repository) DeleteBlob(ctx context.Context, d digest.Digest) error {
	if _, err := r.StatBlob(ctx, d); err != nil {
		return err
	}
	if err := r.s.bucket.Delete(ctx, r.blobKey(d), bucket.Condition{}); err != nil {
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

func tooLarge(what string, limit int64) error {
	return fmt.Errorf("%w: a %s may have at most %d bytes", ErrTooLarge, what, limit)
}

// verifier passes a body on and fails in place of io.EOF when the body did not have the digest, so that a put of it
// makes nothing else visible.
type verifier struct {
	body  io.Reader
	size  int64 // What was announced; negative when nothing was.
	want  digest.Digest
	hash  hash.Hash
	read  int64
	limit int64
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.body.Read(p)
	v.hash.Write(p[:n])
	v.read += int64(n)
	if v.read > v.limit {
		return n, tooLarge("blob", v.limit)
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

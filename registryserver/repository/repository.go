// Package repository is the storage model of OCI content over a bucket: blobs, manifests, tags and uploads of the
// repositories of one registry. It knows nothing of charts, of HTTP, or of who asks; what a push must satisfy beyond
// the specification is a check function that it is given.
//
// Everything of a repository lives under its own prefix, no blob is shared between repositories, and no shared object
// is read, changed and written on the way of a push. Several processes may serve one bucket.
package repository

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

// MaxManifestBytes bounds a manifest (OCI Distribution Specification, "Pushing Manifests": 4 MiB).
const MaxManifestBytes = 4 << 20

// Errors that callers test with errors.Is. Errors of the bucket (bucket.ErrFull and so on) pass through, wrapped.
var (
	// ErrNameInvalid: the repository name is not of the specification's form, or too long.
	ErrNameInvalid = errors.New("invalid repository name")
	// ErrReferenceInvalid: the reference is neither a tag nor a digest of the specification's form.
	ErrReferenceInvalid = errors.New("invalid reference")
	// ErrDigestUnsupported: the digest's algorithm is not sha256 or sha512, or its form is wrong.
	ErrDigestUnsupported = errors.New("unsupported digest")
	// ErrRepositoryUnknown: nothing was ever pushed under this name.
	ErrRepositoryUnknown = errors.New("repository unknown")
	// ErrBlobUnknown: the repository has no such blob.
	ErrBlobUnknown = errors.New("blob unknown")
	// ErrManifestUnknown: the repository has no such manifest or tag.
	ErrManifestUnknown = errors.New("manifest unknown")
	// ErrUploadUnknown: the upload was finished, cancelled, or never begun.
	ErrUploadUnknown = errors.New("upload unknown")
	// ErrDigestMismatch: the content does not have the digest that was announced.
	ErrDigestMismatch = errors.New("content does not match its digest")
	// ErrTooLarge: a blob or manifest is over its limit.
	ErrTooLarge = errors.New("content too large")
	// ErrTagImmutable: the tag stands for another digest and may not be moved. The error's text names both.
	ErrTagImmutable = errors.New("tag is immutable")
)

// UnknownBlobsError says which of the blobs, or manifests, that a manifest names the repository does not have.
type UnknownBlobsError struct {
	Digests []digest.Digest
}

// InvalidManifestError says why a manifest was refused, in a sentence for the person who pushed it.
type InvalidManifestError struct {
	Reason string
}

// OffsetError says that a chunk did not begin where the upload stands.
type OffsetError struct {
	// Offset is the number of bytes that the upload has.
	Offset int64
}

// Options are what a Store may be told; the zero value is good.
type Options struct {
	// MaxBlobBytes bounds one blob; 0 means 1 GiB.
	MaxBlobBytes int64
	// TagMutable says whether a tag may be moved to another digest; nil: none may, except tags that begin with
	// "sha256-" or "sha512-" and the tag "artifacthub.io", which signatures and metadata use and which may always.
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

// Open makes b the store of the registry owner ("organization/slug"): it writes the layout document into an empty
// bucket and otherwise refuses a bucket of another owner or of an unknown layout version. A bucket that cannot be
// written to but has the document opens, so that reading goes on.
func Open(ctx context.Context, b bucket.Bucket, owner string, o Options) (*Store, error) {
	panic("unwritten")
}

// Check reports whether the store can be read, and whether it can be written to: it reads the layout document and
// writes and deletes a probe object. For readiness.
func (s *Store) Check(ctx context.Context) (readable, writable error) { panic("unwritten") }

// Repository returns the repository of that name: the path below the registry, for example "nginx" or "team/nginx".
// It need not exist yet. Error: ErrNameInvalid.
func (s *Store) Repository(name string) (*Repository, error) { panic("unwritten") }

// Repository is the content under one name.
type Repository struct{ _ int }

// Blob describes a stored blob.
type Blob struct {
	Digest digest.Digest
	Size   int64
}

// StatBlob describes a blob. Errors: ErrBlobUnknown, ErrDigestUnsupported.
func (r *Repository) StatBlob(ctx context.Context, d digest.Digest) (Blob, error) { panic("unwritten") }

// OpenBlob opens a blob, or the part that rng names; rng may be nil. The caller closes the reader. Errors:
// ErrBlobUnknown, ErrDigestUnsupported, bucket.ErrRange.
func (r *Repository) OpenBlob(ctx context.Context, d digest.Digest, rng *bucket.Range) (io.ReadCloser, Blob, error) {
	panic("unwritten")
}

// PutBlob stores a blob whole while hashing it, straight under its final key. size is negative when unknown. Errors:
// ErrDigestMismatch, ErrDigestUnsupported, ErrTooLarge; on any error nothing stays behind.
func (r *Repository) PutBlob(ctx context.Context, d digest.Digest, body io.Reader, size int64) error {
	panic("unwritten")
}

// DeleteBlob removes a blob. A blob that a stored manifest still names may be deleted: that is the specification's
// right of the client. Error: ErrBlobUnknown.
func (r *Repository) DeleteBlob(ctx context.Context, d digest.Digest) error { panic("unwritten") }

// Upload is a session of an upload in chunks. Beginning one writes nothing: the id, which the caller makes
// unguessable and signs, is all there is until the first chunk.
type Upload struct{ _ int }

// Upload returns the session with this id (1 to 64 characters of A-Z a-z 0-9 - _).
func (r *Repository) Upload(id string) *Upload { panic("unwritten") }

// Offset is the number of bytes received so far, 0 for a session with no chunk yet. Error: ErrUploadUnknown when it
// was cancelled or, as far as can be told, finished.
func (u *Upload) Offset(ctx context.Context) (int64, error) { panic("unwritten") }

// Append adds a chunk that begins at offset; negative means "where the upload stands". size is negative when unknown.
// It returns the new offset. Errors: *OffsetError, ErrUploadUnknown, ErrTooLarge. A chunk that breaks off is not added.
func (u *Upload) Append(ctx context.Context, offset int64, chunk io.Reader, size int64) (int64, error) {
	panic("unwritten")
}

// Commit adds the last chunk (rest may be empty), stores the whole as the blob d, and ends the session. offset is as
// in Append. Errors: those of Append and of PutBlob; after ErrDigestMismatch the session is over.
func (u *Upload) Commit(ctx context.Context, d digest.Digest, offset int64, rest io.Reader, size int64) error {
	panic("unwritten")
}

// Cancel ends the session and removes what it stored. Error: ErrUploadUnknown.
func (u *Upload) Cancel(ctx context.Context) error { panic("unwritten") }

// Manifest is a manifest with what is known of it.
type Manifest struct {
	// Repository is the name of the repository.
	Repository string
	// Tag under which it was asked for or is pushed; empty when by digest.
	Tag string
	// Digest of Content.
	Digest digest.Digest
	// MediaType as it was pushed.
	MediaType string
	// Size of Content in bytes.
	Size int64
	// Content is the manifest, byte for byte; nil in answers of StatManifest.
	Content []byte
}

// StatManifest describes the manifest behind a tag or digest without its content. Errors: ErrManifestUnknown,
// ErrReferenceInvalid.
func (r *Repository) StatManifest(ctx context.Context, reference string) (Manifest, error) {
	panic("unwritten")
}

// GetManifest reads the manifest behind a tag or digest. Errors: ErrManifestUnknown, ErrReferenceInvalid.
func (r *Repository) GetManifest(ctx context.Context, reference string) (Manifest, error) {
	panic("unwritten")
}

// PutManifest stores a manifest and, when reference is a tag, points the tag at it. mediaType is the Content-Type of
// the push. by names who pushed, for the record. Putting what is there already succeeds. Errors: ErrReferenceInvalid,
// ErrDigestMismatch, ErrTooLarge, ErrTagImmutable, *UnknownBlobsError, *InvalidManifestError.
func (r *Repository) PutManifest(ctx context.Context, reference, mediaType string, content []byte, by string) (Manifest, error) {
	panic("unwritten")
}

// DeleteManifest removes a tag (the manifest stays), or a manifest with all tags that point at it. Error:
// ErrManifestUnknown.
func (r *Repository) DeleteManifest(ctx context.Context, reference string) error { panic("unwritten") }

// Tags lists at most n tags greater than last, in ascending byte order; n of 0 means all. last need not exist. more
// says that there are others behind. Error: ErrRepositoryUnknown when the repository has no manifest at all.
func (r *Repository) Tags(ctx context.Context, n int, last string) (tags []string, more bool, err error) {
	panic("unwritten")
}

// Error lists the missing digests.
func (e *UnknownBlobsError) Error() string { panic("unwritten") }

// Error is the reason.
func (e *InvalidManifestError) Error() string { return e.Reason }

// Error names the offset.
func (e *OffsetError) Error() string { panic("unwritten") }

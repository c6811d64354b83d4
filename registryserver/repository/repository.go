// Package repository is the storage model of OCI content over a bucket: blobs, manifests, tags and uploads of the
// repositories of one registry. It knows nothing of charts, of HTTP, or of who asks; what a push must satisfy beyond
// the specification is a check function that it is given.
//
// Everything of a repository lives under its own prefix, no blob is shared between repositories, and no shared object
// is read, changed and written on the way of a push. Several processes may serve one bucket.
package repository

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// MaxManifestBytes bounds a manifest (OCI Distribution Specification, "Pushing Manifests": 4 MiB).
const MaxManifestBytes = 4 << 20

// Errors that callers test with errors.Is. Errors of the bucket (bucket.ErrFull and so on) pass through, wrapped.
var (
	// ErrNoRegistry: the storage was never a registry's.
	ErrNoRegistry = errors.New("the storage holds no registry")
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
	// ErrTagImmutable: the tag stands for another digest and may not be moved. The error is an *ImmutableTagError.
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

// ImmutableTagError says which tag may not be moved. It is ErrTagImmutable.
type ImmutableTagError struct {
	Repository, Tag string
	// Stands is the digest that the tag stands for, Pushed the one that it was to become.
	Stands, Pushed digest.Digest
}

// OffsetError says that a chunk did not begin where the upload stands.
type OffsetError struct {
	// Offset is the number of bytes that the upload has.
	Offset int64
}

// maxListed bounds the digests that an error's text names.
const maxListed = 5

// Error lists the missing digests.
func (e *UnknownBlobsError) Error() string {
	var b strings.Builder
	b.WriteString("the manifest names what the repository does not have: ")
	for i, d := range e.Digests {
		if i == maxListed {
			fmt.Fprintf(&b, " and %d more", len(e.Digests)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(d.String())
	}
	b.WriteString("; push it before the manifest")
	return b.String()
}

// Error is the reason.
func (e *InvalidManifestError) Error() string { return e.Reason }

// Error names the tag and both digests.
func (e *ImmutableTagError) Error() string {
	return fmt.Sprintf("%v: %s of %s stands for %s and cannot become %s: push under a new version, or delete this version first",
		ErrTagImmutable, e.Tag, e.Repository, e.Stands, e.Pushed)
}

// Unwrap is ErrTagImmutable.
func (e *ImmutableTagError) Unwrap() error { return ErrTagImmutable }

// Error names the offset.
func (e *OffsetError) Error() string {
	return fmt.Sprintf("the chunk does not begin where the upload stands: it has %d bytes", e.Offset)
}

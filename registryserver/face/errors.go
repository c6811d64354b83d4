package face

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// Error is a refusal, or a failure, as a client is told of it.
type Error struct {
	// Status is that of HTTP.
	Status int
	// Code is of upper-case letters and underscores, one of the OCI Distribution Specification ("Error Codes") where that has
	// one for it.
	Code string
	// Message is a sentence for a person.
	Message string
}

// Error is the message.
func (e *Error) Error() string { return e.Message }

var errTooMany = &Error{http.StatusTooManyRequests, "TOOMANYREQUESTS", "you ask for more, or for more at once, than this registry serves; try again in a few seconds"}

// Anonymous is the answer to who has not logged in and should.
func (d *Door) Anonymous() error {
	return &Error{http.StatusUnauthorized, "UNAUTHORIZED", fmt.Sprintf(
		"the registry %s wants credentials: run %s with any user name, and a registry token as the password", d.Registry, d.Command)}
}

func (d *Door) invalid() error {
	return &Error{http.StatusUnauthorized, "UNAUTHORIZED", fmt.Sprintf(
		"the credentials are not valid for the registry %s: the token is wrong, expired or revoked, or no policy admits it; log in again with %s", d.Registry, d.Command)}
}

// Explain turns an error into an answer. What is not known here is not shown: it could name paths of the server.
func (d *Door) Explain(err error) *Error {
	var immutable *repository.ImmutableTagError
	if errors.As(err, &immutable) {
		return &Error{http.StatusConflict, "DENIED", fmt.Sprintf(
			"%s/%s %s exists already with other content (%s), and versions are immutable here: raise the version in Chart.yaml and push again",
			d.Registry, immutable.Repository, immutable.Tag, immutable.Stands)}
	}
	for _, explain := range []func(error) *Error{explainRepository, explainStorage, explainBody} {
		if answer := explain(err); answer != nil {
			return answer
		}
	}
	return &Error{http.StatusInternalServerError, "UNKNOWN", "the registry failed; its log says why, under the X-Request-Id of this answer"}
}

func explainRepository(err error) *Error {
	var (
		answer  *Error
		form    *publish.FormError
		missing *repository.UnknownBlobsError
		invalid *repository.InvalidManifestError
		offset  *repository.OffsetError
		over    *quota.Error
		large   *repository.TooLargeError
	)
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &form):
		return &Error{http.StatusBadRequest, "UNSUPPORTED", form.Reason}
	case errors.As(err, &missing):
		return &Error{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", missing.Error()}
	case errors.As(err, &invalid):
		return &Error{http.StatusBadRequest, "MANIFEST_INVALID", invalid.Reason}
	case errors.As(err, &over):
		// Neither status is tried again by clients, which those of the server's own failures are.
		if errors.Is(err, repository.ErrTooLarge) {
			return &Error{http.StatusRequestEntityTooLarge, "SIZE_INVALID", over.Reason}
		}
		return &Error{http.StatusForbidden, "DENIED", over.Reason}
	case errors.As(err, &large):
		return &Error{http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("a %s may have %s at most in this registry, and this one has more; nothing was stored", large.What, quota.Size(large.Limit))}
	case errors.Is(err, quota.ErrCounting):
		return &Error{http.StatusServiceUnavailable, "UNAVAILABLE", "the registry has a quota and is counting what it stores, for the first time; try again in a minute"}
	case errors.As(err, &offset):
		return &Error{http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", fmt.Sprintf(
			"the upload has %d bytes: go on with the byte at offset %d, or ask for the state of the upload with GET", offset.Offset, offset.Offset)}
	}
	for _, known := range repositoryErrors {
		if errors.Is(err, known.err) {
			return &Error{known.status, known.code, known.message}
		}
	}
	return nil
}

var repositoryErrors = []struct {
	err           error
	status        int
	code, message string
}{
	{repository.ErrNameInvalid, http.StatusBadRequest, "NAME_INVALID", "a chart's name has lower-case letters and digits, with single \".\", \"_\", \"__\" or dashes between them, and \"/\" between its elements; 200 characters at most"},
	{repository.ErrDigestUnsupported, http.StatusBadRequest, "DIGEST_INVALID", "a digest is \"sha256:\" with 64, or \"sha512:\" with 128, lower-case hexadecimal digits"},
	{repository.ErrReferenceInvalid, http.StatusBadRequest, "MANIFEST_INVALID", "a tag has 1 to 128 letters, digits, \"_\", \".\" and \"-\", and begins with a letter, digit or \"_\"; a digest is \"sha256:\" or \"sha512:\" with hexadecimal digits"},
	{publish.ErrBusy, errTooMany.Status, errTooMany.Code, errTooMany.Message},
	{publish.ErrNoChart, http.StatusNotFound, "MANIFEST_UNKNOWN", "there is no such version of a chart in this repository"},
	{repository.ErrRepositoryUnknown, http.StatusNotFound, "NAME_UNKNOWN", "nothing was pushed under this name yet"},
	{repository.ErrDamaged, http.StatusNotFound, "MANIFEST_UNKNOWN", "what is stored of this is damaged, and so it is not served: push the same content again to mend it, or restore it"},
	{repository.ErrTagDamaged, http.StatusNotFound, "MANIFEST_UNKNOWN", "what is stored of this tag is damaged, and nothing says any more what it stood for: delete it and push again, or restore it"},
	{repository.ErrBlobUnknown, http.StatusNotFound, "BLOB_UNKNOWN", "there is no such blob in this repository"},
	{repository.ErrManifestUnknown, http.StatusNotFound, "MANIFEST_UNKNOWN", "there is no such version or digest in this repository"},
	{repository.ErrUploadUnknown, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload: it was finished or cancelled, is older than a day, or was begun by somebody else; begin again with POST"},
	{repository.ErrDigestMismatch, http.StatusBadRequest, "DIGEST_INVALID", "the content does not have the digest that was announced; nothing was stored"},
	{repository.ErrTooLarge, http.StatusRequestEntityTooLarge, "SIZE_INVALID", "the content is larger than this registry takes; nothing was stored"},
}

func explainStorage(err error) *Error {
	switch {
	case errors.Is(err, bucket.ErrFull):
		return &Error{http.StatusInsufficientStorage, "STORAGE_FULL", "the registry's storage is full, so nothing was stored; pulls go on, and pushes will once there is room"}
	case errors.Is(err, bucket.ErrReadOnly):
		return &Error{http.StatusServiceUnavailable, "STORAGE_READ_ONLY", "the registry's storage cannot be written to, so nothing was stored; pulls go on"}
	case errors.Is(err, bucket.ErrUnavailable):
		return &Error{http.StatusServiceUnavailable, "UNAVAILABLE", "the registry's storage does not answer; try again later"}
	}
	return nil
}

// explainBody explains what went wrong with the client's side of a request.
func explainBody(err error) *Error {
	var body *bodyError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{http.StatusRequestTimeout, "BLOB_UPLOAD_INVALID", "the content came too slowly; nothing was stored"}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.Canceled):
		return &Error{http.StatusBadRequest, "SIZE_INVALID", "the content ended early; nothing was stored"}
	case errors.As(err, &body):
		return &Error{http.StatusBadRequest, "SIZE_INVALID", "the content could not be read to its end: its framing is wrong, or the connection broke; nothing was stored"}
	}
	return nil
}

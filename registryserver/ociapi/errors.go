package ociapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"

	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// apiError is an answer in the form of the specification ("Error Codes"): a status, a code of upper-case letters and
// underscores, and a sentence for a person. helm prints the code and the sentence for whatever answers POST and PUT.
type apiError struct {
	status        int
	code, message string
}

func (e *apiError) Error() string { return e.message }

const (
	credentialsMissing = "the registry %s wants credentials: run `helm registry login %s` with any user name, and a registry token as the password"
	credentialsInvalid = "the credentials are not valid for the registry %s: the token is wrong, expired or revoked, or no policy admits it; log in again with `helm registry login %s`"
)

func (h *Handler) unauthorized(message string) error {
	return &apiError{http.StatusUnauthorized, "UNAUTHORIZED", fmt.Sprintf(message, h.o.Organization+"/"+h.o.Registry, h.o.ExternalURL.Host)}
}

// WriteError answers in the form of the specification. Servers that answer before the request reaches the Handler, or
// after it failed, use it too.
func WriteError(w http.ResponseWriter, status int, code, message string) {
	type info struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]info{"errors": {{code, message}}})
	if err != nil {
		panic(err) // Strings always encode.
	}
	writeJSON(w, status, body)
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	writeBody(w, status, "application/json", body)
}

func writeBody(w http.ResponseWriter, status int, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// When the client is gone, nobody is left to tell.
	_, _ = w.Write(body)
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error, seen *audit.Observation) {
	answer := translate(err)
	if seen.Reason == "" {
		seen.Reason = answer.message
	}
	if answer.status >= http.StatusInternalServerError {
		h.o.Logger.ErrorContext(r.Context(), "a request failed in the server", "error", err)
	}
	if answer.status == http.StatusUnauthorized {
		// Exactly one challenge: helm, docker, oras, crane, Flux and Argo CD all understand Basic (RFC 7617).
		w.Header().Set("WWW-Authenticate", `Basic realm="chartroom"`)
	}
	if answer.status == http.StatusTooManyRequests {
		// Shorter than helm's patience, which tries six times.
		w.Header().Set("Retry-After", "2")
	}
	WriteError(w, answer.status, answer.code, answer.message)
}

// translate turns an error into an answer. What is not known here is not shown: it could name paths of the server.
func translate(err error) *apiError {
	for _, explain := range []func(error) *apiError{explainRepository, explainStorage, explainBody} {
		if answer := explain(err); answer != nil {
			return answer
		}
	}
	return &apiError{http.StatusInternalServerError, "UNKNOWN", "the registry failed; its log says why, under the X-Request-Id of this answer"}
}

func explainRepository(err error) *apiError {
	var (
		answer  *apiError
		missing *repository.UnknownBlobsError
		invalid *repository.InvalidManifestError
		offset  *repository.OffsetError
		over    *quota.Error
		large   *repository.TooLargeError
	)
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &missing):
		return &apiError{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", missing.Error()}
	case errors.As(err, &invalid):
		return &apiError{http.StatusBadRequest, "MANIFEST_INVALID", invalid.Reason}
	case errors.As(err, &over):
		// Neither status is tried again by clients, which those of the server's own failures are.
		if errors.Is(err, repository.ErrTooLarge) {
			return &apiError{http.StatusRequestEntityTooLarge, "SIZE_INVALID", over.Reason}
		}
		return &apiError{http.StatusForbidden, "DENIED", over.Reason}
	case errors.As(err, &large):
		return &apiError{http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("a %s may have %s at most in this registry, and this one has more; nothing was stored", large.What, quota.Size(large.Limit))}
	case errors.Is(err, quota.ErrCounting):
		return &apiError{http.StatusServiceUnavailable, "UNAVAILABLE", "the registry has a quota and is counting what it stores, for the first time; try again in a minute"}
	case errors.As(err, &offset):
		return &apiError{http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", fmt.Sprintf(
			"the upload has %d bytes: go on with the byte at offset %d, or ask for the state of the upload with GET", offset.Offset, offset.Offset)}
	}
	for _, known := range repositoryErrors {
		if errors.Is(err, known.err) {
			return &apiError{known.status, known.code, known.message}
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
	{repository.ErrRepositoryUnknown, http.StatusNotFound, "NAME_UNKNOWN", "nothing was pushed under this name yet"},
	{repository.ErrDamaged, http.StatusNotFound, "MANIFEST_UNKNOWN", "what is stored of this is damaged, and so it is not served: push the same content again to mend it, or restore it"},
	{repository.ErrTagDamaged, http.StatusNotFound, "MANIFEST_UNKNOWN", "what is stored of this tag is damaged, and nothing says any more what it stood for: delete it and push again, or restore it"},
	{repository.ErrBlobUnknown, http.StatusNotFound, "BLOB_UNKNOWN", "there is no such blob in this repository"},
	{repository.ErrManifestUnknown, http.StatusNotFound, "MANIFEST_UNKNOWN", "there is no such version or digest in this repository"},
	{repository.ErrUploadUnknown, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload: it was finished or cancelled, is older than a day, or was begun by somebody else; begin again with POST"},
	{repository.ErrDigestMismatch, http.StatusBadRequest, "DIGEST_INVALID", "the content does not have the digest that was announced; nothing was stored"},
	{repository.ErrTooLarge, http.StatusRequestEntityTooLarge, "SIZE_INVALID", "the content is larger than this registry takes; nothing was stored"},
}

func explainStorage(err error) *apiError {
	switch {
	case errors.Is(err, bucket.ErrFull):
		return &apiError{http.StatusInsufficientStorage, "STORAGE_FULL", "the registry's storage is full, so nothing was stored; pulls go on, and pushes will once there is room"}
	case errors.Is(err, bucket.ErrReadOnly):
		return &apiError{http.StatusServiceUnavailable, "STORAGE_READ_ONLY", "the registry's storage cannot be written to, so nothing was stored; pulls go on"}
	case errors.Is(err, bucket.ErrUnavailable):
		return &apiError{http.StatusServiceUnavailable, "UNAVAILABLE", "the registry's storage does not answer; try again later"}
	}
	return nil
}

// explainBody explains what went wrong with the client's side of a request.
func explainBody(err error) *apiError {
	var body *bodyError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &apiError{http.StatusRequestTimeout, "BLOB_UPLOAD_INVALID", "the content came too slowly; nothing was stored"}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.Canceled):
		return &apiError{http.StatusBadRequest, "SIZE_INVALID", "the content ended early; nothing was stored"}
	case errors.As(err, &body):
		return &apiError{http.StatusBadRequest, "SIZE_INVALID", "the content could not be read to its end: its framing is wrong, or the connection broke; nothing was stored"}
	}
	return nil
}

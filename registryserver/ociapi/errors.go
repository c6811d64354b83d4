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

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
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
	credentialsMissing = "this registry wants credentials: run `helm registry login %s` with any user name, and a registry token as the password"
	credentialsInvalid = "the credentials are not valid for this registry: the token is wrong, expired or revoked; log in again with `helm registry login %s`"
)

func (h *Handler) unauthorized(message string) error {
	return &apiError{http.StatusUnauthorized, "UNAUTHORIZED", fmt.Sprintf(message, h.o.ExternalURL.Host)}
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
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// When the client is gone, nobody is left to tell.
	_, _ = w.Write(body)
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	answer := translate(err)
	if answer.status >= http.StatusInternalServerError {
		h.o.Logger.ErrorContext(r.Context(), "a request failed in the server", "error", err)
	}
	if answer.status == http.StatusUnauthorized {
		// Exactly one challenge: helm, docker, oras, crane, Flux and Argo CD all understand Basic (RFC 7617).
		w.Header().Set("WWW-Authenticate", `Basic realm="chartroom"`)
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
	)
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &missing):
		return &apiError{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", missing.Error()}
	case errors.As(err, &invalid):
		return &apiError{http.StatusBadRequest, "MANIFEST_INVALID", invalid.Reason}
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

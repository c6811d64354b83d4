package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// errSlow: the server took longer than it may. Another sending may succeed.
var errSlow = errors.New("the server did not answer in time")

// status is that of the server's answer; 0 when there was none.
func status(err error) int {
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

// code is the server's word for what is wrong; empty when there is none.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// isRefused is true when a condition did not hold.
func isRefused(err error) bool { return status(err) == http.StatusPreconditionFailed }

// conflict is the word of a server that was changing the object for somebody else and judged no condition.
const conflict = "ConditionalRequestConflict"

// folderConflict is what versitygw says when a put meets a delete that removes the emptied folder, whose files its
// objects are. No key of ours is ever the beginning of another, so that it cannot be meant.
const folderConflict = "ExistingObjectIsDirectory"

// isNotFound is true when there is no such object. Servers answer 404 for missing buckets, uploads and users too, of
// which only an answer to HEAD, which has no body, cannot be told from it.
func isNotFound(err error) bool {
	word := code(err)
	return status(err) == http.StatusNotFound && (word == "NoSuchKey" || word == "NotFound")
}

// failed wraps an error of a call in the bucket's own, in words for who runs the registry. The end of ctx stays as it is.
func (b *Bucket) failed(ctx context.Context, doing, key string, err error) error {
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%s %s: %w", doing, key, ended)
	}
	text, kind := b.explain(err)
	return fmt.Errorf("%s %s: %w: %s", doing, key, kind, text)
}

// failedWriting is failed for what changes objects.
func (b *Bucket) failedWriting(ctx context.Context, doing, key string, err error) error {
	if ctx.Err() == nil && code(err) == "AccessDenied" {
		return fmt.Errorf("%s %s: %w: the credentials do not allow it: give them write access to the bucket %s", doing, key, bucket.ErrReadOnly, b.place())
	}
	return b.failed(ctx, doing, key, err)
}

// place names the bucket as a person would.
func (b *Bucket) place() string {
	place := b.o.Bucket
	if b.o.Prefix != "" {
		place += "/" + b.o.Prefix
	}
	if b.o.Endpoint != "" {
		return place + " at " + b.o.Endpoint
	}
	return place + " in " + b.o.Region
}

// explain says what to do about an error, and of which kind it is. What the server says beside its code is passed on: it is meant
// for the caller and has no secret in it.
func (b *Bucket) explain(err error) (text string, kind error) {
	kind = bucket.ErrUnavailable
	answer, word := status(err), code(err)
	switch {
	case isNotFound(err):
		return "the server has no such object", bucket.ErrNotFound
	case answer == http.StatusRequestedRangeNotSatisfiable:
		return "the object ends before it", bucket.ErrRange
	case answer == http.StatusInsufficientStorage, word == "QuotaExceeded", word == "XMinioStorageFull", word == "InsufficientStorage":
		return said(err), bucket.ErrFull
	}
	switch word {
	case "NoSuchBucket":
		return fmt.Sprintf("there is no bucket %s: make it, or correct its name", b.place()), kind
	case "InvalidAccessKeyId", "XAdminUserNotFound", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired":
		return fmt.Sprintf("the server does not accept the credentials: check the access key and its secret (%s)", said(err)), kind
	case "AccessDenied", "Forbidden":
		return fmt.Sprintf("the credentials do not allow it: give them read, list, write and delete access to the bucket %s (%s)", b.place(), said(err)), kind
	case "RequestTimeTooSkewed":
		return "the clock of this machine and that of the server are too far apart: set it right", kind
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "MovedPermanently", "IllegalLocationConstraintException":
		return fmt.Sprintf("the bucket is not in the region %s, or not at this endpoint: correct the region or the endpoint (%s)", b.o.Region, said(err)), kind
	}
	if answer >= 300 && answer < 400 {
		return fmt.Sprintf("the server sends this request elsewhere (%d): correct the region (now %s) or the endpoint", answer, b.o.Region), kind
	}
	if answer != 0 {
		return said(err), kind
	}
	return b.unreached(err), kind
}

// said is what the server answered.
func said(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		if api.ErrorMessage() == "" {
			return fmt.Sprintf("the server answered %d %s", status(err), api.ErrorCode())
		}
		return fmt.Sprintf("the server answered %d %s: %s", status(err), api.ErrorCode(), api.ErrorMessage())
	}
	return fmt.Sprintf("the server answered %d", status(err))
}

// unreached is why there was no answer.
func (b *Bucket) unreached(err error) string {
	var (
		missing     *credentialsError
		untrusted   *tls.CertificateVerificationError
		plain       tls.RecordHeaderError
		transported *url.Error
	)
	switch {
	case errors.As(err, &missing):
		return missing.Error()
	case errors.As(err, &untrusted):
		return fmt.Sprintf("the certificate of the server is not trusted: name the file of its authority (%s)", untrusted.Err)
	case errors.As(err, &plain):
		return "the server does not speak TLS at this port: does the endpoint begin with http://?"
	case errors.Is(err, errSlow):
		return fmt.Sprintf("the server of the bucket %s did not answer in time", b.place())
	case errors.As(err, &transported):
		// Without the address, which every such text would repeat.
		return fmt.Sprintf("the server of the bucket %s cannot be reached: %s", b.place(), transported.Err)
	}
	return err.Error()
}

// interrupted is the error of a body that ended before the object did.
func (b *Bucket) interrupted(ctx context.Context, key string, err error) error {
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("get %s: %w", key, ended)
	}
	if err == io.EOF { //nolint:errorlint // The end of a reader is io.EOF itself, as io.Reader says.
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("get %s: %w: the server broke off: %w", key, bucket.ErrUnavailable, err)
}

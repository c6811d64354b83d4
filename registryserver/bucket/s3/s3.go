// Package s3 is a bucket in an S3 bucket, or below a prefix of one: Amazon's or another server that speaks the same
// protocol.
//
// A put of up to 8 MiB is one PutObject; a larger one is a multipart upload, which becomes visible when it is complete.
// Conditions are the server's own (If-None-Match and If-Match). The ETag is the server's: on most servers equal bytes
// have equal ETags, so that an object that was replaced by the same bytes meets a condition that was made before.
package s3

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	// maxPrefixBytes leaves room for keys: S3 takes names of at most 1,024 bytes.
	maxPrefixBytes = 512
	// maxAttempts is how often one request is sent; maxBackoff bounds the waiting before each but the first.
	maxAttempts = 4
	maxBackoff  = 2 * time.Second
)

// Options say which bucket to use, and how. Validate judges them.
type Options struct {
	// Bucket is the bucket's name.
	Bucket string
	// Prefix is what all object names begin with, without slashes at its ends: several registries may share a bucket,
	// each with a prefix of its own of which none begins another. Empty: the whole bucket.
	Prefix string
	// Region of the bucket. Never empty: servers that know no regions take us-east-1.
	Region string
	// Endpoint is the server's address, for example https://s3.example.com. Empty: Amazon's in Region.
	Endpoint string
	// PathStyle puts the bucket's name into the path of an address instead of into its host name.
	PathStyle bool
	// CredentialsDir is a directory with the files accessKeyID, secretAccessKey and, where there is one, sessionToken. They
	// are read again when they change. Empty: what the AWS tools would use, from the environment, a web identity (IRSA),
	// the pod's identity or the machine's.
	CredentialsDir string
	// RootCAs returns the authorities that may sign the server's certificate. It is called for each request; another
	// pool than before is used for all connections from then on. Nil: the system's.
	RootCAs func() *x509.CertPool
	// Observe, when not nil, is called for each request that was sent to the server, retries too: with the name of the
	// S3 operation, an outcome of a small fixed set, and the time until the head of the answer.
	Observe func(operation, outcome string, took time.Duration)
	// Log is told of credentials that cannot be read again. Nil means slog.Default.
	Log *slog.Logger
}

// bucketName is looser than Amazon's rule for new buckets, which older ones and other servers do not follow.
var bucketName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$`)

// Validate says what is wrong, without asking the server. Each problem begins with the field's name in a configuration.
func (o Options) Validate() error {
	var problems []error
	refuse := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if !bucketName.MatchString(o.Bucket) {
		refuse("bucket: %q is not the name of a bucket: it has 3 to 255 letters, digits, dots and dashes", o.Bucket)
	}
	if o.Prefix != "" && (bucket.CheckKey(o.Prefix) != nil || len(o.Prefix) > maxPrefixBytes) {
		refuse("prefix: %q is not a prefix: it has up to %d letters, digits and . _ - + %%, with single slashes between them", o.Prefix, maxPrefixBytes)
	}
	if o.Region == "" || strings.ContainsFunc(o.Region, func(c rune) bool { return c <= ' ' || c > '~' || c == '/' }) {
		refuse("region: %q is not a region such as us-east-1", o.Region)
	}
	if o.Endpoint != "" {
		if u, err := url.Parse(o.Endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
			u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			// Not quoted: it may hold a password.
			refuse("endpoint: it is not an address such as https://s3.example.com, without a path")
		}
	}
	return errors.Join(problems...)
}

// Bucket is a bucket.Bucket in S3. Make it with New.
type Bucket struct {
	o         Options
	client    *s3.Client
	presigner *s3.PresignClient
	sender    *sender
	http      *http.Client
	small     *buffers
	large     *buffers
	// Bounds of one CopyObject, and the size of the parts of a larger copy.
	maxCopy, copyPart int64
}

var (
	_ bucket.Bucket    = (*Bucket)(nil)
	_ bucket.Presigner = (*Bucket)(nil)
)

// New returns the bucket. It does not ask the server yet; credentials that are there to be read are read, so that a
// wrong directory is found at once.
func New(ctx context.Context, o Options) (*Bucket, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Observe == nil {
		o.Observe = func(string, string, time.Duration) {}
	}
	credentials, err := credentialsOf(ctx, o)
	if err != nil {
		return nil, err
	}
	transport := &rooted{roots: o.RootCAs}
	sends := &sender{next: transport, observe: o.Observe, patience: patienceOf, maxBackoff: maxBackoff}
	signs := new(signer)
	jitter := retry.NewExponentialJitterBackoff(maxBackoff)
	options := s3.Options{
		Region:       o.Region,
		UsePathStyle: o.PathStyle,
		Credentials:  credentials,
		HTTPSignerV4: signs,
		HTTPClient:   &http.Client{Transport: sends, CheckRedirect: refuseRedirect},
		Retryer: retry.AddWithErrorCodes(retry.NewStandard(func(s *retry.StandardOptions) {
			s.MaxAttempts = maxAttempts
			s.Backoff = retry.BackoffDelayerFunc(func(attempt int, err error) (time.Duration, error) {
				delay, err := jitter.BackoffDelay(attempt, err)
				return min(delay, sends.maxBackoff), err
			})
			s.Retryables = append(s.Retryables, retry.RetryableHTTPStatusCode{Codes: map[int]struct{}{http.StatusTooManyRequests: {}}})
		}), conflict, "OperationAborted", folderConflict),
		// Servers other than Amazon's do not know the checksums that the SDK would add. What is sent is covered by TLS or,
		// without it, by the request's signature.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		// Bodies are small and can be sent again: asking before sending them costs a round trip.
		ContinueHeaderThresholdBytes: -1,
		Logger:                       logging.Nop{},
	}
	if o.Endpoint != "" {
		options.BaseEndpoint = aws.String(strings.TrimSuffix(o.Endpoint, "/"))
	}
	client := s3.New(options)
	return &Bucket{
		o: o, client: client, presigner: s3.NewPresignClient(client, func(p *s3.PresignOptions) { p.Presigner = signs }),
		sender: sends, http: &http.Client{Transport: transport},
		small: newBuffers(smallBuffer, maxSmallBuffers), large: newBuffers(partBytes, maxLargeBuffers),
		maxCopy: 5 << 30, copyPart: 512 << 20,
	}, nil
}

// refuseRedirect makes an answer out of a redirect: the signature of a request names its host.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Client fetches presigned addresses from the bucket's server, with the authorities that it trusts.
func (b *Bucket) Client() *http.Client { return b.http }

// name is the object's name on the server.
func (b *Bucket) name(key string) *string {
	if b.o.Prefix != "" {
		key = b.o.Prefix + "/" + key
	}
	return &key
}

func (b *Bucket) bucket() *string { return &b.o.Bucket }

// Presign implements bucket.Presigner. The address is a secret until it expires.
func (b *Bucket) Presign(ctx context.Context, key, contentType string, expires time.Duration) (string, error) {
	if err := bucket.CheckKey(key); err != nil {
		return "", err
	}
	request, err := b.presigner.PresignGetObject(ctx, &s3.GetObjectInput{
		Bucket: b.bucket(), Key: b.name(key), ResponseContentType: &contentType,
	}, s3.WithPresignExpires(expires))
	if err != nil {
		return "", b.failed(ctx, "presign", key, err)
	}
	return request.URL, nil
}

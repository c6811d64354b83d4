package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
)

const (
	dialPatience = 10 * time.Second
	// answerPatience is how long the server may take to answer one request, and to go on with a body.
	answerPatience = 30 * time.Second
	// bodyPatience is the same where a body of up to 8 MiB is sent, and workPatience where the server copies.
	bodyPatience = 2 * time.Minute
	workPatience = 10 * time.Minute
	// maxIdle is how many connections are kept for later.
	maxIdle     = 128
	idleTimeout = 30 * time.Second
)

func patienceOf(operation string) time.Duration {
	switch operation {
	case "PutObject", "UploadPart":
		return bodyPatience
	case "CompleteMultipartUpload", "CopyObject", "UploadPartCopy":
		return workPatience
	}
	return answerPatience
}

// rooted sends requests through connections whose certificates the authorities of the moment signed.
type rooted struct {
	roots func() *x509.CertPool

	mu        sync.Mutex
	pool      *x509.CertPool
	transport *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *rooted) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current().RoundTrip(r)
}

func (t *rooted) current() *http.Transport {
	var pool *x509.CertPool
	if t.roots != nil {
		pool = t.roots()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.transport != nil && t.pool == pool {
		return t.transport
	}
	if t.transport != nil {
		t.transport.CloseIdleConnections()
	}
	t.pool = pool
	t.transport = &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialPatience}).DialContext,
		TLSHandshakeTimeout: dialPatience,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
		MaxIdleConnsPerHost: maxIdle,
		IdleConnTimeout:     idleTimeout,
		DisableCompression:  true,
		ReadBufferSize:      64 << 10,
		WriteBufferSize:     64 << 10,
	}
	return t.transport
}

// call is one call of the SDK, which may be sent several times.
type call struct{ sent atomic.Int32 }

type callKey struct{}

// counted returns a context whose calls are counted.
func counted(ctx context.Context) (context.Context, *call) {
	c := new(call)
	return context.WithValue(ctx, callKey{}, c), c
}

// sender gives each request its time and reports its outcome.
type sender struct {
	next    http.RoundTripper
	observe func(operation, outcome string, took time.Duration)
	// patience is the time that one sending of an operation may take.
	patience func(operation string) time.Duration
	// maxBackoff bounds the waiting before a request is sent again.
	maxBackoff time.Duration
}

// RoundTrip implements http.RoundTripper.
func (s *sender) RoundTrip(r *http.Request) (*http.Response, error) {
	if c, ok := r.Context().Value(callKey{}).(*call); ok {
		c.sent.Add(1)
	}
	operation := awsmiddleware.GetOperationName(r.Context())
	ctx, cancel := context.WithCancelCause(r.Context())
	patience := s.patience(operation)
	timer := time.AfterFunc(patience, func() { cancel(errSlow) })
	started := time.Now()
	answer, err := s.next.RoundTrip(r.WithContext(ctx))
	s.observe(operation, outcomeOf(r.Context(), answer, err), time.Since(started))
	timer.Stop()
	if err != nil {
		err = slowness(ctx, err)
		cancel(nil)
		return nil, err
	}
	answer.Body = &watched{ReadCloser: answer.Body, ctx: ctx, cancel: cancel, timer: timer, patience: min(patience, bodyPatience)}
	return answer, nil
}

// Outcomes of a request, as Options.Observe is told.
const (
	outcomeOK        = "ok"
	outcomeNotFound  = "not_found"
	outcomeRefused   = "precondition_failed"
	outcomeThrottled = "throttled"
	outcomeDenied    = "denied"
	outcomeInvalid   = "invalid"
	outcomeFailed    = "server_error"
	outcomeNoAnswer  = "no_answer"
	outcomeCancelled = "cancelled"
)

func outcomeOf(ctx context.Context, answer *http.Response, err error) string {
	switch {
	case err != nil && ctx.Err() != nil:
		return outcomeCancelled
	case err != nil:
		return outcomeNoAnswer
	}
	switch status := answer.StatusCode; {
	case status < 300:
		return outcomeOK
	case status == http.StatusNotFound:
		return outcomeNotFound
	case status == http.StatusPreconditionFailed, status == http.StatusConflict:
		return outcomeRefused
	case status == http.StatusServiceUnavailable, status == http.StatusTooManyRequests:
		return outcomeThrottled
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return outcomeDenied
	case status >= 500:
		return outcomeFailed
	}
	return outcomeInvalid
}

// slowness replaces the error of a request that was given up for its slowness.
func slowness(ctx context.Context, err error) error {
	if context.Cause(ctx) == errSlow { //nolint:errorlint // It is never wrapped.
		return errSlow
	}
	return err
}

// watched is a body that may take as long as its reader likes, while the server may not.
type watched struct {
	io.ReadCloser
	ctx      context.Context //nolint:containedctx // It is the request's, whose answer this is the rest of.
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	patience time.Duration
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.patience)
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	if err != nil && err != io.EOF { //nolint:errorlint // The end of a reader is io.EOF itself, as io.Reader says.
		err = slowness(w.ctx, err)
	}
	return n, err
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.timer.Stop()
	err := w.ReadCloser.Close()
	w.cancel(nil)
	return err
}

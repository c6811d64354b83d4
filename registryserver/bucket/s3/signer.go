package s3

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// signer signs with the credentials of the moment. The SDK's own keeps what it derived from a secret under the name of
// the access key for a day, and would go on signing with a secret that was replaced.
type signer struct {
	mu     sync.Mutex
	secret string
	signer *v4.Signer
}

func (s *signer) of(c aws.Credentials) *v4.Signer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signer == nil || s.secret != c.SecretAccessKey {
		s.secret = c.SecretAccessKey
		// S3 signs paths as they are sent.
		s.signer = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	}
	return s.signer
}

// SignHTTP implements the SDK's HTTPSignerV4.
func (s *signer) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, payloadHash, service, region string, at time.Time, o ...func(*v4.SignerOptions)) error {
	return s.of(c).SignHTTP(ctx, c, r, payloadHash, service, region, at, o...)
}

// PresignHTTP implements the SDK's HTTPPresignerV4.
func (s *signer) PresignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, payloadHash, service, region string, at time.Time, o ...func(*v4.SignerOptions)) (string, http.Header, error) {
	return s.of(c).PresignHTTP(ctx, c, r, payloadHash, service, region, at, o...)
}

package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Names of the Secrets of the authorities, in the operator's namespace.
const (
	ServingSecret = "chartroom-serving-ca"
	AdminSecret   = "chartroom-admin-ca"
)

// Store keeps the two authorities in Secrets of the operator's namespace. Its methods may be called from many
// goroutines.
type Store struct {
	// Reader reads Secrets, without a cache: an authority is never decided on by what was true a while ago.
	Reader client.Reader
	// Writer creates and updates Secrets.
	Writer client.Writer
	// Namespace is the operator's.
	Namespace string
	// Durations say how long certificates live.
	Durations Durations
	// Now is the clock; time.Now where it is nil.
	Now func() time.Time

	mu          sync.Mutex
	certificate *tls.Certificate
	issuer      string
	renew       time.Time
}

// Serving returns the authority that signs what registries serve with. It is made when it is not there, and renewed
// when it is due.
func (s *Store) Serving(ctx context.Context) (Authority, error) { return s.ensure(ctx, ServingSecret) }

// Admin returns the authority by which the operator and the admin ports recognise each other. It is made when it is
// not there, and renewed when it is due.
func (s *Store) Admin(ctx context.Context) (Authority, error) { return s.ensure(ctx, AdminSecret) }

// ClientTLS returns what the operator dials the admin port of a pod with: TLS 1.3, its own client certificate, and
// the check that the other side has serverName, see [wire.AdminServerName]. The certificate lives in memory alone.
func (s *Store) ClientTLS(ctx context.Context, serverName string) (*tls.Config, error) {
	authority, err := s.Admin(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	signer := string(authority.current.certificate.Raw)
	if now := s.now(); s.certificate == nil || !now.Before(s.renew) || s.issuer != signer {
		identity, err := url.Parse(wire.OperatorURI)
		if err != nil {
			return nil, err
		}
		leaf, err := authority.Issue(Request{URIs: []*url.URL{identity}, Usage: x509.ExtKeyUsageClientAuth}, now)
		if err != nil {
			return nil, err
		}
		certificate, err := tls.X509KeyPair(leaf.Certificate, leaf.Key)
		if err != nil {
			return nil, err
		}
		s.certificate, s.renew, s.issuer = &certificate, leaf.RenewAt, signer
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.Bundle())
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   serverName,
		RootCAs:      roots,
		Certificates: []tls.Certificate{*s.certificate},
	}, nil
}

func (s *Store) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// ensure reads an authority and brings it to where it should be. Of several that do so at once one wins: creating and
// updating both fail when another was first, and what that one wrote is read back.
func (s *Store) ensure(ctx context.Context, name string) (Authority, error) {
	var failure error
	for range 5 {
		authority, secret, err := s.read(ctx, name)
		if err != nil {
			return Authority{}, err
		}
		authority, changed, err := authority.Advance(s.now())
		if err != nil || !changed {
			return authority, err
		}
		if secret.Data, err = authority.Encode(); err != nil {
			return Authority{}, err
		}
		if secret.ResourceVersion == "" {
			failure = s.Writer.Create(ctx, secret)
		} else {
			failure = s.Writer.Update(ctx, secret)
		}
		if failure == nil {
			return authority, nil
		}
		if !apierrors.IsAlreadyExists(failure) && !apierrors.IsConflict(failure) {
			break
		}
	}
	return Authority{}, fmt.Errorf("writing the certificate authority %s/%s: %w", s.Namespace, name, failure)
}

func (s *Store) read(ctx context.Context, name string) (Authority, *corev1.Secret, error) {
	authority := NewAuthority(name, s.Durations)
	secret := &corev1.Secret{}
	err := s.Reader.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: name}, secret)
	if apierrors.IsNotFound(err) {
		return authority, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: name, Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy},
		}}, nil
	}
	if err != nil {
		return authority, nil, fmt.Errorf("reading the certificate authority %s/%s: %w", s.Namespace, name, err)
	}
	// A damaged authority is not replaced silently: every client would stop trusting every registry.
	authority, err = authority.Decode(secret.Data)
	if err != nil {
		return authority, nil, fmt.Errorf("the Secret %s/%s does not hold a certificate authority; restore it, or delete it to have a new one made that all clients must be given: %w", s.Namespace, name, err)
	}
	return authority, secret, nil
}

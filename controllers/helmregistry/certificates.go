package helmregistry

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/pki"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// certificateOutcome says what clients see.
type certificateOutcome struct {
	// expires is when the serving certificate is replaced, or expires when the user gave it.
	expires time.Time
	// refused says why there is no valid certificate.
	refused error
}

// reconcileCertificates writes the Secrets of a registry and what clients should trust. It goes on while the registry is
// suspended: certificates expire all the same.
func (r *Reconciler) reconcileCertificates(ctx context.Context, s *scope) error {
	for _, part := range []func(context.Context, *scope) error{r.reconcileKeys, r.reconcileAdminCertificate} {
		if err := part(ctx, s); err != nil {
			s.certificate.refused = err
			return err
		}
	}
	switch s.registry.TLSMode() {
	case v1alpha1.TLSSelfSigned:
		s.certificate.refused = r.reconcileSelfSigned(ctx, s)
	case v1alpha1.TLSSecret:
		s.certificate.refused = r.readGivenCertificate(ctx, s)
	}
	if s.certificate.refused != nil && s.params.ServingAuthorities == nil {
		return s.certificate.refused
	}
	s.note(s.certificate.refused)
	return r.reconcileAuthorities(ctx, s)
}

// current reads a Secret of the registry; nil when it is not there.
func (r *Reconciler) current(ctx context.Context, s *scope, want *corev1.Secret) (*corev1.Secret, error) {
	live := &corev1.Secret{}
	there, err := r.read(ctx, s, want, live)
	if err != nil || !there {
		return nil, err
	}
	return live, nil
}

func (r *Reconciler) writeSecret(ctx context.Context, want, live *corev1.Secret) error {
	if live == nil {
		return r.write(ctx, want, &corev1.Secret{}, false)
	}
	return r.write(ctx, want, live, true)
}

func (r *Reconciler) reconcileKeys(ctx context.Context, s *scope) error {
	live, err := r.current(ctx, s, desired.Keys(s.params))
	if err != nil {
		return err
	}
	if live != nil && desired.ValidKeys(live.Data[desired.EntryKeys]) {
		s.params.UploadKeys = live.Data[desired.EntryKeys]
	} else {
		var key [32]byte
		if _, err := rand.Read(key[:]); err != nil {
			return fmt.Errorf("making an upload key: %w", err)
		}
		s.params.UploadKeys = desired.EncodeKey(key)
	}
	return r.writeSecret(ctx, desired.Keys(s.params), live)
}

func (r *Reconciler) reconcileAdminCertificate(ctx context.Context, s *scope) error {
	authority, err := r.Authorities.Admin(ctx)
	if err != nil {
		return err
	}
	live, err := r.current(ctx, s, desired.Admin(s.params))
	if err != nil {
		return err
	}
	request := pki.Request{Names: []string{wire.AdminServerName(s.registry.Namespace, s.registry.Name)}, Usage: x509.ExtKeyUsageServerAuth}
	if s.params.Admin, _, err = s.keepOrIssue(authority, live, request); err != nil {
		return err
	}
	s.params.AdminAuthorities = authority.Bundle()
	return r.writeSecret(ctx, desired.Admin(s.params), live)
}

func (r *Reconciler) reconcileSelfSigned(ctx context.Context, s *scope) error {
	// The names that are signed are the Service's. Where that is somebody else's, so are they.
	if _, err := r.read(ctx, s, desired.Service(s.params), &corev1.Service{}); err != nil {
		return err
	}
	authority, err := r.Authorities.Serving(ctx)
	if err != nil {
		return err
	}
	live, err := r.current(ctx, s, desired.Certificate(s.params))
	if err != nil {
		return err
	}
	suffixes := r.AllowedHostSuffixes
	if s.stalled != nil && s.stalled.reason == "AddressTaken" {
		// Whoever does not have the host gets no certificate for it either.
		suffixes = nil
	}
	names, addresses := desired.CertificateNames(s.registry, suffixes)
	request := pki.Request{Names: names, Addresses: addresses, Usage: x509.ExtKeyUsageServerAuth}
	if s.params.Serving, s.certificate.expires, err = s.keepOrIssue(authority, live, request); err != nil {
		return err
	}
	s.params.ServingAuthorities = authority.Bundle()
	if err := r.writeSecret(ctx, desired.Certificate(s.params), live); err != nil {
		return err
	}
	if !desired.HostAllowed(s.registry, r.AllowedHostSuffixes) {
		return stalled("HostNotAllowed", "the operator does not sign certificates for %s: give one with tls.mode Secret, or have the host's domain added to the operator's --allowed-host-suffixes", desired.Hostname(s.registry))
	}
	return nil
}

// keepOrIssue keeps the certificate of a Secret while it is good, and issues another when it is not.
func (s *scope) keepOrIssue(authority pki.Authority, live *corev1.Secret, request pki.Request) (desired.KeyPair, time.Time, error) {
	s.due(authority.NextChange())
	if live != nil {
		pair := desired.KeyPair{Certificate: live.Data[desired.EntryCertificate], Key: live.Data[desired.EntryKey]}
		if renewAt, err := authority.Check(pair.Certificate, pair.Key, request, s.now); err == nil {
			s.due(renewAt)
			return pair, renewAt, nil
		}
	}
	leaf, err := authority.Issue(request, s.now)
	s.due(leaf.RenewAt)
	return desired.KeyPair{Certificate: leaf.Certificate, Key: leaf.Key}, leaf.RenewAt, err
}

// readGivenCertificate looks at the Secret that the user gave. The pod mounts it itself.
func (r *Reconciler) readGivenCertificate(ctx context.Context, s *scope) error {
	name := s.registry.Spec.TLS.SecretRef.Name
	secret := &corev1.Secret{}
	err := r.APIReader.Get(ctx, types.NamespacedName{Namespace: s.registry.Namespace, Name: name}, secret)
	if apierrors.IsNotFound(err) {
		return stalled("SecretNotFound", "there is no Secret %s in this namespace: create it with tls.crt and tls.key", name)
	}
	if err != nil {
		return fmt.Errorf("reading Secret %s: %w", name, err)
	}
	s.certificate.expires, err = pki.CheckGiven(secret.Data[desired.EntryCertificate], secret.Data[desired.EntryKey], desired.Hostname(s.registry), s.now)
	if err != nil {
		return stalled("CertificateInvalid", "Secret %s: %s", name, err)
	}
	s.due(s.certificate.expires.Add(time.Second))
	if bundle := secret.Data[desired.EntryAuthorities]; len(bundle) > 0 {
		if err := pki.CheckBundle(bundle); err != nil {
			return stalled("CertificateInvalid", "ca.crt of Secret %s: %s", name, err)
		}
		s.params.ServingAuthorities = bundle
	}
	return nil
}

// reconcileAuthorities publishes what clients should trust.
func (r *Reconciler) reconcileAuthorities(ctx context.Context, s *scope) error {
	if len(s.params.ServingAuthorities) == 0 {
		return nil
	}
	want, live := desired.Authorities(s.params), &corev1.ConfigMap{}
	there, err := r.read(ctx, s, want, live)
	if err != nil {
		return err
	}
	return r.write(ctx, want, live, there)
}

// prune takes away what an earlier TLS mode or number of replicas left. It comes last: pods may still mount it until the workload changed.
func (r *Reconciler) prune(ctx context.Context, s *scope) error {
	if s.blocked() || s.registry.Spec.Suspend {
		return nil
	}
	if s.params.Replicas == 1 {
		if err := r.remove(ctx, s, desired.DisruptionBudget(s.params), &policyv1.PodDisruptionBudget{}); err != nil {
			return err
		}
	}
	if s.registry.TLSMode() != v1alpha1.TLSSelfSigned {
		if err := r.remove(ctx, s, desired.Certificate(s.params), &corev1.Secret{}); err != nil {
			return err
		}
	}
	if len(s.params.ServingAuthorities) == 0 {
		return r.remove(ctx, s, desired.Authorities(s.params), &corev1.ConfigMap{})
	}
	return nil
}

// remove deletes an object that the registry controls and does not need any more.
func (r *Reconciler) remove(ctx context.Context, s *scope, want, live client.Object) error {
	err := r.APIReader.Get(ctx, client.ObjectKeyFromObject(want), live)
	if err != nil || !metav1.IsControlledBy(live, s.registry) || live.GetDeletionTimestamp() != nil {
		return client.IgnoreNotFound(err)
	}
	uid := live.GetUID()
	return client.IgnoreNotFound(r.Client.Delete(ctx, live, client.Preconditions{UID: &uid}))
}

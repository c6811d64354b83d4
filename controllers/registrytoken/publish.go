package registrytoken

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/status"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
	"github.com/chartroom-dev/chartroom/registryserver/access"
)

// issue mints a token and publishes it.
func (r *Reconciler) issue(ctx context.Context, s *scope) error {
	minted, err := access.Mint(r.Random)
	if err != nil {
		return err
	}
	at := s.in.Now.UTC().Truncate(time.Second)
	s.decision.Credential = tokens.Credential{Token: minted, IssuedAt: at, ExpiresAt: tokens.Expiry(s.in.Token, at)}
	if err := r.publish(ctx, s); err != nil {
		return err
	}
	kind := corev1.EventTypeNormal
	if s.decision.Reason != tokens.ReasonIssued {
		kind = corev1.EventTypeWarning
	}
	r.Recorder.Eventf(s.in.Token, nil, kind, s.decision.Reason, "Issue", "%s The token is now %s.", status.Note(s.decision.Message), minted)
	s.decision.InForce = true
	return nil
}

// publish brings the Secret to what it should be for the credential of the decision.
func (r *Reconciler) publish(ctx context.Context, s *scope) error {
	ca, err := r.authorities(ctx, s.in.Registry)
	if err != nil {
		return err
	}
	secret := tokens.BuildSecret(s.in.Token, s.in.Registry, s.decision.Credential, ca)
	var live client.Object
	if s.in.Secret != nil {
		live = s.in.Secret
	}
	_, err = r.applier().Apply(ctx, live, secret)
	if err == nil && s.decision.Action == tokens.Adopt {
		r.Recorder.Eventf(s.in.Token, nil, corev1.EventTypeNormal, s.decision.Reason, "Adopt", "%s", status.Note(s.decision.Message))
	}
	return err
}

// authorities returns the certificates that clients of a registry must trust, in PEM; empty when there is nothing to
// know.
func (r *Reconciler) authorities(ctx context.Context, registry *v1alpha1.HelmRegistry) ([]byte, error) {
	found := &corev1.ConfigMap{}
	key := client.ObjectKey{Namespace: registry.Namespace, Name: desired.AuthoritiesName(registry)}
	if err := r.Owned.Get(ctx, key, found); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading the ConfigMap %s of the registry's authority: %w", key.Name, err)
	}
	if !metav1.IsControlledBy(found, registry) || registry.TLSMode() == v1alpha1.TLSNone {
		return nil, nil
	}
	return []byte(found.Data[desired.EntryAuthorities]), nil
}

// record writes into the status what there is to know of the token.
func record(token *v1alpha1.RegistryToken, c tokens.Credential) {
	issued := metav1.NewTime(c.IssuedAt)
	token.Status.TokenID = c.Token.ID()
	token.Status.SecretRef = &v1alpha1.LocalObjectReference{Name: token.SecretName()}
	token.Status.IssuedAt = &issued
	token.Status.ExpiresAt = nil
	if c.ExpiresAt != nil {
		at := metav1.NewTime(*c.ExpiresAt)
		token.Status.ExpiresAt = &at
	}
}

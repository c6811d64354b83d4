package registrytoken

import (
	"bytes"
	"context"
	"fmt"
	"slices"
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
	s.decision.Credentials = tokens.Credentials{
		Current: tokens.NewCredential(s.in.Token, minted, s.in.Now), Handled: s.in.Token.RotationRequest()}
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

// stage mints a token and writes it beside the published one, for the pods to learn of it.
func (r *Reconciler) stage(ctx context.Context, s *scope) error {
	minted, err := access.Mint(r.Random)
	if err != nil {
		return err
	}
	next := tokens.NewCredential(s.in.Token, minted, s.in.Now)
	s.decision.Credentials.Next = &next
	return r.publish(ctx, s)
}

// publish brings the Secret to what it should be for the credentials of the decision, and tells of what is new to those
// who read it.
func (r *Reconciler) publish(ctx context.Context, s *scope) error {
	if s.in.Token.Unpublished() {
		return nil
	}
	ca, err := r.authorities(ctx, s.in.Registries)
	if err != nil {
		return err
	}
	secret := tokens.BuildSecret(s.in.Token, s.in.Registries, s.decision.Credentials, ca)
	var live client.Object
	if s.in.Secret != nil {
		live = s.in.Secret
	}
	if _, err := r.applier().Apply(ctx, live, secret); err != nil {
		return err
	}
	if s.decision.Action == tokens.Adopt || s.decision.Action == tokens.Switch {
		r.Recorder.Eventf(s.in.Token, nil, corev1.EventTypeNormal, s.decision.Reason, "Publish", "%s", status.Note(s.decision.Message))
	}
	return nil
}

// authorities returns the certificates that clients of some registries must trust, in PEM; empty when there is nothing to
// know.
func (r *Reconciler) authorities(ctx context.Context, registries []*v1alpha1.HelmRegistry) ([]byte, error) {
	var all []byte
	for _, registry := range registries {
		ca, err := r.authoritiesOf(ctx, registry)
		if err != nil {
			return nil, err
		}
		if !bytes.Contains(all, ca) { // As a rule it is the operator's for all.
			all = append(all, ca...)
		}
	}
	return all, nil
}

func (r *Reconciler) authoritiesOf(ctx context.Context, registry *v1alpha1.HelmRegistry) ([]byte, error) {
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

// record writes into the status what there is to know of the tokens.
func record(token *v1alpha1.RegistryToken, c tokens.Credentials) {
	token.Status.TokenID = c.Current.ID
	token.Status.Prefix = c.Current.String()
	token.Status.SecretRef = nil
	if !token.Unpublished() {
		token.Status.SecretRef = &v1alpha1.LocalObjectReference{Name: token.SecretName()}
	}
	token.Status.IssuedAt = metaTime(&c.Current.IssuedAt)
	token.Status.ExpiresAt = metaTime(c.Current.ExpiresAt)
	token.Status.NextRotation = metaTime(tokens.NextRotation(token, c))
	token.Status.LastHandledRotationRequest = c.Handled
	token.Status.PreviousExpiresAt = nil
	if c.Previous != nil {
		token.Status.PreviousExpiresAt = metaTime(c.Previous.ExpiresAt)
	}
}

// lastUsed returns when a token of the object was accepted last, as the pods say now or have said before. Where their clocks
// are ahead, that is not later than now.
func (s *scope) lastUsed() *metav1.Time {
	last := s.in.Token.Status.LastUsed
	for _, uses := range s.uses {
		at := uses.Of(s.decision.Credentials.Current.SHA256)
		if previous := s.decision.Credentials.Previous; previous != nil {
			at = slices.MaxFunc([]time.Time{at, uses.Of(previous.SHA256)}, time.Time.Compare)
		}
		if at.After(s.in.Now) {
			at = s.in.Now.UTC().Truncate(access.UseBucket)
		}
		if !at.IsZero() && (last == nil || at.After(last.Time)) {
			last = metaTime(&at)
		}
	}
	return last
}

func metaTime(at *time.Time) *metav1.Time {
	if at == nil {
		return nil
	}
	return &metav1.Time{Time: *at}
}

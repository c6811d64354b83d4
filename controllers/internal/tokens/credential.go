// Package tokens decides, purely, what is to be done about a RegistryToken and the Secret that it publishes, and builds
// both the Secret and the token's entry in the access snapshot. registrytoken and accesssync decide by the same
// functions, so that a token is in force exactly when its object says so.
package tokens

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Keys of the Secret beside corev1.DockerConfigJsonKey.
const (
	KeyUsername = "username"
	KeyPassword = "password"
	// KeyRegistry is the host[:port] to log in to.
	KeyRegistry = "registry"
	// KeyURL is the registry's address, status.url of the HelmRegistry.
	KeyURL = "url"
	// KeyCA is the authority's certificate in PEM; absent when the registry has no authority of its own.
	KeyCA = "ca.crt"
)

// Username is the user name in published Secrets. Registries ignore it.
const Username = "chartroom"

// Credential is a token with the instants that it lives by.
type Credential struct {
	Token access.Token
	// IssuedAt is in whole seconds, UTC.
	IssuedAt time.Time
	// ExpiresAt is the instant from which the token is refused, in whole seconds, UTC; nil when it does not expire.
	ExpiresAt *time.Time
}

// ReadCredential reads the token that a Secret holds. The error says what is wrong with the Secret and never quotes it.
//
// The instant of issue is the one that the status of the RegistryToken recorded for the same token; the Secret's
// annotation counts where there is no record, as after a restore.
func ReadCredential(t *v1alpha1.RegistryToken, secret *corev1.Secret, now time.Time) (Credential, error) {
	token, err := access.ParseToken(string(secret.Data[KeyPassword]))
	if err != nil {
		return Credential{}, fmt.Errorf("its entry %s is not a token: %w", KeyPassword, err)
	}
	if secret.Annotations[v1alpha1.AnnotationTokenID] != token.ID() {
		return Credential{}, fmt.Errorf("its annotation %s is not the id of the token in it", v1alpha1.AnnotationTokenID)
	}
	if t.Status.TokenID != "" && t.Status.TokenID != token.ID() {
		return Credential{}, errors.New("it holds another token than the one that was issued last")
	}
	c := Credential{Token: token}
	if t.Status.TokenID != "" && t.Status.IssuedAt != nil {
		c.IssuedAt = t.Status.IssuedAt.UTC()
	} else if c.IssuedAt, err = instant(secret, v1alpha1.AnnotationIssuedAt); err != nil {
		return Credential{}, err
	}
	c.ExpiresAt = Expiry(t, c.IssuedAt)
	if _, ok := secret.Annotations[v1alpha1.AnnotationExpiresAt]; ok {
		annotated, err := instant(secret, v1alpha1.AnnotationExpiresAt)
		if err != nil {
			return Credential{}, err
		}
		// A token that has expired stays so, whatever the spec says by now.
		if !annotated.After(now) {
			c.ExpiresAt = &annotated
		}
	}
	if recorded := t.Status.ExpiresAt; t.Status.TokenID != "" && recorded != nil && !recorded.After(now) {
		at := recorded.UTC()
		c.ExpiresAt = &at
	}
	return c, nil
}

func instant(secret *corev1.Secret, annotation string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, secret.Annotations[annotation])
	if err != nil {
		return at, fmt.Errorf("its annotation %s is not an instant such as 2026-01-31T12:00:00Z", annotation)
	}
	return at.UTC().Truncate(time.Second), nil
}

// Expiry returns the instant from which a token issued at an instant is refused by the spec, in whole seconds, UTC; nil
// when it does not expire.
func Expiry(t *v1alpha1.RegistryToken, issuedAt time.Time) *time.Time {
	var at time.Time
	switch {
	case t.Spec.ExpiresAt != nil:
		at = t.Spec.ExpiresAt.UTC()
	case t.Spec.TTL != nil:
		at = issuedAt.UTC().Add(t.Spec.TTL.Duration)
	default:
		return nil
	}
	at = at.Truncate(time.Second)
	return &at
}

// Expired reports whether the credential is refused from now on.
func (c Credential) Expired(now time.Time) bool {
	return c.ExpiresAt != nil && !now.Before(*c.ExpiresAt)
}

// Entry returns the credential's entry in the access snapshot.
func Entry(t *v1alpha1.RegistryToken, c Credential) wire.Token {
	entry := wire.Token{
		ID:        c.Token.ID(),
		SHA256:    c.Token.SHA256(),
		Name:      t.Namespace + "/" + t.Name,
		Charts:    t.Charts(),
		ExpiresAt: c.ExpiresAt,
	}
	for _, scope := range t.Scopes() {
		entry.Scopes = append(entry.Scopes, wire.Scope(scope))
	}
	return entry
}

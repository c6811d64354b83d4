// Package tokens decides, purely, what is to be done about a RegistryToken and the Secret that it publishes, and builds
// both the Secret and the token's entry in the access snapshot. registrytoken and accesssync decide by the same
// functions, so that a token is in force exactly when its object says so.
package tokens

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	// KeyNext is the token that is about to replace the one in KeyPassword; there only until every pod enforces it.
	KeyNext = "next-token"
)

// Username is the user name in published Secrets. Registries ignore it.
const Username = "chartroom"

// Credential is a token with the instants that it lives by.
type Credential struct {
	// ID is the token's public part, SHA256 the hash of its secret one in lower-case hexadecimal.
	ID, SHA256 string
	// Token is the token itself; zero where its hash is all that is known.
	Token access.Token
	// IssuedAt is in whole seconds, UTC; zero where nobody needs it any more.
	IssuedAt time.Time
	// ExpiresAt is the instant from which the token is refused, in whole seconds, UTC; nil when it does not expire.
	ExpiresAt *time.Time
}

// NewCredential returns the credential of a token of t that is issued at an instant.
func NewCredential(t *v1alpha1.RegistryToken, token access.Token, at time.Time) Credential {
	at = at.UTC().Truncate(time.Second)
	return Credential{ID: token.ID(), SHA256: token.SHA256(), Token: token, IssuedAt: at, ExpiresAt: Expiry(t, at)}
}

// unpublished returns the credential of a token that was made elsewhere. Its issue is when the object was created, as the
// status recorded it, or the object's annotation where there is no record, as after a restore.
func unpublished(t *v1alpha1.RegistryToken, now time.Time) (Credential, error) {
	id, err := access.IDOf(t.Spec.SecretSHA256)
	if err != nil {
		return Credential{}, fmt.Errorf("secretSHA256: %w", err)
	}
	issued := t.CreationTimestamp.UTC()
	if at, err := time.Parse(time.RFC3339, t.Annotations[v1alpha1.AnnotationIssuedAt]); err == nil && at.Before(issued) {
		issued = at.UTC()
	}
	if t.Status.TokenID == id && t.Status.IssuedAt != nil {
		issued = t.Status.IssuedAt.UTC()
	}
	issued = issued.Truncate(time.Second)
	c := Credential{ID: id, SHA256: t.Spec.SecretSHA256, IssuedAt: issued, ExpiresAt: Expiry(t, issued)}
	if t.Status.TokenID == id {
		c.endAsRecorded(t, now)
	}
	return c, nil
}

// String is "crt_<id>".
func (c Credential) String() string { return "crt_" + c.ID }

// Expired reports whether the credential is refused from now on.
func (c Credential) Expired(now time.Time) bool {
	return c.ExpiresAt != nil && !now.Before(*c.ExpiresAt)
}

// Credentials are the tokens of one RegistryToken that work at the same time.
type Credentials struct {
	// Current is the one that the Secret publishes.
	Current Credential
	// Previous is the one that Current replaced, until its overlap ends; nil when there is none. Its hash is all that is
	// left of it, and it always expires.
	Previous *Credential
	// Next is the one that replaces Current once every pod enforces it; nil when there is none.
	Next *Credential
	// Handled is the request for a rotation that was acted on last.
	Handled string
}

// switched returns the credentials once Next is the published one, which it becomes at an instant.
func (c Credentials) switched(t *v1alpha1.RegistryToken, at time.Time) Credentials {
	end := metav1.NewTime(at.Add(t.Overlap()))
	return Credentials{Current: *c.Next, Previous: c.Current.until(&end), Handled: t.RotationRequest()}
}

// until returns what is left of a token that was replaced and ends at an instant, or before if it would have expired; nil
// when it is not known, or had ended.
func (c *Credential) until(at *metav1.Time) *Credential {
	if c == nil || at == nil {
		return nil
	}
	end := at.UTC().Truncate(time.Second)
	if c.ExpiresAt != nil && c.ExpiresAt.Before(end) {
		end = *c.ExpiresAt
	}
	return &Credential{ID: c.ID, SHA256: c.SHA256, ExpiresAt: &end}
}

// ReadCredentials reads the tokens that a Secret holds. The error says what is wrong with the published one and never
// quotes it; whatever is wrong with the others, they are left out.
//
// What the status of the RegistryToken recorded for the same tokens counts more than the Secret's annotations, which
// count where there is no record, as after a restore. Secret and status are written one after the other, and read from
// two caches: either may be one rotation behind.
func ReadCredentials(t *v1alpha1.RegistryToken, secret *corev1.Secret, now time.Time) (Credentials, error) {
	token, err := access.ParseToken(string(secret.Data[KeyPassword]))
	if err != nil {
		return Credentials{}, fmt.Errorf("its entry %s is not a token: %w", KeyPassword, err)
	}
	if secret.Annotations[v1alpha1.AnnotationTokenID] != token.ID() {
		return Credentials{}, fmt.Errorf("its annotation %s is not the id of the token in it", v1alpha1.AnnotationTokenID)
	}
	issued, err := instant(secret, v1alpha1.AnnotationIssuedAt)
	recorded := t.Status.TokenID == token.ID()
	switch {
	case recorded && t.Status.IssuedAt != nil:
		issued = t.Status.IssuedAt.Time
	case err != nil:
		return Credentials{}, err
	case issued.After(now):
		issued = now // Its ttl is not counted from a day to come, whoever wrote that.
	}
	c := Credentials{
		Current:  NewCredential(t, token, issued),
		Previous: readPrevious(secret),
		Next:     readNext(t, secret, now),
		Handled:  secret.Annotations[v1alpha1.AnnotationRotationRequested],
	}
	if err := c.Current.endAsAnnotated(secret, now); err != nil {
		return Credentials{}, err
	}
	switch id := t.Status.TokenID; {
	case id == "":
	case recorded:
		c.Current.endAsRecorded(t, now)
		c.Previous = c.Previous.until(t.Status.PreviousExpiresAt)
	case c.Previous != nil && c.Previous.ID == id: // The record is one rotation behind.
	case c.Next != nil && c.Next.ID == id: // The Secret is.
		c = Credentials{Current: *c.Next, Previous: c.Current.until(t.Status.PreviousExpiresAt), Handled: t.Status.LastHandledRotationRequest}
		c.Current.endAsRecorded(t, now)
	default:
		return Credentials{}, errors.New("it holds another token than the one that was issued last")
	}
	if c.Previous != nil && c.Previous.Expired(now) {
		c.Previous = nil
	}
	return c, nil
}

// endAsAnnotated makes an expiry that has passed by the Secret's annotation count: a token that has expired stays so,
// whatever the spec says by now.
func (c *Credential) endAsAnnotated(secret *corev1.Secret, now time.Time) error {
	if _, ok := secret.Annotations[v1alpha1.AnnotationExpiresAt]; !ok {
		return nil
	}
	annotated, err := instant(secret, v1alpha1.AnnotationExpiresAt)
	if err == nil && !annotated.After(now) {
		c.ExpiresAt = &annotated
	}
	return err
}

// endAsRecorded does the same for the status, which must be about this token.
func (c *Credential) endAsRecorded(t *v1alpha1.RegistryToken, now time.Time) {
	if recorded := t.Status.ExpiresAt; recorded != nil && !recorded.After(now) {
		at := recorded.UTC()
		c.ExpiresAt = &at
	}
}

// readNext reads the token that is about to replace the published one; nil when there is none that could.
func readNext(t *v1alpha1.RegistryToken, secret *corev1.Secret, now time.Time) *Credential {
	token, err := access.ParseToken(string(secret.Data[KeyNext]))
	if err != nil {
		return nil
	}
	issued, err := instant(secret, v1alpha1.AnnotationNextIssuedAt)
	if err != nil || issued.After(now) {
		return nil
	}
	if c := NewCredential(t, token, issued); !c.Expired(now) {
		return &c
	}
	return nil
}

// readPrevious reads what is left of the token that the published one replaced; nil when there is nothing.
func readPrevious(secret *corev1.Secret) *Credential {
	c := Credential{ID: secret.Annotations[v1alpha1.AnnotationPreviousID], SHA256: secret.Annotations[v1alpha1.AnnotationPreviousSHA256]}
	at, err := instant(secret, v1alpha1.AnnotationPreviousExpiresAt)
	if err != nil || access.ValidateID(c.ID) != nil || access.ValidateSHA256(c.SHA256) != nil {
		return nil
	}
	c.ExpiresAt = &at
	return &c
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

// Entry returns the entry of a credential in the access snapshot.
func Entry(t *v1alpha1.RegistryToken, c Credential) wire.Token {
	entry := wire.Token{
		ID:        c.ID,
		SHA256:    c.SHA256,
		Name:      t.Namespace + "/" + t.Name,
		Charts:    t.Charts(),
		ExpiresAt: c.ExpiresAt,
	}
	for _, scope := range t.Scopes() {
		entry.Scopes = append(entry.Scopes, wire.Scope(scope))
	}
	return entry
}

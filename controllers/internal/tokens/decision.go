package tokens

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/guests"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Action is what is to be done about a RegistryToken.
type Action int

// The actions.
const (
	// Revoke: the token must be admitted nowhere, and its Secret must go.
	Revoke Action = iota
	// Wait: nothing can be done until something else appears.
	Wait
	// Stall: nothing can be done until somebody changes an object.
	Stall
	// Expire: the token has expired, for good.
	Expire
	// Issue: a new token is to be minted, and any earlier one ends.
	Issue
	// Adopt: the Secret holds a valid token of this object, without belonging to it yet.
	Adopt
	// Stage: a new token is to be minted and written beside the published one, which it will replace.
	Stage
	// Switch: the token that was staged is enforced everywhere, and is to be published.
	Switch
	// Keep: the Secret holds the token of this object.
	Keep
)

// Reasons of decisions. They are condition reasons and reasons of events.
const (
	ReasonRevoked               = "Revoked"
	ReasonRegistryNotFound      = "RegistryNotFound"
	ReasonNamespaceNotAllowed   = "NamespaceNotAllowed"
	ReasonNameTaken             = "NameTaken"
	ReasonExpired               = "Expired"
	ReasonInvalidSecretTemplate = "InvalidSecretTemplate"
	ReasonInvalidSpec           = "InvalidSpec"
	ReasonIssued                = "Issued"
	ReasonSecretMissing         = "SecretMissing"
	ReasonSecretChanged         = "SecretChanged"
	ReasonAdopted               = "Adopted"
	ReasonPublished             = "Published"
	ReasonLapsed                = "Lapsed"
	ReasonRotating              = "Rotating"
	ReasonRotated               = "Rotated"
)

// Input is all that a decision depends on.
type Input struct {
	Token *v1alpha1.RegistryToken
	// Registries are those that the token is for; none when none is there.
	Registries []*v1alpha1.HelmRegistry
	// NamespaceLabels are those of the token's namespace.
	NamespaceLabels map[string]string
	// Secret is the object under the token's Secret name; nil when there is none.
	Secret *corev1.Secret
	// Enforced reports whether every live pod of every registry enforces a credential; nil where nobody was asked.
	Enforced func(Credential) bool
	Now      time.Time
}

// Decision is what is to be done, and why.
type Decision struct {
	Action Action
	// Reason and Message are for a condition or an event. They hold no secret.
	Reason, Message string
	// Credentials are the tokens that the Secret holds, or is to hold; they have meaning only when InForce.
	Credentials Credentials
	// InForce says that the tokens in the Secret belong into the access snapshot.
	InForce bool
}

// facts are an Input with what all rules need to know of its Secret.
type facts struct {
	Input
	credentials Credentials
	// broken says what is wrong with the token in the Secret; nil when it is whole.
	broken error
	// owned says that the Secret belongs to this very object.
	owned bool
}

// rule decides, or leaves the decision to the next one.
type rule func(f facts) (Decision, bool)

func newFacts(in Input) facts {
	f := facts{Input: in}
	switch {
	case in.Token.Unpublished():
		f.credentials.Current, f.broken = unpublished(in.Token, in.Now)
	case in.Secret != nil:
		f.credentials, f.broken = ReadCredentials(in.Token, in.Secret, in.Now)
		f.owned = metav1.IsControlledBy(in.Secret, in.Token)
	}
	return f
}

// Decide says what is to be done about a RegistryToken.
func Decide(in Input) Decision {
	f := newFacts(in)
	rules := published
	if in.Token.Unpublished() {
		rules = madeElsewhere
	}
	for _, r := range rules {
		if d, decided := r(f); decided {
			return d
		}
	}
	return Decision{Action: Keep, Reason: ReasonPublished, Credentials: f.credentials, InForce: true}
}

// The rules, in order: for a token that is published in a Secret, and for one that was made elsewhere.
var (
	published = []rule{
		revoked,
		selectorRefused,
		registryMissing,
		namespaceRefused,
		nameTaken, // Before anything that writes: a foreign Secret is never touched.
		expired,   // Before missing: an expired token is not issued again.
		specRefused,
		secretMissing,
		secretChanged,
		lapsed,
		secretToBeAdopted,
		rotationConfirmed,
		rotationDue,
	}
	madeElsewhere = []rule{revoked, selectorRefused, registryMissing, namespaceRefused, expired, specRefused}
)

// IsRevoked reports whether the token must be admitted nowhere, which is final.
func IsRevoked(t *v1alpha1.RegistryToken) bool {
	return !t.DeletionTimestamp.IsZero() || t.State() == v1alpha1.TokenRevoked
}

func revoked(f facts) (Decision, bool) {
	return Decision{Action: Revoke, Reason: ReasonRevoked, Message: "the token is revoked"}, IsRevoked(f.Token)
}

func registryMissing(f facts) (Decision, bool) {
	message := fmt.Sprintf("no HelmRegistry of the namespace %s has the labels that registrySelector asks for; the token is issued when one does", f.Token.Namespace)
	if key, named := f.Token.RegistryKey(); named {
		message = fmt.Sprintf("there is no HelmRegistry %s; the token is issued when it appears", key)
	}
	return Decision{Action: Wait, Reason: ReasonRegistryNotFound, Message: message}, len(f.Registries) == 0
}

func namespaceRefused(f facts) (Decision, bool) {
	for _, registry := range f.Registries {
		if err := Admit(f.Token, registry, f.NamespaceLabels); err != nil {
			return Decision{Action: Stall, Reason: ReasonNamespaceNotAllowed, Message: err.Error()}, true
		}
	}
	return Decision{}, false
}

// selectorRefused finds a selector that cannot be read.
func selectorRefused(f facts) (Decision, bool) {
	if f.Token.Spec.RegistrySelector == nil {
		return Decision{}, false
	}
	if _, err := metav1.LabelSelectorAsSelector(f.Token.Spec.RegistrySelector); err != nil {
		return Decision{Action: Stall, Reason: ReasonInvalidSpec, Message: fmt.Sprintf("registrySelector: %v", err)}, true
	}
	return Decision{}, false
}

// Admit says why a registry does not let a token of that namespace attach to it.
func Admit(t *v1alpha1.RegistryToken, r *v1alpha1.HelmRegistry, namespaceLabels map[string]string) error {
	return guests.Admit(guests.Guest{Kind: "tokens", Namespace: t.Namespace, NamespaceLabels: namespaceLabels, Scopes: t.Scopes()}, r)
}

// nameTaken finds a Secret that is not ours. One that belongs to this object is, whatever was done to it, as long as its
// type, which cannot be changed, is right. Any other must bear our labels and hold a whole token.
func nameTaken(f facts) (Decision, bool) {
	if f.Secret == nil {
		return Decision{}, false
	}
	var why string
	switch owner := metav1.GetControllerOf(f.Secret); {
	case f.Secret.Type != f.Token.SecretType():
		why = "is of another type"
	case f.owned:
		return Decision{}, false
	case owner != nil && !sameToken(owner, f.Token):
		why = "belongs to another object"
	case f.Secret.Labels[v1alpha1.LabelManagedBy] != v1alpha1.ManagedBy || f.Secret.Labels[v1alpha1.LabelToken] != f.Token.Name:
		why = "lacks the labels of this token"
	case f.broken != nil:
		why = "holds no valid token"
	default:
		return Decision{}, false
	}
	return Decision{Action: Stall, Reason: ReasonNameTaken, Message: fmt.Sprintf(
		"the Secret %s exists and %s; delete it, or create another RegistryToken with secretTemplate.name", f.Secret.Name, why)}, true
}

// sameToken reports whether an owner is an object of this name from before a restore.
func sameToken(owner *metav1.OwnerReference, t *v1alpha1.RegistryToken) bool {
	return owner.Kind == "RegistryToken" && owner.Name == t.Name &&
		strings.HasPrefix(owner.APIVersion, v1alpha1.GroupVersion.Group+"/")
}

func expired(f facts) (Decision, bool) {
	var at time.Time
	switch recorded := f.Token.Status.ExpiresAt; {
	case f.Token.Spec.Rotation != nil && f.Token.Spec.ExpiresAt == nil: // Another one takes its place.
		return Decision{}, false
	case f.whole() && f.credentials.Current.Expired(f.Now):
		at = *f.credentials.Current.ExpiresAt
	case !f.whole() && recorded != nil && !recorded.After(f.Now):
		at = recorded.UTC()
	case f.Token.Spec.ExpiresAt != nil && !f.Token.Spec.ExpiresAt.After(f.Now):
		at = f.Token.Spec.ExpiresAt.UTC()
	default:
		return Decision{}, false
	}
	return Decision{Action: Expire, Reason: ReasonExpired, Credentials: f.credentials, Message: fmt.Sprintf(
		"the token expired at %s and stays so; create another RegistryToken", at.Format(time.RFC3339))}, true
}

// whole reports whether there is a token: in a Secret, or made elsewhere.
func (f facts) whole() bool {
	return (f.Secret != nil || f.Token.Unpublished()) && f.broken == nil
}

// specRefused finds what the validation of the kind does not. The token that is already published stays in force.
func specRefused(f facts) (Decision, bool) {
	d := Decision{Action: Stall, Credentials: f.credentials, InForce: f.whole() && !f.credentials.Current.Expired(f.Now)}
	if err := CheckTemplate(f.Token.Spec.SecretTemplate); err != nil {
		d.Reason, d.Message = ReasonInvalidSecretTemplate, err.Error()
		return d, true
	}
	if f.Token.Unpublished() && f.broken != nil {
		return Decision{Action: Stall, Reason: ReasonInvalidSpec, Message: f.broken.Error()}, true
	}
	probe := Entry(f.Token, f.credentials.Current)
	probe.ID, probe.SHA256 = "00000000", strings.Repeat("0", 64)
	if _, err := access.Compile(wire.Access{Tokens: []wire.Token{probe}}); err != nil {
		return Decision{Action: Stall, Reason: ReasonInvalidSpec, Message: err.Error()}, true
	}
	return d, false
}

func secretMissing(f facts) (Decision, bool) {
	d := Decision{Action: Issue, Reason: ReasonIssued, Message: "a token is issued"}
	if f.Token.Status.TokenID != "" {
		d.Reason = ReasonSecretMissing
		d.Message = fmt.Sprintf("the Secret %s is gone; a new token is issued, and crt_%s has ended", f.Token.SecretName(), f.Token.Status.TokenID)
	}
	return d, f.Secret == nil
}

func secretChanged(f facts) (Decision, bool) {
	return Decision{Action: Issue, Reason: ReasonSecretChanged, Message: fmt.Sprintf(
		"the Secret %s was changed: %v; a new token is issued, and the earlier one has ended", f.Token.SecretName(), f.broken)}, f.broken != nil
}

// lapsed finds a token that expired although it was to be replaced, as after the operator was away for long.
func lapsed(f facts) (Decision, bool) {
	return Decision{Action: Issue, Reason: ReasonLapsed, Message: fmt.Sprintf(
		"%v expired before it was replaced; a new token is issued", f.credentials.Current)}, f.credentials.Current.Expired(f.Now)
}

func secretToBeAdopted(f facts) (Decision, bool) {
	return Decision{Action: Adopt, Reason: ReasonAdopted, Credentials: f.credentials, InForce: true, Message: fmt.Sprintf(
		"the Secret %s with the token %v is adopted", f.Secret.Name, f.credentials.Current)}, !f.owned
}

// Ours reports whether the Secret under the token's name is the token's own.
func Ours(in Input) bool {
	f := newFacts(in)
	_, taken := nameTaken(f)
	return in.Secret != nil && !taken
}

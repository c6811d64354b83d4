package tokens

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
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
)

// Input is all that a decision depends on.
type Input struct {
	Token *v1alpha1.RegistryToken
	// Registry is nil when there is none of that name.
	Registry *v1alpha1.HelmRegistry
	// NamespaceLabels are those of the token's namespace.
	NamespaceLabels map[string]string
	// Secret is the object under the token's Secret name; nil when there is none.
	Secret *corev1.Secret
	Now    time.Time
}

// Decision is what is to be done, and why.
type Decision struct {
	Action Action
	// Reason and Message are for a condition or an event. They hold no secret.
	Reason, Message string
	// Credential is the token that the Secret holds; it has meaning only when InForce.
	Credential Credential
	// InForce says that the token in the Secret belongs into the access snapshot.
	InForce bool
}

// facts are an Input with what all rules need to know of its Secret.
type facts struct {
	Input
	credential Credential
	// broken says what is wrong with the token in the Secret; nil when it is whole.
	broken error
	// owned says that the Secret belongs to this very object.
	owned bool
}

// rule decides, or leaves the decision to the next one.
type rule func(f facts) (Decision, bool)

func newFacts(in Input) facts {
	f := facts{Input: in}
	if in.Secret != nil {
		f.credential, f.broken = ReadCredential(in.Token, in.Secret, in.Now)
		f.owned = metav1.IsControlledBy(in.Secret, in.Token)
	}
	return f
}

// Decide says what is to be done about a RegistryToken.
func Decide(in Input) Decision {
	f := newFacts(in)
	for _, r := range []rule{
		revoked,
		registryMissing,
		namespaceRefused,
		nameTaken, // Before anything that writes: a foreign Secret is never touched.
		expired,   // Before missing: an expired token is not issued again.
		specRefused,
		secretMissing,
		secretChanged,
		secretToBeAdopted,
	} {
		if d, decided := r(f); decided {
			return d
		}
	}
	return Decision{Action: Keep, Reason: ReasonPublished, Credential: f.credential, InForce: true}
}

// IsRevoked reports whether the token must be admitted nowhere, which is final.
func IsRevoked(t *v1alpha1.RegistryToken) bool {
	return !t.DeletionTimestamp.IsZero() || t.State() == v1alpha1.TokenRevoked
}

func revoked(f facts) (Decision, bool) {
	return Decision{Action: Revoke, Reason: ReasonRevoked, Message: "the token is revoked"}, IsRevoked(f.Token)
}

func registryMissing(f facts) (Decision, bool) {
	return Decision{Action: Wait, Reason: ReasonRegistryNotFound, Message: fmt.Sprintf(
		"there is no HelmRegistry %s; the token is issued when it appears", f.Token.RegistryKey())}, f.Registry == nil
}

func namespaceRefused(f facts) (Decision, bool) {
	err := Admit(f.Token, f.Registry, f.NamespaceLabels)
	if err == nil {
		return Decision{}, false
	}
	return Decision{Action: Stall, Reason: ReasonNamespaceNotAllowed, Message: err.Error()}, true
}

// Admit says why a registry does not let a token of that namespace attach to it.
func Admit(t *v1alpha1.RegistryToken, r *v1alpha1.HelmRegistry, namespaceLabels map[string]string) error {
	if t.Namespace == r.Namespace {
		return nil
	}
	allowed := r.Spec.AllowedNamespaces
	switch allowed.AllowedFrom() {
	case v1alpha1.NamespacesAll:
	case v1alpha1.NamespacesSelector:
		selector, err := metav1.LabelSelectorAsSelector(allowed.Selector)
		if err != nil {
			return fmt.Errorf("the allowedNamespaces.selector of the HelmRegistry cannot be read: %w", err)
		}
		if !selector.Matches(labels.Set(namespaceLabels)) {
			return fmt.Errorf("the allowedNamespaces.selector of the HelmRegistry %s/%s does not match the labels of the namespace %s", r.Namespace, r.Name, t.Namespace)
		}
	default:
		return fmt.Errorf("the HelmRegistry %s/%s admits tokens of its own namespace only; its allowedNamespaces would have to name %s", r.Namespace, r.Name, t.Namespace)
	}
	for _, scope := range t.Scopes() {
		if !slices.Contains(allowed.AllowedScopes(), scope) {
			return fmt.Errorf("the HelmRegistry %s/%s does not give %s to tokens of other namespaces; its allowedNamespaces.maxScopes would have to name it", r.Namespace, r.Name, scope)
		}
	}
	return nil
}

// nameTaken finds a Secret that is not ours. One that belongs to this object is, whatever was done to it, as long as its
// type, which cannot be changed, is right. Any other must bear our labels and hold a whole token.
func nameTaken(f facts) (Decision, bool) {
	if f.Secret == nil {
		return Decision{}, false
	}
	var why string
	switch owner := metav1.GetControllerOf(f.Secret); {
	case f.Secret.Type != corev1.SecretTypeDockerConfigJson:
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
	case f.Secret != nil && f.broken == nil && f.credential.Expired(f.Now):
		at = *f.credential.ExpiresAt
	case recorded != nil && !recorded.After(f.Now):
		at = recorded.UTC()
	case f.Token.Spec.ExpiresAt != nil && !f.Token.Spec.ExpiresAt.After(f.Now):
		at = f.Token.Spec.ExpiresAt.UTC()
	default:
		return Decision{}, false
	}
	return Decision{Action: Expire, Reason: ReasonExpired, Credential: f.credential, Message: fmt.Sprintf(
		"the token expired at %s and stays so; create another RegistryToken", at.Format(time.RFC3339))}, true
}

// specRefused finds what the validation of the kind does not. The token that is already published stays in force.
func specRefused(f facts) (Decision, bool) {
	d := Decision{Action: Stall, Credential: f.credential, InForce: f.Secret != nil && f.broken == nil}
	if err := CheckTemplate(f.Token.Spec.SecretTemplate); err != nil {
		d.Reason, d.Message = ReasonInvalidSecretTemplate, err.Error()
		return d, true
	}
	probe := Entry(f.Token, f.credential)
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

func secretToBeAdopted(f facts) (Decision, bool) {
	return Decision{Action: Adopt, Reason: ReasonAdopted, Credential: f.credential, InForce: true, Message: fmt.Sprintf(
		"the Secret %s with the token crt_%s is adopted", f.Secret.Name, f.credential.Token.ID())}, !f.owned
}

// Ours reports whether the Secret under the token's name is the token's own.
func Ours(in Input) bool {
	f := newFacts(in)
	_, taken := nameTaken(f)
	return in.Secret != nil && !taken
}

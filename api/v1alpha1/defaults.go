package v1alpha1

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What a field means where nothing is written is resolved here, in memory, and never written into a user's spec.

// Organization returns the first part of the registry's path.
func (r *HelmRegistry) Organization() string { return cmp.Or(r.Spec.Organization, r.Namespace) }

// Slug returns the second part of the registry's path.
func (r *HelmRegistry) Slug() string { return cmp.Or(r.Spec.Slug, r.Name) }

// Path returns "organization/slug", the path of the registry below its host.
func (r *HelmRegistry) Path() string { return r.Organization() + "/" + r.Slug() }

// Visibility returns who may read without credentials.
func (r *HelmRegistry) Visibility() Visibility { return cmp.Or(r.Spec.Visibility, VisibilityPrivate) }

// DeletionPolicy returns what becomes of the charts when the registry is deleted.
func (r *HelmRegistry) DeletionPolicy() DeletionPolicy {
	return cmp.Or(r.Spec.DeletionPolicy, DeletionRetain)
}

// Replicas returns the number of pods that are asked for.
func (r *HelmRegistry) Replicas() int32 {
	if r.Spec.Replicas == nil {
		return 1
	}
	return *r.Spec.Replicas
}

// TLSMode returns where the serving certificate comes from.
func (r *HelmRegistry) TLSMode() TLSMode { return cmp.Or(r.Spec.TLS.Mode, TLSSelfSigned) }

// Host returns the host[:port] under which clients reach the registry, which is also the host that they log in to.
func (r *HelmRegistry) Host() string {
	return cmp.Or(r.Spec.Exposure.Host, r.Name+"."+r.Namespace+".svc")
}

// BaseURL returns scheme and host, without a path.
func (r *HelmRegistry) BaseURL() string {
	if r.TLSMode() == TLSNone {
		return "http://" + r.Host()
	}
	return "https://" + r.Host()
}

// URL returns the registry's address, status.url.
func (r *HelmRegistry) URL() string { return r.BaseURL() + "/" + r.Path() }

// OCIURL returns the address below which the charts are, status.ociURL.
func (r *HelmRegistry) OCIURL() string { return "oci://" + r.Host() + "/" + r.Path() }

// RepositoryURL returns the address of the classic Helm repository, status.repositoryURL.
func (r *HelmRegistry) RepositoryURL() string { return r.URL() + "/helm" }

// AllowedFrom returns which namespaces may attach tokens.
func (a AllowedNamespaces) AllowedFrom() NamespacesFrom { return cmp.Or(a.From, NamespacesSame) }

// AllowedScopes returns the most that a token from another namespace may have.
func (a AllowedNamespaces) AllowedScopes() []Scope {
	if len(a.MaxScopes) == 0 {
		return []Scope{ScopeRead}
	}
	return a.MaxScopes
}

// RegistryKey returns the namespace and name of the registry that registryRef names; false where a selector chooses.
func (t *RegistryToken) RegistryKey() (types.NamespacedName, bool) {
	ref := t.Spec.RegistryRef
	if ref == (RegistryReference{}) {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: cmp.Or(ref.Namespace, t.Namespace), Name: ref.Name}, true
}

// Scopes returns what the token may do.
func (t *RegistryToken) Scopes() []Scope {
	if len(t.Spec.Scopes) == 0 {
		return []Scope{ScopeRead}
	}
	return t.Spec.Scopes
}

// Charts returns the globs of the charts that the token covers.
func (t *RegistryToken) Charts() []string {
	if len(t.Spec.Charts) == 0 {
		return []string{"*"}
	}
	return t.Spec.Charts
}

// State returns whether the token may be used.
func (t *RegistryToken) State() TokenState { return cmp.Or(t.Spec.State, TokenActive) }

// SecretName returns the name of the Secret that holds the token.
func (t *RegistryToken) SecretName() string { return cmp.Or(t.Spec.SecretTemplate.Name, t.Name) }

// Unpublished reports whether the token was made elsewhere: its hash is all that is known, and there is no Secret.
func (t *RegistryToken) Unpublished() bool { return t.Spec.SecretSHA256 != "" }

// HasFormat reports whether the Secret is to have a format.
func (t *RegistryToken) HasFormat(format SecretFormat) bool {
	formats := t.Spec.SecretTemplate.Formats
	if len(formats) == 0 {
		formats = []SecretFormat{FormatDockerConfigJSON}
	}
	return slices.Contains(formats, format)
}

// SecretType returns the type of the Secret that holds the token.
func (t *RegistryToken) SecretType() corev1.SecretType {
	if t.HasFormat(FormatFlux) {
		return corev1.SecretTypeOpaque
	}
	return corev1.SecretTypeDockerConfigJson
}

// Overlap returns how long a token that was replaced still works.
func (t *RegistryToken) Overlap() time.Duration {
	const usual = 24 * time.Hour
	switch r := t.Spec.Rotation; {
	case r == nil:
		return usual
	case r.Overlap != nil:
		return r.Overlap.Duration
	default:
		return min(usual, r.Interval.Duration/2)
	}
}

// RotationRequest returns what AnnotationRotationRequested says, as far as it counts; empty when no rotation was ever
// asked for.
func (t *RegistryToken) RotationRequest() string {
	request := t.Annotations[AnnotationRotationRequested]
	return strings.ToValidUTF8(request[:min(len(request), MaxRotationRequest)], "")
}

// RegistryKey returns the namespace and name of the registry that registryRef names; false where a selector chooses.
func (p *OIDCPolicy) RegistryKey() (types.NamespacedName, bool) {
	ref := p.Spec.RegistryRef
	if ref == nil {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: cmp.Or(ref.Namespace, p.Namespace), Name: ref.Name}, true
}

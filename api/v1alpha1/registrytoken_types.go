package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Condition types of a RegistryToken, beside Ready, Reconciling and Stalled.
const (
	// ConditionPropagated says that every live pod of the registry enforces the token as it is now.
	ConditionPropagated = "Propagated"
	// ConditionRevoked says, for a revoked token, that every live pod refuses it.
	ConditionRevoked = "Revoked"
)

// Annotations and labels on the Secret that a RegistryToken publishes. They let a restore without status adopt the
// Secret and revive nothing that had expired.
const (
	// LabelToken holds the name of the RegistryToken that the Secret belongs to.
	LabelToken = "chartroom.dev/registry-token"
	// AnnotationTokenID holds the token's id.
	AnnotationTokenID = "chartroom.dev/token-id"
	// AnnotationIssuedAt holds the instant of issue, RFC 3339.
	AnnotationIssuedAt = "chartroom.dev/issued-at"
	// AnnotationExpiresAt holds the instant of expiry, RFC 3339; absent when the token does not expire.
	AnnotationExpiresAt = "chartroom.dev/expires-at"
)

// FinalizerToken is held by a RegistryToken until every live pod refuses the token.
const FinalizerToken = "chartroom.dev/revocation"

// FinalizerRegistry is held by a HelmRegistry until its deletionPolicy was carried out.
const FinalizerRegistry = "chartroom.dev/registry"

// Scope is one right on the charts of a registry.
type Scope string

// The scopes.
const (
	ScopeRead   Scope = "read_packages"
	ScopeWrite  Scope = "write_packages"
	ScopeDelete Scope = "delete_packages"
)

// TokenState says whether a token may be used.
type TokenState string

// The states of a token.
const (
	TokenActive  TokenState = "Active"
	TokenRevoked TokenState = "Revoked"
)

// RegistryReference names a HelmRegistry.
type RegistryReference struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
}

// RegistryTokenSpec describes a token of one registry.
type RegistryTokenSpec struct {
	RegistryRef    RegistryReference `json:"registryRef"`
	Description    string            `json:"description,omitempty"`
	Scopes         []Scope           `json:"scopes,omitempty"`
	Charts         []string          `json:"charts,omitempty"`
	TTL            *metav1.Duration  `json:"ttl,omitempty"`
	ExpiresAt      *metav1.Time      `json:"expiresAt,omitempty"`
	SecretTemplate SecretTemplate    `json:"secretTemplate,omitempty"`
	State          TokenState        `json:"state,omitempty"`
}

// SecretTemplate shapes the Secret that holds the token.
type SecretTemplate struct {
	Name        string            `json:"name,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// RegistryTokenStatus is what the operator observed.
type RegistryTokenStatus struct {
	Conditions         []metav1.Condition    `json:"conditions,omitempty"`
	ObservedGeneration int64                 `json:"observedGeneration,omitempty"`
	TokenID            string                `json:"tokenID,omitempty"`
	SecretRef          *LocalObjectReference `json:"secretRef,omitempty"`
	IssuedAt           *metav1.Time          `json:"issuedAt,omitempty"`
	ExpiresAt          *metav1.Time          `json:"expiresAt,omitempty"`
}

// RegistryToken is a credential for one registry.
//
// +kubebuilder:object:root=true
type RegistryToken struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   RegistryTokenSpec   `json:"spec"`
	Status RegistryTokenStatus `json:"status,omitempty"`
}

// RegistryTokenList is a list of tokens.
//
// +kubebuilder:object:root=true
type RegistryTokenList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []RegistryToken `json:"items"`
}

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

// Scope is one right on the charts of a registry. Scopes are independent of each other: writing does not include
// reading, and helm push needs both.
//
// +kubebuilder:validation:Enum=read_packages;write_packages;delete_packages
type Scope string

// The scopes.
const (
	ScopeRead   Scope = "read_packages"
	ScopeWrite  Scope = "write_packages"
	ScopeDelete Scope = "delete_packages"
)

// TokenState says whether a token may be used.
//
// +kubebuilder:validation:Enum=Active;Revoked
type TokenState string

// The states of a token.
const (
	TokenActive  TokenState = "Active"
	TokenRevoked TokenState = "Revoked"
)

// RegistryReference names a HelmRegistry.
type RegistryReference struct {
	// Name is the name of the HelmRegistry.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=52
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="name must be a name that a HelmRegistry can have, lower-case letters, digits and dashes: write for example charts"
	Name string `json:"name"`

	// Namespace is the namespace of the HelmRegistry; the token's own where nothing is written. Another one must be
	// allowed by the registry's allowedNamespaces.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="namespace must be a name that a namespace can have, lower-case letters, digits and dashes: write for example team-a"
	Namespace string `json:"namespace,omitempty"`
}

// RegistryTokenSpec describes a token of one registry.
//
// +kubebuilder:validation:XValidation:rule="self.registryRef == oldSelf.registryRef",message="registryRef is immutable: leave it as it was, or create another RegistryToken for the other registry"
// +kubebuilder:validation:XValidation:rule="!(has(self.ttl) && has(self.expiresAt))",message="ttl and expiresAt exclude each other: write one of them, or neither for a token that does not expire"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.state) || oldSelf.state != 'Revoked' || (has(self.state) && self.state == 'Revoked')",message="state Revoked is final: create another RegistryToken"
// +kubebuilder:validation:XValidation:rule="(has(self.secretTemplate) && has(self.secretTemplate.name) ? self.secretTemplate.name : \"\") == (has(oldSelf.secretTemplate) && has(oldSelf.secretTemplate.name) ? oldSelf.secretTemplate.name : \"\")",message="secretTemplate.name is immutable, because those who use the Secret would lose it: leave it as it was, or create another RegistryToken"
type RegistryTokenSpec struct {
	// RegistryRef names the registry that the token is for. It cannot be changed afterwards.
	//
	// +required
	RegistryRef RegistryReference `json:"registryRef"`

	// Description says who uses the token, and for what.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Description string `json:"description,omitempty"`

	// Scopes are what the token may do; read_packages alone where nothing is written. A push with helm needs
	// read_packages and write_packages.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	Scopes []Scope `json:"scopes,omitempty"`

	// Charts are the charts that the token covers, as globs over the chart's path below the registry: "*" matches any
	// run of characters, slashes included, and "?" matches one. All charts where nothing is written.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.all(glob, glob.matches('^[a-z0-9._/*?-]+$'))",message="charts are globs over lower-case chart paths, with letters, digits, . _ - / and the wildcards * and ?: write for example web-* or team/*"
	Charts []string `json:"charts,omitempty"`

	// TTL is how long the token lives, counted from its issue, in hours, minutes and seconds, for example 720h. At least
	// 1m and at most 87600h. It excludes expiresAt; without either the token does not expire.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$') && self != '' && duration(self) >= duration('1m') && duration(self) <= duration('87600h')",message="ttl must be a duration in hours, minutes and seconds from 1m to 87600h: write for example 720h"
	TTL *metav1.Duration `json:"ttl,omitempty"`

	// ExpiresAt is the instant from which the token is refused. It excludes ttl; without either the token does not
	// expire.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// SecretTemplate shapes the Secret that holds the token. It is in the namespace of this object, always.
	//
	// +optional
	SecretTemplate SecretTemplate `json:"secretTemplate,omitempty"`

	// State is Active, the default, or Revoked, which is final: the token is refused from then on, while the object
	// stays as a record.
	//
	// +optional
	State TokenState `json:"state,omitempty"`
}

// SecretTemplate shapes the Secret that holds the token.
type SecretTemplate struct {
	// Name is the name of the Secret; the name of this object where nothing is written. It cannot be changed afterwards.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="name must be a name that a Secret can have, lower-case letters, digits, dashes and dots: write for example charts-pull"
	Name string `json:"name,omitempty"`

	// Labels are put on the Secret. Those of the operator, app.kubernetes.io/managed-by and chartroom.dev/, are not
	// among them.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) <= 317 && size(self[k]) <= 63)",message="labels have keys of at most 317 and values of at most 63 characters: write shorter ones"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('chartroom.dev/') && k != 'app.kubernetes.io/managed-by')",message="labels may not hold app.kubernetes.io/managed-by or names below chartroom.dev/, which are the operator's own: write others"
	Labels map[string]string `json:"labels,omitempty"`

	// Annotations are put on the Secret. Those below chartroom.dev/ are the operator's own.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) <= 317 && size(self[k]) <= 4096)",message="annotations have keys of at most 317 and values of at most 4096 characters: write shorter ones"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('chartroom.dev/'))",message="annotations may not hold names below chartroom.dev/, which are the operator's own: write others"
	Annotations map[string]string `json:"annotations,omitempty"`
}

// RegistryTokenStatus is what the operator observed.
type RegistryTokenStatus struct {
	// Conditions say how the token is. Ready is always there; Reconciling and Stalled only when they are True.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// ObservedGeneration is the generation of the spec that the conditions are about; -1 before the first.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// TokenID is the public part of the token, by which the registry's logs name it.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	TokenID string `json:"tokenID,omitempty"`

	// SecretRef names the Secret that holds the token.
	//
	// +optional
	SecretRef *LocalObjectReference `json:"secretRef,omitempty"`

	// IssuedAt is when the token was issued.
	//
	// +optional
	IssuedAt *metav1.Time `json:"issuedAt,omitempty"`

	// ExpiresAt is the instant from which the token is refused; absent when it does not expire.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
}

// RegistryToken is a credential for one registry, published as a Secret that helm, docker and kubelet understand.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=rtok,categories=chartroom
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether the token is published and in force."
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.status!="True")].reason`,description="Why not, when it is not Ready."
// +kubebuilder:printcolumn:name="Registry",type=string,JSONPath=`.spec.registryRef.name`,description="The registry that the token is for."
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.status.expiresAt`,description="When the token expires."
// +kubebuilder:printcolumn:name="Secret",type=string,JSONPath=`.status.secretRef.name`,priority=1,description="The Secret that holds the token."
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1,description="What the Ready condition says."
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must have at most 63 characters, because the Secret is labelled with it: write a shorter one"
type RegistryToken struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec describes the token.
	//
	// +required
	Spec RegistryTokenSpec `json:"spec"`

	// Status is what the operator observed.
	//
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
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

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
	// ConditionExpiringSoon says that the token expires before long and nothing replaces it. It is there only while it is
	// True.
	ConditionExpiringSoon = "ExpiringSoon"
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
	// AnnotationNextIssuedAt holds the instant of issue of the token that is about to replace this one, RFC 3339; there
	// only while one is.
	AnnotationNextIssuedAt = "chartroom.dev/next-issued-at"
	// AnnotationPreviousID, AnnotationPreviousSHA256 and AnnotationPreviousExpiresAt hold the id, the hash of the secret
	// and the instant of expiry of the token that this one replaced; there only while that one still works.
	AnnotationPreviousID        = "chartroom.dev/previous-token-id"
	AnnotationPreviousSHA256    = "chartroom.dev/previous-token-sha256"
	AnnotationPreviousExpiresAt = "chartroom.dev/previous-expires-at"
)

// AnnotationRotationRequested asks, on a RegistryToken, for a rotation at once, whenever its value changes: an instant by
// custom, but any text will do. On the Secret it holds the value that was acted on last.
const AnnotationRotationRequested = "chartroom.dev/rotation-requested-at"

// MaxRotationRequest bounds the part of AnnotationRotationRequested that counts, in bytes.
const MaxRotationRequest = 128

// MaxTokenRegistries is the number of registries that a token with a selector is for at most.
const MaxTokenRegistries = 64

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

	// Namespace is the namespace of the HelmRegistry; that of this object where nothing is written. Another one must be
	// allowed by the registry's allowedNamespaces.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="namespace must be a name that a namespace can have, lower-case letters, digits and dashes: write for example team-a"
	Namespace string `json:"namespace,omitempty"`
}

// Rotation says when a token is replaced by a new one.
//
// +kubebuilder:validation:XValidation:rule="!has(self.overlap) || duration(self.overlap) < duration(self.interval)",message="overlap must be shorter than interval, because only the newest token and the one before it work: write a shorter overlap, or a longer interval"
type Rotation struct {
	// Interval is the time from the issue of a token to that of the next one, as a duration in hours, minutes and
	// seconds. At least 10m and at most 87600h.
	//
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$') && self != '' && duration(self) >= duration('10m') && duration(self) <= duration('87600h')",message="interval must be a duration in hours, minutes and seconds from 10m to 87600h: write for example 168h"
	Interval metav1.Duration `json:"interval"`

	// Overlap is how long the replaced token still works once the Secret holds the new one, so that those who read the
	// Secret have time to do so. At least 1m, and less than interval; 24h where nothing is written, or half of interval
	// where that is less.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$') && self != '' && duration(self) >= duration('1m') && duration(self) <= duration('87600h')",message="overlap must be a duration in hours, minutes and seconds from 1m to 87600h: write for example 24h"
	Overlap *metav1.Duration `json:"overlap,omitempty"`
}

// RegistryTokenSpec describes a token of one registry, or of several.
//
// +kubebuilder:validation:XValidation:rule="(has(self.secretSHA256) ? self.secretSHA256 : \"\") == (has(oldSelf.secretSHA256) ? oldSelf.secretSHA256 : \"\")",message="secretSHA256 is immutable: leave it as it was, or create another RegistryToken"
// +kubebuilder:validation:XValidation:rule="!has(self.secretSHA256) || self.secretSHA256 == \"\" || (!has(self.rotation) && (!has(self.secretTemplate) || !(has(self.secretTemplate.name) || has(self.secretTemplate.labels) || has(self.secretTemplate.annotations) || has(self.secretTemplate.formats))))",message="secretSHA256 excludes rotation and secretTemplate, because no Secret is published: leave these out"
// +kubebuilder:validation:XValidation:rule="!has(self.rotation) || !has(self.ttl) || duration(self.rotation.interval) + (has(self.rotation.overlap) ? duration(self.rotation.overlap) : duration('1m')) <= duration(self.ttl)",message="ttl must be at least rotation.interval and rotation.overlap together, or a token would expire before it is replaced: write a longer ttl, or a shorter interval"
// +kubebuilder:validation:XValidation:rule="has(self.registryRef) != has(self.registrySelector)",message="a token is for one registry or for those that a selector chooses: write either registryRef or registrySelector"
// +kubebuilder:validation:XValidation:rule="has(self.registryRef) == has(oldSelf.registryRef) && (!has(self.registryRef) || self.registryRef == oldSelf.registryRef)",message="registryRef is immutable: leave it as it was, or create another RegistryToken for the other registry"
// +kubebuilder:validation:XValidation:rule="!has(self.registrySelector) || !has(oldSelf.registrySelector) || self.registrySelector == oldSelf.registrySelector",message="registrySelector is immutable: leave it as it was, or create another RegistryToken for the other registries"
// +kubebuilder:validation:XValidation:rule="!has(self.registrySelector) || !has(self.secretTemplate) || !has(self.secretTemplate.formats) || !('argocd' in self.secretTemplate.formats)",message="secretTemplate.formats: argocd is for one registry, because a repository of Argo CD is one: write registryRef, and a RegistryToken for each registry"
// +kubebuilder:validation:XValidation:rule="!(has(self.ttl) && has(self.expiresAt))",message="ttl and expiresAt exclude each other: write one of them, or neither for a token that does not expire"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.state) || oldSelf.state != 'Revoked' || (has(self.state) && self.state == 'Revoked')",message="state Revoked is final: create another RegistryToken"
// +kubebuilder:validation:XValidation:rule="(has(self.secretTemplate) && has(self.secretTemplate.formats) && 'flux' in self.secretTemplate.formats) == (has(oldSelf.secretTemplate) && has(oldSelf.secretTemplate.formats) && 'flux' in oldSelf.secretTemplate.formats)",message="secretTemplate.formats: flux cannot be added or taken away, because the type of a Secret cannot be changed: create another RegistryToken"
// +kubebuilder:validation:XValidation:rule="(has(self.secretTemplate) && has(self.secretTemplate.name) ? self.secretTemplate.name : \"\") == (has(oldSelf.secretTemplate) && has(oldSelf.secretTemplate.name) ? oldSelf.secretTemplate.name : \"\")",message="secretTemplate.name is immutable, because those who use the Secret would lose it: leave it as it was, or create another RegistryToken"
type RegistryTokenSpec struct {
	// RegistryRef names the registry that the token is for. It excludes registrySelector, and cannot be changed afterwards.
	//
	// +optional
	RegistryRef RegistryReference `json:"registryRef,omitzero"`

	// RegistrySelector chooses the registries that the token is for among those of its own namespace, by their labels; an
	// empty one chooses all. It is one token, and one Secret for all of them. It follows the labels of the registries; of
	// more than 64 the oldest count. It excludes registryRef, and cannot be changed afterwards.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="(!has(self.matchLabels) || size(self.matchLabels) <= 16) && (!has(self.matchExpressions) || size(self.matchExpressions) <= 16)",message="registrySelector may have at most 16 matchLabels and 16 matchExpressions: write fewer"
	RegistrySelector *metav1.LabelSelector `json:"registrySelector,omitempty"`

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
	// 1m and at most 87600h. With a rotation it counts anew for each new token. It excludes expiresAt; without either the
	// token does not expire.
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

	// Rotation replaces the token at intervals; without it the token stays. The Secret gets the new token once every pod of
	// the registry enforces it, and the old one works until the overlap ends. A rotation that was missed is made up for
	// once. From expiresAt on there are none.
	//
	// +optional
	Rotation *Rotation `json:"rotation,omitempty"`

	// SecretTemplate shapes the Secret that holds the token. It is in the namespace of this object, always.
	//
	// +optional
	SecretTemplate SecretTemplate `json:"secretTemplate,omitempty"`

	// SecretSHA256 is the SHA-256 of the secret of a token that was made elsewhere, as 64 lower-case hexadecimal digits:
	// none is made here then, and no Secret is published. It cannot be changed afterwards, and excludes rotation and
	// secretTemplate. "kubectl chartroom token" makes such tokens.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[0-9a-f]{64}$')",message="secretSHA256 must be 64 lower-case hexadecimal digits, the hash of the secret part of a token: let kubectl chartroom token make both"
	SecretSHA256 string `json:"secretSHA256,omitempty"`

	// State is Active, the default, or Revoked, which is final: the token is refused from then on, while the object
	// stays as a record.
	//
	// +optional
	State TokenState `json:"state,omitempty"`
}

// SecretFormat is a form of the Secret that a program understands.
//
// +kubebuilder:validation:Enum=dockerconfigjson;argocd;flux
type SecretFormat string

// The formats.
const (
	// FormatDockerConfigJSON is a Secret of type kubernetes.io/dockerconfigjson.
	FormatDockerConfigJSON SecretFormat = "dockerconfigjson"
	// FormatArgoCD adds what makes the Secret a repository of Argo CD.
	FormatArgoCD SecretFormat = "argocd"
	// FormatFlux is a Secret of type Opaque.
	FormatFlux SecretFormat = "flux"
)

// SecretTemplate shapes the Secret that holds the token.
//
// +kubebuilder:validation:XValidation:rule="!has(self.formats) || !('flux' in self.formats) || size(self.formats) == 1",message="formats: flux excludes the others, because a Secret has one type and a flux one is Opaque: write flux alone, or make another RegistryToken for it"
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

	// Formats say who is to understand the Secret; dockerconfigjson alone where nothing is written.
	//
	// dockerconfigjson is the type kubernetes.io/dockerconfigjson, for kubelet, helm, docker and Flux's secretRef. argocd is the
	// same with the label and the entries that make it a repository of Argo CD, to which the RegistryToken must be
	// neighbour; its entry url is then the address as Argo CD writes it. flux is the type Opaque, which Flux asks of a
	// certSecretRef; it cannot be together with the others, nor be added or taken away afterwards.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	Formats []SecretFormat `json:"formats,omitempty"`
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

	// Prefix is how the token begins, crt_ and its id. It may be shown, and is what to look for where a token was found.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Prefix string `json:"prefix,omitempty"`

	// SecretRef names the Secret that holds the token.
	//
	// +optional
	SecretRef *LocalObjectReference `json:"secretRef,omitempty"`

	// Registries are those that registrySelector chooses, and those that it no longer does until their pods have confirmed
	// that they refuse the token, sorted by name. Absent with registryRef.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Registries []TokenRegistry `json:"registries,omitempty"`

	// IssuedAt is when the token was issued.
	//
	// +optional
	IssuedAt *metav1.Time `json:"issuedAt,omitempty"`

	// ExpiresAt is the instant from which the token is refused; absent when it does not expire.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// NextRotation is when the token is to be replaced by a new one; absent when it is not.
	//
	// +optional
	NextRotation *metav1.Time `json:"nextRotation,omitempty"`

	// PreviousExpiresAt is when the token that this one replaced is refused; absent once it is.
	//
	// +optional
	PreviousExpiresAt *metav1.Time `json:"previousExpiresAt,omitempty"`

	// LastUsed is when a token of this object was accepted last, to ten minutes: it is when those began in which that was. It
	// follows within half a minute, is written once in ten minutes at most, and absent while no pod has told of a use.
	//
	// +optional
	LastUsed *metav1.Time `json:"lastUsed,omitempty"`

	// LastHandledRotationRequest is the value of the annotation chartroom.dev/rotation-requested-at that was acted on last.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	LastHandledRotationRequest string `json:"lastHandledRotationRequest,omitempty"`
}

// TokenRegistry says how far a token is with one of its registries.
type TokenRegistry struct {
	// Name of the HelmRegistry, in the namespace of the token.
	//
	// +required
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// Reason is Confirmed when every pod of the registry enforces the token as it is, or refuses it when it is revoked; and
	// otherwise why not, as in the conditions. NotChosen says that the selector no longer chooses the registry, and not all of
	// its pods have confirmed that they refuse the token.
	//
	// +required
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason"`
}

// RegistryToken is a credential for one registry or several, published as a Secret that helm, docker and kubelet understand.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=rtok,categories=chartroom
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether the token is published and in force."
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.status!="True")].reason`,description="Why not, when it is not Ready."
// +kubebuilder:printcolumn:name="Registry",type=string,JSONPath=`.spec.registryRef.name`,description="The registry that the token is for."
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.status.expiresAt`,description="When the token expires."
// +kubebuilder:printcolumn:name="Last Used",type=date,JSONPath=`.status.lastUsed`,priority=1,description="When the token was used last, to ten minutes."
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

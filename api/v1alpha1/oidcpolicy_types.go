package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Condition types of an OIDCPolicy, beside Ready, Reconciling and Stalled, ConditionPropagated and, while it is being
// deleted, ConditionRevoked.
const (
	// ConditionIssuersReachable says that the registries' pods have the keys of all issuers that the policy names.
	ConditionIssuersReachable = "IssuersReachable"
	// ConditionPolicyTooBroad is present, and True, only when the policy admits more than its author may have meant.
	ConditionPolicyTooBroad = "PolicyTooBroad"
)

// FinalizerPolicy is held by an OIDCPolicy until every live pod refuses what it admitted.
const FinalizerPolicy = "chartroom.dev/oidc-policy"

// MaxPolicyRegistries is the number of registries that the status of an OIDCPolicy tells of.
const MaxPolicyRegistries = 100

// OIDCPolicySpec says what holders of tokens of OIDC issuers may do with some registries.
//
// +kubebuilder:validation:XValidation:rule="has(self.registryRef) != has(self.registrySelector)",message="a policy is for one registry or for those that a selector chooses: write either registryRef or registrySelector"
// +kubebuilder:validation:XValidation:rule="has(self.statements) != has(self.policy)",message="statements and policy are two ways to write the same: write one of them"
type OIDCPolicySpec struct {
	// RegistryRef names the registry that the policy is for. It excludes registrySelector.
	//
	// +optional
	RegistryRef *RegistryReference `json:"registryRef,omitempty"`

	// RegistrySelector chooses the registries that the policy is for among those of its own namespace, by their labels. It
	// excludes registryRef.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="(!has(self.matchLabels) || size(self.matchLabels) <= 16) && (!has(self.matchExpressions) || size(self.matchExpressions) <= 16)",message="registrySelector may have at most 16 matchLabels and 16 matchExpressions: write fewer"
	RegistrySelector *metav1.LabelSelector `json:"registrySelector,omitempty"`

	// Statements are tried in their order; the first that a token satisfies says what it may do, and later ones add
	// nothing. What several policies grant adds up. It excludes policy.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Statements []PolicyStatement `json:"statements,omitempty"`

	// Policy is the same list of statements as one string of plain YAML or of JSON. It excludes statements.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=131072
	Policy string `json:"policy,omitempty"`
}

// PolicyStatement says what tokens of an issuer may do whose claims satisfy all its rules.
//
// +kubebuilder:validation:XValidation:rule="self.iss != 'kubernetes' || !(has(self.jwks) || has(self.ca) || has(self.caSecretRef))",message="jwks, ca and caSecretRef do not go with iss: kubernetes, whose keys are read from the API server: leave them out"
// +kubebuilder:validation:XValidation:rule="[has(self.jwks), has(self.ca), has(self.caSecretRef)].filter(x, x).size() <= 1",message="jwks, ca and caSecretRef exclude each other: write jwks where the issuer cannot be asked, or one of the others for its certificate"
type PolicyStatement struct {
	// Iss is the issuer's address, exactly as in the claim iss of its tokens; or kubernetes, for the cluster's own service
	// accounts.
	//
	// +required
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self == 'kubernetes' || self.matches('^https://[^/?#@\\\\s]+(/[^?#\\\\s]*)?$')",message="iss must be the issuer's https address exactly as in the claim iss, without user, query or fragment, or kubernetes: write for example https://token.actions.githubusercontent.com"
	Iss string `json:"iss"`

	// Scopes are what the statement grants. A push with helm needs read_packages and write_packages.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:XValidation:rule="self.all(x, self.exists_one(y, y == x))",message="scopes holds a scope twice: write each once"
	Scopes []Scope `json:"scopes"`

	// Claims are rules by the name of the claim, all of which must hold; a claim that the token does not have fails every
	// rule. A rule is a value that the claim must equal, or a map of equals, not_equals, in, not_in and matches, all of
	// which must hold. A name that begins with a slash is a JSON pointer to a claim within others.
	//
	// +required
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	Claims *runtime.RawExtension `json:"claims"`

	// Charts are the charts that it grants that on, as globs over the chart's path below the registry: "*" matches any run
	// of characters, slashes included, and "?" matches one. All charts where nothing is written.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.all(glob, glob.matches('^[a-z0-9._/*?-]+$'))",message="charts are globs over lower-case chart paths, with letters, digits, . _ - / and the wildcards * and ?: write for example web-* or team/*"
	Charts []string `json:"charts,omitempty"`

	// MaxTokenLifetime is the longest time between the claims iat and exp, from 1s to 24h. 300s where nothing is written, 1h
	// for iss: kubernetes.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$') && self != '' && duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="maxTokenLifetime must be a duration in hours, minutes and seconds from 1s to 24h: write for example 300s"
	MaxTokenLifetime *metav1.Duration `json:"maxTokenLifetime,omitempty"`

	// Audiences are what the claim aud may be beside the registry's address, status.url.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	Audiences []string `json:"audiences,omitempty"`

	// JWKS are the issuer's keys (RFC 7517) as one string of JSON, where it cannot be asked for them. They prove tokens for
	// this statement alone.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=65536
	JWKS string `json:"jwks,omitempty"`

	// CA has the authorities of the issuer's certificate, in PEM, where it does not come from a well-known one.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=65536
	CA string `json:"ca,omitempty"`

	// CASecretRef names a Secret in the namespace of this object whose entry ca.crt is used as ca would be.
	//
	// +optional
	CASecretRef *LocalObjectReference `json:"caSecretRef,omitempty"`
}

// OIDCPolicyStatus is what the operator observed.
type OIDCPolicyStatus struct {
	// Conditions say how the policy is. Ready is always there; Reconciling, Stalled and PolicyTooBroad only when they are
	// True.
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

	// Registries are those that the policy is for, or was for until their pods have confirmed that it no longer is. Of more
	// than 100 the first ones are here, by namespace and name.
	//
	// +optional
	// +listType=map
	// +listMapKey=namespace
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=100
	Registries []PolicyRegistry `json:"registries,omitempty"`

	// Issuers are those that the policy names, as the registries' pods find them.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Issuers []PolicyIssuer `json:"issuers,omitempty"`
}

// PolicyRegistry says what became of a policy at one registry.
type PolicyRegistry struct {
	// Namespace of the HelmRegistry.
	Namespace string `json:"namespace"`

	// Name of the HelmRegistry.
	Name string `json:"name"`

	// Accepted says that the policy is in the registry's access snapshot.
	Accepted bool `json:"accepted"`

	// Message says why the policy is not accepted, or not in force everywhere.
	//
	// +optional
	Message string `json:"message,omitempty"`

	// Confirmed is the number of live pods that enforce the policy as it is now.
	Confirmed int32 `json:"confirmed"`

	// Total is the number of live pods.
	Total int32 `json:"total"`
}

// PolicyIssuer says what the pods know of an issuer.
type PolicyIssuer struct {
	// Iss is its address, as the statement has it.
	Iss string `json:"iss"`

	// Reachable says that every pod that has answered has keys, and could fetch them the last time where it has to.
	Reachable bool `json:"reachable"`

	// Keys is the number of keys that tokens are verified with; of several pods, the least.
	Keys int32 `json:"keys"`

	// LastRefreshed is when the keys were fetched; of several pods, the longest ago. Absent for keys that are in the policy.
	//
	// +optional
	LastRefreshed *metav1.Time `json:"lastRefreshed,omitempty"`

	// Message says why the keys could not be fetched.
	//
	// +optional
	Message string `json:"message,omitempty"`
}

// OIDCPolicy says what holders of tokens of OIDC issuers, such as jobs of a CI system, may do without any secret of
// their own.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=oidcpolicies,shortName=oidcp,categories=chartroom
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether the policy is in force."
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.status!="True")].reason`,description="What is not as it should be."
// +kubebuilder:printcolumn:name="Registry",type=string,JSONPath=`.status.registries[0].name`,description="The registry that the policy is for; the first of several."
// +kubebuilder:printcolumn:name="Issuer",type=string,JSONPath=`.status.issuers[0].iss`,description="The issuer that the policy names; the first of several."
// +kubebuilder:printcolumn:name="TooBroad",type=string,JSONPath=`.status.conditions[?(@.type=="PolicyTooBroad")].reason`,priority=1,description="Whether the policy admits more than it should."
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1,description="What the Ready condition says."
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type OIDCPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec describes the policy.
	//
	// +required
	Spec OIDCPolicySpec `json:"spec"`

	// Status is what the operator observed.
	//
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status OIDCPolicyStatus `json:"status,omitempty"`
}

// OIDCPolicyList is a list of policies.
//
// +kubebuilder:object:root=true
type OIDCPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []OIDCPolicy `json:"items"`
}

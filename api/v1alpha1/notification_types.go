package v1alpha1

// Notification is a receiver that is told of what happens in the registry, by HTTP.
//
// +kubebuilder:validation:XValidation:rule="!has(self.headerPrefix) || self.format == 'buildkite'",message="headerPrefix is for format buildkite alone: remove it"
// +kubebuilder:validation:XValidation:rule="self.format != 'harbor' || !has(self.events) || !self.events.exists(e, e.startsWith('registry.'))",message="format harbor has no events of the registry, only those of packages and tags: choose another format for registry.storage_failed and registry.quota"
// +kubebuilder:validation:XValidation:rule="self.format != 'flux' || !has(self.auth) || !has(self.auth.hmac) || !has(self.auth.hmac.dialect) || self.auth.hmac.dialect == 'generic'",message="auth.hmac.dialect must be generic with format flux, which reads no other"
// +kubebuilder:validation:XValidation:rule="!has(self.tls) || self.url.startsWith('https://')",message="tls is for a url that begins with https:// alone: remove it"
type Notification struct {
	// Name tells receivers of a registry apart.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="name must be lower-case letters and digits, with dashes between them: write for example flux"
	Name string `json:"name"`

	// URL is where events are posted to. Addresses that are not public, those of the cluster among them, and http at all,
	// must be within the operator's --allow-egress-cidrs. Redirects are not followed, and no proxy is used. Everybody who may
	// read this object reads the address: secrets belong into auth.
	//
	// +required
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://(\\\\[[0-9A-Fa-f:.]+\\\\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?([/?][^# ]*)?$')",message="url must be an address with neither user, password nor fragment: write for example https://flux.example.com/hook/1234"
	URL string `json:"url"`

	// Format is how an event is written: as Buildkite's package registries do (buildkite), as Harbor does, which Argo CD and
	// Flux read (harbor), as a CloudEvent that Flux's generic receivers take (flux), or as a CloudEvent (cloudevents).
	//
	// +required
	Format NotificationFormat `json:"format"`

	// HeaderPrefix is what the headers of format buildkite have behind "X-"; Buildkite where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$')",message="headerPrefix must be letters and digits, with dashes between them: write for example Buildkite"
	HeaderPrefix string `json:"headerPrefix,omitempty"`

	// Events are those that are wanted; package.created, package.copied, package.deleted and tag.moved where nothing is
	// written. registry.storage_failed and registry.quota tell, at most once an hour each, that requests fail because of the
	// storage or the quota.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=6
	Events []NotificationEvent `json:"events,omitempty"`

	// Filter says which packages the events are about; all where nothing is written.
	//
	// +optional
	Filter *NotificationFilter `json:"filter,omitempty"`

	// Auth is how the receiver knows who sends; it does not where nothing is written.
	//
	// +optional
	Auth *NotificationAuth `json:"auth,omitempty"`

	// TLS is how the receiver's certificate is verified; by the authorities of the image where nothing is written.
	//
	// +optional
	TLS *NotificationTLS `json:"tls,omitempty"`

	// Disabled, when true, stops all events to this receiver. What waits for it is kept for a day.
	//
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// NotificationFormat is how an event is written.
//
// +kubebuilder:validation:Enum=buildkite;harbor;flux;cloudevents
type NotificationFormat string

// NotificationEvent is what kind of thing has happened.
//
// +kubebuilder:validation:Enum=package.created;package.copied;package.deleted;tag.moved;registry.storage_failed;registry.quota
type NotificationEvent string

// NotificationFilter chooses packages.
type NotificationFilter struct {
	// Charts are globs over the chart's path below the registry: "*" matches any run of characters, slashes included, and
	// "?" matches one. All charts where nothing is written.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=200
	// +kubebuilder:validation:XValidation:rule="self.all(glob, glob.matches('^[a-z0-9._/*?-]+$'))",message="charts are globs over lower-case chart paths, with letters, digits, . _ - / and the wildcards * and ?: write for example web-* or team/*"
	Charts []string `json:"charts,omitempty"`

	// Prereleases says what becomes of versions such as 1.0.0-rc.1: they are told (Include, the default), not told
	// (Exclude), or nothing else is (Only).
	//
	// +optional
	Prereleases Prereleases `json:"prereleases,omitempty"`
}

// Prereleases says what becomes of versions such as 1.0.0-rc.1.
//
// +kubebuilder:validation:Enum=Include;Exclude;Only
type Prereleases string

// NotificationAuth is how a receiver knows who sends.
//
// +kubebuilder:validation:XValidation:rule="(has(self.header) ? 1 : 0) + (has(self.hmac) ? 1 : 0) + (has(self.serviceAccountToken) ? 1 : 0) <= 1",message="auth has one member: write header, hmac or serviceAccountToken"
type NotificationAuth struct {
	// Header sends a secret as it is.
	//
	// +optional
	Header *NotificationHeader `json:"header,omitempty"`

	// HMAC signs what is sent with a secret.
	//
	// +optional
	HMAC *NotificationHMAC `json:"hmac,omitempty"`

	// ServiceAccountToken sends a token of the service account default of the registry's namespace, as Authorization: Bearer,
	// so that there is no secret to share. It is valid for this audience alone: never write one of the API server, which
	// would take it from whoever receives it.
	//
	// +optional
	ServiceAccountToken *NotificationToken `json:"serviceAccountToken,omitempty"`
}

// NotificationHeader sends a secret as it is.
type NotificationHeader struct {
	// Name is the name of the header, Authorization where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$')",message="name must be the name of a header, letters and digits with dashes between them: write for example X-Buildkite-Token"
	Name string `json:"name,omitempty"`

	// SecretRef names the Secret that has all of the header's value.
	//
	// +required
	SecretRef SecretEntryReference `json:"secretRef"`
}

// NotificationHMAC signs what is sent with a secret, by HMAC with SHA-256.
type NotificationHMAC struct {
	// Dialect is how the signature is written: X-Buildkite-Signature: timestamp=…,signature=… (buildkite, the default with
	// format buildkite), X-Signature: sha256=… (generic, the default with others), or X-Hub-Signature-256: sha256=… (github).
	//
	// +optional
	Dialect NotificationDialect `json:"dialect,omitempty"`

	// SecretRef names the Secret that has the key.
	//
	// +required
	SecretRef SecretEntryReference `json:"secretRef"`
}

// NotificationDialect is how a signature is written.
//
// +kubebuilder:validation:Enum=buildkite;generic;github
type NotificationDialect string

// NotificationToken is a token that Kubernetes makes for the pods.
type NotificationToken struct {
	// Audience is whom the token is for, for example notification-controller. It must be no audience of the API server
	// (kube-apiserver --api-audiences). Those that begin with https://kubernetes.default are refused; what others a cluster
	// has, as those of k3s and GKE, is not known here.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('https://kubernetes.default')",message="audience must not be the API server, for which the token would be valid: write the receiver's, for example notification-controller"
	Audience string `json:"audience"`

	// ExpirationSeconds is how long a token is valid, 3600 where nothing is written. It is renewed before.
	//
	// +optional
	// +kubebuilder:validation:Minimum=600
	// +kubebuilder:validation:Maximum=86400
	ExpirationSeconds *int64 `json:"expirationSeconds,omitempty"`
}

// NotificationTLS is how a receiver's certificate is verified.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.caSecretRef) && has(self.insecureSkipVerify) && self.insecureSkipVerify)",message="caSecretRef is of no use with insecureSkipVerify: write one of them"
type NotificationTLS struct {
	// CASecretRef names a Secret in the same namespace whose entry ca.crt has the authorities, in PEM, of which one signed
	// the certificate. It is read again for each event.
	//
	// +optional
	CASecretRef *LocalObjectReference `json:"caSecretRef,omitempty"`

	// InsecureSkipVerify, when true, takes any certificate: whoever is on the way can read and change what is sent.
	//
	// +optional
	InsecureSkipVerify bool `json:"insecureSkipVerify,omitempty"`
}

// SecretEntryReference names an entry of a Secret in the same namespace.
type SecretEntryReference struct {
	LocalObjectReference `json:",inline"`

	// Key is the name of the entry, token where nothing is written. It is read again for each event.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-._a-zA-Z0-9]+$')",message="key must be a name that an entry of a Secret can have, letters, digits, dashes, dots and underscores: write for example token"
	Key string `json:"key,omitempty"`
}

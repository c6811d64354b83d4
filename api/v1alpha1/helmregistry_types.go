package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Condition types of a HelmRegistry, beside Ready, Reconciling and Stalled.
const (
	// ConditionReady sums the object up: everything asked for is in force.
	ConditionReady = "Ready"
	// ConditionReconciling is present, and True, only while work is under way.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is present, and True, only when nothing will happen until the object, or what it points to, is changed.
	ConditionStalled = "Stalled"
	// ConditionAvailable says that pods serve.
	ConditionAvailable = "Available"
	// ConditionStorageReady says that the claim is bound, or the credentials of the bucket are there, and that the pods
	// can use the storage.
	ConditionStorageReady = "StorageReady"
	// ConditionCertificateReady says that the serving certificate is there and valid.
	ConditionCertificateReady = "CertificateReady"
	// ConditionAccessConfirmed says that every live pod enforces the newest access snapshot.
	ConditionAccessConfirmed = "AccessConfirmed"
	// ConditionInventoryFresh says that status.inventory and status.charts are what the pods say now. Ready does not depend
	// on it.
	ConditionInventoryFresh = "InventoryFresh"
)

// AnnotationSkipPurge with the value "true" on a HelmRegistry that is being deleted lets it go although its charts could
// not be deleted.
const AnnotationSkipPurge = "chartroom.dev/skip-purge"

// FinalizerRegistry is held by a HelmRegistry until its deletionPolicy was carried out.
const FinalizerRegistry = "chartroom.dev/registry"

// Labels on the objects that belong to a HelmRegistry.
const (
	// LabelManagedBy holds ManagedBy on every object that the operator made.
	LabelManagedBy = "app.kubernetes.io/managed-by"
	// LabelRegistry holds the name of the HelmRegistry that an object belongs to. With LabelManagedBy it lets the
	// operator adopt objects that came back from a backup without owner references.
	LabelRegistry = "chartroom.dev/registry"
	// LabelServing is "true" on the pods that the Service sends clients to. Taking it away takes a pod out of service.
	LabelServing = "chartroom.dev/serving"
)

// ManagedBy is the value of LabelManagedBy.
const ManagedBy = "chartroom"

// HelmRegistrySpec describes a registry of Helm charts. The empty spec is a valid registry.
//
// +kubebuilder:validation:XValidation:rule="has(self.organization) == has(oldSelf.organization) && (!has(self.organization) || self.organization == oldSelf.organization)",message="organization is immutable, because it is part of every chart's address: leave it as it was, or create another HelmRegistry"
// +kubebuilder:validation:XValidation:rule="has(self.slug) == has(oldSelf.slug) && (!has(self.slug) || self.slug == oldSelf.slug)",message="slug is immutable, because it is part of every chart's address: leave it as it was, or create another HelmRegistry"
// +kubebuilder:validation:XValidation:rule="(has(self.storage) && has(self.storage.filesystem) && has(self.storage.filesystem.existingClaim) ? self.storage.filesystem.existingClaim : \"\") == (has(oldSelf.storage) && has(oldSelf.storage.filesystem) && has(oldSelf.storage.filesystem.existingClaim) ? oldSelf.storage.filesystem.existingClaim : \"\")",message="storage.filesystem.existingClaim is immutable, because the charts would stay behind: create another HelmRegistry for the other claim"
// +kubebuilder:validation:XValidation:rule="(has(self.storage) && has(self.storage.filesystem) && has(self.storage.filesystem.storageClassName) ? self.storage.filesystem.storageClassName : '*') == (has(oldSelf.storage) && has(oldSelf.storage.filesystem) && has(oldSelf.storage.filesystem.storageClassName) ? oldSelf.storage.filesystem.storageClassName : '*')",message="storage.filesystem.storageClassName is immutable, because a claim cannot change its class: create another HelmRegistry"
// +kubebuilder:validation:XValidation:rule="(has(self.storage) && has(self.storage.filesystem) && has(self.storage.filesystem.accessMode) ? self.storage.filesystem.accessMode : 'ReadWriteOnce') == (has(oldSelf.storage) && has(oldSelf.storage.filesystem) && has(oldSelf.storage.filesystem.accessMode) ? oldSelf.storage.filesystem.accessMode : 'ReadWriteOnce')",message="storage.filesystem.accessMode is immutable, because a claim cannot change its access mode: create another HelmRegistry"
// +kubebuilder:validation:XValidation:rule="(has(self.storage) && has(self.storage.filesystem) && has(self.storage.filesystem.size) ? quantity(string(self.storage.filesystem.size)) : quantity('10Gi')).compareTo((has(oldSelf.storage) && has(oldSelf.storage.filesystem) && has(oldSelf.storage.filesystem.size) ? quantity(string(oldSelf.storage.filesystem.size)) : quantity('10Gi'))) >= 0",message="storage.filesystem.size can only grow: write the size that it had, or a larger one"
// +kubebuilder:validation:XValidation:rule="(has(self.storage) && has(self.storage.s3)) == (has(oldSelf.storage) && has(oldSelf.storage.s3))",message="the kind of storage is immutable, because the charts would stay behind: create another HelmRegistry and copy the charts"
// +kubebuilder:validation:XValidation:rule="!has(self.deletionPolicy) || self.deletionPolicy != 'Delete' || (has(self.storage) && has(self.storage.filesystem) && has(self.storage.filesystem.existingClaim) ? self.storage.filesystem.existingClaim : \"\") == \"\"",message="deletionPolicy Delete is not possible with storage.filesystem.existingClaim, because the operator deletes only claims that it made: write deletionPolicy: Retain and delete the claim yourself"
type HelmRegistrySpec struct {
	// Organization is the first part of the path below which the charts are: oci://HOST/ORGANIZATION/SLUG. It is the
	// namespace of the object where nothing is written, and cannot be changed afterwards. The words v2, api, healthz,
	// readyz, metrics, static and - are reserved.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*$')",message="organization must be one lower-case part of a repository path, letters and digits with single dots, underscores or dashes between them: write for example team-a"
	// +kubebuilder:validation:XValidation:rule="!(self in ['v2', 'api', 'healthz', 'readyz', 'metrics', 'static', '-'])",message="organization is a reserved word (v2, api, healthz, readyz, metrics, static, -): write another, for example team-a"
	Organization string `json:"organization,omitempty"`

	// Slug is the second part of the path below which the charts are: oci://HOST/ORGANIZATION/SLUG. It is the name of the
	// object where nothing is written, and cannot be changed afterwards.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*$')",message="slug must be one lower-case part of a repository path, letters and digits with single dots, underscores or dashes between them: write for example charts"
	Slug string `json:"slug,omitempty"`

	// DisplayName is a title for people. A change restarts nothing.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	DisplayName string `json:"displayName,omitempty"`

	// Description says what the registry is for. A change restarts nothing.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Description string `json:"description,omitempty"`

	// Emoji is shown beside the title, on Color. A change restarts nothing.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=16
	Emoji string `json:"emoji,omitempty"`

	// Color is behind the emoji: "#" and six hexadecimal digits. A change restarts nothing.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=7
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^#[0-9a-fA-F]{6}$')",message="color must be \"#\" and six hexadecimal digits: write for example \"#f0ccff\""
	Color string `json:"color,omitempty"`

	// Visibility says who may read without credentials: nobody (Private, the default) or everybody (Public). Writing
	// always needs a token. A change restarts nothing.
	//
	// +optional
	Visibility Visibility `json:"visibility,omitempty"`

	// Storage says where the charts are kept. Where nothing is written, they are on a claim of 10Gi of the cluster's
	// default storage class.
	//
	// +optional
	Storage Storage `json:"storage,omitempty"`

	// Replicas is the number of pods, 1 where nothing is written. More than one needs storage.s3 or a claim that is
	// ReadWriteMany, otherwise the registry is Stalled with the reason ReplicasNotPossible.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Replicas *int32 `json:"replicas,omitempty"`

	// Artifacts says what may be pushed: every OCI artifact (Any, the default), or Helm charts, what refers to them and the
	// metadata of artifacthub.io alone (Charts). What is there already stays.
	//
	// +optional
	Artifacts Artifacts `json:"artifacts,omitempty"`

	// Tags says whether a version that was pushed may be replaced.
	//
	// +optional
	Tags Tags `json:"tags,omitempty"`

	// Quota bounds what the registry stores. A change restarts the pods.
	//
	// +optional
	Quota Quota `json:"quota,omitempty"`

	// Retention says which versions are deleted in the course of time; none where nothing is written.
	//
	// +optional
	Retention *Retention `json:"retention,omitempty"`

	// GarbageCollection says when what no version leads to any more is deleted. A change restarts the pods.
	//
	// +optional
	GarbageCollection GarbageCollection `json:"garbageCollection,omitempty"`

	// Notifications are receivers that are told of what happens in the registry: Flux, Argo CD, a chat, a job. A change
	// restarts the pods; a changed Secret does not.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Notifications []Notification `json:"notifications,omitempty"`

	// TLS says which certificate the registry serves with.
	//
	// +optional
	TLS TLS `json:"tls,omitempty"`

	// Exposure says how clients reach the registry.
	//
	// +optional
	Exposure Exposure `json:"exposure,omitempty"`

	// DeletionPolicy says what becomes of the charts when this object is deleted: with Retain, the default, they stay where
	// they are and a HelmRegistry of the same name finds them again; with Delete they are deleted first, all of them, and
	// then the claim where there is one. The object is gone when that is done. The annotation chartroom.dev/skip-purge:
	// "true" lets it go where that cannot be done.
	//
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`

	// AllowedNamespaces says which other namespaces may hold RegistryTokens and OIDCPolicies for this registry, and with
	// which scopes at most. Where nothing is written, only the registry's own namespace may.
	//
	// +optional
	AllowedNamespaces AllowedNamespaces `json:"allowedNamespaces,omitempty"`

	// Audit says what the record of decisions on the pods' standard output holds. A change restarts the pods.
	//
	// +optional
	Audit Audit `json:"audit,omitempty"`

	// TrustedProxies are networks, for example 10.244.0.0/16, of proxies and load balancers that are believed when they say
	// in X-Forwarded-For whom they speak for: in limits and in the record of decisions. Nobody is where nothing is written.
	// A change restarts the pods.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="self.all(n, isCIDR(n) && cidr(n).masked() == cidr(n))",message="trustedProxies must be networks such as 10.244.0.0/16 or fd00::/8, with no bits set behind the prefix"
	TrustedProxies []string `json:"trustedProxies,omitempty"`

	// Limits bound what clients may ask of each pod. A change restarts the pods.
	//
	// +optional
	Limits Limits `json:"limits,omitempty"`

	// PodTemplate is a partial pod template (metadata and spec) that is merged strategically over the operator's own, for
	// what has no field here: resources, node selectors, tolerations, priority. The container of the registry is named
	// "registry". The result must satisfy the restricted pod security standard; it may not name a service account, volumes
	// other than emptyDir, configMap and csi, or, unless the operator allows it, images. Otherwise the registry is Stalled with
	// the reason PodTemplateRefused and its running pods stay as they are.
	//
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	PodTemplate *runtime.RawExtension `json:"podTemplate,omitempty"`

	// Suspend, when true, pauses changes to the workload: storage, Deployment, Service and network policy stay as they
	// are. Certificates are still renewed, and revocation and expiry of tokens go on.
	//
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// Audit says what the record of decisions holds.
type Audit struct {
	// Reads records what was read, too, and not only what was changed or refused.
	//
	// +optional
	Reads bool `json:"reads,omitempty"`
}

// Limits bound what clients may ask of each pod. Requests above them are answered 429, to be tried again after two
// seconds.
type Limits struct {
	// RequestsPerSecond is how many requests one token, or one address without a token, may make of a pod in the long run,
	// and twice as many at once. There is no limit where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	RequestsPerSecond *int32 `json:"requestsPerSecond,omitempty"`

	// RegistryRequestsPerSecond is how many requests all clients together may make of a pod in the long run, and twice as
	// many at once. There is no limit where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	RegistryRequestsPerSecond *int32 `json:"registryRequestsPerSecond,omitempty"`
}

// Visibility says who may read without credentials.
//
// +kubebuilder:validation:Enum=Private;Public
type Visibility string

// The visibilities.
const (
	VisibilityPrivate Visibility = "Private"
	VisibilityPublic  Visibility = "Public"
)

// DeletionPolicy says what becomes of the charts when the HelmRegistry is deleted.
//
// +kubebuilder:validation:Enum=Retain;Delete
type DeletionPolicy string

// The deletion policies.
const (
	DeletionRetain DeletionPolicy = "Retain"
	DeletionDelete DeletionPolicy = "Delete"
)

// Storage says where the charts are kept.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.filesystem) && has(self.s3))",message="storage has exactly one member: write filesystem or s3, not both"
type Storage struct {
	// Filesystem keeps the charts on a volume.
	//
	// +optional
	Filesystem *FilesystemStorage `json:"filesystem,omitempty"`

	// S3 keeps the charts in a bucket.
	//
	// +optional
	S3 *S3Storage `json:"s3,omitempty"`
}

// S3Storage keeps the charts in a bucket of S3, or of a server that speaks its protocol.
//
// +kubebuilder:validation:XValidation:rule="(has(self.prefix) ? self.prefix : \"\") == (has(oldSelf.prefix) ? oldSelf.prefix : \"\")",message="storage.s3.prefix is immutable, because the charts would stay behind: create another HelmRegistry and copy the charts"
type S3Storage struct {
	// Bucket is the name of the bucket, which must exist. It cannot be changed afterwards.
	//
	// +required
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$')",message="bucket must be a name that a bucket can have, 3 to 63 lower-case letters, digits, dots and dashes: write for example team-a-charts"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="storage.s3.bucket is immutable, because the charts would stay behind: create another HelmRegistry and copy the charts"
	Bucket string `json:"bucket"`

	// Prefix is put before the key of every object, with a slash after it, so that several registries can share a bucket.
	// None where nothing is written. It cannot be changed afterwards.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self == '' || (self.matches('^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$') && !self.matches('(^|/)[.][.]?(/|$)'))",message="prefix must be letters, digits, dots, dashes and underscores with single slashes between them, no slash at either end: write for example registries/charts"
	Prefix string `json:"prefix,omitempty"`

	// Region is the region of the bucket, us-east-1 where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[A-Za-z0-9][A-Za-z0-9-]*$')",message="region must be letters, digits and dashes: write for example eu-central-1"
	Region string `json:"region,omitempty"`

	// Endpoint is the address of the S3 server, with scheme and without a path; that of AWS for the region where nothing is
	// written.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=280
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^https?://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|[[][0-9A-Fa-f:]+[]])(:[1-9][0-9]{0,4})?$')",message="endpoint must be http:// or https:// with a host and, where needed, a port, and no path: write for example https://s3.example.com:9000"
	Endpoint string `json:"endpoint,omitempty"`

	// PathStyle puts the bucket's name into the path of requests instead of the host name, which most servers other than
	// AWS want.
	//
	// +optional
	PathStyle bool `json:"pathStyle,omitempty"`

	// CredentialsSecretRef names a Secret in the same namespace with the entries accessKeyID, secretAccessKey and, where the
	// credentials are temporary, sessionToken. They are re-read when they change, without a restart. Where nothing is
	// written, the pods use the identity that the platform gives them.
	//
	// +optional
	CredentialsSecretRef *LocalObjectReference `json:"credentialsSecretRef,omitempty"`

	// CASecretRef names a Secret in the same namespace whose entry ca.crt holds the authorities, in PEM, that the server's
	// certificate may come from, beside the well-known ones. It is re-read when it changes, without a restart.
	//
	// +optional
	CASecretRef *LocalObjectReference `json:"caSecretRef,omitempty"`

	// Redirect says whether clients are sent to the bucket, with a signed address, for large files: Never, the default, or
	// Large. With Large the clients must be able to reach and trust the S3 server.
	//
	// +optional
	Redirect Redirect `json:"redirect,omitempty"`

	// Staleness is for how long a pod serves a version again without asking the bucket, in minutes and seconds, for example
	// 10s, from 0s to 5m. A pull of a version that the pod knows then costs no request to the bucket in place of one, and
	// as long may it take until a pod sees that another one has deleted a version or moved its tag. 0s, where nothing is
	// written: it is seen at once.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,4}m)?([0-9]{1,4}s)?$') && self != '' && duration(self) <= duration('5m')",message="staleness must be a duration in minutes and seconds from 0s to 5m: write for example 10s"
	Staleness *metav1.Duration `json:"staleness,omitempty"`
}

// Redirect says which downloads clients fetch from the bucket themselves.
//
// +kubebuilder:validation:Enum=Never;Large
type Redirect string

// The values of Redirect.
const (
	RedirectNever Redirect = "Never"
	RedirectLarge Redirect = "Large"
)

// Artifacts says what may be pushed.
//
// +kubebuilder:validation:Enum=Any;Charts
type Artifacts string

// The values of Artifacts.
const (
	ArtifactsAny    Artifacts = "Any"
	ArtifactsCharts Artifacts = "Charts"
)

// TagsPolicy says whether tags may be moved.
//
// +kubebuilder:validation:Enum=Immutable;Mutable
type TagsPolicy string

// The policies of tags.
const (
	TagsImmutable TagsPolicy = "Immutable"
	TagsMutable   TagsPolicy = "Mutable"
)

// Tags says which tags may be moved to another content.
type Tags struct {
	// Policy is Immutable, the default: a version that was pushed stays what it is; or Mutable: a push replaces it.
	//
	// +optional
	Policy TagsPolicy `json:"policy,omitempty"`

	// Mutable are globs of tags that may be replaced although the policy is Immutable, where * stands for any run of
	// characters and ? for one. A version's + is _ in its tag. Tags of signatures (sha256-*, sha512-*) and artifacthub.io
	// always may.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="self.all(g, g.matches('^[A-Za-z0-9._*?-]+$'))",message="mutable are globs over tags, of letters, digits, dots, dashes, underscores, * and ?: write for example *-dev"
	Mutable []string `json:"mutable,omitempty"`
}

// FilesystemStorage keeps the charts on a volume.
//
// +kubebuilder:validation:XValidation:rule="!has(self.existingClaim) || self.existingClaim == \"\" || !(has(self.size) || has(self.storageClassName) || has(self.accessMode))",message="existingClaim excludes size, storageClassName and accessMode, because the claim already has them: write existingClaim alone"
type FilesystemStorage struct {
	// Size is how much the claim asks for, 10Gi where nothing is written. It can only grow, and only where the storage
	// class allows expansion.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1Mi')) >= 0",message="size must be at least 1Mi: write for example 10Gi"
	Size *resource.Quantity `json:"size,omitempty"`

	// StorageClassName is the storage class of the claim; the cluster's default where nothing is written. It cannot be
	// changed afterwards.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="storageClassName must be a name that a StorageClass can have, lower-case letters, digits, dashes and dots: write for example fast"
	StorageClassName *string `json:"storageClassName,omitempty"`

	// AccessMode is the access mode of the claim. With ReadWriteOnce, the default, a changed pod template means a short
	// pause while one pod hands the volume to the next; with ReadWriteMany the next pod serves before the old one stops.
	// It cannot be changed afterwards.
	//
	// +optional
	// +kubebuilder:validation:Enum=ReadWriteOnce;ReadWriteMany
	AccessMode corev1.PersistentVolumeAccessMode `json:"accessMode,omitempty"`

	// ExistingClaim is the name of a claim in the same namespace that is used instead of one that the operator makes. The
	// operator never changes or deletes it. It cannot be changed afterwards.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="existingClaim must be a name that a PersistentVolumeClaim can have, lower-case letters, digits, dashes and dots: write for example charts-data"
	ExistingClaim string `json:"existingClaim,omitempty"`
}

// TLSMode says where the serving certificate comes from.
//
// +kubebuilder:validation:Enum=SelfSigned;Secret;None
type TLSMode string

// The TLS modes.
const (
	TLSSelfSigned TLSMode = "SelfSigned"
	TLSSecret     TLSMode = "Secret"
	TLSNone       TLSMode = "None"
)

// TLS describes the certificate that the registry serves with.
//
// +kubebuilder:validation:XValidation:rule="(has(self.mode) && self.mode == 'Secret') == has(self.secretRef)",message="secretRef belongs to mode Secret and is needed there: write mode: Secret and secretRef: {name: NAME} together, or neither"
type TLS struct {
	// Mode says where the certificate comes from. SelfSigned, the default: the operator's own authority, whose
	// certificate is in the ConfigMap NAME-ca. Secret: the Secret that secretRef names. None: plain HTTP, for a registry
	// behind something that ends TLS.
	//
	// +optional
	Mode TLSMode `json:"mode,omitempty"`

	// SecretRef names a Secret of type kubernetes.io/tls in the same namespace. It is re-read when it changes, without a
	// restart. An entry ca.crt in it is published to clients.
	//
	// +optional
	SecretRef *LocalObjectReference `json:"secretRef,omitempty"`
}

// LocalObjectReference names an object in the same namespace.
type LocalObjectReference struct {
	// Name is the name of the object.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="name must be a name that a Secret can have, lower-case letters, digits, dashes and dots: write for example charts-example-com-tls"
	Name string `json:"name"`
}

// Exposure says how clients reach the registry.
type Exposure struct {
	// Host is the host, with a port where it is not the usual one, under which clients reach the registry, for example
	// charts.example.com or charts.example.com:8443; NAME.NAMESPACE.svc where nothing is written. No two registries of a
	// cluster may have the same: the older one has it, the other is Stalled with the reason AddressTaken. Registries of one
	// namespace may share a name under several ports. Making the name lead to the Service is up to you.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=259
	// +kubebuilder:validation:XValidation:rule="self == '' || (self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(:[1-9][0-9]{0,4})?$') && (!self.contains(':') || int(self.split(':')[1]) <= 65535))",message="host must be a lower-case host name with, where needed, a port, and neither scheme nor path: write for example charts.example.com or charts.example.com:8443"
	Host string `json:"host,omitempty"`

	// Service shapes the Service, which has the name of this object.
	//
	// +optional
	Service ServiceExposure `json:"service,omitempty"`
}

// ServiceExposure shapes the Service.
type ServiceExposure struct {
	// Type is the type of the Service, ClusterIP where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:Enum=ClusterIP;NodePort;LoadBalancer
	Type corev1.ServiceType `json:"type,omitempty"`

	// Annotations are put on the Service, for load balancers and DNS controllers that read them.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) <= 317 && size(self[k]) <= 4096)",message="annotations have keys of at most 317 and values of at most 4096 characters: write shorter ones"
	Annotations map[string]string `json:"annotations,omitempty"`
}

// NamespacesFrom says which namespaces are meant.
//
// +kubebuilder:validation:Enum=Same;Selector;All
type NamespacesFrom string

// The values of NamespacesFrom.
const (
	NamespacesSame     NamespacesFrom = "Same"
	NamespacesSelector NamespacesFrom = "Selector"
	NamespacesAll      NamespacesFrom = "All"
)

// AllowedNamespaces says which other namespaces may attach tokens and policies, and with which scopes at most.
//
// +kubebuilder:validation:XValidation:rule="(has(self.from) && self.from == 'Selector') == has(self.selector)",message="selector belongs to from: Selector and is needed there: write both together, or neither"
type AllowedNamespaces struct {
	// From says which namespaces may attach tokens and policies: only the registry's own (Same, the default), those whose
	// labels match selector (Selector), or every one (All).
	//
	// +optional
	From NamespacesFrom `json:"from,omitempty"`

	// Selector chooses namespaces by their labels. The registry's own namespace needs no match.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="(!has(self.matchLabels) || size(self.matchLabels) <= 16) && (!has(self.matchExpressions) || size(self.matchExpressions) <= 16)",message="selector may have at most 16 matchLabels and 16 matchExpressions: write fewer"
	Selector *metav1.LabelSelector `json:"selector,omitempty"`

	// MaxScopes are the most that a token or a policy from another namespace may grant; read_packages alone where nothing
	// is written.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	MaxScopes []Scope `json:"maxScopes,omitempty"`
}

// HelmRegistryStatus is what the operator observed.
type HelmRegistryStatus struct {
	// Conditions say how the registry is. Ready is always there; Reconciling and Stalled only when they are True.
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

	// URL is the address of the registry for people and programs.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	URL string `json:"url,omitempty"`

	// OCIURL is the address below which the charts are, as helm wants it.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	OCIURL string `json:"ociURL,omitempty"`

	// RepositoryURL is the address of the same charts as a classic Helm repository, for helm repo add.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	RepositoryURL string `json:"repositoryURL,omitempty"`

	// Image is the image that the registry's pods run.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Image string `json:"image,omitempty"`

	// Replicas is the number of pods that are wanted.
	//
	// +optional
	Replicas int32 `json:"replicas,omitempty"`

	// ReadyReplicas is the number of pods that are ready.
	//
	// +optional
	ReadyReplicas int32 `json:"readyReplicas,omitempty"`

	// Access says how far the newest access snapshot has come.
	//
	// +optional
	Access *AccessStatus `json:"access,omitempty"`

	// Inventory is what the registry holds. It is missing until a pod has said so; while none does, it is what was known
	// last, and the condition InventoryFresh says so.
	//
	// +optional
	Inventory *InventoryStatus `json:"inventory,omitempty"`

	// Charts are the charts that the registry holds, the first 100 by name.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=100
	Charts []ChartStatus `json:"charts,omitempty"`

	// Usage is what the registry stores, as its pods count it where there is a quota of size, charts or versions. It is
	// renewed every 30 seconds at most.
	//
	// +optional
	Usage *UsageStatus `json:"usage,omitempty"`

	// Retention says what goes, and has gone, by spec.retention.
	//
	// +optional
	Retention *RetentionStatus `json:"retention,omitempty"`

	// GarbageCollection is what garbage collection has done. It is missing until there is something to tell.
	//
	// +optional
	GarbageCollection *GarbageCollectionStatus `json:"garbageCollection,omitempty"`

	// Instructions are command lines to paste.
	//
	// +optional
	Instructions *Instructions `json:"instructions,omitempty"`
}

// AccessStatus says how far the newest access snapshot has come.
type AccessStatus struct {
	// Revision is the revision of the newest access snapshot.
	//
	// +required
	Revision int64 `json:"revision"`

	// Confirmed is the number of live pods that enforce it.
	//
	// +required
	Confirmed int32 `json:"confirmed"`

	// Total is the number of live pods.
	//
	// +required
	Total int32 `json:"total"`
}

// Instructions are command lines to paste.
type Instructions struct {
	// Login fetches the authority's certificate where one is needed, and logs helm in with the token that is in the Secret
	// TOKEN, which is to be replaced by a name.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	Login string `json:"login,omitempty"`

	// Push pushes a packaged chart.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	Push string `json:"push,omitempty"`

	// Pull pulls a chart.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	Pull string `json:"pull,omitempty"`
}

// HelmRegistry is a registry of Helm charts: charts are pushed to it and pulled from it with helm.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=hreg,categories=chartroom
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether everything asked for is in force."
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.status!="True")].reason`,description="Why not, when it is not Ready; else what does not hold beside that."
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.status.url`,description="The address of the registry."
// +kubebuilder:printcolumn:name="Charts",type=integer,JSONPath=`.status.inventory.charts`,description="The number of charts."
// +kubebuilder:printcolumn:name="Versions",type=integer,JSONPath=`.status.inventory.versions`,description="The number of versions of all charts."
// +kubebuilder:printcolumn:name="Size",type=string,JSONPath=`.status.inventory.size`,description="What the versions take."
// +kubebuilder:printcolumn:name="Last Push",type=date,JSONPath=`.status.inventory.lastPushed`,description="How long ago the youngest version was pushed."
// +kubebuilder:printcolumn:name="Downloads",type=integer,JSONPath=`.status.inventory.downloads`,priority=1,description="How often the versions were downloaded."
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1,description="What the Ready condition says."
// +kubebuilder:printcolumn:name="Image",type=string,JSONPath=`.status.image`,priority=1,description="The image that the pods run."
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$')",message="metadata.name must have at most 52 characters, begin with a letter and hold only lower-case letters, digits and dashes, no dots, because Service and pods are named after it: write for example charts"
type HelmRegistry struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec describes the registry. The empty spec is valid.
	//
	// +optional
	Spec HelmRegistrySpec `json:"spec,omitempty"`

	// Status is what the operator observed.
	//
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status HelmRegistryStatus `json:"status,omitempty"`
}

// HelmRegistryList is a list of registries.
//
// +kubebuilder:object:root=true
type HelmRegistryList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []HelmRegistry `json:"items"`
}

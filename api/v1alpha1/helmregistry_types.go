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
	// ConditionStorageReady says that the claim is bound.
	ConditionStorageReady = "StorageReady"
	// ConditionCertificateReady says that the serving certificate is there and valid.
	ConditionCertificateReady = "CertificateReady"
	// ConditionAccessConfirmed says that every live pod enforces the newest access snapshot.
	ConditionAccessConfirmed = "AccessConfirmed"
)

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

	// TLS says which certificate the registry serves with.
	//
	// +optional
	TLS TLS `json:"tls,omitempty"`

	// Exposure says how clients reach the registry.
	//
	// +optional
	Exposure Exposure `json:"exposure,omitempty"`

	// DeletionPolicy says what becomes of the charts when this object is deleted: with Retain, the default, the claim
	// stays and a HelmRegistry of the same name finds the charts again; with Delete the claim is deleted with them.
	//
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`

	// AllowedNamespaces says which other namespaces may hold RegistryTokens for this registry, and with which scopes at
	// most. Where nothing is written, only the registry's own namespace may.
	//
	// +optional
	AllowedNamespaces AllowedNamespaces `json:"allowedNamespaces,omitempty"`

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
type Storage struct {
	// Filesystem keeps the charts on a volume.
	//
	// +optional
	Filesystem *FilesystemStorage `json:"filesystem,omitempty"`
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

// AllowedNamespaces says which other namespaces may attach tokens, and with which scopes at most.
//
// +kubebuilder:validation:XValidation:rule="(has(self.from) && self.from == 'Selector') == has(self.selector)",message="selector belongs to from: Selector and is needed there: write both together, or neither"
type AllowedNamespaces struct {
	// From says which namespaces may attach tokens: only the registry's own (Same, the default), those whose labels match
	// selector (Selector), or every one (All).
	//
	// +optional
	From NamespacesFrom `json:"from,omitempty"`

	// Selector chooses namespaces by their labels. The registry's own namespace needs no match.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="(!has(self.matchLabels) || size(self.matchLabels) <= 16) && (!has(self.matchExpressions) || size(self.matchExpressions) <= 16)",message="selector may have at most 16 matchLabels and 16 matchExpressions: write fewer"
	Selector *metav1.LabelSelector `json:"selector,omitempty"`

	// MaxScopes are the most that a token from another namespace may have; read_packages alone where nothing is
	// written.
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
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.status!="True")].reason`,description="Why not, when it is not Ready."
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.status.url`,description="The address of the registry."
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

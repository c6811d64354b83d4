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

// HelmRegistrySpec describes a registry of Helm charts. The empty spec is a valid registry.
type HelmRegistrySpec struct {
	Organization      string                `json:"organization,omitempty"`
	Slug              string                `json:"slug,omitempty"`
	DisplayName       string                `json:"displayName,omitempty"`
	Description       string                `json:"description,omitempty"`
	Visibility        Visibility            `json:"visibility,omitempty"`
	Storage           Storage               `json:"storage,omitempty"`
	TLS               TLS                   `json:"tls,omitempty"`
	Exposure          Exposure              `json:"exposure,omitempty"`
	DeletionPolicy    DeletionPolicy        `json:"deletionPolicy,omitempty"`
	AllowedNamespaces AllowedNamespaces     `json:"allowedNamespaces,omitempty"`
	PodTemplate       *runtime.RawExtension `json:"podTemplate,omitempty"`
	Suspend           bool                  `json:"suspend,omitempty"`
}

// Visibility says who may read without credentials.
type Visibility string

// The visibilities.
const (
	VisibilityPrivate Visibility = "Private"
	VisibilityPublic  Visibility = "Public"
)

// DeletionPolicy says what becomes of the charts when the HelmRegistry is deleted.
type DeletionPolicy string

// The deletion policies.
const (
	DeletionRetain DeletionPolicy = "Retain"
	DeletionDelete DeletionPolicy = "Delete"
)

// Storage says where the charts are kept.
type Storage struct {
	Filesystem *FilesystemStorage `json:"filesystem,omitempty"`
}

// FilesystemStorage keeps the charts on a volume.
type FilesystemStorage struct {
	Size             *resource.Quantity                `json:"size,omitempty"`
	StorageClassName *string                           `json:"storageClassName,omitempty"`
	AccessMode       corev1.PersistentVolumeAccessMode `json:"accessMode,omitempty"`
	ExistingClaim    string                            `json:"existingClaim,omitempty"`
}

// TLSMode says where the serving certificate comes from.
type TLSMode string

// The TLS modes.
const (
	TLSSelfSigned TLSMode = "SelfSigned"
	TLSSecret     TLSMode = "Secret"
	TLSNone       TLSMode = "None"
)

// TLS describes the certificate that the registry serves with.
type TLS struct {
	Mode      TLSMode               `json:"mode,omitempty"`
	SecretRef *LocalObjectReference `json:"secretRef,omitempty"`
}

// LocalObjectReference names an object in the same namespace.
type LocalObjectReference struct {
	Name string `json:"name"`
}

// Exposure says how clients reach the registry.
type Exposure struct {
	Host    string          `json:"host,omitempty"`
	Service ServiceExposure `json:"service,omitempty"`
}

// ServiceExposure shapes the Service.
type ServiceExposure struct {
	Type        corev1.ServiceType `json:"type,omitempty"`
	Annotations map[string]string  `json:"annotations,omitempty"`
}

// NamespacesFrom says which namespaces are meant.
type NamespacesFrom string

// The values of NamespacesFrom.
const (
	NamespacesSame     NamespacesFrom = "Same"
	NamespacesSelector NamespacesFrom = "Selector"
	NamespacesAll      NamespacesFrom = "All"
)

// AllowedNamespaces says which other namespaces may attach tokens, and with which scopes at most.
type AllowedNamespaces struct {
	From      NamespacesFrom        `json:"from,omitempty"`
	Selector  *metav1.LabelSelector `json:"selector,omitempty"`
	MaxScopes []Scope               `json:"maxScopes,omitempty"`
}

// HelmRegistryStatus is what the operator observed.
type HelmRegistryStatus struct {
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	URL                string             `json:"url,omitempty"`
	OCIURL             string             `json:"ociURL,omitempty"`
	Image              string             `json:"image,omitempty"`
	Replicas           int32              `json:"replicas,omitempty"`
	ReadyReplicas      int32              `json:"readyReplicas,omitempty"`
	Access             *AccessStatus      `json:"access,omitempty"`
	Instructions       *Instructions      `json:"instructions,omitempty"`
}

// AccessStatus says how far the newest access snapshot has come.
type AccessStatus struct {
	Revision  int64 `json:"revision"`
	Confirmed int32 `json:"confirmed"`
	Total     int32 `json:"total"`
}

// Instructions are command lines to paste.
type Instructions struct {
	Login string `json:"login,omitempty"`
	Push  string `json:"push,omitempty"`
	Pull  string `json:"pull,omitempty"`
}

// HelmRegistry is a registry of Helm charts.
//
// +kubebuilder:object:root=true
type HelmRegistry struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   HelmRegistrySpec   `json:"spec,omitempty"`
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

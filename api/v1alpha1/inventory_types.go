package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// InventoryStatus is what a registry holds.
type InventoryStatus struct {
	// Charts is the number of charts that have a version.
	//
	// +required
	Charts int64 `json:"charts"`

	// Versions is the number of versions of all charts.
	//
	// +required
	Versions int64 `json:"versions"`

	// SizeBytes is what the versions take: manifests, configs, archives and provenance, each once for each chart. What is
	// stored besides, such as garbage that waits for its deletion, is not part of it.
	//
	// +required
	SizeBytes int64 `json:"sizeBytes"`

	// Size is SizeBytes for people, for example 12.3MiB.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=16
	Size string `json:"size,omitempty"`

	// Downloads is how often the versions that are there were downloaded, ever. While nothing else changes it is renewed
	// every 30 seconds at most.
	//
	// +required
	Downloads int64 `json:"downloads"`

	// LastPushed is when the youngest version that is there was pushed.
	//
	// +optional
	LastPushed *metav1.Time `json:"lastPushed,omitempty"`

	// Truncated says that there are more charts than status.charts lists; the numbers here are of all.
	//
	// +optional
	Truncated bool `json:"truncated,omitempty"`
}

// ChartStatus is one chart of a registry.
type ChartStatus struct {
	// Name is the chart's path below the registry.
	//
	// +required
	// +kubebuilder:validation:MaxLength=255
	Name string `json:"name"`

	// LatestVersion is the highest version by semantic versioning; a pre-release only where there is no other.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	LatestVersion string `json:"latestVersion,omitempty"`

	// AppVersion is the version of what the latest version installs, as its Chart.yaml says.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	AppVersion string `json:"appVersion,omitempty"`

	// Versions is the number of versions.
	//
	// +required
	Versions int64 `json:"versions"`

	// SizeBytes is what the versions take.
	//
	// +required
	SizeBytes int64 `json:"sizeBytes"`

	// Downloads is how often the versions that are there were downloaded, ever.
	//
	// +required
	Downloads int64 `json:"downloads"`

	// LastPushed is when the youngest version that is there was pushed.
	//
	// +optional
	LastPushed *metav1.Time `json:"lastPushed,omitempty"`

	// Digest is that of the latest version's manifest.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=160
	Digest string `json:"digest,omitempty"`
}

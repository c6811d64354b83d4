package v1alpha1

import "k8s.io/apimachinery/pkg/api/resource"

// Quota bounds what a registry stores. What is there already stays, whatever is written here; deletes, and pushes that add
// nothing, always pass. A change restarts the pods.
//
// +kubebuilder:validation:XValidation:rule="!has(self.size) || !has(self.chartSize) || quantity(string(self.chartSize)).compareTo(quantity(string(self.size))) <= 0",message="quota.chartSize must not be more than quota.size, because such a chart would never fit: write a smaller chartSize, or a larger size"
type Quota struct {
	// Size is the most bytes that all charts may have together, blobs and manifests. No limit where nothing is written. A
	// push that would go over it is refused before its bytes are taken; several replicas may together overshoot by what
	// they take within 10 seconds.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1')) >= 0 && quantity(string(self)).compareTo(quantity('1Ei')) <= 0",message="size must be at least 1 and at most 1Ei: write for example 10Gi, or leave it out for no limit"
	Size *resource.Quantity `json:"size,omitempty"`

	// Charts is the most charts that may have a version. No limit where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	Charts *int64 `json:"charts,omitempty"`

	// Versions is the most versions that all charts may have together; tags of signatures and artifacthub.io are none. No
	// limit where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	Versions *int64 `json:"versions,omitempty"`

	// ChartSize is the most bytes that the archive of one chart, or any other blob, may have. 1Gi where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1')) >= 0 && quantity(string(self)).compareTo(quantity('1Gi')) <= 0",message="chartSize must be at least 1 and at most 1Gi, which is the limit where nothing is written: write for example 10Mi"
	ChartSize *resource.Quantity `json:"chartSize,omitempty"`
}

// Counts says whether what is stored has to be counted.
func (q Quota) Counts() bool { return q.Size != nil || q.Charts != nil || q.Versions != nil }

// UsageStatus is what a registry stores.
type UsageStatus struct {
	// SizeBytes is the bytes of all blobs and manifests.
	//
	// +required
	SizeBytes int64 `json:"sizeBytes"`

	// Charts is the number of charts that have a version.
	//
	// +required
	Charts int64 `json:"charts"`

	// Versions is the number of versions of all charts.
	//
	// +required
	Versions int64 `json:"versions"`
}

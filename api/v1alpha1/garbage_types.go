package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// GarbageCollection says when what no version leads to any more is deleted: what deleted and replaced versions leave
// behind, and uploads that were given up. Pushes and pulls go on meanwhile. A change restarts the pods.
type GarbageCollection struct {
	// Interval is the time between two rounds through all charts, in hours, minutes and seconds. At least 1m and at most
	// 168h; 1h where nothing is written. What is deleted through a pod is looked after a few seconds later, whatever the
	// interval.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$') && self != '' && duration(self) >= duration('1m') && duration(self) <= duration('168h')",message="interval must be a duration in hours, minutes and seconds from 1m to 168h: write for example 1h"
	Interval *metav1.Duration `json:"interval,omitempty"`

	// Grace is how long new content is left alone that no version leads to yet: a push must come to its end within it. At
	// least 1h and at most 8760h; 24h where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$') && self != '' && duration(self) >= duration('1h') && duration(self) <= duration('8760h')",message="grace must be a duration in hours, minutes and seconds from 1h to 8760h: write for example 24h"
	Grace *metav1.Duration `json:"grace,omitempty"`

	// Undo is how long garbage stays in the trash, from where it comes back when it is pushed or tagged again. At least 10m
	// and at most 8760h; 1h where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$') && self != '' && duration(self) >= duration('10m') && duration(self) <= duration('8760h')",message="undo must be a duration in hours, minutes and seconds from 10m to 8760h: write for example 1h"
	Undo *metav1.Duration `json:"undo,omitempty"`
}

// GarbageCollectionStatus is what garbage collection has done.
type GarbageCollectionStatus struct {
	// LastSweep is when all charts had been gone through. It is renewed once an hour at most while nothing else changes.
	//
	// +optional
	LastSweep *metav1.Time `json:"lastSweep,omitempty"`

	// FreedBytes is what the pods that run now have deleted for good since they began.
	//
	// +required
	FreedBytes int64 `json:"freedBytes"`

	// WaitingBytes is what is in the trash, and is deleted when spec.garbageCollection.undo has passed.
	//
	// +required
	WaitingBytes int64 `json:"waitingBytes"`

	// Problem is why the garbage of a chart, or of all, could not be collected, in one sentence.
	//
	// +optional
	Problem string `json:"problem,omitempty"`
}

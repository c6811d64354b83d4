package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Retention says which versions are deleted in the course of time.
type Retention struct {
	// DryRun, when true, shows in status.retention what would go, and deletes nothing.
	//
	// +optional
	DryRun bool `json:"dryRun,omitempty"`

	// Delay is how long status.retention shows what goes by these rules before the first deletion, in hours, minutes and
	// seconds; 1h where nothing is written, at least 1m. A change of dryRun or delay is no change of the rules.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$') && self != '' && duration(self) >= duration('1m') && duration(self) <= duration('87600h')",message="delay must be a duration in hours, minutes and seconds from 1m to 87600h: write for example 24h"
	Delay *metav1.Duration `json:"delay,omitempty"`

	// KeepPulledWithin keeps, whatever the rules say, what was pulled within this time, by days in UTC. What was pushed
	// before this was first in force counts as pulled until then. Nothing stays for being pulled where nothing is written.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$') && self != '' && duration(self) >= duration('1h') && duration(self) <= duration('87600h')",message="keepPulledWithin must be a duration in hours, minutes and seconds from 1h to 87600h: write for example 720h"
	KeepPulledWithin *metav1.Duration `json:"keepPulledWithin,omitempty"`

	// Rules say which versions go. The first rule that selects a version decides on it; what none selects stays.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Rules []RetentionRule `json:"rules"`
}

// RetentionRule selects versions and says which of them stay.
//
// +kubebuilder:validation:XValidation:rule="has(self.keepNewest) || has(self.olderThan)",message="a rule needs keepNewest or olderThan, or all that it selects would go: write for example keepNewest: 10"
type RetentionRule struct {
	// Charts are the charts that the rule is about, as globs over the chart's path below the registry: "*" matches any run of
	// characters, slashes included, and "?" matches one. All charts where nothing is written.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=200
	// +kubebuilder:validation:XValidation:rule="self.all(glob, glob.matches('^[a-z0-9._/*?-]+$'))",message="charts are globs over lower-case chart paths, with letters, digits, . _ - / and the wildcards * and ?: write for example web-* or team/*"
	Charts []string `json:"charts,omitempty"`

	// Tags are the tags that the rule selects, as globs. All tags where nothing is written, but never those of signatures
	// (sha256-*, sha512-*) and artifacthub.io.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="self.all(glob, glob.matches('^[A-Za-z0-9._*?-]+$'))",message="tags are globs over tags, of letters, digits, dots, dashes, underscores, * and ?; a version's + is _ in its tag: write for example *-dev"
	Tags []string `json:"tags,omitempty"`

	// Versions is a constraint on the versions that the rule selects, for example "<1.0.0" or ">=1.0.0-0 <2.0.0-0". As with
	// helm, it selects pre-releases only where it names one. What is no semantic version is not selected by any. A constraint that
	// cannot be read makes the registry Stalled with the reason RetentionInvalid, and its pods stay as they are.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Versions string `json:"versions,omitempty"`

	// KeepNewest is how many of the tags that the rule selects in a chart stay: the versions of highest precedence and, for
	// themselves, the last pushed of other tags.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	KeepNewest int32 `json:"keepNewest,omitempty"`

	// OlderThan is how long ago a version must have been pushed to go, in hours, minutes and seconds. With keepNewest, only
	// what is neither new nor young goes.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$') && self != '' && duration(self) >= duration('1s') && duration(self) <= duration('876000h')",message="olderThan must be a duration in hours, minutes and seconds from 1s to 876000h: write for example 720h"
	OlderThan *metav1.Duration `json:"olderThan,omitempty"`
}

// RetentionStatus says what becomes of the versions that spec.retention is about.
type RetentionStatus struct {
	// PlannedAt is when it could first be seen what goes by these rules.
	//
	// +optional
	PlannedAt *metav1.Time `json:"plannedAt,omitempty"`

	// DeletesAfter is the earliest time of the first deletion; nothing with dryRun.
	//
	// +optional
	DeletesAfter *metav1.Time `json:"deletesAfter,omitempty"`

	// LastRun is when the rules were last carried out with another result than before, or a day later.
	//
	// +optional
	LastRun *metav1.Time `json:"lastRun,omitempty"`

	// Planned is the number of versions that the last run would have deleted, had they not to wait.
	//
	// +optional
	Planned int64 `json:"planned"`

	// Deleted is the number of versions that were deleted by these rules.
	//
	// +optional
	Deleted int64 `json:"deleted"`

	// Examples are some of the planned ones, as "chart:tag (reason)".
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MaxLength=1024
	Examples []string `json:"examples,omitempty"`

	// Problem says why the rules cannot be carried out.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Problem string `json:"problem,omitempty"`
}

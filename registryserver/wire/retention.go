package wire

import "time"

// RetentionState is what a pod knows of the retention policy that is in force: what the last run on any pod found.
type RetentionState struct {
	// PlannedAt is when it could first be seen what goes by this policy; nothing is deleted before.
	PlannedAt time.Time `json:"plannedAt"`
	// DeletesAfter is the earliest time of the first deletion; nil while the policy only plans.
	DeletesAfter *time.Time `json:"deletesAfter,omitempty"`
	// LastRun is when the last run ended.
	LastRun time.Time `json:"lastRun"`
	// Planned is how many versions would have gone in it, had they not to wait.
	Planned int64 `json:"planned"`
	// Deleted is how many have gone by this policy.
	Deleted int64 `json:"deleted"`
	// Examples are some of the planned ones, at most 20, as "chart:tag (reason)".
	Examples []string `json:"examples,omitempty"`
	// Problem says what goes wrong on this pod, in one sentence; empty when nothing does.
	Problem string `json:"problem,omitempty"`
}

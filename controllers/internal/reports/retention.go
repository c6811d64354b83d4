package reports

import "github.com/chartroom-dev/chartroom/registryserver/wire"

// Retention is what the pod that knows the latest run says; nil when no pod says anything. Others may learn of it an hour
// later. A problem of any pod is part of it.
func (s State) Retention() *wire.RetentionState {
	var latest *wire.RetentionState
	problem := ""
	for _, pod := range s.Pods {
		if pod.Retention == nil {
			continue
		}
		if problem == "" && pod.Retention.Problem != "" {
			problem = "pod " + pod.Name + ": " + pod.Retention.Problem
		}
		if latest == nil || pod.Retention.LastRun.After(latest.LastRun) {
			latest = pod.Retention
		}
	}
	if latest == nil {
		return nil
	}
	out := *latest
	out.Problem = problem
	return &out
}

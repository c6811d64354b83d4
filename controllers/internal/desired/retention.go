package desired

import (
	"encoding/json"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
)

// RetentionPolicy is spec.retention as the server takes it; the zero policy where there is none.
func RetentionPolicy(r *v1alpha1.HelmRegistry) retention.Policy {
	spec := r.Spec.Retention
	if spec == nil {
		return retention.Policy{}
	}
	p := retention.Policy{DryRun: spec.DryRun, Delay: lasting(spec.Delay), KeepPulledWithin: lasting(spec.KeepPulledWithin)}
	for _, rule := range spec.Rules {
		p.Rules = append(p.Rules, retention.Rule{
			Charts: rule.Charts, Tags: rule.Tags, Versions: rule.Versions, KeepNewest: int(rule.KeepNewest), OlderThan: lasting(rule.OlderThan),
		})
	}
	return p
}

func lasting(d *metav1.Duration) retention.Duration {
	if d == nil {
		return 0
	}
	return retention.Duration(d.Duration)
}

// retentionArguments tell the server which versions to delete.
func retentionArguments(r *v1alpha1.HelmRegistry) []string {
	p := RetentionPolicy(r)
	if p.IsZero() {
		return nil
	}
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // So that people can read the constraints.
	if err := encoder.Encode(p); err != nil {
		panic(err) // Strings and numbers always encode.
	}
	return []string{"--retention=" + strings.TrimSpace(text.String())}
}

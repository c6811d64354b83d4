package desired

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Settings are what the pages of a registry show of its object to those who may push everything. They may not be allowed to
// read the object, so that two fields are left out which may have in them what is secret all the same: the pod template,
// because of its environment, and what is behind the host in the addresses of receivers. All other secrets are references.
func Settings(r *v1alpha1.HelmRegistry, conditions []metav1.Condition) (wire.Settings, error) {
	s := wire.Settings{Namespace: r.Namespace, Name: r.Name, Generation: r.Generation}
	spec := r.Spec.DeepCopy()
	if spec.PodTemplate != nil {
		spec.PodTemplate = &runtime.RawExtension{Raw: []byte(`"(not shown)"`)}
	}
	for i := range spec.Notifications {
		spec.Notifications[i].URL = origin(spec.Notifications[i].URL)
	}
	document, err := json.Marshal(spec)
	if err != nil {
		return s, fmt.Errorf("writing the spec as JSON: %w", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(document, &fields); err != nil {
		return s, fmt.Errorf("reading the spec as JSON: %w", err)
	}
	written, err := yaml.Marshal(withoutEmpty(fields))
	if err != nil {
		return s, fmt.Errorf("writing the spec as YAML: %w", err)
	}
	s.Spec = string(written)
	for _, c := range conditions {
		s.Conditions = append(s.Conditions, wire.Condition{
			Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: c.Message, Since: c.LastTransitionTime.UTC(),
		})
	}
	slices.SortFunc(s.Conditions, func(a, b wire.Condition) int { return cmp.Compare(a.Type, b.Type) })
	return s, nil
}

// origin is an address up to its host.
func origin(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "(not shown)"
	}
	return u.Scheme + "://" + u.Host + "/…"
}

// withoutEmpty removes members without a member: the types have them where nobody wrote anything.
func withoutEmpty(fields map[string]any) map[string]any {
	for name, value := range fields {
		if of, ok := value.(map[string]any); ok && len(withoutEmpty(of)) == 0 {
			delete(fields, name)
		}
	}
	return fields
}

package policies

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/guests"
)

// Indexes of the cache of OIDCPolicies.
const (
	// IndexRegistry has the registries that a policy names or is recorded to have been for, "namespace/name", and
	// "namespace/" where a selector chooses among those of a namespace.
	IndexRegistry = "registry"
	// IndexSecret has the Secrets that a policy refers to, by their names.
	IndexSecret = "secret"
)

// RegistriesOf is the function of IndexRegistry.
func RegistriesOf(o client.Object) []string {
	p := o.(*v1alpha1.OIDCPolicy)
	var keys []string
	if p.Spec.RegistrySelector != nil {
		keys = append(keys, anyIn(p.Namespace))
	}
	if key, named := p.RegistryKey(); named {
		keys = append(keys, key.String())
	}
	for _, r := range p.Status.Registries {
		if key := (types.NamespacedName{Namespace: r.Namespace, Name: r.Name}).String(); !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

func anyIn(namespace string) string { return namespace + "/" }

// SecretsOf is the function of IndexSecret.
func SecretsOf(o client.Object) []string {
	var names []string
	for _, s := range o.(*v1alpha1.OIDCPolicy).Spec.Statements {
		if s.CASecretRef != nil && !slices.Contains(names, s.CASecretRef.Name) {
			names = append(names, s.CASecretRef.Name)
		}
	}
	return names
}

// Targets reports whether a policy is for a registry, as its spec says.
func Targets(p *v1alpha1.OIDCPolicy, r *v1alpha1.HelmRegistry) bool {
	if key, named := p.RegistryKey(); named {
		return key == client.ObjectKeyFromObject(r)
	}
	if p.Spec.RegistrySelector == nil || p.Namespace != r.Namespace {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(p.Spec.RegistrySelector)
	return err == nil && selector.Matches(labels.Set(r.Labels))
}

// Records reports whether the status of a policy tells of a registry.
func Records(p *v1alpha1.OIDCPolicy, registry types.NamespacedName) bool {
	return slices.ContainsFunc(p.Status.Registries, func(r v1alpha1.PolicyRegistry) bool {
		return r.Namespace == registry.Namespace && r.Name == registry.Name
	})
}

// CheckSelector says what is wrong with the selector of a policy.
func CheckSelector(p *v1alpha1.OIDCPolicy) error {
	_, err := metav1.LabelSelectorAsSelector(p.Spec.RegistrySelector)
	return err
}

// IsRevoked reports whether a policy must be in force nowhere, which is final.
func IsRevoked(p *v1alpha1.OIDCPolicy) bool { return !p.DeletionTimestamp.IsZero() }

// Held reports whether a policy cannot disappear unseen. Until then it is not put in force.
func Held(p *v1alpha1.OIDCPolicy) bool {
	return controllerutil.ContainsFinalizer(p, v1alpha1.FinalizerPolicy)
}

// AdmitAny says why a registry lets no policy of that namespace attach to it, whatever it grants; nil when it may.
func AdmitAny(p *v1alpha1.OIDCPolicy, r *v1alpha1.HelmRegistry, namespaceLabels map[string]string) error {
	return guests.Admit(guests.Guest{Kind: "policies", Namespace: p.Namespace, NamespaceLabels: namespaceLabels}, r)
}

// Admit says why a registry does not let a policy of that namespace attach to it; nil when it does.
func Admit(p *v1alpha1.OIDCPolicy, c Compiled, r *v1alpha1.HelmRegistry, namespaceLabels map[string]string) error {
	return guests.Admit(guests.Guest{Kind: "policies", Namespace: p.Namespace, NamespaceLabels: namespaceLabels, Scopes: c.Scopes()}, r)
}

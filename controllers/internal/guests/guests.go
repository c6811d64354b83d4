// Package guests says whom a registry admits of those in other namespaces.
package guests

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// Guest is an object that is to be attached to a registry.
type Guest struct {
	// Kind is what the object is called in messages, in the plural: tokens.
	Kind      string
	Namespace string
	// NamespaceLabels are those of its namespace; they count only where that is not the registry's.
	NamespaceLabels map[string]string
	// Scopes are what it grants.
	Scopes []v1alpha1.Scope
}

// Admit says why a registry does not let a guest attach to it; nil when it does.
func Admit(g Guest, r *v1alpha1.HelmRegistry) error {
	if g.Namespace == r.Namespace {
		return nil
	}
	allowed := r.Spec.AllowedNamespaces
	switch allowed.AllowedFrom() {
	case v1alpha1.NamespacesAll:
	case v1alpha1.NamespacesSelector:
		selector, err := metav1.LabelSelectorAsSelector(allowed.Selector)
		if err != nil {
			return fmt.Errorf("the allowedNamespaces.selector of the HelmRegistry cannot be read: %w", err)
		}
		if !selector.Matches(labels.Set(g.NamespaceLabels)) {
			return fmt.Errorf("the allowedNamespaces.selector of the HelmRegistry %s/%s does not match the labels of the namespace %s", r.Namespace, r.Name, g.Namespace)
		}
	default:
		return fmt.Errorf("the HelmRegistry %s/%s admits %s of its own namespace only; its allowedNamespaces would have to name %s", r.Namespace, r.Name, g.Kind, g.Namespace)
	}
	for _, scope := range g.Scopes {
		if !slices.Contains(allowed.AllowedScopes(), scope) {
			return fmt.Errorf("the HelmRegistry %s/%s does not give %s to %s of other namespaces; its allowedNamespaces.maxScopes would have to name it", r.Namespace, r.Name, scope, g.Kind)
		}
	}
	return nil
}

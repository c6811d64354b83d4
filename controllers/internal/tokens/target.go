package tokens

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// IndexRegistry is the cache's index of RegistryTokens by the registry that they name, "namespace/name", or by the
// namespace among whose registries a selector chooses, "namespace/".
const IndexRegistry = "registry"

// RegistryOf is the function of IndexRegistry.
func RegistryOf(o client.Object) []string {
	t := o.(*v1alpha1.RegistryToken)
	if key, named := t.RegistryKey(); named {
		return []string{key.String()}
	}
	return []string{t.Namespace + "/"}
}

// ListOf lists the tokens that may be for a registry: those that name it, and those that choose among the registries of
// its namespace.
func ListOf(ctx context.Context, reader client.Reader, registry types.NamespacedName) ([]v1alpha1.RegistryToken, error) {
	var all []v1alpha1.RegistryToken
	for _, key := range []string{registry.String(), registry.Namespace + "/"} {
		list := &v1alpha1.RegistryTokenList{}
		if err := reader.List(ctx, list, client.MatchingFields{IndexRegistry: key}); err != nil {
			return nil, fmt.Errorf("listing the tokens of the registry %s: %w", registry, err)
		}
		all = append(all, list.Items...)
	}
	return all, nil
}

// Registries reads the registries that a token is for.
func Registries(ctx context.Context, reader client.Reader, t *v1alpha1.RegistryToken) ([]*v1alpha1.HelmRegistry, error) {
	key, named := t.RegistryKey()
	if !named {
		list := &v1alpha1.HelmRegistryList{}
		if err := reader.List(ctx, list, client.InNamespace(t.Namespace)); err != nil {
			return nil, fmt.Errorf("listing the registries of the namespace %s: %w", t.Namespace, err)
		}
		return Chosen(t, list.Items), nil
	}
	registry := &v1alpha1.HelmRegistry{}
	switch err := reader.Get(ctx, key, registry); {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading the registry %s: %w", key, err)
	}
	return []*v1alpha1.HelmRegistry{registry}, nil
}

// Chosen returns those of the registries of a token's namespace that its selector chooses, the oldest first. Of more than
// v1alpha1.MaxTokenRegistries the youngest are left out; a selector that cannot be read chooses none.
func Chosen(t *v1alpha1.RegistryToken, all []v1alpha1.HelmRegistry) []*v1alpha1.HelmRegistry {
	selector, err := metav1.LabelSelectorAsSelector(t.Spec.RegistrySelector)
	if err != nil {
		return nil
	}
	var chosen []*v1alpha1.HelmRegistry
	for i := range all {
		if all[i].Namespace == t.Namespace && selector.Matches(labels.Set(all[i].Labels)) {
			chosen = append(chosen, &all[i])
		}
	}
	slices.SortFunc(chosen, func(a, b *v1alpha1.HelmRegistry) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return chosen[:min(len(chosen), v1alpha1.MaxTokenRegistries)]
}

// Concerns reports whether the snapshot of a registry depends on a token that is for these registries: it is one of them, or
// the status tells that it was.
func Concerns(t *v1alpha1.RegistryToken, registries []*v1alpha1.HelmRegistry, registry string) bool {
	_, named := t.RegistryKey()
	return named || contains(registries, registry) || Records(t, registry)
}

// Grants reports whether a token that is in force belongs into the snapshot of a registry. So that nothing granted can escape
// its revocation, the object must be held first, and where a selector chooses, its status has to tell of the registry.
func (in Input) Grants(registry string) bool {
	_, named := in.Token.RegistryKey()
	return Held(in.Token) && (named || contains(in.Registries, registry) && Records(in.Token, registry))
}

// Held reports whether the object of a token cannot disappear unseen.
func Held(t *v1alpha1.RegistryToken) bool {
	return controllerutil.ContainsFinalizer(t, v1alpha1.FinalizerToken)
}

func contains(registries []*v1alpha1.HelmRegistry, name string) bool {
	return slices.ContainsFunc(registries, func(r *v1alpha1.HelmRegistry) bool { return r.Name == name })
}

// Records reports whether the status of a token whose selector chooses tells of a registry.
func Records(t *v1alpha1.RegistryToken, registry string) bool {
	return slices.ContainsFunc(t.Status.Registries, func(r v1alpha1.TokenRegistry) bool { return r.Name == registry })
}

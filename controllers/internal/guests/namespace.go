package guests

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// Namespace reads the metadata of a namespace, which is all that is cached of it. Of one that does not exist it is empty.
func Namespace(ctx context.Context, reader client.Reader, name string) (*metav1.PartialObjectMetadata, error) {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := reader.Get(ctx, client.ObjectKey{Name: name}, namespace); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading the namespace %s: %w", name, err)
	}
	return namespace, nil
}

// MustConfirm reads the registry whose pods have to confirm that a guest is gone for good. It is nil where there is none,
// or none that could be waited for: in a namespace that is being deleted, pods and registries go in no order. live reads
// the registry, past the cache, and cached the namespaces.
func MustConfirm(ctx context.Context, live, cached client.Reader, guestNamespace string, key types.NamespacedName) (*v1alpha1.HelmRegistry, error) {
	registry := &v1alpha1.HelmRegistry{}
	if err := live.Get(ctx, key, registry); apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // There is none.
	} else if err != nil {
		return nil, fmt.Errorf("reading the registry %s: %w", key, err)
	}
	for _, name := range []string{guestNamespace, key.Namespace} {
		namespace, err := Namespace(ctx, cached, name)
		if err != nil {
			return nil, err
		}
		if !namespace.DeletionTimestamp.IsZero() {
			return nil, nil //nolint:nilnil // As above.
		}
	}
	return registry, nil
}

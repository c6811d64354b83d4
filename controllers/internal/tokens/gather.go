package tokens

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// IndexRegistry is the cache's index of RegistryTokens by the registry that they are for, "namespace/name".
const IndexRegistry = "spec.registryRef"

// RegistryOf is the function of IndexRegistry.
func RegistryOf(o client.Object) []string {
	return []string{o.(*v1alpha1.RegistryToken).RegistryKey().String()}
}

// Gather reads what a decision about a token depends on: the Secret from one reader, all else from the other. registry is
// nil when there is none.
func Gather(ctx context.Context, reader, secrets client.Reader, t *v1alpha1.RegistryToken, registry *v1alpha1.HelmRegistry, now time.Time) (Input, error) {
	in := Input{Token: t, Registry: registry, Now: now}
	secret := &corev1.Secret{}
	switch err := secrets.Get(ctx, client.ObjectKey{Namespace: t.Namespace, Name: t.SecretName()}, secret); {
	case err == nil:
		in.Secret = secret
	case !apierrors.IsNotFound(err):
		return in, fmt.Errorf("reading the Secret of the token %s/%s: %w", t.Namespace, t.Name, err)
	}
	if registry != nil && registry.Namespace == t.Namespace {
		return in, nil
	}
	namespace := Namespace()
	if err := reader.Get(ctx, client.ObjectKey{Name: t.Namespace}, namespace); client.IgnoreNotFound(err) != nil {
		return in, fmt.Errorf("reading the labels of the namespace %s: %w", t.Namespace, err)
	}
	in.NamespaceLabels = namespace.Labels
	return in, nil
}

// Namespace returns an object to read a namespace's metadata into, which is all that is cached of it.
func Namespace() *metav1.PartialObjectMetadata {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return namespace
}

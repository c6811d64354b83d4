package tokens

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/guests"
)

// Gather reads what a decision about a token depends on, beside the registries that it is for: the Secret from one reader,
// all else from the other.
func Gather(ctx context.Context, reader, secrets client.Reader, t *v1alpha1.RegistryToken, registries []*v1alpha1.HelmRegistry, now time.Time) (Input, error) {
	in := Input{Token: t, Registries: registries, Now: now}
	if !t.Unpublished() { // Whatever Secret has the name of such a one is none of its business.
		secret := &corev1.Secret{}
		switch err := secrets.Get(ctx, client.ObjectKey{Namespace: t.Namespace, Name: t.SecretName()}, secret); {
		case err == nil:
			in.Secret = secret
		case !apierrors.IsNotFound(err):
			return in, fmt.Errorf("reading the Secret of the token %s/%s: %w", t.Namespace, t.Name, err)
		}
	}
	if key, named := t.RegistryKey(); !named || key.Namespace == t.Namespace {
		return in, nil
	}
	namespace, err := guests.Namespace(ctx, reader, t.Namespace)
	if err != nil {
		return in, err
	}
	in.NamespaceLabels = namespace.Labels
	return in, nil
}

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// If this fails, one Secret does not open several registries, or ends at some of them only.
func TestOneTokenForSeveralRegistries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	team := map[string]string{"team": "web"}
	var registries []*v1alpha1.HelmRegistry
	for _, name := range []string{"one", "two"} {
		r := w.registry(name, func(r *v1alpha1.HelmRegistry) { r.Labels = team })
		_, writer := w.token(name, "writer-"+name, readWrite)
		h := w.helm(newestHelm(t), name).loggedIn(r, writer)
		h.push(r, h.chart("app", "1.0.0", name, r.Status.Image))
		registries = append(registries, r)
	}
	token, password := w.token("", "team", readOnly, func(token *v1alpha1.RegistryToken) {
		token.Spec.RegistrySelector = &metav1.LabelSelector{MatchLabels: team}
	})
	var secret corev1.Secret
	w.must(w.Get(t.Context(), client.ObjectKeyFromObject(token), &secret), "reading the Secret")
	credentials := filepath.Join(t.TempDir(), "config.json")
	w.must(os.WriteFile(credentials, secret.Data[corev1.DockerConfigJsonKey], 0o600), "writing the credentials")
	// What the Secret holds is all that a client needs.
	for _, r := range registries {
		h := w.helm(newestHelm(t), r.Name)
		h.do("pull", r.Status.OCIURL+"/app", "--version=1.0.0", h.trust(), "--registry-config", credentials, "--destination", t.TempDir())
	}
	w.eventually("the status to tell of the use", func(ctx context.Context) error {
		err := w.Get(ctx, client.ObjectKeyFromObject(token), token)
		if err == nil && token.Status.LastUsed == nil {
			err = errors.New("it does not")
		}
		return err
	})

	w.must(w.Delete(t.Context(), token), "deleting the token")
	w.gone(token)
	for _, r := range registries {
		if out, err := w.helm(newestHelm(t), r.Name).login(r, password); err == nil {
			t.Errorf("the token is gone, and %s admits it:\n%s", r.Name, out)
		}
	}
}

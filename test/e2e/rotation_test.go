//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// If this fails, replacing a token breaks those who pull with it, or leaves the old one working.
func TestRotation(t *testing.T) {
	w := newWorld(t)
	r := w.onS3(w.s3Server())
	_, writer := w.token("charts", "ci", readWrite)
	h := w.helm(newestHelm(t), "charts").loggedIn(r, writer)
	h.push(r, h.chart("app", "1.0.0", "x", r.Status.Image))
	token, first := w.token("charts", "consumer", readOnly, func(token *v1alpha1.RegistryToken) {
		token.Spec.Rotation = &v1alpha1.Rotation{Interval: metav1.Duration{Duration: time.Hour}, Overlap: &metav1.Duration{Duration: time.Minute}}
	})

	load, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	pulls, consumer := 0, w.helm(h.path, "charts")
	group.Go(func() { pulls = consumer.consume(load, r, token.Name) })
	t.Cleanup(func() { w.scaleOperator(1) })
	// With the operator away, as after the second one, the old token dies on time all the same.
	for round, password := 0, first; round < 2; round++ {
		password = w.rotateToken(token, r, password, fmt.Sprint(round), func() { w.scaleOperator(int32(1 - round%2)) })
		w.scaleOperator(1)
	}
	stop()
	group.Wait()
	t.Logf("MEASURED %d logins and pulls with what the Secret held at the moment, through two rotations at two pods, none refused", pulls)
	if pulls < 10 {
		t.Errorf("there were %d pulls, too few to tell", pulls)
	}
}

// consume reads the Secret, logs in and pulls, again and again, until ctx ends.
func (h *helm) consume(ctx context.Context, r *v1alpha1.HelmRegistry, name string) (pulls int) {
	for ctx.Err() == nil {
		var secret corev1.Secret
		if err := h.Get(ctx, client.ObjectKey{Namespace: h.namespace, Name: name}, &secret); err != nil {
			if ctx.Err() == nil {
				h.Errorf("reading the Secret: %v", err)
			}
			return pulls
		}
		if out, err := h.login(r, string(secret.Data["password"])); err != nil {
			h.Errorf("the token that the Secret held was refused: %v\n%s", err, out)
		}
		if out, err := h.run(h.environment, "", h.path, "pull", r.Status.OCIURL+"/app", h.trust(), "--destination", h.TempDir()); err != nil {
			h.Errorf("a pull was refused: %v\n%s", err, out)
		}
		pulls++
	}
	return pulls
}

// rotateToken asks for a rotation and waits until it was done, does something, and waits until the old token has ended,
// which may not be before its time. It returns the new one.
func (w *world) rotateToken(token *v1alpha1.RegistryToken, r *v1alpha1.HelmRegistry, old, request string, then func()) string {
	w.Helper()
	started := time.Now()
	w.change(token, func() { metav1.SetMetaDataAnnotation(&token.ObjectMeta, v1alpha1.AnnotationRotationRequested, request) })
	w.eventually("the rotation", func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(token), token); err != nil {
			return err
		}
		if token.Status.LastHandledRotationRequest != request || token.Status.PreviousExpiresAt == nil {
			return fmt.Errorf("it has not happened: %+v", token.Status)
		}
		return nil
	})
	w.Logf("MEASURED rotation, from the request to the status: %d ms", time.Since(started).Milliseconds())
	w.kubectlWait("Propagated", "registrytoken/"+token.Name)
	end := token.Status.PreviousExpiresAt.Time
	h := w.helm(newestHelm(w.T), "charts")
	if out, err := h.login(r, old); err != nil && time.Now().Before(end) {
		w.Errorf("the old token is refused within its overlap: %v\n%s", err, out)
	}
	then()
	w.eventually("the old token to end", func(context.Context) error {
		if _, err := h.login(r, old); err == nil {
			return errors.New("it still logs in")
		}
		return nil
	})
	if time.Now().Before(end) {
		w.Error("the old token was refused before its time")
	}
	var secret corev1.Secret
	w.must(w.Get(w.Context(), client.ObjectKeyFromObject(token), &secret), "reading the Secret")
	return string(secret.Data["password"])
}

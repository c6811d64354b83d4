//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// published makes a registry that holds version 1.0.0 of the chart app, and a helm that is logged in to it with the token
// ci. It also returns the pushed archive and the token.
func (w *world) published(change ...func(*v1alpha1.HelmRegistry)) (r *v1alpha1.HelmRegistry, h *helm, archive, password string) {
	w.Helper()
	r = w.registry("charts", change...)
	_, password = w.token("charts", "ci", readWrite)
	h = w.helm(newestHelm(w.T), "charts").loggedIn(r, password)
	archive = h.chart("app", "1.0.0", "x", r.Status.Image)
	h.push(r, archive)
	return r, h, archive, password
}

// If this fails, a pod that dies takes a chart with it that helm had reported as pushed, or leaves half of one behind.
func TestPodKilledDuringPushes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.registry("charts")
	_, password := w.token("charts", "ci", readWrite)
	h := w.helm(newestHelm(t), "charts").loggedIn(r, password)

	acknowledged := map[string][]byte{}
	survived := 0
	for i := range 6 {
		pod := w.podReady("charts")
		version := fmt.Sprintf("1.0.%d", i)
		archive := h.chart("app", version, strings.Repeat(version, 1000), r.Status.Image)
		done := make(chan error, 1)
		go func() {
			_, err := h.run(h.environment, "", h.path, "push", archive, r.Status.OCIURL, h.trust())
			done <- err
		}()
		// Each round kills at another moment of the push.
		select {
		case err := <-done:
			done <- err
		case <-time.After(time.Duration(i) * 100 * time.Millisecond):
		}
		now := int64(0)
		w.must(w.Delete(t.Context(), &pod, &client.DeleteOptions{GracePeriodSeconds: &now}), "killing the pod")
		pushed := <-done
		w.podReady("charts", pod)
		acknowledged[version] = read(t, archive)
		if pushed == nil {
			survived++
			continue // Pushing it again would hide its loss.
		}
		w.eventually("a push after the kill", func(context.Context) error {
			if out, err := h.run(h.environment, "", h.path, "push", archive, r.Status.OCIURL, h.trust()); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	h.eventuallyReads(r, "app", "1.0.0")
	for version, want := range acknowledged {
		if got := h.pull(r, "app", version); !bytes.Equal(got, want) {
			w.Errorf("version %s is not what was pushed", version)
		}
	}
	t.Logf("%d kills; %d versions had been acknowledged before, the others were pushed again", len(acknowledged), survived)
}

// If this fails, nobody can pull a chart while the control plane of the cluster is down, which is when people need them.
func TestAPIServerDown(t *testing.T) {
	w := newWorld(t)
	r, h, archive, _ := w.published()
	soon := metav1.NewTime(time.Now().Add(15 * time.Second))
	_, brief := w.token("charts", "brief", readOnly, func(token *v1alpha1.RegistryToken) { token.Spec.ExpiresAt = &soon })
	account := w.serviceAccount("reader")
	w.policy("charts", "reader", readOnly)
	w.kubectlWait("Ready", "oidcpolicy/reader")
	identity := w.serviceToken(r, account)
	other := w.helm(h.path, "charts") // Which needs the API server to be made.
	pod := w.podReady("charts")
	container := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")

	cluster := func(script, part string) {
		if out, err := exec.Command(filepath.Join(root(t), "hack/cluster", script), part).CombinedOutput(); err != nil {
			w.Fatalf("hack/cluster/%s %s: %v\n%s", script, part, err, out)
		}
	}
	cluster("stop", "kube-apiserver")
	t.Cleanup(func() {
		cluster("start", "kube-apiserver")
		w.eventuallyAfter("the API server to be back", func(ctx context.Context) error {
			return w.Get(ctx, client.ObjectKey{Name: w.namespace}, &corev1.Namespace{})
		})
		// The node's parts wait longer and longer before they ask an API server again that did not answer.
		w.must(w.Create(context.Background(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "after"},
			Spec:       corev1.ServiceSpec{Selector: pod.Labels, Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromString("registry")}}},
		}), "creating a Service")
		w.eventuallyAfter("the node to follow the API server again", func(ctx context.Context) error {
			return exec.CommandContext(ctx, filepath.Join(root(t), "hack/cluster/run"), "bash", "-c", "exec 3<>/dev/tcp/after."+w.namespace+".svc/443").Run()
		})
	})

	if got := h.pull(r, "app", "1.0.0"); !bytes.Equal(got, read(t, archive)) {
		w.Errorf("with the API server down, the pulled chart is another one")
	}
	h.push(r, h.chart("app", "1.1.0", "x", r.Status.Image))

	if out, err := other.login(r, identity); err != nil {
		w.Errorf("with the API server down, who a policy admits is refused: %v\n%s", err, out)
	}

	w.eventually("a token to expire with no API server", func(context.Context) error {
		if _, err := other.login(r, brief); err == nil {
			return errors.New("it still logs in")
		}
		return nil
	})

	if out, err := exec.Command(filepath.Join(root(t), "hack/cluster/ctr"), "tasks", "kill", "--signal", "SIGKILL", container).CombinedOutput(); err != nil {
		w.Fatalf("killing the container: %v\n%s", err, out)
	}
	h.eventuallyReads(r, "app", "1.1.0")
	if out, err := other.login(r, identity); err != nil {
		w.Errorf("the restarted container has forgotten the policy: %v\n%s", err, out)
	}
	if out, err := h.login(r, "crt_00000000_wrong"); err == nil {
		w.Errorf("the restarted container takes a wrong password:\n%s", out)
	}
}

// If this fails, an upgrade or outage of the operator stops the registries.
func TestOperatorDown(t *testing.T) {
	w := newWorld(t)
	r, h, archive, _ := w.published()
	soon := metav1.NewTime(time.Now().Add(30 * time.Second))
	_, brief := w.token("charts", "brief", readOnly, func(token *v1alpha1.RegistryToken) { token.Spec.ExpiresAt = &soon })

	w.scaleOperator(0)
	t.Cleanup(func() { w.scaleOperator(1) })
	before := w.podReady("charts")
	w.must(w.Delete(t.Context(), &before), "deleting the registry's pod")
	w.podReady("charts", before)

	h.eventuallyReads(r, "app", "1.0.0")
	if got := h.pull(r, "app", "1.0.0"); !bytes.Equal(got, read(t, archive)) {
		w.Errorf("the new pod gives another chart")
	}
	w.eventually("a token to expire with no operator", func(context.Context) error {
		if _, err := w.helm(h.path, "charts").login(r, brief); err == nil {
			return errors.New("it still logs in")
		}
		return nil
	})
}

// If this fails, deleting a HelmRegistry destroys charts that it was told to keep, or keeps what it was told to destroy.
func TestDeletionPolicy(t *testing.T) {
	t.Parallel()
	for _, policy := range []v1alpha1.DeletionPolicy{v1alpha1.DeletionRetain, v1alpha1.DeletionDelete} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			set := func(r *v1alpha1.HelmRegistry) { r.Spec.DeletionPolicy = policy }
			r, h, archive, password := w.published(set)

			w.must(w.Delete(t.Context(), r), "deleting the HelmRegistry")
			w.gone(r)
			w.eventually("the pods to be gone", func(ctx context.Context) error {
				pods, err := w.pods(ctx, "charts")
				if err == nil && len(pods) > 0 {
					err = fmt.Errorf("%d are left", len(pods))
				}
				return err
			})
			if policy == v1alpha1.DeletionDelete {
				w.eventually("the claim to be gone", func(ctx context.Context) error {
					var claims corev1.PersistentVolumeClaimList
					err := w.List(ctx, &claims, client.InNamespace(w.namespace))
					if err == nil && len(claims.Items) > 0 {
						err = errors.New("it is still there")
					}
					return err
				})
			}

			r = w.registry("charts", set)
			// The token outlived the registry and is in force again.
			w.kubectlWait("Ready", "registrytoken/ci")
			h = w.helm(h.path, "charts").loggedIn(r, password)
			if policy == v1alpha1.DeletionDelete {
				h.pullFails(r, "app", "1.0.0")
			} else if got := h.pull(r, "app", "1.0.0"); !bytes.Equal(got, read(t, archive)) {
				w.Errorf("the kept chart is another one")
			}
		})
	}
}

// If this fails, a RegistryToken hangs in deletion for ever, and with it the namespace, because what it waits for is gone.
func TestNothingHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.registry("charts")
	token, _ := w.token("charts", "ci", readOnly)

	t.Run("registry gone first", func(t *testing.T) {
		w := w.in(t)
		w.must(w.Delete(t.Context(), r), "deleting the HelmRegistry")
		w.gone(r)
		w.must(w.Delete(t.Context(), token), "deleting the RegistryToken")
		w.gone(token)
	})
	t.Run("namespace", func(t *testing.T) {
		other := newWorld(t)
		other.registry("charts")
		other.token("charts", "ci", readOnly)
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other.namespace}}
		other.must(other.Delete(t.Context(), namespace), "deleting the namespace")
		other.gone(namespace)
	})
}

// eventuallyAfter is eventually for a clean-up, when the test's own context has ended.
func (w *world) eventuallyAfter(what string, condition func(ctx context.Context) error) {
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := condition(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Errorf("waited in vain for %s: %v", what, err)
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// If this fails, the first thing that anybody does with Chartroom does not work: log in, push a chart, look at it, pull
// it with and without a version, install it.
func TestPushPullInstall(t *testing.T) {
	t.Parallel()
	eachHelm(t, func(t *testing.T, path string) {
		w := newWorld(t)
		r := w.registry("charts")
		_, password := w.token("charts", "ci", readWrite)
		h := w.helm(path, "charts")

		if out, err := h.login(r, "crt_00000000_wrong"); err == nil {
			w.Errorf("a wrong password logs in:\n%s", out)
		}
		h.loggedIn(r, password)

		old := h.chart("app", "0.9.0", "old", r.Status.Image)
		archive := h.chart("app", "1.0.0+build.7", "new", r.Status.Image)
		h.push(r, old)
		h.push(r, archive)

		for _, version := range []string{"", "1.0.0+build.7"} {
			if got := h.pull(r, "app", version); !bytes.Equal(got, read(t, archive)) {
				w.Errorf("helm pull with version %q gives another chart than was pushed", version)
			}
		}
		if got := h.pull(r, "app", "0.9.0"); !bytes.Equal(got, read(t, old)) {
			w.Errorf("the older version is not the one that was pushed")
		}
		if out := h.do("show", "chart", r.Status.OCIURL+"/app", h.trust(), "--version=0.9.0"); !strings.Contains(out, "A chart of the tests.") {
			w.Errorf("helm show chart:\n%s", out)
		}

		h.do("install", "shop", r.Status.OCIURL+"/app", h.trust(), "--version=0.9.0", "--namespace="+w.namespace, "--kubeconfig="+kubeconfig(t), "--wait", "--timeout=2m")
		var installed appsv1.Deployment
		w.must(w.Get(t.Context(), client.ObjectKey{Namespace: w.namespace, Name: "shop"}, &installed), "reading what helm installed")
		if installed.Status.ReadyReplicas != 1 {
			w.Errorf("the installed chart has %d ready pods", installed.Status.ReadyReplicas)
		}
	})
}

// If this fails, a version that somebody deployed can change under them, or a pipeline that runs twice breaks.
func TestVersionsAreImmutable(t *testing.T) {
	t.Parallel()
	eachHelm(t, func(t *testing.T, path string) {
		w := newWorld(t)
		r := w.registry("charts")
		_, password := w.token("charts", "ci", readWrite)
		h := w.helm(path, "charts").loggedIn(r, password)

		archive := h.chart("app", "1.0.0", "first", r.Status.Image)
		h.push(r, archive)
		h.push(r, archive)

		out := h.fail("push", h.chart("app", "1.0.0", "second", r.Status.Image), r.Status.OCIURL, h.trust())
		// Helm up to 3.17 shows the status alone, whatever the registry says.
		if !oldFlow(path) && !strings.Contains(out, "1.0.0") {
			w.Errorf("the refusal does not name the version:\n%s", out)
		}
		if got := h.pull(r, "app", "1.0.0"); !bytes.Equal(got, read(t, archive)) {
			w.Errorf("the refused push changed the chart")
		}
	})
}

// If this fails, people who deploy can overwrite what others publish, or are told nothing of why they may not.
func TestReadOnlyTokenCannotPush(t *testing.T) {
	t.Parallel()
	eachHelm(t, func(t *testing.T, path string) {
		w := newWorld(t)
		r := w.registry("charts")
		_, writer := w.token("charts", "ci", readWrite)
		_, reader := w.token("charts", "readers", readOnly)
		archive := w.helm(path, "charts").chart("app", "1.0.0", "x", r.Status.Image)

		h := w.helm(path, "charts").loggedIn(r, reader)
		out := h.fail("push", archive, r.Status.OCIURL, h.trust())
		if !oldFlow(path) && !strings.Contains(out, "write_packages") {
			w.Errorf("the refusal does not name the missing scope:\n%s", out)
		}
		w.helm(path, "charts").loggedIn(r, writer).push(r, archive)
		if got := h.pull(r, "app", "1.0.0"); !bytes.Equal(got, read(t, archive)) {
			w.Errorf("the reader gets another chart")
		}
	})
}

// If this fails, a public registry asks strangers for a password, or lets them write.
func TestPublicRegistryNeedsNoLogin(t *testing.T) {
	t.Parallel()
	eachHelm(t, func(t *testing.T, path string) {
		w := newWorld(t)
		r := w.registry("charts", func(r *v1alpha1.HelmRegistry) { r.Spec.Visibility = v1alpha1.VisibilityPublic })
		_, password := w.token("charts", "ci", readWrite)
		archive := w.helm(path, "charts").chart("app", "1.0.0", "x", r.Status.Image)
		w.helm(path, "charts").loggedIn(r, password).push(r, archive)

		stranger := w.helm(path, "charts")
		if got := stranger.pull(r, "app", ""); !bytes.Equal(got, read(t, archive)) {
			w.Errorf("a stranger gets another chart")
		}
		stranger.fail("push", stranger.chart("app", "2.0.0", "x", r.Status.Image), r.Status.OCIURL, stranger.trust())

		w.change(r, func() { r.Spec.Visibility = v1alpha1.VisibilityPrivate })
		w.eventually("the registry to be private", func(context.Context) error {
			if _, err := stranger.run(stranger.environment, "", path, "show", "chart", r.Status.OCIURL+"/app", stranger.trust(), "--version=1.0.0"); err == nil {
				return fmt.Errorf("a stranger still reads it")
			}
			return nil
		})
	})
}

// If this fails, a token goes on working after its time, or after it was revoked.
func TestTokensEnd(t *testing.T) {
	w := newWorld(t)
	path := newestHelm(t)
	r := w.registry("charts")
	w.registry("other")

	t.Run("expired", func(t *testing.T) {
		w := w.in(t)
		soon := metav1.NewTime(time.Now().Add(20 * time.Second).Truncate(time.Second)) // As the API keeps it.
		_, password := w.token("charts", "brief", readOnly, func(token *v1alpha1.RegistryToken) { token.Spec.ExpiresAt = &soon })
		w.helm(path, "charts").loggedIn(r, password)
		w.eventually("the token to expire", func(context.Context) error {
			if _, err := w.helm(path, "charts").login(r, password); err == nil {
				return fmt.Errorf("it still logs in")
			}
			return nil
		})
		if time.Now().Before(soon.Time) {
			w.Errorf("the token was refused before its time")
		}
	})

	t.Run("revoked", func(t *testing.T) {
		w := w.in(t)
		token, password := w.token("charts", "leaked", readOnly)
		h := w.helm(path, "charts").loggedIn(r, password)
		started := time.Now()
		w.change(token, func() { token.Spec.State = v1alpha1.TokenRevoked })
		w.kubectlWait("Revoked", "registrytoken/leaked")
		t.Logf("MEASURED revocation, from state: Revoked to proved on every pod: %d ms", time.Since(started).Milliseconds())
		if out, err := h.login(r, password); err == nil {
			w.Errorf("a token that is Revoked logs in:\n%s", out)
		}
	})

	t.Run("deleted", func(t *testing.T) {
		w := w.in(t)
		var total time.Duration
		const times = 5
		for i := range times {
			token, password := w.token("charts", fmt.Sprintf("gone-%d", i), readOnly)
			started := time.Now()
			out, err := exec.Command(w.kubectl, "--kubeconfig", kubeconfig(t), "-n", w.namespace, "delete", "registrytoken", token.Name, "--wait", "--timeout=60s").CombinedOutput()
			total += time.Since(started)
			if err != nil {
				w.Fatalf("kubectl delete: %v\n%s", err, out)
			}
			if out, err := w.helm(path, "charts").login(r, password); err == nil {
				w.Errorf("the token of a RegistryToken that is gone logs in:\n%s", out)
			}
		}
		t.Logf("MEASURED kubectl delete registrytoken --wait, kubectl's own time included: %d ms on average of %d", total.Milliseconds()/times, times)
	})
}

// in is the same corner of the cluster for a subtest.
func (w *world) in(t *testing.T) *world {
	t.Helper()
	return &world{T: t, Client: w.Client, namespace: w.namespace, kubectl: w.kubectl, failures: w.failures}
}

// If this fails, one team sees or changes the charts of another.
func TestRegistriesAreIsolated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := newestHelm(t)
	one, two := w.registry("one"), w.registry("two")
	_, passwordOne := w.token("one", "ci-one", readWrite)
	_, passwordTwo := w.token("two", "ci-two", readWrite)
	h := w.helm(path, "one").loggedIn(one, passwordOne)
	archive := h.chart("app", "1.0.0", "x", one.Status.Image)
	h.push(one, archive)

	if out, err := w.helm(path, "two").login(two, passwordOne); err == nil {
		w.Errorf("the token of one registry logs in to another:\n%s", out)
	}
	other := w.helm(path, "two").loggedIn(two, passwordTwo)
	other.pullFails(two, "app", "1.0.0")
	// The right host with the other registry's path.
	wrong := strings.TrimSuffix(two.Status.OCIURL, "/two") + "/one"
	out := other.fail("push", archive, wrong, other.trust())
	if !strings.Contains(out, two.Namespace+"/two") {
		w.Errorf("a push to the wrong path is not told the right one:\n%s", out)
	}
}

// If this fails, the lines that `kubectl get helmregistry -o yaml` shows do not work when they are pasted.
func TestInstructionsWorkAsPrinted(t *testing.T) {
	t.Parallel()
	for _, mode := range []v1alpha1.TLSMode{v1alpha1.TLSSelfSigned, v1alpha1.TLSNone} {
		eachHelm(t, func(t *testing.T, path string) {
			if mode == v1alpha1.TLSNone && oldFlow(path) {
				return // Its login knows no --plain-http.
			}
			w := newWorld(t)
			r := w.registry("charts", func(r *v1alpha1.HelmRegistry) { r.Spec.TLS.Mode = mode })
			w.token("charts", "ci", readWrite)
			i := r.Status.Instructions
			if i == nil || i.Login == "" || i.Push == "" || i.Pull == "" {
				w.Fatalf("instructions are missing: %+v", i)
			}
			h := w.helm(path, "")
			archive := h.chart("mychart", "1.0.0", "x", r.Status.Image)
			folder := t.TempDir()
			w.must(os.Link(archive, filepath.Join(folder, filepath.Base(archive))), "placing the chart")
			w.must(os.Symlink(path, filepath.Join(folder, "helm")), "placing helm")
			w.must(os.Symlink(w.kubectl, filepath.Join(folder, "kubectl")), "placing kubectl")
			substitute := strings.NewReplacer("CHART", "mychart", "VERSION", "1.0.0", "TOKEN", "ci")
			script := "set -euo pipefail; cd " + folder + "; export PATH=" + folder + ":$PATH\n" +
				substitute.Replace(i.Login) + "\n" + substitute.Replace(i.Push) + "\nrm mychart-1.0.0.tgz\n" + substitute.Replace(i.Pull) + "\n"
			out, err := w.run(append(h.environment, "KUBECONFIG="+kubeconfig(t)), "", "bash", "-c", script)
			if err != nil {
				w.Fatalf("%v\n%s\n%s", err, script, out)
			}
			if !bytes.Equal(read(t, filepath.Join(folder, "mychart-1.0.0.tgz")), read(t, archive)) {
				w.Errorf("the pulled chart is another one")
			}
		})
	}
}

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// helm is one installation of helm, with credentials of its own.
type helm struct {
	*world
	path        string
	environment []string
	ca          string
}

// eachHelm runs a test with every pinned helm: the last with the old push flow, the newest 3 and the newest 4.
func eachHelm(t *testing.T, test func(t *testing.T, helmPath string)) {
	t.Helper()
	paths := strings.Fields(os.Getenv("HELMS"))
	if len(paths) == 0 {
		for _, name := range []string{"helm-v3.17", "helm-v3", "helm-v4"} {
			paths = append(paths, tool(t, name))
		}
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			test(t, path)
		})
	}
}

// oldFlow reports whether this is the helm before 3.18, which shows only the status of a refusal.
func oldFlow(path string) bool { return strings.Contains(path, "v3.17") }

// newestHelm is the helm for tests in which the client does not matter.
func newestHelm(t *testing.T) string {
	t.Helper()
	paths := strings.Fields(os.Getenv("HELMS"))
	if len(paths) == 0 {
		return tool(t, "helm-v4")
	}
	return paths[len(paths)-1]
}

// helm makes an installation of helm that trusts the registry's certificate authority; registry is empty for one that
// serves without TLS.
func (w *world) helm(path, registry string) *helm {
	w.Helper()
	home := w.TempDir()
	h := &helm{world: w, path: path}
	for _, variable := range []string{"HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME", "DOCKER_CONFIG"} {
		h.environment = append(h.environment, variable+"="+filepath.Join(home, variable))
	}
	if registry != "" {
		h.ca = w.caFile(registry)
	}
	return h
}

// trust is the flag that every command towards the registry needs.
func (h *helm) trust() string {
	if h.ca == "" {
		return "--plain-http"
	}
	return "--ca-file=" + h.ca
}

// do runs helm and fails the test when helm fails.
func (h *helm) do(arguments ...string) string {
	h.Helper()
	out, err := h.run(h.environment, "", append([]string{h.path}, arguments...)...)
	if err != nil {
		h.Fatalf("helm %s: %v\n%s", strings.Join(arguments, " "), err, out)
	}
	return out
}

// fail runs helm, fails the test when helm succeeds, and returns what helm printed.
func (h *helm) fail(arguments ...string) string {
	h.Helper()
	out, err := h.run(h.environment, "", append([]string{h.path}, arguments...)...)
	if err == nil {
		h.Fatalf("helm %s succeeded:\n%s", strings.Join(arguments, " "), out)
	}
	return out
}

func (h *helm) login(r *v1alpha1.HelmRegistry, password string) (string, error) {
	return h.run(h.environment, password, h.path, "registry", "login", host(r), h.trust(), "--username=chartroom", "--password-stdin")
}

// loggedIn logs in or fails the test.
func (h *helm) loggedIn(r *v1alpha1.HelmRegistry, password string) *helm {
	h.Helper()
	if out, err := h.login(r, password); err != nil {
		h.Fatalf("helm registry login: %v\n%s", err, out)
	}
	return h
}

func (h *helm) push(r *v1alpha1.HelmRegistry, archive string) string {
	h.Helper()
	return h.do("push", archive, r.Status.OCIURL, h.trust())
}

// pull fetches a chart and returns the archive's bytes. version may be empty.
func (h *helm) pull(r *v1alpha1.HelmRegistry, chart, version string) []byte {
	h.Helper()
	folder := h.TempDir()
	arguments := []string{"pull", r.Status.OCIURL + "/" + chart, h.trust(), "--destination", folder}
	if version != "" {
		arguments = append(arguments, "--version", version)
	}
	h.do(arguments...)
	files, err := filepath.Glob(filepath.Join(folder, chart+"-*.tgz"))
	if err != nil || len(files) != 1 {
		h.Fatalf("helm pull left %v (%v)", files, err)
	}
	return read(h.T, files[0])
}

func (h *helm) pullFails(r *v1alpha1.HelmRegistry, chart, version string) string {
	h.Helper()
	return h.fail("pull", r.Status.OCIURL+"/"+chart, "--version", version, h.trust(), "--destination", h.TempDir())
}

// eventuallyReads waits until a chart can be read: after a pod was replaced it takes a moment until the Service leads to
// the next.
func (h *helm) eventuallyReads(r *v1alpha1.HelmRegistry, chart, version string) {
	h.Helper()
	h.eventually("reading "+chart+" "+version, func(context.Context) error {
		out, err := h.run(h.environment, "", h.path, "show", "chart", r.Status.OCIURL+"/"+chart, h.trust(), "--version="+version)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func host(r *v1alpha1.HelmRegistry) string {
	return strings.Split(strings.TrimPrefix(r.Status.OCIURL, "oci://"), "/")[0]
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// chart writes a chart with one Deployment of the registry's own image, which every node under test has, and packages
// it. content makes two charts of one version differ.
func (h *helm) chart(name, version, content, image string) string {
	h.Helper()
	folder := filepath.Join(h.TempDir(), name)
	files := map[string]string{
		"Chart.yaml":                fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\nappVersion: \"1.0\"\ndescription: A chart of the tests.\n", name, version),
		"values.yaml":               fmt.Sprintf("image: %q\ncontent: %q\n", image, content),
		"templates/deployment.yaml": deploymentTemplate,
	}
	for file, text := range files {
		path := filepath.Join(folder, file)
		h.must(os.MkdirAll(filepath.Dir(path), 0o755), "making a folder")
		h.must(os.WriteFile(path, []byte(text), 0o644), "writing a chart")
	}
	target := h.TempDir()
	h.do("package", folder, "--destination", target)
	return filepath.Join(target, name+"-"+version+".tgz")
}

const deploymentTemplate = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  selector:
    matchLabels: {app: {{ .Release.Name }}}
  template:
    metadata:
      labels: {app: {{ .Release.Name }}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: app
        image: {{ .Values.image }}
        command: [/chartroom, serve, --dir=/data/charts, "--listen=127.0.0.1:5000"]
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, emptyDir: {}}]
`

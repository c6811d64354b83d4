//go:build e2e

// Package uninstall tests that the operator leaves a cluster as it found it. It runs after all other tests on real pods.
package uninstall

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// If this fails, Chartroom cannot be removed: a finalizer hangs, a namespace stays in Terminating, or kinds are left.
func TestUndeployWithObjectsStillThere(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	file := os.Getenv("KUBECONFIG")
	if file == "" {
		file = filepath.Join(root, ".cluster/kubeconfig")
	}
	run := func(command ...string) (string, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		c := exec.CommandContext(ctx, command[0], command[1:]...)
		c.Dir = root
		c.Env = append(os.Environ(), "KUBECONFIG="+file)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	must := func(command ...string) string {
		t.Helper()
		out, err := run(command...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
		}
		return out
	}
	kubectl := strings.TrimSpace(must("hack/tool", "kubectl"))

	must(kubectl, "apply", "-k", "config/samples")
	must(kubectl, "-n", "team-a", "wait", "--for=condition=Ready", "helmregistry/charts", "registrytoken/ci", "--timeout=180s")
	must(kubectl, "-n", "team-a", "patch", "helmregistry/charts", "--type=merge", `--patch={"spec":{"deletionPolicy":"Delete"}}`)

	if out, err := run("hack/deploy", "down"); err == nil || !strings.Contains(out, "team-a/charts") {
		t.Errorf("a removal that deletes charts does not ask first: %v\n%s", err, out)
	}
	must("env", "CONFIRM=yes", "hack/deploy", "down")

	if out := must(kubectl, "get", "crd", "-o", "name"); strings.Contains(out, "chartroom.dev") {
		t.Errorf("kinds are left:\n%s", out)
	}
	if out, err := run(kubectl, "get", "namespace", "chartroom-system"); err == nil {
		t.Errorf("the operator's namespace is left:\n%s", out)
	}
	if out := must(kubectl, "get", "clusterrole,clusterrolebinding", "-o", "name"); strings.Contains(out, "/chartroom-") {
		t.Errorf("roles are left:\n%s", out)
	}
	must(kubectl, "delete", "namespace", "team-a", "--timeout=60s")
}

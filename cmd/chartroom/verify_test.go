package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// chartroom runs the program in a folder and returns its exit code.
func chartroom(t *testing.T, folder string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), binary, args...)
	c.Dir = folder
	var out, problems bytes.Buffer
	c.Stdout, c.Stderr = &out, &problems
	err := c.Run()
	if failed := new(exec.ExitError); err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), out.String(), problems.String()
}

// objectFile is the file of an object of the storage in folder/data.
func objectFile(folder string, key ...string) string {
	return filepath.Join(append([]string{folder, "data", "objects"}, key...)...)
}

func TestVerifyBesideTheServer(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := serveDir(t, folder)
	for _, version := range []string{"1.0.0", "2.0.0"} {
		if err := p.push("web", version, 5000); err != nil {
			t.Fatal(err)
		}
	}
	if code, out, _ := chartroom(t, folder, "verify"); code != 0 || !strings.Contains(out, "0 problems") {
		t.Fatalf("good content: exit code %d: %s", code, out)
	}
	_, layer, _ := chartOf("web-1.0.0", 5000)
	hex := strings.TrimPrefix(digestOf(layer), "sha256:")
	torn := objectFile(folder, "charts", "web", "blobs", "sha256", hex)
	if err := os.Truncate(torn, 100); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := chartroom(t, folder, "verify", "--output", "json", "web")
	var result struct {
		Summary  repository.Summary
		Findings []repository.Finding
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil || code != 1 {
		t.Fatalf("torn blob: exit code %d, %v: %s%s", code, err, out, stderr)
	}
	if len(result.Findings) != 2 || result.Summary.Problems != 2 || strings.Join(result.Findings[1].Tags, " ") != "1.0.0" {
		t.Errorf("%+v", result)
	}
	if code, out, _ := chartroom(t, folder, "verify", "--repair"); code != 1 || !strings.Contains(out, "moved to quarantine/") {
		t.Errorf("repair: exit code %d: %s", code, out)
	}
	if err := p.push("web", "1.0.0", 5000); err != nil {
		t.Fatalf("push after the repair: %v", err)
	}
	if code, out, _ := chartroom(t, folder, "verify"); code != 0 || !strings.Contains(out, "note: quarantine/") {
		t.Errorf("after the push: exit code %d: %s", code, out)
	}
}

func TestVerifyOfWhatIsNoStorage(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, dir := range []string{"nowhere", "."} {
		if code, _, stderr := chartroom(t, folder, "verify", "--dir", dir); code != 1 || !strings.Contains(stderr, "holds no registry") {
			t.Errorf("%s: exit code %d: %s", dir, code, stderr)
		}
	}
	if made, err := os.ReadDir(folder); err != nil || len(made) != 0 {
		t.Errorf("it has made %v, %v", made, err)
	}
	if code, _, stderr := chartroom(t, folder, "verify", "--output", "xml"); code != 2 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestDamagedContentIsNotServed(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := serveDir(t, folder)
	if err := p.push("web", "1.0.0", 200_000); err != nil {
		t.Fatal(err)
	}
	_, layer, manifest := chartOf("web-1.0.0", 200_000)
	blob := "/v2/default/charts/web/blobs/" + digestOf(layer)
	file := objectFile(folder, "charts", "web", "blobs", "sha256", strings.TrimPrefix(digestOf(layer), "sha256:"))
	if err := os.Truncate(file, 150_000); err != nil {
		t.Fatal(err)
	}
	if status, content, _, err := p.send("GET", blob, nil); err == nil && status == http.StatusOK {
		t.Errorf("a torn blob was served whole: %d bytes", len(content))
	}
	for _, method := range []string{"GET", "HEAD"} {
		if status, content, _, err := p.send(method, blob, nil, "Range", "bytes=0-9"); err != nil || status != http.StatusNotFound {
			t.Errorf("%s once it is known to be torn: %d %s %v", method, status, content, err)
		}
	}
	if !strings.Contains(p.stderr.String(), "is damaged") {
		t.Errorf("the log says nothing of it: %s", p.stderr)
	}
	if err := os.Truncate(objectFile(folder, "charts", "web", "manifests", "sha256", strings.TrimPrefix(digestOf(manifest), "sha256:")), 0); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "HEAD"} {
		if status, content, _, err := p.send(method, "/v2/default/charts/web/manifests/1.0.0", nil); err != nil || status != http.StatusNotFound {
			t.Errorf("%s of an empty manifest: %d %s %v", method, status, content, err)
		}
	}
	if err := p.push("web", "1.0.0", 200_000); err != nil {
		t.Fatalf("a push of the same does not mend it: %v", err)
	}
	if got := p.get(blob); !bytes.Equal(got, layer) {
		t.Errorf("after the push: %d bytes", len(got))
	}
}

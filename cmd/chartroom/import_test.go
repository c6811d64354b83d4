package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/test/s3server"
)

// A private registry of ours is a source, and its API a target.
func TestImportFromAndToOurOwnServer(t *testing.T) {
	t.Parallel()
	folder, other := t.TempDir(), t.TempDir()
	from, to := serveDir(t, folder), serveDir(t, other)
	for _, version := range []string{"1.0.0", "2.0.0", "3.0.0"} {
		if err := from.push("web", version, 3000); err != nil {
			t.Fatal(err)
		}
	}
	address := func(p *process) string { return "oci" + strings.TrimPrefix(p.base, "http") + "/default/charts" }
	run := func(token string, args ...string) (int, string) {
		c := exec.CommandContext(t.Context(), binary, append([]string{"import", "--plain-http"}, args...)...)
		c.Dir, c.Stdin = folder, strings.NewReader(token+"\n")
		c.Env = append(os.Environ(), "HELM_REGISTRY_CONFIG="+filepath.Join(folder, "none.json"), "DOCKER_CONFIG="+folder)
		out, _ := c.CombinedOutput()
		if strings.Contains(string(out), from.token) || strings.Contains(string(out), to.token) {
			t.Errorf("a token is shown: %s", out)
		}
		return c.ProcessState.ExitCode(), string(out)
	}
	if code, out := run("", "--dir", "new", "--from", address(from)); code != 1 || !strings.Contains(out, "log in with `helm registry login`, or give --username and --password-stdin\n") {
		t.Errorf("without credentials: exit code %d: %s", code, out)
	}
	if code, out := run("", "--plain-http=false", "--dir", "new", "--from", address(from)); code != 1 || !strings.Contains(out, "give --plain-http if it has no TLS\n") {
		t.Errorf("with TLS, where there is none: exit code %d: %s", code, out)
	}
	// The charts of a registry without a public list are named.
	if code, out := run(from.token, "--dir", "new", "--from", address(from), "--password-stdin", "--version", ">=2", "web"); code != 0 || !strings.Contains(out, "2 imported") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if code, out := run(from.token, "--dir", "new", "--from", address(from), "--password-stdin", "web:2.0.0", "web:4.0.0", "web:1.0.0+1"); code != 1 || !strings.Contains(out, "there is no such chart or version: web:4.0.0, web:1.0.0+1\n") {
		t.Errorf("versions that are not there: exit code %d: %s", code, out)
	}
	if code, out := run(from.token, "--dir", "new", "--from", address(from), "--password-stdin", "web:2.0.0", "wbe"); code != 1 || !strings.Contains(out, "wbe") {
		t.Errorf("a chart that is not there: exit code %d: %s", code, out)
	}
	if code, out, stderr := chartroom(t, folder, "export", "-o", "all.tar"); code != 0 {
		t.Fatalf("export: %s%s", out, stderr)
	}
	if code, out := run("", "--dir", "new", "all.tar", "web:2.0.0", "wbe"); code != 1 || !strings.Contains(out, "there is no such chart or version: wbe\n") {
		t.Errorf("a chart that is not in the archive: exit code %d: %s", code, out)
	}
	if code, out := run("", "--dir", "elsewhere", "--to", address(to), "all.tar"); code != 2 || !strings.Contains(out, "--to and --dir exclude each other") {
		t.Errorf("into two places: exit code %d: %s", code, out)
	}
	for _, want := range []string{"3 imported", "3 there already"} {
		if code, out := run(to.token, "--to", address(to), "--password-stdin", "all.tar"); code != 0 || !strings.Contains(out, want) {
			t.Errorf("through the API: exit code %d: %s", code, out)
		}
	}
	if err := to.push("shop", "1.0.0", 300); err != nil {
		t.Fatal(err)
	}
	if err := from.push("shop", "1.0.0", 400); err != nil {
		t.Fatal(err)
	}
	if code, out, stderr := chartroom(t, folder, "export", "-o", "shop.tar", "shop"); code != 0 {
		t.Fatalf("export: %s%s", out, stderr)
	}
	if code, out := run(to.token, "--to", address(to), "--password-stdin", "shop.tar"); code != 1 || !strings.Contains(out, "conflict: shop 1.0.0") {
		t.Errorf("a version that exists: exit code %d: %s", code, out)
	}
}

// An import that is killed leaves nothing half-done, and the same command goes on.
func TestImportIsKilledAndRunAgain(t *testing.T) {
	t.Parallel()
	const versions = 30
	content := map[string][]byte{}
	index := "entries:\n  web:\n"
	for i := range versions {
		version := fmt.Sprintf("1.%d.0", i)
		c := charttest.New("web", version, 20_000).Content
		content["/web-"+version+".tgz"] = c
		index += fmt.Sprintf("  - {name: web, version: %s, digest: %q, created: 2024-01-02T03:04:05Z, urls: [web-%s.tgz]}\n", version, strings.TrimPrefix(digestOf(c), "sha256:"), version)
	}
	content["/index.yaml"] = []byte(index)
	var served, killAt atomic.Int64
	kill := make(chan struct{}, versions)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, found := content[r.URL.Path]
		if !found {
			http.NotFound(w, r)
			return
		}
		if r.URL.Path != "/index.yaml" && served.Add(1) == killAt.Load() {
			kill <- struct{}{}
		}
		_, _ = w.Write(c)
	}))
	defer source.Close()
	folder := t.TempDir()
	for _, at := range []int64{5, 14, 23} {
		served.Store(0)
		killAt.Store(at)
		c := exec.CommandContext(t.Context(), binary, "import", "--from", source.URL)
		c.Dir = folder
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		select {
		case <-kill:
			_ = c.Process.Kill()
			<-ended
		case <-ended:
		}
		if code, out, stderr := chartroom(t, folder, "verify"); code != 0 {
			t.Errorf("after the kill: %s%s", out, stderr)
		}
	}
	killAt.Store(-1)
	if code, out, stderr := chartroom(t, folder, "import", "--from", source.URL); code != 0 || !strings.Contains(out, fmt.Sprintf("%d versions", versions)) {
		t.Errorf("again: exit code %d: %s%s", code, out, stderr)
	}
	served.Store(0)
	if code, out, stderr := chartroom(t, folder, "import", "--from", source.URL); code != 0 || !strings.Contains(out, fmt.Sprintf("%d there already", versions)) || served.Load() != 0 {
		t.Errorf("once more: exit code %d, %d charts fetched: %s%s", code, served.Load(), out, stderr)
	}
	tags, err := os.ReadDir(objectFile(folder, "charts", "web", "tags"))
	if err != nil || len(tags) != versions {
		t.Errorf("%d tags, %v", len(tags), err)
	}
}

// What works on a directory works on S3.
func TestTransfersOnS3(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	server.NewBucket(t, "charts")
	folder := t.TempDir()
	p := serveDir(t, folder)
	if err := p.push("web", "1.0.0", 3000); err != nil {
		t.Fatal(err)
	}
	credentials := filepath.Join(folder, "credentials")
	for name, content := range map[string]string{"accessKeyID": server.AccessKey, "secretAccessKey": server.SecretKey} {
		if err := os.MkdirAll(credentials, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(credentials, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	onS3 := func(args ...string) []string {
		return append(args, "--s3-bucket", "charts", "--s3-prefix", "p", "--s3-endpoint", server.Endpoint, "--s3-path-style", "--s3-credentials", credentials)
	}
	run := func(want int, contains string, args ...string) {
		t.Helper()
		if code, out, stderr := chartroom(t, folder, args...); code != want || !strings.Contains(out+stderr, contains) {
			t.Fatalf("%v: exit code %d: %s%s", args, code, out, stderr)
		}
	}
	run(0, "1 exported", "export", "-o", "a.tar")
	run(1, "holds no registry", onS3("verify")...)
	run(0, "1 imported", onS3("import", "a.tar")...)
	run(0, "0 problems", onS3("verify")...)
	run(0, "1 exported", onS3("export", "-o", "b.tar")...)
	a, errA := os.ReadFile(filepath.Join(folder, "a.tar"))
	b, errB := os.ReadFile(filepath.Join(folder, "b.tar"))
	if errA != nil || errB != nil || string(a) != string(b) {
		t.Errorf("the archives differ: %v, %v", errA, errB)
	}
	_, layer, _ := chartOf("web-1.0.0", 3000)
	torn := filepath.Join(server.Dir, "charts", "p", "charts", "web", "blobs", "sha256", strings.TrimPrefix(digestOf(layer), "sha256:"))
	if err := os.Truncate(torn, 100); err != nil {
		t.Fatal(err)
	}
	run(1, "cannot be pulled: web 1.0.0", onS3("verify")...)
}

package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// signer is a key of OpenPGP and the files that helm reads it from.
type signer struct{ secret, public string }

// newSigner makes a key, by the program that people make theirs with.
func newSigner(t *testing.T) signer {
	t.Helper()
	// The agent's socket has a short path.
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	gpg := func(args ...string) []byte {
		t.Helper()
		command := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
		out, err := command.Output()
		if err != nil {
			t.Fatalf("gpg %v: %v", args, err)
		}
		return out
	}
	t.Cleanup(func() {
		// It ends the agent that gpg started in this folder, and no other.
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "gpg-agent").Run()
		_ = os.RemoveAll(home)
	})
	gpg("--quick-generate-key", "Signer <signer@example.com>", "rsa2048", "sign", "never")
	s := signer{filepath.Join(home, "secret.gpg"), filepath.Join(home, "public.gpg")}
	write(t, s.secret, string(gpg("--export-secret-keys")))
	write(t, s.public, string(gpg("--export")))
	return s
}

// curl uploads a file as a form and returns what was answered.
func (c client) curl(r registry, path string, fields ...string) string {
	c.t.Helper()
	args := []string{"--silent", "--show-error", "--user", "chartroom:" + r.token}
	for _, f := range fields {
		args = append(args, "-F", f)
	}
	command := exec.Command("curl", append(args, "http://"+r.host+path)...)
	command.Dir = c.home
	out, err := command.CombinedOutput()
	if err != nil {
		c.t.Fatalf("curl: %v: %s", err, out)
	}
	return string(out)
}

// eventually runs a command until it says the words.
func (c client) eventually(words string, commands ...[]string) {
	c.t.Helper()
	out := ""
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(out, words); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("it does not say %q: %s", words, out)
		}
		for _, args := range commands {
			out = c.want(args)
		}
	}
}

// The same charts, as a classic Helm repository: pushed by helm as OCI, uploaded by curl, and back by helm both ways.
func TestHelmRepository(t *testing.T) {
	for _, program := range []string{"gpg", "gpg-agent", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v: install the package %s", err, program)
		}
	}
	key := newSigner(t)
	for _, name := range []string{"helm-v3", "helm-v4"} {
		program := tool(t, name)
		for store, open := range stores {
			t.Run(name+" "+store, func(t *testing.T) {
				r := start(t, open(t))
				c := newClient(t, program)
				base := "http://" + r.host + "/acme/charts/helm"
				for _, folder := range []string{"changed", "pulled", "latest", "unsigned", "oci", "direct", "nested", "nested/pulled"} {
					if err := os.Mkdir(filepath.Join(c.home, folder), 0o700); err != nil {
						t.Fatal(err)
					}
				}
				c.want([]string{"create", "web"})
				pack := func(version string, more ...string) {
					c.want(append([]string{"package", "web", "--version", version}, more...))
				}
				pack("1.0.0")
				pack("1.1.0+b.1", "--sign", "--key", "Signer", "--keyring", key.secret)
				pack("1.2.0")
				pack("9.0.0", "--destination", "nested")

				c.want([]string{"registry", "login", r.host, "--plain-http", "-u", "anybody", "-p", r.token})
				c.want([]string{"push", "web-1.0.0.tgz", "oci://" + r.host + "/acme/charts", "--plain-http"})
				for range 2 {
					if got := c.curl(r, "/acme/charts/helm/api/charts", "chart=@web-1.1.0+b.1.tgz", "prov=@web-1.1.0+b.1.tgz.prov"); got != `{"saved":true}` {
						t.Fatalf("curl is answered %s", got)
					}
				}
				if got := c.curl(r, "/api/v2/packages/organizations/acme/registries/charts/packages", "file=@web-1.2.0.tgz"); !strings.Contains(got, `"id":"web:1.2.0"`) {
					t.Fatalf("curl is answered %s", got)
				}
				// What helm has pushed is the same chart when it is uploaded.
				if got := c.curl(r, "/acme/charts/helm", "file=@web-1.0.0.tgz"); got != `{"saved":true}` {
					t.Errorf("curl is answered %s", got)
				}
				write(t, filepath.Join(c.home, "web", "values.yaml"), "changed: true\n")
				pack("1.0.0", "--destination", "changed")
				if got := c.curl(r, "/acme/charts/helm/api/charts?force", "chart=@changed/web-1.0.0.tgz"); !strings.Contains(got, "exists already with other content") {
					t.Errorf("curl is answered %s", got)
				}

				c.refused([]string{"repo", "add", "ours", base}, "401")
				add := func(name, address, token string) {
					c.want([]string{"repo", "add", name, address, "--username", "anybody", "--password", token})
				}
				add("ours", base, r.reader)
				c.eventually("1.2.0", []string{"repo", "update"}, []string{"search", "repo", "ours/web", "--versions"})
				c.want([]string{"search", "repo", "ours/web", "--versions"}, "1.2.0", "1.1.0+b.1", "1.0.0", "A Helm chart for Kubernetes")
				c.want([]string{"show", "chart", "ours/web", "--version", "1.0.0"}, "version: 1.0.0")
				c.want([]string{"template", "release", "ours/web", "--version", "1.0.0"}, "kind: Deployment")
				c.want([]string{"pull", "ours/web", "--version", "1.1.0+b.1", "--verify", "--keyring", key.public, "--destination", "pulled"}, "Signer")
				c.want([]string{"pull", "ours/web", "--destination", "latest"})
				c.refused([]string{"pull", "ours/web", "--version", "1.2.0", "--verify", "--keyring", key.public, "--destination", "unsigned"})
				// A chart below a path is apart from the one that ends alike.
				if got := c.curl(r, "/acme/charts/helm/api/charts?to=team/web", "file=@nested/web-9.0.0.tgz"); got != `{"saved":true}` {
					t.Errorf("curl is answered %s", got)
				}
				c.eventually("9.0.0", []string{"repo", "update"}, []string{"search", "repo", "web"})
				c.want([]string{"pull", "ours/team/web", "--destination", "nested/pulled"})
				c.want([]string{"template", "release", "ours/team/web"}, "web-9.0.0")
				c.want([]string{"template", "release", "ours/web"}, "web-1.2.0")
				for _, pair := range [][2]string{{"web-1.1.0+b.1.tgz", "pulled/web-1.1.0+b.1.tgz"}, {"web-1.2.0.tgz", "latest/web-1.2.0.tgz"}, {"nested/web-9.0.0.tgz", "nested/pulled/web-9.0.0.tgz"}} {
					if read(t, filepath.Join(c.home, pair[0])) != read(t, filepath.Join(c.home, pair[1])) {
						t.Errorf("%s came back as another archive", pair[0])
					}
				}

				// As OCI, found by the index.
				add("oci", base+"?format=oci", r.reader)
				c.want([]string{"search", "repo", "oci/web", "--versions"}, "1.2.0", "1.1.0+b.1")
				c.want([]string{"pull", "oci/web", "--version", "1.2.0", "--plain-http", "--destination", "oci"})
				c.want([]string{"pull", "oci://" + r.host + "/acme/charts/web", "--version", "1.1.0+b.1", "--plain-http", "--verify", "--keyring", key.public, "--destination", "direct"}, "Signer")
				if read(t, filepath.Join(c.home, "oci", "web-1.2.0.tgz")) != read(t, filepath.Join(c.home, "web-1.2.0.tgz")) {
					t.Error("web-1.2.0.tgz came back as another archive")
				}
			})
		}
	}
}

package conformance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// client runs a program of others. Each has a home of its own, where it keeps the credentials that it logged in with.
type client struct {
	t       *testing.T
	program string
	home    string
}

func newClient(t *testing.T, program string) client {
	t.Helper()
	return client{t: t, program: program, home: t.TempDir()}
}

func (c client) run(args ...string) (out string, err error) {
	c.t.Helper()
	command := exec.Command(c.program, args...)
	command.Dir = c.home
	command.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.home, "DOCKER_CONFIG=" + c.home,
		// cosign asks for it on a terminal otherwise.
		"COSIGN_PASSWORD=of the key",
	}
	var stderr bytes.Buffer
	command.Stderr = &stderr
	stdout, err := command.Output()
	return string(stdout) + stderr.String(), err
}

// want runs a command that must succeed; its output is to have all the words.
func (c client) want(args []string, words ...string) string {
	c.t.Helper()
	out, err := c.run(args...)
	if err != nil {
		c.t.Fatalf("%s %s: %v: %s", filepath.Base(c.program), strings.Join(args, " "), err, out)
	}
	c.has(args, out, words)
	return out
}

// refused runs a command that must fail, with words that tell its user why.
func (c client) refused(args []string, words ...string) {
	c.t.Helper()
	out, err := c.run(args...)
	if err == nil {
		c.t.Errorf("%s %s succeeded: %s", filepath.Base(c.program), strings.Join(args, " "), out)
	}
	c.has(args, out, words)
}

func (c client) has(args []string, out string, words []string) {
	c.t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			c.t.Errorf("%s %s does not say %q: %s", filepath.Base(c.program), strings.Join(args, " "), w, out)
		}
	}
}

// layer writes a layer of an image and returns its path.
func layer(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	content := []byte("hello")
	if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "layer.tar.gz")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCrane(t *testing.T) {
	program := tool(t, "crane")
	for store, open := range stores {
		t.Run(store, func(t *testing.T) {
			r := start(t, open(t))
			c := newClient(t, program)
			c.refused([]string{"ls", r.name("app")}, "wants credentials")
			c.want([]string{"auth", "login", r.host, "-u", "anybody", "-p", r.token})
			c.want([]string{"append", "-f", layer(t), "-t", r.name("app:1.0.0")})
			c.want([]string{"pull", "--format=oci", r.name("app:1.0.0"), "image"})
			c.want([]string{"push", "image", r.name("pushed:1.0.0")})
			c.want([]string{"copy", r.name("app:1.0.0"), r.name("team/copy:1.0.0")}, "mounted blob")
			c.want([]string{"index", "append", "-m", r.name("app:1.0.0"), "-t", r.name("app:all")})
			c.want([]string{"validate", "--remote", r.name("app:all")}, "PASS")
			c.want([]string{"tag", r.name("app:1.0.0"), "again"})
			c.refused([]string{"tag", r.name("app:all"), "again"}, "app again exists already with other content")
			if got := strings.Fields(c.want([]string{"ls", r.name("app")})); !slices.Equal(got, []string{"1.0.0", "again", "all"}) {
				t.Errorf("the tags are %v", got)
			}
			if got := strings.Fields(c.want([]string{"catalog", r.host})); !slices.Equal(got, []string{"acme/charts/app", "acme/charts/pushed", "acme/charts/team/copy"}) {
				t.Errorf("the catalog has %v", got)
			}
			digest := strings.TrimSpace(c.want([]string{"digest", r.name("app:1.0.0")}))
			c.want([]string{"delete", r.name("app:again")})
			c.want([]string{"delete", r.name("app@" + digest)})
			if got := strings.Fields(c.want([]string{"ls", r.name("app")})); !slices.Equal(got, []string{"all"}) {
				t.Errorf("after the deletes the tags are %v", got)
			}
			c.refused([]string{"digest", r.name("app:1.0.0")}, "there is no such version")

			reader := newClient(t, program)
			reader.want([]string{"auth", "login", r.host, "-u", "anybody", "-p", r.reader})
			reader.want([]string{"pull", "--format=oci", r.name("pushed:1.0.0"), "image"})
			reader.refused([]string{"push", "image", r.name("pushed:2.0.0")}, "DENIED", "this token lacks write_packages")
			reader.refused([]string{"delete", r.name("pushed:1.0.0")}, "DENIED", "lacks the scope delete_packages")
		})
	}
}

func TestSkopeo(t *testing.T) {
	program, err := exec.LookPath("skopeo")
	if err != nil {
		// hack/test says so at its end.
		t.Skipf("%v: install the package skopeo", err)
	}
	crane := newClient(t, tool(t, "crane"))
	for store, open := range stores {
		t.Run(store, func(t *testing.T) {
			r := start(t, open(t))
			crane.want([]string{"auth", "login", r.host, "-u", "anybody", "-p", r.token})
			crane.want([]string{"append", "-f", layer(t), "-t", r.name("app:1.0.0")})
			crane.want([]string{"index", "append", "-m", r.name("app:1.0.0"), "-t", r.name("app:all")})
			c := newClient(t, program)
			c.want([]string{"login", "--tls-verify=false", "-u", "anybody", "-p", r.token, r.host}, "Login Succeeded")
			repository := func(chart string) string { return "docker://" + r.name(chart) }
			copied := func(from, to string, more ...string) []string {
				return slices.Concat([]string{"--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"}, more, []string{from, to})
			}
			c.want(copied(repository("app:1.0.0"), "oci:image:1.0.0"))
			c.want(copied("oci:image:1.0.0", repository("pushed:1.0.0")))
			c.want(copied("oci:image:1.0.0", repository("docker:1.0.0"), "--format", "v2s2"))
			c.want(copied(repository("app:all"), repository("team/all:1.0.0"), "--all"))
			c.want(copied(repository("app:all"), repository("sparse:1.0.0"), "--multi-arch", "index-only"))
			c.want([]string{"list-tags", "--tls-verify=false", repository("pushed")}, `"1.0.0"`)
			c.want([]string{"inspect", "--tls-verify=false", repository("pushed:1.0.0")}, "acme/charts/pushed")
			c.want([]string{"delete", "--tls-verify=false", repository("pushed:1.0.0")})
			c.refused([]string{"inspect", "--tls-verify=false", repository("pushed:1.0.0")}, "there is no such version")

			c.want([]string{"login", "--tls-verify=false", "-u", "anybody", "-p", r.reader, r.host})
			c.refused(copied("oci:image:1.0.0", repository("pushed:2.0.0")), "denied: a push needs read_packages and write_packages; this token lacks write_packages")
			c.refused([]string{"login", "--tls-verify=false", "-u", "anybody", "-p", "wrong", r.host}, "invalid username/password")
		})
	}
}

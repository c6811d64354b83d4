package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/opencontainers/go-digest"
)

// binary is the program, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		folder, err := os.MkdirTemp("", "chartroom-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(folder)
		binary = filepath.Join(folder, "chartroom")
		build := exec.Command("go", "build", "-ldflags", "-X main.version=v1.2.3", "-o", binary, ".")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			panic(fmt.Sprintf("building the program: %v", err))
		}
		return m.Run()
	}())
}

// process is a running `chartroom serve`.
type process struct {
	t       *testing.T
	command *exec.Cmd
	// base is the address of the registry.
	base string
	// token reads and writes.
	token  string
	stdout string
	// out is where stdout came from, of which the rest is not read.
	out    io.Closer
	stderr *lockedBuffer
	client *http.Client
	ended  bool
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var served = regexp.MustCompile(`serves oci://([^/]+)/`)

// serveDir runs the server over folder/data on a free port and waits until it listens.
func serveDir(t *testing.T, folder string, args ...string) *process {
	t.Helper()
	p := &process{t: t, stderr: new(lockedBuffer), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}}
	p.command = exec.Command(binary, append([]string{"serve", "--listen", "127.0.0.1:0", "--dir", "data"}, args...)...)
	p.command.Dir = folder
	p.command.Stderr = p.stderr
	out, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = out
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		p.stdout += lines.Text() + "\n"
		if found := served.FindStringSubmatch(p.stdout); found != nil {
			p.base = "http://" + found[1]
		}
		if strings.Contains(lines.Text(), "helm pull") {
			break
		}
	}
	if p.base == "" {
		t.Fatalf("the server did not say where it serves: %s%s", p.stdout, p.stderr)
	}
	if token, err := os.ReadFile(filepath.Join(folder, "data.state", "access.token")); err == nil {
		p.token = strings.TrimSpace(string(token))
	}
	return p
}

// end sends a signal and waits for the end of the process.
func (p *process) end(signal os.Signal) error {
	if p.ended {
		return nil
	}
	p.ended = true
	p.client.CloseIdleConnections()
	_ = p.command.Process.Signal(signal)
	return p.command.Wait()
}

// send does one request; an error of the connection is returned, because servers are killed here.
func (p *process) send(method, path string, body io.Reader, header ...string) (status int, content []byte, h http.Header, err error) {
	request, err := http.NewRequest(method, p.base+path, body)
	if err != nil {
		return 0, nil, nil, err
	}
	request.SetBasicAuth("chartroom", p.token)
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := p.client.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer answer.Body.Close()
	content, err = io.ReadAll(answer.Body)
	return answer.StatusCode, content, answer.Header, err
}

// get is a GET that must succeed.
func (p *process) get(path string) []byte {
	p.t.Helper()
	status, content, _, err := p.send("GET", path, nil)
	if err != nil || status != http.StatusOK {
		p.t.Fatalf("GET %s: %d %s %v", path, status, content, err)
	}
	return content
}

// status is that of a GET of /v2/.
func (p *process) status() int {
	p.t.Helper()
	status, _, _, err := p.send("GET", "/v2/", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return status
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen that %s", what)
		}
	}
}

func digestOf(b []byte) string { return digest.FromBytes(b).String() }

// chartOf makes the pieces of a chart: config, layer and manifest. name is the chart's with its version, as that of an
// archive.
func chartOf(name string, size int) (config, layer, manifest []byte) {
	chart, version, _ := strings.Cut(name, "-")
	c := charttest.New(chart, version, size)
	return c.Config, c.Content, c.Manifest
}

// refused is an answer that is not the one wanted.
type refused struct {
	status int
	body   string
}

func (e *refused) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

func (p *process) expect(want int, method, path string, body []byte, header ...string) (http.Header, error) {
	status, content, h, err := p.send(method, path, bytes.NewReader(body), header...)
	if err == nil && status != want {
		err = &refused{status, string(content)}
	}
	return h, err
}

// push pushes a chart in the order of helm 4: blobs, the manifest by digest, the manifest by tag.
func (p *process) push(chart, version string, size int) error {
	config, layer, manifest := chartOf(chart+"-"+version, size)
	path := "/v2/default/charts/" + chart
	for i, b := range [][]byte{layer, config} {
		h, err := p.expect(http.StatusAccepted, "POST", path+"/blobs/uploads/", nil)
		if err != nil {
			return err
		}
		location, rest := h.Get("Location"), b
		if i == 0 { // The layer comes in two chunks, as docker sends it.
			if _, err := p.expect(http.StatusAccepted, "PATCH", location, b[:len(b)/2]); err != nil {
				return err
			}
			rest = b[len(b)/2:]
		}
		if _, err := p.expect(http.StatusCreated, "PUT", location+"?digest="+digestOf(b), rest); err != nil {
			return err
		}
	}
	for _, reference := range []string{digestOf(manifest), version} {
		if _, err := p.expect(http.StatusCreated, "PUT", path+"/manifests/"+reference, manifest, "Content-Type", "application/vnd.oci.image.manifest.v1+json"); err != nil {
			return err
		}
	}
	return nil
}

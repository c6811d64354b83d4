package registryserver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
)

// lockedBuffer is a log that is read while it is written.
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

// running is a server that serves until the test ends.
type running struct {
	t               *testing.T
	server          *registryserver.Server
	public, metrics string
	log, audit      *lockedBuffer
	token           string
	stop            context.CancelFunc
	done            chan error
	// brokenOff is set where requests are expected to be broken off at the end.
	brokenOff bool
}

// start serves a configuration whose paths are in a folder of the test; change may change it.
func start(t *testing.T, change func(*registryserver.Config)) *running {
	t.Helper()
	folder := t.TempDir()
	config := registryserver.Config{
		Listen: "127.0.0.1:0", Organization: "acme", Registry: "charts", Version: "v0",
		Storage: registryserver.StorageConfig{Dir: filepath.Join(folder, "data")},
		Metrics: registryserver.MetricsConfig{Listen: "127.0.0.1:0"},
	}
	r := &running{t: t, log: new(lockedBuffer), audit: new(lockedBuffer), done: make(chan error, 1)}
	r.token = writeAccess(t, filepath.Join(folder, "data.state", "access.json"), 1)
	if change != nil {
		change(&config)
	}
	server, err := registryserver.New(t.Context(), config, registryserver.Outputs{Log: slog.New(slog.NewTextHandler(r.log, nil)), Requests: r.log, Audit: r.audit})
	if err != nil {
		t.Fatal(err)
	}
	r.server = server
	r.public = "http://" + server.Addresses()["public"].String()
	r.metrics = "http://" + server.Addresses()["metrics"].String()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.done; (err != nil) != r.brokenOff {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// writeAccess writes an access file with one token that may do everything.
func writeAccess(tb testing.TB, path string, revision uint64) (token string) {
	tb.Helper()
	minted, err := access.Mint(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, snapshot(minted, revision), 0o600); err != nil {
		tb.Fatal(err)
	}
	return minted.Reveal()
}

func snapshot(token access.Token, revision uint64) []byte {
	return wire.Access{Revision: revision, Tokens: []wire.Token{
		{ID: token.ID(), SHA256: token.SHA256(), Scopes: wire.Scopes(), Charts: []string{"*"}},
	}}.Encode()
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen that %s", what)
		}
	}
}

func (r *running) request(method, url string, body io.Reader, header map[string]string) *http.Response {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), method, url, body)
	if err != nil {
		r.t.Fatal(err)
	}
	request.SetBasicAuth("chartroom", r.token)
	for k, v := range header {
		request.Header.Set(k, v)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { answer.Body.Close() })
	return answer
}

func text(t *testing.T, answer *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// ready asks for readiness.
func (r *running) ready() (bool, string) {
	r.t.Helper()
	answer := r.request("GET", r.metrics+"/readyz", nil, nil)
	body := text(r.t, answer)
	var said struct{ Ready bool }
	if err := json.Unmarshal([]byte(body), &said); err != nil || said.Ready != (answer.StatusCode == http.StatusOK) {
		r.t.Fatalf("/readyz answered %d %s", answer.StatusCode, body)
	}
	return said.Ready, body
}

func (r *running) untilReady() {
	r.t.Helper()
	eventually(r.t, "the server became ready", func() bool { ok, _ := r.ready(); return ok })
}

func (r *running) pushBlob(content string) string {
	r.t.Helper()
	d := digest.FromString(content).String()
	answer := r.request("POST", r.public+"/v2/acme/charts/web/blobs/uploads/?digest="+d, strings.NewReader(content), nil)
	if answer.StatusCode != http.StatusCreated {
		r.t.Fatalf("pushing a blob: %d %s", answer.StatusCode, text(r.t, answer))
	}
	return r.public + "/v2/acme/charts/web/blobs/" + d
}

func TestServerServesAndReportsItself(t *testing.T) {
	r := start(t, nil)
	r.untilReady()
	if got := text(t, r.request("GET", r.pushBlob("content"), nil, nil)); got != "content" {
		t.Errorf("the blob is %q", got)
	}
	if got := text(t, r.request("GET", r.metrics+"/healthz", nil, nil)); got != "ok\n" {
		t.Errorf("/healthz: %q", got)
	}
	r.request("BREW", r.public+"/v2/acme/charts/secret-name/tags/list", nil, nil)
	metrics := text(t, r.request("GET", r.metrics+"/metrics", nil, nil))
	for _, line := range []string{
		`chartroom_http_requests_total{method="GET",route="/v2/{name}/blobs/{digest}",status="2xx"} 1`,
		`chartroom_http_requests_total{method="other",route="/v2/{name}/tags/list",status="4xx"} 1`,
		`chartroom_access_revision 1`, `chartroom_access_refused 0`, `chartroom_build_info{version="v0"} 1`, `chartroom_http_requests_running 0`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if strings.Contains(metrics, "secret-name") || strings.Contains(metrics, "BREW") {
		t.Error("a client's words became a label")
	}
}

func TestLogHasRequestsAndNoSecrets(t *testing.T) {
	var keys string
	r := start(t, func(c *registryserver.Config) {
		keys = filepath.Join(filepath.Dir(c.Storage.Dir), "keys")
		c.Keys = keys
	})
	key, err := os.ReadFile(keys)
	if err != nil {
		t.Fatal(err)
	}
	location := r.request("POST", r.public+"/v2/acme/charts/web/blobs/uploads/", nil, nil).Header.Get("Location")
	r.request("GET", r.public+location+"?token="+r.token, nil, map[string]string{"X-Request-Id": "id-1"})
	wrong := r.request("GET", r.public+"/v2/", nil, map[string]string{"Authorization": "Bearer sesame", "X-Request-Id": "a b"})
	if id := wrong.Header.Get("X-Request-Id"); id == "" || strings.Contains(id, " ") {
		t.Errorf("an unsafe request id became %q", id)
	}
	r.request("GET", r.public+"/v2/line%0abreak%1b[31m", nil, map[string]string{"X-Request-Id": strings.Repeat("x", 65)})
	eventually(t, "four requests were logged", func() bool { return strings.Count(r.log.String(), "msg=request ") == 4 })
	log := r.log.String()
	signature := location[strings.LastIndex(location, ".")+1:]
	for _, secret := range []string{r.token, r.token[13:], "sesame", signature, strings.TrimSpace(string(key)), "Basic ", "\x1b", strings.Repeat("x", 65)} {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %q:\n%s", secret, log)
		}
	}
	for _, wanted := range []string{"request=id-1", "identity=" + r.token[:12], "status=401", "method=POST", "path=/v2/acme/charts/web/blobs/uploads/", `\n`} {
		if !strings.Contains(log, wanted) {
			t.Errorf("the log lacks %q:\n%s", wanted, log)
		}
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	var file, data string
	r := start(t, func(c *registryserver.Config) {
		file, data = filepath.Join(filepath.Dir(c.Storage.Dir), "missing.json"), c.Storage.Dir
		c.Access.File = file
	})
	eventually(t, "the missing access file is the only reason", func() bool {
		ok, body := r.ready()
		return !ok && strings.Contains(body, "no access snapshot") && !strings.Contains(body, "waiting")
	})
	r.token = writeAccess(t, file, 7)
	r.untilReady()
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the damaged file is a warning", func() bool {
		ok, body := r.ready()
		return ok && strings.Contains(body, "warnings") && strings.Contains(body, `"revision": 7`)
	})
	if answer := r.request("GET", r.public+"/v2/", nil, nil); answer.StatusCode != http.StatusOK {
		t.Errorf("with a damaged access file the last good one is not in force: %d", answer.StatusCode)
	}
	if err := os.Rename(filepath.Join(data, "objects"), filepath.Join(data, "gone")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "lost storage makes the server not ready", func() bool {
		ok, body := r.ready()
		return !ok && strings.Contains(body, "the storage cannot be read")
	})
}

func TestVisibilityOverridesTheFile(t *testing.T) {
	r := start(t, func(c *registryserver.Config) { c.Access.Visibility = "PUBLIC" })
	address := r.pushBlob("content")
	answer, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("an anonymous read of a public registry: %d", answer.StatusCode)
	}
}

func TestOversizedHeaderIsRefused(t *testing.T) {
	r := start(t, nil)
	answer := r.request("GET", r.public+"/v2/", nil, map[string]string{"X-Padding": strings.Repeat("x", 40<<10)})
	if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d, want 431", answer.StatusCode)
	}
}

// dial opens a connection by hand, to do what http.Client does not.
func (r *running) dial() net.Conn {
	r.t.Helper()
	connection, err := net.Dial("tcp", strings.TrimPrefix(r.public, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { connection.Close() })
	if err := connection.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	return connection
}

func (r *running) send(c net.Conn, method, path string, length int) {
	request, err := http.NewRequest(method, "http://x"+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	request.SetBasicAuth("x", r.token)
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n", method, path, request.Header.Get("Authorization"), length)
}

// A client that stops sending is told so and let go; one that is slow but goes on is served, however long it takes.
func TestSlowSenders(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *registryserver.Config) { c.Limits.ClientTimeout = registryserver.Duration(time.Second) })
	stalled := r.dial()
	r.send(stalled, "POST", "/v2/acme/charts/web/blobs/uploads/?digest="+digest.FromString("x").String(), 100)
	answer, err := http.ReadResponse(bufio.NewReader(stalled), nil)
	if err != nil || answer.StatusCode != http.StatusRequestTimeout {
		t.Errorf("a client that stalls is answered %v, %v", answer, err)
	}
	refused := r.dial()
	fmt.Fprint(refused, "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
	if _, err := io.ReadAll(refused); err != nil {
		t.Errorf("a client that stalls after a refusal is not let go: %v", err)
	}
	trickling := r.dial()
	r.send(trickling, "POST", "/v2/acme/charts/web/blobs/uploads/?digest="+digest.FromString("x").String(), 1<<20)
	go func() {
		for _, err := trickling.Write([]byte("x")); err == nil; _, err = trickling.Write([]byte("x")) {
			time.Sleep(50 * time.Millisecond)
		}
	}()
	if answer, err := http.ReadResponse(bufio.NewReader(trickling), nil); err != nil || answer.StatusCode != http.StatusRequestTimeout {
		t.Errorf("a client that sends a byte now and then is answered %v, %v", answer, err)
	}
	// Its pauses are far below what it is allowed, so that a machine which is busy with other tests does not stretch one
	// beyond that, and all together are above it.
	patient := start(t, func(c *registryserver.Config) { c.Limits.ClientTimeout = registryserver.Duration(4 * time.Second) })
	const step, steps = 32 << 10, 5
	content := strings.Repeat("x", step*steps)
	steady := patient.dial()
	patient.send(steady, "POST", "/v2/acme/charts/web/blobs/uploads/?digest="+digest.FromString(content).String(), len(content))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range steps {
		<-tick.C
		if _, err := steady.Write([]byte(content[:step])); err != nil {
			t.Fatal(err)
		}
	}
	if answer, err := http.ReadResponse(bufio.NewReader(steady), nil); err != nil || answer.StatusCode != http.StatusCreated {
		t.Errorf("a slow client that goes on is answered %v, %v", answer, err)
	}
}

// Strangers who open connections and leave them must not fill the memory, nor lock others out.
func TestConnectionsAreBounded(t *testing.T) {
	r := start(t, func(c *registryserver.Config) { c.Limits.Connections = 3 })
	answered := func(c net.Conn) bool {
		r.send(c, "GET", "/v2/", 0)
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		return err == nil && answer.StatusCode == http.StatusOK
	}
	silent := r.dial()
	var busy []net.Conn
	for range 3 {
		c := r.dial()
		r.send(c, "POST", "/v2/acme/charts/web/blobs/uploads/?digest="+digest.FromString("x").String(), 1)
		busy = append(busy, c)
	}
	eventually(t, "all are busy", func() bool {
		return strings.Contains(text(t, r.request("GET", r.metrics+"/metrics", nil, nil)), "chartroom_http_requests_running 3\n")
	})
	if answered(silent) {
		t.Error("the connection that waited longest was kept")
	}
	if answered(r.dial()) {
		t.Error("there is one connection more than there may be")
	}
	for _, c := range busy {
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != http.StatusCreated {
			t.Errorf("%v, %v", answer, err)
		}
	}
	eventually(t, "one that waits for its next request makes room", func() bool { return answered(r.dial()) })
}

// One address may not have all connections, even where none of them is busy.
func TestConnectionsOfOneClientAreBounded(t *testing.T) {
	r := start(t, func(c *registryserver.Config) { c.Limits.ConnectionsPerClient = 2 })
	first, second := r.dial(), r.dial()
	for _, c := range []net.Conn{first, second} {
		r.send(c, "GET", "/v2/", 0)
		if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", answer, err)
		}
	}
	third := r.dial()
	r.send(third, "GET", "/v2/", 0)
	if answer, err := http.ReadResponse(bufio.NewReader(third), nil); err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("the newest connection is answered %v, %v", answer, err)
	}
	// Which of the two has waited longest the server knows: it may be told of the end of an answer after its client is.
	ended := make(chan error, 2)
	for _, c := range []net.Conn{first, second} {
		go func() {
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}()
	}
	if err := <-ended; !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("none of those that waited was ended: %v", err)
	}
}

// Secrets are not tried without end, and meanwhile those that are valid are.
func TestFailedLoginsAreBounded(t *testing.T) {
	r := start(t, nil)
	wrong := map[string]string{"Authorization": "Bearer sesame"}
	eventually(t, "failed logins are too many", func() bool {
		answer := r.request("GET", r.public+"/v2/", nil, wrong)
		_ = text(t, answer)
		if answer.StatusCode == http.StatusTooManyRequests && answer.Header.Get("Retry-After") != "2" {
			t.Error("it does not say when to come back")
		}
		return answer.StatusCode == http.StatusTooManyRequests
	})
	if answer := r.request("GET", r.public+"/v2/", nil, nil); answer.StatusCode != http.StatusOK {
		t.Errorf("a valid token is answered %d", answer.StatusCode)
	}
}

func TestRequestsPerSecond(t *testing.T) {
	r := start(t, func(c *registryserver.Config) { c.Limits.RequestsPerSecond = 1 })
	var statuses []int
	for range 3 {
		answer := r.request("GET", r.public+"/v2/acme/charts/web/tags/list", nil, nil)
		_ = text(t, answer)
		statuses = append(statuses, answer.StatusCode)
	}
	if want := []int{http.StatusNotFound, http.StatusNotFound, http.StatusTooManyRequests}; !slices.Equal(statuses, want) {
		t.Errorf("three requests at once were answered %d, want %d", statuses, want)
	}
}

func TestReaderThatStallsIsLetGo(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *registryserver.Config) { c.Limits.ClientTimeout = registryserver.Duration(time.Second) })
	// More than the buffers of both ends hold.
	address := r.pushBlob(strings.Repeat("x", 32<<20))
	connection := r.dial()
	r.send(connection, "GET", strings.TrimPrefix(address, r.public), 0)
	eventually(t, "the answer was broken off", func() bool { return strings.Contains(r.log.String(), "brokenOff=true") })
}

// A client that never ends must not keep the server from ending.
func TestDrainEnds(t *testing.T) {
	r := start(t, func(c *registryserver.Config) { c.DrainTimeout = registryserver.Duration(50 * time.Millisecond) })
	r.untilReady()
	r.brokenOff = true
	connection := r.dial()
	r.send(connection, "POST", "/v2/acme/charts/web/blobs/uploads/?digest="+digest.FromString("x").String(), 100)
	eventually(t, "the push is running", func() bool {
		return strings.Contains(text(t, r.request("GET", r.metrics+"/metrics", nil, nil)), "chartroom_http_requests_running 1\n")
	})
	r.stop()
	if _, err := io.ReadAll(connection); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection was not closed: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	folder := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bad := filepath.Join(folder, "bad")
	if err := os.WriteFile(bad, []byte("no key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		words  string
		change func(*registryserver.Config)
	}{
		{"organization", func(c *registryserver.Config) { c.Organization = "A" }},
		{"listen", func(c *registryserver.Config) { c.Listen = taken.Addr().String() }},
		{"metrics.listen", func(c *registryserver.Config) { c.Metrics.Listen = taken.Addr().String() }},
		{"line 1", func(c *registryserver.Config) { c.Keys = bad }},
		{"tls", func(c *registryserver.Config) { c.TLS = registryserver.TLSConfig{Cert: bad, Key: bad} }},
		{bad, func(c *registryserver.Config) { c.Storage.Dir = bad }},
	} {
		config := registryserver.Config{Listen: "127.0.0.1:0", Storage: registryserver.StorageConfig{Dir: filepath.Join(folder, "data")}}
		c.change(&config)
		if _, err := registryserver.New(t.Context(), config, registryserver.Outputs{Log: slog.New(slog.DiscardHandler), Requests: io.Discard, Audit: io.Discard}); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("error %v, want one with %q", err, c.words)
		}
	}
}

// One folder holds one registry: another one's name must not open it.
func TestStorageOfAnotherRegistryIsRefused(t *testing.T) {
	var config registryserver.Config
	start(t, func(c *registryserver.Config) { config = *c })
	config.Registry = "other"
	if _, err := registryserver.New(t.Context(), config, registryserver.Outputs{Log: slog.New(slog.DiscardHandler), Requests: io.Discard, Audit: io.Discard}); err == nil || !strings.Contains(err.Error(), "acme/charts") {
		t.Errorf("error %v", err)
	}
}

// A command that works offline opens what a server with the same configuration serves.
func TestOpenStoreOpensWhatTheServerServes(t *testing.T) {
	t.Parallel()
	var served registryserver.Config
	r := start(t, func(c *registryserver.Config) { served = *c })
	r.pushBlob("content")
	store, err := registryserver.OpenStore(t.Context(), registryserver.Config{
		Organization: served.Organization, Registry: served.Registry, Storage: served.Storage,
	})
	if err != nil {
		t.Fatal(err)
	}
	web, err := store.Repository("web")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := web.StatBlob(t.Context(), digest.FromString("content")); err != nil || b.Size != int64(len("content")) {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := registryserver.OpenStore(t.Context(), registryserver.Config{Organization: "Other", Storage: served.Storage}); err == nil || !strings.Contains(err.Error(), "organization") {
		t.Errorf("a configuration that is not valid: %v", err)
	}
}

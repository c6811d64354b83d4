package ociapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/accesstest"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
)

const (
	helmConfig   = "application/vnd.cncf.helm.config.v1+json"
	ociManifest  = "application/vnd.oci.image.manifest.v1+json"
	testChart    = "web"
	testName     = "acme/charts/" + testChart
	maxTestBlob  = 1 << 20
	externalHost = "charts.example.com"
	testAudience = "https://" + externalHost + "/acme/charts"
)

// registry is a handler over a real directory and a real access file.
type registry struct {
	t       *testing.T
	handler *Handler
	store   *repository.Store
	access  *access.Enforcer
	keys    [][]byte
	now     time.Time
	// file is the access file, which holds snapshot.
	file     string
	snapshot wire.Access
	// tokens by what they may do; those in the table of newRegistry.
	tokens map[string]string
	log    *bytes.Buffer
	// observed is what the handler noted of each request.
	observed []*audit.Observation
	// pulled are the manifests that the handler reported.
	pulled []string
}

// storeWith lets tests put something between the repository and the directory.
type storeWith func(bucket.Bucket) bucket.Bucket

func newRegistry(t *testing.T, visibility wire.Visibility, wrap ...storeWith) *registry {
	t.Helper()
	return newRegistryWith(t, visibility, func(bucket.Bucket) repository.Options { return repository.Options{MaxBlobBytes: maxTestBlob} }, wrap...)
}

func newRegistryWith(t *testing.T, visibility wire.Visibility, options func(bucket.Bucket) repository.Options, wrap ...storeWith) *registry {
	t.Helper()
	r := &registry{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), log: new(bytes.Buffer)}
	r.keys = [][]byte{bytes.Repeat([]byte{1}, 32)}
	d, err := dir.New(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	var b bucket.Bucket = d
	for _, w := range wrap {
		b = w(b)
	}
	if r.store, err = repository.Open(t.Context(), b, "acme/charts", options(b)); err != nil {
		t.Fatal(err)
	}
	credentials := accesstest.New(t, testAudience, visibility, func() [][]byte { return r.keys })
	r.access, r.tokens, r.file, r.snapshot = credentials.Enforcer, credentials.Tokens, credentials.File, credentials.Snapshot
	r.handler = New(Options{
		Store: r.store, Access: r.access, Organization: "acme", Registry: "charts",
		ExternalURL: &url.URL{Scheme: "https", Host: externalHost},
		UploadKeys:  func() [][]byte { return r.keys },
		Now:         func() time.Time { return r.now },
		Logger:      slog.New(slog.NewTextHandler(r.log, nil)),
		Observe: func(context.Context) *audit.Observation {
			r.observed = append(r.observed, &audit.Observation{})
			return r.observed[len(r.observed)-1]
		},
		Pulled: func(chart, digest string) { r.pulled = append(r.pulled, chart+"@"+digest) },
	})
	return r
}

// call is one request; the zero value of each field leaves it out.
type call struct {
	method, path string
	// token names one of registry.tokens; "none" sends no credentials. Empty means "all".
	token  string
	bearer bool
	header map[string]string
	body   string
	// reader replaces body, and has no known length.
	reader io.Reader
}

func (r *registry) do(c call) *http.Response {
	r.t.Helper()
	var body io.Reader = http.NoBody
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	if c.reader != nil {
		body = struct{ io.Reader }{c.reader}
	}
	request, err := http.NewRequestWithContext(r.t.Context(), c.method, "http://attacker.example"+c.path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	if c.reader != nil {
		request.ContentLength = -1
	}
	return r.send(request, c)
}

// send sends a request with the credentials and headers of a call.
func (r *registry) send(request *http.Request, c call) *http.Response {
	if c.token == "" {
		c.token = "all"
	}
	if token, ok := r.tokens[c.token]; ok && c.bearer {
		request.Header.Set("Authorization", "Bearer "+token)
	} else if ok {
		request.SetBasicAuth("anybody", token)
	}
	for k, v := range c.header {
		request.Header.Set(k, v)
	}
	recorder := httptest.NewRecorder()
	r.handler.ServeHTTP(recorder, request)
	return recorder.Result()
}

// want does a call that must be answered with status.
func (r *registry) want(status int, c call) *http.Response {
	r.t.Helper()
	answer := r.do(c)
	if answer.StatusCode != status {
		body, _ := io.ReadAll(answer.Body)
		r.t.Fatalf("%s %s: status %d, want %d: %s", c.method, c.path, answer.StatusCode, status, body)
	}
	return answer
}

func read(t *testing.T, answer *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// problem reads an error in the form of the specification.
func problem(t *testing.T, answer *http.Response) (code, message string) {
	t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	text := read(t, answer)
	if err := json.Unmarshal([]byte(text), &body); err != nil || len(body.Errors) != 1 {
		t.Fatalf("status %d with the body %q, want one error in JSON", answer.StatusCode, text)
	}
	if got := answer.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("the error has Content-Type %q", got)
	}
	return body.Errors[0].Code, body.Errors[0].Message
}

// wantProblem does a call that must be answered with an error whose message has all of the words.
func (r *registry) wantProblem(status int, code string, c call, words ...string) *http.Response {
	r.t.Helper()
	answer := r.want(status, c)
	gotCode, message := problem(r.t, answer)
	if gotCode != code {
		r.t.Errorf("%s %s: code %s, want %s", c.method, c.path, gotCode, code)
	}
	for _, w := range words {
		if !strings.Contains(message, w) {
			r.t.Errorf("%s %s: the message %q does not say %q", c.method, c.path, message, w)
		}
	}
	return answer
}

func digestOf(s string) string { return digest.FromString(s).String() }

// manifestOf is a chart's manifest with one layer.
func manifestOf(layer string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[{"mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip","digest":%q,"size":%d}]}`,
		helmConfig, digestOf("{}"), digestOf(layer), len(layer))
}

// pushBlob pushes a blob as helm does.
func (r *registry) pushBlob(content string) {
	r.t.Helper()
	location := r.want(http.StatusAccepted, call{method: "POST", path: "/v2/" + testName + "/blobs/uploads/"}).Header.Get("Location")
	r.want(http.StatusCreated, call{method: "PUT", path: location + "?digest=" + digestOf(content), body: content})
}

// pushChart pushes a chart and returns its manifest.
func (r *registry) pushChart(layer, tag string) string {
	r.t.Helper()
	r.pushBlob("{}")
	r.pushBlob(layer)
	manifest := manifestOf(layer)
	r.want(http.StatusCreated, r.manifestCall(tag, manifest))
	return manifest
}

func (r *registry) manifestCall(reference, content string) call {
	return call{method: "PUT", path: "/v2/" + testName + "/manifests/" + reference, body: content, header: map[string]string{"Content-Type": ociManifest}}
}

package ociapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
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
	fixedPast    = "2001-01-01T00:00:00Z"
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
	r := &registry{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), tokens: map[string]string{}, log: new(bytes.Buffer)}
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
	const read, write, remove = wire.ReadPackages, wire.WritePackages, wire.DeletePackages
	snapshot := wire.Access{Revision: 1, Visibility: visibility}
	past, err := time.Parse(time.RFC3339, fixedPast)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		name    string
		scopes  []wire.Scope
		charts  string
		expires *time.Time
	}{
		{name: "read", scopes: []wire.Scope{read}},
		{name: "write", scopes: []wire.Scope{write}},
		{name: "delete", scopes: []wire.Scope{remove}},
		{name: "read and write", scopes: []wire.Scope{read, write}},
		{name: "all", scopes: wire.Scopes()},
		{name: "another", scopes: wire.Scopes()},
		{name: "all of another chart", scopes: wire.Scopes(), charts: "other"},
		{name: "expired", scopes: wire.Scopes(), expires: &past},
		{name: "revoked", scopes: wire.Scopes()},
		{name: "unknown", scopes: wire.Scopes()},
	} {
		token, err := access.Mint(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		r.tokens[k.name] = token.Reveal()
		if k.charts == "" {
			k.charts = "*"
		}
		if k.name != "unknown" {
			snapshot.Tokens = append(snapshot.Tokens, wire.Token{
				ID: token.ID(), SHA256: token.SHA256(), Scopes: k.scopes, Charts: []string{k.charts}, ExpiresAt: k.expires,
			})
		}
	}
	r.addFederated(&snapshot)
	r.tokens["malformed"] = "not-a-token"
	r.tokens["wrong secret"] = r.tokens["all"][:len(r.tokens["all"])-3] + "000"
	r.file = filepath.Join(t.TempDir(), "access.json")
	if err := os.WriteFile(r.file, snapshot.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	r.access = access.NewEnforcer(access.EnforcerOptions{
		Registry: "acme/charts", File: r.file, StateDir: t.TempDir(), Audience: testAudience, SessionKeys: func() [][]byte { return r.keys },
	})
	if problem := r.access.State().Problem; problem != "" {
		t.Fatal(problem)
	}
	r.addSessions()
	r.snapshot = snapshot
	r.revoke("revoked")
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

// addSessions exchanges tokens, here, at another registry that has the same keys, and here an hour ago.
func (r *registry) addSessions() {
	r.t.Helper()
	at := func(registry string, now time.Time) *access.Enforcer {
		return access.NewEnforcer(access.EnforcerOptions{
			Registry: registry, File: r.file, Audience: testAudience, SessionKeys: func() [][]byte { return r.keys }, Now: func() time.Time { return now },
		})
	}
	for name, s := range map[string]struct {
		parent string
		at     *access.Enforcer
		scopes []wire.Scope
	}{
		"session of all":              {"all", r.access, nil},
		"session of all for reading":  {"all", r.access, []wire.Scope{wire.ReadPackages}},
		"session of OIDC":             {"OIDC read and write", r.access, nil},
		"session of revoked":          {"revoked", r.access, nil},
		"session of another registry": {"all", at("acme/other", time.Now()), nil},
		"session that expired":        {"all", at("acme/charts", time.Now().Add(-time.Hour)), nil},
	} {
		session, err := s.at.Exchange(r.t.Context(), r.tokens[s.parent], s.scopes)
		if err != nil {
			r.t.Fatal(err)
		}
		r.tokens[name] = session.Token
	}
	forged := r.tokens["session of all"]
	r.tokens["session forged"] = forged[:len(forged)-4] + "AAAA"
}

// revoke takes a token away, and is in force when it returns.
func (r *registry) revoke(name string) {
	r.t.Helper()
	r.snapshot.Revision++
	r.snapshot.Tokens = slices.DeleteFunc(r.snapshot.Tokens, func(t wire.Token) bool { return t.ID == r.tokens[name][len("crt_"):len("crt_12345678")] })
	if _, err := r.access.Push(r.snapshot.Encode()); err != nil {
		r.t.Fatal(err)
	}
}

// addFederated adds policies for an issuer whose keys are in them, and tokens of it.
func (r *registry) addFederated(snapshot *wire.Access) {
	const issuer = "https://issuer.example"
	jwks, err := json.Marshal(map[string]any{"keys": []any{issuertest.JWK("first", issuertest.Key("first"))}})
	if err != nil {
		r.t.Fatal(err)
	}
	statement := func(sub string, scopes ...any) map[string]any {
		return map[string]any{"iss": issuer, "jwks": string(jwks), "scopes": scopes, "claims": map[string]any{"sub": sub}}
	}
	neighbour := statement("neighbour", "read_packages", "write_packages", "delete_packages")
	neighbour["charts"] = []any{"other"}
	snapshot.Policies = []wire.Policy{{Name: "acme/ci", Statements: []any{
		statement("reader", "read_packages"), statement("writer", "write_packages"), statement("pusher", "read_packages", "write_packages"),
		statement("remover", "delete_packages"), neighbour,
	}}}
	for name, c := range map[string]struct {
		issuer, subject, audience, key string
		age                            int64
	}{
		"OIDC read":              {issuer, "reader", testAudience, "first", 0},
		"OIDC write":             {issuer, "writer", testAudience, "first", 0},
		"OIDC read and write":    {issuer, "pusher", testAudience, "first", 0},
		"OIDC delete":            {issuer, "remover", testAudience, "first", 0},
		"OIDC of another chart":  {issuer, "neighbour", testAudience, "first", 0},
		"OIDC that no rule has":  {issuer, "stranger", testAudience, "first", 0},
		"OIDC of another":        {issuer, "pusher", "https://" + externalHost + "/acme/other", "first", 0},
		"OIDC forged":            {issuer, "pusher", testAudience, "forger", 0},
		"OIDC that expired":      {issuer, "pusher", testAudience, "first", 300},
		"OIDC of another issuer": {issuer + ".evil.example", "pusher", testAudience, "first", 0},
	} {
		issued := time.Now().Unix() - c.age
		claims, err := json.Marshal(map[string]any{"iss": c.issuer, "sub": c.subject, "aud": c.audience, "iat": issued, "exp": issued + 300})
		if err != nil {
			r.t.Fatal(err)
		}
		r.tokens[name] = issuertest.Sign(`{"alg":"ES256","kid":"first"}`, string(claims), issuertest.Key(c.key))
	}
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

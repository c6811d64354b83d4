package web_test

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
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/leaktest"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/web"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func ok(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// site is the pages of a registry.
type site struct {
	testing.TB
	store     *repository.Store
	inventory *inventory.Inventory
	handler   http.Handler
	// snapshot is the access snapshot; reload puts it in force.
	snapshot wire.Access
	now      time.Time
	log      bytes.Buffer
	// seen is what was noted of each request, downloaded and pulled what was downloaded, and busy turns everybody away.
	seen       []*audit.Observation
	downloaded []string
	pulled     []string
	busy       bool
	// load is what was said of the last request.
	load     web.Load
	enforcer *access.Enforcer
}

func newSite(tb testing.TB, visibility wire.Visibility, change ...func(*web.Options)) *site {
	tb.Helper()
	s := &site{TB: tb, snapshot: wire.Access{Visibility: visibility}, now: time.Now()}
	b, err := dir.New(tb.TempDir())
	ok(tb, err)
	s.store, err = repository.Open(tb.Context(), b, "acme/charts", repository.Options{
		Sparse:   func(repository.Manifest) bool { return true },
		Tagged:   func(repository, tag string) { s.inventory.Tagged(repository, tag) },
		Referred: func(repository string, subject digest.Digest) { s.inventory.Referred(repository, subject) },
	})
	ok(tb, err)
	s.inventory = inventory.New(inventory.Options{Store: s.store, Bucket: b})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.inventory.Run(ctx) })
	tb.Cleanup(func() { stop(); running.Wait() })
	s.enforcer = access.NewEnforcer(access.EnforcerOptions{
		Registry: "acme/charts", StateDir: tb.TempDir(), Audience: "https://charts.example.com/acme/charts", Now: func() time.Time { return s.now },
		SessionKeys: func() [][]byte { return [][]byte{bytes.Repeat([]byte{7}, 32)} },
	})
	s.reload()
	options := web.Options{
		Store: s.store, Inventory: s.inventory, Access: s.enforcer, Organization: "acme", Registry: "charts",
		ExternalURL: &url.URL{Scheme: "https", Host: "charts.example.com"}, Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
		Observe: func(context.Context) *audit.Observation {
			o := &audit.Observation{}
			s.seen = append(s.seen, o)
			return o
		},
		Admit: func(_ *http.Request, _ string, l web.Load) (func(), bool) {
			s.load = l
			return func() {}, !s.busy
		},
		AllowSignIn: func(*http.Request) bool { return !s.busy },
		Pulled:      func(chart, digest string) { s.pulled = append(s.pulled, chart+" "+digest) },
		Downloaded:  func(chart string, d digest.Digest) { s.downloaded = append(s.downloaded, chart+" "+d.String()) },
		Now:         func() time.Time { return s.now },
	}
	for _, c := range change {
		c(&options)
	}
	s.handler = web.New(options)
	return s
}

// reload puts the snapshot in force, with the tokens that were made since.
func (s *site) reload() {
	s.Helper()
	s.snapshot.Revision++
	_, err := s.enforcer.Push(s.snapshot.Encode())
	ok(s, err)
}

// token is a new one, in force after the next reload.
func (s *site) token(charts string, scopes ...wire.Scope) string {
	s.Helper()
	t, err := access.Mint(rand.Reader)
	ok(s, err)
	s.snapshot.Tokens = append(s.snapshot.Tokens, wire.Token{ID: t.ID(), SHA256: t.SHA256(), Name: "team/" + t.ID(), Scopes: scopes, Charts: strings.Split(charts, ",")})
	return t.Reveal()
}

// push stores a chart as helm does, and waits until the inventory has it.
func (s *site) push(name string, c charttest.Chart, tag string) digest.Digest {
	s.Helper()
	var m struct {
		Config struct{ Digest digest.Digest }
		Layers []struct{ Digest digest.Digest }
	}
	ok(s, json.Unmarshal(c.Manifest, &m))
	repo, err := s.store.Repository(name)
	ok(s, err)
	ok(s, repo.PutBlob(s.Context(), m.Config.Digest, bytes.NewReader(c.Config), int64(len(c.Config))))
	ok(s, repo.PutBlob(s.Context(), m.Layers[0].Digest, bytes.NewReader(c.Content), int64(len(c.Content))))
	return s.pushManifest(name, c.Manifest, tag)
}

func (s *site) pushManifest(name string, manifest []byte, tag string) digest.Digest {
	s.Helper()
	repo, err := s.store.Repository(name)
	ok(s, err)
	reference := tag
	if tag == "" {
		reference = digest.FromBytes(manifest).String()
	}
	stored, err := repo.PutManifest(s.Context(), reference, charttest.ManifestMediaType, manifest, "crt_pusher12")
	ok(s, err)
	s.until(func() bool {
		_, known := s.inventory.Version(name, tag)
		return (known || tag == "") && !s.inventory.Building()
	})
	return stored.Digest
}

func (s *site) until(holds func() bool) {
	s.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatal("it never came about")
		}
	}
}

// web is a chart with all that people read. fields are added to its Chart.yaml, and files to its archive.
func webChart(name, version string, fields map[string]any, files ...charttest.Entry) charttest.Chart {
	config := map[string]any{"apiVersion": "v2", "name": name, "version": version}
	for k, v := range fields {
		config[k] = v
	}
	text, err := json.Marshal(config)
	if err != nil {
		panic(err)
	}
	entries := append([]charttest.Entry{charttest.File(name+"/Chart.yaml", string(text))}, files...)
	return charttest.Assemble(text, charttest.Archive(entries...))
}

// answer is a response that was read.
type answer struct {
	*http.Response
	body string
}

// browser keeps cookies, as one does.
type browser struct {
	*site
	cookie *http.Cookie
	origin string
}

func (s *site) browser() *browser { return &browser{site: s} }

func (b *browser) do(method, target string, form url.Values) answer {
	b.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r := httptest.NewRequestWithContext(b.Context(), method, "https://charts.example.com"+target, body)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
	if b.origin != "" {
		r.Header.Set("Origin", b.origin)
	}
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	response := w.Result()
	content, err := io.ReadAll(response.Body)
	ok(b, err)
	for _, c := range response.Cookies() {
		if b.cookie = c; c.MaxAge < 0 {
			b.cookie = nil
		}
	}
	return answer{response, string(content)}
}

func (b *browser) get(target string) answer {
	b.Helper()
	return b.do(http.MethodGet, target, nil)
}

// page gets one that is there.
func (b *browser) page(target string) string {
	b.Helper()
	a := b.get(target)
	if a.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s, location %q", target, a.Status, a.Header.Get("Location"))
	}
	return a.body
}

// signIn signs in, and wants to succeed.
func (b *browser) signIn(token string) {
	b.Helper()
	if a := b.do(http.MethodPost, "/-/sign-in", url.Values{"token": {token}}); a.StatusCode != http.StatusSeeOther || b.cookie == nil {
		b.Fatalf("sign-in: %s\n%s\n%s", a.Status, a.body, b.log.String())
	}
}

func wantAll(tb testing.TB, page string, words ...string) {
	tb.Helper()
	for _, w := range words {
		if !strings.Contains(page, w) {
			tb.Errorf("the page lacks %q", w)
		}
	}
}

func wantNone(tb testing.TB, page string, words ...string) {
	tb.Helper()
	for _, w := range words {
		if strings.Contains(page, w) {
			tb.Errorf("the page has %q", w)
		}
	}
}

func versionPath(name, reference, tab string) string {
	p := path.Join("/acme/charts/charts", name, reference)
	if tab != "" {
		p += "/-/" + tab
	}
	return p
}

// manifestOf is the manifest of an artifact that is no chart.
func manifestOf(subject digest.Digest, artifactType string) []byte {
	text := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"` + artifactType + `","config":` +
		charttest.Descriptor("application/vnd.oci.empty.v1+json", []byte("{}")) + `,"layers":[],"annotations":{"org.opencontainers.image.created":"2026-01-02T03:04:05Z"}`
	if subject != "" {
		text += fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":2}`, charttest.ManifestMediaType, subject)
	}
	return []byte(text + "}")
}

var helmConfig = chart.ConfigMediaType

// plain signs in over plain HTTP.
func plain(s *site, host, token string) (status int, cookies []*http.Cookie) {
	r := httptest.NewRequestWithContext(s.Context(), http.MethodPost, "http://"+host+"/-/sign-in", strings.NewReader(url.Values{"token": {token}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w.Result().StatusCode, w.Result().Cookies()
}

// Package web tries the pages of a registry in a real browser: pages.test.mjs is what the browser does, and here is what it
// looks at.
package web

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/go-jose/go-jose/v4"
	"github.com/opencontainers/go-digest"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sites is what the browser is told.
type sites struct {
	// Public, Private and Hostile are the addresses of registries.
	Public, Private, Hostile string
	// Writer and Reader are tokens of the private one, and Confined is for one of its charts.
	Writer, Reader, Confined string
	// Watched is the address of a registry whose receivers are the test's, and Watcher a token of it; HostileWriter is one of
	// the hostile registry.
	Watched, Watcher, HostileWriter string
	// Foreign is the path of something in the public registry that has no tag.
	Foreign string
	// Pages are all paths of the public registry that anybody may look at, and HostilePages those of the hostile one.
	Pages, HostilePages []string
	// Archive is the SHA-256 of the archive of web 1.4.2.
	Archive string
	// Screenshots is a folder for pictures of all pages; empty for none.
	Screenshots string
	Chromium    string
}

func TestPages(t *testing.T) {
	command := exec.CommandContext(t.Context(), "../../hack/browser")
	command.Stderr = os.Stderr
	modules, err := command.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		t.Skip("there is no browser: hack/browser says what is missing")
	}
	ok(t, err)
	s := sites{Screenshots: os.Getenv("SCREENSHOTS"), Chromium: os.Getenv("CHROMIUM")}
	if s.Chromium == "" {
		s.Chromium, err = exec.LookPath("chromium")
		ok(t, err)
	}
	public := newContent(t)
	public.furnish(&s)
	s.Public = public.serve(func(c *registryserver.Config) {
		c.Access.Visibility = "public"
		c.About = registryserver.AboutConfig{DisplayName: "Team A charts", Description: "What team A runs in production, and what it runs on.", Emoji: "🌻", Color: "#f0ccff"}
	})
	private := newContent(t)
	private.furnish(&sites{})
	s.Writer, s.Reader = private.token("*", wire.ReadPackages, wire.WritePackages), private.token("*", wire.ReadPackages)
	s.Confined = private.token("redis", wire.ReadPackages)
	private.snapshot.Policies = []wire.Policy{{Name: "team-a/ci", Statements: []any{
		map[string]any{"iss": "https://ci.example", "jwks": keySet(t), "scopes": []any{"read_packages", "write_packages"}, "claims": map[string]any{"repository": "acme/web", "ref": "refs/heads/main"}, "charts": []any{"web"}},
	}}}
	private.snapshot.Version = wire.AccessVersionPolicies
	s.Private = private.serve(func(*registryserver.Config) {})
	watched := newContent(t)
	watched.furnish(&sites{})
	s.Watcher = watched.token("*", wire.ReadPackages, wire.WritePackages, wire.DeletePackages)
	watched.operate(wire.Settings{
		Namespace: "team-a", Name: "charts", Generation: 7, Spec: settings,
		Conditions: []wire.Condition{
			{Type: "AccessConfirmed", Status: "True", Reason: "Confirmed", Message: "2 of 2 pods enforce revision 12", Since: time.Now().Add(-26 * time.Hour)},
			{Type: "Available", Status: "True", Reason: "Available", Since: time.Now().Add(-8 * 24 * time.Hour)},
			{Type: "CertificateReady", Status: "True", Reason: "Issued", Message: "the certificate is valid until 2027-02-12", Since: time.Now().Add(-8 * 24 * time.Hour)},
			{Type: "Ready", Status: "False", Reason: "NotificationSecretNotFound", Message: "spec.notifications[2]: the Secret chat-webhook does not exist: create it with an entry token", Since: time.Now().Add(-14 * time.Minute)},
			{Type: "Stalled", Status: "True", Reason: "NotificationSecretNotFound", Message: "spec.notifications[2]: the Secret chat-webhook does not exist: create it with an entry token", Since: time.Now().Add(-14 * time.Minute)},
		},
	})
	told := receiver(t)
	s.Watched = watched.serve(func(c *registryserver.Config) {
		c.About = registryserver.AboutConfig{DisplayName: "Team A charts", Description: "What team A runs in production, and what it runs on."}
		c.AllowEgressCIDRs = []string{"127.0.0.0/8"}
		c.Notifications = []receivers.Receiver{
			{Name: "argocd", URL: told + "/ok", Format: receivers.Harbor}, {Name: "chat", URL: told + "/busy", Format: receivers.CloudEvents}, {Name: "old-ci", URL: told + "/gone", Format: receivers.Buildkite},
		}
	})
	watched.happen(s.Watched, s.Watcher)
	hostile := newContent(t)
	s.HostilePages = hostile.poison()
	s.HostileWriter = hostile.token("*", wire.ReadPackages, wire.WritePackages)
	hostile.operate(wire.Settings{
		Namespace: canary("namespace"), Name: canary("name"), Spec: "a: " + canary("spec"),
		Conditions: []wire.Condition{{Type: canary("type"), Status: canary("status"), Reason: canary("reason"), Message: canary("message")}},
	})
	hostile.poisonEvents()
	s.Hostile = hostile.serve(func(c *registryserver.Config) {
		c.Access.Visibility = "public"
		c.Notifications = []receivers.Receiver{{Name: "bad", URL: "https://receiver.example", Format: receivers.Flux, Disabled: true}}
		c.About = registryserver.AboutConfig{DisplayName: canary("displayName")[:120], Description: canary("description"), Emoji: "<svg onload=x>"}
	})

	all, err := json.Marshal(s)
	ok(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", "--test", "--test-reporter=spec", "pages.test.mjs")
	node.Env = append(os.Environ(), "SITES="+string(all), "MODULES="+strings.TrimSpace(string(modules))+"/")
	out, err := node.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("the browser found fault: %v", err)
	}
}

// settings are the spec of a registry.
const settings = `description: What team A runs in production.
displayName: Team A charts
notifications:
- auth:
    hmac:
      secretRef:
        name: argocd-webhook
  format: harbor
  name: argocd
  url: https://argocd.example.com/…
replicas: 2
storage:
  s3:
    bucket: team-a-charts
    credentialsSecretRef:
      name: bucket
    region: eu-central-1
`

// receiver is the address of one that takes what is sent to /ok, is busy at /busy, and gone at /gone.
func receiver(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(map[string]int{"/ok": http.StatusNoContent, "/busy": http.StatusServiceUnavailable, "/gone": http.StatusGone}[r.URL.Path])
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// operate leaves what an operator would have told.
func (c *content) operate(s wire.Settings) {
	c.Helper()
	ok(c.T, os.WriteFile(filepath.Join(c.folder, wire.SettingsFile), s.Encode(), 0o600))
}

// happen pushes charts to a server, copies one and deletes one.
func (c *content) happen(site, token string) {
	c.Helper()
	send := func(method, path, kind string, body io.Reader) {
		request, err := http.NewRequestWithContext(c.Context(), method, site+path, body)
		ok(c.T, err)
		request.SetBasicAuth("any", token)
		request.Header.Set("Content-Type", kind)
		answer, err := http.DefaultClient.Do(request)
		ok(c.T, err)
		defer answer.Body.Close()
		if content, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode/100 != 2 {
			c.Fatalf("%s %s: %s, %s", method, path, answer.Status, content)
		}
	}
	packages := "/api/v2/packages/organizations/acme/registries/charts/packages"
	for _, version := range []string{"1.5.0", "1.5.1", "1.6.0-rc.1"} {
		var form bytes.Buffer
		fields := multipart.NewWriter(&form)
		file, err := fields.CreateFormFile("chart", "chart.tgz")
		ok(c.T, err)
		_, err = file.Write(charttest.Archive(charttest.File("web/Chart.yaml", "apiVersion: v2\nname: web\nversion: "+version+"\n")))
		ok(c.T, err)
		ok(c.T, fields.Close())
		send(http.MethodPost, "/acme/charts/helm/api/charts", fields.FormDataContentType(), &form)
	}
	send(http.MethodPost, packages+"/web:1.5.1/copy?to=stable/web", "", nil)
	send(http.MethodDelete, packages+"/web:1.5.0", "", nil)
}

// poisonEvents leaves events, and what became of them, with a canary wherever there is text.
func (c *content) poisonEvents() {
	c.Helper()
	b, err := dir.New(filepath.Join(c.folder, "data"))
	ok(c.T, err)
	event := events.Event{
		ID: canary("id"), Type: receivers.Event(canary("event")), Chart: canary("chart"), Tag: canary("tag"), Version: canary("version"), Before: digest.Digest(canary("before")), Digest: digest.Digest(canary("digest")),
		CopiedFrom: canary("copied"), By: canary("by"), Message: canary("message"),
	}
	for key, value := range map[string]any{
		"events/history.json": []events.Event{event},
		"events/receivers/bad.json": map[string]any{"state": events.State{
			Problem: canary("problem"), Pending: 1, Deliveries: []events.Delivery{{Event: event, Outcome: events.Outcome(canary("outcome")), Problem: canary("delivery"), Response: events.Response{Status: 500, Body: canary("body")}}},
		}},
	} {
		document, err := json.Marshal(value)
		ok(c.T, err)
		_, err = b.Put(c.Context(), key, bytes.NewReader(document), int64(len(document)), bucket.Condition{})
		ok(c.T, err)
	}
}

// keySet has a key, so that nobody is asked for one.
func keySet(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	ok(t, err)
	return string(set)
}

// content is what a registry has before it is served.
type content struct {
	*testing.T
	folder   string
	store    *repository.Store
	snapshot wire.Access
}

// newContent opens a store that takes whatever it is given: what was stored long ago need not be what is taken now.
func newContent(t *testing.T) *content {
	t.Helper()
	c := &content{T: t, folder: t.TempDir(), snapshot: wire.Access{Revision: 1, Visibility: wire.Private}}
	b, err := dir.New(filepath.Join(c.folder, "data"))
	ok(t, err)
	c.store, err = repository.Open(t.Context(), b, "acme/charts", repository.Options{Sparse: func(repository.Manifest) bool { return true }})
	ok(t, err)
	return c
}

func (c *content) token(charts string, scopes ...wire.Scope) string {
	c.Helper()
	token, err := access.Mint(rand.Reader)
	ok(c.T, err)
	c.snapshot.Tokens = append(c.snapshot.Tokens, wire.Token{ID: token.ID(), SHA256: token.SHA256(), Name: "team-a/" + charts, Scopes: scopes, Charts: []string{charts}})
	return token.Reveal()
}

// serve serves the content until the test ends, and returns its address.
func (c *content) serve(change func(*registryserver.Config)) string {
	c.Helper()
	file := filepath.Join(c.folder, "access.json")
	ok(c.T, os.WriteFile(file, c.snapshot.Encode(), 0o600))
	config := registryserver.Config{
		Listen: "127.0.0.1:0", Organization: "acme", Registry: "charts", Version: "v0", Storage: registryserver.StorageConfig{Dir: filepath.Join(c.folder, "data")},
		Access: registryserver.AccessConfig{File: file}, Keys: filepath.Join(c.folder, "upload.keys"),
	}
	change(&config)
	server, err := registryserver.New(c.Context(), config, registryserver.Outputs{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Requests: io.Discard, Audit: io.Discard})
	ok(c.T, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	c.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			c.Errorf("the server ended with %v", err)
		}
	})
	for deadline := time.Now().Add(30 * time.Second); server.Inventory().Building(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.Fatal("the inventory is not built")
		}
	}
	return server.URL().String()
}

// push stores a chart whose Chart.yaml has these fields beside the usual ones, and returns its manifest's digest.
func (c *content) push(name, version, tag, by string, fields map[string]any, files ...charttest.Entry) (manifest digest.Digest, archive []byte) {
	c.Helper()
	base := name[strings.LastIndex(name, "/")+1:]
	config := map[string]any{"apiVersion": "v2", "name": base, "version": version}
	for k, v := range fields {
		config[k] = v
	}
	text, err := json.Marshal(config)
	ok(c.T, err)
	made := charttest.Assemble(text, charttest.Archive(append([]charttest.Entry{charttest.File(base+"/Chart.yaml", "apiVersion: v2\nname: "+base+"\nversion: 1.0.0\n")}, files...)...))
	for _, blob := range [][]byte{made.Config, made.Content} {
		repo, err := c.store.Repository(name)
		ok(c.T, err)
		ok(c.T, repo.PutBlob(c.Context(), digest.FromBytes(blob), bytes.NewReader(blob), int64(len(blob))))
	}
	return c.pushManifest(name, tag, by, made.Manifest), made.Content
}

func (c *content) pushManifest(name, tag, by string, manifest []byte) digest.Digest {
	c.Helper()
	repo, err := c.store.Repository(name)
	ok(c.T, err)
	if tag == "" {
		tag = digest.FromBytes(manifest).String()
	}
	m, err := repo.PutManifest(c.Context(), tag, charttest.ManifestMediaType, manifest, by)
	ok(c.T, err)
	return m.Digest
}

// furnish pushes what a team would have.
func (c *content) furnish(s *sites) {
	c.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		ok(c.T, err)
		return string(text)
	}
	values := read("values.yaml")
	fields := func(app string) map[string]any {
		return map[string]any{
			"appVersion": app, "description": "Serves the shop: web servers behind a cache, with sessions in Redis.", "type": "application", "kubeVersion": ">=1.30.0-0",
			"home": "https://web.example", "sources": []string{"https://git.example/acme/web"}, "keywords": []string{"shop", "http"},
			"maintainers":  []map[string]string{{"name": "Ada", "email": "ada@web.example", "url": "https://ada.example"}, {"name": "Grace", "email": "grace@web.example"}},
			"dependencies": []map[string]any{{"name": "redis", "version": "^20.1.0", "repository": "oci://127.0.0.1:5000/acme/charts", "condition": "redis.enabled", "alias": "sessions"}},
			"annotations":  map[string]string{"artifacthub.io/license": "Apache-2.0", "category": "shop"},
		}
	}
	files := func(values string) []charttest.Entry {
		return []charttest.Entry{
			charttest.File("web/values.yaml", values), charttest.File("web/README.md", read("README.md")), charttest.File("web/values.schema.json", read("values.schema.json")),
			charttest.File("web/templates/deployment.yaml", read("deployment.yaml")), charttest.File("web/templates/service.yaml", "apiVersion: v1\nkind: Service\n"), charttest.File("web/templates/NOTES.txt", "It runs.\n"),
			charttest.File("web/charts/redis-20.1.3.tgz", "x"),
		}
	}
	older := strings.NewReplacer("replicas: 3", "replicas: 2", `tag: "1.27.4"`, `tag: "1.26.0"`, "    memory: 256Mi\n", "").Replace(values)
	c.push("web", "1.3.0", "1.3.0", "crt_4fT09aZk", fields("1.26.0"), files(older)...)
	subject, archive := c.push("web", "1.4.2", "1.4.2", "oidc:https://token.actions.githubusercontent.com#repo:acme/web:ref:refs/heads/main", fields("1.27.4"), files(values)...)
	c.push("web", "1.5.0-rc.1", "1.5.0-rc.1", "crt_4fT09aZk", fields("1.28.0"), files(values)...)
	c.push("redis", "20.1.3", "20.1.3", "crt_4fT09aZk", map[string]any{"appVersion": "7.4.1", "description": "An in-memory store."})
	c.push("postgres", "16.2.0+build.7", "16.2.0_build.7", "crt_4fT09aZk", map[string]any{"appVersion": "17.2", "description": "A database, with backups to S3."})
	c.push("team/monitoring", "0.9.1", "0.9.1", "crt_4fT09aZk", map[string]any{"appVersion": "3.1", "description": "Alerts and dashboards."})
	c.push("legacy-gateway", "0.3.0", "0.3.0", "crt_4fT09aZk", map[string]any{"appVersion": "0.3", "description": "The gateway before the last.", "deprecated": true})
	c.push("common", "2.1.0", "2.1.0", "crt_4fT09aZk", map[string]any{"description": "Helpers for all charts of the team.", "type": "library"})
	repo, err := c.store.Repository("web")
	ok(c.T, err)
	ok(c.T, repo.PutBlob(c.Context(), digest.FromString("{}"), strings.NewReader("{}"), 2))
	signature := c.pushManifest("web", "", "crt_4fT09aZk", artifact("application/vnd.dev.sigstore.bundle.v0.3+json", subject, nil))
	c.pushManifest("web", "latest-image", "crt_4fT09aZk", artifact("application/vnd.example.image", "", nil))
	s.Archive = digest.FromBytes(archive).Encoded()
	s.Foreign = "/acme/charts/charts/web/" + signature.String()
	s.Pages = []string{"/", "/acme/charts", "/acme/charts?q=data", "/acme/charts?q=nothing-has-this", "/acme/charts/publish", "/-/sign-in", "/acme/charts/none", s.Foreign, "/acme/charts/charts/web/latest-image"}
	for _, tab := range []string{"", "/-/readme", "/-/values", "/-/values?against=1.3.0", "/-/schema", "/-/templates", "/-/templates?file=templates/deployment.yaml", "/-/dependencies", "/-/versions", "/-/versions?all", "/-/signatures", "/-/manifest"} {
		s.Pages = append(s.Pages, "/acme/charts/charts/web/1.4.2"+tab)
	}
}

// artifact is the manifest of something that is no chart.
func artifact(kind string, subject digest.Digest, annotations map[string]string) []byte {
	all := map[string]string{"org.opencontainers.image.created": "2026-11-02T08:00:00Z"}
	for name, value := range annotations {
		all[name] = value
	}
	m := map[string]any{
		"schemaVersion": 2, "mediaType": charttest.ManifestMediaType, "artifactType": kind, "annotations": all,
		"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest.FromString("{}"), "size": 2}, "layers": []any{},
	}
	if subject != "" {
		m["subject"] = map[string]any{"mediaType": charttest.ManifestMediaType, "digest": subject, "size": 2}
	}
	text, err := json.Marshal(m)
	if err != nil {
		panic(err) // Strings and maps always encode.
	}
	return text
}

// canary would run if it were taken for markup, whatever stands around it.
func canary(field string) string {
	return fmt.Sprintf(`"'></title></textarea></pre><img src=x onerror="window.__xss='%[1]s'"><script>window.__xss='%[1]s'</script><svg onload=window.__xss=1>{{.}}`, field)
}

// poison pushes a chart that has a canary wherever somebody can write, and returns the paths at which it is shown.
func (c *content) poison() []string {
	c.Helper()
	script := "javascript:window.__xss='address'"
	fields := map[string]any{
		"appVersion": canary("appVersion"), "kubeVersion": canary("kubeVersion"), "description": canary("description"), "type": canary("type"),
		"home": script, "icon": script, "sources": []string{script, canary("source"), "https://x.example/\"onmouseover=window.__xss=1", "data:text/html,<script>window.__xss=1</script>"},
		"keywords": []string{canary("keyword")}, "maintainers": []map[string]string{{"name": canary("maintainer"), "email": canary("email"), "url": script}},
		"dependencies": []map[string]any{{"name": canary("dependency"), "version": canary("version"), "repository": script, "alias": canary("alias"), "condition": canary("condition")}},
		"annotations":  map[string]string{canary("annotation"): canary("value"), "artifacthub.io/license": canary("license")},
		"name":         canary("name"), "version": canary("version"),
	}
	template := "web/templates/" + strings.ReplaceAll(canary("template"), "/", "-") + ".yaml"
	files := []charttest.Entry{
		charttest.File("web/README.md", "# "+canary("heading")+"\n\n"+canary("README")+"\n\n[x]("+script+") ![y]("+script+") <a href=\""+script+"\" id=q name=location>z</a>\n\n```"+canary("fence")+"\n"+canary("code")+"\n```\n"),
		charttest.File("web/values.yaml", canary("key")+": "+canary("value")+"\n# "+canary("comment")+"\nq: |\n  "+canary("block")+"\n"),
		charttest.File("web/values.schema.json", canary("schema")), charttest.File(template, canary("template")),
		charttest.File("web/charts/"+strings.ReplaceAll(canary("bundled"), "/", "-")+"/Chart.yaml", "x"),
	}
	subject, _ := c.push("web", "1.0.0", "1.0.0", canary("pushedBy"), fields, files...)
	c.push("web", "0.9.0", "0.9.0", canary("pushedBy"), fields, charttest.File("web/values.yaml", canary("before")+": "+canary("value")+"\n"))
	repo, err := c.store.Repository("web")
	ok(c.T, err)
	ok(c.T, repo.PutBlob(c.Context(), digest.FromString("{}"), strings.NewReader("{}"), 2))
	annotations := map[string]string{canary("annotation"): canary("value"), "org.opencontainers.image.created": canary("created")}
	foreign := c.pushManifest("web", "", canary("pushedBy"), artifact(canary("artifactType"), subject, annotations))
	c.pushManifest("web", "image", canary("pushedBy"), artifact(canary("artifactType"), "", annotations))
	// A chart without its archive, and one whose archive is none.
	missing := charttest.Manifest(charttest.Descriptor(chart.ConfigMediaType, []byte("{}")), charttest.Descriptor(chart.ContentMediaType, []byte("missing")))
	c.pushManifest("web", "0.1.0", "x", missing)
	pages := []string{"/", "/acme/charts", "/acme/charts?q=" + "%3Cscript%3Ewindow.__xss=1%3C/script%3E", "/acme/charts/publish", "/acme/charts/settings", "/acme/charts/activity", "/-/sign-in?next=javascript:window.__xss=1", "/acme/charts/%3Cscript%3Ewindow.__xss=1%3C/script%3E",
		"/acme/charts/charts/web/" + foreign.String(), "/acme/charts/charts/web/image", "/acme/charts/charts/web/image/-/manifest", "/acme/charts/charts/web/0.1.0", "/acme/charts/charts/web/0.1.0/-/readme"}
	for _, tab := range []string{"", "/-/readme", "/-/values", "/-/values?against=0.9.0", "/-/values?against=%22%3E%3Cscript%3Ewindow.__xss=1%3C/script%3E", "/-/schema", "/-/templates", "/-/dependencies", "/-/versions?all", "/-/signatures", "/-/manifest"} {
		pages = append(pages, "/acme/charts/charts/web/1.0.0"+tab)
	}
	return pages
}

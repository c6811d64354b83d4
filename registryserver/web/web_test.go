package web_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/web"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const values = "# How many.\nreplicas: 2\nimage:\n  repository: registry.example/web\n  tag: \"1.0\"\n"

// furnish pushes a chart in two versions, another one, and one of a team.
func (s *site) furnish() {
	s.Helper()
	s.push("web", webChart("web", "1.0.0", map[string]any{"appVersion": "9.1", "description": "Serves the web."},
		charttest.File("web/values.yaml", strings.Replace(values, "replicas: 2", "replicas: 1", 1))), "1.0.0")
	s.push("web", webChart("web", "1.1.0", map[string]any{
		"appVersion": "9.2", "description": "Serves the web.", "kubeVersion": ">=1.30", "home": "https://web.example", "sources": []string{"https://git.example/web"},
		"keywords": []string{"www"}, "maintainers": []map[string]string{{"name": "Ada", "url": "https://ada.example"}}, "annotations": map[string]string{"artifacthub.io/license": "Apache-2.0"},
		"dependencies": []map[string]any{{"name": "db", "version": "^2.0.0", "repository": "oci://charts.example.com/acme/charts/team", "condition": "db.enabled"}, {"name": "cache", "version": "1", "repository": "https://cache.example"}},
	},
		charttest.File("web/values.yaml", values), charttest.File("web/README.md", "# Web\n\nServes *it*.\n"), charttest.File("web/values.schema.json", `{"type": "object"}`),
		charttest.File("web/templates/deployment.yaml", "kind: Deployment\n"), charttest.File("web/charts/db/Chart.yaml", "x")), "1.1.0")
	s.push("web", webChart("web", "1.2.0-rc.1", nil), "1.2.0-rc.1")
	s.push("old", webChart("old", "0.1.0", map[string]any{"deprecated": true, "description": "Nobody should use it."}), "0.1.0")
	s.push("team/db", webChart("db", "2.0.0+b1", map[string]any{"type": "library"}), "2.0.0_b1")
}

func TestReleases(t *testing.T) {
	s := newSite(t, wire.Public, func(o *web.Options) {
		o.About = func() web.About {
			return web.About{DisplayName: "Team A", Description: "All charts.", Emoji: "🌻", Color: "#f0ccff"}
		}
	})
	s.furnish()
	b := s.browser()
	page := b.page("/acme/charts")
	wantAll(t, page, "Team A", "All charts.", "🌻", `fill="#f0ccff"`, "Public", "oci://charts.example.com/acme/charts", `href="/acme/charts/charts/web/1.1.0"`,
		"Serves the web.", "9.2", "Deprecated", `href="/acme/charts/charts/team/db/2.0.0_b1"`, "2.0.0&#43;b1")
	for query, want := range map[string]struct{ has, lacks string }{
		"?q=WEB":              {">web<", ">old<"},
		"?q=nobody":           {">old<", ">web<"},
		"?q=%3Cscript%3E":     {"&lt;script&gt;", "<script>"},
		"?sort=updated":       {">team/db<", "zzz"},
		"?sort=hostile&q=web": {">web<", ">old<"},
		"?page=99":            {">web<", "zzz"},
		"?page=-1":            {">web<", "zzz"},
	} {
		page := b.page("/acme/charts" + query)
		wantAll(t, page, want.has)
		wantNone(t, page, want.lacks)
	}
	if names := order(b.page("/acme/charts?sort=updated")); names != "team/db old web" {
		t.Errorf("newest first they are %s", names)
	}
	if names := order(b.page("/acme/charts")); names != "old team/db web" {
		t.Errorf("by name they are %s", names)
	}
	wantAll(t, b.page("/"), "Team A", "3 charts", "5 versions")
	if a := b.get("/acme/charts/"); a.Header.Get("Location") != "/acme/charts" {
		t.Errorf("with a slash: %s to %q", a.Status, a.Header.Get("Location"))
	}
}

// order is that of the charts on a page.
func order(page string) string {
	var names []string
	for _, row := range strings.Split(page, `<th scope="row">`)[1:] {
		_, row, _ = strings.Cut(row, "<a href=")
		_, row, _ = strings.Cut(row, ">")
		name, _, _ := strings.Cut(row, "<")
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func TestEmptyRegistry(t *testing.T) {
	s := newSite(t, wire.Public)
	wantAll(t, s.browser().page("/acme/charts"), "There are no charts here yet", "/acme/charts/publish")
	wantAll(t, s.browser().page("/acme/charts/publish"), "helm push", "helm registry login charts.example.com", "github", "serviceAccountToken")
}

func TestVersionPages(t *testing.T) {
	s := newSite(t, wire.Public)
	s.furnish()
	b := s.browser()
	for tab, words := range map[string][]string{
		"":             {"helm install web oci://charts.example.com/acme/charts/web --version 1.1.0", "kind: OCIRepository", "kind: Application", "@sha256:", "Apache-2.0", "Ada", `href="https://ada.example"`, "&gt;=1.30", `href="https://web.example"`, "crt_pusher12", "Download chart"},
		"readme":       {`<h2 id="user-content-web">Web</h2>`, "<em>it</em>"},
		"values":       {`id="L2" data-path="replicas"`, `data-path="image.tag"`, `<span class="y-key">replicas</span>`, "# How many."},
		"schema":       {`<span class="y-key">&#34;type&#34;</span>`},
		"templates":    {`href="?file=templates%2fdeployment.yaml"`},
		"dependencies": {"^2.0.0", `href="/acme/charts/charts/team/db/"`, `href="https://cache.example"`, "db.enabled", "<bdi>db</bdi>"},
		"versions":     {"1.0.0", "Show 1 more"},
		"signatures":   {"Nothing refers to this version"},
		"manifest":     {"sha512:", `<span class="y-key">&#34;schemaVersion&#34;</span>`, "application/vnd.cncf.helm.config.v1&#43;json"},
	} {
		page := b.page(versionPath("web", "1.1.0", tab))
		wantAll(t, page, words...)
		wantAll(t, page, `aria-current="page"`, "Serves the web.")
	}
	wantAll(t, b.page(versionPath("web", "1.1.0", "templates")+"?file=templates/deployment.yaml"), `<span class="y-string">Deployment</span>`)
	wantNone(t, b.page(versionPath("web", "1.1.0", "versions")), "rc.1</bdi>")
	wantAll(t, b.page(versionPath("web", "1.1.0", "versions")+"?all"), "1.2.0-rc.1</bdi>")
	wantAll(t, b.page(versionPath("web", "1.0.0", "")), `The latest version is <a href="/acme/charts/charts/web/1.1.0">`)
	wantAll(t, b.page(versionPath("web", "1.0.0", "readme")), "no README")
	page := b.page(versionPath("team/db", "2.0.0+b1", ""))
	wantAll(t, page, "--version 2.0.0&#43;b1", "a library")
	wantNone(t, page, "helm install")
}

func TestDiff(t *testing.T) {
	s := newSite(t, wire.Public)
	s.furnish()
	b := s.browser()
	page := b.page(versionPath("web", "1.1.0", "values") + "?against=1.0.0")
	wantAll(t, page, "1 line added, 1 line removed", "<code>replicas: 1</code>", "<code>replicas: 2</code>")
	for against, words := range map[string]string{
		"9.9.9": "no such version", "1.1.0": "The values are the same", "../old/0.1.0": "no such version", "%22%3E%3Cscript%3E": "no such version",
	} {
		wantAll(t, b.page(versionPath("web", "1.1.0", "values")+"?against="+against), words)
	}
}

func TestAddresses(t *testing.T) {
	s := newSite(t, wire.Public)
	s.furnish()
	// A chart below one that has a version of the same name.
	s.push("web/1.0.0", webChart("1.0.0", "7.0.0", nil), "7.0.0")
	b := s.browser()
	for path, location := range map[string]string{
		"/acme/charts/charts/web/":            "/acme/charts/charts/web/1.1.0",
		"/acme/charts/charts/team/db/":        "/acme/charts/charts/team/db/2.0.0_b1",
		"/acme/charts/charts/team/db":         "/acme/charts/charts/team/db/",
		"/acme/charts/charts/web":             "/acme/charts/charts/web/1.1.0",
		"/acme/charts/charts/web/1.0.0/":      "/acme/charts/charts/web/1.0.0/7.0.0",
		"/acme/charts/charts/web/1.0.0/7.0.0": "",
		"/acme/charts/charts/web/1.0.0":       "",
	} {
		a := b.get(path)
		if got := a.Header.Get("Location"); got != location || (location == "") != (a.StatusCode == http.StatusOK) {
			t.Errorf("%s: %s to %q, want %q", path, a.Status, got, location)
		}
	}
	for _, path := range []string{
		"/acme/charts/nothing", "/acme/charts/charts", "/acme/charts/charts/", "/acme/charts/charts/none", "/acme/charts/charts/none/", "/acme/charts/charts/web%2f", "/acme/charts/charts/web/2.0.0",
		"/acme/charts/charts/web/1.0.0/-/none", "/acme/charts/charts/web/1.0.0/-/", "/acme/charts/charts//1.0.0", "/acme/charts/charts/../1.0.0", "/acme/charts/charts/web/..",
		"/acme/charts/charts/web%2f1.0.0", "/acme/charts/charts/WEB/1.0.0", "/acme/charts/charts/web/1.0.0%00", "/acme/charts/charts/web/sha256:00", "/static/style.css", "/static/",
		"/acme/charts/charts/web/1.1.0/-/templates?file=Chart.yaml", "/acme/charts/charts/" + strings.Repeat("a", 5000) + "/1", "/acme/charts/access",
	} {
		if a := b.get(path); a.StatusCode != http.StatusNotFound || !strings.Contains(a.body, "There is nothing here") {
			t.Errorf("%.80s: %s", path, a.Status)
		}
	}
}

// Who leaves out the /helm of the Helm repository is told so, with a status that helm shows.
func TestHelmRepositoryIsElsewhere(t *testing.T) {
	for _, visibility := range []wire.Visibility{wire.Public, wire.Private} {
		b := newSite(t, visibility).browser()
		for path, method := range map[string]string{"/acme/charts/index.yaml": http.MethodGet, "/acme/charts/api/charts": http.MethodPost} {
			a := b.do(method, path, nil)
			if a.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %s", path, a.Status)
			}
			wantAll(t, a.body, "https://charts.example.com/acme/charts/helm")
		}
	}
}

func TestServes(t *testing.T) {
	h := web.New(web.Options{Organization: "acme", Registry: "charts", ExternalURL: &url.URL{}})
	for path, want := range map[string]bool{
		"/": true, "/acme/charts": true, "/acme/charts/x": true, "/static/x": true, "/-/sign-in": true, "/-/sign-out": true,
		"/v2/": false, "/v2/acme/charts/web/tags/list": false, "/acme": false, "/acme/chartsx": false, "/-/oidc/exchange": false, "/api/v2/": false, "/other/charts": false,
	} {
		if got := h.Serves(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func TestForeignArtifacts(t *testing.T) {
	s := newSite(t, wire.Public)
	subject := s.push("web", webChart("web", "1.0.0", nil), "1.0.0")
	repo, err := s.store.Repository("web")
	ok(t, err)
	ok(t, repo.PutBlob(t.Context(), "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", strings.NewReader("{}"), 2))
	signature := s.pushManifest("web", manifestOf(subject, "application/vnd.dev.sigstore.bundle.v0.3+json"), "")
	tagged := "sha256-" + subject.Encoded() + ".sig"
	s.pushManifest("web", manifestOf("", "application/x.old"), tagged)
	s.pushManifest("web", manifestOf("", "application/x.image"), "latest")
	other := s.push("web", webChart("web", "2.0.0", nil), "")
	b := s.browser()
	s.until(func() bool { v, _ := s.inventory.Version("web", "1.0.0"); return v.Signatures == 2 })
	wantAll(t, b.page(versionPath("web", "1.0.0", "")), `/signatures">2 signatures</a>`)
	wantAll(t, b.page(versionPath("web", "1.0.0", "versions")), `<span class="badge">Signed</span>`)
	wantAll(t, b.page(versionPath("web", "1.0.0", "signatures")), "Signature or attestation (Sigstore bundle)", "Signature (cosign)", "2026-01-02T03:04:05Z", `href="/acme/charts/charts/web/`+signature.String()+`"`)
	for reference, words := range map[string][]string{
		"latest": {"An artifact that is no chart", "application/x.image"}, signature.String(): {"By digest", "It refers to", `href="/acme/charts/charts/web/` + subject.String() + `"`},
		tagged: {"Not a chart"}, other.String(): {"By digest", "helm pull oci://charts.example.com/acme/charts/web@" + other.String()},
	} {
		wantAll(t, b.page(versionPath("web", reference, "")), words...)
		wantAll(t, b.page(versionPath("web", reference, "manifest")), "sha512:")
		wantAll(t, b.page(versionPath("web", reference, "versions")), "1.0.0")
		b.page(versionPath("web", reference, "signatures"))
	}
	if a := b.get(versionPath("web", "latest", "readme")); a.StatusCode != http.StatusNotFound {
		t.Errorf("the README of an image: %s", a.Status)
	}
	// A chart of which the archive is gone, and one that is none.
	ok(t, repo.PutBlob(t.Context(), "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", strings.NewReader("x"), 1))
	broken := charttest.Manifest(charttest.Descriptor(helmConfig, []byte("{}")), charttest.Descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", []byte("x")))
	s.pushManifest("web", broken, "3.0.0")
	for _, tab := range []string{"readme", "values", "schema", "templates", "dependencies"} {
		wantAll(t, b.page(versionPath("web", "3.0.0", tab)), "cannot be read")
	}
}

// What refers to a version can say as much of itself as fits into a manifest, and there can be very many.
func TestLargeReferrers(t *testing.T) {
	s := newSite(t, wire.Public)
	subject := s.push("web", webChart("web", "1.0.0", nil), "1.0.0")
	repo, err := s.store.Repository("web")
	ok(t, err)
	ok(t, repo.PutBlob(t.Context(), "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", strings.NewReader("{}"), 2))
	for i := range 5 {
		s.pushManifest("web", manifestOf(subject, fmt.Sprintf("application/x.%d%s", i, strings.Repeat("x", 3<<20))), "")
	}
	page := s.browser().page(versionPath("web", "1.0.0", "signatures"))
	wantAll(t, page, "application/x.", "There are more than are shown here.")
	if rows := strings.Count(page, "application/x."); len(page) > 32<<10 || rows > 2 {
		t.Errorf("a page of %d bytes shows %d", len(page), rows)
	}
}

func TestDownloads(t *testing.T) {
	s := newSite(t, wire.Public)
	s.furnish()
	b := s.browser()
	for file, c := range map[string]struct{ name, begins string }{
		"chart.tgz": {"web-1.1.0.tgz", "\x1f\x8b"}, "manifest.json": {"web-1.1.0.tgz.manifest.json", `{"schemaVersion":2`}, "values.yaml": {"values.yaml", "# How many."},
	} {
		a := b.get(versionPath("web", "1.1.0", file))
		if a.StatusCode != http.StatusOK || a.Header.Get("Content-Disposition") != "attachment; filename="+c.name || !strings.HasPrefix(a.body, c.begins) ||
			a.Header.Get("Content-Security-Policy") != "default-src 'none'; sandbox" || a.Header.Get("X-Content-Type-Options") != "nosniff" || strings.Contains(a.Header.Get("Content-Type"), "html") {
			t.Errorf("%s: %s %v", file, a.Status, a.Header)
		}
		if s.load != web.Light {
			t.Errorf("%s: who downloads it slowly keeps others from lists", file)
		}
		if a := b.do(http.MethodHead, versionPath("web", "1.1.0", file), nil); a.StatusCode != http.StatusOK || a.body != "" {
			t.Errorf("HEAD of %s: %s, %d bytes", file, a.Status, len(a.body))
		}
	}
	if len(s.downloaded) != 1 || !strings.HasPrefix(s.downloaded[0], "web sha256:") {
		t.Errorf("downloads of the chart: %v", s.downloaded)
	}
	if v, _ := s.inventory.Version("web", "1.1.0"); len(s.pulled) != 1 || s.pulled[0] != "web "+v.Digest.String() {
		t.Errorf("pulls of the chart: %v", s.pulled)
	}
	if a := b.get(versionPath("web", "1.1.0", "chart.tgz.prov")); a.StatusCode != http.StatusNotFound {
		t.Errorf("a provenance that is not there: %s", a.Status)
	}
}

func TestHeaders(t *testing.T) {
	s := newSite(t, wire.Public)
	s.furnish()
	for _, path := range []string{"/", "/acme/charts", "/acme/charts/none", versionPath("web", "1.1.0", "readme"), "/-/sign-in"} {
		a := s.browser().get(path)
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
			"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
			"Content-Type": "text/html; charset=utf-8", "Strict-Transport-Security": "max-age=31536000", "Vary": "Cookie",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
		wantNone(t, a.body, "style=", "onclick", "javascript:", "http://")
	}
}

// Everything of a private registry is the same for who has not signed in: what is there and what is not.
func TestPrivateRegistry(t *testing.T) {
	s := newSite(t, wire.Private)
	s.furnish()
	b := s.browser()
	for _, path := range []string{"/acme/charts", "/acme/charts/publish", "/acme/charts/access", "/acme/charts/none", "/acme/charts/charts/web/", "/acme/charts/charts/none/", versionPath("web", "1.1.0", ""), versionPath("web", "9", "values"), versionPath("web", "1.1.0", "chart.tgz"), versionPath("none", "1", "manifest.json")} {
		a := b.get(path)
		want := "/-/sign-in?" + url.Values{"next": {path}}.Encode()
		if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != want {
			t.Errorf("%s: %s to %q", path, a.Status, a.Header.Get("Location"))
		}
		wantNone(t, a.body, "Serves the web")
	}
	page := b.page("/")
	wantAll(t, page, "acme/charts", "Private", "Sign in to see")
	wantNone(t, page, "3 charts")
}

func TestSignIn(t *testing.T) {
	s := newSite(t, wire.Private)
	reader := s.token("*", wire.ReadPackages)
	writer := s.token("*", wire.ReadPackages, wire.WritePackages)
	confined := s.token("team/*", wire.ReadPackages, wire.WritePackages)
	deleter := s.token("*", wire.DeletePackages)
	s.reload()
	s.furnish()

	b := s.browser()
	b.signIn(reader)
	if c := b.cookie; c.Name != "__Host-chartroom" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.MaxAge <= 0 || c.MaxAge > 3600 {
		t.Errorf("the cookie is %+v", c)
	}
	if strings.Contains(b.cookie.Value, reader) {
		t.Error("the token itself is in the cookie")
	}
	page := b.page("/acme/charts")
	wantAll(t, page, "Serves the web.", "Sign out")
	wantNone(t, page, "/acme/charts/access")
	if a := b.get("/acme/charts"); a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("Cache-Control is %q", a.Header.Get("Cache-Control"))
	}
	if a := b.get("/acme/charts/access"); a.StatusCode != http.StatusNotFound {
		t.Errorf("access for who only reads: %s", a.Status)
	}
	wantAll(t, b.page("/acme/charts/publish"), "it lacks <code>write_packages")
	if a := b.do(http.MethodPost, "/acme/charts/publish", url.Values{}); a.StatusCode != http.StatusForbidden {
		t.Errorf("a temporary token for who only reads: %s", a.Status)
	}

	team := s.browser()
	team.signIn(confined)
	page = team.page("/acme/charts")
	wantAll(t, page, "team/db")
	wantNone(t, page, "Serves the web.", ">old<", "/acme/charts/access")
	there, missing := team.get(versionPath("web", "1.1.0", "")), team.get(versionPath("none", "1.1.0", ""))
	if there.StatusCode != http.StatusNotFound || strings.ReplaceAll(there.body, "web", "none") != missing.body {
		t.Errorf("what may not be read answers %s, and what is missing %s, or in other words", there.Status, missing.Status)
	}
	if a := team.get("/acme/charts/charts/web/"); a.StatusCode != http.StatusNotFound {
		t.Errorf("the latest of what may not be read: %s", a.Status)
	}

	manager := s.browser()
	manager.signIn(writer)
	page = manager.page("/acme/charts/access")
	wantAll(t, page, "crt_", "write_packages", "team/*", "There are none: no OIDC token is admitted", "another replica may have taken a token since")
	for _, secret := range []string{reader, writer, confined, deleter} {
		wantNone(t, page, secret, s.snapshot.Tokens[0].SHA256)
	}

	blind := s.browser()
	blind.signIn(deleter)
	wantAll(t, blind.page("/acme/charts"), "none that your token may read")

	if a := b.do(http.MethodPost, "/-/sign-out", url.Values{}); a.StatusCode != http.StatusSeeOther || b.cookie != nil {
		t.Errorf("sign-out: %s, the cookie is %v", a.Status, b.cookie)
	}
	if a := b.get("/acme/charts"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("after signing out: %s", a.Status)
	}
	for _, o := range s.seen {
		if strings.Contains(fmt.Sprint(o), writer) {
			t.Errorf("a secret is noted: %+v", o)
		}
	}
	wantNone(t, s.log.String(), reader, writer)
}

func TestSignInRefuses(t *testing.T) {
	s := newSite(t, wire.Private)
	good := s.token("*", wire.ReadPackages, wire.WritePackages)
	s.reload()
	session, err := s.enforcer.Exchange(t.Context(), good, nil)
	ok(t, err)
	for name, token := range map[string]string{
		"nothing": "", "a word": "hunter22", "another's": "crt_00000000_" + strings.Repeat("a", 43) + "_000000", "a session token": session.Token, "a JWT": "eyJhbGciOiJub25lIn0.e30.", "markup": `"><script>`,
	} {
		b := s.browser()
		a := b.do(http.MethodPost, "/-/sign-in?next=/acme/charts", url.Values{"token": {token}})
		if a.StatusCode != http.StatusForbidden || b.cookie != nil || !strings.Contains(a.body, `role="alert"`) {
			t.Errorf("%s: %s", name, a.Status)
		}
		if token != "" {
			wantNone(t, a.body, token)
		}
		if o := s.seen[len(s.seen)-1]; o.Action != audit.Exchange {
			t.Errorf("%s is noted as %s", name, o.Action)
		}
	}
	b := s.browser()
	if a := b.do(http.MethodPost, "/-/sign-in", url.Values{"token": {strings.Repeat("x", 40<<10)}}); a.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a form of 40 KiB: %s", a.Status)
	}
	if a := b.do(http.MethodPost, "/-/sign-in?token="+url.QueryEscape(good), url.Values{}); a.StatusCode != http.StatusForbidden {
		t.Errorf("a token in the address: %s", a.Status)
	}
	b.origin = "https://evil.example"
	if a := b.do(http.MethodPost, "/-/sign-in", url.Values{"token": {good}}); a.StatusCode != http.StatusForbidden || b.cookie != nil {
		t.Errorf("from another site: %s", a.Status)
	}
	s.busy = true
	if a := s.browser().do(http.MethodPost, "/-/sign-in", url.Values{"token": {good}}); a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" {
		t.Errorf("too often: %s", a.Status)
	}
}

// Where one comes to after signing in is a page of this registry.
func TestNoOpenRedirect(t *testing.T) {
	s := newSite(t, wire.Private)
	token := s.token("*", wire.ReadPackages)
	s.reload()
	for next, want := range map[string]string{
		"/acme/charts/publish": "/acme/charts/publish", "/acme/charts?q=a&page=2": "/acme/charts?q=a&page=2", "": "/acme/charts",
		"https://evil.example": "/acme/charts", "//evil.example": "/acme/charts", `/\evil.example`: "/acme/charts", `\\evil.example`: "/acme/charts", "/acme/charts//evil.example": "/acme/charts",
		"https:/acme/charts": "/acme/charts", "javascript:x": "/acme/charts", "/acme/charts\r\nX: y": "/acme/charts", "/acme/chartsx": "/acme/charts", "/": "/acme/charts", "http://u@/acme/charts": "/acme/charts",
		"/%5cevil.example": "/acme/charts", "/acme/charts/../../evil": "/acme/charts/../../evil",
	} {
		a := s.browser().do(http.MethodPost, "/-/sign-in?"+url.Values{"next": {next}}.Encode(), url.Values{"token": {token}})
		if got := a.Header.Get("Location"); got != want && got != "/evil" {
			t.Errorf("%q leads to %q, want %q", next, got, want)
		}
	}
}

func TestTemporaryToken(t *testing.T) {
	s := newSite(t, wire.Private)
	writer := s.token("web,team/*", wire.ReadPackages, wire.WritePackages, wire.DeletePackages)
	s.reload()
	b := s.browser()
	b.signIn(writer)
	wantAll(t, b.page("/acme/charts/publish"), "Make a temporary token")
	a := b.do(http.MethodPost, "/acme/charts/publish", url.Values{})
	_, rest, _ := strings.Cut(a.body, `id="temporary-token">`)
	token, _, _ := strings.Cut(rest, "<")
	if a.StatusCode != http.StatusOK || !strings.HasPrefix(token, "crs_") || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s, token %.10q, %v", a.Status, token, a.Header)
	}
	id, err := s.enforcer.Authenticate(t.Context(), access.Credentials{Secret: token, Present: true})
	ok(t, err)
	for chart, c := range map[string]struct {
		scope wire.Scope
		want  bool
	}{"web": {wire.WritePackages, true}, "team/db": {wire.ReadPackages, true}, "old": {wire.WritePackages, false}, "team/x": {wire.DeletePackages, false}} {
		if got := s.enforcer.Authorize(id, c.scope, chart).Allowed; got != c.want {
			t.Errorf("%s on %s: %v", c.scope, chart, got)
		}
	}
	// It is no way to stay signed in, and the cookie is none to push with.
	if a := s.browser().do(http.MethodPost, "/-/sign-in", url.Values{"token": {token}}); a.StatusCode != http.StatusForbidden {
		t.Errorf("signing in with it: %s", a.Status)
	}
	if _, err := s.enforcer.Authenticate(t.Context(), access.Credentials{Secret: b.cookie.Value, Present: true}); err == nil {
		t.Error("the cookie is taken by the API")
	}
	other := s.browser()
	other.cookie = &http.Cookie{Name: "__Host-chartroom", Value: token}
	if a := other.get("/acme/charts"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("it is taken for a cookie: %s", a.Status)
	}
	b.origin = "https://evil.example"
	if a := b.do(http.MethodPost, "/acme/charts/publish", url.Values{}); a.StatusCode != http.StatusForbidden || strings.Contains(a.body, "crs_") {
		t.Errorf("asked for by another site: %s", a.Status)
	}
	wantNone(t, s.log.String(), token)
	s.now = s.now.Add(16 * time.Minute)
	if _, err := s.enforcer.Authenticate(t.Context(), access.Credentials{Secret: token, Present: true}); err == nil {
		t.Error("it lives on")
	}
}

// What takes the token away takes the session away, at once.
func TestSessionEnds(t *testing.T) {
	s := newSite(t, wire.Private)
	token := s.token("*", wire.ReadPackages)
	s.reload()
	b := s.browser()
	b.signIn(token)
	kept := b.cookie
	b.page("/acme/charts")
	s.snapshot.Tokens = nil
	s.reload()
	if a := b.get("/acme/charts"); a.StatusCode != http.StatusSeeOther || b.cookie != nil {
		t.Errorf("with a token that was revoked: %s, the cookie is %v", a.Status, b.cookie)
	}
	again := s.browser()
	s.snapshot.Tokens = append(s.snapshot.Tokens, tokenOf(t, token))
	s.reload()
	again.cookie = kept
	again.page("/acme/charts")
	s.now = s.now.Add(61 * time.Minute)
	if a := again.get("/acme/charts"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("after an hour: %s", a.Status)
	}
}

func tokenOf(t *testing.T, secret string) wire.Token {
	t.Helper()
	parsed, err := access.ParseToken(secret)
	ok(t, err)
	return wire.Token{ID: parsed.ID(), SHA256: parsed.SHA256(), Scopes: []wire.Scope{wire.ReadPackages}, Charts: []string{"*"}}
}

func TestPolicyTester(t *testing.T) {
	s := newSite(t, wire.Private)
	writer := s.token("*", wire.ReadPackages, wire.WritePackages)
	s.snapshot.Policies = []wire.Policy{{Name: "team/ci", Statements: []any{map[string]any{
		"iss": "https://issuer.example", "scopes": []any{"read_packages", "write_packages"}, "claims": map[string]any{"repository": "acme/web"}, "charts": []any{"web"},
	}}}}
	s.snapshot.Version = wire.AccessVersionPolicies
	s.reload()
	b := s.browser()
	b.signIn(writer)
	wantAll(t, b.page("/acme/charts/access"), "team/ci", "https://issuer.example")
	for claims, words := range map[string]string{
		`{"iss": "https://issuer.example", "repository": "acme/web"}`:   "Admitted",
		`{"iss": "https://issuer.example", "repository": "acme/other"}`: "claims.repository",
		`{"iss": "https://other.example"}`:                              "Not admitted",
		`[]`:                                                            "claims are a map",
		`{"a": `:                                                        `role="alert"`,
		`eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0.c2ln`:                      "the middle one of its three parts",
		`</textarea><script>window.__xss=1</script>`:                    "&lt;/textarea&gt;",
	} {
		a := b.do(http.MethodPost, "/acme/charts/access", url.Values{"claims": {claims}})
		wantAll(t, a.body, words)
		wantNone(t, a.body, "<script>window")
	}
}

// A chart with very many versions, or a registry of very many charts, makes no larger page.
func TestPaging(t *testing.T) {
	s := newSite(t, wire.Public)
	c := webChart("web", "1.0.0", nil)
	s.push("web", c, "1.0.0")
	repo, err := s.store.Repository("web")
	ok(t, err)
	for i := range 250 {
		_, err := repo.PutManifest(t.Context(), fmt.Sprintf("1.0.%d", i+1), charttest.ManifestMediaType, c.Manifest, "x")
		ok(t, err)
	}
	s.until(func() bool { return len(s.inventory.Versions("web")) == 251 })
	b := s.browser()
	page := b.page(versionPath("web", "1.0.0", "versions"))
	wantAll(t, page, "Page 1 of 3", `href="?page=2"`, "1.0.250")
	if rows := strings.Count(page, `<th scope="row">`); rows != 100 {
		t.Errorf("%d rows", rows)
	}
	wantAll(t, b.page(versionPath("web", "1.0.0", "versions")+"?page=3"), "Page 3 of 3", ">1.0.0<")
}

func TestBusy(t *testing.T) {
	s := newSite(t, wire.Public)
	s.busy = true
	if a := s.browser().get("/acme/charts"); a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" {
		t.Errorf("%s", a.Status)
	}
}

func TestMethods(t *testing.T) {
	s := newSite(t, wire.Public)
	for path, methods := range map[string][]string{
		"/": {"POST", "PUT", "DELETE", "PATCH", "OPTIONS"}, "/acme/charts": {"POST", "DELETE"}, "/-/sign-out": {"GET", "HEAD"}, "/-/sign-in": {"PUT"}, "/acme/charts/publish": {"PUT"},
	} {
		for _, m := range methods {
			if a := s.browser().do(m, path, nil); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") == "" {
				t.Errorf("%s %s: %s", m, path, a.Status)
			}
		}
	}
}

// On plain HTTP a token could be read by others, except on the machine itself.
func TestPlainHTTP(t *testing.T) {
	s := newSite(t, wire.Private, func(o *web.Options) { o.ExternalURL = &url.URL{Scheme: "http", Host: "charts.team-a.svc"} })
	token := s.token("*", wire.ReadPackages)
	s.reload()
	for host, possible := range map[string]bool{"charts.team-a.svc": false, "10.0.0.7:5000": false, "localhost:8080": true, "127.0.0.1:5000": true, "[::1]:5000": true, "localhost.evil.example": false} {
		a, cookies := plain(s, host, token)
		if possible != (a == http.StatusSeeOther) || possible != (len(cookies) == 1) {
			t.Errorf("%s: status %d, cookies %v", host, a, cookies)
		}
		if possible && (cookies[0].Name != "chartroom" || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode) {
			t.Errorf("%s: %+v", host, cookies[0])
		}
	}
}

// Whatever page there is of a version, nobody sees it who may not read the chart, and all say so in the same way.
func TestEachPageIsGuarded(t *testing.T) {
	s := newSite(t, wire.Private)
	confined, deleter := s.token("team/*", wire.ReadPackages, wire.WritePackages), s.token("*", wire.WritePackages, wire.DeletePackages)
	revoked := s.token("*", wire.ReadPackages)
	s.reload()
	s.furnish()
	viewers := map[string]*browser{"confined": s.browser(), "one that only writes": s.browser(), "revoked": s.browser(), "anonymous": s.browser(), "forged": s.browser()}
	viewers["confined"].signIn(confined)
	viewers["one that only writes"].signIn(deleter)
	viewers["revoked"].signIn(revoked)
	viewers["forged"].cookie = &http.Cookie{Name: "__Host-chartroom", Value: "crs_0011223344556677_e30.AAAA"}
	s.snapshot.Tokens = s.snapshot.Tokens[:2]
	s.reload()
	for _, tab := range append(web.Below(), "") {
		for name, b := range viewers {
			want := http.StatusSeeOther
			if b.cookie != nil && (name == "confined" || name == "one that only writes") {
				want = http.StatusNotFound
			}
			path := versionPath("web", "1.1.0", tab)
			a := b.get(path)
			if a.StatusCode != want || strings.Contains(a.body, "Serves the web") {
				t.Errorf("%s, %s: %s", name, path, a.Status)
			}
			missing := b.get(versionPath("web", "9.9.9", tab))
			if missing.StatusCode != want {
				t.Errorf("%s, %s: what is missing answers %s", name, path, missing.Status)
			}
		}
	}
}

// However large a text is, the page of it is not; and what is cut off is said.
func TestLargeTexts(t *testing.T) {
	s := newSite(t, wire.Public)
	var large strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&large, "key%d: value\n", i)
	}
	s.push("web", webChart("web", "1.0.0", nil, charttest.File("web/values.yaml", large.String()), charttest.File("web/README.md", "# Large\n"+large.String())), "1.0.0")
	s.push("web", webChart("web", "0.9.0", nil, charttest.File("web/README.md", "")), "0.9.0")
	b := s.browser()
	page := b.page(versionPath("web", "1.0.0", "values"))
	wantAll(t, page, "key4999<", "35\u202f000 more lines are not shown")
	wantNone(t, page, "key5000<")
	if s.load != web.Text || len(page) > 2<<20 {
		t.Errorf("a page of %d bytes, as a load of %d", len(page), s.load)
	}
	page = b.page(versionPath("web", "1.0.0", "readme"))
	wantAll(t, page, `<pre class="plain"`, "This is the beginning of it")
	wantAll(t, b.page(versionPath("web", "0.9.0", "readme")), "The README is empty")
}

// A manifest of 256 KiB could become one of 16 MiB, all of which a slow client would keep in memory.
func TestIndent(t *testing.T) {
	if got := string(web.Indent([]byte(`{"a":"\"[","b":[1]}`))); got != "{\n  \"a\": \"\\\"[\",\n  \"b\": [\n    1\n  ]\n}" {
		t.Errorf("it is %s", got)
	}
	inner := strings.Repeat(`"[",`, 10_000)
	wide := `{"a":[` + inner + `1]}`
	if got := string(web.Indent([]byte(wide))); strings.Count(got, "\n") != 10_004 {
		t.Errorf("a long list has %d lines", strings.Count(got, "\n"))
	}
	for _, separator := range []string{"1,", "[],", "{},"} {
		deep := strings.Repeat("[", 60) + strings.Repeat(separator, 60_000) + "1" + strings.Repeat("]", 60)
		if got := web.Indent([]byte(deep)); len(got) != len(deep) {
			t.Errorf("%d bytes with %s become %d", len(deep), separator, len(got))
		}
	}
}

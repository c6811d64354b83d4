package web_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/web"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
)

// wantSmall wants a page to take no more than what its places are reckoned with.
func (b *browser) wantSmall(target string) string {
	b.Helper()
	page := b.page(target)
	most := map[web.Load]int{web.Listing: 512 << 10, web.Text: 4 << 20}[b.load]
	if len(page) > most {
		b.Errorf("%s has %d bytes, and is admitted as one of %d", target, len(page), most)
	}
	return page
}

// What a chart says of itself is on each of its pages, and there are places for many of those.
func TestLargeDetails(t *testing.T) {
	quotes := strings.Repeat("'", 4<<10)
	many := func(n int, item any) []any {
		all := make([]any, n)
		for i := range all {
			all[i] = item
		}
		return all
	}
	annotations := map[string]string{}
	for i := range 200 {
		annotations[fmt.Sprintf("a%03d", i)] = quotes
	}
	address := "https://x.example/" + quotes
	s := newSite(t, wire.Public)
	for version, fields := range map[string]map[string]any{
		"1.0.0": {"annotations": annotations, "description": quotes},
		"1.1.0": {"sources": many(200, address), "home": address, "appVersion": quotes, "kubeVersion": quotes},
		"1.2.0": {"maintainers": many(200, map[string]string{"name": quotes[:1500], "email": quotes[:1500], "url": address[:1500]})},
		"1.3.0": {"keywords": many(200, quotes)},
		"1.4.0": {"dependencies": many(50, map[string]string{"name": quotes, "version": quotes, "repository": address, "condition": quotes, "alias": quotes})},
	} {
		s.push("web", webChart("web", version, fields, charttest.File("web/README.md", "x")), version)
		b := s.browser()
		for _, tab := range append(web.Below(), "") {
			if strings.Contains(tab, ".") || version != "1.0.0" && tab != "" && tab != "dependencies" {
				continue
			}
			wantAll(t, b.wantSmall(versionPath("web", version, tab)), "It says more of itself than is shown here")
		}
	}
	s.push("web", webChart("web", "2.0.0", map[string]any{"annotations": map[string]string{"a": quotes}}), "2.0.0")
	page := s.browser().page(versionPath("web", "2.0.0", ""))
	wantAll(t, page, strings.ReplaceAll(quotes, "'", "&#39;"))
	wantNone(t, page, "It says more of itself")
}

// A manifest that is no chart's can have as many parts as it has room for.
func TestLargeForeignManifests(t *testing.T) {
	s := newSite(t, wire.Public)
	repo, err := s.store.Repository("web")
	ok(t, err)
	ok(t, repo.PutBlob(t.Context(), "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", strings.NewReader("{}"), 2))
	layer := charttest.Descriptor("x", []byte("{}"))
	for tag, c := range map[string]struct{ from, to string }{
		"layers":      {`"layers":[]`, `"layers":[` + strings.Repeat(layer+",", (250<<10)/(len(layer)+1)-10) + layer + `]`},
		"types":       {`"layers":[]`, `"layers":[` + charttest.Descriptor(strings.Repeat("'", 100<<10), []byte("{}")) + `]`},
		"annotations": {`"annotations":{`, `"annotations":{"a":"` + strings.Repeat("'", 250<<10) + `",`},
		"type":        {`"application/x"`, `"` + strings.Repeat("'", 250<<10) + `"`},
		"config":      {`"application/vnd.oci.empty.v1+json"`, `"` + strings.Repeat("'", 250<<10) + `"`},
	} {
		manifest := strings.Replace(string(manifestOf("", "application/x")), c.from, c.to, 1)
		s.pushManifest("web", []byte(manifest), tag)
		b := s.browser()
		b.wantSmall(versionPath("web", tag, ""))
		b.wantSmall(versionPath("web", tag, "manifest"))
	}
}

// What comes with a version has names that others chose.
func TestLargeCompany(t *testing.T) {
	s := newSite(t, wire.Public)
	details := map[string]any{"keywords": slices.Repeat([]string{strings.Repeat("'", 256)}, 200)}
	charts, templates := []charttest.Entry{noise(t)}, []charttest.Entry{noise(t)}
	for i := range 150 {
		name := fmt.Sprint(strings.Repeat("'", 900), i)
		charts, templates = append(charts, charttest.File("web/charts/"+name+"/x", "")), append(templates, charttest.File("web/templates/"+name, ""))
	}
	s.push("web", webChart("web", "1.1.0", details, templates...), "1.1.0")
	subject := s.push("web", webChart("web", "1.0.0", details, charts...), "1.0.0")
	repo, err := s.store.Repository("web")
	ok(t, err)
	ok(t, repo.PutBlob(t.Context(), "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", strings.NewReader("{}"), 2))
	for i := range 301 {
		s.pushManifest("web", manifestOf(subject, fmt.Sprint("application/x", strings.Repeat("'", 300), i)), "")
	}
	b := s.browser()
	wantAll(t, b.wantSmall(versionPath("web", "1.1.0", "templates")), "more files than are shown")
	wantAll(t, b.wantSmall(versionPath("web", "1.0.0", "dependencies")), "more files than are shown")
	wantAll(t, b.wantSmall(versionPath("web", "1.0.0", "signatures")), "There are more than are shown here")
}

// worst are texts of which each byte, line or path becomes much more on a page.
func worst() map[string]string {
	quotes := strings.Repeat("'", 240)
	return map[string]string{
		"tokens": strings.Repeat("[1,a,", 52<<10),
		"keys":   strings.Repeat(`{"a":`, 52<<10),
		"quotes": strings.Repeat("'", 256<<10),
		"lines":  strings.Repeat("\n", 1<<20),
		"short":  strings.Repeat("a: [1,a,1,a,1,a,1,a,1,a,1,a,1,a,1,a,1,a,1,a,1,a]\n", 5000),
		"paths":  "k" + quotes + ":\n" + strings.Repeat(" a: 1\n", 5000),
		"all":    "k" + quotes + ":\n" + strings.Repeat(" a: [,,,,,,\"'''''''''''''''''''''''''''''''''''''\"]\n", 5000),
		"line":   strings.Repeat("'", 1<<20),
	}
}

// noise keeps an archive from being taken for a bomb.
func noise(t *testing.T) charttest.Entry {
	t.Helper()
	b := make([]byte, 32<<10)
	_, err := rand.Read(b)
	ok(t, err)
	return charttest.File("web/noise", string(b))
}

func TestWorstTexts(t *testing.T) {
	s := newSite(t, wire.Public)
	b := s.browser()
	for name, text := range worst() {
		version := "1.0.0-" + name
		s.push("web", webChart("web", version, nil, noise(t), charttest.File("web/values.yaml", text), charttest.File("web/values.schema.json", text), charttest.File("web/README.md", text), charttest.File("web/templates/a", text)), version)
		tabs := []string{"values"}
		if name == "all" {
			tabs = append(tabs, "schema", "readme", "templates?file=templates/a")
		}
		for _, tab := range tabs {
			page := b.wantSmall(versionPath("web", version, tab))
			wantNone(t, page, "cannot be read")
			if len(text) == 1<<20 && tab == "values" {
				wantAll(t, page, "not shown")
			}
		}
	}
}

// What changed can be as large as what it changed in, and much larger in HTML.
func TestWorstDiffs(t *testing.T) {
	s := newSite(t, wire.Public)
	lines := func(text string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%s%d\n", text, i)
		}
		return b.String()
	}
	for version, text := range map[string]string{
		"1.0.0": strings.Repeat("'", 1<<20-1), "1.1.0": strings.Repeat("\"", 1<<20-1),
		"2.0.0": lines("a", 20_000), "2.1.0": lines("b", 20_000),
		"3.0.0": lines(strings.Repeat("'", 100), 9000), "3.1.0": lines(strings.Repeat("\"", 100), 9000),
		"4.0.0": "same\n" + lines("a", 10) + lines("x", 20) + lines("y", 6000), "4.1.0": "same\n" + lines("b", 10) + lines("x", 20) + lines("z", 6000),
	} {
		s.push("web", webChart("web", version, nil, noise(t), charttest.File("web/values.yaml", text)), version)
	}
	b := s.browser()
	for before, words := range map[string][]string{
		"1.0": {"1 line added, 1 line removed", "<code>&#39;&#39;", "…</code>"},
		"2.0": {"20\u202f000 lines added, 20\u202f000 lines removed", "<code>a0</code>", "<code>a4999</code>"},
		"3.0": {"9\u202f000 lines added", "&#39;0</code>", "&#39;2000</code>"},
		"4.0": {"6\u202f010 lines added", "<code>same</code>", "<code>b9</code>", "<code>y4900</code>"},
	} {
		page := b.wantSmall(versionPath("web", before+".0", "values") + "?against=" + before[:1] + ".0.0")
		wantAll(t, page, "The values are the same")
		page = b.wantSmall(versionPath("web", before[:1]+".1.0", "values") + "?against=" + before + ".0")
		wantAll(t, page, append(words, "this is the beginning of it")...)
		wantNone(t, page, "<code>a5000</code>", ";3000</code>", "<code>z0")
	}
}

// stuck is a client that takes nothing.
type stuck struct {
	http.ResponseWriter
	asked   chan<- int
	release <-chan struct{}
	wrote   bool
}

func (s *stuck) Write(p []byte) (int, error) {
	if !s.wrote {
		s.wrote = true
		size, _ := strconv.Atoi(s.Header().Get("Content-Length"))
		s.asked <- size
		<-s.release
	}
	return len(p), nil
}

// Who takes a page slowly makes the server keep the page, and neither what it was made of nor room for more.
func TestSlowClientsHoldTheirPageAlone(t *testing.T) {
	s := newSite(t, wire.Public)
	s.push("web", webChart("web", "1.0.0", nil, noise(t), charttest.File("web/values.yaml", worst()["all"])), "1.0.0")
	path := versionPath("web", "1.0.0", "values")
	s.browser().page(path)
	held := func() int {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := held()
	asked, release := make(chan int), make(chan struct{})
	var clients sync.WaitGroup
	pages := 0
	for range 4 {
		clients.Go(func() {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://charts.example.com"+path, nil)
			s.handler.ServeHTTP(&stuck{ResponseWriter: httptest.NewRecorder(), asked: asked, release: release}, r)
		})
		pages += <-asked
	}
	if got := held() - before; got > pages+pages/5 {
		t.Errorf("%d bytes are held for pages of %d", got, pages)
	}
	close(release)
	clients.Wait()
}

// slow is an inventory that makes lists for as long as it is let, and counts those.
type slow struct {
	many
	making  atomic.Int64
	release chan struct{}
}

func (s *slow) Charts(may func(string) bool) []inventory.Chart {
	s.making.Add(1)
	<-s.release
	return s.many.Charts(may)
}

func (*slow) Building() bool { return false }

func (*slow) Totals(func(string) bool) inventory.Totals { return inventory.Totals{} }

// A list of all charts takes megabytes while it is made, and a page with a part of it does not.
func TestFewListsAreMadeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{release: make(chan struct{})}
		enforcer := access.NewEnforcer(access.EnforcerOptions{Registry: "acme/charts", StateDir: t.TempDir()})
		_, err := enforcer.Push(wire.Access{Visibility: wire.Public, Revision: 1}.Encode())
		ok(t, err)
		h := web.New(web.Options{Inventory: s, Access: enforcer, Organization: "acme", Registry: "charts", ExternalURL: &url.URL{Scheme: "https", Host: "charts.example.com"}})
		get := func(ctx context.Context) int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "https://charts.example.com/acme/charts", nil))
			return w.Code
		}
		var clients sync.WaitGroup
		for range 10 {
			clients.Go(func() {
				if code := get(t.Context()); code != http.StatusOK {
					t.Errorf("it is answered %d", code)
				}
			})
		}
		synctest.Wait()
		if n := s.making.Load(); n != 4 {
			t.Errorf("%d lists are made at once", n)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if code := get(gone); code != http.StatusRequestTimeout {
			t.Errorf("who has gone is answered %d", code)
		}
		close(s.release)
		clients.Wait()
	})
}

// A chart with very many versions makes no larger page than one with a page full.
func TestFiveThousandVersions(t *testing.T) {
	m := &many{}
	s := newSite(t, wire.Public, func(o *web.Options) {
		m.Reader = o.Inventory
		o.Inventory = m
	})
	quotes := strings.Repeat("'", 256)
	s.push("web", webChart("web", "1.0.0", map[string]any{"keywords": slices.Repeat([]string{quotes}, 200)}), "1.0.0")
	for i := range 5000 {
		v := inventory.Version{Tag: fmt.Sprintf("1.%d.0", 5000-i), Chart: true, AppVersion: quotes, PushedBy: strings.Repeat(quotes, 4), PushedAt: s.now, Digest: digest.FromString(fmt.Sprint(i))}
		if i%5 == 4 {
			v.Tag += "-rc.1"
		}
		m.versions = append(m.versions, v)
	}
	b := s.browser()
	path := versionPath("web", "1.0.0", "versions")
	page := b.wantSmall(path)
	wantAll(t, page, "Page 1 of 40", `href="?page=2"`, "<bdi>1.5000.0</bdi>", "Show 1\u202f000 more")
	wantNone(t, page, "-rc.1</bdi>", "Previous</a>")
	if rows := strings.Count(page, `<th scope="row">`); rows != 100 {
		t.Errorf("%d rows", rows)
	}
	page = b.wantSmall(path + "?all&page=50")
	wantAll(t, page, "Page 50 of 50", "<bdi>1.1.0-rc.1</bdi>", "Show releases only")
	wantNone(t, page, `rel="next"`)
	page = b.wantSmall(path + "?page=20")
	wantAll(t, page, "Page 20 of 40", `rel="prev"`, `rel="next"`)

	for i := range 60 {
		m.charts = append(m.charts, inventory.Chart{Name: fmt.Sprint(strings.Repeat("a", 250), i), Latest: inventory.Version{Tag: "1.0.0", Description: quotes, AppVersion: quotes}})
	}
	wantAll(t, b.wantSmall("/acme/charts"), "Page 1 of 2")
}

package transfer_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/transfer"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// web is a classic chart repository, or another web server that one names.
type web struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string]string
	// credentials that were sent, by path.
	sent map[string]string
	// answer, when not nil, answers in place of the files; false leaves a request to them.
	answer func(w http.ResponseWriter, r *http.Request) bool
}

func newWeb(t *testing.T) *web {
	t.Helper()
	s := &web{files: map[string]string{}, sent: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.sent[r.URL.Path] = r.Header.Get("Authorization")
		content, found := s.files[r.URL.Path]
		s.mu.Unlock()
		if s.answer != nil && s.answer(w, r) {
			return
		}
		if !found {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, content)
	}))
	t.Cleanup(s.Close)
	return s
}

// source is the repository as a source. maxArchive bounds a chart.
func (s *web) source(t *testing.T, maxArchive int64) *transfer.Classic {
	t.Helper()
	u, err := url.Parse(s.URL + "/charts")
	ok(t, err)
	return transfer.NewClassic(t.Context(), transfer.Remote{URL: u, Username: "me", Password: "secret"}, maxArchive)
}

// index is an index.yaml of one version.
func index(name, version, sum, address string) string {
	return fmt.Sprintf("apiVersion: v1\nentries:\n  %s:\n  - name: %s\n    version: %s\n    digest: %q\n    created: \"2024-01-02T03:04:05Z\"\n    urls: [%q]\n", name, name, version, sum, address)
}

func sum(content string) string { return digest.FromString(content).Encoded() }

// The manifest was made by helm 4.3.1 of the chart beside it, with `helm push`.
func TestClassicChartBecomesWhatHelmPushes(t *testing.T) {
	t.Parallel()
	archive, err := os.ReadFile("../publish/testdata/old.tgz")
	ok(t, err)
	want, err := os.ReadFile("../publish/testdata/old.manifest.json")
	ok(t, err)
	s := newWeb(t)
	s.files["/charts/old.tgz"] = string(archive)
	s.files["/charts/index.yaml"] = index("old", "0.9.0-rc.1+b1", sum(string(archive)), "old.tgz")
	to, _ := newStore(t)
	if diff := cmp.Diff([]string{"imported old 0.9.0-rc.1_b1"}, outcomes(t, s.source(t, 1<<20), transfer.Store{Store: to}, transfer.Options{})); diff != "" {
		t.Error(diff)
	}
	_, got, err := transfer.Store{Store: to}.Manifest(t.Context(), "old", "0.9.0-rc.1_b1")
	if diff := cmp.Diff(string(want), string(got)); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

func TestClassicIsGoneOnWith(t *testing.T) {
	t.Parallel()
	s := newWeb(t)
	content := string(charttest.New("web", "1.0.0", 500).Content)
	s.files["/charts/web-1.0.0.tgz"] = content
	s.files["/charts/web-1.0.0.tgz.prov"] = "-----BEGIN PGP SIGNED MESSAGE-----\n"
	to, _ := newStore(t)
	target := transfer.Store{Store: to}
	for _, step := range []struct{ sum, want string }{
		{sum(content), "imported web 1.0.0"}, {sum(content), "present web 1.0.0"}, {"", "present web 1.0.0"},
		{sum("other"), "conflict web 1.0.0"},
	} {
		s.files["/charts/index.yaml"] = index("web", "1.0.0", step.sum, s.URL+"/charts/web-1.0.0.tgz")
		if diff := cmp.Diff([]string{step.want}, outcomes(t, s.source(t, 1<<20), target, transfer.Options{})); diff != "" {
			t.Error(diff)
		}
	}
	_, manifest, err := target.Manifest(t.Context(), "web", "1.0.0")
	if err != nil || !strings.Contains(string(manifest), "provenance.v1.prov") {
		t.Errorf("the provenance is missing: %s, %v", manifest, err)
	}
	if got := s.sent["/charts/web-1.0.0.tgz"]; !strings.HasPrefix(got, "Basic ") {
		t.Errorf("credentials sent to the repository's own host: %q", got)
	}
}

func TestRefusedClassicCharts(t *testing.T) {
	t.Parallel()
	good := string(charttest.New("web", "1.0.0", 500).Content)
	for name, c := range map[string]struct{ index, content string }{
		"wrong digest":       {index("web", "1.0.0", sum("other"), "web.tgz"), good},
		"no digest":          {index("web", "1.0.0", "xyz", "web.tgz"), good},
		"other name":         {index("shop", "1.0.0", sum(good), "web.tgz"), good},
		"other version":      {index("web", "1.0.1", sum(good), "web.tgz"), good},
		"no chart":           {index("web", "1.0.0", "", "web.tgz"), "<html>"},
		"no archive":         {index("web", "1.0.0", "", "gone.tgz"), good},
		"no HTTP":            {index("web", "1.0.0", "", "file:///etc/passwd"), good},
		"name of no chart":   {index("WEB", "1.0.0", sum(good), "web.tgz"), good},
		"larger than may be": {index("web", "1.0.0", "", "web.tgz"), good + strings.Repeat("x", 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newWeb(t)
			s.files["/charts/index.yaml"], s.files["/charts/web.tgz"] = c.index, c.content
			to, _ := newStore(t)
			got := outcomes(t, s.source(t, 1<<20), transfer.Store{Store: to}, transfer.Options{})
			if names, _, err := to.Repositories(t.Context(), 0, ""); len(got) != 1 || !strings.HasPrefix(got[0], "failed ") || err != nil || len(names) != 0 {
				t.Errorf("%q, stored %v, %v", got, names, err)
			}
		})
	}
}

func TestIndexThatIsNone(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "<html>", "a: [", `{"entries"`, "entries: 3"} {
		s := newWeb(t)
		s.files["/charts/index.yaml"] = content
		if v, err := s.source(t, 1<<20).Versions(t.Context()); err == nil {
			t.Errorf("%q: %v", content, v)
		}
	}
}

func TestIndexInJSON(t *testing.T) {
	t.Parallel()
	s := newWeb(t)
	content, err := json.Marshal(map[string]any{"entries": map[string]any{"web": []object{{"version": "1.0.0+a", "created": time.Now(), "urls": []string{"web.tgz"}}}}})
	ok(t, err)
	s.files["/charts/index.yaml"] = string(content)
	v, err := s.source(t, 1<<20).Versions(t.Context())
	if err != nil || len(v) != 1 || v[0].Chart != "web" || v[0].Tag != "1.0.0_a" {
		t.Errorf("%+v, %v", v, err)
	}
}

// Credentials go to the repository's host alone, whether an index or a redirect leads away from it.
func TestCredentialsStayWithTheirHost(t *testing.T) {
	t.Parallel()
	content := string(charttest.New("web", "1.0.0", 500).Content)
	for name, address := range map[string]func(s, other *web) string{
		"index":    func(_, other *web) string { return other.URL + "/web.tgz" },
		"redirect": func(*web, *web) string { return "/away.tgz" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, other := newWeb(t), newWeb(t)
			other.files["/web.tgz"] = content
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/away.tgz" {
					return false
				}
				http.Redirect(w, r, other.URL+"/web.tgz", http.StatusFound)
				return true
			}
			s.files["/charts/index.yaml"] = index("web", "1.0.0", sum(content), address(s, other))
			to, _ := newStore(t)
			if got := outcomes(t, s.source(t, 1<<20), transfer.Store{Store: to}, transfer.Options{}); !slices.Equal(got, []string{"imported web 1.0.0"}) {
				t.Errorf("%q", got)
			}
			if got, asked := other.sent["/web.tgz"]; !asked || got != "" {
				t.Errorf("asked %t, with %q", asked, got)
			}
		})
	}
}

func TestRedirectsAreBounded(t *testing.T) {
	t.Parallel()
	s := newWeb(t)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
		return true
	}
	if _, err := s.source(t, 1<<20).Versions(t.Context()); err == nil || !strings.Contains(err.Error(), "redirects") {
		t.Errorf("error %v", err)
	}
}

// What fails for the moment, or breaks off, is tried again.
func TestDownloadsAreTriedAgain(t *testing.T) {
	t.Parallel()
	content := string(charttest.New("web", "1.0.0", 5000).Content)
	s := newWeb(t)
	s.files["/charts/index.yaml"], s.files["/charts/web.tgz"] = index("web", "1.0.0", sum(content), "web.tgz"), content
	asked := 0
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/charts/web.tgz" {
			return false
		}
		switch asked++; asked {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, _ = io.WriteString(w, content[:100])
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	}
	to, _ := newStore(t)
	if got := outcomes(t, s.source(t, 1<<20), transfer.Store{Store: to}, transfer.Options{}); !slices.Equal(got, []string{"imported web 1.0.0"}) || asked != 3 {
		t.Errorf("%q after %d tries", got, asked)
	}
}

var _ transfer.Target = transfer.Store{Store: (*repository.Store)(nil)}

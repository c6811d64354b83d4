package inventory_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
)

// helm finds every version in an index, whatever is strange about the charts.
func TestHelmReadsTheIndex(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 20<<10)
	r := built(t, newBucket(t), nil)
	for _, version := range []string{"1.0.0", "1.10.0", "1.9.0", "2.0.0-rc.1", "1.10.0+build.2", "v0.9"} {
		r.push("team/web", version, fields{"appVersion": "1.0", "description": "of \"the\" 'web': <b>\n#x", "annotations": map[string]string{"x": long}})
	}
	r.push("web", "1.10.0", fields{"description": "the other one", "keywords": []string{"yes", "1.0", "~"}})
	r.push("all", "1.0.0", fields{
		"home": "https://example.com", "icon": "https://example.com/i.svg", "sources": []string{"https://example.com/s"}, "kubeVersion": ">=1.30.0-0", "deprecated": true,
		"maintainers":  []any{map[string]string{"name": "A", "email": "a@example.com", "url": "https://example.com/a"}},
		"dependencies": []any{map[string]any{"name": "redis", "version": "1.x", "repository": "https://example.com", "alias": "cache", "condition": "x.y", "tags": []string{"t"}, "import-values": []any{"data", map[string]string{"child": "a", "parent": "b"}}}},
	})
	r.push("strange", "1.0.0", fields{"maintainers": []any{nil}, "dependencies": []any{nil}, "keywords": []any{nil}, "annotations": map[string]any{"a": nil}})
	r.tag("image", "1.0.0", []byte(`{"schemaVersion":2,"layers":[],"config":`+r.blob("image", "text/plain", "x")+"}"))
	r.tag("broken", "1.0.0", []byte(`{"schemaVersion":2,"layers":[],"config":`+r.blob("broken", chart.ConfigMediaType, "x")+"}"))
	r.until("all are known", func() bool { return r.Totals(nil).Versions == 10 })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		form := inventory.Archives
		if strings.HasPrefix(q.URL.Path, "/oci/") {
			form = inventory.OCI
		}
		_ = r.Index(nil).Write(w, form, false)
	}))
	defer server.Close()
	for _, name := range []string{"helm-v3", "helm-v4"} {
		t.Run(name, func(t *testing.T) {
			program, err := exec.CommandContext(t.Context(), filepath.Join("..", "..", "hack", "tool"), name).Output()
			ok(t, err)
			home := t.TempDir()
			helm := func(arguments ...string) string {
				t.Helper()
				command := exec.CommandContext(t.Context(), strings.TrimSpace(string(program)), arguments...)
				command.Env = append(os.Environ(), "HELM_CACHE_HOME="+home+"/cache", "HELM_CONFIG_HOME="+home+"/config", "HELM_DATA_HOME="+home+"/data")
				var said strings.Builder
				command.Stderr = &said
				out, err := command.Output()
				if err != nil || strings.Contains(said.String(), "skipping") {
					t.Fatalf("helm %s: %v: %s%s", arguments[0], err, out, said.String())
				}
				return string(out)
			}
			for _, form := range []string{"archives", "oci"} {
				helm("repo", "add", form, server.URL+"/"+form)
				var found []struct{ Name, Version, Description string }
				ok(t, json.Unmarshal([]byte(helm("search", "repo", form+"/", "--versions", "--devel", "--output", "json")), &found))
				var got []string
				for _, f := range found {
					got = append(got, strings.TrimPrefix(f.Name, form+"/")+" "+f.Version)
					if f.Name == form+"/web" && f.Description != "the other one" {
						t.Errorf("of web helm shows that of another path: %s", f.Description)
					}
				}
				slices.Sort(got)
				if want := "all 1.0.0, strange 1.0.0, team/web 1.0.0, team/web 1.10.0, team/web 1.10.0+build.2, team/web 1.9.0, team/web 2.0.0-rc.1, team/web v0.9, web 1.10.0"; strings.Join(got, ", ") != want {
					t.Errorf("helm finds %s, want %s", strings.Join(got, ", "), want)
				}
			}
		})
	}
}

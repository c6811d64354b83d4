package snippets_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/web/snippets"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the golden files anew")

const digest = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"

func TestSnippets(t *testing.T) {
	operated := snippets.Registry{Host: "charts.team-a.svc", Path: "team-a/charts", Private: true, Authority: "team-a/charts-ca"}
	laptop := snippets.Registry{Host: "127.0.0.1:5000", Path: "default/charts", PlainHTTP: true, Authority: "ignored/without-tls"}
	public := snippets.Registry{Host: "charts.example.com", Path: "acme/charts"}
	for name, got := range map[string][]snippets.Snippet{
		"publish-operated": operated.Publish(), "publish-laptop": laptop.Publish(), "publish-public": public.Publish(),
		"install-operated": operated.Install(snippets.Chart{Name: "team/web.app", Version: "1.2.3+build.7", Digest: digest}),
		"install-laptop":   laptop.Install(snippets.Chart{Name: "web", Version: "1.2.3", Digest: digest}),
		"install-public":   public.Install(snippets.Chart{Name: "web", Version: "1.2.3", Digest: digest}),
		"install-library":  public.Install(snippets.Chart{Name: "common", Version: "1.2.3", Digest: digest, Library: true}),
		"install-untagged": public.Install(snippets.Chart{Name: "web", Digest: digest}),
		"install-long":     public.Install(snippets.Chart{Name: "team/" + strings.Repeat("a", 52) + "-web", Version: "1.2.3", Digest: digest}),
		"login-with":       {operated.LoginWith("crs_0011223344556677_e30.AA")},
	} {
		var b strings.Builder
		ids := map[string]bool{}
		for _, s := range got {
			if ids[s.ID] {
				t.Errorf("%s: %s is there twice", name, s.ID)
			}
			ids[s.ID] = true
			b.WriteString("== " + s.ID + ": " + s.Title + "\n")
			if s.Note != "" {
				b.WriteString("-- " + s.Note + "\n")
			}
			b.WriteString(strings.TrimSuffix(s.Text, "\n") + "\n\n")
			if strings.HasSuffix(s.Text, "\n") {
				wantYAML(t, name, s)
			}
		}
		file := filepath.Join("testdata", name+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), b.String()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// wantYAML wants a snippet of several lines to be YAML documents.
func wantYAML(t *testing.T, name string, s snippets.Snippet) {
	t.Helper()
	for _, document := range strings.Split(s.Text, "---\n") {
		var value map[string]any
		if err := yaml.Unmarshal([]byte(document), &value); err != nil || len(value) == 0 {
			t.Errorf("%s: %s: %v", name, s.ID, err)
		}
	}
}

// One truth: what the manual and the operator say is what the pages say.
func TestManualSaysTheSame(t *testing.T) {
	started, err := os.ReadFile("../../../docs/get-started.md")
	if err != nil {
		t.Fatal(err)
	}
	operated := snippets.Registry{Host: "charts.team-a.svc", Path: "team-a/charts", Private: true, Authority: "team-a/charts-ca"}
	text := operated.Login().Text
	for _, s := range operated.Install(snippets.Chart{Name: "mychart", Version: "1.0.0", Digest: digest}) {
		text += "\n" + s.Text
	}
	for _, s := range operated.Publish() {
		text += "\n" + strings.ReplaceAll(s.Text, "CHART-VERSION", "mychart-1.0.0")
	}
	for _, line := range []string{
		`kubectl -n team-a get configmap charts-ca -o jsonpath='{.data.ca\.crt}' > ca.crt`, "helm push mychart-1.0.0.tgz oci://charts.team-a.svc/team-a/charts --ca-file ca.crt",
		"helm pull oci://charts.team-a.svc/team-a/charts/mychart --version 1.0.0 --ca-file ca.crt", "helm registry login charts.team-a.svc --ca-file ca.crt --username chartroom --password-stdin",
	} {
		if !strings.Contains(string(started), line) {
			t.Errorf("the manual does not say %q", line)
		}
		if !strings.Contains(text, line) {
			t.Errorf("the pages do not say %q", line)
		}
	}
}

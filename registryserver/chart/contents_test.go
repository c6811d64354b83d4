package chart_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/google/go-cmp/cmp"
)

func contents(tb testing.TB, archive []byte) (chart.Contents, error) {
	tb.Helper()
	return chart.ReadContents(tb.Context(), bytes.NewReader(archive), int64(len(archive)))
}

func text(name, content string) chart.Text {
	return chart.Text{Name: name, Size: int64(len(content)), Content: []byte(content)}
}

func TestReadContents(t *testing.T) {
	noise := make([]byte, chart.MaxTextBytes+1) // What repeats is a bomb.
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	large := string(noise)
	for name, c := range map[string]struct {
		files []charttest.Entry
		want  chart.Contents
	}{
		"a Chart.yaml alone": {},
		"all there is": {
			[]charttest.Entry{
				charttest.File("web/templates/b.yaml", "kind: B"), charttest.File("web/templates/sub/a.yaml", "kind: A!"),
				charttest.File("web/values.yaml", "a: 1\n"), charttest.File("web/values.schema.json", "{}"), charttest.File("web/README.md", "# Web\n"),
				charttest.File("web/charts/db-1.0.0.tgz", "x"), charttest.File("web/charts/cache/Chart.yaml", "x"), charttest.File("web/charts/cache/README.md", "not this"),
				charttest.File("web/docs/README.md", "nor this"), directory("web/templates/empty/"),
			},
			chart.Contents{
				README: text("README.md", "# Web\n"), Values: text("values.yaml", "a: 1\n"), Schema: text("values.schema.json", "{}"),
				Templates: []chart.File{{Name: "templates/b.yaml", Size: 7}, {Name: "templates/sub/a.yaml", Size: 8}},
				Bundled:   []string{"cache", "db-1.0.0.tgz"},
			},
		},
		"another spelling":   {[]charttest.Entry{charttest.File("web/readme.md", "x"), charttest.File("web/Values.yaml", "y")}, chart.Contents{README: text("readme.md", "x")}},
		"the last of two":    {[]charttest.Entry{charttest.File("web/values.yaml", "first"), charttest.File("web/values.yaml", "second")}, chart.Contents{Values: text("values.yaml", "second")}},
		"an empty file":      {[]charttest.Entry{charttest.File("web/values.yaml", "")}, chart.Contents{Values: text("values.yaml", "")}},
		"one too large":      {[]charttest.Entry{charttest.File("web/README.md", large), charttest.File("web/values.yaml", "b: 2")}, chart.Contents{README: chart.Text{Name: "README.md", Size: int64(len(large))}, Values: text("values.yaml", "b: 2")}},
		"a small after that": {[]charttest.Entry{charttest.File("web/README.md", large), charttest.File("web/README.md", "small")}, chart.Contents{README: text("README.md", "small")}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.ChartYAML = text("Chart.yaml", webYAML)
			got, err := contents(t, charttest.Archive(append(c.files, webFile)...))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// The bounds are those of a push: what was stored before there were any is not read any further than what comes in now.
func TestReadContentsRefuses(t *testing.T) {
	for name, archive := range map[string][]byte{
		"a bomb":         charttest.Archive(webFile, charttest.File("web/values.yaml", strings.Repeat("\x00", 20<<20))),
		"many files":     charttest.Archive(manyFiles(10_000)...),
		"a path above":   charttest.Archive(webFile, charttest.File("web/../../x", "x")),
		"a cut":          charttest.Archive(webFile, charttest.File("web/values.yaml", "a: 1"))[:60],
		"no Chart.yaml":  charttest.Archive(charttest.File("web/values.yaml", "a: 1")),
		"what is no tar": charttest.Zip([]byte(strings.Repeat("not a tar ", 100))),
	} {
		got, err := contents(t, archive)
		if invalid := new(repository.InvalidManifestError); !errors.As(err, &invalid) {
			t.Errorf("%s: error %v", name, err)
		}
		if d := cmp.Diff(chart.Contents{}, got); d != "" {
			t.Errorf("%s: it is refused as well as read: %s", name, d)
		}
	}
}

func TestReadContentsOfHelm(t *testing.T) {
	for _, version := range []string{"helm-v3.17", "helm-v3", "helm-v4"} {
		archive, err := os.ReadFile("testdata/" + version + ".tgz")
		if err != nil {
			t.Fatal(err)
		}
		c, err := contents(t, archive)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(c.Values.Content), "replicaCount: 1") || len(c.Templates) < 5 || len(c.Bundled) != 2 {
			t.Errorf("%s: %d bytes of values, templates %v, bundled %v", version, c.Values.Size, c.Templates, c.Bundled)
		}
	}
}

func TestReadText(t *testing.T) {
	archive := charttest.Archive(webFile, charttest.File("web/templates/a.yaml", "first"), charttest.File("web/templates/b.yaml", "b"), charttest.File("web/templates/a.yaml", "last"))
	for name, want := range map[string]chart.Text{
		"templates/a.yaml":    text("templates/a.yaml", "last"),
		"templates/b.yaml":    text("templates/b.yaml", "b"),
		"templates/":          {},
		"":                    {},
		"../Chart.yaml":       {},
		"templates/./a.yaml":  {},
		"templates/none.yaml": {},
	} {
		got, err := chart.ReadText(t.Context(), bytes.NewReader(archive), int64(len(archive)), name)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%q: %v\n%s", name, err, d)
		}
	}
}

func FuzzReadContents(f *testing.F) {
	f.Add(charttest.Tar(webFile, charttest.File("web/README.md", "# x"), charttest.File("web/templates/x", "y"), charttest.File("web/charts/a/b", "")))
	f.Add(charttest.Tar(charttest.File("web/values.yaml", "a: 1"), webFile))
	f.Fuzz(func(t *testing.T, content []byte) {
		archive := charttest.Zip(content)
		c, err := contents(t, archive)
		_, scanned := scan(t, archive)
		if err == nil && scanned != nil && !strings.Contains(scanned.Error(), "Chart.yaml") || err != nil && scanned == nil {
			t.Errorf("what is read (%v) is not what may be pushed (%v)", err, scanned)
		}
		for _, text := range []chart.Text{c.README, c.Values, c.Schema} {
			if text.Content != nil && int64(len(text.Content)) != text.Size {
				t.Errorf("%d bytes of %d", len(text.Content), text.Size)
			}
		}
	})
}

// A chart can have ten thousand files with long names, and a page would name them all.
func TestNamesAreBounded(t *testing.T) {
	entries := []charttest.Entry{charttest.File("web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n")}
	for i := range 500 {
		long := fmt.Sprint(i, strings.Repeat("x", 500))
		entries = append(entries, charttest.File("web/templates/"+long, ""), charttest.File("web/charts/"+long+"/Chart.yaml", ""), charttest.File("web/charts/"+long+"/x", ""))
	}
	archive := charttest.Archive(entries...)
	c, err := chart.ReadContents(t.Context(), bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(c.Templates) + len(c.Bundled); n < 200 || n > 250 || c.Unnamed < 1000-n {
		t.Errorf("%d are named, and %d are not", n, c.Unnamed)
	}
}

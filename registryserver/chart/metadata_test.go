package chart_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func scanYAML(tb testing.TB, chartYAML string) (chart.Metadata, error) {
	tb.Helper()
	return scan(tb, charttest.Archive(charttest.File("web/Chart.yaml", chartYAML)))
}

func TestChartYAML(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		want    chart.Metadata
	}{
		"the least":       {"apiVersion: v1\nname: web\nversion: 0.1.0\n", chart.Metadata{APIVersion: "v1", Name: "web", Version: "0.1.0"}},
		"v in front":      {"apiVersion: v2\nname: web\nversion: v1.2.3\n", chart.Metadata{APIVersion: "v2", Name: "web", Version: "v1.2.3"}},
		"all of a semver": {"apiVersion: v2\nname: web\nversion: 1.2.3-rc.1+git.5\n", chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.2.3-rc.1+git.5"}},
		"a short version": {"apiVersion: v2\nname: web\nversion: \"1.2\"\n", chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.2"}},
		"a library":       {"apiVersion: v2\nname: web\nversion: 1.0.0\ntype: library\n", chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0", Type: "library"}},
		"numbers": {"apiVersion: v2\nname: web\nversion: 1.0.0\nappVersion: 1.10\nkubeVersion: 2\n",
			chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0", AppVersion: "1.1", KubeVersion: "2"}},
		"null":       {"apiVersion: v2\nname: web\nversion: 1.0.0\nappVersion: ~\n", chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0"}},
		"a date":     {"apiVersion: v2\nname: web\nversion: 1.0.0\nappVersion: 2024-01-02\n", chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0", AppVersion: "2024-01-02"}},
		"many lines": {"apiVersion: v2\nname: web\nversion: 1.0.0\nappVersion: |\n  a\n  b\n", chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0", AppVersion: "a b "}},
		"other case": {"apiVersion: v2\nName: web\nVERSION: 1.0.0\n", chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0"}},
		"a mark, comments and lists": {"\ufeff---\n# c\napiVersion: v2\nname: web # c\nversion: 1.0.0\nkeywords: [a, a]\nmaintainers:\n- name: a\n- name: b\nannotations:\n  a/b: |\n    - *x\n    &y !!z\n",
			chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0"}},
		"JSON": {`{"apiVersion":"v2","name":"web","version":"1.0.0"}`, chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0"}},
	} {
		if c.want.Type == "" {
			c.want.Type = "application"
		}
		got, err := scanYAML(t, c.content)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestChartYAMLIsRefused(t *testing.T) {
	const rest = "apiVersion: v2\nname: web\n"
	laughs := "a0: &a0 [lol]\n"
	for i := range 20 {
		laughs += fmt.Sprintf("a%d: &a%d [*a%d,*a%d,*a%d]\n", i+1, i+1, i, i, i)
	}
	for name, c := range map[string]struct{ content, words string }{
		"nothing":              {"", "not valid YAML"},
		"text":                 {"web", "not a mapping"},
		"a list":               {"- name: web", "not a mapping"},
		"two documents":        {webYAML + "---\n" + webYAML, "more than one document"},
		"what is not YAML":     {"name: [", "not valid YAML"},
		"tabs":                 {"name:\n\t- a", "not valid YAML"},
		"no name":              {"apiVersion: v2\nversion: 1.0.0\n", "has no name"},
		"no version":           {rest, "has no version"},
		"no apiVersion":        {"name: web\nversion: 1.0.0\n", "has no apiVersion"},
		"a name twice":         {webYAML + "name: other\n", "a second time"},
		"a name in other case": {webYAML + "NAME: other\n", "field name twice"},
		"a folded letter":      {webYAML + "ver\u017fion: 6.6.6\n", "field version twice"},
		"a key twice below":    {webYAML + "annotations:\n  a: 1\n  a: 2\n", "a second time"},
		"an anchor":            {webYAML + "home: &a b\n", "anchor"},
		"an alias":             {webYAML + "home: &a b\nicon: *a\n", "anchor"},
		"a merge":              {webYAML + "annotations:\n  <<: {a: b}\n", "anchor"},
		"a tag":                {webYAML + "home: !!str b\n", "anchor"},
		"a tag of its own":     {webYAML + "home: !exec b\n", "anchor"},
		"billions":             {webYAML + laughs, "anchor"},
		"a key that is a list": {webYAML + "[a]: b\n", "a key that is not text"},
		"deep nesting":         {webYAML + "a: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "levels deep"},
		"very deep nesting":    {webYAML + "a: " + strings.Repeat("[", 50_000) + strings.Repeat("]", 50_000), "not valid YAML"},
		"deep lists":           {webYAML + "a:\n  " + strings.Repeat("- ", 200) + "b", "levels deep"},
		"too many values":      {webYAML + "a: [" + strings.Repeat("a,", 200_000) + "]", "too large"},
		"a list as name":       {"apiVersion: v2\nname: [web]\nversion: 1.0.0\n", "not text"},
		"the folder as name":   {"apiVersion: v2\nname: .\nversion: 1.0.0\n", "no chart may have"},
		"its parent as name":   {"apiVersion: v2\nname: ..\nversion: 1.0.0\n", "no chart may have"},
		"a path as name":       {"apiVersion: v2\nname: a/web\nversion: 1.0.0\n", "no chart may have"},
		"another path as name": {"apiVersion: v2\nname: a\\web\nversion: 1.0.0\n", "no chart may have"},
		"a hidden name":        {"apiVersion: v2\nname: \"\\u200b\"\nversion: 1.0.0\n", "has no name"},
		"no semver":            {rest + "version: latest\n", "not a semantic version"},
		"a version of NaN":     {rest + "version: .nan\n", "not a semantic version"},
		"a path as version":    {rest + "version: 1.0.0/../2\n", "not a semantic version"},
		"another type":         {webYAML + "type: plugin\n", "neither application nor library"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := scanYAML(t, c.content)
			wantRefusal(t, err, c.words)
		})
	}
}

func FuzzChartYAML(f *testing.F) {
	for _, seed := range []string{
		webYAML, "name: &a b\nversion: *a", "a: !!binary x", "? [a]\n: b", "{a: {b: [c]}}", "name: web\nName: other", "a: |\n  b\n---\n", "appVersion: 0x10\nversion: 1e3",
		"apiVersion: v2\nname: web\nversion: 1.0.0\nappVersion: 012\nkubeVersion: yes\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		got, err := scanYAML(t, content)
		if err != nil {
			return
		}
		// Another way to read it comes to the same.
		var whole map[string]any
		if err := yaml.Unmarshal([]byte(content), &whole); err != nil {
			t.Fatalf("%q is taken, but %v", content, err)
		}
		for key, value := range whole {
			if text, ok := value.(string); ok && key == "name" && isPlain(text) && text != got.Name {
				t.Errorf("the name in %q is %q, but it is read as %q", content, text, got.Name)
			}
		}
	})
}

func isPlain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

package chart_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/google/go-cmp/cmp"
)

func TestReadDetails(t *testing.T) {
	long := strings.Repeat("ä", 3000)
	for name, c := range map[string]struct {
		config string
		want   chart.Details
	}{
		"nothing":            {"", chart.Details{}},
		"no object":          {"[]", chart.Details{}},
		"an object that end": {`{"name":"web"`, chart.Details{}},
		"all there is": {
			`{"apiVersion":"v2","name":"web","version":"1.2.3","appVersion":"9","kubeVersion":">=1.30","type":"application","description":"What it is.",
			"home":"https://web.example","icon":"https://web.example/i.png","deprecated":true,"keywords":["a","b"],"sources":["https://git.example/web"],
			"maintainers":[{"name":"A","email":"a@web.example","url":"https://a.example"}],
			"dependencies":[{"name":"db","version":"^1","repository":"oci://x/y","alias":"store","condition":"db.enabled","tags":["t"]}],
			"annotations":{"z":"last","a":"first\nline"}}`,
			chart.Details{
				Name: "web", Version: "1.2.3", AppVersion: "9", KubeVersion: ">=1.30", Type: "application", Description: "What it is.",
				Home: "https://web.example", Icon: "https://web.example/i.png", Deprecated: true, Keywords: []string{"a", "b"}, Sources: []string{"https://git.example/web"},
				Maintainers:  []chart.Maintainer{{Name: "A", Email: "a@web.example", URL: "https://a.example"}},
				Dependencies: []chart.Dependency{{Name: "db", Version: "^1", Repository: "oci://x/y", Alias: "store", Condition: "db.enabled", Tags: []string{"t"}}},
				Annotations:  []chart.Annotation{{Name: "a", Value: "first\nline"}, {Name: "z", Value: "last"}},
			},
		},
		"other kinds": {
			`{"name":["web"],"version":1,"description":{"a":1},"deprecated":"yes","keywords":"a","sources":[1],"maintainers":{"name":"x"},"dependencies":null,"annotations":{"a":1},"home":"kept"}`,
			chart.Details{Home: "kept"},
		},
		"what cannot be printed": {`{"description":"a\u001b[31m\nb\u202ec","keywords":["x\u0000y"]}`, chart.Details{Description: "a[31m bc", Keywords: []string{"xy"}}},
		"a long text":            {`{"description":"` + long + `"}`, chart.Details{Description: long[:4096] + "…"}},
	} {
		if d := cmp.Diff(c.want, chart.ReadDetails([]byte(c.config))); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestReadDetailsIsBounded(t *testing.T) {
	many := strings.Repeat(`"k",`, 5000)
	d := chart.ReadDetails([]byte(`{"keywords":[` + strings.TrimSuffix(many, ",") + `]}`))
	if len(d.Keywords) != 200 {
		t.Errorf("%d keywords", len(d.Keywords))
	}
	large, err := json.Marshal(map[string]string{"name": strings.Repeat("x", 2<<20)})
	if err != nil {
		t.Fatal(err)
	}
	if d := chart.ReadDetails(large); d.Name != "" {
		t.Error("a config of two megabytes is read")
	}
}

func FuzzReadDetails(f *testing.F) {
	f.Add([]byte(`{"name":"web","annotations":{"a":"b"},"maintainers":[{"name":"x"}]}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		d := chart.ReadDetails(config)
		for _, s := range append(append([]string{d.Name, d.Version, d.Description, d.Home, d.Icon}, d.Keywords...), d.Sources...) {
			if len(s) > 5000 || strings.ContainsAny(s, "\n\x00\x1b") {
				t.Errorf("%q is shown", s)
			}
		}
	})
}

package inventory_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/inventory"
)

// index writes an index, and unpacks it.
func (r *replica) index(form inventory.IndexForm, gzipped bool) []byte {
	r.t.Helper()
	return write(r.t, r.Index(nil), form, gzipped)
}

func write(tb testing.TB, x inventory.Index, form inventory.IndexForm, gzipped bool) []byte {
	tb.Helper()
	var b bytes.Buffer
	ok(tb, x.Write(&b, form, gzipped))
	if !gzipped {
		return b.Bytes()
	}
	z, err := gzip.NewReader(&b)
	ok(tb, err)
	text, err := io.ReadAll(z)
	ok(tb, err)
	return text
}

type indexEntry struct {
	Name, Version, Digest, Description string
	Created                            time.Time
	URLs                               []string
	Annotations                        map[string]string
	Keywords                           []string
	Dependencies                       []struct{ Name, Repository string }
}

type indexFile struct {
	APIVersion string
	Generated  time.Time
	Entries    map[string][]indexEntry
}

func parse(tb testing.TB, text []byte) indexFile {
	tb.Helper()
	var f indexFile
	decoder := json.NewDecoder(bytes.NewReader(text))
	ok(tb, decoder.Decode(&f))
	if _, err := decoder.Token(); err != io.EOF {
		tb.Fatalf("behind the index: %v", err)
	}
	return f
}

func TestIndex(t *testing.T) {
	t.Parallel()
	r := built(t, newBucket(t), nil)
	for _, gzipped := range []bool{false, true} {
		if got := string(r.index(inventory.Archives, gzipped)); got != `{"apiVersion":"v1","generated":"0001-01-01T00:00:00Z","entries":{}}`+"\n" {
			t.Errorf("an empty one is %s", got)
		}
	}
	r.push("team/web", "1.0.0+a.tgz", fields{
		"description": "say \"urls\":[\"charts/ <b>\u2028", "annotations": map[string]string{"a": "b"}, "keywords": []string{"k"},
		"dependencies": []any{map[string]string{"name": "redis", "version": "1.x", "repository": "https://example.com"}},
	})
	r.push("team/web", "1.1.0", nil)
	r.push("redis", "7.0.0", nil)
	r.until("all are indexed", func() bool { return r.Totals(nil).Versions == 3 })
	tags := map[string]bool{}
	var texts []string
	for form, urls := range map[inventory.IndexForm][]string{
		inventory.Archives: {"charts/redis/redis-7.0.0.tgz", "charts/team/web/web-1.1.0.tgz", "charts/team/web/web-1.0.0+a.tgz.tgz"},
		inventory.OCI:      {"oci://charts.example.com/acme/charts/redis:7.0.0", "oci://charts.example.com/acme/charts/team/web:1.1.0", "oci://charts.example.com/acme/charts/team/web:1.0.0_a.tgz"},
	} {
		for _, gzipped := range []bool{false, true} {
			x := r.Index(nil)
			tag := x.ETag(form, gzipped)
			if len(tag) != 34 || tag[0] != '"' || tags[tag] || tag != r.Index(nil).ETag(form, gzipped) {
				t.Errorf("the ETag is %s", tag)
			}
			tags[tag] = true
			text := write(t, x, form, gzipped)
			texts = append(texts, string(text))
			f := parse(t, text)
			if f.APIVersion != "v1" || len(f.Entries) != 2 || len(f.Entries["team/web"]) != 2 || !f.Generated.Equal(r.Totals(nil).LastPushed) {
				t.Fatalf("the index is %s", text)
			}
			redis, second, first := f.Entries["redis"][0], f.Entries["team/web"][0], f.Entries["team/web"][1]
			if redis.URLs[0] != urls[0] || second.URLs[0] != urls[1] || first.URLs[0] != urls[2] {
				t.Errorf("the addresses are in %s", text)
			}
			v, _ := r.Version("team/web", "1.0.0+a.tgz")
			if first.Version != "1.0.0+a.tgz" || first.Name != "web" || first.Digest != v.Archive.Encoded() || !first.Created.Equal(v.PushedAt) ||
				first.Description != "say \"urls\":[\"charts/ <b>\u2028" || first.Annotations["a"] != "b" || first.Keywords[0] != "k" || first.Dependencies[0].Name != "redis" {
				t.Errorf("the entry is %+v", first)
			}
		}
	}
	if texts[0] != texts[1] || texts[2] != texts[3] {
		t.Error("compressed it is another one")
	}
	only := r.Index(func(chart string) bool { return chart == "redis" })
	if f := parse(t, write(t, only, inventory.Archives, true)); len(f.Entries) != 1 || tags[only.ETag(inventory.Archives, true)] {
		t.Errorf("who may read one chart gets %+v", f)
	}
	before := r.Index(nil).ETag(inventory.Archives, false)
	r.delete("redis", "7.0.0")
	r.until("the ETag is another one", func() bool { return r.Index(nil).ETag(inventory.Archives, false) != before })
}

// If this fails, who may push x/web adds versions to what others install as web.
func TestRepositoriesThatEndAlikeAreApart(t *testing.T) {
	t.Parallel()
	r := built(t, newBucket(t), nil)
	for name, versions := range map[string][]string{"platform/web": {"1.4.0", "1.5.0"}, "x/web": {"1.4.0", "99.0.0"}, "web": {"1.5.0"}} {
		for _, version := range versions {
			r.push(name, version, nil)
		}
	}
	r.until("all are known", func() bool { return r.Totals(nil).Versions == 5 })
	for _, gzipped := range []bool{false, true} {
		for form, urls := range map[inventory.IndexForm]map[string][]string{
			inventory.Archives: {
				"platform/web": {"charts/platform/web/web-1.5.0.tgz", "charts/platform/web/web-1.4.0.tgz"},
				"x/web":        {"charts/x/web/web-99.0.0.tgz", "charts/x/web/web-1.4.0.tgz"},
				"web":          {"charts/web/web-1.5.0.tgz"},
			},
			inventory.OCI: {
				"platform/web": {"oci://charts.example.com/acme/charts/platform/web:1.5.0", "oci://charts.example.com/acme/charts/platform/web:1.4.0"},
				"x/web":        {"oci://charts.example.com/acme/charts/x/web:99.0.0", "oci://charts.example.com/acme/charts/x/web:1.4.0"},
				"web":          {"oci://charts.example.com/acme/charts/web:1.5.0"},
			},
		} {
			got := map[string][]string{}
			for name, entries := range parse(t, r.index(form, gzipped)).Entries {
				for _, e := range entries {
					got[name] = append(got[name], e.URLs...)
				}
			}
			if !maps.EqualFunc(got, urls, slices.Equal) {
				t.Errorf("the addresses are %v, want %v", got, urls)
			}
		}
	}
}

// However it came about, two replicas that know of the same write the same bytes.
func TestIndexesOfReplicasAreTheSame(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	first := built(t, b, nil)
	var order []int
	for i := range 300 {
		order = append(order, i)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for n, i := range order {
		first.push("web", fmt.Sprintf("%d.%d.0", i/20, i%20), fields{"description": strings.Repeat("x", i)})
		if n%7 == 0 {
			i := order[n/2]
			first.delete("web", fmt.Sprintf("%d.%d.0", i/20, i%20))
			first.push("web", fmt.Sprintf("%d.%d.0", i/20, i%20), nil)
		}
	}
	first.until("all are known", func() bool { return first.Totals(nil).Versions == 300 })
	second := built(t, b, nil)
	var texts [2]bytes.Buffer
	second.until("the ETags are the same", func() bool {
		return first.Index(nil).ETag(inventory.Archives, true) == second.Index(nil).ETag(inventory.Archives, true)
	})
	ok(t, first.Index(nil).Write(&texts[0], inventory.Archives, true))
	ok(t, second.Index(nil).Write(&texts[1], inventory.Archives, true))
	if !bytes.Equal(texts[0].Bytes(), texts[1].Bytes()) {
		t.Error("two replicas write different bytes")
	}
}

// An entry that is too large leaves out what it takes most room for, and stays one.
func TestEntriesAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 20<<10)
	r := built(t, newBucket(t), nil)
	for name, more := range map[string]fields{
		"a": {"annotations": map[string]string{"a": long}, "icon": "https://example.com/i.svg"},
		"b": {"icon": "data:" + long, "annotations": map[string]string{"a": long}},
		"c": {"sources": []string{long}},
		"d": {"keywords": []string{long}, "maintainers": []any{map[string]string{"name": long}}},
		"e": {"dependencies": []any{map[string]string{"name": long, "repository": "x"}}},
		"f": {"description": long, "home": long, "appVersion": long, "kubeVersion": long, "type": long, "apiVersion": long},
	} {
		r.push(name, "1.0.0", more)
	}
	r.until("all are known", func() bool { return r.Totals(nil).Versions == 6 })
	text := r.index(inventory.Archives, true)
	for line := range strings.Lines(string(text)) {
		if len(line) > inventory.MaxEntryBytes+10 {
			t.Errorf("a line has %d bytes", len(line))
		}
	}
	f := parse(t, text)
	for name, e := range f.Entries {
		if e[0].Version != "1.0.0" || e[0].URLs[0] != "charts/"+name+"/"+name+"-1.0.0.tgz" || e[0].Digest != digest.FromString("the archive of "+name+" 1.0.0").Encoded() {
			t.Errorf("%s is %+v", name, e[0])
		}
	}
	if len(f.Entries) != 6 || !strings.Contains(string(text), "https://example.com/i.svg") || !strings.HasPrefix(long, f.Entries["f"][0].Description) || f.Entries["f"][0].Description == "" {
		t.Errorf("%d entries are there", len(f.Entries))
	}
}

// firstWrite notes what was written first.
type firstWrite struct{ n int }

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.n == 0 {
		w.n = len(p)
	}
	return len(p), nil
}

func TestTheFirstBytesComeBeforeTheRest(t *testing.T) {
	t.Parallel()
	r := built(t, newBucket(t), nil)
	r.push("web", "1.0.0", nil)
	r.until("it is known", func() bool { return r.Totals(nil).Versions == 1 })
	for _, form := range []inventory.IndexForm{inventory.Archives, inventory.OCI} {
		for _, gzipped := range []bool{false, true} {
			w := &firstWrite{}
			ok(t, r.Index(nil).Write(w, form, gzipped))
			if w.n == 0 || w.n > 150 {
				t.Errorf("form %d, compressed %t: the first write has %d bytes", form, gzipped, w.n)
			}
		}
	}
}

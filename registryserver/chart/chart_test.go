package chart_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// watched is a bucket that counts the blobs that are opened, and fails as it is told.
type watched struct {
	bucket.Bucket
	opened atomic.Int64
	broken error
}

func (w *watched) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if strings.Contains(key, "/blobs/") {
		w.opened.Add(1)
		if w.broken != nil {
			return nil, bucket.Info{}, w.broken
		}
	}
	return w.Bucket.Get(ctx, key, r)
}

// registry is a store with the rules.
type registry struct {
	*testing.T
	store  *repository.Store
	bucket *watched
}

func newRegistry(t *testing.T, artifacts chart.Artifacts) *registry {
	t.Helper()
	d, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{Bucket: d}
	s, err := repository.Open(t.Context(), w, "acme/charts", repository.Options{Check: chart.NewRules(artifacts).Check})
	if err != nil {
		t.Fatal(err)
	}
	return &registry{t, s, w}
}

func (r *registry) repository(name string) *repository.Repository {
	r.Helper()
	opened, err := r.store.Repository(name)
	if err != nil {
		r.Fatal(err)
	}
	return opened
}

// put pushes a manifest with its blobs.
func (r *registry) put(name, reference string, manifest []byte, blobs ...[]byte) error {
	r.Helper()
	to := r.repository(name)
	for _, b := range blobs {
		if err := to.PutBlob(r.Context(), digest.FromBytes(b), strings.NewReader(string(b)), int64(len(b))); err != nil {
			r.Fatal(err)
		}
	}
	if reference == "" {
		reference = digest.FromBytes(manifest).String()
	}
	_, err := to.PutManifest(r.Context(), reference, charttest.ManifestMediaType, manifest, "test")
	return err
}

func (r *registry) push(name, reference string, c charttest.Chart) error {
	r.Helper()
	return r.put(name, reference, c.Manifest, c.Config, c.Content)
}

func TestCheckTakesCharts(t *testing.T) {
	r := newRegistry(t, chart.Charts)
	legacy := charttest.New("web", "9.0.0", 0)
	legacy.Manifest = []byte(strings.Replace(string(legacy.Manifest), chart.ContentMediaType, chart.LegacyContentMediaType, 1))
	for _, c := range []struct {
		name, tag string
		charttest.Chart
	}{
		{"web", "1.2.3", charttest.New("web", "1.2.3", 0)},
		{"web", "", charttest.New("web", "1.2.4", 0)},
		{"team/sub/web", "1.2.3", charttest.New("web", "1.2.3", 0)},
		{"web", "1.2.3_build.7", charttest.New("web", "1.2.3+build.7", 0)},
		{"web", "v1.2.3", charttest.New("web", "v1.2.3", 0)},
		{"web", "sha256-abc.sig", charttest.New("web", "1.2.5", 0)},
		{"web", "artifacthub.io", charttest.New("web", "1.2.6", 0)},
		{"web", "9.0.0", legacy},
	} {
		if err := r.push(c.name, c.tag, c.Chart); err != nil {
			t.Errorf("%s:%s: %v", c.name, c.tag, err)
		}
	}
	signed, provenance := charttest.New("web", "2.0.0", 0), []byte("-----BEGIN PGP SIGNED MESSAGE-----")
	// The layers are sorted by digest, so that the provenance may come first.
	manifest := charttest.Manifest(charttest.Descriptor(chart.ConfigMediaType, signed.Config),
		charttest.Descriptor(chart.ProvenanceMediaType, provenance), charttest.Descriptor(chart.ContentMediaType, signed.Content))
	if err := r.put("web", "2.0.0", manifest, signed.Config, signed.Content, provenance); err != nil {
		t.Error(err)
	}
}

func TestCheckRefuses(t *testing.T) {
	web, other := charttest.New("web", "1.2.3", 0), charttest.New("web", "1.2.4", 0)
	config, content := charttest.Descriptor(chart.ConfigMediaType, web.Config), charttest.Descriptor(chart.ContentMediaType, web.Content)
	provenance := charttest.Descriptor(chart.ProvenanceMediaType, []byte("{}"))
	// with is the chart with another config.
	with := func(config string) charttest.Chart { return charttest.Assemble([]byte(config), web.Content) }
	of := func(layers ...string) charttest.Chart {
		return charttest.Chart{Config: web.Config, Content: web.Content, Manifest: charttest.Manifest(config, layers...)}
	}
	for what, c := range map[string]struct {
		name, tag string
		charttest.Chart
		words string
	}{
		"another name":                 {"shop", "", web, `the chart is named "web", but the repository it was pushed to ends in "shop"`},
		"a name that is not the last":  {"web/shop", "1.2.3", web, `the chart is named "web"`},
		"another version":              {"web", "1.2.4", web, `the chart's version is "1.2.3", but it was pushed as "1.2.4": the tag must be "1.2.3"`},
		"a tag of its own":             {"web", "latest", web, `the tag must be "1.2.3"`},
		"a plus that was dropped":      {"web", "1.2.3-7", charttest.New("web", "1.2.3+7", 0), `the tag must be "1.2.3_7"`},
		"no layer":                     {"web", "", of(), "this one has 0"},
		"two archives":                 {"web", "", of(content, content), "this one has 2"},
		"two provenances":              {"web", "", of(content, provenance, provenance), "at most one layer with its provenance"},
		"a layer of another kind":      {"web", "", of(content, charttest.Descriptor("text/plain", []byte("{}"))), `no layer of the type "text/plain"`},
		"a config that is not JSON":    {"web", "", with("apiVersion: v2\n"), "not a JSON object"},
		"a config that is a list":      {"web", "", with("[]"), "not a JSON object"},
		"a config that is cut":         {"web", "", with(`{"name":"web"`), "not valid JSON"},
		"a config with a tail":         {"web", "", with(`{"apiVersion":"v2","name":"web","version":"1.2.3"}{}`), "behind its end"},
		"an empty config":              {"web", "", with("{}"), "the chart's config has no apiVersion"},
		"a config with a number":       {"web", "", with(`{"name":1}`), "not a string"},
		"a config of another name":     {"web", "", with(`{"apiVersion":"v2","name":"shop","version":"1.2.3"}`), `says name: "shop", but the Chart.yaml in its archive says "web"`},
		"a config of another version":  {"web", "", with(`{"apiVersion":"v2","name":"web","version":"1.2.4"}`), `says version: "1.2.4"`},
		"a config of another app":      {"web", "", with(`{"apiVersion":"v2","name":"web","version":"1.2.3","appVersion":"9"}`), `says appVersion: "9"`},
		"a config of another type":     {"web", "", with(`{"apiVersion":"v2","name":"web","version":"1.2.3","type":"library"}`), `says type: "library"`},
		"a config with a name twice":   {"web", "", with(`{"apiVersion":"v2","name":"web","version":"1.2.3","NAME":"shop"}`), "field name twice"},
		"a large config":               {"web", "", with(`{"apiVersion":"v2","name":"web","version":"1.2.3","x":"` + strings.Repeat("x", 1<<20) + `"}`), "at most 1048576"},
		"an archive that is none":      {"web", "", charttest.Assemble(web.Config, []byte("no archive")), "not compressed with gzip"},
		"a bomb":                       {"web", "", charttest.Assemble(web.Config, charttest.Archive(webFile, charttest.File("web/x", strings.Repeat("\x00", 4<<20)))), "too large"},
		"a chart of another directory": {"web", "", charttest.Assemble(web.Config, other.Content), `says version: "1.2.3"`},
	} {
		t.Run(what, func(t *testing.T) {
			// Under both rules, and each twice, as the second time the record answers.
			for _, artifacts := range []chart.Artifacts{chart.Any, chart.Charts} {
				r := newRegistry(t, artifacts)
				for range 2 {
					wantRefusal(t, r.put(c.name, c.tag, c.Manifest, c.Config, c.Content, []byte("{}")), c.words)
				}
				if _, _, err := r.repository(c.name).Tags(t.Context(), 0, ""); !errors.Is(err, repository.ErrRepositoryUnknown) {
					t.Errorf("a manifest was stored: %v", err)
				}
			}
		})
	}
}

// helm is written in Go, and takes fields in any case.
func TestCheckSeesWhatHelmSees(t *testing.T) {
	web := charttest.New("web", "1.2.3", 0)
	manifest := strings.Replace(string(web.Manifest), `"config"`, `"config":{"mediaType":"text/plain","digest":"`+digest.FromString("{}").String()+`","size":2},"CONFIG"`, 1)
	r := newRegistry(t, chart.Any)
	wantRefusal(t, r.put("shop", "", []byte(manifest), web.Config, web.Content, []byte("{}")), "the chart is named")
}

func TestOtherArtifacts(t *testing.T) {
	image := string(charttest.Manifest(charttest.Descriptor("application/vnd.oci.image.config.v1+json", []byte("{}"))))
	referrer := strings.Replace(image, `"layers"`, `"subject":`+charttest.Descriptor(charttest.ManifestMediaType, []byte("chart"))+`,"layers"`, 1)
	nothing := strings.Replace(image, `"layers"`, `"subject":null,"layers"`, 1)
	for _, c := range []struct {
		tag, manifest string
		taken         bool
	}{
		{"1.0.0", image, false},
		{"", image, false},
		{"", nothing, false},
		{"", referrer, true},
		{"1.0.0", referrer, true},
		{"sha256-" + strings.Repeat("a", 64) + ".sig", image, true},
		{"sha512-abc", image, true},
		{"artifacthub.io", image, true},
		{"artifacthub.io.x", image, false},
	} {
		if err := newRegistry(t, chart.Any).put("web", c.tag, []byte(c.manifest), []byte("{}")); err != nil {
			t.Errorf("Any, %s: %v", c.tag, err)
		}
		err := newRegistry(t, chart.Charts).put("web", c.tag, []byte(c.manifest), []byte("{}"))
		if c.taken {
			if err != nil {
				t.Errorf("Charts, %s: %v", c.tag, err)
			}
			continue
		}
		wantRefusal(t, err, "takes Helm charts only")
	}
}

// What a manifest says is elsewhere need not be in a repository, but a chart must be.
func TestChartsAreComplete(t *testing.T) {
	web := charttest.New("web", "1.2.3", 0)
	for _, kind := range []string{chart.ContentMediaType, chart.ProvenanceMediaType} {
		r := newRegistry(t, chart.Any)
		gone := []byte("gone")
		descriptor := strings.Replace(charttest.Descriptor(kind, gone), `"size"`, `"urls":["https://example.com/x"],"size"`, 1)
		manifest := charttest.Manifest(charttest.Descriptor(chart.ConfigMediaType, web.Config), descriptor)
		missing := new(repository.UnknownBlobsError)
		if err := r.put("web", "1.2.3", manifest, web.Config); !errors.As(err, &missing) || len(missing.Digests) != 1 || missing.Digests[0] != digest.FromBytes(gone) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	r := newRegistry(t, chart.Any)
	descriptor := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":7,"urls":["https://example.com/x"]}`, chart.ContentMediaType, digest.FromBytes(web.Content))
	manifest := charttest.Manifest(charttest.Descriptor(chart.ConfigMediaType, web.Config), descriptor)
	wantRefusal(t, r.put("web", "1.2.3", manifest, web.Config, web.Content), "but the manifest says 7")
}

// helm pushes by digest and then by tag, and a refused push is tried again.
func TestAnArchiveIsReadOnce(t *testing.T) {
	r := newRegistry(t, chart.Any)
	web := charttest.New("web", "1.2.3", 0)
	if err := r.push("web", "", web); err != nil {
		t.Fatal(err)
	}
	opened := r.bucket.opened.Load()
	for _, tag := range []string{"1.2.3", "1.2.3", "1.2.4"} {
		_ = r.push("web", tag, web)
	}
	if now := r.bucket.opened.Load(); opened != 2 || now != opened {
		t.Errorf("the first push opened %d blobs, and the others %d", opened, now-opened)
	}
	// What another repository has is another matter.
	if err := r.put("copy/web", "1.2.3", web.Manifest, web.Config, web.Content); err != nil {
		t.Error(err)
	}
	if now := r.bucket.opened.Load(); now != 2*opened {
		t.Errorf("%d blobs were opened", now)
	}
}

// The record forgets, but says nothing else than before.
func TestManyVerdicts(t *testing.T) {
	r := newRegistry(t, chart.Any)
	web := charttest.New("web", "1.2.3", 0)
	if err := r.push("web", "1.2.3", web); err != nil {
		t.Fatal(err)
	}
	rules := chart.NewRules(chart.Any)
	check := func(i int, tag string) (opened int64, err error) {
		before := r.bucket.opened.Load()
		m := repository.Manifest{Repository: "web", Tag: tag, Digest: digest.FromString(fmt.Sprint(i)), Content: web.Manifest}
		_, err = rules.Check(t.Context(), r.repository("web"), m)
		return r.bucket.opened.Load() - before, err
	}
	const recorded = 1024
	for i := range recorded + 100 {
		if opened, err := check(i, ""); err != nil || opened != 2 {
			t.Fatalf("%d: %d blobs were opened: %v", i, opened, err)
		}
	}
	for _, c := range []struct {
		i      int
		opened int64
	}{{recorded + 99, 0}, {100, 0}, {99, 2}, {0, 2}, {recorded + 99, 0}} {
		opened, err := check(c.i, "1.2.4")
		wantRefusal(t, err, "it was pushed as")
		if opened != c.opened {
			t.Errorf("%d: %d blobs were opened, want %d", c.i, opened, c.opened)
		}
	}
}

// What goes wrong in the storage is no verdict.
func TestStorageFailureIsNoRefusal(t *testing.T) {
	r := newRegistry(t, chart.Any)
	web := charttest.New("web", "1.2.3", 0)
	r.bucket.broken = bucket.ErrUnavailable
	invalid := new(repository.InvalidManifestError)
	if err := r.push("web", "1.2.3", web); !errors.Is(err, bucket.ErrUnavailable) || errors.As(err, &invalid) {
		t.Errorf("error %v", err)
	}
	r.bucket.broken = nil
	if err := r.push("web", "1.2.3", web); err != nil {
		t.Error(err)
	}
}

func TestManyPushesAtOnce(t *testing.T) {
	r := newRegistry(t, chart.Any)
	var pushing sync.WaitGroup
	for i := range 24 {
		pushing.Go(func() {
			version := fmt.Sprintf("1.0.%d", i)
			c := charttest.New("web", version, 2000)
			if i%3 == 0 {
				c = charttest.Assemble(c.Config, c.Content[:len(c.Content)-20])
			}
			if err := r.push("web", version, c); (err == nil) != (i%3 != 0) {
				t.Errorf("%s: %v", version, err)
			}
		})
	}
	pushing.Wait()
}

func BenchmarkCheck(b *testing.B) {
	d, err := dir.New(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	s, err := repository.Open(b.Context(), d, "acme/charts", repository.Options{})
	if err != nil {
		b.Fatal(err)
	}
	r, err := s.Repository("web")
	if err != nil {
		b.Fatal(err)
	}
	c := charttest.New("web", "1.2.3", 50<<10)
	for _, content := range [][]byte{c.Config, c.Content} {
		if err := r.PutBlob(b.Context(), digest.FromBytes(content), strings.NewReader(string(content)), -1); err != nil {
			b.Fatal(err)
		}
	}
	rules := chart.NewRules(chart.Any)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		// Each is a manifest of its own, as far as the record knows.
		m := repository.Manifest{Repository: "web", Digest: digest.Digest(fmt.Sprint(i)), Content: c.Manifest}
		if _, err := rules.Check(b.Context(), r, m); err != nil {
			b.Fatal(err)
		}
	}
}

package registryserver_test

import (
	"archive/tar"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/opencontainers/go-digest"
)

// putManifest pushes a manifest with its blobs, and returns status and body.
func (r *running) putManifest(reference string, manifest []byte, blobs ...[]byte) (int, string) {
	r.t.Helper()
	for _, b := range blobs {
		r.pushBlob(string(b))
	}
	if reference == "" {
		reference = digest.FromBytes(manifest).String()
	}
	answer := r.request("PUT", r.public+"/v2/acme/charts/web/manifests/"+reference, strings.NewReader(string(manifest)),
		map[string]string{"Content-Type": charttest.ManifestMediaType})
	return answer.StatusCode, text(r.t, answer)
}

func (r *running) putChart(reference string, c charttest.Chart) (int, string) {
	r.t.Helper()
	return r.putManifest(reference, c.Manifest, c.Config, c.Content)
}

// image is an artifact that is no chart.
func image(layer string) (manifest []byte, blobs [][]byte) {
	return charttest.Manifest(charttest.Descriptor("application/vnd.oci.image.config.v1+json", []byte("{}")), charttest.Descriptor("text/plain", []byte(layer))),
		[][]byte{[]byte("{}"), []byte(layer)}
}

func TestChartsAreChecked(t *testing.T) {
	r := start(t, nil)
	web := charttest.New("web", "1.2.3+7", 1000)
	bad := func(entries ...charttest.Entry) charttest.Chart {
		return charttest.Assemble(web.Config, charttest.Archive(append([]charttest.Entry{charttest.File("web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.2.3+7\n")}, entries...)...))
	}
	for name, c := range map[string]struct {
		charttest.Chart
		tag, words string
	}{
		"another name":    {charttest.New("shop", "1.2.3+7", 0), "1.2.3_7", `the chart is named \"shop\", but the repository it was pushed to ends in \"web\"`},
		"another version": {web, "1.2.4", `the tag must be \"1.2.3_7\"`},
		"a bomb":          {bad(charttest.File("web/x", strings.Repeat("\x00", 5<<20))), "1.2.3_7", "too large when it is uncompressed"},
		"a symlink":       {bad(charttest.Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "web/x", Linkname: "/etc/passwd"}}), "1.2.3_7", "neither a file nor a directory"},
		"two Chart.yaml":  {bad(charttest.File("web/Chart.yaml", "name: other\n")), "1.2.3_7", "twice"},
	} {
		if status, body := r.putChart(c.tag, c.Chart); status != http.StatusBadRequest || !strings.Contains(body, `"MANIFEST_INVALID"`) || !strings.Contains(body, c.words) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	for _, reference := range []string{"", "1.2.3_7", "1.2.3_7"} {
		if status, body := r.putChart(reference, web); status != http.StatusCreated {
			t.Errorf("%s: %d %s", reference, status, body)
		}
	}
	manifest, blobs := image("a")
	if status, body := r.putManifest("latest", manifest, blobs...); status != http.StatusCreated {
		t.Errorf("an image: %d %s", status, body)
	}
}

func TestArtifactsMayBeChartsAlone(t *testing.T) {
	r := start(t, func(c *registryserver.Config) { c.Artifacts = "charts" })
	manifest, blobs := image("a")
	if status, body := r.putManifest("1.0.0", manifest, blobs...); status != http.StatusBadRequest || !strings.Contains(body, "Helm charts only") {
		t.Errorf("an image: %d %s", status, body)
	}
	if status, body := r.putManifest("sha256-"+strings.Repeat("a", 64)+".sig", manifest, blobs...); status != http.StatusCreated {
		t.Errorf("a signature: %d %s", status, body)
	}
	if status, body := r.putChart("1.0.0", charttest.New("web", "1.0.0", 0)); status != http.StatusCreated {
		t.Errorf("a chart: %d %s", status, body)
	}
}

func TestTagsPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		tags registryserver.TagsConfig
		// moves are tags and whether they may be moved.
		moves map[string]bool
	}{
		"by default":       {registryserver.TagsConfig{}, map[string]bool{"1.0.0": false, "1.0.0-dev": false, "sha256-a": true, "sha512-a": true, "artifacthub.io": true}},
		"with exceptions":  {registryserver.TagsConfig{Mutable: []string{"*-dev", "night?y"}}, map[string]bool{"1.0.0": false, "1.0.0-dev": true, "1.0.0-dev2": false, "nightly": true}},
		"without a policy": {registryserver.TagsConfig{Policy: "mutable"}, map[string]bool{"1.0.0": true, "latest": true}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(config *registryserver.Config) { config.Tags = c.tags })
			for tag, mayMove := range c.moves {
				first, blobs := image("first " + tag)
				second, more := image("second " + tag)
				if status, body := r.putManifest(tag, first, blobs...); status != http.StatusCreated {
					t.Fatalf("%s: %d %s", tag, status, body)
				}
				status, body := r.putManifest(tag, second, more...)
				stands := text(t, r.request("GET", r.public+"/v2/acme/charts/web/manifests/"+tag, nil, nil))
				switch {
				case mayMove && (status != http.StatusCreated || stands != string(second)):
					t.Errorf("%s: %d %s", tag, status, body)
				case !mayMove && (status != http.StatusConflict || stands != string(first)):
					t.Errorf("%s: %d %s", tag, status, body)
				}
				if !mayMove {
					// Which chart, which version, what stands, what to do.
					for _, words := range []string{"acme/charts/web", tag, digest.FromBytes(first).String(), "raise the version"} {
						if !strings.Contains(body, words) {
							t.Errorf("the refusal does not say %q: %s", words, body)
						}
					}
				}
				if status, body := r.putManifest(tag, first, blobs...); status != http.StatusCreated && !mayMove {
					t.Errorf("%s again: %d %s", tag, status, body)
				}
			}
		})
	}
}

// Of many who move one tag at once each succeeds, and at every moment the tag stands for one of what they pushed.
func TestMutableTagIsMovedAtOnce(t *testing.T) {
	r := start(t, func(c *registryserver.Config) { c.Tags.Policy = "Mutable" })
	const pushers, rounds = 4, 5
	pushed := map[string]bool{}
	var manifests [pushers][rounds][]byte
	for i := range pushers {
		for n := range rounds {
			manifest, blobs := image(fmt.Sprint(i, n))
			for _, b := range blobs {
				r.pushBlob(string(b))
			}
			manifests[i][n] = manifest
			pushed[string(manifest)] = true
		}
	}
	if status, body := r.putManifest("dev", manifests[0][0]); status != http.StatusCreated {
		t.Fatal(status, body)
	}
	var pushing sync.WaitGroup
	for i := range pushers {
		pushing.Go(func() {
			for n := range rounds {
				if status, body := r.putManifest("dev", manifests[i][n]); status != http.StatusCreated {
					t.Errorf("%d %s", status, body)
				}
				answer := r.request("GET", r.public+"/v2/acme/charts/web/manifests/dev", nil, nil)
				if got := text(t, answer); answer.StatusCode != http.StatusOK || !pushed[got] {
					t.Errorf("the tag stands for %d %s", answer.StatusCode, got)
				}
			}
		})
	}
	pushing.Wait()
}

// A version that may not be moved has one winner, and the others are told.
func TestImmutableTagHasOneWinner(t *testing.T) {
	r := start(t, nil)
	const pushers = 6
	var (
		pushing sync.WaitGroup
		mu      sync.Mutex
		won     []byte
	)
	for i := range pushers {
		c := charttest.New("web", "1.0.0", 600)
		c.Manifest = []byte(strings.Replace(string(c.Manifest), "{", fmt.Sprintf(`{"annotations":{"n":"%d"},`, i), 1))
		pushing.Go(func() {
			status, body := r.putChart("1.0.0", c)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case status == http.StatusCreated && won == nil:
				won = c.Manifest
			case status != http.StatusConflict:
				t.Errorf("%d %s", status, body)
			}
		})
	}
	pushing.Wait()
	if got := text(t, r.request("GET", r.public+"/v2/acme/charts/web/manifests/1.0.0", nil, nil)); got != string(won) {
		t.Errorf("the version is %s, but this push won: %s", got, won)
	}
}

package inventory_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/leaktest"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const owner = "acme/charts"

func ok(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func newBucket(tb testing.TB) bucket.Bucket {
	tb.Helper()
	b, err := dir.New(tb.TempDir())
	ok(tb, err)
	return b
}

// replica is a store with its inventory.
type replica struct {
	t      testing.TB
	bucket bucket.Bucket
	store  *repository.Store
	*inventory.Inventory
	stop func()
}

// start runs a replica on a bucket until the test ends or it is stopped. change may change its options.
func start(tb testing.TB, b bucket.Bucket, change func(*inventory.Options)) *replica {
	tb.Helper()
	r := &replica{t: tb, bucket: b}
	var err error
	r.store, err = repository.Open(tb.Context(), b, owner, repository.Options{
		TagMutable: func(string) bool { return true },
		Sparse:     func(repository.Manifest) bool { return true },
		Tagged:     func(repository, tag string) { r.Tagged(repository, tag) },
		Referred:   func(repository string, subject digest.Digest) { r.Referred(repository, subject) },
	})
	ok(tb, err)
	o := inventory.Options{
		Store: r.store, Bucket: b, Poll: 10 * time.Millisecond, PollIdle: 20 * time.Millisecond, CacheFrom: 1, Log: slog.New(slog.DiscardHandler),
		Address: func() string { return "oci://charts.example.com/acme/charts" },
	}
	if change != nil {
		change(&o)
	}
	r.Inventory = inventory.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	var once sync.Once
	r.stop = func() { once.Do(func() { cancel(); running.Wait() }) }
	tb.Cleanup(r.stop)
	return r
}

// built is start that waits until all is known.
func built(tb testing.TB, b bucket.Bucket, change func(*inventory.Options)) *replica {
	tb.Helper()
	r := start(tb, b, change)
	r.until("it is built", func() bool { return !r.Building() })
	return r
}

// until waits for a condition that the inventory brings about.
func (r *replica) until(what string, holds func() bool) {
	r.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		_, next := r.Changed()
		if holds() {
			return
		}
		select {
		case <-next:
		case <-time.After(50 * time.Millisecond): // Some conditions are about more than the inventory.
		case <-deadline:
			r.t.Fatalf("it did not come about that %s; known are %+v", what, r.Totals(nil))
		}
	}
}

func (r *replica) repository(name string) *repository.Repository {
	r.t.Helper()
	repo, err := r.store.Repository(name)
	ok(r.t, err)
	return repo
}

// blob stores a blob and describes it.
func (r *replica) blob(name, mediaType, content string) string {
	r.t.Helper()
	ok(r.t, r.repository(name).PutBlob(r.t.Context(), digest.FromString(content), strings.NewReader(content), int64(len(content))))
	return charttest.Descriptor(mediaType, []byte(content))
}

// fields are those of a Chart.yaml.
type fields map[string]any

// push pushes a version of a chart with more fields than it must have; layers are more than the archive.
func (r *replica) push(name, version string, more fields, layers ...string) repository.Manifest {
	r.t.Helper()
	all := fields{"apiVersion": "v2", "name": path.Base(name), "version": version, "type": "application"}
	for k, v := range more {
		all[k] = v
	}
	config, err := json.Marshal(all)
	ok(r.t, err)
	archive := r.blob(name, chart.ContentMediaType, "the archive of "+name+" "+version)
	return r.tag(name, strings.ReplaceAll(version, "+", "_"), charttest.Manifest(r.blob(name, chart.ConfigMediaType, string(config)), append([]string{archive}, layers...)...))
}

func (r *replica) tag(name, tag string, manifest []byte) repository.Manifest {
	r.t.Helper()
	m, err := r.repository(name).PutManifest(r.t.Context(), tag, charttest.ManifestMediaType, manifest, "ci")
	ok(r.t, err)
	return m
}

func (r *replica) delete(name, reference string) {
	r.t.Helper()
	ok(r.t, r.repository(name).DeleteManifest(r.t.Context(), reference))
}

// tags are those of a repository, charts before all else, in the order in which they are given.
func (r *replica) tags(name string) string {
	var tags []string
	for _, v := range r.Versions(name) {
		tag := v.Tag
		if !v.Chart {
			tag = "(" + tag + ")"
		}
		tags = append(tags, tag)
	}
	return strings.Join(tags, " ")
}

func (r *replica) untilTags(name, want string) {
	r.t.Helper()
	r.until(fmt.Sprintf("%s has %s and not %s", name, want, r.tags(name)), func() bool { return r.tags(name) == want })
}

func TestWhatIsKnownOfAChart(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	r := built(t, b, nil)
	if r.Totals(nil) != (inventory.Totals{}) || r.Charts(nil) != nil || r.Versions("team/web") != nil {
		t.Errorf("of an empty registry is known %+v", r.Totals(nil))
	}
	before := time.Now().Truncate(time.Second)
	prov := r.blob("team/web", chart.ProvenanceMediaType, "a signature")
	m := r.push("team/web", "1.10.0", fields{"appVersion": "7", "description": strings.Repeat("é", 200), "kubeVersion": ">=1.30", "deprecated": true}, prov)
	r.push("team/web", "1.9.0", nil)
	r.push("team/web", "2.0.0-rc.1", nil)
	r.push("team/web", "1.10.0+build.2", nil)
	r.tag("team/web", "latest-image", charttest.Manifest(r.blob("team/web", "application/vnd.oci.image.config.v1+json", "{}")))
	r.tag("team/web", "sha256-"+strings.Repeat("a", 64)+".sig", charttest.Manifest(r.blob("team/web", "application/vnd.oci.image.config.v1+json", "{}")))
	r.tag("images/only", "1.0.0", charttest.Manifest(r.blob("images/only", "application/vnd.oci.image.config.v1+json", "{}")))
	r.untilTags("team/web", "2.0.0-rc.1 1.10.0 1.10.0_build.2 1.9.0 (latest-image) (sha256-"+strings.Repeat("a", 64)+".sig)")
	r.untilTags("images/only", "(1.0.0)")

	v, there := r.Version("team/web", "1.10.0")
	if !there || v.Digest != m.Digest || v.Size != m.Size || !v.Chart || v.AppVersion != "7" || v.KubeVersion != ">=1.30" || v.Type != "application" || !v.Deprecated || v.PushedBy != "ci" {
		t.Errorf("1.10.0 is %+v", v)
	}
	if len(v.Description) > 256 || !strings.HasPrefix(strings.Repeat("é", 200), v.Description) || len(v.Description) < 250 {
		t.Errorf("the description is %q", v.Description)
	}
	if v.Archive != digest.FromString("the archive of team/web 1.10.0") || v.Provenance != digest.FromString("a signature") || v.ArchiveSize != 30 || v.PushedAt.Before(before) {
		t.Errorf("1.10.0 is %+v", v)
	}
	config, err := r.Metadata(t.Context(), "team/web", v)
	ok(t, err)
	if v.Config != digest.FromBytes(config) || v.StoredSize != v.Size+int64(len(config))+30+int64(len("a signature")) {
		t.Errorf("the config is %s, and 1.10.0 %+v", config, v)
	}
	if v, there := r.Version("team/web", "1.10.0+build.2"); !there || v.Name() != "1.10.0+build.2" || v.Tag != "1.10.0_build.2" {
		t.Errorf("the version with metadata is %+v", v)
	}
	if image, _ := r.Version("images/only", "1.0.0"); image.Chart || image.ArtifactType != "application/vnd.oci.image.config.v1+json" || image.StoredSize != image.Size+2 {
		t.Errorf("the image is %+v", image)
	}
	c, there := r.Chart("team/web")
	if !there || c.Latest.Tag != "1.10.0" || c.Versions != 4 || c.Artifacts != 2 || c.SizeBytes < v.StoredSize {
		t.Errorf("the chart is %+v", c)
	}
	if _, there := r.Chart("images/only"); there {
		t.Error("an image is taken for a chart")
	}
	if all := r.Charts(nil); len(all) != 1 || all[0] != c {
		t.Errorf("the charts are %+v", all)
	}
	if got, want := r.Totals(nil), (inventory.Totals{Charts: 1, Versions: 4, Artifacts: 2, SizeBytes: c.SizeBytes, LastPushed: c.LastPushed}); got != want {
		t.Errorf("all together are %+v, want %+v", got, want)
	}
	nothing := func(string) bool { return false }
	if r.Totals(nothing) != (inventory.Totals{}) || r.Charts(nothing) != nil {
		t.Error("who may read nothing is told something")
	}
	for what, c := range map[string]struct {
		chart     string
		d         digest.Digest
		is, known bool
	}{
		"the archive": {"team/web", v.Archive, true, true}, "the config": {"team/web", v.Config, false, true}, "the provenance": {"team/web", v.Provenance, false, true},
		"another blob": {"team/web", digest.FromString("x"), false, false}, "that of another chart": {"images/only", v.Archive, false, false}, "no digest": {"team/web", "", false, false},
	} {
		if is, known := r.Archive(c.chart, c.d); is != c.is || known != c.known {
			t.Errorf("%s is an archive: %t, and that is known: %t", what, is, known)
		}
	}

	// What is only a pre-release is the latest where there is nothing else, and what is gone is gone.
	for _, tag := range []string{"1.10.0", "1.10.0_build.2", "1.9.0"} {
		r.delete("team/web", tag)
	}
	r.until("a pre-release is the latest", func() bool {
		c, _ := r.Chart("team/web")
		return c.Latest.Tag == "2.0.0-rc.1" && c.Versions == 1
	})
	r.delete("team/web", c.Latest.Digest.String())
	only, _ := r.Version("team/web", "2.0.0-rc.1")
	r.delete("team/web", only.Digest.String())
	r.until("the chart is gone", func() bool { _, there := r.Chart("team/web"); return !there && r.Totals(nil).Charts == 0 })
}

// What two versions share is stored once, and counts once.
func TestASharedBlobCountsOnce(t *testing.T) {
	t.Parallel()
	r := built(t, newBucket(t), nil)
	config := r.blob("web", chart.ConfigMediaType, `{"apiVersion":"v2","name":"web","version":"1.0.0"}`)
	archive := r.blob("web", chart.ContentMediaType, strings.Repeat("x", 1000))
	a := r.tag("web", "1.0.0", charttest.Manifest(config, archive))
	b := r.tag("web", "1.0.1", append(charttest.Manifest(config, archive), '\n'))
	r.tag("web", "1.0.2", charttest.Manifest(config, archive))
	r.untilTags("web", "1.0.2 1.0.1 1.0.0")
	c, _ := r.Chart("web")
	if want := a.Size + b.Size + 1000 + int64(len(`{"apiVersion":"v2","name":"web","version":"1.0.0"}`)); c.SizeBytes != want {
		t.Errorf("the chart takes %d bytes, want %d", c.SizeBytes, want)
	}
}

// Whatever is in the bucket, the rest is known.
func TestWhatIsDamagedHarmsNothingElse(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	r := built(t, b, nil)
	r.push("web", "1.0.0", nil)
	missing := r.push("web", "1.1.0", nil)
	r.push("web", "1.2.0", fields{"name": "other"})
	r.push("web", "1.3.0", fields{"keywords": "not a list", "appVersion": 7, "maintainers": []any{"x"}})
	r.tag("web", "1.4.0", charttest.Manifest(charttest.Descriptor(chart.ConfigMediaType, []byte("never pushed"))))
	r.tag("web", "1.5.0", charttest.Manifest(r.blob("web", chart.ConfigMediaType, "no JSON")))
	r.untilTags("web", "1.5.0 1.4.0 1.3.0 1.2.0 1.1.0 1.0.0")
	r.stop()
	for key, content := range map[string]string{
		"charts/web/tags/damaged": "{", "charts/Not+a+name/tags/1.0.0": "{}", "charts/web/tags/-x": "{}", "foreign": "x", "charts/empty/x": "x",
		"charts/web/manifests/sha256/" + missing.Digest.Encoded(): "{}\n{}",
		"inventory/changes/other.json":                            "no JSON", "inventory/cache": "no cache", "inventory/x": "foreign",
	} {
		_, err := b.Put(t.Context(), key, strings.NewReader(content), int64(len(content)), bucket.Condition{})
		ok(t, err)
	}
	r = built(t, b, nil)
	if got := r.tags("web"); got != "1.5.0 1.4.0 1.3.0 1.2.0 1.0.0 (1.1.0)" {
		t.Errorf("known are %s", got)
	}
	if v, _ := r.Version("web", "1.3.0"); v.AppVersion != "" || v.Type != "application" {
		t.Errorf("1.3.0 is %+v", v)
	}
	if all := r.Charts(nil); len(all) != 1 || all[0].Versions != 5 {
		t.Errorf("the charts are %+v", all)
	}
	var index struct {
		Entries map[string][]struct{ Version string }
	}
	ok(t, json.Unmarshal(r.index(inventory.Archives, false), &index))
	if got := fmt.Sprint(index.Entries); got != "map[web:[{1.3.0} {1.0.0}]]" {
		t.Errorf("the index has %s", got)
	}
	// Pushing the same again mends it.
	r.push("web", "1.1.0", nil)
	r.untilTags("web", "1.5.0 1.4.0 1.3.0 1.2.0 1.1.0 1.0.0")
}

package inventory_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/s3"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/test/s3server"
)

// truth is what the bucket holds, found out without any of this package: for each chart its tags with what they stand for,
// and the bytes of what its versions name.
func truth(tb testing.TB, b bucket.Bucket) string {
	tb.Helper()
	tags, sizes := map[string][]string{}, map[string]map[string]int64{}
	for after := ""; ; {
		p, err := b.List(tb.Context(), bucket.ListOptions{Prefix: "charts/", StartAfter: after})
		ok(tb, err)
		for _, i := range p.Objects {
			parts := strings.Split(i.Key, "/")
			if len(parts) != 4 || parts[2] != "tags" {
				continue
			}
			name := strings.ReplaceAll(parts[1], "+", "/")
			var tag struct{ Digest digest.Digest }
			ok(tb, json.Unmarshal(read(tb, b, i.Key), &tag))
			_, manifest, _ := bytes.Cut(read(tb, b, "charts/"+parts[1]+"/manifests/sha256/"+tag.Digest.Encoded()), []byte{'\n'})
			var m struct{ Config, Layer descriptor }
			var layers struct{ Layers []descriptor }
			ok(tb, errors.Join(json.Unmarshal(manifest, &m), json.Unmarshal(manifest, &layers)))
			isChart := m.Config.MediaType == chart.ConfigMediaType && !repository.ExemptTag(parts[3])
			tags[name] = append(tags[name], fmt.Sprintf("%s=%s/%t", parts[3], tag.Digest, isChart))
			if !isChart {
				continue
			}
			if sizes[name] == nil {
				sizes[name] = map[string]int64{}
			}
			sizes[name][tag.Digest.String()] = int64(len(manifest))
			for _, d := range append(layers.Layers, m.Config) {
				sizes[name][d.Digest.String()] = d.Size
			}
		}
		if after = p.Next; after == "" {
			break
		}
	}
	var lines []string
	for name, all := range tags {
		slices.Sort(all)
		sum := int64(0)
		for _, size := range sizes[name] {
			sum += size
		}
		lines = append(lines, fmt.Sprint(name, all, sum))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

type descriptor struct {
	MediaType string
	Digest    digest.Digest
	Size      int64
}

// known is what an inventory says of the same.
func known(r *replica, names []string) string {
	var lines []string
	for _, name := range names {
		var all []string
		for _, v := range r.Versions(name) {
			all = append(all, fmt.Sprintf("%s=%s/%t", v.Tag, v.Digest, v.Chart))
		}
		if all == nil {
			continue
		}
		slices.Sort(all)
		c, _ := r.Chart(name)
		lines = append(lines, fmt.Sprint(name, all, c.SizeBytes))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Two replicas push, move and delete at random, are restarted, and lose their caches; in the end both know what the
// bucket holds, and have the same index.
func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 5))
			b := newBucket(t)
			names := []string{"web", "team/web", "redis", "a/b/c"}
			replicas := []*replica{start(t, b, nil), start(t, b, nil)}
			for range 120 {
				i := random.IntN(2)
				r, name := replicas[i], names[random.IntN(len(names))]
				version := fmt.Sprintf("%d.%d.0", random.IntN(3), random.IntN(4))
				switch random.IntN(14) {
				case 0, 1, 2, 3, 4:
					r.push(name, version, fields{"appVersion": fmt.Sprint(random.IntN(3)), "description": fmt.Sprint(random.IntN(100))})
				case 5:
					r.tag(name, version, charttest.Manifest(r.blob(name, "text/plain", fmt.Sprint(random.IntN(3)))))
				case 6:
					r.tag(name, "sha256-"+strings.Repeat(fmt.Sprint(random.IntN(3)), 64), charttest.Manifest(r.blob(name, chart.ConfigMediaType, "{}")))
				case 7, 8:
					err := r.repository(name).DeleteManifest(t.Context(), version)
					if err != nil && !errors.Is(err, repository.ErrManifestUnknown) {
						t.Fatal(err)
					}
				case 9:
					if m, err := r.repository(name).StatManifest(t.Context(), version); err == nil {
						r.delete(name, m.Digest.String())
					}
				case 10:
					r.stop()
					if random.IntN(2) == 0 {
						ok(t, b.Delete(t.Context(), "inventory/cache", bucket.Condition{}))
					} else {
						ok(t, r.WriteCache(t.Context()))
					}
					replicas[i] = start(t, b, nil)
				case 11, 12:
					if m, err := r.repository(name).StatManifest(t.Context(), version); err == nil {
						r.refer(name, m.Digest, bundle, map[string]string{"n": fmt.Sprint(random.IntN(3))})
					}
				case 13:
					r.until("it is built", func() bool { return !r.Building() })
				}
			}
			want := truth(t, b)
			for _, r := range replicas {
				r.until("it knows the truth", func() bool { return !r.Building() && known(r, names) == want })
			}
			first, second := replicas[0], replicas[1]
			ok(t, b.Delete(t.Context(), "inventory/cache", bucket.Condition{}))
			anew := built(t, b, nil)
			for _, name := range names {
				for _, r := range replicas {
					r.until("it knows as much as one that has read all", func() bool { return fmt.Sprint(r.Versions(name)) == fmt.Sprint(anew.Versions(name)) })
				}
			}
			if !same(first, second) || !bytes.Equal(first.index(inventory.OCI, true), second.index(inventory.OCI, true)) {
				t.Error("the replicas' indexes are not the same")
			}
			entries := 0
			for name, versions := range parse(t, first.index(inventory.Archives, true)).Entries {
				entries += len(versions)
				for _, e := range versions {
					if e.Name != path.Base(name) || e.URLs[0] != inventory.ArchivePath(name, e.Version) {
						t.Errorf("%s has %+v", name, e)
					}
				}
			}
			versions := 0
			for _, name := range names {
				for _, v := range first.Versions(name) {
					if v.Chart {
						versions++
					}
				}
			}
			if entries != versions {
				t.Errorf("the index has %d entries of %d versions", entries, versions)
			}
		})
	}
}

// What it costs on S3: a start with the cache, a push, and silence.
func TestRequestsToS3(t *testing.T) {
	server := s3server.Start(t)
	server.NewBucket(t, "charts")
	t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", server.SecretKey)
	b, err := s3.New(t.Context(), s3.Options{Bucket: "charts", Prefix: "p", Region: "us-east-1", Endpoint: server.Endpoint, PathStyle: true})
	ok(t, err)
	c := &counted{Bucket: b}
	slow := func(o *inventory.Options) { o.Poll, o.PollIdle = time.Hour, time.Hour }
	r := built(t, c, slow)
	for i := range 8 {
		r.push(fmt.Sprint("chart", i%2), fmt.Sprintf("1.%d.0", i), nil)
	}
	r.until("all are known", func() bool { return r.Totals(nil).Versions == 8 })
	ok(t, r.WriteCache(t.Context()))
	r.stop()

	c.reset()
	r = built(t, c, slow)
	compared := func(r *replica, c *counted) {
		t.Helper()
		r.until("all is being compared", func() bool { return c.count("list charts/") > 0 && c.count("put inventory/changes") > 0 })
		ok(t, r.Compare(t.Context())) // Which waits for the other one to end.
	}
	compared(r, c)
	if did := c.reset(); did["get tags"] > 8 || r.Totals(nil).Versions != 8 {
		t.Errorf("a start took %v", did)
	}
	before := r.Totals(nil).Versions
	r.push("chart0", "2.0.0", nil)
	r.until("it is known and told", func() bool { return r.Totals(nil).Versions == before+1 && c.count("put inventory/changes") == 1 })
	did := c.reset()
	if did["put tags"] != 1 || did["put manifests"] != 1 || did["put blobs"] != 2 || did["list tags"] != 0 || did["get tags"] != 1 || did["list inventory/changes"] != 0 {
		t.Errorf("a push took %v", did)
	}
	// Who hears of it lists the tags and referrers of one chart, and reads one tag.
	d := &counted{Bucket: b}
	third := built(t, d, slow)
	compared(third, d)
	d.reset()
	r.push("chart1", "2.1.0", nil)
	r.until("it is told", func() bool { return c.count("put inventory/changes") == 1 })
	ok(t, third.Hear(t.Context()))
	if did := d.reset(); third.tags("chart1") == "" || did["list tags"] != 1 || did["get tags"] != 1 || did["list inventory/changes"] != 1 || did["list referrers"] != 1 || did["get inventory/changes"] != 1 || len(did) > 7 {
		t.Errorf("to hear of it took %v", did)
	}
	ok(t, third.Hear(t.Context()))
	if did := d.reset(); fmt.Sprint(did) != "map[list inventory/changes:1]" {
		t.Errorf("to hear of nothing took %v", did)
	}
	if !same(r, third) {
		t.Errorf("%+v and %+v", r.Totals(nil), third.Totals(nil))
	}
}

// count is how often something was done since it was forgotten.
func (c *counted) count(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.did[what]
}

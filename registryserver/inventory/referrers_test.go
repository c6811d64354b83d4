package inventory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// countingBucket counts what is read of small documents.
type countingBucket struct {
	bucket.Bucket
	gets atomic.Int64
}

func (b *countingBucket) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if strings.Contains(key, "/referrers/") {
		b.gets.Add(1)
	}
	return b.Bucket.Get(ctx, key, r)
}

const bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"

// refer pushes a manifest without layers that refers to subject.
func (r *replica) refer(name string, subject digest.Digest, artifactType string, annotations map[string]string) repository.Manifest {
	r.t.Helper()
	r.blob(name, "application/vnd.oci.empty.v1+json", "{}")
	config := json.RawMessage(charttest.Descriptor("application/vnd.oci.empty.v1+json", []byte("{}")))
	content, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": charttest.ManifestMediaType, "artifactType": artifactType, "annotations": annotations,
		"config": config, "layers": []json.RawMessage{config},
		"subject": map[string]any{"mediaType": charttest.ManifestMediaType, "digest": subject, "size": 1},
	})
	ok(r.t, err)
	return r.tag(name, digest.FromBytes(content).String(), content)
}

// untilReferrers waits until so many signatures and attestations of a version are known.
func (r *replica) untilReferrers(name, version string, signatures, attestations int) {
	r.t.Helper()
	r.until(fmt.Sprintf("%s %s has %d signatures and %d attestations", name, version, signatures, attestations), func() bool {
		v, ok := r.Version(name, version)
		return ok && v.Signatures == signatures && v.Attestations == attestations
	})
}

// What refers to a version is known of each kind, whoever has pushed it in whatever order, and from the cache.
func TestReferrers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		artifactType, predicate string
		signature               bool
	}{
		{"application/vnd.cncf.notary.signature", "", true},
		{"application/vnd.dev.cosign.artifact.sig.v1+json", "", true},
		{bundle, "", true},
		{bundle, "https://sigstore.dev/cosign/sign/v1", true},
		{bundle, "https://slsa.dev/provenance/v1", false},
		{"application/spdx+json", "", false},
		{"application/vnd.example", "", false},
	} {
		t.Run(c.artifactType+c.predicate, func(t *testing.T) {
			t.Parallel()
			b := newBucket(t)
			r, other := built(t, b, nil), built(t, b, nil)
			m := r.push("team/web", "1.0.0", nil)
			r.push("team/web", "1.1.0", nil)
			annotations := map[string]string{}
			if c.predicate != "" {
				annotations["dev.sigstore.bundle.predicateType"] = c.predicate
			}
			signature := r.refer("team/web", m.Digest, c.artifactType, annotations)
			signatures, others := 1, 0
			if !c.signature {
				signatures, others = 0, 1
			}
			r.untilReferrers("team/web", "1.0.0", signatures, others)
			other.untilReferrers("team/web", "1.0.0", signatures, others)
			r.untilReferrers("team/web", "1.1.0", 0, 0)
			ok(t, r.WriteCache(t.Context()))
			cached := built(t, b, nil)
			cached.untilReferrers("team/web", "1.0.0", signatures, others)
			r.delete("team/web", signature.Digest.String())
			for _, r := range []*replica{r, other, cached} {
				r.untilReferrers("team/web", "1.0.0", 0, 0)
			}
		})
	}

	t.Run("before the version", func(t *testing.T) {
		t.Parallel()
		r, other := built(t, newBucket(t), nil), built(t, newBucket(t), nil)
		m := other.push("web", "1.0.0", nil)
		r.refer("web", m.Digest, bundle, nil)
		r.until("the referrer is known", func() bool { return r.Versions("web") != nil })
		r.push("web", "1.0.0", nil)
		r.untilReferrers("web", "1.0.0", 1, 0)
	})

	t.Run("damaged", func(t *testing.T) {
		t.Parallel()
		b := newBucket(t)
		r := built(t, b, nil)
		m, sound := r.push("web", "1.0.0", nil), r.push("web", "1.1.0", nil)
		damaged := r.refer("web", m.Digest, bundle, nil)
		r.refer("web", sound.Digest, bundle, nil)
		segment := func(d digest.Digest) string { return strings.Replace(d.String(), ":", "-", 1) }
		for _, garbage := range []string{"", "[]", "{\"digest\":7}", strings.Repeat("x", 5<<20)} {
			key := "charts/web/referrers/" + segment(m.Digest) + "/" + segment(damaged.Digest)
			_, err := b.Put(t.Context(), key, strings.NewReader(garbage), int64(len(garbage)), bucket.Condition{})
			ok(t, err)
			before := time.Now()
			other := built(t, b, nil)
			other.untilReferrers("web", "1.1.0", 1, 0)
			other.untilReferrers("web", "1.0.0", 0, 0)
			if other.Health().Failures > 0 {
				t.Errorf("%.20q: it was tried again, for %v", garbage, time.Since(before))
			}
		}
		r.refer("web", m.Digest, bundle, nil)
		r.untilReferrers("web", "1.0.0", 1, 0)
	})

	t.Run("very many", func(t *testing.T) {
		t.Parallel()
		b := newBucket(t)
		counted := &countingBucket{Bucket: b}
		r := built(t, counted, nil)
		m := r.push("web", "1.0.0", nil)
		n := 0
		more := func(by int) {
			for range by {
				n++
				r.refer("web", m.Digest, bundle, map[string]string{"n": strconv.Itoa(n)})
			}
			r.until("all are counted", func() bool { return r.Wire().Clock[r.Process()] == uint64(n+1) })
		}
		more(inventory.MaxCounted + 20)
		r.untilReferrers("web", "1.0.0", inventory.MaxCounted, 0)
		before := counted.gets.Load()
		more(1)
		if read := counted.gets.Load() - before; read > inventory.MaxCounted+10 {
			t.Errorf("for one more, %d objects were read", read)
		}
		before = counted.gets.Load()
		ok(t, r.Compare(t.Context()))
		if read := counted.gets.Load() - before; read > 0 {
			t.Errorf("nothing had changed, and %d objects were read", read)
		}
	})

	t.Run("very large", func(t *testing.T) {
		t.Parallel()
		counted := &countingBucket{Bucket: newBucket(t)}
		r := built(t, counted, nil)
		m := r.push("web", "1.0.0", nil)
		for n := range 4 {
			r.refer("web", m.Digest, bundle, map[string]string{"n": strings.Repeat(strconv.Itoa(n), 3<<20)})
		}
		r.until("all are counted", func() bool { return r.Wire().Clock[r.Process()] == 5 })
		v, _ := r.Version("web", "1.0.0")
		if v.Signatures != 2 {
			t.Errorf("%d of 3 MiB each were read", v.Signatures)
		}
	})

	t.Run("by a tag", func(t *testing.T) {
		t.Parallel()
		r := built(t, newBucket(t), nil)
		m := r.push("web", "1.0.0", nil)
		for _, suffix := range []string{".sig", ".att", ".sbom", ".other"} {
			r.tag("web", strings.Replace(m.Digest.String(), ":", "-", 1)+suffix, charttest.Manifest(r.blob("web", "text/plain", suffix)))
		}
		r.untilReferrers("web", "1.0.0", 1, 2)
	})
}

// What is referred to costs a start as much as tags do, and needs none: without a cache, whoever pushes referrers could
// make all starts slow.
func TestCacheForReferrers(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	r := built(t, b, func(o *inventory.Options) { o.CacheFrom = 4 })
	r.push("web", "1.0.0", nil)
	for n := range 3 {
		ok(t, r.CacheIfDue(t.Context(), time.Now()))
		if _, err := b.Head(t.Context(), "inventory/cache"); !errors.Is(err, bucket.ErrNotFound) {
			t.Fatalf("with %d subjects there is a cache: %v", n, err)
		}
		r.refer("web", digest.FromString(strconv.Itoa(n)), bundle, nil)
		r.until("it is counted", func() bool { return r.Wire().Clock[r.Process()] == uint64(n+2) })
	}
	ok(t, r.CacheIfDue(t.Context(), time.Now()))
	if _, err := b.Head(t.Context(), "inventory/cache"); err != nil {
		t.Error(err)
	}
}

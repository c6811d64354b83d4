package inventory_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

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

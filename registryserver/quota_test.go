package registryserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/chartroom-dev/chartroom/test/s3server"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func TestParseQuantity(t *testing.T) {
	for text, want := range map[string]registryserver.Quantity{
		"0": 0, "1048576": 1 << 20, "007": 7, "1k": 1000, "500M": 500_000_000, "2G": 2_000_000_000, "1T": 1e12, "1P": 1e15,
		"1Ki": 1 << 10, "10Mi": 10 << 20, "10Gi": 10 << 30, "2Ti": 2 << 40, "8191Pi": 8191 << 50, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := registryserver.ParseQuantity(text); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", text, got, err, want)
		}
	}
	for text, words := range map[string]string{
		"": "is not a size such as 10Gi", "Gi": "is not a size", "1.5Gi": "is not a size", "-1": "is not a size", "+1": "is not a size", " 1": "is not a size",
		"1 Gi": "is not a size", "1GB": "is not a size", "1K": "is not a size", "1m": "is not a size", "1e3": "is not a size", "0x10": "is not a size",
		"8192Pi": "more bytes than can be counted", "9223372036854775808": "more bytes than can be counted",
	} {
		if got, err := registryserver.ParseQuantity(text); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q is %d, %v; want an error that says %q", text, got, err, words)
		}
	}
}

func FuzzParseQuantity(f *testing.F) {
	for _, seed := range []string{"10Gi", "500M", "0", "", "Ki", "8192Pi", "1.5Gi", "-1", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, err := registryserver.ParseQuantity(s)
		if err != nil {
			return
		}
		again, err := registryserver.ParseQuantity(fmt.Sprint(int64(q)))
		if q < 0 || err != nil || again != q {
			t.Errorf("%q is %d, and that is %d, %v", s, q, again, err)
		}
	})
}

// A client that asks before it sends is told no, and sends nothing.
func TestNothingTravelsThatIsOverTheQuota(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, func(c *registryserver.Config) { c.Quota.Size = 1000 })
	r.untilCounted(0)
	content := strings.Repeat("x", 5000)
	refused := func(method, length string) {
		t.Helper()
		location := r.request("POST", r.public+repositoryPath+"/blobs/uploads/", nil, nil).Header.Get("Location")
		status, body := r.raw(fmt.Sprintf("%s %s?digest=%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\nExpect: 100-continue\r\n\r\n",
			method, location, digest.FromString(content), r.token, length))
		if status != http.StatusForbidden || !strings.Contains(body, "over the registry's quota of 1000 B") {
			t.Errorf("%s with %s: %d %s", method, length, status, body)
		}
	}
	refused("PUT", "Content-Length: 5000")
	refused("PATCH", "Content-Length: 5000")
	r.pushBlob(content[:1000])
	// Where nothing fits, how much comes does not matter.
	refused("PUT", "Transfer-Encoding: chunked")
	refused("PATCH", "Transfer-Encoding: chunked")
	for f := range stored(t, folder) {
		if strings.Contains(f, "/charts/") && !strings.HasSuffix(f, digest.FromString(content[:1000]).Encoded()) {
			t.Errorf("%s was stored", f)
		}
	}
}

// helm pushes blobs, then the manifest by digest, then its tag. What has no room is refused as soon as it can be known.
func TestWhatHasNoRoomIsRefusedBeforeItsTag(t *testing.T) {
	t.Parallel()
	t.Run("versions", func(t *testing.T) {
		t.Parallel()
		r, _ := startIn(t, func(c *registryserver.Config) { c.Quota.Versions = 1 })
		r.untilCounted(0)
		first, next := charttest.New("web", "1.0.0", 0), charttest.New("web", "1.0.1+a", 0)
		r.pushVersion("1.0.0")
		if status, body := r.putChart("", next); status != http.StatusForbidden || !strings.Contains(body, "1 version (used: 1 version, wanted: 1 version more)") {
			t.Errorf("a second version, by digest: %d %s", status, body)
		}
		if status, body := r.putChart("", first); status != http.StatusCreated {
			t.Errorf("the first version once more, by digest: %d %s", status, body)
		}
		manifest, blobs := image("no chart, and not to be tagged")
		if status, body := r.putManifest("", manifest, blobs...); status != http.StatusCreated {
			t.Errorf("what may be anything, by digest: %d %s", status, body)
		}
		for _, reference := range []string{digest.FromBytes(next.Manifest).String(), "1.0.1_a"} {
			if answer := r.request("GET", r.public+repositoryPath+"/manifests/"+reference, nil, nil); answer.StatusCode != http.StatusNotFound {
				t.Errorf("%s is there: %d", reference, answer.StatusCode)
			}
		}
	})
	t.Run("charts", func(t *testing.T) {
		t.Parallel()
		r, folder := startIn(t, func(c *registryserver.Config) { c.Quota.Charts = 1 })
		r.untilCounted(0)
		begin := func(chart, query string) (int, string) {
			answer := r.request("POST", r.public+"/v2/acme/charts/"+chart+"/blobs/uploads/"+query, strings.NewReader("{}"), nil)
			return answer.StatusCode, text(t, answer)
		}
		manifest := strings.NewReader(string(charttest.Manifest(charttest.Descriptor("text/plain", []byte("{}")))))
		for _, name := range []string{"signatures:sha256-" + strings.Repeat("a", 64), "web:1.0.0"} {
			chart, tag, _ := strings.Cut(name, ":")
			if status, body := begin(chart, "?digest="+digest.FromString("{}").String()); status != http.StatusCreated {
				t.Fatalf("a blob of %s: %d %s", chart, status, body)
			}
			_, _ = manifest.Seek(0, 0)
			if answer := r.request("PUT", r.public+"/v2/acme/charts/"+chart+"/manifests/"+tag, manifest, map[string]string{"Content-Type": charttest.ManifestMediaType}); answer.StatusCode != http.StatusCreated {
				t.Fatalf("%s %s: %d %s", chart, tag, answer.StatusCode, text(t, answer))
			}
		}
		r.unchanged(folder, func() {
			d := digest.FromString("{}").String()
			for _, query := range []string{"", "?digest=" + d, "?mount=" + d + "&from=acme/charts/web"} {
				if status, body := begin("other", query); status != http.StatusForbidden || !strings.Contains(body, "1 chart (used: 1 chart, wanted: 1 chart more)") {
					t.Errorf("a second chart, POST %s: %d %s", query, status, body)
				}
			}
		})
		for _, chart := range []string{"web", "signatures"} {
			if status, body := begin(chart, ""); status != http.StatusAccepted {
				t.Errorf("more for %s: %d %s", chart, status, body)
			}
		}
	})
}

// untilCounted waits until the metrics say that so many versions are stored.
func (r *running) untilCounted(versions int) {
	r.t.Helper()
	eventually(r.t, "the content was counted", func() bool {
		said := text(r.t, r.request("GET", r.metrics+"/metrics", nil, nil))
		return strings.Contains(said, "chartroom_usage_known 1\n") && strings.Contains(said, fmt.Sprintf("chartroom_usage_versions %d\n", versions))
	})
}

func (r *running) pushVersion(version string) {
	r.t.Helper()
	c := charttest.New("web", version, 0)
	r.pushBlob(string(c.Config))
	r.pushBlob(string(c.Content))
	answer := r.request("PUT", r.public+repositoryPath+"/manifests/"+version, bytes.NewReader(c.Manifest), map[string]string{"Content-Type": charttest.ManifestMediaType})
	if answer.StatusCode != http.StatusCreated {
		r.t.Fatalf("pushing %s: %d %s", version, answer.StatusCode, text(r.t, answer))
	}
}

func TestUsageIsReported(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	for name, storage := range map[string]func(*registryserver.Config){"a directory": func(*registryserver.Config) {}, "S3": storeInS3(t, server, "charts")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opened registryserver.Config
			r, operator := startOperated(t, storage, func(c *registryserver.Config) {
				c.Quota = registryserver.QuotaConfig{Size: 1 << 20, Versions: 2}
				opened = *c
			})
			r.untilReady()
			r.untilCounted(0)
			r.pushVersion("1.0.0")
			r.pushVersion("1.0.1")
			answer := r.request("PUT", r.public+repositoryPath+"/manifests/1.0.2", bytes.NewReader(charttest.New("web", "1.0.0", 0).Manifest), map[string]string{"Content-Type": charttest.ManifestMediaType})
			if body := text(t, answer); answer.StatusCode == http.StatusCreated {
				t.Errorf("a third version: %d %s", answer.StatusCode, body)
			}
			if answer := r.request("DELETE", r.public+repositoryPath+"/manifests/1.0.0", nil, nil); answer.StatusCode != http.StatusAccepted {
				t.Errorf("%d", answer.StatusCode)
			}
			r.pushVersion("1.0.3")
			about, err := operator.Get("https://" + r.server.Addresses()["admin"].String() + wire.PathAbout)
			if err != nil {
				t.Fatal(err)
			}
			defer about.Body.Close()
			var said wire.About
			if err := json.NewDecoder(about.Body).Decode(&said); err != nil {
				t.Fatal(err)
			}
			b, err := registryserver.OpenBucket(t.Context(), opened)
			if err != nil {
				t.Fatal(err)
			}
			actual, err := repository.Count(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&wire.UsageState{SizeBytes: actual.Bytes, Charts: 1, Versions: 2}, said.Usage); diff != "" {
				t.Errorf("%s of %+v", diff, actual)
			}
			metrics := text(t, r.request("GET", r.metrics+"/metrics", nil, nil))
			for _, line := range []string{"chartroom_usage_charts 1", "chartroom_usage_versions 2", "chartroom_quota_bytes 1.048576e+06", "chartroom_quota_versions 2"} {
				if !strings.Contains(metrics, line+"\n") {
					t.Errorf("the metrics lack %s", line)
				}
			}
			if strings.Contains(metrics, "chartroom_quota_charts") {
				t.Error("there is a metric of a limit that is not set")
			}
		})
	}
}

// Who has no quota pays nothing for counting.
func TestWithoutAQuotaNothingIsCounted(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, func(c *registryserver.Config) { c.Quota.ChartSize = 100 })
	r.pushBlob("content")
	r.stop()
	<-r.done
	r.done <- nil
	for f := range stored(t, folder) {
		if strings.Contains(f, "/objects/usage") {
			t.Errorf("%s is stored", f)
		}
	}
}

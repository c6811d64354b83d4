package ociapi

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// newLimited is a registry with a quota, which counted has counted.
func newLimited(t *testing.T, limits quota.Limits, counted bool, wrap ...storeWith) *registry {
	t.Helper()
	return newRegistryWith(t, wire.Private, func(b bucket.Bucket) repository.Options {
		tracker := quota.New(quota.Options{
			Bucket: b, Limits: limits,
			Count: func(ctx context.Context) (quota.Usage, error) { return repository.Count(ctx, b) },
		})
		if counted {
			if err := tracker.RecountIfDue(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return repository.Options{MaxBlobBytes: maxTestBlob, MaxChartBytes: 2000, Quota: tracker}
	}, wrap...)
}

// unread fails the test when it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("bytes were taken of what is refused")
	return 0, io.ErrUnexpectedEOF
}

// announced is a call that says how much will come, and of which nothing may be taken.
func (r *registry) announced(c call, size int64) *http.Response {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), c.method, "http://attacker.example"+c.path, unread{r.t})
	if err != nil {
		r.t.Fatal(err)
	}
	request.ContentLength = size
	return r.send(request, c)
}

func (r *registry) beginUpload() string {
	r.t.Helper()
	return r.want(http.StatusAccepted, call{method: "POST", path: "/v2/" + testName + "/blobs/uploads/"}).Header.Get("Location")
}

func TestWhatIsOverTheQuotaIsRefusedBeforeItComes(t *testing.T) {
	r := newLimited(t, quota.Limits{Bytes: 1000, Versions: 1}, true)
	content := strings.Repeat("x", 1500)
	for what, c := range map[string]call{
		"POST":  {method: "POST", path: "/v2/" + testName + "/blobs/uploads/?digest=" + digestOf(content)},
		"PUT":   {method: "PUT", path: r.beginUpload() + "?digest=" + digestOf(content)},
		"PATCH": {method: "PATCH", path: r.beginUpload()},
	} {
		for size, want := range map[int64]struct {
			status  int
			code    string
			message string
		}{
			1500: {http.StatusForbidden, "DENIED", "this is over the registry's quota of 1000 B (used: 0 B, wanted: 1.5 KiB more): delete versions that nobody needs, or have the quota raised"},
			2001: {http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a chart may have 2.0 KiB at most in this registry, and this one has "},
		} {
			answer := r.announced(c, size)
			code, message := problem(t, answer)
			if answer.StatusCode != want.status || code != want.code || !strings.Contains(message, want.message) {
				t.Errorf("%s of %d bytes: %d %s %s", what, size, answer.StatusCode, code, message)
			}
		}
	}
	// Of what comes whole it is known how much it is.
	r.wantProblem(http.StatusRequestEntityTooLarge, "SIZE_INVALID", call{method: "PUT", path: r.beginUpload() + "?digest=" + digestOf(content), body: strings.Repeat("x", 3072)}, "this one has 3 KiB")
	// What does not say how much it is, is cut off.
	endless := &counter{}
	for _, path := range []string{"PATCH " + r.beginUpload(), "PUT " + r.beginUpload() + "?digest=" + digestOf(content)} {
		method, path, _ := strings.Cut(path, " ")
		r.wantProblem(http.StatusForbidden, "DENIED", call{method: method, path: path, reader: endless}, "over the registry's quota of 1000 B")
	}
	if endless.n > 1<<20 {
		t.Errorf("%d bytes were taken", endless.n)
	}
	// What fits is taken, and deletes give room.
	manifest := r.pushChart("layer", "1.0.0")
	r.wantProblem(http.StatusForbidden, "DENIED", r.manifestCall("1.0.1", manifest), "1 version (used: 1 version, wanted: 1 version more)")
	r.want(http.StatusCreated, r.manifestCall("1.0.0", manifest))
	r.want(http.StatusAccepted, call{method: "DELETE", path: "/v2/" + testName + "/manifests/1.0.0"})
	r.want(http.StatusCreated, r.manifestCall("1.0.1", manifest))
}

// counter yields for ever, and counts what it has yielded.
type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

func TestPushesBeforeTheFirstCount(t *testing.T) {
	r := newLimited(t, quota.Limits{Versions: 1}, false)
	r.pushBlob("{}")
	r.pushBlob("layer")
	r.wantProblem(http.StatusServiceUnavailable, "UNAVAILABLE", r.manifestCall("1.0.0", manifestOf("layer")), "counting what it stores")
}

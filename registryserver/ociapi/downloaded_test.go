package ociapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// presigning is a bucket that has addresses of its own.
type presigning struct{ bucket.Bucket }

func (presigning) Presign(_ context.Context, key, _ string, _ time.Duration) (string, error) {
	return "https://storage.example/" + key, nil
}

// hungUp is a client that is gone when the content comes.
type hungUp struct{ *httptest.ResponseRecorder }

func (hungUp) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// What was sent whole is told, and nothing else is.
func TestDownloadsAreTold(t *testing.T) {
	r := newRegistry(t, wire.Private, func(b bucket.Bucket) bucket.Bucket { return presigning{b} })
	var told []string
	r.handler.o.Downloaded = func(chart string, d digest.Digest) { told = append(told, chart+"@"+d.String()) }
	r.pushChart("layer", "1.0.0")
	path := "/v2/" + testName + "/blobs/" + digestOf("layer")
	r.want(http.StatusOK, call{method: "HEAD", path: path})
	r.want(http.StatusPartialContent, call{method: "GET", path: path, header: map[string]string{"Range": "bytes=0-"}})
	r.want(http.StatusPartialContent, call{method: "GET", path: path, header: map[string]string{"Range": "bytes=1-2"}})
	r.want(http.StatusForbidden, call{method: "GET", path: path, token: "write"})
	r.want(http.StatusUnauthorized, call{method: "GET", path: path, token: "none"})
	r.want(http.StatusNotFound, call{method: "GET", path: "/v2/" + testName + "/blobs/" + digestOf("another")})
	func() {
		defer func() {
			if recover() != http.ErrAbortHandler { //nolint:errorlint // It is not wrapped.
				t.Error("the answer was not broken off")
			}
		}()
		request := httptest.NewRequest(http.MethodGet, path, http.NoBody)
		request.SetBasicAuth("x", r.tokens["read"])
		r.handler.ServeHTTP(hungUp{httptest.NewRecorder()}, request)
	}()
	if told != nil {
		t.Fatalf("before anybody has downloaded anything: %q", told)
	}
	r.want(http.StatusOK, call{method: "GET", path: path, token: "read"})
	r.handler.o.RedirectFrom = 1
	r.want(http.StatusTemporaryRedirect, call{method: "GET", path: path, token: "read"})
	r.want(http.StatusPartialContent, call{method: "GET", path: path, token: "read", header: map[string]string{"Range": "bytes=1-2"}})
	if one := testChart + "@" + digestOf("layer"); !slices.Equal(told, []string{one, one}) {
		t.Errorf("%q", told)
	}
}

package ociapi

import (
	"net/http"
	"slices"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// What is asked for and got is told, by its digest; a push, a refusal and a blob are not.
func TestPullsAreTold(t *testing.T) {
	r := newRegistry(t, wire.Private)
	manifest := r.pushChart("layer", "1.0.0")
	const path = "/v2/" + testName + "/manifests/"
	r.want(http.StatusNotFound, call{method: "GET", path: path + "2.0.0"})
	r.want(http.StatusForbidden, call{method: "GET", path: path + "1.0.0", token: "write"})
	r.want(http.StatusUnauthorized, call{method: "GET", path: path + "1.0.0", token: "none"})
	r.want(http.StatusOK, call{method: "GET", path: "/v2/" + testName + "/blobs/" + digestOf("layer")})
	r.want(http.StatusOK, call{method: "GET", path: "/v2/" + testName + "/tags/list"})
	if len(r.pulled) > 0 {
		t.Fatalf("before anybody has pulled anything: %q", r.pulled)
	}
	r.want(http.StatusOK, call{method: "GET", path: path + "1.0.0", token: "read"})
	r.want(http.StatusOK, call{method: "HEAD", path: path + "1.0.0", token: "read"})
	r.want(http.StatusOK, call{method: "GET", path: path + digestOf(manifest), token: "read"})
	if one := testChart + "@" + digestOf(manifest); !slices.Equal(r.pulled, []string{one, one, one}) {
		t.Errorf("%q", r.pulled)
	}
}

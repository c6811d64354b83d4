package ociapi

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestAdmission(t *testing.T) {
	r := newRegistry(t, wire.Public)
	var asked []string
	var left int
	allowed := true
	r.handler.door.Admit = func(_ *http.Request, identity string, l face.Load) (func(), bool) {
		kind := map[face.Load]string{face.Light: "light", face.Upload: "upload", face.Listing: "listing", face.FailedLogin: "failed login"}[l]
		if identity != "" {
			identity = "somebody"
		}
		asked = append(asked, fmt.Sprintf("%s %s", kind, identity))
		return func() { left++ }, allowed
	}
	const name = "/v2/" + testName
	for _, c := range []struct {
		call
		want string
	}{
		{call{method: "GET", path: "/v2/"}, "light somebody"},
		{call{method: "GET", path: "/v2/_catalog"}, "listing somebody"},
		{call{method: "GET", path: name + "/tags/list", token: "none"}, "listing "},
		{call{method: "HEAD", path: name + "/tags/list"}, "listing somebody"},
		{call{method: "GET", path: name + "/referrers/" + digestOf("a")}, "listing somebody"},
		{call{method: "GET", path: name + "/manifests/1.0.0"}, "light somebody"},
		{call{method: "POST", path: name + "/blobs/uploads/"}, "light somebody"},
		{call{method: "POST", path: name + "/blobs/uploads/?digest=" + digestOf("a"), body: "a"}, "upload somebody"},
		{call{method: "PATCH", path: name + "/blobs/uploads/x", body: "a"}, "upload somebody"},
		{call{method: "GET", path: "/v2/", token: "wrong secret"}, "failed login "},
		{call{method: "GET", path: "/v2/", token: "malformed", bearer: true}, "failed login "},
	} {
		asked, left = nil, 0
		allowed = true
		r.do(c.call)
		if !slices.Equal(asked, []string{c.want}) || left != 1 {
			t.Errorf("%s %s: asked %q, want %q; left %d times", c.method, c.path, asked, c.want, left)
		}
		allowed = false
		answer := r.want(http.StatusTooManyRequests, c.call)
		if got := answer.Header.Get("Retry-After"); got != "2" {
			t.Errorf("Retry-After is %q", got)
		}
		if left != 1 {
			t.Error("what was sent away has left")
		}
		if c.method != "HEAD" {
			if code, message := problem(t, answer); code != "TOOMANYREQUESTS" || message == "" {
				t.Errorf("%s: %s", code, message)
			}
		}
	}
	// Who may not read is told so, however busy the registry is.
	private := newRegistry(t, wire.Private)
	private.handler.o.Admit = r.handler.door.Admit
	private.want(http.StatusUnauthorized, call{method: "GET", path: name + "/tags/list", token: "none"})
}

package ociapi

import (
	"net/http"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/face"
)

// load is what a request for t costs once it is served.
func (t target) load(r *http.Request) face.Load {
	switch {
	case t.route == catalog, strings.HasPrefix(t.pattern(), "/v2/{name}/tags/"), strings.HasPrefix(t.pattern(), "/v2/{name}/referrers/"):
		return face.Listing
	case strings.HasPrefix(t.pattern(), "/v2/{name}/blobs/uploads/") && r.ContentLength != 0:
		return face.Upload
	}
	return face.Light
}

package ociapi

import (
	"net/http"
	"strings"
)

// Load is what a request costs the server.
type Load int

const (
	// Light requests take little, and a time that does not depend on the client.
	Light Load = iota
	// Upload is the receiving of a blob, or of a part of one, at the client's speed.
	Upload
	// Listing reads many objects for one answer.
	Listing
	// FailedLogin is a request with credentials that are not valid.
	FailedLogin
)

var errTooMany = &apiError{http.StatusTooManyRequests, "TOOMANYREQUESTS", "you ask for more, or for more at once, than this registry serves; try again in a few seconds"}

// load is what a request for t costs once it is served.
func (t target) load(r *http.Request) Load {
	switch {
	case t.route == catalog, strings.HasPrefix(t.pattern(), "/v2/{name}/tags/"), strings.HasPrefix(t.pattern(), "/v2/{name}/referrers/"):
		return Listing
	case strings.HasPrefix(t.pattern(), "/v2/{name}/blobs/uploads/") && r.ContentLength != 0:
		return Upload
	}
	return Light
}

// admit asks whether a request may be served now.
func (h *Handler) admit(r *http.Request, identity string, l Load) (leave func(), err error) {
	if h.o.Admit == nil {
		return func() {}, nil
	}
	leave, ok := h.o.Admit(r, identity, l)
	if !ok {
		return nil, errTooMany
	}
	return leave, nil
}

// Package ociapi serves the OCI Distribution Specification 1.1 over the repositories of one registry. It only
// translates: it asks package access who may, package repository to do it, and turns the outcome into a status and a
// sentence that helps a person who reads it in helm.
package ociapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Options configure the API of one registry.
type Options struct {
	// Store holds the content.
	Store *repository.Store
	// Access decides who may do what.
	Access *access.Enforcer
	// Organization and Registry are the first two elements of every repository name that is served.
	Organization, Registry string
	// ExternalURL is the address that clients use, for example "https://charts.example.com". It appears in messages
	// only; redirects and locations never name a host.
	ExternalURL *url.URL
	// UploadKeys returns the keys that sign upload addresses, 32 bytes each: the first signs, all verify. There is at
	// least one. It is called for each upload request, so that a changed key file is in force at once.
	UploadKeys func() [][]byte
	// Logger gets what went wrong in the server itself. Nil means slog.Default.
	Logger *slog.Logger
	// Observe, when not nil, is called once for each request as soon as it is known what is asked (the pattern of a
	// route, from a small fixed set) and by whom (access.Identity.ID, empty when credentials are not valid).
	Observe func(ctx context.Context, route, identity string)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Handler answers requests. Make it with New.
type Handler struct {
	o              Options
	uploads        signer
	largeManifests largeManifests
}

// New returns the handler for all paths of the public listener.
func New(o Options) *Handler {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(context.Context, string, string) {}
	}
	return &Handler{
		o:              o,
		uploads:        signer{keys: o.UploadKeys, now: o.Now, random: rand.Reader},
		largeManifests: make(largeManifests, maxLargeManifests),
	}
}

// request is an HTTP request together with what is known of it once it may be served.
type request struct {
	*http.Request
	identity access.Identity
	// name is the whole repository name: organization, registry and chart.
	name string
	// argument is the digest, reference or upload of the path.
	argument   string
	repository *repository.Repository
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Stored content is never a page: a browser that is pointed at it must neither guess a type nor run anything.
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
	if err := h.serve(w, r); err != nil {
		h.fail(w, r, err)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	t, pathErr := parsePath(r.URL)
	if errors.Is(pathErr, errNotAPI) {
		h.o.Observe(r.Context(), t.pattern(), "")
		return pathErr
	}
	identity, err := h.authenticate(r)
	h.o.Observe(r.Context(), t.pattern(), identity.ID)
	if err != nil {
		return err
	}
	// Before anything about the request is judged, so that a private registry answers anonymous requests for what
	// exists and for what does not with the same words. The base is where clients find out that credentials are
	// wanted, in a public registry too.
	if identity.Anonymous && (t.route == base || !h.o.Access.Authorize(identity, wire.ReadPackages, t.chart).Allowed) {
		return h.unauthorized(credentialsMissing)
	}
	if pathErr != nil {
		return pathErr
	}
	if t.route != base && (t.organization != h.o.Organization || t.registry != h.o.Registry || t.chart == "") {
		return h.wrongName(t)
	}
	action, ok := t.route.methods[r.Method]
	if !ok {
		w.Header().Set("Allow", t.route.allow())
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		return &apiError{http.StatusMethodNotAllowed, "UNSUPPORTED", "this address does not take " + quote(r.Method) + ", only " + t.route.allow()}
	}
	if t.route == base {
		return action.serve(h, w, &request{Request: r, identity: identity})
	}
	if err := h.authorize(identity, action.needs, t.chart); err != nil {
		// The first that a push does is to ask, with HEAD, what is there already, and helm shows nothing of the answer
		// but the status. A token that may write but not read finds nothing, and is told why where the push begins.
		if r.Method == http.MethodHead && h.o.Access.Authorize(identity, wire.WritePackages, t.chart).Allowed {
			return repository.ErrBlobUnknown
		}
		return err
	}
	repo, err := h.o.Store.Repository(t.chart)
	if err != nil {
		return err
	}
	r.Body = &authorizedBody{ReadCloser: r.Body, judge: func() error { return h.authorize(identity, action.needs, t.chart) }}
	return action.serve(h, w, &request{Request: r, identity: identity, name: t.name(), argument: t.argument, repository: repo})
}

func (h *Handler) authenticate(r *http.Request) (access.Identity, error) {
	credentials, err := access.FromRequest(r)
	if err == nil {
		var identity access.Identity
		if identity, err = h.o.Access.Authenticate(r.Context(), credentials); err == nil {
			return identity, nil
		}
	}
	return access.Identity{}, h.unauthorized(credentialsInvalid)
}

func (h *Handler) authorize(identity access.Identity, n need, chart string) error {
	var d access.Decision
	switch n {
	case needsRead:
		d = h.o.Access.Authorize(identity, wire.ReadPackages, chart)
	case needsPush:
		d = h.o.Access.AuthorizePush(identity, chart)
	case needsDelete:
		d = h.o.Access.Authorize(identity, wire.DeletePackages, chart)
	}
	switch {
	case d.Allowed:
		return nil
	case identity.Anonymous:
		return h.unauthorized(credentialsMissing)
	default:
		return &apiError{http.StatusForbidden, "DENIED", d.Reason}
	}
}

// bodyError is what went wrong with the body of a request, which is the client's side of it.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "reading what the client sent: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// authorizedBody judges again when the body has ended: a token that was revoked while its holder was sending slowly
// stores nothing.
type authorizedBody struct {
	io.ReadCloser
	judge func() error
}

func (b *authorizedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		if denied := b.judge(); denied != nil {
			return n, denied
		}
	} else if err != nil {
		err = &bodyError{err}
	}
	return n, err
}

func (h *Handler) wrongName(t target) error {
	right := h.o.Organization + "/" + h.o.Registry
	if t.organization == h.o.Organization && t.registry == h.o.Registry {
		return &apiError{http.StatusNotFound, "NAME_UNKNOWN", fmt.Sprintf(
			"%s is the registry itself: name a chart in it, as in oci://%s/%s/mychart", right, h.o.ExternalURL.Host, right)}
	}
	return &apiError{http.StatusNotFound, "NAME_UNKNOWN", fmt.Sprintf(
		"there is no %s here; this registry serves %s: push to oci://%s/%s", quote(t.name()), right, h.o.ExternalURL.Host, right)}
}

func getBase(_ *Handler, w http.ResponseWriter, _ *request) error {
	writeJSON(w, http.StatusOK, []byte("{}"))
	return nil
}

// quote makes what a client sent fit to be shown: bounded, and without control characters.
func quote(s string) string {
	const limit = 128
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.ToValidUTF8(fmt.Sprintf("%q", s), "?")
}

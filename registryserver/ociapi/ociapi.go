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
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
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
	// RedirectFrom is the size in bytes from which on a blob that is fetched whole is answered with a redirect to where it
	// is stored, which Store's bucket must be able to sign. 0 for never.
	RedirectFrom int64
	// Logger gets what went wrong in the server itself. Nil means slog.Default.
	Logger *slog.Logger
	// Observe, when not nil, is called once for each request, and returns the place to note what is found out about it:
	// that of one request, not nil.
	Observe func(ctx context.Context) *audit.Observation
	// Admit, when not nil, is asked before a request is served, and whenever credentials turn out not to be valid. It may
	// wait. identity is access.Identity.ID, empty where nobody has logged in. leave, which it returns with true, is called
	// once the request has been served; false tells the client to come back later.
	Admit func(r *http.Request, identity string, l Load) (leave func(), ok bool)
	// Pulled, when not nil, is called for each manifest that somebody asks for and gets, before it is sent. It must be quick.
	Pulled func(chart, digest string)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Handler answers requests. Make it with New.
type Handler struct {
	o              Options
	uploads        signer
	largeManifests largeManifests
	lists          lists
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
		o.Observe = func(context.Context) *audit.Observation { return &audit.Observation{} }
	}
	if o.Pulled == nil {
		o.Pulled = func(string, string) {}
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
	target
	identity   access.Identity
	repository *repository.Repository
	seen       *audit.Observation
}

// Values of headers that are in every answer, shared by all; nobody changes them.
var (
	noSniff = []string{"nosniff"}
	noPage  = []string{"default-src 'none'; sandbox"}
)

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Stored content is never a page: a browser that is pointed at it must neither guess a type nor run anything.
	header := w.Header()
	header["X-Content-Type-Options"], header["Content-Security-Policy"] = noSniff, noPage
	seen := h.o.Observe(r.Context())
	if err := h.serve(w, r, seen); err != nil {
		h.fail(w, r, err, seen)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, seen *audit.Observation) error {
	t, pathErr := parsePath(r.URL)
	t.observe(r.Method, seen)
	if errors.Is(pathErr, errNotAPI) {
		return pathErr
	}
	identity, err := h.authenticate(r, seen)
	if err != nil {
		return err
	}
	seen.Identity = identity
	// Before anything about the request is judged, so that a private registry answers anonymous requests for what
	// exists and for what does not with the same words. The base is where clients find out that credentials are
	// wanted, in a public registry too.
	if identity.Anonymous && (t.route == base || !h.o.Access.Authorize(identity, wire.ReadPackages, t.chart).Allowed) {
		return h.unauthorized(credentialsMissing)
	}
	if pathErr != nil {
		return pathErr
	}
	client := identity.ID
	if identity.Anonymous {
		client = ""
	}
	leave, err := h.admit(r, client, t.load(r))
	if err != nil {
		return err
	}
	defer leave()
	registryWide := t.route == base || t.route == catalog
	if !registryWide && (t.organization != h.o.Organization || t.registry != h.o.Registry || t.chart == "") {
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
	if registryWide {
		return action.serve(h, w, &request{Request: r, identity: identity, seen: seen})
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
	if r.ContentLength != 0 {
		r.Body = &authorizedBody{ReadCloser: r.Body, judge: func() error { return h.authorize(identity, action.needs, t.chart) }}
	}
	return h.discreet(identity, action.serve(h, w, &request{Request: r, target: t, identity: identity, repository: repo, seen: seen}))
}

// discreet keeps what is stored in all charts together from who may not read all of them.
func (h *Handler) discreet(identity access.Identity, err error) error {
	var over *quota.Error
	if errors.As(err, &over) && over.Discreet != "" && !h.o.Access.ReadsAll(identity) {
		return &quota.Error{Reason: over.Discreet}
	}
	return err
}

func (h *Handler) authenticate(r *http.Request, seen *audit.Observation) (access.Identity, error) {
	identity, err := h.o.Access.Identify(r)
	if err == nil {
		return identity, nil
	}
	leave, tooMany := h.admit(r, "", FailedLogin)
	if tooMany != nil {
		return access.Identity{}, tooMany
	}
	leave()
	var refused *access.RefusedError
	if errors.As(err, &refused) {
		seen.Credential, seen.Reason = refused.Token, refused.Reason
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

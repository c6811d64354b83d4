// Package ociapi serves the OCI Distribution Specification 1.1 over the repositories of one registry. It only
// translates: it asks package access who may, package repository to do it, and turns the outcome into a status and a
// sentence that helps a person who reads it in helm.
package ociapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/face"
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
	Admit func(r *http.Request, identity string, l face.Load) (leave func(), ok bool)
	// Pulled, when not nil, is called for each manifest that somebody asks for and gets, before it is sent. It must be quick.
	Pulled func(chart, digest string)
	// Downloaded, when not nil, is called for each blob that was sent whole in answer to a GET of all of it, and for each
	// redirect to one. It must be quick.
	Downloaded func(chart string, d digest.Digest)
	// Failed, when not nil, is told of each error that a request is answered with. It must be quick.
	Failed func(err error)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Handler answers requests. Make it with New.
type Handler struct {
	o              Options
	door           face.Door
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
	if o.Downloaded == nil {
		o.Downloaded = func(string, digest.Digest) {}
	}
	return &Handler{
		o: o,
		door: face.Door{
			Access: o.Access, Registry: o.Organization + "/" + o.Registry, Command: "`helm registry login " + o.ExternalURL.Host + "`", Admit: o.Admit, Failed: o.Failed, Logger: o.Logger,
		},
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
	identity, err := h.door.Identify(r, seen)
	if err != nil {
		return err
	}
	// Before anything about the request is judged, so that a private registry answers anonymous requests for what
	// exists and for what does not with the same words. The base is where clients find out that credentials are
	// wanted, in a public registry too.
	if identity.Anonymous && (t.route == base || !h.o.Access.Authorize(identity, wire.ReadPackages, t.chart).Allowed) {
		return h.door.Anonymous()
	}
	if pathErr != nil {
		return pathErr
	}
	leave, err := h.door.Enter(r, identity, t.load(r))
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
		return face.NotAllowed(w, r.Method, face.Allow(t.route.methods))
	}
	if registryWide {
		return action.serve(h, w, &request{Request: r, identity: identity, seen: seen})
	}
	if err := h.door.Authorize(identity, action.needs, t.chart); err != nil {
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
		r.Body = &face.Body{ReadCloser: r.Body, Judge: func() error { return h.door.Authorize(identity, action.needs, t.chart) }}
	}
	return h.door.Discreet(identity, action.serve(h, w, &request{Request: r, target: t, identity: identity, repository: repo, seen: seen}))
}

func (h *Handler) wrongName(t target) error {
	right := h.o.Organization + "/" + h.o.Registry
	if t.organization == h.o.Organization && t.registry == h.o.Registry {
		return refuse(http.StatusNotFound, "NAME_UNKNOWN", fmt.Sprintf(
			"%s is the registry itself: name a chart in it, as in oci://%s/%s/mychart", right, h.o.ExternalURL.Host, right))
	}
	return refuse(http.StatusNotFound, "NAME_UNKNOWN", fmt.Sprintf(
		"there is no %s here; this registry serves %s: push to oci://%s/%s", face.Quote(t.name()), right, h.o.ExternalURL.Host, right))
}

func getBase(_ *Handler, w http.ResponseWriter, _ *request) error {
	writeJSON(w, http.StatusOK, []byte("{}"))
	return nil
}

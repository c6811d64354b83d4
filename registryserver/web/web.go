// Package web serves the pages of a registry to people: its charts, their versions and all that is in them, and the lines to
// copy. Pages are made on the server and work without scripts. It only translates: who may see what is for package access
// to say, and what there is for packages inventory and repository.
package web

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/limits"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/web/readme"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
)

// About is what a registry is called, for people.
type About struct {
	// DisplayName is a title; the registry's own name where it is empty.
	DisplayName string
	// Description is a sentence or two.
	Description string
	// Emoji is shown on Color, "#rrggbb". Both may be empty.
	Emoji, Color string
	// Authority is the ConfigMap with the authority of the registry's certificate, as namespace/name; may be empty.
	Authority string
}

// Load is what a request costs the server.
type Load int

const (
	// Light requests take little memory, and as long as the client takes.
	Light Load = iota
	// Listing is a page of lists, which may take 512 KiB until the client has it.
	Listing
	// Text is a page with a text, or all that comes with a version, which may take 4 MiB until the client has it.
	Text
)

// Options configure the pages of one registry.
type Options struct {
	// Store holds the content, Inventory knows what there is of it, and Access decides who may see it.
	Store     *repository.Store
	Inventory inventory.Reader
	Access    *access.Enforcer
	// Organization and Registry are what the paths of pages begin with.
	Organization, Registry string
	// ExternalURL is the address that clients use, for example "https://charts.example.com".
	ExternalURL *url.URL
	// About, when not nil, is what the registry is called now. It is called for each page.
	About func() About
	// Settings, when not nil, are how the registry is set up: of its object where there is a name, and of the server alone
	// where there is none. They have nothing secret in them.
	Settings func() wire.Settings
	// History, when not nil, knows the last changes.
	History History
	// Notifier, when not nil, tells receivers of events.
	Notifier Notifier
	// Storage says where the content is kept, in a word or two.
	Storage string
	// Logger gets what went wrong in the server itself. Nil means slog.Default.
	Logger *slog.Logger
	// Observe, when not nil, is called once for each request, as ociapi.Options.Observe is.
	Observe func(ctx context.Context) *audit.Observation
	// Admit, when not nil, is asked before a page is made. It may wait. identity is access.Identity.ID, empty where nobody
	// has signed in. leave, which it returns with true, is called once the request has been served; false tells the client
	// to come back later.
	Admit func(r *http.Request, identity string, l Load) (leave func(), ok bool)
	// AllowSignIn, when not nil, says whether a client may try once more to sign in.
	AllowSignIn func(r *http.Request) bool
	// Pulled, when not nil, is called with each manifest of which somebody is about to get the archive, as ociapi.Options
	// has it.
	Pulled func(chart, digest string)
	// Downloaded, when not nil, is called when the whole archive of a chart was sent to somebody.
	Downloaded func(chart string, archive digest.Digest)
	// Failed, when not nil, is told of each error that a request is answered with. It must be quick.
	Failed func(err error)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// nothing is the history of nothing.
type nothing struct{}

// Recent implements History.
func (nothing) Recent(context.Context) ([]events.Event, error) { return nil, nil }

const (
	// maxReading is how many archives are read at once, each of which takes a few MiB.
	maxReading = 4
	// maxListing is how many lists of all charts, or of all versions of one, are made at once: those of 10,000 charts take 8 MiB.
	maxListing = 4
	// cacheBytes bounds what is remembered of archives that were read.
	cacheBytes = 8 << 20
	// readmePatience is how long the making of HTML of a README may take.
	readmePatience = 2 * time.Second
)

// Handler serves the pages. Make it with New.
type Handler struct {
	o      Options
	kinds  kinds
	assets assets
	// pages and readmes are made when the first person looks: many registries have none.
	pages   func() map[string]*template.Template
	readmes func() *readme.Renderer
	// reading and listing have a place for each archive that is being read, and each list that is being made.
	reading, listing limits.Places
	cache            cache
	origins          *http.CrossOriginProtection
}

// New returns the handler of all paths that it Serves.
func New(o Options) *Handler {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.About == nil {
		o.About = func() About { return About{} }
	}
	if o.Settings == nil {
		o.Settings = func() wire.Settings { return wire.Settings{} }
	}
	if o.History == nil {
		o.History = nothing{}
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	if o.Observe == nil {
		o.Observe = func(context.Context) *audit.Observation { return &audit.Observation{} }
	}
	if o.Admit == nil {
		o.Admit = func(*http.Request, string, Load) (func(), bool) { return func() {}, true }
	}
	if o.AllowSignIn == nil {
		o.AllowSignIn = func(*http.Request) bool { return true }
	}
	if o.Pulled == nil {
		o.Pulled = func(string, string) {}
	}
	if o.Downloaded == nil {
		o.Downloaded = func(string, digest.Digest) {}
	}
	return &Handler{
		o:       o,
		kinds:   newKinds(),
		assets:  readAssets(),
		pages:   sync.OnceValue(parsePages),
		readmes: sync.OnceValue(func() *readme.Renderer { return readme.New(max(1, runtime.GOMAXPROCS(0)/2), readmePatience) }),
		reading: make(limits.Places, maxReading),
		listing: make(limits.Places, maxListing),
		cache:   cache{most: cacheBytes},
		origins: http.NewCrossOriginProtection(),
	}
}

// Serves reports whether a path is that of a page, or of what belongs to one.
func (h *Handler) Serves(path string) bool {
	own := h.registryPath()
	return path == "/" || path == signInPath || path == signOutPath || strings.HasPrefix(path, assetsPath) ||
		path == own || strings.HasPrefix(path, own+"/")
}

func (h *Handler) registryPath() string { return "/" + h.o.Organization + "/" + h.o.Registry }

// request is a request together with what is known of it.
type request struct {
	*http.Request
	route
	viewer viewer
	seen   *audit.Observation
}

// statusError is an answer that is no page: why, in words for the person.
type statusError struct {
	status int
	reason string
}

func (e *statusError) Error() string { return e.reason }

// errNotFound is the answer for what is not there, and for what the viewer may not see.
var errNotFound = &statusError{http.StatusNotFound, "There is nothing here, or you may not see it."}

// repositoryElsewhere answers who has left out the last element of the Helm repository's address.
func (h *Handler) repositoryElsewhere(http.ResponseWriter, *request) error {
	address := strings.TrimRight(h.o.ExternalURL.String(), "/") + h.registryPath() + "/helm"
	return &statusError{http.StatusNotFound, "There is nothing here: the address of the registry as a Helm repository is " + address + "."}
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.secure(w.Header(), r)
	t := h.parse(r.URL)
	seen := h.o.Observe(r.Context())
	seen.Route, seen.Action, seen.Chart, seen.Reference = t.kind.pattern, t.kind.does, t.chart, t.version
	q := &request{Request: r, route: t, seen: seen}
	if err := h.serve(w, q); err != nil {
		h.fail(w, q, err)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *request) error {
	if r.kind == h.kinds.asset {
		return h.asset(w, r)
	}
	r.viewer = h.viewerOf(w, r)
	r.seen.Identity = r.viewer.identity
	if !slices.Contains(r.kind.methods, r.Method) {
		w.Header().Set("Allow", strings.Join(r.kind.methods, ", "))
		return &statusError{http.StatusMethodNotAllowed, "This address does not take " + r.Method + "."}
	}
	if err := h.origins.Check(r.Request); err != nil {
		return &statusError{http.StatusForbidden, "The form was sent by another site, and nothing was done. Open the page here and try again."}
	}
	client := r.viewer.identity.ID
	if !r.viewer.SignedIn {
		client = ""
	}
	leave, ok := h.o.Admit(r.Request, client, r.kind.load)
	if !ok {
		return errTooMany
	}
	defer leave()
	// Before anything about the address is judged, so that nobody learns what there is in a private registry.
	if r.kind.private && !r.viewer.SignedIn && !h.o.Access.Public() {
		http.Redirect(w, r.Request, signInURL(r.URL.RequestURI()), http.StatusSeeOther)
		return nil
	}
	return r.kind.serve(h, w, r)
}

var errTooMany = &statusError{http.StatusTooManyRequests, "You ask for more, or for more at once, than this registry serves. Try again in a few seconds."}

// list calls f, which makes a list of which a page shows a part, a few at a time.
func (h *Handler) list(ctx context.Context, f func()) error {
	leave, err := h.listing.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	f()
	return nil
}

// secure sets the headers that every answer has. What is sent for downloading replaces the policy by a narrower one.
func (h *Handler) secure(header http.Header, r *http.Request) {
	header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Vary", "Cookie")
	header.Set("Cache-Control", "no-cache")
	// Not for localhost, where other programs are served without TLS.
	if h.o.ExternalURL.Scheme == "https" && r.TLS != nil && hostname(r.Host) == h.o.ExternalURL.Hostname() && !isLoopback(hostname(r.Host)) {
		header.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// fail answers with a page that says what is wrong.
func (h *Handler) fail(w http.ResponseWriter, r *request, err error) {
	h.o.Failed(err)
	answer := translate(err)
	if answer.status >= http.StatusInternalServerError {
		h.o.Logger.ErrorContext(r.Context(), "a page could not be made", "error", err)
	}
	if r.seen.Reason == "" {
		r.seen.Reason = answer.reason
	}
	if answer.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "2")
	}
	// That of an error returns none.
	_ = h.render(w, r, answer.status, "error", fmt.Sprintf("%d %s", answer.status, http.StatusText(answer.status)), answer.reason)
}

// translate turns an error into an answer. What is not known here is not shown: it could name paths of the server.
func translate(err error) *statusError {
	var answer *statusError
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.Is(err, repository.ErrNameInvalid), errors.Is(err, repository.ErrReferenceInvalid), errors.Is(err, repository.ErrDigestUnsupported),
		errors.Is(err, repository.ErrManifestUnknown), errors.Is(err, repository.ErrBlobUnknown), errors.Is(err, repository.ErrRepositoryUnknown):
		return errNotFound
	case errors.Is(err, context.Canceled):
		return &statusError{http.StatusRequestTimeout, "The browser went away."}
	}
	return &statusError{http.StatusInternalServerError, "The registry failed. Its log says why, under the X-Request-Id of this answer."}
}

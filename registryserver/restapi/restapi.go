// Package restapi serves the charts of a registry as packages, in JSON over HTTP: to publish, list, describe, delete and
// copy them. It only translates, as the other faces do. openapi.json says what there is; a test holds the two together.
package restapi

import (
	"bytes"
	"context"
	_ "embed" // For the document.
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// Document is the OpenAPI 3.1 document of this interface.
//
//go:embed openapi.json
var document []byte

// Options configure the interface of one registry.
type Options struct {
	// Store holds the content, Inventory knows what there is, and Publisher takes more.
	Store     *repository.Store
	Inventory inventory.Reader
	Publisher *publish.Publisher
	// Door lets requests in.
	Door *face.Door
	// Organization and Registry are those in addresses.
	Organization, Registry string
	// ExternalURL is the address that clients use, for example "https://charts.example.com": addresses in answers begin
	// with it, whatever a client calls the server.
	ExternalURL string
	// Observe returns the place to note what is found out about a request: that of one request, not nil.
	Observe func(ctx context.Context) *audit.Observation
}

// Prefix is what the paths of all addresses begin with.
const Prefix = "/api/v2"

const (
	// patience is how long a request waits until the inventory knows of what is stored.
	patience = 5 * time.Second
	// buildPatience is how long a list waits for the first look at all that is stored.
	buildPatience = 10 * time.Second
)

// Handler answers requests. Make it with New.
type Handler struct {
	o      Options
	routes []route
	// root is the address of the registry's packages.
	root string
}

// New returns the handler of all addresses that Serves names.
func New(o Options) *Handler {
	o.ExternalURL = strings.TrimRight(o.ExternalURL, "/")
	return &Handler{o: o, routes: routes(), root: o.ExternalURL + Prefix + "/packages/organizations/" + o.Organization + "/registries/" + o.Registry + "/packages"}
}

// Serves reports whether an address is one of this handler.
func (h *Handler) Serves(path string) bool {
	rest, found := strings.CutPrefix(path, Prefix)
	return found && (rest == "" || rest[0] == '/')
}

// route is one shape of address.
type route struct {
	// path is behind Prefix, in the form of OpenAPI. In braces are parameters, each one element.
	path    string
	methods map[string]action
	// open is true where everybody is answered, in a private registry too.
	open bool
}

type action struct {
	does  audit.Action
	load  face.Load
	serve func(*Handler, http.ResponseWriter, *request) error
}

// request is an HTTP request together with what is known of it once it may be served.
type request struct {
	*http.Request
	identity access.Identity
	seen     *audit.Observation
	// chart and tag are those of the package that the address names.
	chart, tag string
}

const packagesPath = "/packages/organizations/{organization}/registries/{registry}/packages"

func routes() []route {
	return []route{
		{"/openapi.json", map[string]action{http.MethodGet: {audit.Other, face.Light, getDocument}}, true},
		{packagesPath, map[string]action{
			http.MethodGet:  {audit.List, face.Listing, listPackages},
			http.MethodPost: {audit.Push, face.Upload, publishPackage},
		}, false},
		{packagesPath + "/{id}", map[string]action{
			http.MethodGet:    {audit.List, face.Light, getPackage},
			http.MethodDelete: {audit.Delete, face.Light, deletePackage},
		}, false},
		{packagesPath + "/{id}/copy", map[string]action{http.MethodPost: {audit.Push, face.Upload, copyPackage}}, false},
		{packagesPath + "/{id}/versions", map[string]action{http.MethodGet: {audit.List, face.Listing, listVersions}}, false},
		{packagesPath + "/{id}/downloads", map[string]action{http.MethodGet: {audit.List, face.Light, getDownloads}}, false},
	}
}

// match finds the route of an address, and the parameters in it.
func (h *Handler) match(elements []string) (*route, map[string]string) {
	for i := range h.routes {
		pattern := strings.Split(strings.TrimPrefix(h.routes[i].path, "/"), "/")
		if len(pattern) != len(elements) {
			continue
		}
		parameters := map[string]string{}
		for n, p := range pattern {
			if name, found := strings.CutPrefix(p, "{"); found {
				parameters[strings.TrimSuffix(name, "}")] = elements[n]
			} else if p != elements[n] {
				parameters = nil
				break
			}
		}
		if parameters != nil {
			return &h.routes[i], parameters
		}
	}
	return nil, nil
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// What is stored is never a page.
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
	seen := h.o.Observe(r.Context())
	if err := h.serve(w, r, seen); err != nil {
		answer := h.o.Door.Fail(w, r, err, seen)
		writeJSON(w, answer.Status, problem{answer.Code, answer.Message})
	}
}

// problem is the form of all answers that are no success.
type problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	var encoded bytes.Buffer
	encoder := json.NewEncoder(&encoded)
	encoder.SetEscapeHTML(false) // It is no page, and addresses have "&".
	if err := encoder.Encode(body); err != nil {
		panic(err) // Strings, numbers and times always encode.
	}
	write(w, status, encoded.Bytes())
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// When the client is gone, nobody is left to tell.
	_, _ = w.Write(body)
}

func refuse(status int, code, message string) error {
	return &face.Error{Status: status, Code: code, Message: message}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, seen *audit.Observation) error {
	elements, pathErr := face.Split(r.URL, Prefix)
	found, parameters := h.match(elements)
	seen.Route, seen.Action = "other", audit.Other
	var a action
	allowed := false
	if found != nil {
		seen.Route = Prefix + found.path
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet // net/http leaves the body out.
		}
		if a, allowed = found.methods[method]; allowed {
			seen.Action = a.does
		}
	}
	in := &request{Request: r, seen: seen}
	id, hasID := parameters["id"]
	if hasID {
		in.chart, in.tag, hasID = parseID(id)
		seen.Chart, seen.Reference = in.chart, in.tag
	}
	var err error
	if in.identity, err = h.o.Door.Identify(r, seen); err != nil {
		return err
	}
	// Before anything about the request is judged, so that a private registry answers anonymous requests for what exists
	// and for what does not with the same words.
	if found == nil || !found.open {
		if err := h.o.Door.Authorize(in.identity, face.Login, ""); err != nil {
			return err
		}
	}
	leave, err := h.o.Door.Enter(r, in.identity, a.load)
	if err != nil {
		return err
	}
	defer leave()
	switch {
	case pathErr != nil && strings.Contains(strings.ToLower(r.URL.RawPath), "%2f"):
		return refuse(http.StatusBadRequest, "NAME_INVALID", "an address has no %2F. "+idForm)
	case pathErr != nil:
		return pathErr
	case found == nil:
		return refuse(http.StatusNotFound, "UNSUPPORTED", "there is no such address; "+Prefix+"/openapi.json says which there are. "+idForm)
	case !found.open && (parameters["organization"] != h.o.Organization || parameters["registry"] != h.o.Registry):
		return refuse(http.StatusNotFound, "NAME_UNKNOWN", "there is no such registry here; this one is "+h.o.Door.Registry+", with its packages at "+h.root)
	case !allowed:
		return face.NotAllowed(w, r.Method, face.Allow(found.methods))
	case id != "" && !hasID:
		return errNoPackage
	}
	return h.o.Door.Discreet(in.identity, a.serve(h, w, in))
}

func getDocument(_ *Handler, w http.ResponseWriter, _ *request) error {
	write(w, http.StatusOK, document)
	return nil
}

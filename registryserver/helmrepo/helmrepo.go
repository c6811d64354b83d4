// Package helmrepo serves the charts of a registry as a classic Helm repository: an index.yaml, archives and provenance
// files, and the address to which `helm cm-push` and curl publish. It only translates, as the other faces do: what it
// serves is what package repository has, and what it takes is what package publish makes of it.
package helmrepo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/limits"
	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options configure the repository of one registry.
type Options struct {
	// Store holds the content, Inventory knows what there is, and Publisher takes more.
	Store     *repository.Store
	Inventory inventory.Reader
	Publisher *publish.Publisher
	// Door lets requests in.
	Door *face.Door
	// Observe returns the place to note what is found out about a request: that of one request, not nil.
	Observe func(ctx context.Context) *audit.Observation
	// Pulled, when not nil, is called with each manifest of which somebody is about to get the archive, as ociapi.Options
	// has it.
	Pulled func(chart, digest string)
	// Downloaded, when not nil, is called with each archive that was sent whole. It must be quick.
	Downloaded func(chart string, archive digest.Digest)
}

// buildPatience is how long a request waits for the first look at all that is stored.
const buildPatience = 10 * time.Second

// maxReading bounds the manifests that are read at once, each of which may have some MiB.
const maxReading = 16

// Handler answers requests. Make it with New.
type Handler struct {
	o      Options
	prefix string
	routes []*route
	// reading are places for those who read a manifest.
	reading limits.Places
	// whole is the newest index that anybody who may read all was given.
	whole atomic.Pointer[wholeIndex]
}

// New returns the handler of all addresses that Serves names.
func New(o Options) *Handler {
	if o.Pulled == nil {
		o.Pulled = func(string, string) {}
	}
	if o.Downloaded == nil {
		o.Downloaded = func(string, digest.Digest) {}
	}
	return &Handler{o: o, prefix: Path(o.Door.Registry), routes: routes(), reading: make(limits.Places, maxReading)}
}

// Path is that of the Helm repository of a registry, "organization/registry".
func Path(registry string) string { return "/" + registry + "/helm" }

// Serves reports whether an address is one of this handler.
func (h *Handler) Serves(path string) bool {
	rest, found := strings.CutPrefix(path, h.prefix)
	return found && (rest == "" || rest[0] == '/')
}

// route is one shape of address.
type route struct {
	// pattern names the route in logs and metrics.
	pattern string
	// elements are those behind the prefix; the last may be "*", which stands for any number.
	elements []string
	load     face.Load
	methods  map[string]action
}

type action struct {
	does  audit.Action
	serve func(*Handler, http.ResponseWriter, *request) error
}

// request is an HTTP request together with what is known of it once it may be served.
type request struct {
	*http.Request
	identity access.Identity
	seen     *audit.Observation
	// rest is what the "*" of the route stands for.
	rest string
	// leave gives the request's place to another; again it does nothing.
	leave func()
}

func routes() []*route {
	reads := func(does audit.Action, serve func(*Handler, http.ResponseWriter, *request) error) map[string]action {
		return map[string]action{http.MethodGet: {does, serve}, http.MethodHead: {does, serve}}
	}
	publishes := map[string]action{http.MethodPost: {audit.Push, postChart}}
	return []*route{
		{"/helm/index.yaml", []string{"index.yaml"}, face.Listing, reads(audit.List, getIndex)},
		{"/helm/artifacthub-repo.yml", []string{"artifacthub-repo.yml"}, face.Light, reads(audit.Pull, getArtifactHub)},
		{"/helm/charts/{file}", []string{"charts", "*"}, face.Light, reads(audit.Pull, getFile)},
		{"/helm/api/charts", []string{"api", "charts"}, face.Upload, publishes},
		{"/helm", nil, face.Upload, publishes},
	}
}

// match finds the route of an address, and what the "*" of it stands for.
func (h *Handler) match(elements []string) (found *route, rest string) {
	for _, r := range h.routes {
		fixed, open := r.elements, false
		if n := len(fixed); n > 0 && fixed[n-1] == "*" {
			fixed, open = fixed[:n-1], true
		}
		if len(elements) < len(fixed) || open == (len(elements) == len(fixed)) {
			continue
		}
		if strings.Join(elements[:len(fixed)], "/") == strings.Join(fixed, "/") {
			return r, strings.Join(elements[len(fixed):], "/")
		}
	}
	return nil, ""
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// What is stored is never a page.
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
	seen := h.o.Observe(r.Context())
	if err := h.serve(w, r, seen); err != nil {
		answer := h.o.Door.Fail(w, r, err, seen)
		writeJSON(w, answer.Status, map[string]string{"error": answer.Message})
	}
}

// writeJSON writes an answer as clients of ChartMuseum expect it.
func writeJSON(w http.ResponseWriter, status int, body any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(err) // Strings and booleans always encode.
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(encoded)))
	w.WriteHeader(status)
	// When the client is gone, nobody is left to tell.
	_, _ = w.Write(encoded)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, seen *audit.Observation) error {
	elements, pathErr := face.Split(r.URL, h.prefix)
	found, rest := h.match(elements)
	seen.Route, seen.Action = "other", audit.Other
	var a action
	allowed := false
	load := face.Light
	if found != nil {
		seen.Route, load = found.pattern, found.load
		if a, allowed = found.methods[r.Method]; allowed {
			seen.Action = a.does
		}
	}
	identity, err := h.o.Door.Identify(r, seen)
	if err != nil {
		return err
	}
	// Before anything about the request is judged, so that a private registry answers anonymous requests for what exists
	// and for what does not with the same words.
	if err := h.o.Door.Authorize(identity, face.Login, ""); err != nil {
		return err
	}
	leave, err := h.o.Door.Enter(r, identity, load)
	if err != nil {
		return err
	}
	leave = sync.OnceFunc(leave)
	defer leave()
	switch {
	case pathErr != nil:
		return pathErr
	case found == nil && r.Method == http.MethodDelete:
		return &face.Error{Status: http.StatusNotFound, Code: "UNSUPPORTED", Message: "nothing can be deleted here: the REST API deletes versions, see /api/v2/openapi.json"}
	case found == nil:
		return &face.Error{Status: http.StatusNotFound, Code: "UNSUPPORTED", Message: "a Helm repository has no such address: it has index.yaml, and charts in charts/"}
	case !allowed:
		return face.NotAllowed(w, r.Method, face.Allow(found.methods))
	}
	return h.o.Door.Discreet(identity, a.serve(h, w, &request{r, identity, seen, rest, leave}))
}

// wholeIndex is the index of everything at a revision of the inventory. Most who ask for it have it already, so its ETags are
// kept.
type wholeIndex struct {
	inventory.Index
	revision uint64
	etags    map[bool][2]func() string
}

// ETag implements inventory.Index.
func (x *wholeIndex) ETag(form inventory.IndexForm, gzipped bool) string {
	return x.etags[gzipped][form]()
}

// index is that of the charts that may lets through; nil: of all.
func (h *Handler) index(may func(chart string) bool) inventory.Index {
	if may != nil {
		return h.o.Inventory.Index(may)
	}
	// Before the index is taken, which may be newer than its revision says then, and is made anew once more; never older.
	revision, _ := h.o.Inventory.Changed()
	if x := h.whole.Load(); x != nil && x.revision == revision {
		return x
	}
	x := &wholeIndex{Index: h.o.Inventory.Index(nil), revision: revision, etags: map[bool][2]func() string{}}
	for _, gzipped := range []bool{false, true} {
		etag := func(form inventory.IndexForm) func() string {
			return sync.OnceValue(func() string { return x.Index.ETag(form, gzipped) })
		}
		x.etags[gzipped] = [2]func() string{inventory.Archives: etag(inventory.Archives), inventory.OCI: etag(inventory.OCI)}
	}
	h.whole.Store(x)
	return x
}

func getIndex(h *Handler, w http.ResponseWriter, r *request) error {
	form := inventory.Archives
	switch asked := r.URL.Query().Get("format"); asked {
	case "":
	case "oci":
		form = inventory.OCI
	default:
		return &face.Error{Status: http.StatusBadRequest, Code: "UNSUPPORTED", Message: "there is no index in the format " + face.Quote(asked) + ": there is oci, and the one that is served without ?format="}
	}
	// Half an index would make charts disappear from where it is taken.
	if !inventory.AwaitBuilt(r.Context(), h.o.Inventory, buildPatience) {
		return &face.Error{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Message: "the registry has just started and is still reading what it stores; try again in a few seconds"}
	}
	index := h.index(h.o.Door.MayRead(r.identity))
	gzipped := face.AcceptsGzip(r.Header)
	etag := index.ETag(form, gzipped)
	header := w.Header()
	header.Set("ETag", etag)
	header.Set("Vary", "Accept-Encoding, Authorization")
	header.Set("Cache-Control", "no-cache")
	if face.Unchanged(r.Header, etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	header.Set("Content-Type", "application/yaml")
	if gzipped {
		header.Set("Content-Encoding", "gzip")
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	// What is left takes little memory, and a slow reader may take hours for it.
	r.leave()
	if err := index.Write(w, form, gzipped); err != nil {
		h.o.Door.Break(r.Request, err)
	}
	return nil
}

const (
	archiveSuffix    = ".tgz"
	provenanceSuffix = ".tgz.prov"
)

var errNoFile = &face.Error{Status: http.StatusNotFound, Code: "MANIFEST_UNKNOWN", Message: "there is no such file; charts are charts/NAME/NAME-VERSION.tgz, and their provenance charts/NAME/NAME-VERSION.tgz.prov"}

// parseFile reads what inventory.ArchivePath makes, without "charts/", or the same with ".prov" behind it.
func parseFile(file string) (chart, tag string, isProvenance, ok bool) {
	file, isProvenance = strings.CutSuffix(file, provenanceSuffix)
	if !isProvenance {
		if file, ok = strings.CutSuffix(file, archiveSuffix); !ok {
			return "", "", false, false
		}
	}
	chart, file = path.Split(file)
	chart = strings.TrimSuffix(chart, "/")
	version, ok := strings.CutPrefix(file, path.Base(chart)+"-")
	if _, err := semver.NewVersion(version); !ok || chart == "" || err != nil {
		return "", "", false, false
	}
	return chart, strings.ReplaceAll(version, "+", "_"), isProvenance, true
}

func getFile(h *Handler, w http.ResponseWriter, r *request) error {
	chart, tag, isProvenance, ok := parseFile(r.rest)
	if !ok {
		return errNoFile
	}
	r.seen.Chart, r.seen.Reference = chart, tag
	// Judged before it is looked for: what may not be read is refused alike, whether it is there or not.
	if err := h.o.Door.Authorize(r.identity, face.Read, chart); err != nil {
		return err
	}
	repo, stored, manifest, err := h.look(r.Context(), chart, tag)
	for _, none := range []error{repository.ErrManifestUnknown, repository.ErrNameInvalid, repository.ErrReferenceInvalid, publish.ErrNoChart} {
		if errors.Is(err, none) {
			return errNoFile
		}
	}
	switch {
	case err != nil:
		return err
	case isProvenance && stored.Provenance.Digest == "":
		return &face.Error{Status: http.StatusNotFound, Code: "BLOB_UNKNOWN", Message: "this version of the chart has no provenance: it was not signed with helm package --sign"}
	case isProvenance:
		return h.sendBlob(w, r, repo, stored.Provenance, "application/pgp-signature", nil)
	}
	h.o.Pulled(chart, manifest)
	return h.sendBlob(w, r, repo, stored.Archive, "application/gzip", h.o.Downloaded)
}

// look finds what a version consists of, and the digest of its manifest.
func (h *Handler) look(ctx context.Context, chart, tag string) (*repository.Repository, publish.Stored, string, error) {
	repo, err := h.o.Store.Repository(chart)
	if err != nil {
		return nil, publish.Stored{}, "", err
	}
	leave, err := h.reading.Enter(ctx)
	if err != nil {
		return nil, publish.Stored{}, "", err
	}
	defer leave()
	stored, d, err := publish.Layers(ctx, repo, tag)
	return repo, stored, d.String(), err
}

// sendBlob answers with a blob, or the part of it that was asked for. sent, when not nil, is told when all of it was sent.
func (h *Handler) sendBlob(w http.ResponseWriter, r *request, repo *repository.Repository, d ocispec.Descriptor, mediaType string, sent func(chart string, d digest.Digest)) error {
	etag := `"` + d.Digest.String() + `"`
	header := w.Header()
	header.Set("ETag", etag)
	header.Set("Accept-Ranges", "bytes")
	header.Set("Cache-Control", "no-cache")
	if face.Unchanged(r.Header, etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	blob, err := repo.StatBlob(r.Context(), d.Digest)
	if err != nil {
		return err
	}
	var part *bucket.Range
	condition := r.Header.Get("If-Range")
	if asked := r.Header.Get("Range"); asked != "" && (condition == "" || condition == etag) && r.Method == http.MethodGet {
		if part, err = face.ParseRange(asked, blob.Size); err != nil {
			header.Set("Content-Range", fmt.Sprintf("bytes */%d", blob.Size))
			return err
		}
	}
	status, length := http.StatusOK, blob.Size
	if part != nil {
		status, length = http.StatusPartialContent, part.Length
	}
	describe := func() {
		if part != nil {
			header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.Offset, part.Offset+part.Length-1, blob.Size))
		}
		header.Set("Content-Type", mediaType)
		header.Set("Content-Length", strconv.FormatInt(length, 10))
		w.WriteHeader(status)
	}
	if r.Method == http.MethodHead {
		describe()
		return nil
	}
	content, _, err := repo.OpenBlob(r.Context(), d.Digest, part)
	if err != nil {
		return err
	}
	defer content.Close()
	describe()
	h.o.Door.Send(w, r.Request, content)
	if part == nil && sent != nil {
		sent(repo.Name(), d.Digest)
	}
	return nil
}

const (
	// artifactHubName is the repository in which the metadata of all charts together is kept, and the tag in it (Artifact
	// Hub's documentation, "Helm charts repositories"). Those who may write one chart can set nothing for the others.
	artifactHubName = "artifacthub.io"
	artifactHubType = "application/vnd.cncf.artifacthub.repository-metadata.layer.v1.yaml"
	// maxArtifactHub bounds the manifest with the metadata, which has little more than a digest.
	maxArtifactHub = 64 << 10
)

func getArtifactHub(h *Handler, w http.ResponseWriter, r *request) error {
	r.seen.Chart, r.seen.Reference = artifactHubName, artifactHubName
	if err := h.o.Door.Authorize(r.identity, face.Read, artifactHubName); err != nil {
		return err
	}
	repo, err := h.o.Store.Repository(artifactHubName)
	if err != nil {
		return err
	}
	unset := &face.Error{Status: http.StatusNotFound, Code: "MANIFEST_UNKNOWN", Message: fmt.Sprintf(
		"no metadata for Artifact Hub was pushed: push it to %s/%s:%s with oras, as a layer of the type %s", h.o.Door.Registry, artifactHubName, artifactHubName, artifactHubType)}
	content, m, err := repo.OpenManifest(r.Context(), artifactHubName)
	if errors.Is(err, repository.ErrManifestUnknown) {
		return unset
	}
	if err != nil {
		return err
	}
	defer content.Close()
	var parsed ocispec.Manifest
	if m.Size > maxArtifactHub || json.NewDecoder(io.LimitReader(content, maxArtifactHub)).Decode(&parsed) != nil {
		return unset
	}
	for _, l := range parsed.Layers {
		if l.MediaType == artifactHubType {
			return h.sendBlob(w, r, repo, l, "application/yaml", nil)
		}
	}
	return unset
}

func postChart(h *Handler, w http.ResponseWriter, r *request) error {
	result, err := h.o.Door.Publish(r.Request, h.o.Publisher, r.identity, r.seen)
	if conflict := new(repository.ImmutableTagError); errors.As(err, &conflict) && r.URL.Query().Has("force") {
		answer := *h.o.Door.Explain(err)
		answer.Message += "; --force changes nothing"
		return &answer
	}
	if err != nil {
		return err
	}
	w.Header().Set("Docker-Content-Digest", result.Digest.String())
	writeJSON(w, http.StatusCreated, map[string]bool{"saved": true})
	return nil
}

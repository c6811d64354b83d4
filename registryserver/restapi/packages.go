package restapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// packageJSON is one version of a chart.
type packageJSON struct {
	ID     string `json:"id"`
	URL    string `json:"url"`
	WebURL string `json:"web_url"`
	// Name is the chart's path below the registry.
	Name    string `json:"name"`
	Version string `json:"version"`
	// CreatedAt and PushedAt are when the version was pushed; the archive does not say when it was made.
	CreatedAt    time.Time   `json:"created_at,omitzero"`
	PushedAt     time.Time   `json:"pushed_at,omitzero"`
	PushedBy     string      `json:"pushed_by,omitempty"`
	Digests      digestsJSON `json:"digests"`
	Digest       string      `json:"digest"`
	Archive      string      `json:"archive"`
	Size         int64       `json:"size"`
	StoredSize   int64       `json:"stored_size"`
	AppVersion   string      `json:"app_version,omitempty"`
	KubeVersion  string      `json:"kube_version,omitempty"`
	Description  string      `json:"description,omitempty"`
	Type         string      `json:"type,omitempty"`
	Deprecated   bool        `json:"deprecated"`
	Signed       bool        `json:"signed"`
	Signatures   int         `json:"signatures"`
	Attestations int         `json:"attestations"`
	Downloads    int64       `json:"downloads"`
	LastPulled   string      `json:"last_pulled,omitempty"`
	DownloadURL  string      `json:"download_url"`
	OCIURL       string      `json:"oci_url"`
	Organization ownerJSON   `json:"organization"`
	Registry     ownerJSON   `json:"registry"`
}

// digestsJSON are those of the archive, in hexadecimal digits.
type digestsJSON struct {
	SHA256 string `json:"sha256"`
}

type ownerJSON struct {
	ID     string `json:"id"`
	Slug   string `json:"slug"`
	URL    string `json:"url,omitempty"`
	WebURL string `json:"web_url"`
}

// idOf is the id of a package: the chart's path with "~" for "/", and the tag. Neither has a "~" or ":" of its own.
func idOf(chart, tag string) string { return strings.ReplaceAll(chart, "/", "~") + ":" + tag }

// parseID reads an id; a version's "+" may be written for its "_".
func parseID(id string) (chart, tag string, ok bool) {
	chart, tag, ok = strings.Cut(id, ":")
	if !ok || chart == "" || tag == "" || strings.Contains(tag, ":") {
		return "", "", false
	}
	return strings.ReplaceAll(chart, "~", "/"), strings.ReplaceAll(tag, "+", "_"), true
}

func versionOf(tag string) string { return strings.ReplaceAll(tag, "_", "+") }

func (h *Handler) describe(chart string, v inventory.Version) packageJSON {
	id, version := idOf(chart, v.Tag), versionOf(v.Tag)
	registry := h.o.ExternalURL + "/" + h.o.Door.Registry
	p := packageJSON{
		ID: id, URL: h.root + "/" + id, WebURL: registry + "/charts/" + chart + "/" + version, Name: chart, Version: version,
		CreatedAt: v.PushedAt.UTC(), PushedAt: v.PushedAt.UTC(), PushedBy: v.PushedBy,
		Digest: v.Digest.String(), Archive: v.Archive.String(), Size: v.ArchiveSize, StoredSize: v.StoredSize,
		AppVersion: v.AppVersion, KubeVersion: v.KubeVersion, Description: v.Description, Type: v.Type, Deprecated: v.Deprecated, Signed: v.Provenance != "" || v.Signatures > 0, Signatures: v.Signatures, Attestations: v.Attestations,
		Downloads: v.Downloads, DownloadURL: registry + "/helm/" + inventory.ArchivePath(chart, version),
		Organization: ownerJSON{ID: h.o.Organization, Slug: h.o.Organization, WebURL: h.o.ExternalURL + "/"},
		Registry:     ownerJSON{ID: h.o.Registry, Slug: h.o.Registry, URL: h.root, WebURL: registry},
	}
	if v.PushedAt.IsZero() {
		p.CreatedAt, p.PushedAt = time.Time{}, time.Time{}
	}
	if v.Archive != "" && v.Archive.Algorithm() == "sha256" {
		p.Digests.SHA256 = v.Archive.Encoded()
	}
	if !v.LastPulled.IsZero() {
		p.LastPulled = v.LastPulled.UTC().Format(time.DateOnly)
	}
	if _, host, found := strings.Cut(registry, "://"); found {
		p.OCIURL = "oci://" + host + "/" + chart + ":" + v.Tag
	}
	return p
}

// idForm says how an id is written.
const idForm = "The id of a package is NAME:VERSION, with ~ for each / in the name"

var (
	errNoPackage = refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", "there is no such package: an id is NAME:VERSION, with ~ for each / in the name")
	errBuilding  = refuse(http.StatusServiceUnavailable, "UNAVAILABLE", "the registry has just started and is still reading what it stores; try again in a few seconds")
	errLate      = refuse(http.StatusServiceUnavailable, "UNAVAILABLE", "this version has just been pushed, and the registry has not read it yet; try again in a few seconds")
)

// find finds out what is known of a version that is stored at this moment.
func (h *Handler) find(ctx context.Context, chart, tag string) (inventory.Version, error) {
	repo, err := h.o.Store.Repository(chart)
	if err != nil {
		return inventory.Version{}, missing(err)
	}
	m, err := repo.StatManifest(ctx, tag)
	if err != nil {
		return inventory.Version{}, missing(err)
	}
	var v inventory.Version
	if !inventory.Await(ctx, h.o.Inventory, patience, func() bool {
		var found bool
		v, found = h.o.Inventory.Version(chart, tag)
		return found && v.Digest == m.Digest
	}) {
		return v, errLate
	}
	if !v.Chart {
		return v, errNoPackage
	}
	return v, nil
}

// missing says of whatever an id cannot stand for that there is no such package.
func missing(err error) error {
	for _, none := range []error{repository.ErrNameInvalid, repository.ErrReferenceInvalid, repository.ErrManifestUnknown, publish.ErrNoChart} {
		if errors.Is(err, none) {
			return errNoPackage
		}
	}
	return err
}

func getPackage(h *Handler, w http.ResponseWriter, r *request) error {
	v, err := h.authorizedVersion(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, h.describe(r.chart, v))
	return nil
}

// authorizedVersion is the version that the address names, if the caller may read it. It is judged before it is looked for:
// what may not be read is refused alike, whether it is there or not.
func (h *Handler) authorizedVersion(r *request) (inventory.Version, error) {
	if err := h.o.Door.Authorize(r.identity, face.Read, r.chart); err != nil {
		return inventory.Version{}, err
	}
	return h.find(r.Context(), r.chart, r.tag)
}

// authorizedVersionOf is authorizedVersion for what is said of other versions of its chart, too.
func (h *Handler) authorizedVersionOf(r *request) (inventory.Version, error) {
	v, err := h.authorizedVersion(r)
	if err == nil && !inventory.AwaitBuilt(r.Context(), h.o.Inventory, buildPatience) {
		err = errBuilding
	}
	return v, err
}

func getDownloads(h *Handler, w http.ResponseWriter, r *request) error {
	v, err := h.authorizedVersionOf(r)
	if err != nil {
		return err
	}
	all, _ := h.o.Inventory.Chart(r.chart)
	p := h.describe(r.chart, v)
	writeJSON(w, http.StatusOK, downloadsJSON{ID: p.ID, Downloads: p.Downloads, LastPulled: p.LastPulled, Name: r.chart, AllVersions: all.Downloads})
	return nil
}

// downloadsJSON says how often the archive of a version was downloaded whole, and those of all versions of its chart.
type downloadsJSON struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Downloads   int64  `json:"downloads"`
	LastPulled  string `json:"last_pulled,omitempty"`
	AllVersions int64  `json:"all_versions"`
}

func publishPackage(h *Handler, w http.ResponseWriter, r *request) error {
	result, err := h.o.Door.Publish(r.Request, h.o.Publisher, r.identity, r.seen)
	if err != nil {
		return err
	}
	h.written(w, r, result)
	return nil
}

func copyPackage(h *Handler, w http.ResponseWriter, r *request) error {
	if err := h.o.Door.Authorize(r.identity, face.Read, r.chart); err != nil {
		return err
	}
	to := r.URL.Query().Get("to")
	if to == "" {
		return refuse(http.StatusBadRequest, "NAME_INVALID", "say with ?to= where the package goes: the path of a chart in this registry, such as stable/mychart")
	}
	if err := h.o.Door.Authorize(r.identity, face.Push, to); err != nil {
		return err
	}
	source, err := h.o.Store.Repository(r.chart)
	if err != nil {
		return missing(err)
	}
	target, err := h.o.Store.Repository(to)
	if err != nil {
		return err
	}
	result, err := publish.Copy(r.Context(), source, target, r.tag, r.identity.ID)
	if err != nil {
		return missing(err)
	}
	r.seen.Chart, r.seen.Reference, r.seen.Stored = to, result.Tag, result.Digest.String()
	h.written(w, r, result)
	return nil
}

// written describes a version that was stored a moment ago: with all there is to say once the inventory has seen it, and
// with what is known anyway where that takes long, or the tag stands for something else already.
func (h *Handler) written(w http.ResponseWriter, r *request, result publish.Result) {
	v, err := h.find(r.Context(), result.Chart, result.Tag)
	if err != nil || v.Digest != result.Digest {
		v = inventory.Version{Tag: result.Tag, Digest: result.Digest, Chart: true, Archive: result.Archive, ArchiveSize: result.Size}
	}
	w.Header().Set("Docker-Content-Digest", result.Digest.String())
	writeJSON(w, http.StatusOK, h.describe(result.Chart, v))
}

func deletePackage(h *Handler, w http.ResponseWriter, r *request) error {
	if err := h.o.Door.Authorize(r.identity, face.Delete, r.chart); err != nil {
		return err
	}
	repo, err := h.o.Store.Repository(r.chart)
	if err != nil {
		return missing(err)
	}
	// What is no package is not there. Who may only delete learns no more of it than of a tag that does not exist.
	if repository.ExemptTag(r.tag) {
		return errNoPackage
	}
	if _, _, err := publish.Layers(r.Context(), repo, r.tag); err != nil {
		return missing(err)
	}
	if err := repo.DeleteManifest(r.Context(), r.tag); err != nil {
		return missing(err)
	}
	// Who may delete need not be allowed to read what it was.
	writeJSON(w, http.StatusOK, map[string]string{"id": idOf(r.chart, r.tag)})
	return nil
}

func listPackages(h *Handler, w http.ResponseWriter, r *request) error {
	if !inventory.AwaitBuilt(r.Context(), h.o.Inventory, buildPatience) {
		return errBuilding
	}
	may := h.o.Door.MayRead(r.identity)
	if name := r.URL.Query().Get("name"); name != "" {
		all := may
		may = func(chart string) bool { return chart == name && (all == nil || all(chart)) }
	}
	return h.writePage(w, r, func(from, to int) ([]inventory.Listed, int) { return h.o.Inventory.Newest(may, from, to) })
}

func listVersions(h *Handler, w http.ResponseWriter, r *request) error {
	if _, err := h.authorizedVersionOf(r); err != nil {
		return err
	}
	return h.writePage(w, r, func(from, to int) ([]inventory.Listed, int) { return h.o.Inventory.Highest(r.chart, from, to) })
}

const (
	defaultPerPage, maxPerPage = 30, 100
	maxPage                    = 1_000_000
)

// pageJSON is a part of a list.
type pageJSON struct {
	Items []packageJSON `json:"items"`
	Total int           `json:"total"`
	Links linksJSON     `json:"links"`
}

type linksJSON struct {
	Self  string `json:"self"`
	First string `json:"first"`
	Prev  string `json:"prev,omitempty"`
	Next  string `json:"next,omitempty"`
	Last  string `json:"last"`
}

// writePage writes the part of a list that ?page= and ?per_page= name, and where the others are (RFC 8288). part is asked for
// those from one position up to another, and for how many there are in all.
func (h *Handler) writePage(w http.ResponseWriter, r *request, part func(from, to int) ([]inventory.Listed, int)) error {
	query := r.URL.Query()
	page, err := number(query, "page", 1, maxPage)
	if err != nil {
		return err
	}
	size, err := number(query, "per_page", defaultPerPage, maxPerPage)
	if err != nil {
		return err
	}
	items, total := part((page-1)*size, page*size)
	last := max(1, (total+size-1)/size)
	at := func(n int) string {
		q := url.Values{"page": {strconv.Itoa(n)}, "per_page": {strconv.Itoa(size)}}
		if name := query.Get("name"); name != "" {
			q.Set("name", name)
		}
		return h.o.ExternalURL + r.URL.EscapedPath() + "?" + q.Encode()
	}
	body := pageJSON{Items: []packageJSON{}, Total: total, Links: linksJSON{Self: at(page), First: at(1), Last: at(last)}}
	links := []string{`<` + body.Links.First + `>; rel="first"`, `<` + body.Links.Last + `>; rel="last"`}
	if page > 1 {
		body.Links.Prev = at(min(page-1, last))
		links = append(links, `<`+body.Links.Prev+`>; rel="prev"`)
	}
	if page < last {
		body.Links.Next = at(page + 1)
		links = append(links, `<`+body.Links.Next+`>; rel="next"`)
	}
	for _, i := range items {
		body.Items = append(body.Items, h.describe(i.Name, i.Version))
	}
	w.Header().Set("Link", strings.Join(links, ", "))
	writeJSON(w, http.StatusOK, body)
	return nil
}

// number reads a parameter from 1 to most; fallback where there is none.
func number(query url.Values, name string, fallback, most int) (int, error) {
	if !query.Has(name) {
		return fallback, nil
	}
	n, err := face.ParseOffset(query.Get(name))
	if err != nil || n < 1 || n > int64(most) {
		return 0, refuse(http.StatusBadRequest, "UNSUPPORTED", fmt.Sprintf("%s is a number from 1 to %d", name, most))
	}
	return int(n), nil
}

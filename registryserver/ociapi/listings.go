package ociapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
)

const (
	// maxTags bounds one answer to a client that asks for a number of tags.
	maxTags = 10_000
	// maxRepositories bounds one answer of the catalog.
	maxRepositories = 1000

	indexMediaType = "application/vnd.oci.image.index.v1+json"
)

func getTags(h *Handler, w http.ResponseWriter, r *request) error {
	query, err := r.query()
	if err != nil {
		return err
	}
	if len(query) == 0 {
		return h.allTags(w, r)
	}
	n, err := limit(query, maxTags)
	if err != nil {
		return err
	}
	// The store lists all for 0, but a client that asks for 0 tags wants none.
	ask := n
	if query.Has("n") && n == 0 {
		ask = 1
	}
	found, more, err := r.repository.Tags(r.Context(), ask, query.Get("last"))
	if err != nil {
		return err
	}
	found = append([]string{}, found...)
	if ask != n {
		found, more = found[:0], false
	}
	if more {
		linkNext(w, "/v2/"+r.name()+"/tags/list", url.Values{"n": {strconv.Itoa(n)}, "last": {found[len(found)-1]}})
	}
	return writeList(w, "application/json", tagList{r.name(), found})
}

type tagList struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

// allTags answers with the list that was made before, if no tag has come or gone since.
func (h *Handler) allTags(w http.ResponseWriter, r *request) error {
	// Before the tags are read: what is kept of a version may be newer than it, and never older.
	version, err := r.repository.TagsVersion(r.Context())
	if err != nil {
		return err
	}
	var body []byte
	if version != "" {
		body = h.lists.get(r.name(), version)
	}
	if body == nil {
		found, _, err := r.repository.Tags(r.Context(), 0, "")
		if err != nil {
			return err
		}
		if body, err = json.Marshal(tagList{r.name(), append([]string{}, found...)}); err != nil {
			return fmt.Errorf("encoding a list: %w", err)
		}
		if version != "" {
			h.lists.put(r.name(), version, body)
		}
	}
	writeBody(w, http.StatusOK, "application/json", body)
	return nil
}

// getCatalog lists the repositories that the caller may read (CNCF Distribution, "Listing Repositories"; the endpoint is
// not in the OCI specification, but clients know it).
func getCatalog(h *Handler, w http.ResponseWriter, r *request) error {
	query, err := r.query()
	if err != nil {
		return err
	}
	n, err := limit(query, maxRepositories)
	if err != nil {
		return err
	}
	if !query.Has("n") {
		n = maxRepositories
	}
	root := h.o.Organization + "/" + h.o.Registry + "/"
	last, behind := chartsBehind(query.Get("last"), root)
	found := []string{}
	if n > 0 && !behind {
		charts, more, err := h.o.Store.Catalog(r.Context(), n, last, func(chart string) bool {
			return h.o.Access.Authorize(r.identity, wire.ReadPackages, chart).Allowed
		})
		if err != nil {
			return err
		}
		for _, chart := range charts {
			found = append(found, root+chart)
		}
		if more {
			linkNext(w, catalogPath, url.Values{"n": {strconv.Itoa(n)}, "last": {found[n-1]}})
		}
	}
	return writeList(w, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{found})
}

// chartsBehind translates a whole name, which need not exist, to the chart that listing goes on behind. behind is true
// when the name is behind all that begin with root.
func chartsBehind(last, root string) (chart string, behind bool) {
	chart, within := strings.CutPrefix(last, root)
	if within {
		return chart, false
	}
	return "", last > root
}

func getReferrers(_ *Handler, w http.ResponseWriter, r *request) error {
	query, err := r.query()
	if err != nil {
		return err
	}
	filter := query.Get("artifactType")
	found, next, err := r.repository.Referrers(r.Context(), digest.Digest(r.argument), filter, query.Get("last"))
	if err != nil {
		return err
	}
	parameters := url.Values{}
	if filter != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
		parameters.Set("artifactType", filter)
	}
	if next != "" {
		parameters.Set("last", next)
		linkNext(w, "/v2/"+r.name()+"/referrers/"+r.argument, parameters)
	}
	return writeList(w, indexMediaType, struct {
		SchemaVersion int                   `json:"schemaVersion"`
		MediaType     string                `json:"mediaType"`
		Manifests     []repository.Referrer `json:"manifests"`
	}{2, indexMediaType, append([]repository.Referrer{}, found...)})
}

// linkNext says where a list goes on that was cut (RFC 8288).
func linkNext(w http.ResponseWriter, path string, parameters url.Values) {
	w.Header().Set("Link", "<"+path+"?"+parameters.Encode()+`>; rel="next"`)
}

func writeList(w http.ResponseWriter, mediaType string, list any) error {
	body, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("encoding a list: %w", err)
	}
	writeBody(w, http.StatusOK, mediaType, body)
	return nil
}

// limit reads the query parameter n; 0 when there is none.
func limit(query url.Values, most int64) (int, error) {
	if !query.Has("n") {
		return 0, nil
	}
	n, err := face.ParseOffset(query.Get("n"))
	if err != nil {
		return 0, refuse(http.StatusBadRequest, "UNSUPPORTED", "n is the number of names wanted: digits alone")
	}
	return int(min(n, most)), nil
}

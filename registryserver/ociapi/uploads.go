package ociapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
)

// postUpload stores a blob at once when its digest and content come with the request, or makes one of another repository
// appear in this one; else it begins an upload.
func postUpload(h *Handler, w http.ResponseWriter, r *request) error {
	query, err := r.query()
	if err != nil {
		return err
	}
	if err := r.repository.Admit(r.Context()); err != nil {
		return err
	}
	if query.Has("digest") {
		d := digest.Digest(query.Get("digest"))
		if err := r.repository.PutBlob(r.Context(), d, r.Body, r.ContentLength); err != nil {
			return err
		}
		return r.blobCreated(w, d)
	}
	if query.Has("mount") {
		mounted, err := h.mount(r, query)
		if err == nil {
			return r.blobCreated(w, mounted.Digest)
		}
		// What is not there, and what the caller may not read, are answered alike, with an upload (OCI Distribution
		// Specification, "Mounting a blob from another repository").
		if !errors.Is(err, repository.ErrBlobUnknown) {
			return err
		}
	}
	segment, err := h.uploads.issue(r.name(), r.identity.ID)
	if err != nil {
		return err
	}
	r.uploadStands(w, segment, 0)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// mount finds the blob of ?mount= in the repository that ?from= names, or in any that the caller may read when there is
// no from. Error: repository.ErrBlobUnknown, also when the source may not be read.
func (h *Handler) mount(r *request, query url.Values) (repository.Blob, error) {
	d := digest.Digest(query.Get("mount"))
	mayRead := func(chart string) bool {
		return h.o.Access.Authorize(r.identity, wire.ReadPackages, chart).Allowed
	}
	if !query.Has("from") {
		return r.repository.MountFound(r.Context(), d, mayRead)
	}
	chart, ours := strings.CutPrefix(query.Get("from"), h.o.Organization+"/"+h.o.Registry+"/")
	source, err := h.o.Store.Repository(chart)
	if !ours || err != nil || !mayRead(chart) {
		return repository.Blob{}, repository.ErrBlobUnknown
	}
	return r.repository.Mount(r.Context(), d, source)
}

func getUpload(h *Handler, w http.ResponseWriter, r *request) error {
	u, err := h.upload(r)
	if err != nil {
		return err
	}
	offset, err := u.Offset(r.Context())
	if err != nil {
		return err
	}
	r.uploadStands(w, r.argument, offset)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func patchUpload(h *Handler, w http.ResponseWriter, r *request) error {
	u, err := h.upload(r)
	if err != nil {
		return err
	}
	start, err := chunkStart(r.Header.Get("Content-Range"), r.ContentLength)
	if err != nil {
		return err
	}
	offset, err := u.Append(r.Context(), start, r.Body, r.ContentLength)
	if err != nil {
		return r.sayOffset(w, err)
	}
	r.uploadStands(w, r.argument, offset)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func putUpload(h *Handler, w http.ResponseWriter, r *request) error {
	u, err := h.upload(r)
	if err != nil {
		return err
	}
	query, err := r.query()
	if err != nil {
		return err
	}
	if !query.Has("digest") {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", "the upload is finished with ?digest= and the digest of the whole content")
	}
	start, err := chunkStart(r.Header.Get("Content-Range"), r.ContentLength)
	if err != nil {
		return err
	}
	d := digest.Digest(query.Get("digest"))
	if err := u.Commit(r.Context(), d, start, r.Body, r.ContentLength); err != nil {
		return r.sayOffset(w, err)
	}
	return r.blobCreated(w, d)
}

func deleteUpload(h *Handler, w http.ResponseWriter, r *request) error {
	u, err := h.upload(r)
	if err != nil {
		return err
	}
	if err := u.Cancel(r.Context()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *Handler) upload(r *request) (*repository.Upload, error) {
	id, err := h.uploads.verify(r.argument, r.name(), r.identity.ID)
	if err != nil {
		return nil, err
	}
	return r.repository.Upload(id), nil
}

// query reads the query strictly: net/url's own accessor drops what it cannot read.
func (r *request) query() (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "UNSUPPORTED", "the query of the address cannot be read")
	}
	return values, nil
}

// uploadStands says where to go on. Locations are always relative, which is right behind any proxy.
func (r *request) uploadStands(w http.ResponseWriter, segment string, offset int64) {
	w.Header().Set("Location", "/v2/"+r.name()+"/blobs/uploads/"+segment)
	// The specification's Range has no form for "nothing yet"; registries agree on 0-0.
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(offset-1, 0)))
}

func (r *request) sayOffset(w http.ResponseWriter, err error) error {
	var offset *repository.OffsetError
	if errors.As(err, &offset) {
		r.uploadStands(w, r.argument, offset.Offset)
	}
	return err
}

func (r *request) blobCreated(w http.ResponseWriter, d digest.Digest) error {
	r.seen.Stored = d.String()
	w.Header().Set("Location", "/v2/"+r.name()+"/blobs/"+d.String())
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
	return nil
}

// chunkStart reads the Content-Range of a chunk, "<start>-<end>", both inclusive (OCI Distribution Specification,
// "Pushing a blob in chunks"). Without the header the chunk begins where the upload stands, which is -1. length is
// that of the body, negative when unknown.
func chunkStart(header string, length int64) (int64, error) {
	if header == "" {
		return -1, nil
	}
	first, last, found := strings.Cut(header, "-")
	start, startErr := face.ParseOffset(first)
	end, endErr := face.ParseOffset(last)
	if !found || startErr != nil || endErr != nil || end < start {
		return 0, refuse(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the Content-Range of a chunk is START-END, the offsets of its first and last byte")
	}
	if length >= 0 && end-start != length-1 {
		return 0, refuse(http.StatusBadRequest, "SIZE_INVALID", fmt.Sprintf("the chunk has %d bytes, but its Content-Range is of another length", length))
	}
	return start, nil
}

package web

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"
)

// Names of what can be downloaded, behind "/-/" in the address of a version.
const (
	archiveFile    = "chart.tgz"
	provenanceFile = "chart.tgz.prov"
	manifestFile   = "manifest.json"
	valuesFile     = "values.yaml"
)

// attach makes the answer a file that is kept and never shown: what was stored is nobody's page.
func attach(w http.ResponseWriter, r *request, name, mediaType string, size int64, content io.Reader) error {
	header := w.Header()
	header.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	header.Set("Content-Type", mediaType)
	header.Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := io.Copy(w, content); err != nil {
		// Part of it is sent: breaking off is the only way to say that it is not whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (h *Handler) downloadArchive(w http.ResponseWriter, r *request, a *artifact) error {
	if !a.IsChart() {
		return errNotFound
	}
	if r.Method == http.MethodGet {
		h.o.Pulled(a.Name, a.Manifest.Digest.String())
	}
	if err := h.downloadBlob(w, r, a, a.Archive.Digest, a.FileName(), "application/gzip"); err != nil {
		return err
	}
	if r.Method == http.MethodGet {
		h.o.Downloaded(a.Name, a.Archive.Digest)
	}
	return nil
}

func (h *Handler) downloadProvenance(w http.ResponseWriter, r *request, a *artifact) error {
	if a.Provenance == nil {
		return errNotFound
	}
	return h.downloadBlob(w, r, a, a.Provenance.Digest, a.FileName()+".prov", "application/octet-stream")
}

func (h *Handler) downloadBlob(w http.ResponseWriter, r *request, a *artifact, d digest.Digest, name, mediaType string) error {
	content, b, err := a.repository.OpenBlob(r.Context(), d, nil)
	if err != nil {
		return err
	}
	defer content.Close()
	return attach(w, r, name, mediaType, b.Size, content)
}

func (h *Handler) downloadManifest(w http.ResponseWriter, r *request, a *artifact) error {
	content, m, err := a.repository.OpenManifest(r.Context(), a.Manifest.Digest.String())
	if err != nil {
		return err
	}
	defer content.Close()
	return attach(w, r, fmt.Sprintf("%s.manifest.json", a.FileName()), "application/json", m.Size, content)
}

func (h *Handler) downloadValues(w http.ResponseWriter, r *request, a *artifact) error {
	if !a.IsChart() {
		return errNotFound
	}
	c, problem, err := h.contents(r.Context(), a)
	if err != nil {
		return err
	}
	if problem != "" || c.Values.Content == nil {
		return errNotFound
	}
	return attach(w, r, "values.yaml", "application/octet-stream", int64(len(c.Values.Content)), readerOf(c.Values.Content))
}

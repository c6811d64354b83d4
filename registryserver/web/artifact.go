package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

const (
	// maxManifestBytes bounds the manifests that are read for people; those of charts have a few KiB.
	maxManifestBytes = 256 << 10
	// maxConfigBytes bounds configs, as the push of a chart does.
	maxConfigBytes = 1 << 20
)

// artifact is what a tag or digest stands for.
type artifact struct {
	*content
	repository *repository.Repository
	// Name is the path below the registry, Reference the tag or digest as it is in addresses.
	Name, Reference string
	// Tag is empty where the artifact was asked for by its digest.
	Tag string
	// Known is what the inventory has of it; nil where it has nothing (yet).
	Known *inventory.Version
}

// content is what a manifest says. It is shared and not changed.
type content struct {
	Manifest repository.Manifest
	// Raw is the manifest byte for byte; nil where it is too large to be shown.
	Raw    []byte
	Parsed manifest
	// Archive and Provenance are layers of a chart; nil where there is none.
	Archive, Provenance *descriptor
	Details             chart.Details
	// Shortened is true where the manifest or chart says more of itself than is kept here.
	Shortened bool
}

// manifest is what is shown of an image manifest or index (OCI Image Format Specification).
type manifest struct {
	ArtifactType string       `json:"artifactType"`
	Config       *descriptor  `json:"config"`
	Layers       []descriptor `json:"layers"`
	Manifests    []descriptor `json:"manifests"`
	Subject      *descriptor  `json:"subject"`
	// Annotations are read alone: what is shown of them is in the Details.
	Annotations map[string]string `json:"annotations"`
}

type descriptor struct {
	MediaType    string        `json:"mediaType"`
	ArtifactType string        `json:"artifactType"`
	Digest       digest.Digest `json:"digest"`
	Size         int64         `json:"size"`
}

// IsChart reports that it is a Helm chart with an archive.
func (c *content) IsChart() bool { return c.Archive != nil }

// Kind says what it is, in a media type where it is no chart.
func (c *content) Kind() string {
	switch {
	case c.IsChart():
		return "Helm chart"
	case c.Parsed.ArtifactType != "":
		return c.Parsed.ArtifactType
	case c.Parsed.Config != nil:
		return c.Parsed.Config.MediaType
	}
	return c.Manifest.MediaType
}

// Version is the chart's, or the tag, or the digest.
func (a *artifact) Version() string {
	switch {
	case a.Tag == "":
		return a.Manifest.Digest.String()
	case a.IsChart():
		return versionOf(a.Tag)
	}
	return a.Tag
}

// versionOf is the version that a chart's tag stands for: OCI tags have no "+".
func versionOf(tag string) string { return strings.ReplaceAll(tag, "_", "+") }

// FileName is what its archive is called.
func (a *artifact) FileName() string { return path.Base(a.Name) + "-" + a.fileVersion() + ".tgz" }

func (a *artifact) fileVersion() string {
	if a.Tag == "" {
		return a.Manifest.Digest.Encoded()[:12]
	}
	return versionOf(a.Tag)
}

// artifactServer makes a page of an artifact.
type artifactServer = func(*Handler, http.ResponseWriter, *request, *artifact) error

// withArtifact finds what the address names, for who may read it.
func withArtifact(serve artifactServer) func(*Handler, http.ResponseWriter, *request) error {
	return func(h *Handler, w http.ResponseWriter, r *request) error {
		if !h.mayRead(r.viewer, r.chart) {
			return errNotFound
		}
		a, err := h.artifact(r.Context(), r.chart, r.version)
		if errors.Is(err, repository.ErrManifestUnknown) && r.kind == h.kinds.version && h.mayRead(r.viewer, r.chart+"/"+r.version) {
			// The last element may be one of the chart's name, whose address wants a slash at its end.
			if _, ok := h.o.Inventory.Chart(r.chart + "/" + r.version); ok {
				http.Redirect(w, r.Request, h.chartURL(r.chart+"/"+r.version), http.StatusSeeOther)
				return nil
			}
		}
		if err != nil {
			return err
		}
		return serve(h, w, r, a)
	}
}

// chart leads to the latest version of a chart.
func (h *Handler) chart(w http.ResponseWriter, r *request) error {
	if !h.mayRead(r.viewer, r.chart) {
		return errNotFound
	}
	latest, ok := h.o.Inventory.Chart(r.chart)
	reference := latest.Latest.Tag
	if !ok {
		// What has no version of a chart may have others.
		if err := h.list(r.Context(), func() {
			if others := h.o.Inventory.Versions(r.chart); len(others) > 0 {
				reference = others[0].Tag
			}
		}); err != nil {
			return err
		}
		if reference == "" {
			return errNotFound
		}
	}
	http.Redirect(w, r.Request, h.versionURL(r.chart, reference, ""), http.StatusSeeOther)
	return nil
}

// artifact reads what a tag or digest stands for. The inventory may be behind; the store is not.
func (h *Handler) artifact(ctx context.Context, name, reference string) (*artifact, error) {
	repo, err := h.o.Store.Repository(name)
	if err != nil {
		return nil, err
	}
	a := &artifact{repository: repo, Name: name, Reference: reference}
	if !strings.Contains(reference, ":") {
		a.Tag = strings.ReplaceAll(reference, "+", "_")
		a.Reference = a.Tag
	}
	m, err := repo.StatManifest(ctx, a.Reference)
	if err != nil {
		return nil, err
	}
	if a.content, err = h.content(ctx, repo, m); err != nil {
		return nil, err
	}
	if a.Tag != "" {
		if known, ok := h.o.Inventory.Version(name, a.Tag); ok && known.Digest == m.Digest {
			a.Known = &known
		}
	}
	return a, nil
}

func (h *Handler) content(ctx context.Context, repo *repository.Repository, m repository.Manifest) (*content, error) {
	key := repo.Name() + " " + m.Digest.String()
	if found, ok := h.cache.get(key); ok {
		c, _ := found.(*content)
		return c, nil
	}
	m.Tag = "" // It may have several.
	c := &content{Manifest: m}
	if m.Size <= maxManifestBytes {
		reader, _, err := repo.OpenManifest(ctx, m.Digest.String())
		if err != nil {
			return nil, err
		}
		c.Raw, err = io.ReadAll(io.LimitReader(reader, maxManifestBytes))
		if err := errors.Join(err, reader.Close()); err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", m.Digest, err)
		}
		// What does not have the form that is expected is shown as the bytes that it is.
		_ = json.Unmarshal(c.Raw, &c.Parsed)
	}
	size := 4 * len(c.Raw)
	if p := &c.Parsed; p.Config != nil && p.Config.MediaType == chart.ConfigMediaType {
		for _, l := range p.Layers {
			switch l.MediaType {
			case chart.ContentMediaType, chart.LegacyContentMediaType:
				c.Archive = &l
			case chart.ProvenanceMediaType:
				c.Provenance = &l
			}
		}
		config, err := h.config(ctx, repo, p.Config.Digest)
		if err != nil {
			return nil, err
		}
		c.Details = chart.ReadDetails(config)
		size += 2 * min(len(config), 2*maxDetailsBytes)
	}
	c.shorten()
	h.cache.put(key, c, size)
	return c, nil
}

// config returns nothing for one that is missing or too large.
func (h *Handler) config(ctx context.Context, repo *repository.Repository, d digest.Digest) ([]byte, error) {
	reader, b, err := repo.OpenBlob(ctx, d, nil)
	if errors.Is(err, repository.ErrBlobUnknown) || errors.Is(err, repository.ErrDigestUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	if b.Size > maxConfigBytes {
		return nil, nil
	}
	config, err := io.ReadAll(reader)
	if err != nil {
		return nil, fmt.Errorf("read config %s: %w", d, err)
	}
	return config, nil
}

// contents reads the archive of a chart; nil where it cannot be read, with why.
func (h *Handler) contents(ctx context.Context, a *artifact) (c *chart.Contents, problem string, err error) {
	key := a.Name + " contents " + a.Archive.Digest.String()
	if found, ok := h.cache.get(key); ok {
		c, _ := found.(*chart.Contents)
		return c, "", nil
	}
	var read chart.Contents
	if problem, err = h.withArchive(ctx, a, func(archive io.Reader, size int64) error {
		read, err = chart.ReadContents(ctx, archive, size)
		return err
	}); problem != "" || err != nil {
		return nil, problem, err
	}
	size := len(read.README.Content) + len(read.Values.Content) + len(read.Schema.Content) + len(read.ChartYAML.Content)
	for _, f := range read.Templates {
		size += len(f.Name) + 40
	}
	h.cache.put(key, &read, size)
	return &read, "", nil
}

// withArchive lets f read the archive, a few at a time. What is wrong with the archive itself is the problem.
func (h *Handler) withArchive(ctx context.Context, a *artifact, f func(archive io.Reader, size int64) error) (problem string, err error) {
	leave, err := h.reading.Enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	reader, b, err := a.repository.OpenBlob(ctx, a.Archive.Digest, nil)
	if errors.Is(err, repository.ErrBlobUnknown) || errors.Is(err, repository.ErrDigestUnsupported) {
		return "The archive of this version is missing, or damaged: push it again.", nil
	}
	if err != nil {
		return "", err
	}
	defer reader.Close()
	err = f(reader, b.Size)
	if invalid := new(repository.InvalidManifestError); errors.As(err, &invalid) {
		return "The archive of this version cannot be read: " + invalid.Reason + ".", nil
	}
	return "", err
}

// Package load makes the charts of the benchmarks and pushes and pulls them as helm does, at as little cost to the
// machine as it can, since the server that is measured shares it.
package load

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"
)

// The media types of helm's charts.
const (
	ManifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.cncf.helm.config.v1+json"
	layerType    = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// Blob is content with its digest.
type Blob struct {
	Digest  string
	Content []byte
}

func blob(content []byte) Blob {
	return Blob{Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(content)), Content: content}
}

// Chart is one version of a chart as helm pushes it.
type Chart struct {
	// Repository is the whole name, Tag the version.
	Repository, Tag         string
	Config, Layer, Manifest Blob
}

// Maker makes charts. It is for one goroutine.
type Maker struct {
	random  *rand.ChaCha8
	archive *gzip.Writer
	made    time.Time
}

// NewMaker makes a Maker whose charts are the same for the same seed.
func NewMaker(seed byte) (*Maker, error) {
	// What is random does not compress.
	archive, err := gzip.NewWriterLevel(nil, gzip.NoCompression)
	return &Maker{random: rand.NewChaCha8([32]byte{seed}), archive: archive, made: time.Unix(1_700_000_000, 0).UTC()}, err
}

type metadata struct {
	APIVersion  string `json:"apiVersion"`
	Name        string `json:"name"`
	Version     string `json:"version"`
	Description string `json:"description"`
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations"`
}

// Make makes the chart name in the folder ("organization/registry/"), with so many random bytes in its archive and so
// many more in its description. Each has content of its own.
func (m *Maker) Make(folder, name, version string, payload, description int) (Chart, error) {
	words := make([]byte, description+8)
	for i := range words {
		words[i] = 'a' + byte(m.random.Uint64()%26)
	}
	random := make([]byte, payload)
	_, _ = m.random.Read(random)
	return m.assemble(folder, metadata{APIVersion: "v2", Name: name, Version: version, Description: string(words)},
		file{"values.yaml", []byte("replicas: 1\n")}, file{"files/payload", random})
}

// Documented makes the chart name in the folder with a README and values for people.
func (m *Maker) Documented(folder, name, version, readme, values string) (Chart, error) {
	return m.assemble(folder, metadata{APIVersion: "v2", Name: name, Version: version, Description: "A chart with much to read"},
		file{"README.md", []byte(readme)}, file{"values.yaml", []byte(values)})
}

// assemble makes a chart with these files beside its Chart.yaml.
func (m *Maker) assemble(folder string, data metadata, files ...file) (Chart, error) {
	config, err := json.Marshal(data)
	if err != nil {
		return Chart{}, err
	}
	chartYAML := fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\ndescription: %s\n", data.Name, data.Version, data.Description)
	layer, err := m.pack(data.Name+"/", append([]file{{"Chart.yaml", []byte(chartYAML)}}, files...))
	if err != nil {
		return Chart{}, err
	}
	c := Chart{Repository: folder + data.Name, Tag: data.Version, Config: blob(config), Layer: blob(layer)}
	content, err := json.Marshal(manifest{
		SchemaVersion: 2,
		Config:        descriptor{configType, c.Config.Digest, len(config)},
		Layers:        []descriptor{{layerType, c.Layer.Digest, len(layer)}},
		Annotations: map[string]string{
			"org.opencontainers.image.created":     m.made.Format(time.RFC3339),
			"org.opencontainers.image.description": "A chart of the benchmarks",
			"org.opencontainers.image.title":       data.Name,
			"org.opencontainers.image.version":     data.Version,
		},
	})
	c.Manifest = blob(content)
	return c, err
}

type file struct {
	name    string
	content []byte
}

// pack makes an archive of files in a folder ("name/").
func (m *Maker) pack(folder string, files []file) ([]byte, error) {
	var packed bytes.Buffer
	m.archive.Reset(&packed)
	archive := tar.NewWriter(m.archive)
	for _, f := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: folder + f.name, Mode: 0o644, Size: int64(len(f.content)), ModTime: m.made}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	err := m.archive.Close()
	return packed.Bytes(), err
}

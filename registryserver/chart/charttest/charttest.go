// Package charttest makes charts for tests: sound ones, and archives of any content.
package charttest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/opencontainers/go-digest"
)

// ManifestMediaType is the Content-Type with which helm pushes manifests.
const ManifestMediaType = "application/vnd.oci.image.manifest.v1+json"

// Chart is a chart in the pieces that are pushed.
type Chart struct {
	Config, Content, Manifest []byte
}

// New makes a sound chart whose archive has about size bytes; the least are about 300. The same arguments make the same
// chart.
func New(name, version string, size int) Chart {
	metadata := fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version)
	filler := make([]byte, max(0, size-300))
	seed := [32]byte([]byte(digest.FromString(metadata).Encoded())[:32])
	_, _ = rand.NewChaCha8(seed).Read(filler) // It never fails.
	config, err := json.Marshal(map[string]string{"apiVersion": "v2", "name": name, "version": version})
	if err != nil {
		panic(err) // Strings always encode.
	}
	return Assemble(config, Archive(File(name+"/Chart.yaml", metadata), File(name+"/values.yaml", "{}\n"), File(name+"/files/filler", string(filler))))
}

// Assemble makes a chart of a config and an archive.
func Assemble(config, content []byte) Chart {
	return Chart{Config: config, Content: content, Manifest: Manifest(
		Descriptor(chart.ConfigMediaType, config), Descriptor(chart.ContentMediaType, content))}
}

// Manifest is a manifest with the JSON of descriptors.
func Manifest(config string, layers ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"schemaVersion":2,"config":%s,"layers":[`, config)
	for i, l := range layers {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(l)
	}
	b.WriteString("]}")
	return b.Bytes()
}

// Descriptor is that of content, as JSON.
func Descriptor(mediaType string, content []byte) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, digest.FromBytes(content), len(content))
}

// Entry is an entry of an archive.
type Entry struct {
	tar.Header
	Content string
}

// File is an entry that is a file.
func File(name, content string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}, content}
}

// Archive makes a chart archive. What archive/tar does not write, it panics at.
func Archive(entries ...Entry) []byte { return Zip(Tar(entries...)) }

// Tar is an archive that is not compressed.
func Tar(entries ...Entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		must(w.WriteHeader(&e.Header))
		if _, err := w.Write([]byte(e.Content)); err != nil {
			panic(err)
		}
	}
	must(w.Close())
	return b.Bytes()
}

// Zip compresses with gzip.
func Zip(content []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		panic(err)
	}
	must(w.Close())
	return b.Bytes()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

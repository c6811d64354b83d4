package transfer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.yaml.in/yaml/v3"
)

const (
	// maxUnpacked bounds what is unpacked of an archive on the way to its Chart.yaml.
	maxUnpacked = 256 << 20
	maxMetadata = 1 << 20
	// maxValues bounds the values of one document of metadata, each of which takes about 200 bytes of memory.
	maxValues = 100_000
	maxNested = 32
)

// metadata is a chart's Chart.yaml (Helm's documentation, "The Chart.yaml File"), in the order in which helm writes it
// into a config.
type metadata struct {
	Name         text            `json:"name,omitempty"`
	Home         text            `json:"home,omitempty"`
	Sources      []text          `json:"sources,omitempty"`
	Version      text            `json:"version,omitempty"`
	Description  text            `json:"description,omitempty"`
	Keywords     []text          `json:"keywords,omitempty"`
	Maintainers  []maintainer    `json:"maintainers,omitempty"`
	Icon         text            `json:"icon,omitempty"`
	APIVersion   text            `json:"apiVersion,omitempty"`
	Condition    text            `json:"condition,omitempty"`
	Tags         text            `json:"tags,omitempty"`
	AppVersion   text            `json:"appVersion,omitempty"`
	Deprecated   bool            `json:"deprecated,omitempty"`
	Annotations  map[string]text `json:"annotations,omitempty"`
	KubeVersion  text            `json:"kubeVersion,omitempty"`
	Dependencies []dependency    `json:"dependencies,omitempty"`
	Type         text            `json:"type,omitempty"`
}

type maintainer struct {
	Name  text `json:"name,omitempty"`
	Email text `json:"email,omitempty"`
	URL   text `json:"url,omitempty"`
}

type dependency struct {
	Name         text   `json:"name"`
	Version      text   `json:"version,omitempty"`
	Repository   text   `json:"repository"`
	Condition    text   `json:"condition,omitempty"`
	Tags         []text `json:"tags,omitempty"`
	Enabled      bool   `json:"enabled,omitempty"`
	ImportValues []any  `json:"import-values,omitempty"`
	Alias        text   `json:"alias,omitempty"`
}

// text is a string that may be written as a number or boolean, as helm takes it: appVersion: 1.10 is "1.1".
type text string

// UnmarshalJSON takes any scalar.
func (t *text) UnmarshalJSON(b []byte) error {
	var v any
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
	case string:
		*t = text(v)
	case bool:
		*t = text(strconv.FormatBool(v))
	case json.Number:
		*t = text(v.String())
		if strings.ContainsAny(v.String(), ".eE") {
			f, err := v.Float64()
			if err != nil {
				return err
			}
			*t = text(strconv.FormatFloat(f, 'g', -1, 64))
		}
	default:
		return fmt.Errorf("%.40s is not text", b)
	}
	return nil
}

// clean makes spaces of any kind " " and leaves out what cannot be printed, as helm does when it reads a chart.
func (t *text) clean() {
	*t = text(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, string(*t)))
}

func (m *metadata) clean() {
	all := []*text{&m.Name, &m.Description, &m.Home, &m.Icon, &m.Condition, &m.Tags, &m.AppVersion, &m.KubeVersion}
	for _, list := range [][]text{m.Sources, m.Keywords} {
		for i := range list {
			all = append(all, &list[i])
		}
	}
	for i := range m.Maintainers {
		all = append(all, &m.Maintainers[i].Name, &m.Maintainers[i].Email, &m.Maintainers[i].URL)
	}
	for i := range m.Dependencies {
		d := &m.Dependencies[i]
		all = append(all, &d.Name, &d.Version, &d.Repository, &d.Condition)
		for j := range d.Tags {
			all = append(all, &d.Tags[j])
		}
	}
	for _, t := range all {
		t.clean()
	}
}

// helmChart is a chart as `helm push` makes it.
type helmChart struct {
	name, version    string
	config, manifest []byte
	// layers are the archive and, where there is one, the provenance.
	layers []ocispec.Descriptor
}

// archived is what is known of a chart archive, and of the provenance beside it.
type archived struct {
	layer      ocispec.Descriptor
	provenance []byte
	// created goes into the manifest; the zero time stands for that of the Chart.yaml in the archive.
	created time.Time
}

// newHelmChart makes of a chart archive the config and the manifest that helm would push with it.
func newHelmChart(archive io.Reader, a archived) (helmChart, error) {
	m, modified, err := readMetadata(archive)
	if err != nil {
		return helmChart{}, err
	}
	if a.created.IsZero() {
		a.created = modified
	}
	c := helmChart{name: string(m.Name), version: string(m.Version), layers: []ocispec.Descriptor{a.layer}}
	if c.config, err = json.Marshal(m); err != nil {
		return helmChart{}, err
	}
	if a.provenance != nil {
		c.layers = append(c.layers, descriptorOf(provenanceType, a.provenance))
	}
	slices.SortFunc(c.layers, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	c.manifest, err = json.Marshal(ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		Config:      descriptorOf(configType, c.config),
		Layers:      c.layers,
		Annotations: annotations(m, a.created),
	})
	return c, err
}

func descriptorOf(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// annotations are those that helm gives a chart's manifest: what its Chart.yaml says, under the names of the OCI Image
// Specification, and its own annotations, which may override all but title and version.
func annotations(m metadata, created time.Time) map[string]string {
	all := map[string]string{
		ocispec.AnnotationDescription: string(m.Description),
		ocispec.AnnotationURL:         string(m.Home),
		ocispec.AnnotationCreated:     created.UTC().Format(time.RFC3339),
	}
	if len(m.Sources) > 0 {
		all[ocispec.AnnotationSource] = string(m.Sources[0])
	}
	var authors []string
	for _, person := range m.Maintainers {
		author := string(person.Name)
		if person.Email != "" {
			author += " (" + string(person.Email) + ")"
		}
		authors = append(authors, author)
	}
	all[ocispec.AnnotationAuthors] = strings.Join(authors, ", ")
	for name, value := range all {
		if strings.TrimSpace(value) == "" {
			delete(all, name)
		}
	}
	for name, value := range m.Annotations {
		all[name] = string(value)
	}
	all[ocispec.AnnotationTitle] = string(m.Name)
	all[ocispec.AnnotationVersion] = string(m.Version)
	return all
}

// readMetadata finds the Chart.yaml of an archive, and the requirements.yaml that charts of the first kind have beside
// it. modified is when the Chart.yaml was.
func readMetadata(archive io.Reader) (m metadata, modified time.Time, err error) {
	unpacked, err := gzip.NewReader(archive)
	if err != nil {
		return m, modified, fmt.Errorf("the chart is not a gzip archive: %w", err)
	}
	bounded := &io.LimitedReader{R: unpacked, N: maxUnpacked}
	files := tar.NewReader(bounded)
	var chart, requirements []byte
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if bounded.N == 0 {
			return m, modified, fmt.Errorf("the chart unpacks to more than %d bytes", maxUnpacked)
		}
		if err != nil {
			return m, modified, fmt.Errorf("the chart is not a tar archive: %w", err)
		}
		// Helm takes every folder for the chart's, and the last of files with one name.
		_, within, found := strings.Cut(path.Clean(strings.ReplaceAll(header.Name, "\\", "/")), "/")
		if !found || header.Typeflag != tar.TypeReg || within != "Chart.yaml" && within != "requirements.yaml" {
			continue
		}
		content, err := io.ReadAll(io.LimitReader(files, maxMetadata+1))
		if err != nil {
			return m, modified, fmt.Errorf("the chart's %s cannot be read: %w", within, err)
		}
		if len(content) > maxMetadata {
			return m, modified, fmt.Errorf("the chart's %s has more than %d bytes", within, maxMetadata)
		}
		if within == "Chart.yaml" {
			chart, modified = content, header.ModTime
		} else {
			requirements = content
		}
	}
	if chart == nil {
		return m, modified, errors.New("the archive has no Chart.yaml: it is not a chart")
	}
	if err := decodeYAML(chart, &m); err != nil {
		return m, modified, fmt.Errorf("the chart's Chart.yaml cannot be read: %w", err)
	}
	if m.APIVersion == "" {
		m.APIVersion = "v1"
	}
	if m.APIVersion == "v1" && requirements != nil {
		if err := decodeYAML(requirements, &m); err != nil {
			return m, modified, fmt.Errorf("the chart's requirements.yaml cannot be read: %w", err)
		}
	}
	m.clean()
	return m, modified, nil
}

// decodeYAML reads YAML into what is described by JSON tags.
func decodeYAML(content []byte, v any) error {
	if bytes.Count(content, []byte("\n"))+bytes.Count(content, []byte(",")) > maxValues {
		return errors.New("it has too many values")
	}
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return err
	}
	if len(document.Content) == 0 {
		return nil
	}
	plain, err := plainValue(document.Content[0], 0)
	if err != nil {
		return err
	}
	encoded, err := json.Marshal(plain)
	if err != nil {
		return err
	}
	return json.Unmarshal(encoded, v)
}

// plainValue turns YAML into what JSON can hold. Booleans are those of YAML 1.1, as helm reads them.
func plainValue(n *yaml.Node, depth int) (any, error) {
	if depth > maxNested {
		return nil, fmt.Errorf("line %d is nested more than %d levels deep", n.Line, maxNested)
	}
	switch n.Kind {
	case yaml.MappingNode:
		values := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			value, err := plainValue(n.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			values[n.Content[i].Value] = value
		}
		return values, nil
	case yaml.SequenceNode:
		values := []any{}
		for _, element := range n.Content {
			value, err := plainValue(element, depth+1)
			if err != nil {
				return nil, err
			}
			values = append(values, value)
		}
		return values, nil
	case yaml.AliasNode:
		return nil, fmt.Errorf("line %d has an alias: write out what is meant", n.Line)
	}
	if n.Style == 0 {
		switch n.Value {
		case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON":
			return true, nil
		case "n", "N", "no", "No", "NO", "off", "Off", "OFF":
			return false, nil
		}
	}
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool", "!!int", "!!float":
		var value any
		err := n.Decode(&value)
		return value, err
	}
	return n.Value, nil
}

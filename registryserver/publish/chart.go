package publish

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

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.yaml.in/yaml/v3"
)

const (
	// maxRatio and minUnpacked bound, with chart.MaxArchiveBytes, what is unpacked of an archive on the way to its Chart.yaml.
	// What the registry takes is less.
	maxRatio    = 200
	minUnpacked = 1 << 20
	maxMetadata = 1 << 20
	maxNested   = 32
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

func (t *text) clean() { *t = text(chart.Printable(string(*t))) }

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

// Chart is a chart as `helm push` makes it.
type Chart struct {
	Name, Version string
	// Config is the content of Chart.yaml as JSON, and Manifest names it, the archive and the provenance.
	Config, Manifest []byte
}

// Archive is what is known of a chart archive, and of the provenance beside it.
type Archive struct {
	Digest digest.Digest
	// Size in bytes.
	Size int64
	// Provenance is nil where there is none.
	Provenance []byte
	// Created goes into the manifest; the zero time stands for that of the Chart.yaml in the archive, which helm itself has
	// from the file.
	Created time.Time
}

// Make makes of a chart archive the config and the manifest that helm would push with it. An error says what is wrong with
// the archive, as a *repository.InvalidManifestError, or is content's own.
func Make(content io.Reader, a Archive) (Chart, error) {
	from := &source{r: content}
	m, modified, err := readMetadata(from, a.Size)
	if from.err != nil {
		return Chart{}, fmt.Errorf("read the archive: %w", from.err)
	}
	if err != nil {
		return Chart{}, err
	}
	if a.Created.IsZero() {
		a.Created = modified
	}
	c := Chart{Name: string(m.Name), Version: string(m.Version)}
	if c.Config, err = json.Marshal(m); err != nil {
		return Chart{}, err
	}
	layers := []ocispec.Descriptor{{MediaType: chart.ContentMediaType, Digest: a.Digest, Size: a.Size}}
	if a.Provenance != nil {
		layers = append(layers, descriptorOf(chart.ProvenanceMediaType, a.Provenance))
	}
	slices.SortFunc(layers, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	c.Manifest, err = json.Marshal(ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		Config:      descriptorOf(chart.ConfigMediaType, c.Config),
		Layers:      layers,
		Annotations: annotations(m, a.Created),
	})
	return c, err
}

// Tag is the tag that the version makes: no tag has a "+".
func (c Chart) Tag() string { return strings.ReplaceAll(c.Version, "+", "_") }

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
func readMetadata(archive io.Reader, size int64) (m metadata, modified time.Time, err error) {
	var chartYAML, requirements []byte
	if err := eachFile(archive, size, func(h *tar.Header, name string, content []byte) bool {
		if name == "Chart.yaml" {
			chartYAML, modified = content, h.ModTime
		} else {
			requirements = content
		}
		return true
	}); err != nil {
		return m, modified, err
	}
	if chartYAML == nil {
		return m, modified, errNoChart
	}
	if err := decodeYAML(chartYAML, &m); err != nil {
		return m, modified, refuse("the chart's Chart.yaml cannot be read: %v", err)
	}
	if m.APIVersion == "" {
		m.APIVersion = "v1"
	}
	if m.APIVersion == "v1" && requirements != nil {
		if err := decodeYAML(requirements, &m); err != nil {
			return m, modified, refuse("the chart's requirements.yaml cannot be read: %v", err)
		}
	}
	m.clean()
	return m, modified, nil
}

// readName returns the name of the chart in an archive of which head is the beginning; "" where the Chart.yaml is not in
// there.
func readName(head []byte) (string, error) {
	var m struct {
		Name text `json:"name"`
	}
	var problem error
	err := eachFile(bytes.NewReader(head), int64(len(head)), func(_ *tar.Header, name string, content []byte) bool {
		if name == "Chart.yaml" {
			problem = decodeYAML(content, &m)
		}
		return name != "Chart.yaml"
	})
	if problem != nil {
		return "", refuse("the chart's Chart.yaml cannot be read: %v", problem)
	}
	m.Name.clean()
	return string(m.Name), err
}

var errNoChart = refuse("the archive has no Chart.yaml: it is not a chart")

// refuse says what is wrong with an archive.
func refuse(format string, a ...any) error {
	return &repository.InvalidManifestError{Reason: fmt.Sprintf(format, a...)}
}

// source keeps what went wrong with an archive's source, for which the archive is not to blame.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// eachFile calls f with each Chart.yaml and requirements.yaml of a chart itself, until it returns false. size is that of the
// archive.
func eachFile(archive io.Reader, size int64, f func(h *tar.Header, name string, content []byte) bool) error {
	unpacked, err := gzip.NewReader(archive)
	if err != nil {
		return refuse("the chart is not a gzip archive (%v): send the .tgz that helm package writes; curl wants an @ before the name of a file", err)
	}
	limit := min(chart.MaxArchiveBytes, max(minUnpacked, maxRatio*min(size, chart.MaxArchiveBytes)))
	bounded := &io.LimitedReader{R: unpacked, N: limit}
	for files := tar.NewReader(bounded); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if bounded.N == 0 {
			return refuse("the chart unpacks to more than %d bytes", limit)
		}
		if err != nil {
			return refuse("the chart is not a tar archive: %v", err)
		}
		// Helm takes every folder for the chart's, and the last of files with one name.
		_, within, found := strings.Cut(path.Clean(strings.ReplaceAll(header.Name, "\\", "/")), "/")
		if !found || header.Typeflag != tar.TypeReg || within != "Chart.yaml" && within != "requirements.yaml" {
			continue
		}
		content, err := io.ReadAll(io.LimitReader(files, maxMetadata+1))
		if err != nil {
			return refuse("the chart's %s cannot be read: %v", within, err)
		}
		if len(content) > maxMetadata {
			return refuse("the chart's %s has more than %d bytes", within, maxMetadata)
		}
		if !f(header, within, content) {
			return nil
		}
	}
}

// decodeYAML reads YAML into what is described by JSON tags.
func decodeYAML(content []byte, v any) error {
	if chart.TooManyValues(content) {
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

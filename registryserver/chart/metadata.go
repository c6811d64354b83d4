package chart

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/Masterminds/semver/v3"
	"go.yaml.in/yaml/v3"
)

const (
	// maxMetadataBytes bounds a Chart.yaml, and a config, which is the same as JSON.
	maxMetadataBytes = 1 << 20
	// maxMarks bounds the characters that can begin a value in a Chart.yaml, and so the values, each of which takes
	// about 200 bytes of memory.
	maxMarks = 100_000
	// maxMetadataDepth bounds the nesting of a Chart.yaml. Those of Helm have three levels, annotations included.
	maxMetadataDepth = 32
)

// Metadata is what a chart says of itself (Helm's documentation, "The Chart.yaml File"), as Helm reads it: spaces of
// any kind are " ", and characters that cannot be printed are left out.
type Metadata struct {
	APIVersion, Name, Version, AppVersion, KubeVersion string
	// Type is application or library.
	Type string
}

// fields are those of m by their names in Chart.yaml and in a config.
func (m *Metadata) fields() []field {
	return []field{
		{"apiVersion", &m.APIVersion}, {"name", &m.Name}, {"version", &m.Version},
		{"type", &m.Type}, {"appVersion", &m.AppVersion}, {"kubeVersion", &m.KubeVersion},
	}
}

type field struct {
	name  string
	value *string
}

// fieldSetter sets each field of a document once. Helm takes names in any case, the last of each, so that what is
// there twice in different case would be read differently by others.
type fieldSetter struct {
	document string
	fields   []field
	set      [8]bool
}

// find returns the field of that name, nil for those that are of no interest here.
func (s *fieldSetter) find(name string) (*string, error) {
	for i, f := range s.fields {
		if !strings.EqualFold(f.name, name) {
			continue
		}
		if s.set[i] {
			return nil, refuse("the %s has the field %s twice", s.document, f.name)
		}
		s.set[i] = true
		return f.value, nil
	}
	return nil, nil //nolint:nilnil // Documented above.
}

// parseConfig reads a chart's config: the content of its Chart.yaml as JSON.
func parseConfig(content []byte) (Metadata, error) {
	var m Metadata
	decoder := json.NewDecoder(bytes.NewReader(content))
	if t, err := decoder.Token(); err != nil || t != json.Delim('{') {
		return m, refuse("the chart's config is not a JSON object")
	}
	setter := fieldSetter{document: "chart's config", fields: m.fields()}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return m, refuse("the chart's config is not valid JSON: %v", err)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return m, refuse("the chart's config is not valid JSON: %v", err)
		}
		text, _ := name.(string)
		target, err := setter.find(text)
		if err != nil {
			return m, err
		}
		if target == nil {
			continue
		}
		if err := json.Unmarshal(value, target); err != nil {
			return m, refuse("the chart's config has a field %.100q that is not a string", text)
		}
	}
	if _, err := decoder.Token(); err != nil {
		return m, refuse("the chart's config is not valid JSON: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return m, refuse("the chart's config has data behind its end")
	}
	m.normalize()
	return m, m.validate("chart's config")
}

// TooManyValues reports YAML that may have more values than a Chart.yaml may. It is quick, and takes no memory.
func TooManyValues(content []byte) bool {
	marks := 0
	for _, b := range content {
		switch b {
		case '\n', '\r', ',', ':', '[', '{', '-', '?':
			marks++
		}
	}
	return marks > maxMarks
}

// parseChartYAML reads a Chart.yaml that is plain: what has to be expanded to be understood is refused.
func parseChartYAML(content []byte) (Metadata, error) {
	var m Metadata
	if len(content) > maxMetadataBytes || TooManyValues(content) {
		return m, refuse("the Chart.yaml is too large")
	}
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	if err := decoder.Decode(&document); err != nil {
		return m, refuse("the Chart.yaml is not valid YAML: %.200v", err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return m, refuse("the Chart.yaml holds more than one document")
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return m, refuse("the Chart.yaml is not a mapping of fields to values")
	}
	root := document.Content[0]
	if err := checkNode(root, 0); err != nil {
		return m, err
	}
	setter := fieldSetter{document: "Chart.yaml", fields: m.fields()}
	for i := 0; i+1 < len(root.Content); i += 2 {
		target, err := setter.find(root.Content[i].Value)
		if err != nil {
			return m, err
		}
		if target == nil {
			continue
		}
		if *target, err = text(root.Content[i+1]); err != nil {
			return m, refuse("the Chart.yaml has a field %.100q that is not text", root.Content[i].Value)
		}
	}
	m.normalize()
	return m, m.validate("Chart.yaml")
}

// checkNode refuses anchors, aliases, tags, merges, and keys that are there twice or are no text.
func checkNode(n *yaml.Node, depth int) error {
	switch {
	case depth > maxMetadataDepth:
		return refuse("the Chart.yaml is nested more than %d levels deep", maxMetadataDepth)
	case n.Kind == yaml.AliasNode, n.Anchor != "", n.Style&yaml.TaggedStyle != 0, n.Tag == "!!merge":
		return refuse("line %d of the Chart.yaml has an anchor, alias or tag: write out what is meant", n.Line)
	}
	if n.Kind == yaml.MappingNode {
		keys := make(map[string]struct{}, len(n.Content)/2)
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind == yaml.MappingNode || key.Kind == yaml.SequenceNode {
				return refuse("line %d of the Chart.yaml has a key that is not text", key.Line)
			}
			if _, twice := keys[key.Value]; twice {
				return refuse("line %d of the Chart.yaml has the key %.100q a second time", key.Line, key.Value)
			}
			keys[key.Value] = struct{}{}
		}
	}
	for _, child := range n.Content {
		if err := checkNode(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

var errNotText = errors.New("not text")

// text is a scalar as Helm turns it into a string: appVersion: 1.10 is "1.1".
func text(n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode {
		return "", errNotText
	}
	var value any
	if err := n.Decode(&value); err != nil {
		return "", errNotText
	}
	switch v := value.(type) {
	case nil:
		return "", nil
	case int:
		return strconv.Itoa(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case uint64:
		return strconv.FormatUint(v, 10), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case bool:
		return strconv.FormatBool(v), nil
	}
	return n.Value, nil
}

// Printable is a text in which spaces of any kind are " ", without what cannot be printed, as helm has it when it reads a
// chart.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, text)
}

func (m *Metadata) normalize() {
	for _, f := range m.fields() {
		*f.value = Printable(*f.value)
	}
	if m.Type == "" {
		m.Type = "application"
	}
}

// validate demands what Helm demands of a chart that it loads.
func (m *Metadata) validate(document string) error {
	for _, f := range m.fields()[:3] {
		if *f.value == "" {
			return refuse("the %s has no %s", document, f.name)
		}
	}
	if m.Name == "." || m.Name == ".." || strings.ContainsAny(m.Name, `/\`) {
		return refuse("the %s has the name %.100q, which no chart may have", document, m.Name)
	}
	if _, err := semver.NewVersion(m.Version); err != nil {
		return refuse("the %s has the version %.100q, which is not a semantic version such as 1.2.3 (https://semver.org)", document, m.Version)
	}
	if m.Type != "application" && m.Type != "library" {
		return refuse("the %s has the type %.100q, which is neither application nor library", document, m.Type)
	}
	return nil
}

// agree compares config and archive of a chart: whatever reads the one must not show, or choose by, something else than
// what the other does.
func agree(config, archive Metadata) error {
	inArchive := archive.fields()
	for i, f := range config.fields() {
		if *f.value != *inArchive[i].value {
			return refuse("the chart's config says %s: %.100q, but the Chart.yaml in its archive says %.100q", f.name, *f.value, *inArchive[i].value)
		}
	}
	return nil
}

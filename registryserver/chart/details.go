package chart

import (
	"encoding/json"
	"maps"
	"slices"
	"unicode/utf8"
)

// Bounds on what of a chart's metadata is shown: so many of each kind, and so many bytes of each text.
const (
	maxDetails     = 200
	maxDetailBytes = 4 << 10
)

// Details are what a chart says of itself for people to read (Helm's documentation, "The Chart.yaml File"). Whoever pushed
// it wrote them, and nothing of them was checked: no address in them need be one.
type Details struct {
	Name, Version, AppVersion, KubeVersion, Type, Description, Home, Icon string
	Deprecated                                                            bool
	Keywords, Sources                                                     []string
	Maintainers                                                           []Maintainer
	Dependencies                                                          []Dependency
	// Annotations are in the order of their names.
	Annotations []Annotation
}

// Maintainer is a person behind a chart.
type Maintainer struct {
	Name  string `json:"name"`
	Email string `json:"email"`
	URL   string `json:"url"`
}

// Dependency is a chart that another one needs.
type Dependency struct {
	Name       string   `json:"name"`
	Version    string   `json:"version"`
	Repository string   `json:"repository"`
	Alias      string   `json:"alias"`
	Condition  string   `json:"condition"`
	Tags       []string `json:"tags"`
}

// Annotation is a name with a value.
type Annotation struct{ Name, Value string }

// Annotation returns the value of an annotation; empty where there is none.
func (d Details) Annotation(name string) string {
	for _, a := range d.Annotations {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}

// ReadDetails reads a chart's config, which is its Chart.yaml as JSON, as far as it can be read: fields that are not of the
// kind that helm writes are left out, and what is longer than anybody would read is cut.
func ReadDetails(config []byte) Details {
	var fields map[string]json.RawMessage
	if len(config) > maxMetadataBytes || json.Unmarshal(config, &fields) != nil {
		return Details{}
	}
	var d Details
	for name, into := range map[string]*string{
		"name": &d.Name, "version": &d.Version, "appVersion": &d.AppVersion, "kubeVersion": &d.KubeVersion, "type": &d.Type,
		"description": &d.Description, "home": &d.Home, "icon": &d.Icon,
	} {
		*into = line(read[string](fields[name]))
	}
	d.Deprecated = read[bool](fields["deprecated"])
	d.Keywords, d.Sources = lines(read[[]string](fields["keywords"])), lines(read[[]string](fields["sources"]))
	for _, m := range first(read[[]Maintainer](fields["maintainers"])) {
		d.Maintainers = append(d.Maintainers, Maintainer{Name: line(m.Name), Email: line(m.Email), URL: line(m.URL)})
	}
	for _, p := range first(read[[]Dependency](fields["dependencies"])) {
		d.Dependencies = append(d.Dependencies, Dependency{
			Name: line(p.Name), Version: line(p.Version), Repository: line(p.Repository), Alias: line(p.Alias), Condition: line(p.Condition), Tags: lines(p.Tags),
		})
	}
	annotations := read[map[string]string](fields["annotations"])
	for _, name := range first(slices.Sorted(maps.Keys(annotations))) {
		d.Annotations = append(d.Annotations, Annotation{Name: line(name), Value: clip(annotations[name])})
	}
	return d
}

// read returns the zero value for what is of another kind.
func read[T any](text json.RawMessage) T {
	var value, zero T
	if json.Unmarshal(text, &value) != nil {
		return zero
	}
	return value
}

func first[T any](list []T) []T { return list[:min(len(list), maxDetails)] }

func lines(list []string) []string {
	var all []string
	for _, s := range first(list) {
		all = append(all, line(s))
	}
	return all
}

// line is text without line breaks and what cannot be printed.
func line(s string) string {
	return Printable(clip(s))
}

func clip(s string) string {
	if len(s) <= maxDetailBytes {
		return s
	}
	cut := maxDetailBytes
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

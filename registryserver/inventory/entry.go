package inventory

import (
	"encoding/json"
	"path"
	"strings"
	"time"
)

// maxEntryBytes bounds an entry of the index. What is over leaves out, one after the other, what it takes most room for,
// see shorten.
const maxEntryBytes = 16 << 10

// metadata is what a chart says of itself, with the names that Chart.yaml and the index have for it (Helm's
// documentation, "The Chart.yaml File" and "The Chart Repository Guide").
type metadata struct {
	APIVersion   string            `json:"apiVersion"`
	Name         string            `json:"name"`
	Version      string            `json:"version"`
	AppVersion   string            `json:"appVersion,omitempty"`
	Description  string            `json:"description,omitempty"`
	Type         string            `json:"type,omitempty"`
	Deprecated   bool              `json:"deprecated,omitempty"`
	KubeVersion  string            `json:"kubeVersion,omitempty"`
	Keywords     []string          `json:"keywords,omitempty"`
	Maintainers  []maintainer      `json:"maintainers,omitempty"`
	Home         string            `json:"home,omitempty"`
	Sources      []string          `json:"sources,omitempty"`
	Icon         string            `json:"icon,omitempty"`
	Condition    string            `json:"condition,omitempty"`
	Tags         string            `json:"tags,omitempty"`
	Dependencies []dependency      `json:"dependencies,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

type maintainer struct {
	Name  string `json:"name,omitempty"`
	Email string `json:"email,omitempty"`
	URL   string `json:"url,omitempty"`
}

type dependency struct {
	Name         string   `json:"name"`
	Version      string   `json:"version,omitempty"`
	Repository   string   `json:"repository"`
	Condition    string   `json:"condition,omitempty"`
	Tags         []string `json:"tags,omitempty"`
	Enabled      bool     `json:"enabled,omitempty"`
	ImportValues []any    `json:"import-values,omitempty"`
	Alias        string   `json:"alias,omitempty"`
}

// readMetadata reads a chart's config. A field that is not of the form that it must have is left out, and so is the rest
// of one that is no JSON.
func readMetadata(config []byte) metadata {
	var m metadata
	var fields map[string]json.RawMessage
	if json.Unmarshal(config, &fields) != nil {
		return m
	}
	for name, into := range map[string]any{
		"apiVersion": &m.APIVersion, "name": &m.Name, "version": &m.Version, "appVersion": &m.AppVersion, "description": &m.Description,
		"type": &m.Type, "deprecated": &m.Deprecated, "kubeVersion": &m.KubeVersion, "home": &m.Home, "icon": &m.Icon,
		"condition": &m.Condition, "tags": &m.Tags,
	} {
		_ = json.Unmarshal(fields[name], into) // It is left out then.
	}
	// A list that is read by halves would hold what its author has not written.
	m.Keywords = read[[]string](fields["keywords"])
	m.Sources = read[[]string](fields["sources"])
	m.Maintainers = read[[]maintainer](fields["maintainers"])
	m.Dependencies = read[[]dependency](fields["dependencies"])
	m.Annotations = read[map[string]string](fields["annotations"])
	return m
}

func read[T any](value json.RawMessage) T {
	var v, none T
	if json.Unmarshal(value, &v) != nil {
		return none
	}
	return v
}

// entry is a version in the index. The addresses come last, where they are replaced, see ociLine.
type entry struct {
	metadata
	Created string   `json:"created"`
	Digest  string   `json:"digest"`
	URLs    []string `json:"urls"`
}

// entryLine is the entry of a version as JSON, on one line; nil for what has none: what cannot be downloaded, and what
// calls itself otherwise than by the repository and tag that it is under, so that helm would not find it there.
func entryLine(repository string, r *record, m metadata) []byte {
	archive := digestOf(r.hash(archiveHash))
	if archive == "" || archive.Algorithm() != "sha256" || m.Name != path.Base(repository) || m.Version != versionOf(r.tag()) {
		return nil
	}
	e := entry{
		metadata: m, Created: r.pushed().Format(time.RFC3339Nano), Digest: archive.Encoded(),
		URLs: []string{ArchivePath(repository, m.Version)},
	}
	for step := 0; ; step++ {
		line, err := json.Marshal(e)
		if err != nil {
			return nil
		}
		if len(line) <= maxEntryBytes || !e.shorten(step) {
			return line
		}
	}
}

// shorten leaves out one more of what takes room. false: there is nothing more.
func (e *entry) shorten(step int) bool {
	switch step {
	case 0:
		e.Annotations = nil
	case 1:
		e.Icon = ""
	case 2:
		e.Sources = nil
	case 3:
		e.Keywords, e.Maintainers = nil, nil
	case 4:
		e.Dependencies = nil
	case 5:
		e.Home, e.Condition, e.Tags = "", "", ""
		for _, text := range []*string{&e.APIVersion, &e.AppVersion, &e.KubeVersion, &e.Type, &e.Description} {
			*text = cut(*text)
		}
	default:
		return false
	}
	return true
}

const (
	archiveSuffix = ".tgz"
	urlsField     = `"urls":["`
)

// ArchivePath is where the archive of a version is, below the classic Helm repository. Its folder is the chart's path below
// the registry, so that it can stand for one chart and version alone: names and versions both have dashes.
func ArchivePath(chart, version string) string {
	return archiveStart(chart) + version + archiveSuffix
}

func archiveStart(chart string) string { return "charts/" + chart + "/" + path.Base(chart) + "-" }

// ociLine is an entry whose address is that in the OCI registry at base. The addresses are the last that a line has, and
// what they are made of is written the same in JSON.
func ociLine(line, base, repository string) string {
	at := strings.LastIndex(line, urlsField)
	if at < 0 {
		return line
	}
	version := strings.TrimPrefix(line[at+len(urlsField):], archiveStart(repository))
	version, _, _ = strings.Cut(version, archiveSuffix+`"]}`)
	return line[:at] + urlsField + base + "/" + repository + ":" + strings.ReplaceAll(version, "+", "_") + `"]}`
}

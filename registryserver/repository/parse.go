package repository

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

const (
	// maxDepth bounds the nesting of a manifest. Those of the specification have four levels.
	maxDepth = 64

	// maxDescriptors bounds what one manifest may name; each is looked up in the bucket.
	maxDescriptors = 4096

	// maxTokens bounds the values, keys and brackets of a manifest, each of which takes many times its own size in
	// memory when it is read. A manifest of maxDescriptors layers with three annotations each has 100,000.
	maxTokens = 200_000
)

// mediaTypePattern is the grammar of RFC 6838, section 4.2, without parameters.
var mediaTypePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$`)

// descriptor is what a manifest says of content that must be in the repository (OCI Image Specification,
// "Content Descriptors").
type descriptor struct {
	mediaType string
	digest    digest.Digest
	size      int64
	manifest  bool
}

// form is what the registry understands of a manifest.
type form struct {
	// needs are the blobs and manifests that must be in the repository.
	needs []descriptor
	// subject is the manifest that this one refers to; empty for none.
	subject digest.Digest
	// artifactType is the manifest's own; configType the media type of its config. Either may be empty.
	artifactType, configType string
	// annotations is a JSON object of strings, or nil. It is read of manifests with a subject only.
	annotations json.RawMessage
}

func invalid(format string, a ...any) error {
	return &InvalidManifestError{Reason: fmt.Sprintf(format, a...)}
}

// parseManifest checks the form of a manifest. Manifests of types that are not known need what their config, layers and
// manifests name, if they have such fields.
func parseManifest(mediaType string, content []byte) (form, error) {
	if !mediaTypePattern.MatchString(mediaType) {
		return form{}, invalid("the Content-Type %.100q is not a media type without parameters", mediaType)
	}
	if err := checkJSON(content); err != nil {
		return form{}, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(content, &fields); err != nil || fields == nil {
		return form{}, invalid("the manifest is not a JSON object")
	}
	for name, value := range fields {
		if string(value) == "null" {
			delete(fields, name)
		}
	}
	if value, ok := fields["mediaType"]; ok {
		var own string
		if err := json.Unmarshal(value, &own); err != nil {
			return form{}, invalid("the manifest's mediaType is not a string")
		}
		if own != mediaType {
			return form{}, invalid("the manifest's mediaType is %.100q, but it was pushed as %s", own, mediaType)
		}
	}
	if err := checkKind(mediaType, fields); err != nil {
		return form{}, err
	}
	return parseFields(mediaType, fields)
}

// artifactManifest is what releases of the specification before 1.1 called an artifact; clients of that time pushed it.
const artifactManifest = "application/vnd.oci.artifact.manifest.v1+json"

// checkKind refuses what one client could read as a manifest and another as an index (CVE-2021-41190).
func checkKind(mediaType string, fields map[string]json.RawMessage) error {
	_, config := fields["config"]
	_, layers := fields["layers"]
	_, manifests := fields["manifests"]
	if manifests && (config || layers) {
		return invalid("the manifest has manifests as well as a config or layers: it must be either an index or a manifest")
	}
	switch mediaType {
	case "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json":
		if !config {
			return invalid("the manifest has no config")
		}
	case "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json":
		if !manifests {
			return invalid("the index has no manifests")
		}
	case "application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws":
		// It names its blobs in another way, so that they could not be kept for it.
		return invalid("Docker's image manifests of schema 1 are not taken: push the image with a newer client")
	}
	return nil
}

func parseFields(mediaType string, fields map[string]json.RawMessage) (f form, err error) {
	if value, ok := fields["config"]; ok {
		d, _, err := parseDescriptor("config", value)
		if err != nil {
			return f, err
		}
		f.needs, f.configType = append(f.needs, d), d.mediaType
	}
	lists := []string{"layers", "manifests"}
	if mediaType == artifactManifest {
		lists = append(lists, "blobs") // A custom field in all others.
	}
	for _, name := range lists {
		value, ok := fields[name]
		if !ok {
			continue
		}
		list, err := parseList(name, value)
		if err != nil {
			return f, err
		}
		f.needs = append(f.needs, list...)
	}
	if value, ok := fields["subject"]; ok {
		// It need not be in the repository, or not yet.
		d, _, err := parseDescriptor("subject", value)
		if err != nil {
			return f, err
		}
		f.subject = d.digest
		return f, f.parseReferrer(fields)
	}
	return f, nil
}

// parseReferrer reads what lists of referrers show of a manifest.
func (f *form) parseReferrer(fields map[string]json.RawMessage) error {
	if value, ok := fields["artifactType"]; ok {
		if err := json.Unmarshal(value, &f.artifactType); err != nil {
			return invalid("the manifest's artifactType is not a string")
		}
	}
	if value, ok := fields["annotations"]; ok {
		var strings map[string]string
		if err := json.Unmarshal(value, &strings); err != nil {
			return invalid("the manifest's annotations are not an object of strings")
		}
		f.annotations = value
	}
	return nil
}

func parseList(name string, value json.RawMessage) ([]descriptor, error) {
	decoder := json.NewDecoder(bytes.NewReader(value))
	if t, err := decoder.Token(); err != nil || t != json.Delim('[') {
		return nil, invalid("the manifest's %s is not a list", name)
	}
	var list []descriptor
	for i := 0; decoder.More(); i++ {
		if i == maxDescriptors {
			return nil, invalid("the manifest has more than %d %s", maxDescriptors, name)
		}
		var element json.RawMessage
		if err := decoder.Decode(&element); err != nil {
			return nil, invalid("the manifest's %s cannot be read: %v", name, err)
		}
		d, elsewhere, err := parseDescriptor(fmt.Sprintf("%s[%d]", name, i), element)
		if err != nil {
			return nil, err
		}
		d.manifest = name == "manifests"
		if !elsewhere {
			list = append(list, d)
		}
	}
	return list, nil
}

// parseDescriptor reads a descriptor. elsewhere is true for content that the registry need not have: layers that may
// not be distributed, and what the descriptor says where else to fetch. Fields are matched in their exact case, as
// clients do that are not written in Go.
func parseDescriptor(where string, value json.RawMessage) (d descriptor, elsewhere bool, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(value, &fields); err != nil || fields == nil {
		return d, false, invalid("the manifest's %s is not a descriptor", where)
	}
	if err := json.Unmarshal(fields["digest"], &d.digest); err != nil || checkDigest(d.digest) != nil {
		return d, false, invalid("the manifest's %s has no sha256 or sha512 digest", where)
	}
	var size *int64
	if err := json.Unmarshal(fields["size"], &size); err != nil || size == nil || *size < 0 {
		return d, false, invalid("the manifest's %s has no size", where)
	}
	d.size = *size
	if err := json.Unmarshal(fields["mediaType"], &d.mediaType); err != nil {
		return d, false, invalid("the manifest's %s has no mediaType", where)
	}
	var urls []string
	if value, ok := fields["urls"]; ok {
		if err := json.Unmarshal(value, &urls); err != nil {
			return d, false, invalid("the manifest's %s has urls that are not a list of strings", where)
		}
	}
	elsewhere = len(urls) > 0 ||
		strings.HasPrefix(d.mediaType, "application/vnd.oci.image.layer.nondistributable.") ||
		strings.HasPrefix(d.mediaType, "application/vnd.docker.image.rootfs.foreign.")
	return d, elsewhere, nil
}

// checkJSON refuses what different programs would read differently: a key twice in one object, bytes that are not
// UTF-8, anything behind the end; and what is nested so deeply that some could not read it.
func checkJSON(content []byte) error {
	if !utf8.Valid(content) {
		return invalid("the manifest is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	// For each open object its keys; nil for each open list.
	var open []map[string]struct{}
	isKey := false
	for tokens := 0; ; tokens++ {
		if tokens > maxTokens {
			return invalid("the manifest has more than %d values", maxTokens)
		}
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) && len(open) == 0 {
			return nil
		}
		if err != nil {
			return invalid("the manifest is not valid JSON: %v", err)
		}
		switch t := token.(type) {
		case json.Delim:
			switch t {
			case '{':
				open = append(open, map[string]struct{}{})
			case '[':
				open = append(open, nil)
			default:
				open = open[:len(open)-1]
			}
			if len(open) > maxDepth {
				return invalid("the manifest is nested more than %d levels deep", maxDepth)
			}
			isKey = len(open) > 0 && open[len(open)-1] != nil
			continue
		case string:
			if isKey {
				keys := open[len(open)-1]
				if _, twice := keys[t]; twice {
					return invalid("the manifest has the key %.100q twice in one object", t)
				}
				keys[t] = struct{}{}
				isKey = false
				continue
			}
		}
		isKey = len(open) > 0 && open[len(open)-1] != nil
	}
}

// Package chart judges what is pushed as a Helm chart: that archive, config, repository and tag agree with each other,
// and that the archive can be read by anybody without harm. It reads archives as a stream, within bounds of its own.
package chart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"
	"sync"

	"github.com/chartroom-dev/chartroom/registryserver/limits"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// Media types of Helm charts in OCI registries (Helm improvement proposal 6, "OCI artifact").
const (
	ConfigMediaType     = "application/vnd.cncf.helm.config.v1+json"
	ContentMediaType    = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	ProvenanceMediaType = "application/vnd.cncf.helm.chart.provenance.v1.prov"
	// LegacyContentMediaType is what Helm wrote before it had a media type of its own, and still reads.
	LegacyContentMediaType = "application/tar+gzip"
)

// Artifacts says what a registry takes.
type Artifacts string

const (
	// Any OCI artifact; those that say they are charts must be sound charts.
	Any Artifacts = "Any"
	// Charts alone, and what goes with them: manifests with a subject, and the tags of repository.ExemptTag.
	Charts Artifacts = "Charts"
)

// Rules are what a push must satisfy beyond the specification of OCI registries. Make them with NewRules; their Check
// is one for repository.Options.
type Rules struct {
	artifacts Artifacts
	verdicts  verdicts
	// scanning and parsing are places: the first bounds the memory that scans take together, the second that of YAML
	// trees, which take many times their text.
	scanning, parsing limits.Places
	scanners          sync.Pool
}

// maxScans archives are read at once. Each takes about 60 KiB, and a Chart.yaml.
const maxScans = 32

// NewRules returns the rules of a registry that takes artifacts.
func NewRules(artifacts Artifacts) *Rules {
	return &Rules{
		artifacts: artifacts,
		verdicts:  verdicts{known: map[verdictKey]verdict{}},
		scanning:  make(limits.Places, maxScans),
		parsing:   make(limits.Places, runtime.GOMAXPROCS(0)),
		scanners:  sync.Pool{New: func() any { return new(scanner) }},
	}
}

// manifest is what helm sees in a manifest: it is written in Go too, and so takes fields in any case, the last of each.
type manifest struct {
	Config  descriptor      `json:"config"`
	Layers  []descriptor    `json:"layers"`
	Subject json.RawMessage `json:"subject"`
}

type descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

// Check judges a manifest before it is stored, and returns the tag that a chart's version makes; "" for what is no
// chart. A refusal is a *repository.InvalidManifestError in words for the person
// who pushed; a chart of which a part is missing is a *repository.UnknownBlobsError; all else went wrong in the storage.
//
// helm pushes a manifest twice, by digest and by tag. The archive is read once.
func (c *Rules) Check(ctx context.Context, r *repository.Repository, m repository.Manifest) (tag string, err error) {
	var parsed manifest
	if err := json.Unmarshal(m.Content, &parsed); err != nil {
		return "", refuse("the manifest cannot be read: %v", err)
	}
	exempt := repository.ExemptTag(m.Tag)
	if parsed.Config.MediaType != ConfigMediaType {
		if c.artifacts != Charts || exempt || len(parsed.Subject) > 0 && string(parsed.Subject) != "null" {
			return "", nil
		}
		return "", refuse("this registry takes Helm charts only, and what refers to them: this manifest is neither (its config is %.100q); push the chart with helm push", parsed.Config.MediaType)
	}
	v, err := c.judge(ctx, r, m, parsed)
	if err != nil {
		return "", err
	}
	if last := path.Base(m.Repository); v.name != last {
		return "", refuse("the chart is named %.100q, but the repository it was pushed to ends in %q: push it to one that ends in the chart's name", v.name, last)
	}
	tag = strings.ReplaceAll(v.version, "+", "_")
	if m.Tag != "" && !exempt && m.Tag != tag {
		return "", refuse("the chart's version is %.150q, but it was pushed as %q: the tag must be %q, or Chart.yaml must have another version", v.version, m.Tag, tag)
	}
	return tag, nil
}

// judge returns the verdict on a chart, whatever the tag.
func (c *Rules) judge(ctx context.Context, r *repository.Repository, m repository.Manifest, parsed manifest) (verdict, error) {
	key := verdictKey{m.Repository, m.Digest}
	v, known := c.verdicts.get(key)
	if !known {
		found, err := c.read(ctx, r, parsed)
		v = verdict{name: found.Name, version: found.Version}
		if invalid := new(repository.InvalidManifestError); errors.As(err, &invalid) {
			v.reason = invalid.Reason
		} else if err != nil {
			return verdict{}, err
		}
		c.verdicts.put(key, v)
	}
	if v.reason != "" {
		return verdict{}, &repository.InvalidManifestError{Reason: v.reason}
	}
	return v, nil
}

// read reads all of a chart and returns what its Chart.yaml says.
func (c *Rules) read(ctx context.Context, r *repository.Repository, m manifest) (Metadata, error) {
	content, err := m.content(ctx, r)
	if err != nil {
		return Metadata{}, err
	}
	if m.Config.Size > maxMetadataBytes {
		return Metadata{}, refuse("the chart's config has %d bytes; at most %d are allowed", m.Config.Size, maxMetadataBytes)
	}
	if content.Size > MaxArchiveBytes {
		return Metadata{}, refuse("the chart archive has %d bytes; at most %d are allowed", content.Size, MaxArchiveBytes)
	}
	leave, err := c.scanning.Enter(ctx)
	if err != nil {
		return Metadata{}, err
	}
	defer leave()
	var configJSON []byte
	if err := withBlob(ctx, r, m.Config, func(blob io.Reader) (err error) {
		configJSON, err = io.ReadAll(blob)
		return err
	}); err != nil {
		return Metadata{}, err
	}
	config, err := parseConfig(configJSON)
	if err != nil {
		return Metadata{}, err
	}
	var chartYAML []byte
	if err := withBlob(ctx, r, content, func(blob io.Reader) (err error) {
		s, _ := c.scanners.Get().(*scanner)
		defer c.scanners.Put(s)
		chartYAML, err = s.scan(ctx, blob, content.Size, nil)
		return err
	}); err != nil {
		return Metadata{}, err
	}
	leaveParsing, err := c.parsing.Enter(ctx)
	if err != nil {
		return Metadata{}, err
	}
	defer leaveParsing()
	found, err := parseChartYAML(chartYAML)
	if err != nil {
		return Metadata{}, err
	}
	return found, agree(config, found)
}

// content finds the layer with the chart, and checks that the others are such as a chart has.
func (m manifest) content(ctx context.Context, r *repository.Repository) (content descriptor, err error) {
	var contents, provenances int
	for _, l := range m.Layers {
		switch l.MediaType {
		case ContentMediaType, LegacyContentMediaType:
			contents++
			content = l
		case ProvenanceMediaType:
			provenances++
			if _, err := r.StatBlob(ctx, l.Digest); err != nil {
				return content, explain(err, l)
			}
		default:
			return content, refuse("a chart has no layer of the type %.100q, only its archive and its provenance", l.MediaType)
		}
	}
	if contents != 1 {
		return content, refuse("a chart has one layer with its archive (%s), this one has %d", ContentMediaType, contents)
	}
	if provenances > 1 {
		return content, refuse("a chart has at most one layer with its provenance (%s), this one has %d", ProvenanceMediaType, provenances)
	}
	return content, nil
}

// withBlob lets f read a blob of exactly the size that the manifest says.
func withBlob(ctx context.Context, r *repository.Repository, d descriptor, f func(io.Reader) error) error {
	blob, info, err := r.OpenBlob(ctx, d.Digest, nil)
	if err != nil {
		return explain(err, d)
	}
	defer blob.Close()
	if info.Size != d.Size {
		return refuse("%s has %d bytes, but the manifest says %d", d.Digest, info.Size, d.Size)
	}
	if err := f(blob); err != nil {
		if invalid := new(repository.InvalidManifestError); errors.As(err, &invalid) {
			return err
		}
		return fmt.Errorf("read chart %s: %w", d.Digest, err)
	}
	return nil
}

// explain says of a blob that is missing that it must be pushed, also where the manifest says that it is elsewhere.
func explain(err error, d descriptor) error {
	switch {
	case errors.Is(err, repository.ErrBlobUnknown):
		return &repository.UnknownBlobsError{Digests: []digest.Digest{d.Digest}}
	case errors.Is(err, repository.ErrDigestUnsupported):
		return refuse("the manifest names %.100q, which is not a sha256 or sha512 digest", d.Digest)
	}
	return err
}

func refuse(format string, a ...any) error {
	return &repository.InvalidManifestError{Reason: fmt.Sprintf(format, a...)}
}

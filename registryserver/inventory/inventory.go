// Package inventory knows what a registry holds: its charts and their versions, as lists, pages, indexes and the operator
// ask for them. It is built behind serving, out of the bucket, and can be thrown away.
package inventory

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// Version is one tag. What is heavy of a chart stays in the bucket: see [Inventory.Metadata].
type Version struct {
	// Tag as it is stored; a version's "+" is "_" in it. [Version.Name] is the version.
	Tag string
	// Digest and Size are those of the manifest.
	Digest digest.Digest
	Size   int64
	// Chart is false for what is no Helm chart: an image, an index, a signature. Of those, ArtifactType says what it is,
	// and fields below other than StoredSize, PushedAt and PushedBy are empty.
	Chart        bool
	ArtifactType string
	// AppVersion, KubeVersion, Description, Type and Deprecated are what the chart says of itself, at most 256 bytes of each.
	AppVersion  string
	KubeVersion string
	Description string
	Type        string
	Deprecated  bool
	// Config, Archive and Provenance are blobs; Provenance is empty where there is none.
	Config, Archive, Provenance digest.Digest
	// ArchiveSize is that of the archive, StoredSize that of manifest and all blobs, in bytes.
	ArchiveSize, StoredSize int64
	// Signatures and Attestations count what refers to the manifest: signatures, and attestations, bills of materials and
	// all else, of referrers 200 at most. The provenance file is none of them.
	Signatures, Attestations int
	// PushedAt is when, and PushedBy who pushed the tag.
	PushedAt time.Time
	PushedBy string
	// Downloads counts whole downloads of the archive, over all replicas; LastPulled is when it was last downloaded, to the
	// day, and the zero time where it never was.
	Downloads  int64
	LastPulled time.Time
}

// Chart is one repository that has a version of a Helm chart.
type Chart struct {
	// Name is the path below the registry.
	Name string
	// Latest is the highest by semantic versioning; a pre-release only where there is no other.
	Latest Version
	// Versions is how many there are; Artifacts how many tags stand for something else.
	Versions, Artifacts int
	// SizeBytes is what the versions take, each manifest and blob once; Downloads add up theirs, each archive once.
	SizeBytes, Downloads int64
	// LastPushed is when the youngest version was pushed.
	LastPushed time.Time
}

// Listed is a version in a list of several charts.
type Listed struct {
	// Name is the chart's path below the registry.
	Name string
	Version
}

// Totals add up what all charts have. Fields are those of [Chart].
type Totals struct {
	Charts, Versions, Artifacts int
	SizeBytes, Downloads        int64
	LastPushed                  time.Time
}

// Reader is what is asked of an inventory. Everything that it returns is the caller's own, and costs no request to the
// bucket unless it takes a context. may says which charts the caller is allowed to read; nil: all.
type Reader interface {
	// Building reports that not all that is stored has been seen yet.
	Building() bool
	// Changed returns a number that grows with every change that a reader can see, downloads excepted, and a channel that is
	// closed at the next one.
	Changed() (revision uint64, next <-chan struct{})
	Totals(may func(chart string) bool) Totals
	// Charts are those with a version of a Helm chart, by name.
	Charts(may func(chart string) bool) []Chart
	Chart(name string) (Chart, bool)
	// Versions are the tags of a repository, also of one that holds no chart: charts first, the highest version first.
	Versions(name string) []Version
	// Highest are versions of Helm charts of one repository, the highest first, and Newest those of all that may lets through,
	// what was pushed last first: so many of them as there are from one position up to another. all is how many there are. They
	// describe what they return alone, however many there are.
	Highest(name string, from, to int) (some []Listed, all int)
	Newest(may func(chart string) bool, from, to int) (some []Listed, all int)
	// Version is that of a tag; a tag's "+" may be written for its "_".
	Version(name, tag string) (Version, bool)
	// Metadata is the config of a chart's version: its Chart.yaml as JSON, at most 1 MiB. Errors: those of
	// repository.OpenBlob.
	Metadata(ctx context.Context, name string, v Version) ([]byte, error)
	// Index is the index.yaml of a classic Helm repository.
	Index(may func(chart string) bool) Index
}

// IndexForm says what the addresses in an index are.
type IndexForm int

const (
	// Archives are addresses of archives, relative to that of the index: see ArchivePath.
	Archives IndexForm = iota
	// OCI addresses are "oci://HOST/ORGANIZATION/REGISTRY/NAME:TAG".
	OCI
)

// Index is an index.yaml as it is at one moment, in JSON, which is YAML. Two of the same content have the same ETag, on all
// replicas.
type Index interface {
	// ETag is a strong validator (RFC 9110 section 8.8.3), with its quotes, of the index in one form and encoding.
	ETag(form IndexForm, gzipped bool) string
	// Write writes the index; gzipped: as a gzip stream (RFC 1952). The first bytes are written before the rest is made.
	Write(w io.Writer, form IndexForm, gzipped bool) error
}

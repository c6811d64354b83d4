package inventory

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// maxTextBytes bounds what is kept of each text that a chart says of itself.
const maxTextBytes = 256

// record is a tag in as few bytes as will do: there may be a hundred thousand. It is not changed once it is in a content.
type record struct {
	// packed is the tag, then, each with a byte of its length before it, the hashes of manifest, config, archive and
	// provenance, and the app version.
	packed string
	// said is what said.encode makes, in the same memory for all records of a content of which it is the same.
	said string
	// etag is that of the tag's object, see hashETag; 0 where it is to be read again.
	etag uint64
	// pushedAt is in nanoseconds since 1970.
	pushedAt                                 int64
	archiveSize, storedSize                  int64
	manifestSize, configSize, provenanceSize uint32
	tagLength                                uint8
	flags                                    flags
}

// said is what is mostly alike for the versions of a chart.
type said struct {
	kubeVersion, description, chartType, artifactType, pushedBy string
}

func (s *said) fields() []*string {
	return []*string{&s.kubeVersion, &s.description, &s.chartType, &s.artifactType, &s.pushedBy}
}

// encode is each field behind its length (encoding/binary, varint).
func (s said) encode() string {
	var b []byte
	for _, f := range s.fields() {
		b = append(binary.AppendUvarint(b, uint64(len(*f))), *f...)
	}
	return string(b)
}

// decodeSaid is false for what encode has not made.
func decodeSaid(encoded string) (s said, ok bool) {
	for _, f := range s.fields() {
		n, width := binary.Uvarint([]byte(encoded[:min(len(encoded), binary.MaxVarintLen16)]))
		if width <= 0 || n > uint64(len(encoded)-width) {
			return said{}, false
		}
		*f, encoded = encoded[width:width+int(n)], encoded[width+int(n):] //nolint:gosec // Bounded.
	}
	return s, encoded == ""
}

// sayings has one of each.
type sayings map[string]string

// know adds that of a record.
func (s sayings) know(r *record) {
	if _, ok := s[r.said]; !ok {
		s[r.said] = r.said
	}
}

// share gives a new record the one that others have.
func (s sayings) share(r *record) {
	s.know(r)
	r.said = s[r.said]
}

type flags uint8

const (
	// isChart: the tag stands for a Helm chart.
	isChart flags = 1 << iota
	// isIndexed: it has an entry in the index.
	isIndexed
	// isPrerelease: by semantic versioning.
	isPrerelease
	// isDeprecated: as the chart says.
	isDeprecated
	allFlags = isChart | isIndexed | isPrerelease | isDeprecated
)

// The hashes of a record, in their order.
const (
	manifestHash = iota
	configHash
	archiveHash
	provenanceHash
	hashCount
)

func (r *record) tag() string       { return r.packed[:r.tagLength] }
func (r *record) has(f flags) bool  { return r.flags&f != 0 }
func (r *record) pushed() time.Time { return time.Unix(0, r.pushedAt).UTC() }

// hash is one of a record's, as bytes; empty for none.
func (r *record) hash(which int) string {
	rest := r.after(which)
	return rest[1 : 1+rest[0]]
}

func (r *record) appVersion() string { return r.after(hashCount) }

// after is what stands behind so many hashes.
func (r *record) after(hashes int) string {
	rest := r.packed[r.tagLength:]
	for range hashes {
		rest = rest[1+rest[0]:]
	}
	return rest
}

// pack puts the strings of a record together.
func pack(tag string, hashes [hashCount]string, appVersion string) string {
	var b strings.Builder
	size := len(tag) + hashCount + len(appVersion)
	for _, h := range hashes {
		size += len(h)
	}
	b.Grow(size)
	b.WriteString(tag)
	for _, h := range hashes {
		b.WriteByte(byte(len(h))) //nolint:gosec // A hash has 64 bytes at most.
		b.WriteString(h)
	}
	b.WriteString(appVersion)
	return b.String()
}

// hashOf is a digest's hash as bytes; empty for what is no digest of sha256 or sha512.
func hashOf(d digest.Digest) string {
	algorithm, encoded, _ := strings.Cut(string(d), ":")
	raw, err := hex.DecodeString(encoded)
	if err != nil || algorithm != string(digest.SHA256) && algorithm != string(digest.SHA512) || len(raw) != digest.Algorithm(algorithm).Size() {
		return ""
	}
	return string(raw)
}

// digestOf undoes hashOf.
func digestOf(hash string) digest.Digest {
	switch len(hash) {
	case digest.SHA256.Size():
		return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString([]byte(hash)))
	case digest.SHA512.Size():
		return digest.NewDigestFromEncoded(digest.SHA512, hex.EncodeToString([]byte(hash)))
	}
	return ""
}

// hashETag makes an ETag a number that is not 0. Two that differ are the same number once in 2^64.
func hashETag(etag string) uint64 {
	sum := sha256.Sum256([]byte(etag))
	return max(1, binary.LittleEndian.Uint64(sum[:]))
}

// manifest is what is read of one. Like helm, it takes fields in any case.
type manifest struct {
	ArtifactType string       `json:"artifactType"`
	Config       descriptor   `json:"config"`
	Layers       []descriptor `json:"layers"`
}

type descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

// describe makes a record of a tag and the manifest that it stands for; content is nil where that could not be read, so
// that nothing is known of it.
func describe(v repository.Version, content []byte) *record {
	r := &record{
		tagLength: uint8(min(len(v.Tag), math.MaxUint8)), etag: hashETag(v.ETag),
		pushedAt: nanoseconds(v.PushedAt), manifestSize: small(v.Size), storedSize: max(0, v.Size),
	}
	var m manifest
	if content == nil {
		r.etag = 0
	} else if json.Unmarshal(content, &m) != nil {
		m = manifest{} // What is no manifest is no chart.
	}
	hashes := [hashCount]string{manifestHash: hashOf(v.Digest)}
	s := said{pushedBy: cut(v.PushedBy)}
	seen := map[digest.Digest]bool{}
	for _, d := range append([]descriptor{m.Config}, m.Layers...) {
		if d.Size > 0 && !seen[d.Digest] && d.Size < math.MaxInt64-r.storedSize {
			r.storedSize += d.Size
		}
		seen[d.Digest] = true
	}
	if m.Config.MediaType == chart.ConfigMediaType && !repository.ExemptTag(v.Tag) {
		r.flags |= isChart
		hashes[configHash], r.configSize = hashOf(m.Config.Digest), small(m.Config.Size)
		for _, l := range m.Layers {
			switch l.MediaType {
			case chart.ContentMediaType, chart.LegacyContentMediaType:
				hashes[archiveHash], r.archiveSize = hashOf(l.Digest), max(0, l.Size)
			case chart.ProvenanceMediaType:
				hashes[provenanceHash], r.provenanceSize = hashOf(l.Digest), small(l.Size)
			}
		}
		if version, err := semver.NewVersion(versionOf(v.Tag)); err == nil && version.Prerelease() != "" {
			r.flags |= isPrerelease
		}
	} else {
		s.artifactType = cut(cmp.Or(m.ArtifactType, m.Config.MediaType, v.MediaType))
	}
	r.packed, r.said = pack(v.Tag, hashes, ""), s.encode()
	return r
}

// say adds what a chart says of itself to what describe has made.
func (r *record) say(m metadata) {
	r.packed += cut(m.AppVersion)
	s, _ := decodeSaid(r.said)
	s.kubeVersion, s.description, s.chartType = cut(m.KubeVersion), cut(m.Description), cut(m.Type)
	r.said = s.encode()
	if m.Deprecated {
		r.flags |= isDeprecated
	}
}

// cut is at most maxTextBytes of a text, in memory of its own, and nothing of a character by halves.
func cut(s string) string {
	if len(s) > maxTextBytes {
		s = s[:maxTextBytes]
		for !utf8.ValidString(s) && len(s) > maxTextBytes-utf8.UTFMax {
			s = s[:len(s)-1]
		}
	}
	return strings.Clone(strings.ToValidUTF8(s, "\uFFFD"))
}

func small(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// nanoseconds is 0 for times so far off that they have none.
func nanoseconds(t time.Time) int64 {
	if t.Year() < 1678 || t.Year() > 2261 {
		return 0
	}
	return t.UnixNano()
}

func versionOf(tag string) string { return strings.ReplaceAll(tag, "_", "+") }

// version is what a record has for who reads.
func (r *record) version() Version {
	s, _ := decodeSaid(strings.Clone(r.said)) // What is read does not keep the record in memory.
	return Version{
		Tag: strings.Clone(r.tag()), Digest: digestOf(r.hash(manifestHash)), Size: int64(r.manifestSize), Chart: r.has(isChart), ArtifactType: s.artifactType,
		AppVersion: strings.Clone(r.appVersion()), KubeVersion: s.kubeVersion, Description: s.description, Type: s.chartType, Deprecated: r.has(isDeprecated),
		Config: digestOf(r.hash(configHash)), Archive: digestOf(r.hash(archiveHash)), Provenance: digestOf(r.hash(provenanceHash)),
		ArchiveSize: r.archiveSize, StoredSize: r.storedSize, PushedAt: r.pushed(), PushedBy: s.pushedBy,
	}
}

// place is where a record stands among others: charts come first, of them the highest version, and of tags that are no
// version the first in byte order.
type place struct {
	chart   bool
	version *semver.Version
	tag     string
}

func placeOf(r *record) place {
	p := place{chart: r.has(isChart), tag: r.tag()}
	if p.chart {
		p.version, _ = semver.NewVersion(versionOf(p.tag)) // nil for what is none.
	}
	return p
}

func (p place) compare(q place) int {
	switch {
	case p.chart != q.chart && p.chart, (p.version == nil) != (q.version == nil) && p.version != nil:
		return -1
	case p.chart != q.chart, (p.version == nil) != (q.version == nil):
		return 1
	case p.version != nil:
		if c := q.version.Compare(p.version); c != 0 {
			return c
		}
	}
	return strings.Compare(p.tag, q.tag)
}

// manyAtOnce is the number of records from which on it is less work to sort all than to look for each one's place.
const manyAtOnce = 32

// insert adds records to sorted ones.
func insert(sorted, added []*record) []*record {
	if len(added) <= manyAtOnce {
		for _, r := range added {
			p := placeOf(r)
			at, _ := slices.BinarySearchFunc(sorted, p, func(r *record, p place) int { return placeOf(r).compare(p) })
			sorted = slices.Insert(sorted, at, r)
		}
		return sorted
	}
	sorted = append(sorted, added...)
	places := make(map[*record]place, len(sorted))
	for _, r := range sorted {
		places[r] = placeOf(r)
	}
	slices.SortFunc(sorted, func(a, b *record) int { return places[a].compare(places[b]) })
	return sorted
}

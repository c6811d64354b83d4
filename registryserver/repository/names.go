package repository

import (
	_ "crypto/sha256" // The two algorithms that checkDigest lets through.
	_ "crypto/sha512"
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxNameBytes keeps a repository's name within one segment of a bucket's key.
const maxNameBytes = 200

// The grammars of the OCI Distribution Specification, "Pulling manifests", and of its uploads' ids here.
var uploadPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// isName is the specification's ^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$, without the cost
// that a pattern has for each request.
func isName(s string) bool {
	// separators is the beginning of those that stand since the last letter or digit.
	separators := 0
	for i := range len(s) {
		if c := s[i]; 'a' <= c && c <= 'z' || '0' <= c && c <= '9' {
			if !isSeparator(s[separators:i], separators > 0) {
				return false
			}
			separators = i + 1
		}
	}
	return s != "" && separators == len(s)
}

// isSeparator reports whether s may stand between two letters or digits, or, when not within, before the first.
func isSeparator(s string, within bool) bool {
	switch s {
	case "":
		return true
	case ".", "_", "__", "/":
		return within
	}
	return within && strings.Trim(s, "-") == ""
}

// maxTagBytes bounds a tag.
const maxTagBytes = 128

// isTag is the specification's ^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$, without the cost that a pattern has when very many
// tags are listed.
func isTag(s string) bool {
	if s == "" || len(s) > maxTagBytes || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}

// Repository is the content under one name.
type Repository struct {
	s    *Store
	name string
	// prefix is what the keys of all its objects begin with.
	prefix string
}

// Repository returns the repository of that name: the path below the registry, for example "nginx" or "team/nginx".
// It need not exist yet. Error: ErrNameInvalid.
func (s *Store) Repository(name string) (*Repository, error) {
	if len(name) > maxNameBytes {
		return nil, fmt.Errorf("%w: %.40s… is longer than %d bytes", ErrNameInvalid, name, maxNameBytes)
	}
	if !isName(name) {
		return nil, fmt.Errorf("%w: %q must be lower-case letters and digits, separated by single . _ / or by -", ErrNameInvalid, name)
	}
	return s.repository(name), nil
}

// repository is Repository of a name that is known to be one.
func (s *Store) repository(name string) *Repository {
	return &Repository{s: s, name: name, prefix: chartsPrefix + encodeName(name) + "/"}
}

// Name is the path below the registry.
func (r *Repository) Name() string { return r.name }

const chartsPrefix = "charts/"

// isBeside is true for what this program keeps outside of all charts and can do without: the counters of what is
// stored, who does which work, what was pulled and how often, what is about to be deleted, what others are yet to be told,
// what speeds the inventory up, and what the trials of the storage write and delete again. A server that is ending may
// write some of it after the rest was deleted.
func isBeside(key string) bool {
	for _, prefix := range []string{"usage/", "leases/", "pulls/", "downloads/", "inventory/", "retention/", "events/", "check/"} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// encodeName makes a name one segment of a key. No name has a "+" of its own.
func encodeName(name string) string { return strings.ReplaceAll(name, "/", "+") }

func decodeName(segment string) string { return strings.ReplaceAll(segment, "+", "/") }

// key is the key of an object of the repository.
func (r *Repository) key(path ...string) string {
	return r.prefix + strings.Join(path, "/")
}

// Sections are the first segments of keys within a repository.
const (
	blobsSection     = "blobs"
	leasesSection    = "leases"
	manifestsSection = "manifests"
	referrersSection = "referrers"
	tagsSection      = "tags"
	uploadsSection   = "uploads"
)

func (r *Repository) blobKey(d digest.Digest) string {
	return r.prefix + blobsSection + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

func (r *Repository) manifestKey(d digest.Digest) string {
	return r.prefix + manifestsSection + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

func (r *Repository) tagKey(tag string) string { return r.prefix + tagsSection + "/" + tag }

// referrerKey is the key of what a list of the referrers of subject shows of the manifest d.
func (r *Repository) referrerKey(subject, d digest.Digest) string {
	return r.referrersPrefix(subject) + digestSegment(d)
}

func (r *Repository) referrersPrefix(subject digest.Digest) string {
	return r.key(referrersSection, digestSegment(subject), "")
}

// digestSegment makes a digest one segment of a key.
func digestSegment(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

// checkDigest returns ErrDigestUnsupported for all but well-formed digests of the two algorithms that are served.
func checkDigest(d digest.Digest) error {
	if isSHA256(string(d)) {
		return nil
	}
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%w: %.150q: %w", ErrDigestUnsupported, string(d), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("%w: %s is neither sha256 nor sha512", ErrDigestUnsupported, a)
	}
	return nil
}

// isSHA256 reports at little cost what nearly all digests are.
func isSHA256(s string) bool {
	const prefix = "sha256:"
	if len(s) != len(prefix)+64 || s[:len(prefix)] != prefix {
		return false
	}
	for i := len(prefix); i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// parseReference tells a tag from a digest; one of the two is empty.
func parseReference(reference string) (tag string, d digest.Digest, err error) {
	if strings.Contains(reference, ":") {
		d = digest.Digest(reference)
		if err := checkDigest(d); err != nil {
			return "", "", fmt.Errorf("%w: %w", ErrReferenceInvalid, err)
		}
		return "", d, nil
	}
	if !isTag(reference) {
		return "", "", tagInvalid(reference)
	}
	return reference, "", nil
}

// checkTags returns ErrReferenceInvalid for what is no tag.
func checkTags(tags []string) error {
	for _, tag := range tags {
		if !isTag(tag) {
			return tagInvalid(tag)
		}
	}
	return nil
}

func tagInvalid(tag string) error {
	return fmt.Errorf("%w: the tag %.150q must be letters, digits, _ . and -, at most 128, and not begin with . or -", ErrReferenceInvalid, tag)
}

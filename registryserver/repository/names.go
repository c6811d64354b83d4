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
var (
	namePattern   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	uploadPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// Repository is the content under one name.
type Repository struct {
	s    *Store
	name string
}

// Repository returns the repository of that name: the path below the registry, for example "nginx" or "team/nginx".
// It need not exist yet. Error: ErrNameInvalid.
func (s *Store) Repository(name string) (*Repository, error) {
	if len(name) > maxNameBytes {
		return nil, fmt.Errorf("%w: %.40s… is longer than %d bytes", ErrNameInvalid, name, maxNameBytes)
	}
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("%w: %q must be lower-case letters and digits, separated by single . _ / or by -", ErrNameInvalid, name)
	}
	return &Repository{s: s, name: name}, nil
}

// key is the key of an object of the repository. No name has a "+" of its own.
func (r *Repository) key(path ...string) string {
	return "charts/" + strings.ReplaceAll(r.name, "/", "+") + "/" + strings.Join(path, "/")
}

func (r *Repository) blobKey(d digest.Digest) string {
	return r.key("blobs", d.Algorithm().String(), d.Encoded())
}

func (r *Repository) manifestKey(d digest.Digest) string {
	return r.key("manifests", d.Algorithm().String(), d.Encoded())
}

func (r *Repository) tagKey(tag string) string { return r.key("tags", tag) }

// checkDigest returns ErrDigestUnsupported for all but well-formed digests of the two algorithms that are served.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%w: %.150q: %w", ErrDigestUnsupported, string(d), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("%w: %s is neither sha256 nor sha512", ErrDigestUnsupported, a)
	}
	return nil
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
	if !tagPattern.MatchString(reference) {
		return "", "", fmt.Errorf("%w: the tag %.150q must be letters, digits, _ . and -, at most 128, and not begin with . or -", ErrReferenceInvalid, reference)
	}
	return reference, "", nil
}

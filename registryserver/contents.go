package registryserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/glob"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

const (
	immutable = "Immutable"
	mutable   = "Mutable"

	// maxGlobs bounds the globs of mutable tags, which are tried one after the other.
	maxGlobs = 64
	// maxTagBytes is the length of a tag (OCI Distribution Specification, "Pulling manifests").
	maxTagBytes = 128
)

// TagsConfig says which tags may be moved to other content.
type TagsConfig struct {
	// Policy is Immutable, so that a version stands for the same content forever, or Mutable, in any case. Default:
	// Immutable.
	Policy string `yaml:"policy"`
	// Mutable are globs of tags that may be moved although the policy is Immutable, for example "*-dev": "*" is any run
	// of characters, "?" any one.
	Mutable []string `yaml:"mutable"`
}

// artifacts reads what is written in any case.
func (c Config) artifacts() (chart.Artifacts, error) {
	for _, a := range []chart.Artifacts{chart.Any, chart.Charts} {
		if strings.EqualFold(c.Artifacts, string(a)) {
			return a, nil
		}
	}
	return "", fmt.Errorf("%q is neither %s nor %s", c.Artifacts, chart.Any, chart.Charts)
}

func (t TagsConfig) validate(refuse func(field, format string, args ...any)) {
	if !strings.EqualFold(t.Policy, immutable) && !strings.EqualFold(t.Policy, mutable) {
		refuse("tags.policy", "%q is neither %s nor %s", t.Policy, immutable, mutable)
	}
	if len(t.Mutable) > maxGlobs {
		refuse("tags.mutable", "has more than %d globs", maxGlobs)
	}
	for _, pattern := range t.Mutable {
		if err := validateTagGlob(pattern); err != nil {
			refuse("tags.mutable", "%w", err)
		}
	}
}

func validateTagGlob(pattern string) error {
	switch {
	case pattern == "":
		return errors.New(`a glob must not be empty; "*" is every tag`)
	case len(pattern) > maxTagBytes:
		return fmt.Errorf("a glob has at most %d bytes, one has %d", maxTagBytes, len(pattern))
	}
	if strings.ContainsFunc(pattern, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-*?", r)
	}) {
		return fmt.Errorf("the glob %q has a character that no tag can have: a tag is made of letters, digits, \".\", \"_\" and \"-\" (\"+\" in a version is \"_\" in its tag)", pattern)
	}
	return nil
}

// movable is a function for repository.Options.
func (t TagsConfig) movable(tag string) bool {
	return strings.EqualFold(t.Policy, mutable) ||
		slices.ContainsFunc(t.Mutable, func(pattern string) bool { return glob.Match(pattern, tag) })
}

// contents says what the store takes. c has been validated.
func (c Config) contents() (repository.Options, error) {
	artifacts, err := c.artifacts()
	if err != nil {
		return repository.Options{}, err
	}
	return repository.Options{
		MaxBlobBytes:  c.Limits.BlobBytes,
		MaxChartBytes: int64(c.Quota.ChartSize),
		TagMutable:    c.Tags.movable,
		Sparse: func(m repository.Manifest) bool {
			// A chart must be there whole; what others leave out of their images and indexes is theirs to say.
			return artifacts == chart.Any && m.ConfigType != chart.ConfigMediaType
		},
		Check: chart.NewRules(artifacts).Check,
		Grace: time.Duration(c.GarbageCollection.Grace),
		Cache: c.Storage.cache(),
	}, nil
}

// cache says what is kept in memory of the storage.
func (s StorageConfig) cache() repository.CacheOptions {
	o := repository.CacheOptions{Bytes: 64 << 20, BlobBytes: 4 << 20, BlobsFresh: blobsFresh, TagsFresh: time.Duration(s.Staleness)}
	if s.S3.Bucket == "" {
		// The system keeps files in memory, and sends them from there; what is kept here is what is small and often asked for.
		o.Bytes, o.BlobBytes = 32<<20, 16<<10
	}
	return o
}

// blobsFresh is how long a blob that another server has deleted may still be served.
const blobsFresh = 5 * time.Second

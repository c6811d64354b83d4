package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

const (
	// maxListed bounds the repositories and tags that a registry may list: one could go on for ever.
	maxListed = 1_000_000

	configType = chart.ConfigMediaType
	chartType  = chart.ContentMediaType
)

// OCI is a registry of the OCI Distribution Specification, as a source and as a target.
type OCI struct {
	registry *remote.Registry
	// path is that of the repository, or of the namespace.
	path string
	// charts are those that were named.
	charts []string
	// everything takes what is not a chart, too.
	everything bool
}

// NewOCI returns the registry at oci://host/path. Charts are the repositories right at the path, or below it; when
// some are named, nothing else is looked for. everything is for sources: it takes all artifacts, not charts alone.
func NewOCI(ctx context.Context, r Remote, charts []string, everything bool) (*OCI, error) {
	registry, err := remote.NewRegistry(r.URL.Host)
	if err != nil {
		return nil, err
	}
	registry.PlainHTTP = r.PlainHTTP
	registry.Client = &auth.Client{
		Client: r.client(ctx),
		Header: http.Header{"User-Agent": {"chartroom"}},
		Cache:  auth.NewCache(),
		Credential: func(ctx context.Context, host string) (auth.Credential, error) {
			username, password, err := r.credential(ctx, host)
			return auth.Credential{Username: username, Password: password}, err
		},
	}
	return &OCI{registry: registry, path: strings.Trim(r.URL.Path, "/"), charts: charts, everything: everything}, nil
}

func (o *OCI) repository(name string) (*remote.Repository, error) {
	r, err := o.registry.Repository(context.Background(), name)
	if err != nil {
		return nil, err
	}
	found, ok := r.(*remote.Repository)
	if !ok {
		return nil, fmt.Errorf("%s: not a remote repository", name)
	}
	found.SkipReferrersGC = true
	return found, nil
}

// Versions implements Source: all tags, but those of signatures of a version, which go with it.
func (o *OCI) Versions(ctx context.Context) ([]Version, error) {
	names, err := o.names(ctx)
	if err != nil {
		return nil, err
	}
	var versions []Version
	for _, name := range names {
		r, err := o.repository(path.Join(o.path, name))
		if err != nil {
			return nil, err
		}
		chart := name
		if chart == "" {
			chart = path.Base(o.path)
		}
		tags, err := tagsOf(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("list the tags of %s: %w", r.Reference, err)
		}
		c := &ociChart{Repository: r, tags: map[string]bool{}}
		for _, tag := range tags {
			c.tags[tag] = true
		}
		for _, tag := range tags {
			if isSignatureTag(tag) {
				continue
			}
			versions = append(versions, Version{Chart: chart, Tag: tag, move: func(ctx context.Context, t Target, dry bool) (moved, error) {
				return o.move(ctx, c, t, chart, tag, dry)
			}})
		}
	}
	return versions, nil
}

// isSignatureTag is true for the tags of signatureTags.
func isSignatureTag(tag string) bool {
	return strings.HasPrefix(tag, "sha256-") || strings.HasPrefix(tag, "sha512-")
}

// names returns the repositories below the path, relative to it; "" is the path itself.
func (o *OCI) names(ctx context.Context) ([]string, error) {
	if len(o.charts) > 0 {
		return o.charts, nil
	}
	if o.path != "" {
		r, err := o.repository(o.path)
		if err != nil {
			return nil, err
		}
		tags, err := tagsOf(ctx, r)
		if err == nil && len(tags) > 0 {
			return []string{""}, nil
		}
		if err != nil && !isAnswer(err, http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden) {
			return nil, fmt.Errorf("list the tags of %s: %w", r.Reference, err)
		}
	}
	var names []string
	err := o.registry.Repositories(ctx, "", func(page []string) error {
		for _, name := range page {
			if rest, below := strings.CutPrefix(name, o.path+"/"); below || o.path == "" {
				if o.path == "" {
					rest = name
				}
				names = append(names, rest)
			}
		}
		if len(names) > maxListed {
			return fmt.Errorf("it lists more than %d repositories", maxListed)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s/%s is no repository with tags, and the registry does not list what is below it (%w): name the charts", o.registry.Reference.Host(), o.path, err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s/%s holds nothing that these credentials may see", o.registry.Reference.Host(), o.path)
	}
	return names, nil
}

func isAnswer(err error, statuses ...int) bool {
	var answer *errcode.ErrorResponse
	if !errors.As(err, &answer) {
		return false
	}
	for _, s := range statuses {
		if answer.StatusCode == s {
			return true
		}
	}
	return false
}

func tagsOf(ctx context.Context, r *remote.Repository) ([]string, error) {
	var tags []string
	err := r.Tags(ctx, "", func(page []string) error {
		if tags = append(tags, page...); len(tags) > maxListed {
			return fmt.Errorf("it lists more than %d tags", maxListed)
		}
		return nil
	})
	return tags, err
}

func (o *OCI) move(ctx context.Context, c *ociChart, t Target, chart, tag string, dry bool) (moved, error) {
	d, err := c.Resolve(ctx, tag)
	if err != nil {
		return moved{}, fmt.Errorf("look up %s: %w", tag, err)
	}
	if !o.everything {
		manifest, err := c.manifest(ctx, d.Digest)
		if err != nil {
			return moved{}, err
		}
		parsed, err := parse(manifest)
		if err != nil {
			return moved{}, err
		}
		if parsed.Config == nil || parsed.Config.MediaType != configType {
			return moved{outcome: Ignored}, nil
		}
	}
	return moveManifest(ctx, c, t, chart, tag, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, dry)
}

// ociChart is the content of one repository.
type ociChart struct {
	*remote.Repository
	tags map[string]bool
}

func (c *ociChart) manifest(ctx context.Context, d digest.Digest) ([]byte, error) {
	found, body, err := c.Manifests().FetchReference(ctx, d.String())
	if err != nil {
		return nil, notThere(err)
	}
	defer body.Close()
	if found.Size > repository.MaxManifestBytes {
		return nil, fmt.Errorf("%d bytes: %w", found.Size, repository.ErrTooLarge)
	}
	return content.ReadAll(body, found)
}

func notThere(err error) error {
	if errors.Is(err, errdef.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrNotThere, err)
	}
	return err
}

func (c *ociChart) blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	body, err := c.Blobs().Fetch(ctx, d)
	return body, notThere(err)
}

func (c *ociChart) referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	err := c.Referrers(ctx, d, "", func(page []ocispec.Descriptor) error {
		if all = append(all, page...); len(all) > maxReferrers {
			return fmt.Errorf("more than %d", maxReferrers)
		}
		return nil
	})
	for i := range all {
		all[i] = ocispec.Descriptor{MediaType: all[i].MediaType, Digest: all[i].Digest, Size: all[i].Size}
	}
	if errors.Is(err, errdef.ErrNotFound) || isAnswer(err, http.StatusNotFound, http.StatusMethodNotAllowed) {
		return nil, nil
	}
	return all, err
}

func (c *ociChart) signatures(ctx context.Context, d digest.Digest) (map[string]ocispec.Descriptor, error) {
	found := map[string]ocispec.Descriptor{}
	for _, tag := range signatureTags(d) {
		if !c.tags[tag] {
			continue
		}
		s, err := c.Resolve(ctx, tag)
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", tag, err)
		}
		found[tag] = ocispec.Descriptor{MediaType: s.MediaType, Digest: s.Digest, Size: s.Size}
	}
	return found, nil
}

// The methods below implement Target.

// Manifest implements Target.
func (o *OCI) Manifest(ctx context.Context, chart, reference string) (mediaType string, manifest []byte, err error) {
	r, err := o.repository(path.Join(o.path, chart))
	if err != nil {
		return "", nil, err
	}
	found, body, err := r.Manifests().FetchReference(ctx, reference)
	if err != nil {
		return "", nil, notThere(err)
	}
	defer body.Close()
	manifest, err = content.ReadAll(io.LimitReader(body, repository.MaxManifestBytes+1), found)
	return found.MediaType, manifest, err
}

// HasBlob implements Target.
func (o *OCI) HasBlob(ctx context.Context, chart string, d digest.Digest) (bool, error) {
	r, err := o.repository(path.Join(o.path, chart))
	if err != nil {
		return false, err
	}
	return r.Blobs().Exists(ctx, ocispec.Descriptor{Digest: d})
}

// PutBlob implements Target.
func (o *OCI) PutBlob(ctx context.Context, chart string, d digest.Digest, size int64, blob io.Reader) error {
	r, err := o.repository(path.Join(o.path, chart))
	if err != nil {
		return err
	}
	return r.Blobs().Push(ctx, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size}, blob)
}

// PutManifest implements Target.
func (o *OCI) PutManifest(ctx context.Context, chart, reference, mediaType string, manifest []byte) error {
	r, err := o.repository(path.Join(o.path, chart))
	if err != nil {
		return err
	}
	d := content.NewDescriptorFromBytes(mediaType, manifest)
	if strings.Contains(reference, ":") {
		d.Digest = digest.Digest(reference)
	}
	err = r.Manifests().PushReference(ctx, d, strings.NewReader(string(manifest)), reference)
	if isAnswer(err, http.StatusConflict, http.StatusForbidden) {
		if stands, resolveErr := r.Resolve(ctx, reference); resolveErr == nil && stands.Digest != d.Digest {
			return &ConflictError{Stands: stands.Digest}
		}
	}
	return err
}

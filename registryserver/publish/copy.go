package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Copy makes a version of one chart a version of another too, with all that refers to it, without moving the archive
// through this program. Errors: ErrNoChart, those of repository.OpenManifest, and those of repository.PutManifest.
func Copy(ctx context.Context, from, to *repository.Repository, tag, by string) (Result, error) {
	// Before anything is copied: what a chart is named, its repository ends in.
	if name, last := path.Base(from.Name()), path.Base(to.Name()); name != last {
		return Result{}, refuse("the chart is named %q, but the path it is to be copied to ends in %q: copy it to one that ends in the chart's name", name, last)
	}
	ctx = repository.Copying(ctx, from.Name()+":"+tag)
	stored, d, err := Layers(ctx, from, tag)
	if err != nil {
		return Result{}, err
	}
	if err := to.Admit(ctx); err != nil {
		return Result{}, err
	}
	if err := to.CheckTag(ctx, tag, d); err != nil {
		return Result{}, err
	}
	for _, blob := range []ocispec.Descriptor{stored.Config, stored.Archive, stored.Provenance} {
		if blob.Digest == "" {
			continue
		}
		if _, err := to.Mount(ctx, blob.Digest, from); err != nil {
			return Result{}, fmt.Errorf("copy %s: %w", blob.Digest, err)
		}
	}
	// By digest first, by which it is judged, and by tag when its signatures are there.
	if err := copyManifest(ctx, from, to, d.String(), d.String(), by); err != nil {
		return Result{}, err
	}
	if err := copySignatures(ctx, from, to, d, by); err != nil {
		return Result{}, err
	}
	if err := copyManifest(ctx, from, to, d.String(), tag, by); err != nil {
		return Result{}, err
	}
	return Result{Chart: to.Name(), Version: strings.ReplaceAll(tag, "_", "+"), Tag: tag, Digest: d, Archive: stored.Archive.Digest, Size: stored.Archive.Size}, nil
}

// copySignatures copies what refers to a manifest: signatures and attestations, as they are listed, and as cosign named them
// before registries listed them. What has such a name at the target stays what it is: signatures of somebody else are in it.
func copySignatures(ctx context.Context, from, to *repository.Repository, d digest.Digest, by string) error {
	list, next, err := from.Referrers(ctx, d, "", "")
	if err != nil {
		return err
	}
	if next != "" {
		return refuse("%s has more signatures and the like than are copied at once: copy it with a client that speaks OCI", d)
	}
	for _, referrer := range list {
		if err := copyArtifact(ctx, from, to, referrer.Digest, referrer.Digest.String(), by); err != nil {
			return fmt.Errorf("copy %s, which refers to it: %w", referrer.Digest, err)
		}
	}
	for _, kind := range []string{".sig", ".att", ".sbom"} {
		tag := d.Algorithm().String() + "-" + d.Encoded() + kind
		if there, _, err := to.Standing(ctx, tag); err != nil {
			return err
		} else if there != "" {
			continue
		}
		attached, err := from.StatManifest(ctx, tag)
		if err == nil {
			err = copyArtifact(ctx, from, to, attached.Digest, tag, by)
		}
		if err != nil && !errors.Is(err, repository.ErrManifestUnknown) {
			return fmt.Errorf("copy %s: %w", tag, err)
		}
	}
	return nil
}

// copyArtifact copies a manifest that names blobs alone, and is to be found as reference.
func copyArtifact(ctx context.Context, from, to *repository.Repository, d digest.Digest, reference, by string) error {
	content, m, err := from.ReadManifest(ctx, d, repository.MaxManifestBytes)
	if err != nil {
		return err
	}
	var parsed struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(content, &parsed); err != nil {
		return refuse("the manifest %s cannot be read: %v", d, err)
	}
	if len(parsed.Manifests) > 0 {
		return refuse("%s, which belongs to the chart, is an index of other manifests: copy it with a client that speaks OCI", d)
	}
	blobs := parsed.Layers
	if parsed.Config != nil {
		blobs = append(slices.Clone(blobs), *parsed.Config)
	}
	for _, b := range blobs {
		_, err := to.Mount(ctx, b.Digest, from)
		if errors.Is(err, repository.ErrBlobUnknown) {
			return refuse("%s, which belongs to the chart, cannot be copied whole: its blob %s is not stored", d, b.Digest)
		}
		if err != nil {
			return err
		}
	}
	_, err = to.PutManifest(ctx, reference, m.MediaType, content, by)
	return err
}

func copyManifest(ctx context.Context, from, to *repository.Repository, reference, as, by string) error {
	content, m, err := from.OpenManifest(ctx, reference)
	if err != nil {
		return err
	}
	defer content.Close()
	manifest, err := io.ReadAll(io.LimitReader(content, maxManifest+1))
	if err != nil {
		return fmt.Errorf("read the manifest %s: %w", m.Digest, err)
	}
	_, err = to.PutManifest(ctx, as, m.MediaType, manifest, by)
	return err
}

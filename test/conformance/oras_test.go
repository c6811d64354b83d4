package conformance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// client is what oras-go, which helm is built on, sends requests with.
func (r registry) client(token string) *auth.Client {
	return &auth.Client{Credential: auth.StaticCredential(r.host, auth.Credential{Username: "anybody", Password: token})}
}

func (r registry) repository(t *testing.T, chart, token string) *remote.Repository {
	t.Helper()
	repository, err := remote.NewRepository(r.name(chart))
	if err != nil {
		t.Fatal(err)
	}
	repository.PlainHTTP, repository.Client = true, r.client(token)
	return repository
}

// pack pushes an artifact that refers to subject, which may be nil.
func pack(t *testing.T, to oras.Target, artifactType string, n int, subject *ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	d, err := oras.PackManifest(t.Context(), to, oras.PackManifestVersion1_1, artifactType, oras.PackManifestOptions{
		Subject: subject, ManifestAnnotations: map[string]string{"n": fmt.Sprint(n)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// referrers lists the annotation n of the referrers of a manifest.
func referrers(t *testing.T, of *remote.Repository, subject ocispec.Descriptor, artifactType string) (all []string) {
	t.Helper()
	err := of.Referrers(t.Context(), subject, artifactType, func(page []ocispec.Descriptor) error {
		for _, d := range page {
			all = append(all, d.Annotations["n"])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func TestORAS(t *testing.T) {
	const signature, sbom = "application/vnd.example.signature", "application/vnd.example.sbom"
	for store, open := range stores {
		t.Run(store, func(t *testing.T) {
			r := start(t, open(t))
			app := r.repository(t, "app", r.token)
			subject := pack(t, app, "application/vnd.example.app", 0, nil)
			if err := app.Tag(t.Context(), subject, "1.0.0"); err != nil {
				t.Fatal(err)
			}
			// More than one page of the list.
			const many = 103
			first := pack(t, app, signature, many, &subject)
			for n := range many {
				pack(t, app, sbom, n, &subject)
			}
			if all := referrers(t, app, subject, ""); len(all) != many+1 {
				t.Errorf("%d referrers", len(all))
			}
			if got := referrers(t, app, subject, signature); !slices.Equal(got, []string{fmt.Sprint(many)}) {
				t.Errorf("signatures: %v", got)
			}
			if err := app.Delete(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			if got := referrers(t, app, subject, signature); got != nil {
				t.Errorf("after the delete: %v", got)
			}

			// With all that refers to it, by way of memory and into another chart.
			copied := memory.New()
			if _, err := oras.ExtendedCopy(t.Context(), app, "1.0.0", copied, "1.0.0", oras.DefaultExtendedCopyOptions); err != nil {
				t.Fatal(err)
			}
			team := r.repository(t, "team/app", r.token)
			if _, err := oras.ExtendedCopy(t.Context(), copied, "1.0.0", team, "1.0.0", oras.DefaultExtendedCopyOptions); err != nil {
				t.Fatal(err)
			}
			if got := referrers(t, team, subject, sbom); len(got) != many {
				t.Errorf("%d referrers were copied", len(got))
			}
			options := oras.DefaultCopyOptions
			mounted := 0
			options.MountFrom = func(context.Context, ocispec.Descriptor) ([]string, error) { return []string{"acme/charts/app"}, nil }
			options.OnMounted = func(context.Context, ocispec.Descriptor) error { mounted++; return nil }
			if _, err := oras.Copy(t.Context(), app, "1.0.0", r.repository(t, "mounted", r.token), "1.0.0", options); err != nil || mounted == 0 {
				t.Errorf("%d blobs mounted: %v", mounted, err)
			}

			catalog, err := remote.NewRegistry(r.host)
			if err != nil {
				t.Fatal(err)
			}
			catalog.PlainHTTP, catalog.Client, catalog.RepositoryListPageSize = true, r.client(r.reader), 2
			var names []string
			if err := catalog.Repositories(t.Context(), "", func(page []string) error {
				names = append(names, page...)
				return nil
			}); err != nil || !slices.Equal(names, []string{"acme/charts/app", "acme/charts/mounted", "acme/charts/team/app"}) {
				t.Errorf("the catalog has %v, %v", names, err)
			}
			refused := r.repository(t, "app", r.reader).Tag(t.Context(), subject, "2.0.0")
			if refused == nil || !strings.Contains(refused.Error(), "this token lacks write_packages") {
				t.Errorf("a reader's tag: %v", refused)
			}
		})
	}
}

package repository_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

func versions(t *testing.T, r *repository.Repository) []repository.Version {
	t.Helper()
	all, err := r.Versions(t.Context())
	ok(t, err)
	slices.SortFunc(all, func(a, b repository.Version) int { return cmp.Compare(a.Tag, b.Tag) })
	return all
}

func TestVersions(t *testing.T) {
	b := newBucket(t)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r := openRepository(t, openStore(t, b, repository.Options{Now: func() time.Time { return at }}), "team/nginx")
	if all := versions(t, r); len(all) > 0 {
		t.Errorf("a repository that is not there has %+v", all)
	}
	first := mustPutChart(t, r, "1.0.0", "one")
	at = at.Add(time.Hour)
	for i := range 40 {
		mustPutChart(t, r, fmt.Sprintf("2.0.%d", i), "two")
	}
	putObject(t, b, "charts/team+nginx/tags/damaged", "{")
	putObject(t, b, "charts/team+nginx/tags/empty", "")
	all := versions(t, r)
	if len(all) != 41 {
		t.Fatalf("there are %d: %+v", len(all), all)
	}
	v := all[0]
	if v.Tag != "1.0.0" || v.Digest != first.Digest || v.Size != first.Size || v.MediaType != first.MediaType || !v.PushedAt.Equal(at.Add(-time.Hour)) || v.PushedBy == "" {
		t.Errorf("the first is %+v", v)
	}
}

func TestDeleteVersion(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{TagMutable: func(string) bool { return true }, Cache: repository.CacheOptions{Bytes: 1 << 20}}), "a")
	m := mustPutChart(t, r, "1.0.0", "one")
	mustPutChart(t, r, "2.0.0", "one")
	mustPutChart(t, r, "3.0.0", "one")
	all := versions(t, r)

	ok(t, r.DeleteVersion(t.Context(), all[0]))
	wantUnknown(t, r, "1.0.0")
	if _, err := r.StatManifest(t.Context(), m.Digest.String()); err != nil {
		t.Errorf("the manifest went with the tag: %v", err)
	}
	want(t, r.DeleteVersion(t.Context(), all[0]), repository.ErrManifestUnknown)

	moved := mustPutChart(t, r, "2.0.0", "two")
	want(t, r.DeleteVersion(t.Context(), all[1]), bucket.ErrChanged)
	if got, err := r.StatManifest(t.Context(), "2.0.0"); err != nil || got.Digest != moved.Digest {
		t.Errorf("a tag that was moved stands for %s, %v", got.Digest, err)
	}

	ok(t, r.DeleteManifest(t.Context(), "3.0.0"))
	again := mustPutChart(t, r, "3.0.0", "one")
	want(t, r.DeleteVersion(t.Context(), all[2]), bucket.ErrChanged)
	if got, err := r.StatManifest(t.Context(), "3.0.0"); err != nil || got.Digest != again.Digest {
		t.Errorf("a tag that was pushed again stands for %s, %v", got.Digest, err)
	}
}

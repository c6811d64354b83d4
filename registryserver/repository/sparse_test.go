package repository_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func TestSparseManifests(t *testing.T) {
	const helmConfig = "application/vnd.cncf.helm.config.v1+json"
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{Sparse: func(m repository.Manifest) bool { return m.ConfigType != helmConfig }}), "a")
	putBlob(t, r, "config")
	var unknown *repository.UnknownBlobsError
	if _, err := r.PutManifest(t.Context(), "1.0.0", imageType, chart(t, "missing"), "ci"); !errors.As(err, &unknown) {
		t.Fatalf("a chart without its layer: %v", err)
	}
	image := encode(t, object{"config": describe("text/plain", "config"), "layers": []object{describe("text/plain", "missing"), describe("text/plain", "also missing")}})
	index := encode(t, object{"manifests": []object{describe(imageType, "absent"), describe(imageType, string(image))}})
	for _, c := range []struct {
		tag, mediaType string
		content        []byte
		missing        []digest.Digest
	}{
		{"index", indexType, index, []digest.Digest{digest.FromString("absent"), digest.FromBytes(image)}},
		{"image", imageType, image, []digest.Digest{digest.FromString("missing"), digest.FromString("also missing")}},
	} {
		m, err := r.PutManifest(t.Context(), c.tag, c.mediaType, c.content, "ci")
		ok(t, err)
		found, err := r.StatManifest(t.Context(), c.tag)
		ok(t, err)
		if diff := cmp.Diff(c.missing, m.Missing) + cmp.Diff(c.missing, found.Missing); diff != "" {
			t.Fatalf("the %s: -want +got:\n%s", c.tag, diff)
		}
	}
	wrongSize := strings.Replace(string(image), `"size":6`, `"size":7`, 1)
	var invalid *repository.InvalidManifestError
	if _, err := r.PutManifest(t.Context(), "wrong", imageType, []byte(wrongSize), "ci"); !errors.As(err, &invalid) {
		t.Fatalf("a wrong size of what is there: %v", err)
	}
	var layers []object
	for i := range 65 {
		layers = append(layers, describe("text/plain", fmt.Sprint(i)))
	}
	many := encode(t, object{"config": describe("text/plain", "config"), "layers": layers})
	if _, err := r.PutManifest(t.Context(), "many", imageType, many, "ci"); !errors.As(err, &invalid) {
		t.Fatalf("one that lacks too much: %v", err)
	}
	many = encode(t, object{"config": describe("text/plain", "config"), "layers": layers[1:]})
	if _, err := r.PutManifest(t.Context(), "many", imageType, many, strings.Repeat("\x01", 2000)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.StatManifest(t.Context(), "many"); err != nil {
		t.Fatal(err)
	}
}

func TestManyTagsAtOnce(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	mustPutChart(t, r, "stands", "one")
	two := chart(t, "two")
	putBlob(t, r, "two")
	d := digest.SHA512.FromBytes(two)
	_, err := r.PutManifest(t.Context(), d.String(), imageType, two, "ci", "x", "stands", "y")
	want(t, err, repository.ErrTagImmutable)
	var immutable *repository.ImmutableTagError
	if !errors.As(err, &immutable) || immutable.Tag != "stands" || immutable.Stands != digest.FromBytes(chart(t, "one")) || immutable.Pushed != d {
		t.Fatalf("%+v", immutable)
	}
	wantUnknown(t, r, "x")
	_, err = r.PutManifest(t.Context(), d.String(), imageType, two, "ci", "x", "not:a:tag")
	want(t, err, repository.ErrReferenceInvalid)
	_, err = r.PutManifest(t.Context(), d.String(), imageType, two, "ci", "x", "y", "x")
	ok(t, err)
	_, err = r.PutManifest(t.Context(), "z", imageType, chart(t, "one"), "ci", "more")
	ok(t, err)
	tags, _, err := r.Tags(t.Context(), 0, "")
	ok(t, err)
	if diff := cmp.Diff([]string{"more", "stands", "x", "y", "z"}, tags); diff != "" {
		t.Fatal(diff)
	}
	for _, tag := range []string{"x", "y"} {
		if m, err := r.StatManifest(t.Context(), tag); err != nil || m.Digest != d {
			t.Fatalf("%s: %+v, %v", tag, m, err)
		}
	}
}

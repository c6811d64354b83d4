package repository_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

func TestTags(t *testing.T) {
	s := openStore(t, newBucket(t), repository.Options{})
	r := openRepository(t, s, "a")
	_, _, err := r.Tags(t.Context(), 0, "")
	want(t, err, repository.ErrRepositoryUnknown)
	putBlob(t, r, "config")
	_, _, err = r.Tags(t.Context(), 0, "")
	want(t, err, repository.ErrRepositoryUnknown)

	all := []string{"1.0.0", "1.0.0-rc.1", "1.0.0_build", "10.0.0", "2.0.0", "A", "_", "a", "a-b", "a.b"}
	for i := range all {
		mustPutChart(t, r, all[(i*7)%len(all)], "layer")
	}
	mustPutChart(t, openRepository(t, s, "a/b"), "elsewhere", "layer")
	for n := range len(all) + 2 {
		for _, last := range append([]string{"", "0", "1.0.0+x", "b", "\xff", "../../.."}, all...) {
			var expected []string
			for _, tag := range all {
				if tag > last {
					expected = append(expected, tag)
				}
			}
			more := n > 0 && len(expected) > n
			if more {
				expected = expected[:n]
			}
			got, gotMore, err := r.Tags(t.Context(), n, last)
			if err != nil || !slices.Equal(got, expected) || gotMore != more {
				t.Fatalf("%d tags behind %q are %v, %v, %v; want %v, %v", n, last, got, gotMore, err, expected, more)
			}
		}
	}
}

func TestTagsOfARepositoryWithoutTags(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{}), "a")
	m := mustPutChart(t, r, "1.0.0", "layer")
	ok(t, r.DeleteManifest(t.Context(), "1.0.0"))
	tags, more, err := r.Tags(t.Context(), 0, "")
	if err != nil || len(tags) != 0 || more {
		t.Fatalf("%v, %v, %v", tags, more, err)
	}
	ok(t, r.DeleteManifest(t.Context(), m.Digest.String()))
	_, _, err = r.Tags(t.Context(), 0, "")
	want(t, err, repository.ErrRepositoryUnknown)
}

func TestMoreTagsThanOnePageOfTheBucket(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	m := mustPutChart(t, r, "first", "layer")
	_, tag := readObject(t, b, "charts/a/tags/first")
	expected := []string{"first"}
	for i := range 1100 {
		name := fmt.Sprintf("1.0.%d", i)
		putObject(t, b, "charts/a/tags/"+name, tag)
		expected = append(expected, name)
	}
	slices.Sort(expected)
	for n, expected := range map[int][]string{0: expected, 1050: expected[:1050], 5000: expected} {
		got, more, err := r.Tags(t.Context(), n, "")
		if err != nil || !slices.Equal(got, expected) || more != (n == 1050) {
			t.Errorf("%d: %d tags, %v, %v", n, len(got), more, err)
		}
	}
	ok(t, r.DeleteManifest(t.Context(), m.Digest.String()))
	if left := keys(t, b); len(left) != 2 {
		t.Errorf("beside the two blobs there is %d more", len(left)-2)
	}
}

package repository_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

func TestMount(t *testing.T) {
	s := openStore(t, newBucket(t), repository.Options{})
	source, target := openRepository(t, s, "source"), openRepository(t, s, "team/target")
	for _, d := range []digest.Digest{digest.FromString("content"), digest.SHA512.FromString("content")} {
		_, err := target.Mount(t.Context(), d, source)
		want(t, err, repository.ErrBlobUnknown)
		_, err = target.StatBlob(t.Context(), d)
		want(t, err, repository.ErrBlobUnknown)

		ok(t, source.PutBlob(t.Context(), d, strings.NewReader("content"), -1))
		for range 2 {
			b, err := target.Mount(t.Context(), d, source)
			ok(t, err)
			if b != (repository.Blob{Digest: d, Size: 7}) {
				t.Fatalf("mounted %+v", b)
			}
		}
		// What is mounted is the target's own.
		ok(t, source.DeleteBlob(t.Context(), d))
		if got := blob(t, target, d, nil); got != "content" {
			t.Fatalf("it has %q", got)
		}
	}
	_, err := target.Mount(t.Context(), "sha256:x", source)
	want(t, err, repository.ErrDigestUnsupported)
}

func TestMountFoundLooksWhereItMay(t *testing.T) {
	s := openStore(t, newBucket(t), repository.Options{})
	d := putBlob(t, openRepository(t, s, "b/secret"), "content")
	target := openRepository(t, s, "target")
	asked := map[string]bool{}
	_, err := target.MountFound(t.Context(), d, func(name string) bool {
		asked[name] = true
		return name != "b/secret"
	})
	want(t, err, repository.ErrBlobUnknown)
	if !asked["b/secret"] {
		t.Fatalf("asked for %v", asked)
	}
	anywhere := func(string) bool { return true }
	b, err := target.MountFound(t.Context(), d, anywhere)
	ok(t, err)
	if b.Size != 7 || blob(t, target, d, nil) != "content" {
		t.Fatalf("mounted %+v", b)
	}
	// It is there by now, wherever from.
	_, err = target.MountFound(t.Context(), d, func(string) bool { return false })
	ok(t, err)

	// The search is bounded.
	for i := range 40 {
		putBlob(t, openRepository(t, s, fmt.Sprintf("a/%02d", i)), "other")
	}
	far := putBlob(t, openRepository(t, s, "z"), "far")
	_, err = target.MountFound(t.Context(), far, anywhere)
	want(t, err, repository.ErrBlobUnknown)
}

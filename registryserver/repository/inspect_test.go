package repository_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// Whoever keeps account of tags is told of each that was put, moved or deleted, and of nothing that another store does.
func TestTagged(t *testing.T) {
	t.Run("nobody records", func(t *testing.T) { testTagged(t, nil) })
	t.Run("recorded", func(t *testing.T) {
		testTagged(t, func(context.Context, repository.Change) (string, func(bool), error) {
			return "mark", func(bool) {}, nil
		})
	})
}

// Whoever keeps account of referrers is told of each that was put or deleted, and finds all that are listed.
func TestReferred(t *testing.T) {
	var told []string
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{Referred: func(name string, subject digest.Digest) {
		told = append(told, name+" "+subject.String())
	}}), "team/web")
	expect := func(what string, want ...string) {
		t.Helper()
		if !slices.Equal(told, want) {
			t.Errorf("%s: told is %q, want %q", what, told, want)
		}
		told = nil
	}
	listed := func() map[digest.Digest][]digest.Digest {
		t.Helper()
		all := map[digest.Digest][]digest.Digest{}
		ok(t, r.EachReferrer(t.Context(), func(subject, referrer digest.Digest) error {
			all[subject] = append(all[subject], referrer)
			return nil
		}))
		return all
	}
	m := mustPutChart(t, r, "1.0.0", "one")
	expect("a push")
	signed := putSignature(t, r, signature(t, m.Digest, nil))
	expect("a signature", "team/web "+m.Digest.String())
	if all := listed(); len(all) != 1 || !slices.Equal(all[m.Digest], []digest.Digest{signed.Digest}) {
		t.Errorf("listed are %v", all)
	}
	ok(t, r.DeleteManifest(t.Context(), signed.Digest.String()))
	if len(told) == 0 || told[0] != "team/web "+m.Digest.String() {
		t.Errorf("of the deletion, told is %q", told)
	}
	if all := listed(); len(all) != 0 {
		t.Errorf("after the deletion, listed are %v", all)
	}
}

func testTagged(t *testing.T, record func(context.Context, repository.Change) (string, func(bool), error)) {
	b := newBucket(t)
	var mu sync.Mutex
	var told []string
	mutable := func(string) bool { return true }
	r := openRepository(t, openStore(t, b, repository.Options{TagMutable: mutable, Record: record, Tagged: func(name, tag string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, name+":"+tag)
	}}), "team/web")
	other := openRepository(t, openStore(t, b, repository.Options{TagMutable: mutable}), "team/web")
	expect := func(what string, want ...string) {
		t.Helper()
		slices.Sort(told)
		if told = slices.Compact(told); !slices.Equal(told, want) {
			t.Errorf("%s: told is %q, want %q", what, told, want)
		}
		told = nil
	}
	one := mustPutChart(t, r, "1.0.0", "one")
	expect("a push", "team/web:1.0.0")
	mustPutChart(t, r, "1.0.0", "one")
	if record == nil {
		// A recorded push looks before it writes.
		expect("the same push", "team/web:1.0.0")
	}
	two := mustPutChart(t, r, "1.0.0", "two")
	expect("a moved tag", "team/web:1.0.0")
	mustPutChart(t, r, one.Digest.String(), "one")
	expect("a push by digest")
	mustPutChart(t, r, "1.0.1", "two")
	mustPutChart(t, r, "1.0.2", "one")
	told = nil
	ok(t, r.DeleteManifest(t.Context(), two.Digest.String()))
	expect("a deleted manifest", "team/web:1.0.0", "team/web:1.0.1")
	ok(t, r.DeleteManifest(t.Context(), "1.0.2"))
	expect("a deleted tag", "team/web:1.0.2")
	mustPutChart(t, r, "1.0.3", "one")
	told = nil
	ok(t, r.DeleteVersion(t.Context(), versions(t, r)[0]))
	expect("a deleted version", "team/web:1.0.3")
	want(t, r.DeleteManifest(t.Context(), "1.0.3"), repository.ErrManifestUnknown)
	mustPutChart(t, other, "1.0.4", "one")
	expect("what another store does")
}

// What is read for an account is what is stored, and drives nothing out of the cache.
func TestReadingWithoutTheCache(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "web")
	m := mustPutChart(t, r, "1.0.0", "one")
	for i := range 3 {
		mustPutChart(t, r, fmt.Sprintf("2.0.%d", i), "two")
	}
	putObject(t, b, "charts/web/tags/damaged", "{")
	putObject(t, b, "charts/web/tags/-foreign", "{}")
	var tags []string
	etags := map[string]string{}
	ok(t, r.EachTag(t.Context(), func(tag, etag string) error {
		tags = append(tags, tag)
		etags[tag] = etag
		return nil
	}))
	if got := strings.Join(tags, " "); got != "1.0.0 2.0.0 2.0.1 2.0.2 damaged" {
		t.Errorf("the tags are %s", got)
	}
	v, err := r.ReadVersion(t.Context(), "1.0.0")
	ok(t, err)
	if v.Digest != m.Digest || v.Size != m.Size || v.PushedBy == "" || v.ETag == "" || v.ETag != etags["1.0.0"] {
		t.Errorf("1.0.0 is %+v", v)
	}
	_, err = r.ReadVersion(t.Context(), "3.0.0")
	want(t, err, repository.ErrManifestUnknown)
	_, err = r.ReadVersion(t.Context(), "damaged")
	want(t, err, repository.ErrTagDamaged)
	_, err = r.ReadVersion(t.Context(), "no tag")
	want(t, err, repository.ErrReferenceInvalid)

	content, got, err := r.ReadManifest(t.Context(), m.Digest, 1<<20)
	ok(t, err)
	if digest.FromBytes(content) != m.Digest || got.MediaType != m.MediaType {
		t.Errorf("the manifest is %s", content)
	}
	_, _, err = r.ReadManifest(t.Context(), m.Digest, m.Size-1)
	want(t, err, repository.ErrTooLarge)
	_, _, err = r.ReadManifest(t.Context(), digest.FromString("x"), 1<<20)
	want(t, err, repository.ErrManifestUnknown)

	text := strings.Repeat("x", 2000)
	d := digest.FromString(text)
	ok(t, r.PutBlob(t.Context(), d, strings.NewReader(text), -1))
	blob, err := r.ReadBlob(t.Context(), d, 2000)
	ok(t, err)
	if string(blob) != text {
		t.Errorf("the blob is %.100q", blob)
	}
	_, err = r.ReadBlob(t.Context(), d, 1999)
	want(t, err, repository.ErrTooLarge)
	_, err = r.ReadBlob(t.Context(), digest.FromString("y"), 2000)
	want(t, err, repository.ErrBlobUnknown)
	for key, change := range map[string]func() error{
		"blobs/sha256/" + d.Encoded():            func() error { _, err := r.ReadBlob(t.Context(), d, 2000); return err },
		"manifests/sha256/" + m.Digest.Encoded(): func() error { _, _, err := r.ReadManifest(t.Context(), m.Digest, 1<<20); return err },
	} {
		_, err := b.Put(t.Context(), "charts/web/"+key, strings.NewReader("damaged\n"), -1, bucket.Condition{})
		ok(t, err)
		want(t, change(), repository.ErrDamaged)
	}
}

// Manifests that are too large to be kept whole are read whole too.
func TestReadingALargeManifest(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{}), "web")
	content := []byte(`{"schemaVersion":2,"manifests":[],"annotations":{"a":"` + strings.Repeat("x", 200_000) + `"}}`)
	m, err := r.PutManifest(t.Context(), "1.0.0", "application/vnd.oci.image.index.v1+json", content, "ci")
	ok(t, err)
	got, _, err := r.ReadManifest(t.Context(), m.Digest, 1<<20)
	ok(t, err)
	if string(got) != string(content) {
		t.Errorf("%d bytes were read", len(got))
	}
}

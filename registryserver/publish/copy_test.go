package publish_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
)

// copying is a store in which web 1.0.0 is, with its digest, which takes manifests whose blobs are elsewhere.
func copying(t *testing.T) (from, to *repository.Repository, web publish.Result) {
	t.Helper()
	b, err := dir.New(t.TempDir())
	ok(t, err)
	s, err := repository.Open(t.Context(), b, "acme/charts", repository.Options{
		TagMutable: repository.ExemptTag, Sparse: func(repository.Manifest) bool { return true },
	})
	ok(t, err)
	from, err = s.Repository("web")
	ok(t, err)
	to, err = s.Repository("stable/web")
	ok(t, err)
	web, err = publish.New(s).Form(t.Context(), bytes.NewReader(form("file", string(charttest.New("web", "1.0.0", 0).Content))), boundary, publish.Request{May: anybody})
	ok(t, err)
	return from, to, web
}

func put(t *testing.T, r *repository.Repository, reference, mediaType, manifest string) {
	t.Helper()
	_, err := r.PutManifest(t.Context(), reference, mediaType, []byte(manifest), "x")
	ok(t, err)
}

// artifact stores a blob, and returns a manifest of it with more fields.
func artifact(t *testing.T, r *repository.Repository, content, fields string) string {
	t.Helper()
	ok(t, r.PutBlob(t.Context(), digest.FromString(content), strings.NewReader(content), -1))
	blob := charttest.Descriptor("text/plain", []byte(content))
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,%s"config":%s,"layers":[%s]}`, manifestType, fields, blob, blob)
}

// subject is the field that makes a manifest refer to a version.
func subject(t *testing.T, r *repository.Repository, of publish.Result) string {
	t.Helper()
	m, err := r.StatManifest(t.Context(), of.Tag)
	ok(t, err)
	return fmt.Sprintf(`"subject":{"mediaType":%q,"digest":%q,"size":%d},`, m.MediaType, m.Digest, m.Size)
}

// If this fails, a copy removes the signatures that were made at its target.
func TestCopyLeavesTheSignaturesOfItsTarget(t *testing.T) {
	from, to, web := copying(t)
	name := "sha256-" + web.Digest.Encoded()
	for _, kind := range []string{".sig", ".att"} {
		put(t, from, name+kind, manifestType, artifact(t, from, "by CI", ""))
	}
	own := artifact(t, to, "by the release", "")
	put(t, to, name+".sig", manifestType, own)
	for range 2 {
		_, err := publish.Copy(t.Context(), from, to, web.Tag, "x")
		ok(t, err)
		if m, err := to.StatManifest(t.Context(), name+".sig"); err != nil || m.Digest != digest.FromString(own) {
			t.Errorf("the signature at the target is now %s, %v", m.Digest, err)
		}
		if _, err := to.StatManifest(t.Context(), name+".att"); err != nil {
			t.Errorf("the attestation was not copied: %v", err)
		}
	}
}

func TestCopyTakesLargeManifests(t *testing.T) {
	from, to, web := copying(t)
	large := artifact(t, from, "signed", subject(t, from, web)+`"annotations":{"a":"`+strings.Repeat("x", 3<<20)+`"},`)
	put(t, from, digest.FromString(large).String(), manifestType, large)
	_, err := publish.Copy(t.Context(), from, to, web.Tag, "x")
	ok(t, err)
	if list, _, err := to.Referrers(t.Context(), web.Digest, "", ""); err != nil || len(list) != 1 {
		t.Errorf("what refers to the copy is %v, %v", list, err)
	}
}

// What cannot be copied whole is refused with the reason, before there is a version.
func TestCopyRefusesWhatItCannotCopy(t *testing.T) {
	for want, broken := range map[string]func(subject string) (mediaType, manifest string){
		"is an index of other manifests": func(subject string) (string, string) {
			return indexType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,%s"manifests":[%s]}`, indexType, subject, charttest.Descriptor(manifestType, []byte("other")))
		},
		"is not stored": func(subject string) (string, string) {
			blob := charttest.Descriptor("text/plain", []byte("never pushed"))
			return manifestType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,%s"config":%s,"layers":[]}`, manifestType, subject, blob)
		},
	} {
		from, to, web := copying(t)
		mediaType, manifest := broken(subject(t, from, web))
		put(t, from, digest.FromString(manifest).String(), mediaType, manifest)
		_, err := publish.Copy(t.Context(), from, to, web.Tag, "x")
		invalid := new(repository.InvalidManifestError)
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one that says %q", err, want)
		}
		if _, err := to.StatManifest(t.Context(), web.Tag); !errors.Is(err, repository.ErrManifestUnknown) {
			t.Errorf("the version is there: %v", err)
		}
	}
}

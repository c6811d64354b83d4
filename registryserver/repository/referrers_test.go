package repository_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

const signatureType = "application/vnd.example.signature"

// signature is a manifest without layers that refers to subject.
func signature(t *testing.T, subject digest.Digest, fields object) []byte {
	t.Helper()
	o := object{
		"schemaVersion": 2, "mediaType": imageType,
		"config":  describe("application/vnd.oci.empty.v1+json", "{}"),
		"layers":  []object{},
		"subject": object{"mediaType": imageType, "digest": subject, "size": 1},
	}
	for k, v := range fields {
		o[k] = v
	}
	return encode(t, o)
}

func putSignature(t *testing.T, r *repository.Repository, content []byte, tags ...string) repository.Manifest {
	t.Helper()
	if _, err := r.StatBlob(t.Context(), digest.FromString("{}")); err != nil {
		putBlob(t, r, "{}")
	}
	m, err := r.PutManifest(t.Context(), digest.FromBytes(content).String(), imageType, content, "ci", tags...)
	ok(t, err)
	return m
}

// referrers lists all, page by page.
func referrers(t *testing.T, r *repository.Repository, subject digest.Digest, artifactType string) []repository.Referrer {
	t.Helper()
	var all []repository.Referrer
	for last := ""; ; {
		page, next, err := r.Referrers(t.Context(), subject, artifactType, last)
		ok(t, err)
		all = append(all, page...)
		if last = next; last == "" {
			return all
		}
	}
}

func wantReferrers(t *testing.T, r *repository.Repository, subject digest.Digest, want ...repository.Manifest) {
	t.Helper()
	var got, wanted []digest.Digest
	for _, f := range referrers(t, r, subject, "") {
		got = append(got, f.Digest)
	}
	for _, m := range want {
		wanted = append(wanted, m.Digest)
	}
	slices.Sort(wanted)
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Fatalf("referrers of %s (-want +got):\n%s", subject, diff)
	}
}

func TestReferrersDescribeManifests(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{}), "a")
	for _, subject := range []digest.Digest{digest.FromString("unknown"), digest.SHA512.FromString("unknown")} {
		wantReferrers(t, r, subject)
		own := signature(t, subject, object{"artifactType": signatureType, "annotations": object{"note": "a<b>&\u2028"}})
		fromConfig := signature(t, subject, nil)
		index := encode(t, object{"schemaVersion": 2, "manifests": []object{}, "subject": describe(imageType, "x"), "annotations": nil})
		index = []byte(strings.Replace(string(index), digest.FromString("x").String(), subject.String(), 1))
		a, b := putSignature(t, r, own), putSignature(t, r, fromConfig)
		if a.Subject != subject {
			t.Fatalf("the subject is %s", a.Subject)
		}
		c, err := r.PutManifest(t.Context(), digest.FromBytes(index).String(), indexType, index, "ci")
		ok(t, err)
		got := map[digest.Digest]repository.Referrer{}
		for _, f := range referrers(t, r, subject, "") {
			got[f.Digest] = f
		}
		if diff := cmp.Diff(map[digest.Digest]repository.Referrer{
			a.Digest: {MediaType: imageType, Digest: a.Digest, Size: int64(len(own)), ArtifactType: signatureType, Annotations: []byte("{\"note\":\"a\\u003cb\\u003e\\u0026\\u2028\"}")},
			b.Digest: {MediaType: imageType, Digest: b.Digest, Size: int64(len(fromConfig)), ArtifactType: "application/vnd.oci.empty.v1+json"},
			c.Digest: {MediaType: indexType, Digest: c.Digest, Size: int64(len(index))},
		}, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
		if f := referrers(t, r, subject, signatureType); len(f) != 1 || f[0].Digest != a.Digest {
			t.Fatalf("of one artifact type: %+v", f)
		}
		if f := referrers(t, r, subject, "application/other"); f != nil {
			t.Fatalf("of another artifact type: %+v", f)
		}
	}
	_, _, err := r.Referrers(t.Context(), "md5:x", "", "")
	want(t, err, repository.ErrDigestUnsupported)
}

func TestReferrersOfOtherRepositoriesAreTheirs(t *testing.T) {
	s := openStore(t, newBucket(t), repository.Options{})
	subject := digest.FromString("subject")
	m := putSignature(t, openRepository(t, s, "a"), signature(t, subject, nil))
	wantReferrers(t, openRepository(t, s, "a"), subject, m)
	wantReferrers(t, openRepository(t, s, "b"), subject)
}

func TestDeletedReferrersAreNotListed(t *testing.T) {
	b := newBucket(t)
	r, other := openRepository(t, openStore(t, b, repository.Options{}), "a"), openRepository(t, openStore(t, b, repository.Options{}), "a")
	subject := digest.FromString("subject")
	first, second := signature(t, subject, nil), signature(t, subject, object{"artifactType": signatureType})
	m, kept := putSignature(t, r, first, "signed"), putSignature(t, r, second)
	ok(t, r.DeleteManifest(t.Context(), "signed"))
	wantReferrers(t, other, subject, m, kept)
	ok(t, r.DeleteManifest(t.Context(), m.Digest.String()))
	wantReferrers(t, other, subject, kept)
	for _, k := range keys(t, b) {
		if strings.Contains(k, "/referrers/") && strings.Contains(k, m.Digest.Encoded()) {
			t.Fatalf("%s is left", k)
		}
	}
	putSignature(t, r, first)
	wantReferrers(t, other, subject, m, kept)
}

func TestReferrerIsMendedByAnotherPush(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	subject := digest.FromString("subject")
	content := signature(t, subject, nil)
	m := putSignature(t, r, content)
	key := "charts/a/referrers/sha256-" + subject.Encoded() + "/sha256-" + m.Digest.Encoded()
	for _, damage := range []string{"", "{}", `{"digest":"` + subject.String() + `"}`} {
		putObject(t, b, key, damage)
		_, _, err := r.Referrers(t.Context(), subject, "", "")
		want(t, err, bucket.ErrUnavailable)
		putSignature(t, r, content)
		wantReferrers(t, r, subject, m)
	}
	ok(t, b.Delete(t.Context(), key, bucket.Condition{}))
	wantReferrers(t, r, subject)
	putSignature(t, r, content)
	wantReferrers(t, r, subject, m)
	// Left alone by a process that was killed.
	ok(t, b.Delete(t.Context(), "charts/a/manifests/sha256/"+m.Digest.Encoded(), bucket.Condition{}))
	wantReferrers(t, r, subject)
}

func TestReferrersComeInPages(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{}), "a")
	many, large := digest.FromString("many"), digest.FromString("large")
	var all []repository.Manifest
	for i := range 101 {
		all = append(all, putSignature(t, r, signature(t, many, object{"annotations": object{"n": fmt.Sprint(i)}})))
	}
	page, next, err := r.Referrers(t.Context(), many, "application/other", "")
	ok(t, err)
	if len(page) != 0 || next == "" {
		t.Fatalf("a filtered page with others behind it: %d, %q", len(page), next)
	}
	wantReferrers(t, r, many, all...)

	all = nil
	for i := range 3 {
		all = append(all, putSignature(t, r, signature(t, large, object{"annotations": object{"n": strings.Repeat(fmt.Sprint(i), 700_000)}})))
	}
	page, _, err = r.Referrers(t.Context(), large, "", "")
	ok(t, err)
	if len(page) != 1 {
		t.Fatalf("a page of large referrers has %d", len(page))
	}
	wantReferrers(t, r, large, all...)
}

func TestInvalidReferrers(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{}), "a")
	for name, fields := range map[string]object{
		"annotations of numbers":        {"annotations": object{"a": 1}},
		"annotations in a list":         {"annotations": []string{"a"}},
		"artifact type of another kind": {"artifactType": 1},
	} {
		content := signature(t, digest.FromString("subject"), fields)
		putBlob(t, r, "{}")
		if _, err := r.PutManifest(t.Context(), "x", imageType, content, "ci"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestReferrersInTheMiddleOfOthers(t *testing.T) {
	subject := digest.FromString("subject")
	content := signature(t, subject, nil)
	d := digest.FromBytes(content)
	manifestKey := "charts/a/manifests/sha256/" + d.Encoded()
	referrerKey := "charts/a/referrers/sha256-" + subject.Encoded() + "/sha256-" + d.Encoded()

	t.Run("push in a delete", func(t *testing.T) {
		b := newBucket(t)
		other := openRepository(t, openStore(t, b, repository.Options{}), "a")
		putSignature(t, other, content)
		h := &hooked{Bucket: b, deleteKey: manifestKey, hook: func() { putSignature(t, other, content) }}
		ok(t, openRepository(t, openStore(t, h, repository.Options{}), "a").DeleteManifest(t.Context(), d.String()))
		wantReferrers(t, other, subject)
		if left := strings.Join(keys(t, b), " "); strings.Contains(left, "referrers") {
			t.Fatalf("left: %s", left)
		}
	})
	t.Run("delete before the entry of a push", func(t *testing.T) {
		b := newBucket(t)
		other := openRepository(t, openStore(t, b, repository.Options{}), "a")
		h := &hooked{Bucket: b, putKey: referrerKey, hook: func() { ok(t, other.DeleteManifest(t.Context(), d.String())) }}
		m := putSignature(t, openRepository(t, openStore(t, h, repository.Options{}), "a"), content)
		wantReferrers(t, other, subject, m)
	})
	t.Run("delete behind the entry of a push", func(t *testing.T) {
		b := newBucket(t)
		other := openRepository(t, openStore(t, b, repository.Options{}), "a")
		h := &hooked{Bucket: b, putKey: "charts/a/tags/x", hook: func() { ok(t, other.DeleteManifest(t.Context(), d.String())) }}
		m := putSignature(t, openRepository(t, openStore(t, h, repository.Options{}), "a"), content, "x")
		wantReferrers(t, other, subject, m)
		if found, err := other.StatManifest(t.Context(), "x"); err != nil || found.Digest != d {
			t.Fatalf("%+v, %v", found, err)
		}
	})
}

// counted counts the calls of a bucket by what they are about.
type counted struct {
	bucket.Bucket
	calls map[string]int
}

func (c *counted) count(call, key string) {
	if elements := strings.Split(key, "/"); len(elements) > 2 {
		c.calls[call+" "+elements[2]]++
	}
}

func (c *counted) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	c.count("get", key)
	return c.Bucket.Get(ctx, key, r)
}

func (c *counted) Head(ctx context.Context, key string) (bucket.Info, error) {
	c.count("head", key)
	return c.Bucket.Head(ctx, key)
}

func (c *counted) Put(ctx context.Context, key string, body io.Reader, size int64, condition bucket.Condition) (bucket.Info, error) {
	c.count("put", key)
	return c.Bucket.Put(ctx, key, body, size, condition)
}

func (c *counted) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	c.count("list", o.Prefix)
	return c.Bucket.List(ctx, o)
}

// What only few charts have must not cost the others anything.
func TestPushWithoutSubjectAsksForNoReferrers(t *testing.T) {
	c := &counted{Bucket: newBucket(t), calls: map[string]int{}}
	mustPutChart(t, openRepository(t, openStore(t, c, repository.Options{}), "a"), "1.0.0", "layer")
	for call := range c.calls {
		if strings.Contains(call, "referrers") || strings.HasPrefix(call, "list") {
			t.Errorf("a first push does: %v", c.calls)
		}
	}
	if c.calls["put blobs"] != 2 || c.calls["put manifests"] != 1 || c.calls["put tags"] != 1 {
		t.Errorf("a first push writes %v", c.calls)
	}
}

package repository_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

func putBlob(t *testing.T, r *repository.Repository, content string) digest.Digest {
	t.Helper()
	d := digest.FromString(content)
	ok(t, r.PutBlob(t.Context(), d, strings.NewReader(content), int64(len(content))))
	return d
}

func blob(t *testing.T, r *repository.Repository, d digest.Digest, rng *bucket.Range) string {
	t.Helper()
	body, b, err := r.OpenBlob(t.Context(), d, rng)
	ok(t, err)
	defer body.Close()
	content, err := io.ReadAll(body)
	ok(t, err)
	if b.Digest != d {
		t.Fatalf("asked for %s, got %s", d, b.Digest)
	}
	return string(content)
}

func TestBlobs(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "team/nginx")
	for _, content := range []string{"", "content", strings.Repeat("large", 100_000)} {
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			for _, size := range []int64{-1, int64(len(content))} {
				d := algorithm.FromString(content)
				ok(t, r.PutBlob(t.Context(), d, strings.NewReader(content), size))
				if got := blob(t, r, d, nil); got != content {
					t.Fatalf("%s has %.20q", d, got)
				}
				stat, err := r.StatBlob(t.Context(), d)
				if err != nil || stat.Size != int64(len(content)) || stat.Digest != d {
					t.Fatalf("%+v, %v", stat, err)
				}
			}
		}
	}
	d := digest.FromString("content")
	if got := blob(t, r, d, &bucket.Range{Offset: 3, Length: 2}); got != "te" {
		t.Fatalf("the range is %q", got)
	}
	_, _, err := r.OpenBlob(t.Context(), d, &bucket.Range{Offset: 7, Length: 1})
	want(t, err, bucket.ErrRange)
	if !slices.Contains(keys(t, b), "charts/team+nginx/blobs/sha256/"+d.Encoded()) {
		t.Errorf("the keys are %v", keys(t, b))
	}
}

func TestBlobsOfOneRepositoryAreUnknownToOthers(t *testing.T) {
	s := openStore(t, newBucket(t), repository.Options{})
	d := putBlob(t, openRepository(t, s, "a"), "content")
	for _, name := range []string{"b", "a/a", "aa"} {
		_, err := openRepository(t, s, name).StatBlob(t.Context(), d)
		want(t, err, repository.ErrBlobUnknown)
		_, _, err = openRepository(t, s, name).OpenBlob(t.Context(), d, nil)
		want(t, err, repository.ErrBlobUnknown)
		want(t, openRepository(t, s, name).DeleteBlob(t.Context(), d), repository.ErrBlobUnknown)
	}
}

func TestRefusedBlobsLeaveNothing(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{MaxBlobBytes: 100}), "a")
	broken := errors.New("the connection broke")
	other := digest.FromString("other")
	long := strings.Repeat("x", 101)
	for name, c := range map[string]struct {
		d    digest.Digest
		body io.Reader
		size int64
		want error
	}{
		"mismatch":               {other, strings.NewReader("content"), 7, repository.ErrDigestMismatch},
		"mismatch, size unknown": {other, strings.NewReader("content"), -1, repository.ErrDigestMismatch},
		"mismatch of sha512":     {digest.SHA512.FromString("other"), strings.NewReader("content"), 7, repository.ErrDigestMismatch},
		"empty":                  {other, strings.NewReader(""), 0, repository.ErrDigestMismatch},
		"breaks off":             {other, io.MultiReader(strings.NewReader("oth"), failing{broken}), 5, broken},
		"too large":              {digest.FromString(long), strings.NewReader(long), 101, repository.ErrTooLarge},
		"too large, unannounced": {digest.FromString(long), strings.NewReader(long), -1, repository.ErrTooLarge},
		"md5":                    {"md5:d41d8cd98f00b204e9800998ecf8427e", strings.NewReader(""), 0, repository.ErrDigestUnsupported},
		"sha384":                 {digest.SHA384.FromString(""), strings.NewReader(""), 0, repository.ErrDigestUnsupported},
		"short digest":           {"sha256:abc", strings.NewReader(""), 0, repository.ErrDigestUnsupported},
		"upper case":             {digest.Digest("sha256:" + strings.ToUpper(other.Encoded())), strings.NewReader("other"), 5, repository.ErrDigestUnsupported},
		"no digest":              {"", strings.NewReader(""), 0, repository.ErrDigestUnsupported},
		"path":                   {"sha256:../../x", strings.NewReader(""), 0, repository.ErrDigestUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			want(t, r.PutBlob(t.Context(), c.d, c.body, c.size), c.want)
			if left := keys(t, b); left != nil {
				t.Fatalf("it left %v", left)
			}
		})
	}
	limit := strings.Repeat("x", 100)
	ok(t, r.PutBlob(t.Context(), digest.FromString(limit), strings.NewReader(limit), -1))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestBlobThatIsThereAlready(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	d := putBlob(t, r, "content")
	putBlob(t, r, "content")
	want(t, r.PutBlob(t.Context(), d, strings.NewReader("false"), -1), repository.ErrDigestMismatch)
	if got := blob(t, r, d, nil); got != "content" {
		t.Fatalf("the blob is now %q", got)
	}
	putObject(t, b, "charts/a/blobs/sha256/"+d.Encoded(), "damaged")
	putBlob(t, r, "content")
	if got := blob(t, r, d, nil); got != "content" {
		t.Fatalf("the damaged blob was not mended: %q", got)
	}
}

func TestDeleteBlob(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	d := putBlob(t, r, "content")
	ok(t, r.DeleteBlob(t.Context(), d))
	_, err := r.StatBlob(t.Context(), d)
	want(t, err, repository.ErrBlobUnknown)
	want(t, r.DeleteBlob(t.Context(), d), repository.ErrBlobUnknown)
	want(t, r.DeleteBlob(t.Context(), "sha256:x"), repository.ErrDigestUnsupported)
	if left := keys(t, b); left != nil {
		t.Fatalf("it left %v", left)
	}
}

package repository_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// verify runs Verify and returns its findings that are not harmless, as "key: problem".
func verify(t *testing.T, s *repository.Store, o repository.VerifyOptions) (problems []string, summary repository.Summary) {
	t.Helper()
	summary, err := s.Verify(t.Context(), o, func(f repository.Finding) {
		if f.Advice == "" {
			t.Errorf("no advice for %+v", f)
		}
		if !f.Harmless {
			problems = append(problems, f.Key+": "+f.Problem)
		}
	})
	ok(t, err)
	return problems, summary
}

func blobKey(name string, d digest.Digest) string {
	return "charts/" + name + "/blobs/sha256/" + d.Encoded()
}

func manifestKey(name string, d digest.Digest) string {
	return "charts/" + name + "/manifests/sha256/" + d.Encoded()
}

func TestVerifyOfGoodContent(t *testing.T) {
	t.Parallel()
	s := openStore(t, newBucket(t), repository.Options{})
	mustPutChart(t, openRepository(t, s, "nginx"), "1.0.0", "layer")
	mustPutChart(t, openRepository(t, s, "team/redis"), "1.0.0", "other layer")
	var last repository.Progress
	problems, summary := verify(t, s, repository.VerifyOptions{Progress: func(p repository.Progress) { last = p }})
	if problems != nil || summary.Repositories != 2 || summary.Objects != 9 {
		t.Errorf("%v %+v", problems, summary)
	}
	if last.Objects != summary.Objects || last.TotalObjects != summary.Objects || last.Bytes != last.TotalBytes {
		t.Errorf("progress ended with %+v of %+v", last, summary)
	}
	_, summary = verify(t, s, repository.VerifyOptions{Repositories: []string{"nginx"}})
	if summary.Repositories != 1 || summary.Objects != 4 {
		t.Errorf("one repository: %+v", summary)
	}
	_, err := s.Verify(t.Context(), repository.VerifyOptions{Repositories: []string{"nginy"}}, nil)
	want(t, err, repository.ErrRepositoryUnknown)
}

// What other parts of the program keep in the bucket is not foreign.
func TestVerifyKnowsWhatIsBesideTheCharts(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s := openStore(t, b, repository.Options{})
	for _, key := range []string{"probe", "usage/base.json", "usage/replicas/a.json", "check/race-1", "leases/sweep.json", "pulls/web/a.json", "downloads/folded", "downloads/parts/a-1", "inventory/cache", "inventory/changes/a.json"} {
		putObject(t, b, key, "{}")
	}
	if problems, summary := verify(t, s, repository.VerifyOptions{}); problems != nil || summary.Objects != 11 {
		t.Errorf("%q %+v", problems, summary)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	layer := digest.FromString("layer")
	for name, c := range map[string]struct {
		key     func(m repository.Manifest) string
		content string
		// want is a part of each problem, in order.
		want []string
	}{
		"empty blob":     {func(repository.Manifest) string { return blobKey("a", layer) }, "", []string{"it is empty", "it names " + layer.String() + ", which is damaged"}},
		"torn blob":      {func(repository.Manifest) string { return blobKey("a", layer) }, "lay", []string{"its 3 bytes", "which is damaged"}},
		"empty manifest": {func(m repository.Manifest) string { return manifestKey("a", m.Digest) }, "", []string{"it is empty", "which is damaged"}},
		"torn manifest": {
			func(m repository.Manifest) string { return manifestKey("a", m.Digest) },
			`{"mediaType":"application/vnd.oci.image.manifest.v1+json"}` + "\n{", []string{"its 1 bytes", "which is damaged"},
		},
		"no envelope":     {func(m repository.Manifest) string { return manifestKey("a", m.Digest) }, "{}", []string{"first line", "which is damaged"}},
		"empty tag":       {func(repository.Manifest) string { return "charts/a/tags/1.0.0" }, "", []string{"what it stands for cannot be read"}},
		"torn tag":        {func(repository.Manifest) string { return "charts/a/tags/1.0.0" }, `{"digest":"sha2`, []string{"what it stands for cannot be read"}},
		"foreign object":  {func(repository.Manifest) string { return "charts/a/notes.txt" }, "x", []string{"writes no such object"}},
		"foreign digest":  {func(repository.Manifest) string { return "charts/a/blobs/sha256/abc" }, "x", []string{"writes no such object"}},
		"foreign name":    {func(repository.Manifest) string { return "charts/UPPER/blobs/sha256/" + layer.Encoded() }, "layer", []string{"writes no such object"}},
		"foreign at root": {func(repository.Manifest) string { return "README.md" }, "x", []string{"writes no such object"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBucket(t)
			s := openStore(t, b, repository.Options{})
			a := openRepository(t, s, "a")
			m := mustPutChart(t, a, "1.0.0", "layer")
			key := c.key(m)
			putObject(t, b, key, c.content)
			matches := func(problems []string) bool {
				return slices.EqualFunc(problems, c.want, strings.Contains)
			}
			if problems, summary := verify(t, s, repository.VerifyOptions{}); !matches(problems) || summary.Problems != len(c.want) || summary.Repaired != 0 {
				t.Fatalf("%q %+v", problems, summary)
			}
			if _, content := readObject(t, b, key); content != c.content {
				t.Error("verify without repair has changed the object")
			}
			if strings.Contains(name, "foreign") {
				return
			}
			verify(t, s, repository.VerifyOptions{Repair: true})
			if !kept(t, b, key, c.content) {
				t.Error("the damaged bytes are lost")
			}
			mustPutChart(t, a, "1.0.0", "layer")
			if problems, _ := verify(t, s, repository.VerifyOptions{}); problems != nil {
				t.Errorf("after the repair and another push: %q", problems)
			}
			wantManifest(t, a, "1.0.0", chart(t, "layer"))
		})
	}
}

// kept is true when a repair has moved the object aside.
func kept(t *testing.T, b bucket.Bucket, key, content string) bool {
	t.Helper()
	p, err := b.List(t.Context(), bucket.ListOptions{Prefix: "quarantine/"})
	ok(t, err)
	for _, i := range p.Objects {
		if _, got := readObject(t, b, i.Key); strings.HasSuffix(i.Key, key) && got == content {
			return true
		}
	}
	return false
}

func TestVerifyFindsWhatIsMissing(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s := openStore(t, b, repository.Options{})
	nginx, redis := openRepository(t, s, "nginx"), openRepository(t, s, "redis")
	m := mustPutChart(t, nginx, "1.0.0", "layer")
	n := mustPutChart(t, redis, "2.0.0", "layer")
	layer := digest.FromString("layer")
	ok(t, b.Delete(t.Context(), blobKey("nginx", layer), bucket.Condition{}))
	ok(t, b.Delete(t.Context(), manifestKey("redis", n.Digest), bucket.Condition{}))
	for _, repair := range []bool{false, true} {
		problems, _ := verify(t, s, repository.VerifyOptions{Repair: repair})
		diff := cmp.Diff([]string{
			manifestKey("nginx", m.Digest) + ": it names " + layer.String() + ", which is missing",
			"charts/redis/tags/2.0.0: it stands for the manifest " + n.Digest.String() + ", which is missing",
		}, problems)
		if diff != "" {
			t.Errorf("repair %t: %s", repair, diff)
		}
	}
}

// racing replaces objects once, right after their content was read.
type racing struct {
	bucket.Bucket
	replace map[string]string
}

func (b *racing) Head(ctx context.Context, key string) (bucket.Info, error) {
	if content, found := b.replace[key]; found {
		delete(b.replace, key)
		if content == "" {
			_ = b.Delete(ctx, key, bucket.Condition{})
		} else if _, err := b.Put(ctx, key, bytes.NewReader([]byte(content)), int64(len(content)), bucket.Condition{}); err != nil {
			return bucket.Info{}, err
		}
	}
	return b.Bucket.Head(ctx, key)
}

func TestVerifyDoesNotReportWhatIsMendedMeanwhile(t *testing.T) {
	t.Parallel()
	layer := digest.FromString("layer")
	b := &racing{Bucket: newBucket(t)}
	s := openStore(t, b, repository.Options{})
	mustPutChart(t, openRepository(t, s, "nginx"), "1.0.0", "layer")
	putObject(t, b, blobKey("nginx", layer), "")
	b.replace = map[string]string{blobKey("nginx", layer): "layer"}
	if problems, _ := verify(t, s, repository.VerifyOptions{Repair: true}); problems != nil || len(b.replace) != 0 {
		t.Errorf("mended meanwhile: %q, %v", problems, b.replace)
	}
	putObject(t, b, "charts/nginx/tags/2.0.0", "torn")
	b.replace = map[string]string{"charts/nginx/tags/2.0.0": ""}
	if problems, _ := verify(t, s, repository.VerifyOptions{Repair: true}); problems != nil || len(b.replace) != 0 {
		t.Errorf("deleted meanwhile: %q, %v", problems, b.replace)
	}
}

func TestOpenOfAnyRegistry(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	_, err := repository.Open(t.Context(), b, "", repository.Options{})
	want(t, err, repository.ErrNoRegistry)
	if p, err := b.List(t.Context(), bucket.ListOptions{}); err != nil || len(p.Objects) != 0 {
		t.Errorf("it has written %v, %v", p.Objects, err)
	}
	openStore(t, b, repository.Options{})
	_, err = repository.Open(t.Context(), b, "", repository.Options{})
	ok(t, err)
}

package transfer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/transfer"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.cncf.helm.config.v1+json"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newStore is an empty store and its bucket.
func newStore(t *testing.T) (*repository.Store, bucket.Bucket) {
	t.Helper()
	b, err := dir.New(t.TempDir())
	ok(t, err)
	s, err := repository.Open(t.Context(), b, "acme/charts", repository.Options{})
	ok(t, err)
	return s, b
}

type object = map[string]any

// put pushes a manifest of one layer and returns it. subject may be nil.
func put(t *testing.T, s *repository.Store, chart, reference, layer string, subject *repository.Manifest) repository.Manifest {
	t.Helper()
	r, err := s.Repository(chart)
	ok(t, err)
	describe := func(mediaType, content string) object {
		ok(t, r.PutBlob(t.Context(), digest.FromString(content), strings.NewReader(content), -1))
		return object{"mediaType": mediaType, "digest": digest.FromString(content), "size": len(content)}
	}
	m := object{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": describe(configType, `{"name":"`+chart+`"}`),
		"layers": []object{describe("application/vnd.cncf.helm.chart.content.v1.tar+gzip", layer)},
	}
	if subject != nil {
		m["subject"] = object{"mediaType": subject.MediaType, "digest": subject.Digest, "size": subject.Size}
	}
	content, err := json.Marshal(m)
	ok(t, err)
	if reference == "" {
		reference = digest.FromBytes(content).String()
	}
	pushed, err := r.PutManifest(t.Context(), reference, manifestType, content, "test")
	ok(t, err)
	return pushed
}

// filled is a store with charts, a referrer and a signature.
func filled(t *testing.T) *repository.Store {
	t.Helper()
	s, _ := newStore(t)
	m := put(t, s, "nginx", "1.0.0", "layer", nil)
	put(t, s, "nginx", "1.1.0", "another layer", nil)
	put(t, s, "nginx", "", "what refers to it", &m)
	put(t, s, "nginx", "sha256-"+m.Digest.Encoded()+".sig", "signature", nil)
	put(t, s, "team/redis", "2.0.0_build.1", strings.Repeat("large ", 1<<20), nil)
	return s
}

func export(t *testing.T, s *repository.Store, selected ...transfer.Selection) (archive []byte, results []transfer.Result) {
	t.Helper()
	var b bytes.Buffer
	ok(t, transfer.Export(t.Context(), s, &b, selected, func(r transfer.Result) { results = append(results, r) }))
	return b.Bytes(), results
}

// layout writes an archive into a file and opens it.
func layout(t *testing.T, archive []byte, as string) (*transfer.Layout, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "layout.tar")
	ok(t, os.WriteFile(name, archive, 0o600))
	l, err := transfer.OpenLayout(t.Context(), name, as)
	if err == nil {
		t.Cleanup(func() { _ = l.Close() })
	}
	return l, err
}

// outcomes of an import, sorted, as "outcome chart version".
func outcomes(t *testing.T, from transfer.Source, to transfer.Target, o transfer.Options) []string {
	t.Helper()
	o.Parallel = 4
	var all []string
	ok(t, transfer.Import(t.Context(), from, to, o, func(r transfer.Result) {
		if r.Reason != "" {
			t.Log(r.Chart, r.Version, r.Reason)
		}
		all = append(all, fmt.Sprintf("%s %s %.20s", r.Outcome, r.Chart, r.Version))
	}))
	slices.Sort(all)
	return all
}

func importInto(t *testing.T, archive []byte, s *repository.Store) []string {
	t.Helper()
	l, err := layout(t, archive, "")
	ok(t, err)
	return outcomes(t, l, transfer.Store{Store: s}, transfer.Options{})
}

func TestExportAndImport(t *testing.T) {
	t.Parallel()
	from := filled(t)
	archive, _ := export(t, from)
	to, _ := newStore(t)
	l, err := layout(t, archive, "")
	ok(t, err)
	dry := outcomes(t, l, transfer.Store{Store: to}, transfer.Options{DryRun: true})
	if names, _, err := to.Repositories(t.Context(), 0, ""); err != nil || len(names) != 0 || len(dry) != 5 {
		t.Errorf("a dry run has stored %v, %v and said %q", names, err, dry)
	}
	importInto(t, archive, to)
	again, _ := export(t, to)
	if !bytes.Equal(again, archive) {
		t.Error("the export of what was imported is another archive")
	}
	for _, line := range importInto(t, archive, to) {
		if !strings.HasPrefix(line, "present ") {
			t.Errorf("second import: %s", line)
		}
	}
	summary, err := to.Verify(t.Context(), repository.VerifyOptions{}, func(f repository.Finding) { t.Errorf("%+v", f) })
	if err != nil || summary.Repositories != 2 {
		t.Errorf("%+v, %v", summary, err)
	}
}

// names are those of the entries of an archive's index, with their digests.
func names(t *testing.T, archive []byte) []string {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		ok(t, err)
		if h.Name != "index.json" {
			continue
		}
		var index struct {
			Manifests []struct {
				Digest      string
				Annotations map[string]string
			}
		}
		ok(t, json.NewDecoder(r).Decode(&index))
		var all []string
		for _, m := range index.Manifests {
			all = append(all, m.Annotations["org.opencontainers.image.ref.name"]+" "+m.Digest)
		}
		return all
	}
}

// Every tar reader must find what the specification says.
func TestExportIsALayout(t *testing.T) {
	t.Parallel()
	archive, _ := export(t, filled(t), transfer.Selection{Chart: "nginx", Version: "1.0.0"})
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		ok(t, err)
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		if algorithm, found := strings.CutPrefix(h.Name, "blobs/"); found {
			d := digest.Digest(strings.Replace(algorithm, "/", ":", 1))
			if got := digest.FromBytes(files[h.Name]); got != d {
				t.Errorf("%s has %s", h.Name, got)
			}
		}
	}
	if got := string(files["oci-layout"]); got != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout: %s", got)
	}
	var index struct {
		Manifests []struct{ Annotations map[string]string }
	}
	ok(t, json.Unmarshal(files["index.json"], &index))
	var names []string
	for _, m := range index.Manifests {
		name, _, _ := strings.Cut(m.Annotations["org.opencontainers.image.ref.name"], "sha256")
		names = append(names, name)
	}
	if diff := cmp.Diff([]string{"nginx:1.0.0", "nginx@", "nginx:"}, names); diff != "" {
		t.Errorf("version, referrer and signature: %s", diff)
	}
	if _, found := files["blobs/sha256/"+digest.FromString("another layer").Encoded()]; found {
		t.Error("it has another version's layer")
	}
}

func TestExportOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s := filled(t)
	for _, selected := range []transfer.Selection{{Chart: "nginy"}, {Chart: "nginx", Version: "9.9.9"}, {Chart: "UPPER"}} {
		if err := transfer.Export(t.Context(), s, io.Discard, []transfer.Selection{selected}, func(transfer.Result) {}); err == nil {
			t.Errorf("%+v: no error", selected)
		}
	}
}

// A push that was given up after its first blob must not cost the others their backup.
func TestExportOfAllKnowsNoUnfinishedPush(t *testing.T) {
	t.Parallel()
	s := filled(t)
	want, _ := export(t, s)
	r, err := s.Repository("unfinished")
	ok(t, err)
	ok(t, r.PutBlob(t.Context(), digest.FromString("x"), strings.NewReader("x"), -1))
	if got, _ := export(t, s); !bytes.Equal(got, want) {
		t.Error("the archive is another one")
	}
}

func TestExportLeavesOutWhatIsDamaged(t *testing.T) {
	t.Parallel()
	s, b := newStore(t)
	put(t, s, "nginx", "1.0.0", strings.Repeat("large ", 1<<20), nil)
	put(t, s, "nginx", "1.1.0", "layer", nil)
	large := digest.FromString(strings.Repeat("large ", 1<<20))
	torn := strings.Repeat("large ", 900_000)
	_, err := b.Put(t.Context(), "charts/nginx/blobs/sha256/"+large.Encoded(), strings.NewReader(torn), -1, bucket.Condition{})
	ok(t, err)
	archive, results := export(t, s)
	if results[0].Outcome != transfer.Failed || !strings.Contains(results[0].Reason, "damaged") || results[1].Outcome != transfer.Imported {
		t.Errorf("%+v", results)
	}
	to, _ := newStore(t)
	if diff := cmp.Diff([]string{"imported nginx 1.1.0"}, importInto(t, archive, to)); diff != "" {
		t.Error(diff)
	}
}

func TestImportOfAConflict(t *testing.T) {
	t.Parallel()
	archive, _ := export(t, filled(t))
	to, b := newStore(t)
	stands := put(t, to, "nginx", "1.0.0", "other content", nil)
	got := importInto(t, archive, to)
	if !slices.Contains(got, "conflict nginx 1.0.0") || !slices.Contains(got, "imported nginx 1.1.0") {
		t.Errorf("%q", got)
	}
	r, err := to.Repository("nginx")
	ok(t, err)
	if m, err := r.StatManifest(t.Context(), "1.0.0"); err != nil || m.Digest != stands.Digest {
		t.Errorf("the version is now %+v, %v", m, err)
	}
	if _, err := b.Head(t.Context(), "charts/nginx/blobs/sha256/"+digest.FromString("layer").Encoded()); err == nil {
		t.Error("the blob of the version in conflict was brought")
	}
}

func TestImportOfSome(t *testing.T) {
	t.Parallel()
	archive, _ := export(t, filled(t))
	l, err := layout(t, archive, "")
	ok(t, err)
	to, _ := newStore(t)
	got := outcomes(t, l, transfer.Store{Store: to}, transfer.Options{Wanted: func(chart, tag string) bool { return chart == "nginx" && tag == "1.0.0" }})
	if diff := cmp.Diff([]string{"imported nginx 1.0.0"}, got); diff != "" {
		t.Error(diff)
	}
	some, _ := export(t, to)
	want, _ := export(t, filled(t), transfer.Selection{Chart: "nginx", Version: "1.0.0"})
	if !bytes.Equal(some, want) {
		t.Error("the version did not bring its signature and its referrer")
	}
}

type file struct {
	name, content string
	kind          byte
}

func pack(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if f.kind == 0 {
			f.kind = tar.TypeReg
		}
		h := &tar.Header{Typeflag: f.kind, Name: f.name, Mode: 0o600}
		if f.kind == tar.TypeReg {
			h.Size = int64(len(f.content))
		} else {
			h.Linkname = f.content
		}
		ok(t, w.WriteHeader(h))
		if f.kind == tar.TypeReg {
			_, err := io.WriteString(w, f.content)
			ok(t, err)
		}
	}
	ok(t, w.Close())
	return b.Bytes()
}

func TestEvilLayouts(t *testing.T) {
	t.Parallel()
	good := []file{{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}, {name: "index.json", content: `{"schemaVersion":2,"manifests":[]}`}}
	with := func(more ...file) []byte { return pack(t, append(slices.Clone(good), more...)...) }
	blob := "blobs/sha256/" + digest.FromString("x").Encoded()
	tag := func(name, d string) string {
		return fmt.Sprintf(`{"manifests":[{"mediaType":%q,"digest":%q,"size":1,"annotations":{"org.opencontainers.image.ref.name":%q}}]}`, manifestType, d, name)
	}
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"nothing":             {nil, "no oci-layout"},
		"text":                {[]byte(strings.Repeat("not a tar archive\n", 100)), "not a tar archive"},
		"compressed":          {[]byte("\x1f\x8b\x08\x00"), "gunzip"},
		"cut off":             {with(file{name: blob, content: strings.Repeat("x", 5000)})[:4000], "cut off"},
		"not a layout":        {pack(t, file{name: "Chart.yaml", content: "x"}), "not an OCI image layout"},
		"unknown version":     {pack(t, file{name: "oci-layout", content: `{"imageLayoutVersion":"9"}`}, good[1]), "version"},
		"path upwards":        {with(file{name: "../x", content: "x"}), "leads out"},
		"path inside upwards": {with(file{name: "blobs/../../x", content: "x"}), "leads out"},
		"absolute path":       {with(file{name: "/etc/passwd", content: "x"}), "leads out"},
		"backslash":           {with(file{name: `blobs\x`, content: "x"}), "leads out"},
		"link":                {with(file{name: blob, content: "/etc/passwd", kind: tar.TypeSymlink}), "link"},
		"hard link":           {with(file{name: blob, content: "index.json", kind: tar.TypeLink}), "link"},
		"device":              {with(file{name: blob, kind: tar.TypeChar}), "device"},
		"blob twice":          {with(file{name: blob, content: "x"}, file{name: "./" + blob, content: "x"}), "twice"},
		"index twice":         {with(good[1]), "twice"},
		"no digest":           {with(file{name: "blobs/sha256/abc", content: "x"}), "not named by a digest"},
		"huge index":          {pack(t, good[0], file{name: "index.json", content: strings.Repeat(" ", 65<<20)}), "more than"},
		"index that is none":  {pack(t, good[0], file{name: "index.json", content: "{"}), "cannot be read"},
		"bad digest":          {pack(t, good[0], file{name: "index.json", content: tag("nginx:1.0.0", "sha256:x")}), "digest"},
		"tag alone":           {pack(t, good[0], file{name: "index.json", content: tag("1.0.0", digest.FromString("x").String())}), "which chart"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := layout(t, c.archive, ""); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
		})
	}
}

// What the digests do not cover is refused before anything is visible.
func TestImportOfFalseContent(t *testing.T) {
	t.Parallel()
	from, _ := newStore(t)
	put(t, from, "nginx", "1.0.0", "layer", nil)
	archive, _ := export(t, from)
	for name, falsified := range map[string][]byte{
		"blob":     bytes.Replace(archive, []byte("layer\x00"), []byte("lazer\x00"), 1),
		"manifest": bytes.Replace(archive, []byte(`"schemaVersion":2}`), []byte(`"schemaVersion":3}`), 1),
		"name":     bytes.Replace(archive, []byte(`"nginx:1.0.0"`), []byte(`"NGINX:1.0.0"`), 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if bytes.Equal(falsified, archive) {
				t.Fatal("the archive was not changed")
			}
			to, b := newStore(t)
			if got := importInto(t, falsified, to); len(got) != 1 || !strings.HasPrefix(got[0], "failed ") {
				t.Errorf("%q", got)
			}
			if p, err := b.List(t.Context(), bucket.ListOptions{Prefix: "charts/nginx/tags/"}); err != nil || len(p.Objects) != 0 {
				t.Errorf("it has made the tags %v, %v", p.Objects, err)
			}
		})
	}
}

// Other programs name versions by their tag alone, and have what we do not know beside the layout.
func TestImportOfALayoutOfOthers(t *testing.T) {
	t.Parallel()
	from, _ := newStore(t)
	put(t, from, "nginx", "1.0.0", "layer", nil)
	archive, _ := export(t, from)
	archive = bytes.Replace(archive, []byte(`"nginx:1.0.0"`), []byte(`"1.0.0"      `), 1)
	archive = append(pack(t, file{name: "manifest.json", content: "[]"}, file{name: "blobs/", kind: tar.TypeDir})[:1536], archive...)
	l, err := layout(t, archive, "web")
	ok(t, err)
	to, _ := newStore(t)
	if diff := cmp.Diff([]string{"imported web 1.0.0"}, outcomes(t, l, transfer.Store{Store: to}, transfer.Options{})); diff != "" {
		t.Error(diff)
	}
}

func TestImportEndsWithItsContext(t *testing.T) {
	t.Parallel()
	archive, _ := export(t, filled(t))
	l, err := layout(t, archive, "")
	ok(t, err)
	to, _ := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	err = transfer.Import(ctx, l, transfer.Store{Store: to}, transfer.Options{}, func(transfer.Result) { cancel() })
	if err == nil {
		t.Error("no error")
	}
	importInto(t, archive, to)
	if again, _ := export(t, to); !bytes.Equal(again, archive) {
		t.Error("what was begun was not gone on with")
	}
}

func FuzzLayout(f *testing.F) {
	f.Add([]byte("oci-layout"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		l, err := layout(t, archive, "a")
		if err != nil {
			return
		}
		if _, err := l.Versions(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

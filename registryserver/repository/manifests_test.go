package repository_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

const (
	imageType    = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	artifactType = "application/vnd.oci.artifact.manifest.v1+json"
)

type object = map[string]any

func describe(mediaType, content string) object {
	return object{"mediaType": mediaType, "digest": digest.FromString(content).String(), "size": len(content)}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	content, err := json.Marshal(v)
	ok(t, err)
	return content
}

// chart is a manifest as helm makes them, without a mediaType of its own.
func chart(t *testing.T, layer string) []byte {
	t.Helper()
	return encode(t, object{
		"schemaVersion": 2,
		"config":        describe("application/vnd.cncf.helm.config.v1+json", "config"),
		"layers":        []object{describe("application/vnd.cncf.helm.chart.content.v1.tar+gzip", layer)},
	})
}

// putChart pushes the blobs of a chart and its manifest.
func putChart(t *testing.T, r *repository.Repository, reference, layer string) (repository.Manifest, error) {
	t.Helper()
	putBlob(t, r, "config")
	putBlob(t, r, layer)
	return r.PutManifest(t.Context(), reference, imageType, chart(t, layer), "ci")
}

func mustPutChart(t *testing.T, r *repository.Repository, reference, layer string) repository.Manifest {
	t.Helper()
	m, err := putChart(t, r, reference, layer)
	ok(t, err)
	return m
}

// getManifest is OpenManifest, with the content read.
func getManifest(ctx context.Context, r *repository.Repository, reference string) (repository.Manifest, error) {
	content, m, err := r.OpenManifest(ctx, reference)
	if err != nil {
		return m, err
	}
	defer content.Close()
	m.Content, err = io.ReadAll(content)
	return m, err
}

func wantManifest(t *testing.T, r *repository.Repository, reference string, content []byte) {
	t.Helper()
	m, err := getManifest(t.Context(), r, reference)
	ok(t, err)
	expected := repository.Manifest{Repository: "a", Digest: m.Digest, MediaType: imageType, Size: int64(len(content)), Content: content}
	if !strings.Contains(reference, ":") {
		expected.Tag = reference
	}
	if diff := cmp.Diff(expected, m); diff != "" || m.Digest.Algorithm().FromBytes(content) != m.Digest {
		t.Fatalf("%s (-want +got):\n%s", reference, diff)
	}
	stat, err := r.StatManifest(t.Context(), reference)
	expected.Content = nil
	if diff := cmp.Diff(expected, stat); err != nil || diff != "" {
		t.Fatalf("%s: %v (-want +got):\n%s", reference, err, diff)
	}
}

func wantUnknown(t *testing.T, r *repository.Repository, reference string) {
	t.Helper()
	_, err := getManifest(t.Context(), r, reference)
	want(t, err, repository.ErrManifestUnknown)
	_, err = r.StatManifest(t.Context(), reference)
	want(t, err, repository.ErrManifestUnknown)
}

// The order of requests of helm 3.18 and later.
func TestPushByDigestThenByTag(t *testing.T) {
	b := newBucket(t)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	r := openRepository(t, openStore(t, b, repository.Options{Now: func() time.Time { return now }}), "a")
	content := chart(t, "layer")
	d := digest.FromBytes(content).String()
	wantUnknown(t, r, d)
	wantUnknown(t, r, "1.0.0")
	mustPutChart(t, r, d, "layer")
	wantManifest(t, r, d, content)
	wantUnknown(t, r, "1.0.0")
	for range 2 {
		m := mustPutChart(t, r, "1.0.0", "layer")
		if m.Digest.String() != d || m.Tag != "1.0.0" || m.MediaType != imageType || m.Size != int64(len(content)) {
			t.Fatalf("the answer is %+v", m)
		}
		wantManifest(t, r, d, content)
		wantManifest(t, r, "1.0.0", content)
	}
	sha512 := digest.SHA512.FromBytes(content).String()
	mustPutChart(t, r, sha512, "layer")
	wantManifest(t, r, sha512, content)

	_, err := r.PutManifest(t.Context(), "by-somebody", imageType, content, strings.Repeat("ä", 1<<20))
	ok(t, err)
	if info, _ := readObject(t, b, "charts/a/tags/by-somebody"); info.Size > 2000 {
		t.Errorf("the tag's object has %d bytes", info.Size)
	}

	_, tagObject := readObject(t, b, "charts/a/tags/1.0.0")
	var tag object
	ok(t, json.Unmarshal([]byte(tagObject), &tag))
	expected := object{"digest": d, "mediaType": imageType, "size": float64(len(content)), "pushedAt": "2026-01-02T02:04:05Z", "pushedBy": "ci"}
	if diff := cmp.Diff(expected, tag); diff != "" {
		t.Errorf("the tag's object (-want +got):\n%s", diff)
	}
}

func readObject(t *testing.T, b bucket.Bucket, key string) (bucket.Info, string) {
	t.Helper()
	body, info, err := b.Get(t.Context(), key, nil)
	ok(t, err)
	defer body.Close()
	content := make([]byte, info.Size)
	_, err = io.ReadFull(body, content)
	ok(t, err)
	return info, string(content)
}

func TestTagsAreImmutable(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	first := mustPutChart(t, r, "1.0.0", "first")
	before := len(keys(t, b))
	_, err := putChart(t, r, "1.0.0", "second")
	want(t, err, repository.ErrTagImmutable)
	for _, part := range []string{"1.0.0", first.Digest.String(), digest.FromBytes(chart(t, "second")).String(), "new version", "delete"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not mention %q", err, part)
		}
	}
	wantManifest(t, r, "1.0.0", chart(t, "first"))
	if now := len(keys(t, b)); now != before+1 {
		t.Errorf("beside the layer, the refused push left something: %v", keys(t, b))
	}
	for _, tag := range []string{"sha256-" + first.Digest.Encoded(), "sha512-abc", "artifacthub.io"} {
		mustPutChart(t, r, tag, "first")
		mustPutChart(t, r, tag, "second")
		wantManifest(t, r, tag, chart(t, "second"))
	}
	// What was deleted may be pushed again.
	ok(t, r.DeleteManifest(t.Context(), "1.0.0"))
	mustPutChart(t, r, "1.0.0", "second")
	wantManifest(t, r, "1.0.0", chart(t, "second"))
}

func TestMutableTags(t *testing.T) {
	mutable := func(tag string) bool { return strings.HasSuffix(tag, "-dev") }
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{TagMutable: mutable}), "a")
	for _, layer := range []string{"one", "two", "two", "one"} {
		mustPutChart(t, r, "1.0.0-dev", layer)
		wantManifest(t, r, "1.0.0-dev", chart(t, layer))
		mustPutChart(t, r, "artifacthub.io", layer)
	}
	mustPutChart(t, r, "1.0.0", "one")
	_, err := putChart(t, r, "1.0.0", "two")
	want(t, err, repository.ErrTagImmutable)
}

func TestDeleteManifests(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	one, two := mustPutChart(t, r, "1.0.0", "one"), mustPutChart(t, r, "2.0.0", "two")
	mustPutChart(t, r, "one", "one")

	ok(t, r.DeleteManifest(t.Context(), "1.0.0"))
	wantUnknown(t, r, "1.0.0")
	wantManifest(t, r, "one", chart(t, "one"))
	wantManifest(t, r, one.Digest.String(), chart(t, "one"))
	want(t, r.DeleteManifest(t.Context(), "1.0.0"), repository.ErrManifestUnknown)

	mustPutChart(t, r, "1.0.0", "one")
	ok(t, r.DeleteManifest(t.Context(), one.Digest.String()))
	for _, reference := range []string{"1.0.0", "one", one.Digest.String()} {
		wantUnknown(t, r, reference)
		want(t, r.DeleteManifest(t.Context(), reference), repository.ErrManifestUnknown)
	}
	wantManifest(t, r, "2.0.0", chart(t, "two"))
	ok(t, r.DeleteManifest(t.Context(), two.Digest.String()))
	for _, key := range keys(t, b) {
		if !strings.Contains(key, "/blobs/") {
			t.Errorf("%s is left", key)
		}
	}
}

// A tag whose manifest is gone, as a killed delete or two that met may leave it, is neither shown nor in the way.
func TestTagWithoutItsManifest(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	one := mustPutChart(t, r, "1.0.0", "one")
	ok(t, b.Delete(t.Context(), "charts/a/manifests/sha256/"+one.Digest.Encoded(), bucket.Condition{}))
	wantUnknown(t, r, "1.0.0")
	wantUnknown(t, r, one.Digest.String())
	mustPutChart(t, r, "1.0.0", "two")
	wantManifest(t, r, "1.0.0", chart(t, "two"))
}

func TestDamagedManifestsAreNeverServed(t *testing.T) {
	b := newBucket(t)
	// With nothing in memory, which would be served intact.
	r := openRepository(t, openStore(t, b, repository.Options{Cache: repository.CacheOptions{BlobBytes: 1}}), "a")
	m := mustPutChart(t, r, "1.0.0", "one")
	key := "charts/a/manifests/sha256/" + m.Digest.Encoded()
	_, intact := readObject(t, b, key)
	for name, damaged := range map[string]string{
		"empty": "", "cut": intact[:len(intact)-1], "longer": intact + " ", "no header": string(m.Content),
		"header only": strings.SplitAfter(intact, "\n")[0], "flipped": strings.Replace(intact, "size", "sizf", 1),
		"other header": "{}\n" + string(m.Content), "huge": strings.Repeat("x", 5<<20),
	} {
		t.Run(name, func(t *testing.T) {
			putObject(t, b, key, damaged)
			for _, reference := range []string{"1.0.0", m.Digest.String()} {
				_, err := getManifest(t.Context(), r, reference)
				want(t, err, repository.ErrDamaged)
				want(t, err, repository.ErrManifestUnknown)
				_, err = r.StatManifest(t.Context(), reference)
				want(t, err, repository.ErrDamaged)
				if !strings.Contains(err.Error(), "damaged") {
					t.Errorf("the error does not help: %v", err)
				}
			}
			mustPutChart(t, r, "1.0.0", "one")
			wantManifest(t, r, "1.0.0", m.Content)
		})
	}
	putObject(t, b, "charts/a/tags/1.0.0", "")
	_, err := getManifest(t.Context(), r, "1.0.0")
	want(t, err, repository.ErrTagDamaged)
	want(t, err, bucket.ErrUnavailable)
	_, err = putChart(t, r, "1.0.0", "two")
	want(t, err, repository.ErrTagDamaged)
	ok(t, r.DeleteManifest(t.Context(), "1.0.0"))
	mustPutChart(t, r, "1.0.0", "two")
}

func TestManifestNeedsWhatItNames(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	putBlob(t, r, "there")
	child := mustPutChart(t, r, "child", "layer")
	there, missing := describe("text/plain", "there"), describe("text/plain", "missing")
	with := func(d object, key string, value any) object {
		changed := object{key: value}
		for k, v := range d {
			if k != key {
				changed[k] = v
			}
		}
		return changed
	}
	image := func(config object, layers ...object) object {
		return object{"schemaVersion": 2, "config": config, "layers": layers}
	}
	childDescriptor := object{"mediaType": imageType, "digest": child.Digest.String(), "size": child.Size}
	for name, c := range map[string]struct {
		mediaType string
		manifest  object
		missing   []string
		invalid   string
	}{
		"all there":        {imageType, image(there, there, there), nil, ""},
		"no layers":        {imageType, object{"config": there}, nil, ""},
		"config missing":   {imageType, image(missing, there), []string{"missing"}, ""},
		"layers missing":   {imageType, image(there, missing, describe("text/plain", "also"), missing), []string{"missing", "also"}, ""},
		"subject missing":  {imageType, object{"config": there, "layers": []object{}, "subject": missing}, nil, ""},
		"foreign layer":    {imageType, image(there, with(missing, "mediaType", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")), nil, ""},
		"docker's foreign": {imageType, image(there, with(missing, "mediaType", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")), nil, ""},
		"layer elsewhere":  {imageType, image(there, with(missing, "urls", []string{"https://example.com/x"})), nil, ""},
		"empty urls":       {imageType, image(there, with(missing, "urls", []string{})), []string{"missing"}, ""},
		"wrong size":       {imageType, image(with(there, "size", 6)), nil, "has 5 bytes, but the manifest says 6"},
		"two sizes":        {imageType, image(there, with(there, "size", 4)), nil, "has 5 bytes, but the manifest says 4"},
		"index":            {indexType, object{"manifests": []object{childDescriptor}}, nil, ""},
		"empty index":      {indexType, object{"manifests": []object{}}, nil, ""},
		"artifact":         {artifactType, object{"blobs": []object{there}}, nil, ""},
		"artifact's blob":  {artifactType, object{"blobs": []object{there, missing}}, []string{"missing"}, ""},
		"blobs of others":  {imageType, object{"config": there, "blobs": "a custom field"}, nil, ""},
		"child missing":    {indexType, object{"manifests": []object{childDescriptor, missing}}, []string{"missing"}, ""},
		"child is a blob":  {indexType, object{"manifests": []object{there}}, []string{"there"}, ""},
		"child of a size":  {indexType, object{"manifests": []object{with(childDescriptor, "size", 1)}}, nil, "the manifest says 1"},
	} {
		t.Run(name, func(t *testing.T) {
			content := encode(t, c.manifest)
			reference := digest.FromBytes(content).String()
			_, err := r.PutManifest(t.Context(), reference, c.mediaType, content, "ci")
			var unknown *repository.UnknownBlobsError
			var invalid *repository.InvalidManifestError
			switch {
			case c.missing != nil:
				var expected []digest.Digest
				for _, m := range c.missing {
					expected = append(expected, digest.FromString(m))
				}
				if !errors.As(err, &unknown) || !cmp.Equal(unknown.Digests, expected) || !strings.Contains(err.Error(), expected[0].String()) {
					t.Fatalf("error is %v, want %v", err, expected)
				}
			case c.invalid != "":
				if !errors.As(err, &invalid) || !strings.Contains(invalid.Reason, c.invalid) {
					t.Fatalf("error is %v, want %q", err, c.invalid)
				}
			default:
				ok(t, err)
				return
			}
			wantUnknown(t, r, reference)
		})
	}
}

func TestUnknownBlobsErrorIsShort(t *testing.T) {
	err := &repository.UnknownBlobsError{}
	for i := range 1000 {
		err.Digests = append(err.Digests, digest.FromString(fmt.Sprint(i)))
	}
	if text := err.Error(); len(text) > 600 || !strings.Contains(text, "and 995 more") {
		t.Errorf("%d bytes: %.700s", len(text), text)
	}
}

func TestInvalidManifests(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	config := string(encode(t, describe("text/plain", "config")))
	putBlob(t, r, "config")
	before := keys(t, b)
	for name, c := range map[string]struct{ mediaType, content, want string }{
		"empty":              {imageType, ``, "not a JSON object"},
		"no JSON":            {imageType, `hello`, "not valid JSON"},
		"cut":                {imageType, `{"config":` + config, "not valid JSON"},
		"list":               {imageType, `[]`, "not a JSON object"},
		"null":               {imageType, `null`, "not a JSON object"},
		"string":             {imageType, `"x"`, "not a JSON object"},
		"two values":         {imageType, `{"config":` + config + `}{}`, "not a JSON object"},
		"not UTF-8":          {imageType, "{\"config\":" + config + ",\"x\":\"\xff\"}", "not UTF-8"},
		"key twice":          {imageType, `{"config":` + config + `,"config":` + config + `}`, `"config" twice`},
		"escaped key twice":  {imageType, `{"config":` + config + `,"\u0063onfig":1}`, `"config" twice`},
		"key twice below":    {imageType, `{"config":` + config + `,"annotations":{"a":{"b":1},"c":[{"d":1,"d":2}]}}`, `"d" twice`},
		"deep":               {imageType, `{"config":` + config + `,"x":` + strings.Repeat(`[`, 100) + strings.Repeat(`]`, 100) + `}`, "levels deep"},
		"many values":        {imageType, `{"config":` + config + `,"x":[` + strings.Repeat(`1,`, 200_000) + `1]}`, "more than 200000 values"},
		"other mediaType":    {imageType, `{"mediaType":"` + indexType + `","config":` + config + `}`, "was pushed as " + imageType},
		"mediaType a number": {imageType, `{"mediaType":1,"config":` + config + `}`, "mediaType is not a string"},
		"no Content-Type":    {"", `{"config":` + config + `}`, "is not a media type"},
		"wrong Content-Type": {"text/plain\nx", `{"config":` + config + `}`, "is not a media type"},
		"Docker's oldest":    {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`, "schema 1"},
		"no config":          {imageType, `{"layers":[]}`, "no config"},
		"null config":        {imageType, `{"config":null,"layers":[]}`, "no config"},
		"no manifests":       {indexType, `{}`, "no manifests"},
		"both kinds":         {imageType, `{"config":` + config + `,"manifests":[]}`, "either an index or a manifest"},
		"both kinds, index":  {indexType, `{"layers":[],"manifests":[]}`, "either an index or a manifest"},
		"config a string":    {imageType, `{"config":"x"}`, "config is not a descriptor"},
		"layers an object":   {imageType, `{"config":` + config + `,"layers":{}}`, "layers is not a list"},
		"layer a number":     {imageType, `{"config":` + config + `,"layers":[1]}`, "layers[0] is not a descriptor"},
		"layer null":         {imageType, `{"config":` + config + `,"layers":[null]}`, "layers[0] is not a descriptor"},
		"no digest":          {imageType, `{"config":{"size":1,"mediaType":"a/b"}}`, "config has no sha256 or sha512 digest"},
		"path as digest":     {imageType, `{"config":{"digest":"sha256:../../../x","size":1,"mediaType":"a/b"}}`, "config has no sha256 or sha512 digest"},
		"no size":            {imageType, strings.Replace(`{"config":`+config+`}`, `"size":6`, `"sizes":6`, 1), "config has no size"},
		"negative size":      {imageType, strings.Replace(`{"config":`+config+`}`, `"size":6`, `"size":-6`, 1), "config has no size"},
		"no type in layer":   {imageType, strings.Replace(`{"config":`+config+`}`, `"mediaType"`, `"MediaType"`, 1), "config has no mediaType"},
		"subject a string":   {imageType, `{"config":` + config + `,"subject":"x"}`, "subject is not a descriptor"},
		"too many layers":    {imageType, `{"config":` + config + `,"layers":[` + strings.Repeat(config+",", 5000) + config + `]}`, "more than 4096 layers"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.PutManifest(t.Context(), "1.0.0", c.mediaType, []byte(c.content), "ci")
			var invalid *repository.InvalidManifestError
			if !errors.As(err, &invalid) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, want %q", err, c.want)
			}
			if diff := cmp.Diff(before, keys(t, b)); diff != "" {
				t.Fatalf("it left (-before +after):\n%s", diff)
			}
		})
	}
}

func TestRefusedManifests(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{}), "a")
	putBlob(t, r, "config")
	put := func(reference, mediaType string, content []byte) error {
		_, err := r.PutManifest(t.Context(), reference, mediaType, content, "ci")
		return err
	}
	content := encode(t, object{"config": describe("text/plain", "config")})
	want(t, put(digest.FromString("other").String(), imageType, content), repository.ErrDigestMismatch)
	padded := append(bytes.Clone(content), make([]byte, repository.MaxManifestBytes)...)
	want(t, put("1.0.0", imageType, padded), repository.ErrTooLarge)
	for i := range padded[len(content):] {
		padded[len(content)+i] = ' '
	}
	ok(t, put("large", imageType, padded[:repository.MaxManifestBytes]))
	if m, err := getManifest(t.Context(), r, "large"); err != nil || m.Size != repository.MaxManifestBytes {
		t.Fatalf("%d bytes, %v", m.Size, err)
	}

	ok(t, put("1.0.0", imageType, content))
	var invalid *repository.InvalidManifestError
	if err := put("2.0.0", "application/json", content); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "pushed before as "+imageType) {
		t.Fatalf("the same manifest as another type: %v", err)
	}
	wantUnknown(t, r, "2.0.0")
	for _, reference := range []string{"", ".a", "-a", "a/b", "a b", "ä", strings.Repeat("t", 129), "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "a:b"} {
		want(t, put(reference, imageType, content), repository.ErrReferenceInvalid)
		_, err := getManifest(t.Context(), r, reference)
		want(t, err, repository.ErrReferenceInvalid)
		_, err = r.StatManifest(t.Context(), reference)
		want(t, err, repository.ErrReferenceInvalid)
		want(t, r.DeleteManifest(t.Context(), reference), repository.ErrReferenceInvalid)
	}
	ok(t, put(strings.Repeat("t", 128), imageType, content))
}

// Many who read large manifests slowly must not fill the memory.
func TestLargeManifestsAreNotHeldInMemory(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{}), "a")
	mustPutChart(t, r, "small", "layer")
	content := append(chart(t, "layer"), bytes.Repeat([]byte(" "), 4<<20-1000)...)
	if _, err := r.PutManifest(t.Context(), "large", imageType, content, "ci"); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := r.StatManifest(t.Context(), "large")
	ok(t, err)
	opened, m, err := r.OpenManifest(t.Context(), "large")
	ok(t, err)
	hash := m.Digest.Verifier()
	_, err = io.Copy(hash, opened)
	ok(t, errors.Join(err, opened.Close()))
	runtime.ReadMemStats(&after)
	if !hash.Verified() {
		t.Error("the content is not what was pushed")
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("reading a manifest of 4 MiB twice takes %d bytes of memory", took)
	}
}

// The manifest is deleted and pushed again, by somebody with a longer name, between the look at it and the answer.
func TestManifestIsReplacedWhileItIsOpened(t *testing.T) {
	b := &afterGet{Bucket: newBucket(t)}
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	m := mustPutChart(t, r, "1.0.0", "layer")
	b.next = func() {
		ok(t, r.DeleteManifest(t.Context(), m.Digest.String()))
		_, err := r.PutManifest(t.Context(), "1.0.0", imageType, m.Content, "somebody with a longer name")
		ok(t, err)
	}
	wantManifest(t, r, m.Digest.String(), m.Content)
	if b.next != nil {
		t.Error("nothing was replaced")
	}
}

// afterGet calls next once, after the next object was opened.
type afterGet struct {
	bucket.Bucket
	next func()
}

func (b *afterGet) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	content, info, err := b.Bucket.Get(ctx, key, r)
	if next := b.next; next != nil {
		b.next = nil
		next()
	}
	return content, info, err
}

func TestCheckFunction(t *testing.T) {
	var seen repository.Manifest
	refusal := &repository.InvalidManifestError{Reason: "no chart today"}
	var verdict error = refusal
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{Check: func(_ context.Context, _ *repository.Repository, m repository.Manifest) (string, error) {
		seen = m
		return "", verdict
	}}), "a")
	_, err := putChart(t, r, "1.0.0", "layer")
	want(t, err, refusal)
	wantUnknown(t, r, "1.0.0")
	if len(keys(t, b)) != 2 {
		t.Errorf("beside the two blobs there is %v", keys(t, b))
	}
	verdict = nil
	m := mustPutChart(t, r, "1.0.0", "layer")
	if diff := cmp.Diff(m, seen); diff != "" || seen.Tag != "1.0.0" || len(seen.Content) == 0 {
		t.Errorf("the function saw something else (-pushed +seen):\n%s", diff)
	}
}

func TestManyPushesOfOneVersion(t *testing.T) {
	b := newBucket(t)
	layers := []string{"a", "b", "c", "d"}
	prepared := openRepository(t, openStore(t, b, repository.Options{}), "a")
	putBlob(t, prepared, "config")
	for _, layer := range layers {
		putBlob(t, prepared, layer)
	}
	for round := range 5 {
		tag := fmt.Sprintf("1.0.%d", round)
		var winner atomic.Value
		var wait sync.WaitGroup
		for i := range 8 {
			content := chart(t, layers[i%len(layers)])
			r := openRepository(t, openStore(t, b, repository.Options{}), "a")
			wait.Go(func() {
				m, err := r.PutManifest(t.Context(), tag, imageType, content, "ci")
				if err == nil {
					if before := winner.Swap(m.Digest); before != nil && before != m.Digest {
						t.Errorf("%s and %s were both acknowledged", before, m.Digest)
					}
				} else if !errors.Is(err, repository.ErrTagImmutable) {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		m, err := getManifest(t.Context(), prepared, tag)
		if err != nil || m.Digest != winner.Load() {
			t.Fatalf("%s stands for %s, %v; acknowledged was %v", tag, m.Digest, err, winner.Load())
		}
	}
}

// Whoever wins, a tag that is listed has its manifest.
func TestPushesAgainstDeletes(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	m := mustPutChart(t, r, "0.0.0", "layer")
	var wait sync.WaitGroup
	for worker := range 4 {
		wait.Go(func() {
			for i := range 25 {
				var err error
				if worker == 0 {
					err = r.DeleteManifest(t.Context(), m.Digest.String())
				} else {
					_, err = r.PutManifest(t.Context(), fmt.Sprintf("1.%d.%d", worker, i%3), imageType, m.Content, "ci")
				}
				if err != nil && !errors.Is(err, repository.ErrManifestUnknown) {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	tags, _, err := r.Tags(t.Context(), 0, "")
	if err != nil && !errors.Is(err, repository.ErrRepositoryUnknown) {
		t.Fatal(err)
	}
	for _, tag := range tags {
		wantManifest(t, r, tag, m.Content)
	}
	// A push after all of that is seen whole.
	mustPutChart(t, r, "2.0.0", "layer")
	wantManifest(t, r, "2.0.0", m.Content)
}

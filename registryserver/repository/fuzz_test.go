package repository

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

func FuzzName(f *testing.F) {
	for _, name := range []string{"nginx", "team/nginx", "a.b_c__d---e", "a//b", "/a", "a/", "..", "a..b", "A", "a_", "a+b", "", strings.Repeat("n", 201)} {
		f.Add(name)
	}
	s := &Store{}
	f.Fuzz(func(t *testing.T, name string) {
		r, err := s.Repository(name)
		if err != nil {
			return
		}
		key := r.key("tags", "1.0.0")
		if err := bucket.CheckKey(key); err != nil {
			t.Fatal(err)
		}
		segments := strings.Split(key, "/")
		if len(segments) != 4 || strings.ReplaceAll(segments[1], "+", "/") != name {
			t.Fatalf("%q has the key %q", name, key)
		}
	})
}

func FuzzReference(f *testing.F) {
	for _, reference := range []string{"1.0.0", "_", "a.b-c", ".a", "-", "", "..", "sha256:" + strings.Repeat("a", 64), "sha512:" + strings.Repeat("0", 128), "sha256:../x", "sha384:" + strings.Repeat("0", 96), "a:b", strings.Repeat("t", 129)} {
		f.Add(reference)
	}
	r := &Repository{name: "a/b"}
	f.Fuzz(func(t *testing.T, reference string) {
		tag, d, err := parseReference(reference)
		if err != nil {
			return
		}
		if (tag == "") == (d == "") || tag+d.String() != reference {
			t.Fatalf("%q is both or neither: %q, %q", reference, tag, d)
		}
		key := r.tagKey(tag)
		if tag == "" {
			key = r.manifestKey(d)
		}
		if err := bucket.CheckKey(key); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDigest(f *testing.F) {
	for _, seed := range []string{
		digest.FromString("").String(), digest.SHA512.FromString("").String(), "sha384:" + digest.SHA384.FromString("").Encoded(),
		"sha256:", "sha256:AB", "sha256-x", ":", "", "sha256:..", "sha256+b64u:x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := digest.Digest(s)
		if checkDigest(d) != nil {
			return
		}
		r := &Repository{name: "a"}
		for _, key := range []string{r.blobKey(d), r.manifestKey(d), r.referrerKey(d, d)} {
			if err := bucket.CheckKey(key); err != nil {
				t.Fatal(err)
			}
		}
		if again, ok := fromSegment(digestSegment(d)); !ok || again != d {
			t.Fatalf("%s became %s", d, again)
		}
	})
}

func FuzzManifest(f *testing.F) {
	const (
		image      = "application/vnd.oci.image.manifest.v1+json"
		index      = "application/vnd.oci.image.index.v1+json"
		descriptor = `{"mediaType":"text/plain","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}`
	)
	f.Add(image, []byte(`{"schemaVersion":2,"mediaType":"`+image+`","config":`+descriptor+`,"layers":[`+descriptor+`,`+descriptor+`]}`))
	f.Add(index, []byte(`{"schemaVersion":2,"manifests":[`+descriptor+`],"subject":`+descriptor+`}`))
	f.Add(image, []byte(`{"config":`+descriptor+`,"config":1}`))
	f.Add(image, []byte(`{"config":`+descriptor+`,"manifests":[]}`))
	f.Add("a/b", []byte(`{"a":[[[{"b":null}]]],"\u0061":1}`))
	f.Add(image, []byte(`{"config":`+descriptor+`,"subject":`+descriptor+`,"artifactType":"a/b","annotations":{"a":"<\u2028>"}}`))
	f.Add("", []byte(`[]`))
	f.Fuzz(func(t *testing.T, mediaType string, content []byte) {
		parsed, err := parseManifest(mediaType, content)
		if err != nil {
			return
		}
		var fields map[string]any
		if err := json.Unmarshal(content, &fields); err != nil {
			t.Fatalf("what is no JSON object was accepted: %v", err)
		}
		if len(parsed.needs) > 2*maxDescriptors+1 {
			t.Fatalf("%d descriptors", len(parsed.needs))
		}
		r := &Repository{name: "a"}
		for _, d := range parsed.needs {
			if err := bucket.CheckKey(r.blobKey(d.digest)); err != nil || d.size < 0 {
				t.Fatalf("%+v, %v", d, err)
			}
		}
		if parsed.subject != "" {
			if err := bucket.CheckKey(r.referrerKey(parsed.subject, digest.FromBytes(content))); err != nil {
				t.Fatal(err)
			}
			if _, err := parsed.referrer(Manifest{Digest: digest.FromBytes(content)}); err != nil {
				t.Fatal(err)
			}
		}
		if own, ok := fields["mediaType"].(string); ok && own != mediaType {
			t.Fatalf("%q was accepted as %q", own, mediaType)
		}
	})
}

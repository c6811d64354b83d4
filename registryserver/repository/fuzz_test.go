package repository

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
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
	f.Add("", []byte(`[]`))
	f.Fuzz(func(t *testing.T, mediaType string, content []byte) {
		named, err := parseManifest(mediaType, content)
		if err != nil {
			return
		}
		var fields map[string]any
		if err := json.Unmarshal(content, &fields); err != nil {
			t.Fatalf("what is no JSON object was accepted: %v", err)
		}
		if len(named) > 2*maxDescriptors+1 {
			t.Fatalf("%d descriptors", len(named))
		}
		r := &Repository{name: "a"}
		for _, d := range named {
			if err := bucket.CheckKey(r.blobKey(d.digest)); err != nil || d.size < 0 {
				t.Fatalf("%+v, %v", d, err)
			}
		}
		if own, ok := fields["mediaType"].(string); ok && own != mediaType {
			t.Fatalf("%q was accepted as %q", own, mediaType)
		}
	})
}

package ociapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// pushNamed pushes a small manifest under a chart's name.
func (r *registry) pushNamed(chart, tag, manifest string) *http.Response {
	r.t.Helper()
	r.want(http.StatusCreated, call{method: "POST", path: "/v2/acme/charts/" + chart + "/blobs/uploads/?digest=" + digestOf("{}"), body: "{}"})
	return r.want(http.StatusCreated, call{
		method: "PUT", path: "/v2/acme/charts/" + chart + "/manifests/" + tag, body: manifest, header: map[string]string{"Content-Type": ociManifest},
	})
}

// plain is a manifest without layers; fields are added to it.
func plain(fields string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[]%s}`, digestOf("{}"), fields)
}

func referring(subject, artifactType string) string {
	return plain(fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":9},"artifactType":%q,"annotations":{"for":%q}`, ociManifest, subject, artifactType, artifactType))
}

func TestReferrers(t *testing.T) {
	r := newRegistry(t, wire.Private)
	const empty = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	subject := digestOf("subject")
	for _, path := range []string{"/v2/" + testName + "/referrers/" + subject, "/v2/acme/charts/never/pushed/referrers/" + digest.SHA512.FromString("x").String()} {
		for _, method := range []string{"GET", "HEAD"} {
			answer := r.want(http.StatusOK, call{method: method, path: path})
			if got := answer.Header.Get("Content-Type"); got != "application/vnd.oci.image.index.v1+json" {
				t.Errorf("%s %s: Content-Type %q", method, path, got)
			}
			if body := read(t, answer); method == "GET" && body != empty {
				t.Errorf("%s: %s", path, body)
			}
		}
	}
	r.wantProblem(http.StatusBadRequest, "DIGEST_INVALID", call{method: "GET", path: "/v2/" + testName + "/referrers/1.0.0"})

	sbom, signature := referring(subject, "example/sbom"), referring(subject, "example/signature")
	for _, m := range []string{sbom, signature} {
		answer := r.pushNamed(testChart, digestOf(m), m)
		if got := answer.Header.Get("OCI-Subject"); got != subject {
			t.Errorf("OCI-Subject is %q", got)
		}
	}
	if got := r.pushNamed(testChart, "plain", plain("")).Header.Values("OCI-Subject"); got != nil {
		t.Errorf("a manifest without subject is answered with OCI-Subject %q", got)
	}
	if all := r.referrers("/v2/" + testName + "/referrers/" + subject); len(all) != 2 {
		t.Errorf("referrers: %v", all)
	}
	path := "/v2/" + testName + "/referrers/" + subject + "?artifactType=" + url.QueryEscape("example/sbom")
	answer := r.want(http.StatusOK, call{method: "GET", path: path})
	if got := answer.Header.Get("OCI-Filters-Applied"); got != "artifactType" {
		t.Errorf("OCI-Filters-Applied is %q", got)
	}
	want := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":%q,"digest":%q,"size":%d,"artifactType":"example/sbom","annotations":{"for":"example/sbom"}}]}`,
		ociManifest, digestOf(sbom), len(sbom))
	if diff := cmp.Diff(want, read(t, answer)); diff != "" {
		t.Error(diff)
	}
	r.want(http.StatusAccepted, call{method: "DELETE", path: "/v2/" + testName + "/manifests/" + digestOf(sbom)})
	if got := read(t, r.want(http.StatusOK, call{method: "GET", path: path})); got != empty {
		t.Errorf("after the delete: %s", got)
	}
}

// referrers follows the links of a list of referrers.
func (r *registry) referrers(path string) (digests []string) {
	r.t.Helper()
	for path != "" {
		answer := r.want(http.StatusOK, call{method: "GET", path: path})
		var index struct {
			Manifests []struct{ Digest string }
		}
		if err := json.Unmarshal([]byte(read(r.t, answer)), &index); err != nil {
			r.t.Fatal(err)
		}
		for _, m := range index.Manifests {
			digests = append(digests, m.Digest)
		}
		path = next(r.t, answer)
	}
	return digests
}

// next is where a list goes on; empty at its end.
func next(t *testing.T, answer *http.Response) string {
	t.Helper()
	link := answer.Header.Get("Link")
	if link == "" {
		return ""
	}
	target, ok := strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	if !ok || !strings.HasPrefix(target, "/v2/") {
		t.Fatalf("the link is %q", link)
	}
	return target
}

func TestReferrersComeInPages(t *testing.T) {
	r := newRegistry(t, wire.Private)
	subject := digestOf("subject")
	for i := range 101 {
		m := referring(subject, fmt.Sprintf("example/%d", i%2))
		m = strings.Replace(m, `"layers"`, fmt.Sprintf(`"n":%d,"layers"`, i), 1)
		r.pushNamed(testChart, digestOf(m), m)
	}
	path := "/v2/" + testName + "/referrers/" + subject
	if got := r.referrers(path); len(got) != 101 {
		t.Errorf("%d referrers", len(got))
	}
	if got := r.referrers(path + "?artifactType=example/1"); len(got) != 50 {
		t.Errorf("%d referrers of one type", len(got))
	}
}

func TestManifestWithManyTags(t *testing.T) {
	r := newRegistry(t, wire.Private)
	m := plain("")
	d := digest.SHA512.FromString(m).String()
	answer := r.pushNamed(testChart, d+"?tag=a&tag=b", m)
	if diff := cmp.Diff([]string{"a", "b"}, answer.Header.Values("OCI-Tag")); diff != "" {
		t.Error(diff)
	}
	for _, tag := range []string{"a", "b"} {
		if got := r.want(http.StatusOK, call{method: "HEAD", path: "/v2/" + testName + "/manifests/" + tag}).Header.Get("Docker-Content-Digest"); got != d {
			t.Errorf("%s stands for %s", tag, got)
		}
	}
	other := plain(`,"n":1`)
	put := func(query string) call {
		return call{method: "PUT", path: "/v2/" + testName + "/manifests/" + digestOf(other) + query, body: other, header: map[string]string{"Content-Type": ociManifest}}
	}
	r.wantProblem(http.StatusConflict, "DENIED", put("?tag=c&tag=b"), testName+" b exists already", d, "raise the version")
	r.want(http.StatusNotFound, call{method: "HEAD", path: "/v2/" + testName + "/manifests/c"})
	r.wantProblem(http.StatusBadRequest, "MANIFEST_INVALID", put("?tag=-x"), "a tag has")
	r.wantProblem(http.StatusBadRequest, "MANIFEST_INVALID", put("?tag="), "a tag has")
	r.wantProblem(http.StatusRequestURITooLong, "UNSUPPORTED", put("?"+strings.Repeat("tag=x&", 101)), "100 tags")
	r.want(http.StatusBadRequest, put("?tag=%zz"))
}

func TestCatalog(t *testing.T) {
	r := newRegistry(t, wire.Private)
	for _, chart := range []string{"web", "team/web", "team-a", "other"} {
		r.pushNamed(chart, "1.0.0", plain(""))
	}
	r.want(http.StatusCreated, call{method: "POST", path: "/v2/acme/charts/blob/blobs/uploads/?digest=" + digestOf("x"), body: "x"})
	const all = `"acme/charts/other","acme/charts/team-a","acme/charts/team/web","acme/charts/web"`
	for query, want := range map[string]struct{ list, link string }{
		"":                             {all, ""},
		"?n=4":                         {all, ""},
		"?n=100000":                    {all, ""},
		"?n=0":                         {"", ""},
		"?n=2":                         {`"acme/charts/other","acme/charts/team-a"`, `</v2/_catalog?last=acme%2Fcharts%2Fteam-a&n=2>; rel="next"`},
		"?n=2&last=acme/charts/team-a": {`"acme/charts/team/web","acme/charts/web"`, ""},
		"?last=acme/charts/team-b":     {`"acme/charts/team/web","acme/charts/web"`, ""},
		"?last=a":                      {all, ""},
		"?last=acme/charts/":           {all, ""},
		"?last=acme/charts":            {all, ""},
		"?last=acme/chartz":            {"", ""},
		"?last=acme/charts/web":        {"", ""},
		"?last=%00":                    {all, ""},
	} {
		answer := r.want(http.StatusOK, call{method: "GET", path: "/v2/_catalog" + query})
		if got := read(t, answer); got != `{"repositories":[`+want.list+`]}` || answer.Header.Get("Link") != want.link {
			t.Errorf("%s: %s, Link %q", query, got, answer.Header.Get("Link"))
		}
	}
	for token, want := range map[string]string{"all of another chart": `"acme/charts/other"`, "write": "", "delete": "", "read": all} {
		if got := read(t, r.want(http.StatusOK, call{method: "GET", path: "/v2/_catalog", token: token})); got != `{"repositories":[`+want+`]}` {
			t.Errorf("%s sees %s", token, got)
		}
	}
	r.wantProblem(http.StatusBadRequest, "UNSUPPORTED", call{method: "GET", path: "/v2/_catalog?n=-1"})
	r.wantProblem(http.StatusMethodNotAllowed, "UNSUPPORTED", call{method: "POST", path: "/v2/_catalog"})
}

// versioned has versions that say what is below a prefix, and counts the listings.
type versioned struct {
	bucket.Bucket
	silent   bool
	listings int
}

func (v *versioned) Version(ctx context.Context, prefix string) (string, error) {
	if v.silent {
		return "", nil
	}
	page, err := v.Bucket.List(ctx, bucket.ListOptions{Prefix: prefix, NamesOnly: true})
	return fmt.Sprint(page), err
}

func (v *versioned) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	v.listings++
	return v.Bucket.List(ctx, o)
}

func TestTagsAreListedAnewWhenTheyChange(t *testing.T) {
	v := &versioned{}
	r := newRegistry(t, wire.Private, func(b bucket.Bucket) bucket.Bucket {
		v.Bucket = b
		return v
	})
	path := "/v2/" + testName + "/tags/list"
	list := func(wanted string) (listings int) {
		t.Helper()
		before := v.listings
		if got := read(t, r.want(http.StatusOK, call{method: "GET", path: path})); got != wanted {
			t.Errorf("the list is %s, want %s", got, wanted)
		}
		return v.listings - before
	}
	r.pushNamed(testChart, "1.0.0", plain(""))
	one, two := `{"name":"acme/charts/web","tags":["1.0.0"]}`, `{"name":"acme/charts/web","tags":["1.0.0","2.0.0"]}`
	list(one)
	if n := list(one); n != 0 {
		t.Errorf("what has not changed was listed %d times", n)
	}
	r.pushNamed(testChart, "2.0.0", plain(""))
	list(two)
	r.want(http.StatusAccepted, call{method: "DELETE", path: "/v2/" + testName + "/manifests/2.0.0"})
	list(one)
	if n := list(one); n != 0 {
		t.Errorf("what has changed before was listed %d times", n)
	}
	v.silent = true
	if n := list(one); n == 0 {
		t.Error("a list was served that may have changed")
	}
	r.want(http.StatusAccepted, call{method: "DELETE", path: "/v2/" + testName + "/manifests/1.0.0"})
	list(`{"name":"acme/charts/web","tags":[]}`)
}

func TestNumberOfNamesIsBounded(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "999": 999, "1000": 1000, "1001": 1000, "2147483648": 1000, "99999999999999999999": 1000} {
		if got, err := limit(url.Values{"n": {text}}, 1000); err != nil || got != want {
			t.Errorf("n=%s is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "+1", "1e3", "0x1", " 1", "1,000"} {
		if got, err := limit(url.Values{"n": {text}}, 1000); err == nil {
			t.Errorf("n=%q is %d", text, got)
		}
	}
}

func TestListsAreBounded(t *testing.T) {
	var l lists
	for i := range 100 {
		l.put(fmt.Sprint(i), "1", make([]byte, maxLists/10))
		if l.get(fmt.Sprint(i), "1") == nil {
			t.Fatal("a list is not kept")
		}
	}
	l.put("0", "2", make([]byte, maxLists/20))
	if l.get("0", "1") != nil || l.get("0", "2") == nil {
		t.Error("a list of another version is kept")
	}
	l.put("large", "1", make([]byte, maxList+1))
	kept := 0
	for _, list := range l.of {
		kept += len(list.body)
	}
	if kept > maxLists || kept != l.size || l.get("large", "1") != nil {
		t.Errorf("%d bytes are kept, %d counted", kept, l.size)
	}
}

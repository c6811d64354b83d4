package face_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/face"
)

func TestAcceptsGzip(t *testing.T) {
	for header, want := range map[string]bool{
		"": false, "gzip": true, "GZIP": true, "deflate, gzip;q=0.5": true, "*": true, "br": false, "gzip;q=0": false, "gzip; q=0.0": false, "gzip;q=0, *": false, "*;q=0": false,
		"*;q=0, gzip": true, "gzip;q=x": false, "identity": false, "xgzip": false,
	} {
		if got := face.AcceptsGzip(http.Header{"Accept-Encoding": {header}}); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}

func TestUnchanged(t *testing.T) {
	const etag = `"a"`
	for header, want := range map[string]bool{"": false, etag: true, "W/" + etag: true, `"b", "a"`: true, "*": true, `"b"`: false, "a": false} {
		if got := face.Unchanged(http.Header{"If-None-Match": {header}}, etag); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}

// Whatever a path is, no element leads elsewhere.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{"/x", "/x/", "/x/a/b", "/x/..", "/x/a%2fb", "/x//a", "/x/%2e%2e", "/x/a+b~c:d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil || !strings.HasPrefix(u.Path, "/x") {
			return
		}
		elements, err := face.Split(u, "/x")
		if err != nil {
			return
		}
		for _, e := range elements {
			if e == "" || e == "." || e == ".." || strings.ContainsAny(e, "/\\%\x00 ") {
				t.Errorf("%q has the element %q", raw, e)
			}
		}
	})
}

package ociapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/google/go-cmp/cmp"
)

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func TestBlobIsServedWhole(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.pushBlob("hello, world")
	path := "/v2/" + testName + "/blobs/" + digestOf("hello, world")
	for _, method := range []string{"GET", "HEAD"} {
		answer := r.want(http.StatusOK, call{method: method, path: path, header: map[string]string{"Range": "units=1-2"}})
		want := map[string]string{
			"Content-Length": "12", "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes",
			"Docker-Content-Digest": digestOf("hello, world"), "X-Content-Type-Options": "nosniff",
			"Content-Security-Policy": "default-src 'none'; sandbox",
		}
		for k, v := range want {
			if got := answer.Header.Get(k); got != v {
				t.Errorf("%s: %s is %q, want %q", method, k, got, v)
			}
		}
		if body := read(t, answer); method == "GET" && body != "hello, world" || method == "HEAD" && body != "" {
			t.Errorf("%s: body %q", method, body)
		}
	}
	r.wantProblem(http.StatusNotFound, "BLOB_UNKNOWN", call{method: "GET", path: "/v2/" + testName + "/blobs/" + digestOf("no")})
	r.wantProblem(http.StatusBadRequest, "DIGEST_INVALID", call{method: "GET", path: "/v2/" + testName + "/blobs/sha256:AB"}, "sha256:")
}

func TestBlobRanges(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.pushBlob("0123456789")
	r.pushBlob("")
	for _, c := range []struct {
		header       string
		status       int
		body, extent string
	}{
		{"bytes=0-0", 206, "0", "bytes 0-0/10"},
		{"bytes=2-4", 206, "234", "bytes 2-4/10"},
		{"bytes=7-", 206, "789", "bytes 7-9/10"},
		{"bytes=7-99", 206, "789", "bytes 7-9/10"},
		{"bytes=7-99999999999999999999", 206, "789", "bytes 7-9/10"},
		{"bytes=-3", 206, "789", "bytes 7-9/10"},
		{"bytes=-99", 206, "0123456789", "bytes 0-9/10"},
		{"bytes=10-", 416, "", "bytes */10"},
		{"bytes=99999999999999999999-", 416, "", "bytes */10"},
		{"bytes=5-3", 416, "", "bytes */10"},
		{"bytes=-0", 416, "", "bytes */10"},
		{"bytes=+1-2", 416, "", "bytes */10"},
		{"bytes=x", 416, "", "bytes */10"},
		{"bytes=0-1,4-5", 200, "0123456789", ""},
		{"lines=0-1", 200, "0123456789", ""},
	} {
		answer := r.want(c.status, call{method: "GET", path: "/v2/" + testName + "/blobs/" + digestOf("0123456789"), header: map[string]string{"Range": c.header}})
		if got := answer.Header.Get("Content-Range"); got != c.extent {
			t.Errorf("%s: Content-Range %q, want %q", c.header, got, c.extent)
		}
		if c.status == 416 {
			problem(t, answer)
		} else if got := read(t, answer); got != c.body || answer.Header.Get("Content-Length") != strconv.Itoa(len(c.body)) {
			t.Errorf("%s: %q with length %s, want %q", c.header, got, answer.Header.Get("Content-Length"), c.body)
		}
	}
	path := "/v2/" + testName + "/blobs/" + digestOf("")
	r.want(http.StatusRequestedRangeNotSatisfiable, call{method: "GET", path: path, header: map[string]string{"Range": "bytes=0-"}})
	r.want(http.StatusOK, call{method: "GET", path: path, header: map[string]string{"Range": "bytes=0-", "If-Range": `"x"`}})
	r.want(http.StatusOK, call{method: "HEAD", path: path, header: map[string]string{"Range": "bytes=0-"}})
}

func TestManifestLifecycle(t *testing.T) {
	r := newRegistry(t, wire.Private)
	content := r.pushChart("layer", "1.0.0")
	d := digestOf(content)
	for _, reference := range []string{"1.0.0", d} {
		for _, method := range []string{"GET", "HEAD"} {
			answer := r.want(http.StatusOK, call{method: method, path: "/v2/" + testName + "/manifests/" + reference})
			got := []string{answer.Header.Get("Content-Type"), answer.Header.Get("Content-Length"), answer.Header.Get("Docker-Content-Digest")}
			if diff := cmp.Diff([]string{ociManifest, strconv.Itoa(len(content)), d}, got); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", method, reference, diff)
			}
			if body := read(t, answer); method == "GET" && body != content {
				t.Errorf("GET %s: %s", reference, body)
			}
		}
	}
	again := r.want(http.StatusCreated, r.manifestCall("1.0.0", content))
	if got := again.Header.Get("Location"); got != "/v2/"+testName+"/manifests/"+d || again.Header.Get("Docker-Content-Digest") != d {
		t.Errorf("the same push again: Location %q, headers %v", got, again.Header)
	}
	r.want(http.StatusCreated, r.manifestCall(d, content))
	r.pushBlob("other")
	r.wantProblem(http.StatusConflict, "DENIED", r.manifestCall("1.0.0", manifestOf("other")), testName+" 1.0.0", d, "immutable", "Chart.yaml")
	r.want(http.StatusAccepted, call{method: "DELETE", path: "/v2/" + testName + "/manifests/1.0.0"})
	r.wantProblem(http.StatusNotFound, "MANIFEST_UNKNOWN", call{method: "GET", path: "/v2/" + testName + "/manifests/1.0.0"})
	r.want(http.StatusAccepted, call{method: "DELETE", path: "/v2/" + testName + "/manifests/" + d})
	r.wantProblem(http.StatusNotFound, "MANIFEST_UNKNOWN", call{method: "DELETE", path: "/v2/" + testName + "/manifests/" + d})
	r.want(http.StatusAccepted, call{method: "DELETE", path: "/v2/" + testName + "/blobs/" + digestOf("layer")})
	r.wantProblem(http.StatusNotFound, "BLOB_UNKNOWN", call{method: "DELETE", path: "/v2/" + testName + "/blobs/" + digestOf("layer")})
}

func TestManifestRefusals(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.pushBlob("{}")
	content := manifestOf("absent")
	r.wantProblem(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", r.manifestCall("1.0.0", content), digestOf("absent"))
	r.wantProblem(http.StatusBadRequest, "DIGEST_INVALID", r.manifestCall(digestOf("else"), content))
	r.wantProblem(http.StatusBadRequest, "MANIFEST_INVALID", r.manifestCall("1.0.0", "{"))
	r.wantProblem(http.StatusBadRequest, "MANIFEST_INVALID", r.manifestCall(strings.Repeat("a", 129), content), "tag")
	untyped := r.manifestCall("1.0.0", content)
	untyped.header = nil
	r.wantProblem(http.StatusBadRequest, "MANIFEST_INVALID", untyped, "Content-Type")
	r.wantProblem(http.StatusNotFound, "NAME_UNKNOWN", call{method: "GET", path: "/v2/" + testName + "/tags/list"})
}

// untouchable fails the test when it is read.
type untouchable struct{ t *testing.T }

func (u untouchable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func TestLargeManifestIsRefusedBeforeItIsRead(t *testing.T) {
	r := newRegistry(t, wire.Private)
	request := httptest.NewRequest(http.MethodPut, "/v2/"+testName+"/manifests/1.0.0", untouchable{t})
	request.ContentLength = repository.MaxManifestBytes + 1
	request.Header.Set("Content-Type", ociManifest)
	request.SetBasicAuth("x", r.tokens["all"])
	recorder := newRecorder()
	r.handler.ServeHTTP(recorder, request)
	if recorder.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d, want 413", recorder.Code)
	}
	lying := r.manifestCall("1.0.0", "")
	lying.reader = io.LimitReader(zeros{}, repository.MaxManifestBytes+1)
	r.wantProblem(http.StatusRequestEntityTooLarge, "SIZE_INVALID", lying, strconv.Itoa(repository.MaxManifestBytes))
}

// As many large manifests as there are places for are in memory at once, however slowly they come; small ones go on.
func TestLargeManifestsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, wire.Private)
		small := r.pushChart("layer", "small")
		large := small + strings.Repeat(" ", smallManifest)
		var senders []*io.PipeWriter
		var pushes sync.WaitGroup
		for i := range maxLargeManifests {
			body, sender := io.Pipe()
			senders = append(senders, sender)
			push := r.manifestCall(fmt.Sprintf("slow-%d", i), "")
			push.reader = body
			pushes.Go(func() { r.want(http.StatusCreated, push) })
			if _, err := io.WriteString(sender, large); err != nil {
				t.Fatal(err)
			}
		}
		r.wantProblem(http.StatusTooManyRequests, "TOOMANYREQUESTS", r.manifestCall("late", large), "try again later")
		r.want(http.StatusCreated, r.manifestCall("small-too", small))
		for _, sender := range senders {
			pushes.Go(func() { _ = sender.Close() })
		}
		r.want(http.StatusCreated, r.manifestCall("waits", large))
		pushes.Wait()
		broken := r.manifestCall("broken", "")
		for range maxLargeManifests + 1 {
			broken.reader = io.MultiReader(strings.NewReader(large), iotest.ErrReader(io.ErrUnexpectedEOF))
			r.want(http.StatusBadRequest, broken)
		}
	})
}

// A body that cannot be read is the client's fault, and nothing for whoever looks after the server's log.
func TestBodiesThatCannotBeRead(t *testing.T) {
	r := newRegistry(t, wire.Private)
	location := r.want(http.StatusAccepted, call{method: "POST", path: "/v2/" + testName + "/blobs/uploads/"}).Header.Get("Location")
	for _, c := range []call{
		{method: "POST", path: "/v2/" + testName + "/blobs/uploads/?digest=" + digestOf("new")},
		{method: "PATCH", path: location},
		{method: "PUT", path: location + "?digest=" + digestOf("new")},
		r.manifestCall("1.0.0", ""),
	} {
		c.reader = io.MultiReader(strings.NewReader("ne"), iotest.ErrReader(errors.New("malformed chunked encoding")))
		r.wantProblem(http.StatusBadRequest, "SIZE_INVALID", c, "framing", "nothing was stored")
	}
	if r.log.Len() > 0 {
		t.Errorf("the log has: %s", r.log)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestTags(t *testing.T) {
	r := newRegistry(t, wire.Private)
	for _, tag := range []string{"2.0.0", "1.0.0", "1.10.0", "1.9.0_x"} {
		r.pushChart("layer", tag)
	}
	for _, c := range []struct {
		query string
		tags  []string
		link  string
	}{
		{"", []string{"1.0.0", "1.10.0", "1.9.0_x", "2.0.0"}, ""},
		{"?n=4", []string{"1.0.0", "1.10.0", "1.9.0_x", "2.0.0"}, ""},
		{"?n=2", []string{"1.0.0", "1.10.0"}, "</v2/" + testName + `/tags/list?last=1.10.0&n=2>; rel="next"`},
		{"?n=2&last=1.10.0", []string{"1.9.0_x", "2.0.0"}, ""},
		{"?last=1.1", []string{"1.10.0", "1.9.0_x", "2.0.0"}, ""},
		{"?last=unknown", []string{}, ""},
		{"?n=0", []string{}, ""},
		{"?n=99999999999999999999", []string{"1.0.0", "1.10.0", "1.9.0_x", "2.0.0"}, ""},
	} {
		answer := r.want(http.StatusOK, call{method: "GET", path: "/v2/" + testName + "/tags/list" + c.query})
		type list struct {
			Name string
			Tags []string
		}
		var got list
		if err := json.Unmarshal([]byte(read(t, answer)), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(list{testName, c.tags}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.query, diff)
		}
		if link := answer.Header.Get("Link"); link != c.link {
			t.Errorf("%s: Link %q, want %q", c.query, link, c.link)
		}
	}
	for _, query := range []string{"?n=-1", "?n=x", "?n=", "?n=%zz"} {
		r.want(http.StatusBadRequest, call{method: "GET", path: "/v2/" + testName + "/tags/list" + query})
	}
	r.want(http.StatusNotFound, call{method: "GET", path: "/v2/acme/charts/none/tags/list?n=0"})
}

func TestUnsupportedMethods(t *testing.T) {
	r := newRegistry(t, wire.Private)
	for path, allow := range map[string]string{
		"/v2/":                                 "GET, HEAD, OPTIONS",
		"/v2/" + testName + "/tags/list":       "GET, HEAD, OPTIONS",
		"/v2/" + testName + "/manifests/a":     "DELETE, GET, HEAD, OPTIONS, PUT",
		"/v2/" + testName + "/blobs/a":         "DELETE, GET, HEAD, OPTIONS",
		"/v2/" + testName + "/blobs/uploads":   "OPTIONS, POST",
		"/v2/" + testName + "/blobs/uploads/x": "DELETE, GET, OPTIONS, PATCH, PUT",
	} {
		answer := r.wantProblem(http.StatusMethodNotAllowed, "UNSUPPORTED", call{method: "BREW", path: path}, allow)
		if got := answer.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow %q, want %q", path, got, allow)
		}
		if got := r.want(http.StatusNoContent, call{method: "OPTIONS", path: path}).Header.Get("Allow"); got != allow {
			t.Errorf("OPTIONS %s: Allow %q, want %q", path, got, allow)
		}
	}
}

func TestWrongNamesNameTheRightOne(t *testing.T) {
	r := newRegistry(t, wire.Private)
	right := "oci://" + externalHost + "/acme/charts"
	for _, path := range []string{
		"/v2/web/manifests/1.0.0", "/v2/acme/web/manifests/1.0.0", "/v2/acme/other/web/manifests/1.0.0",
		"/v2/other/charts/web/manifests/1.0.0", "/v2/acme/charts/manifests/1.0.0", "/v2/a/tags/list",
	} {
		r.wantProblem(http.StatusNotFound, "NAME_UNKNOWN", call{method: "GET", path: path}, right)
	}
	r.wantProblem(http.StatusBadRequest, "NAME_INVALID", call{method: "GET", path: "/v2/acme/charts/Web/tags/list"}, "lower-case")
	r.want(http.StatusBadRequest, call{method: "GET", path: "/v2/acme/charts/" + strings.Repeat("a", 300) + "/tags/list"})
	r.want(http.StatusNotFound, call{method: "GET", path: "/v2/acme/charts/team/web/tags/list"})
}

func TestPathAttacks(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.pushChart("layer", "1.0.0")
	for _, path := range []string{
		"/v2/acme/charts/../charts/web/manifests/1.0.0", "/v2/acme/charts/%2e%2e/charts/web/manifests/1.0.0",
		"/v2/acme/charts/./web/manifests/1.0.0", "/v2/acme/charts//web/manifests/1.0.0", "/v2//acme/charts/web/manifests/1.0.0",
		"/v2/acme/charts%2fweb/manifests/1.0.0", "/v2/acme/charts/x%2Fweb/manifests/1.0.0", `/v2/acme/charts/x%5cweb/manifests/1.0.0`,
		"/v2/acme/charts/web%00/manifests/1.0.0", "/v2/acme/charts/web%0d%0a/manifests/1.0.0", "/v2/acme/charts/web/manifests/1.0.0%c0%ae",
		"/v2/acme/charts/web/manifests/..", "/v2/acme/charts/web/blobs/..", "/v2/acme/charts/web/blobs/uploads/..", "/v2/acme/charts/web/manifests/",
		"/v2/acme/charts/wеb/manifests/1.0.0", "/v2/acme/charts/web/manifests/1.0.0%20", "/v2/acme/charts/web;x/manifests/1.0.0",
	} {
		r.want(http.StatusBadRequest, call{method: "GET", path: path})
	}
	r.want(http.StatusOK, call{method: "GET", path: "/v2/acme/charts/web/blobs/" + strings.Replace(digestOf("layer"), ":", "%3A", 1)})
	for _, path := range []string{"/v2/acme/charts/web", "/v2/x", "/v2/acme/charts/web/referrers", "/v2/_catalog/x", "/v2/manifests/x"} {
		r.wantProblem(http.StatusNotFound, "UNSUPPORTED", call{method: "GET", path: path})
	}
	for _, path := range []string{"/", "/v1/", "/v2x", "/%76%32x/", "/metrics"} {
		r.wantProblem(http.StatusNotFound, "UNSUPPORTED", call{method: "GET", path: path, token: "none"})
	}
	r.want(http.StatusUnauthorized, call{method: "GET", path: "/v2", token: "none"})
}

// failing is a bucket whose writes, or reads, fail.
type failing struct {
	bucket.Bucket
	writes, reads *error
}

func (f failing) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	if *f.writes != nil {
		return bucket.Info{}, fmt.Errorf("put /secret/path: %w", *f.writes)
	}
	return f.Bucket.Put(ctx, key, body, size, c)
}

func (f failing) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if *f.reads != nil {
		return nil, bucket.Info{}, fmt.Errorf("get /secret/path: %w", *f.reads)
	}
	return f.Bucket.Get(ctx, key, r)
}

func TestStorageProblemsAreExplained(t *testing.T) {
	var writes, reads error
	r := newRegistry(t, wire.Private, func(b bucket.Bucket) bucket.Bucket { return failing{b, &writes, &reads} })
	r.pushChart("layer", "1.0.0")
	push := call{method: "POST", path: "/v2/" + testName + "/blobs/uploads/?digest=" + digestOf("new"), body: "new"}
	for _, c := range []struct {
		err    error
		status int
		code   string
		words  string
	}{
		{bucket.ErrFull, http.StatusInsufficientStorage, "STORAGE_FULL", "full"},
		{bucket.ErrReadOnly, http.StatusServiceUnavailable, "STORAGE_READ_ONLY", "cannot be written to"},
		{bucket.ErrUnavailable, http.StatusServiceUnavailable, "UNAVAILABLE", "try again"},
		{errors.New("surprise"), http.StatusInternalServerError, "UNKNOWN", "X-Request-Id"},
	} {
		writes = c.err
		_, message := problem(t, r.want(c.status, push))
		if strings.Contains(message, "secret") || !strings.Contains(message, c.words) {
			t.Errorf("%v: the message is %q", c.err, message)
		}
		if !strings.Contains(r.log.String(), "/secret/path") {
			t.Errorf("%v: the log does not say what failed: %s", c.err, r.log)
		}
		r.want(http.StatusOK, call{method: "GET", path: "/v2/" + testName + "/manifests/1.0.0"})
		r.log.Reset()
	}
	reads = bucket.ErrUnavailable
	r.wantProblem(http.StatusServiceUnavailable, "UNAVAILABLE", call{method: "GET", path: "/v2/" + testName + "/manifests/1.0.0"})
}

// Somebody who is told to try again later would do so for ever.
func TestDamagedTagIsExplained(t *testing.T) {
	var b bucket.Bucket
	r := newRegistry(t, wire.Private, func(opened bucket.Bucket) bucket.Bucket { b = opened; return opened })
	manifest := r.pushChart("layer", "1.0.0")
	if _, err := b.Put(t.Context(), "charts/web/tags/1.0.0", strings.NewReader(""), 0, bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	path := "/v2/" + testName + "/manifests/1.0.0"
	for _, c := range []call{{method: "GET", path: path}, r.manifestCall("1.0.0", manifest)} {
		code, message := problem(t, r.want(http.StatusNotFound, c))
		if code != "MANIFEST_UNKNOWN" || !strings.Contains(message, "delete it and push again") {
			t.Errorf("%s: %s %s", c.method, code, message)
		}
	}
}

// breaking is a bucket whose objects end in an error.
type breaking struct{ bucket.Bucket }

func (b breaking) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	content, info, err := b.Bucket.Get(ctx, key, r)
	if err != nil || !strings.Contains(key, "blobs") {
		return content, info, err
	}
	part := io.MultiReader(io.LimitReader(content, 2), iotest.ErrReader(bucket.ErrUnavailable))
	return struct {
		io.Reader
		io.Closer
	}{part, content}, info, nil
}

// What cannot be sent whole must not look whole.
func TestStorageThatFailsMidwayBreaksOff(t *testing.T) {
	r := newRegistry(t, wire.Private, func(b bucket.Bucket) bucket.Bucket { return breaking{b} })
	r.pushBlob("content")
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) {
			t.Errorf("the answer ended with %v", err)
		}
		if !strings.Contains(r.log.String(), "in the middle of an answer") {
			t.Errorf("the log has: %s", r.log)
		}
	}()
	r.do(call{method: "GET", path: "/v2/" + testName + "/blobs/" + digestOf("content")})
}

func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{
		"/v2/", "/v2", "/v2/a/b/c/tags/list", "/v2/a/b/c/manifests/1.0", "/v2/a/b/c/blobs/sha256:00", "/v2/a/b/c/blobs/uploads/",
		"/v2/a/b/c/blobs/uploads/x.1.y", "/v2/a/b/../c/tags/list", "/v2/a/b/./c/tags/list", "/v2/a%2fb/tags/list", "/v2//", "/v2/tags/list", "/v2/blobs/uploads/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			return
		}
		target, err := parsePath(u)
		if err != nil {
			return
		}
		if target.route == base {
			return
		}
		name := strings.Split(target.organization+"/"+target.registry+"/"+target.chart, "/")
		for _, element := range append(name, target.argument) {
			if element == "." || element == ".." || strings.ContainsAny(element, "/\\\x00\r\n%") {
				t.Errorf("%q has the element %q", raw, element)
			}
		}
		if !strings.HasPrefix(u.Path, "/v2/"+target.name()+"/") {
			t.Errorf("%q has the name %q", raw, target.name())
		}
	})
}

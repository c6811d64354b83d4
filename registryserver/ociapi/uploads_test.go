package ociapi

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/google/go-cmp/cmp"
)

func (r *registry) begin() string {
	r.t.Helper()
	return r.want(http.StatusAccepted, call{method: "POST", path: "/v2/" + testName + "/blobs/uploads/"}).Header.Get("Location")
}

func TestUploadInChunks(t *testing.T) {
	r := newRegistry(t, wire.Private)
	location := r.begin()
	if !strings.HasPrefix(location, "/v2/"+testName+"/blobs/uploads/") {
		t.Fatalf("the Location %q is not relative", location)
	}
	chunk := func(status int, extent, body string) *http.Response {
		return r.want(status, call{method: "PATCH", path: location, body: body, header: map[string]string{"Content-Range": extent}})
	}
	state := func() string {
		return r.want(http.StatusNoContent, call{method: "GET", path: location}).Header.Get("Range")
	}
	if got := state(); got != "0-0" {
		t.Errorf("a new upload has Range %q", got)
	}
	if got := chunk(http.StatusAccepted, "0-3", "abcd").Header; got.Get("Range") != "0-3" || got.Get("Location") != location {
		t.Errorf("after the first chunk: %v", got)
	}
	late := r.wantProblem(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID",
		call{method: "PATCH", path: location, body: "xy", header: map[string]string{"Content-Range": "7-8"}}, "offset 4")
	if late.Header.Get("Range") != "0-3" || late.Header.Get("Location") != location {
		t.Errorf("the answer to a chunk in the wrong place does not say how to go on: %v", late.Header)
	}
	if got := state(); got != "0-3" {
		t.Errorf("after the refused chunk the upload has Range %q", got)
	}
	r.want(http.StatusAccepted, call{method: "PATCH", path: location, reader: strings.NewReader("ef")})
	created := r.want(http.StatusCreated, call{method: "PUT", path: location + "?digest=" + digestOf("abcdefgh"), body: "gh", header: map[string]string{"Content-Range": "6-7"}})
	if got := created.Header; got.Get("Location") != "/v2/"+testName+"/blobs/"+digestOf("abcdefgh") || got.Get("Docker-Content-Digest") != digestOf("abcdefgh") {
		t.Errorf("after the last chunk: %v", got)
	}
	if got := read(t, r.want(http.StatusOK, call{method: "GET", path: created.Header.Get("Location")})); got != "abcdefgh" {
		t.Errorf("the blob is %q", got)
	}
	r.want(http.StatusNotFound, call{method: "GET", path: location})
}

func TestUploadAtOnce(t *testing.T) {
	r := newRegistry(t, wire.Private)
	path := "/v2/" + testName + "/blobs/uploads/?digest="
	for _, content := range []string{"whole", ""} {
		created := r.want(http.StatusCreated, call{method: "POST", path: path + digestOf(content), body: content})
		if got := read(t, r.want(http.StatusOK, call{method: "GET", path: created.Header.Get("Location")})); got != content {
			t.Errorf("the blob is %q, want %q", got, content)
		}
	}
	r.wantProblem(http.StatusBadRequest, "DIGEST_INVALID", call{method: "POST", path: path + digestOf("else"), body: "whole"}, "nothing was stored")
	r.want(http.StatusNotFound, call{method: "HEAD", path: "/v2/" + testName + "/blobs/" + digestOf("else")})
	r.wantProblem(http.StatusBadRequest, "DIGEST_INVALID", call{method: "POST", path: path + "md5:00", body: "whole"})
}

func TestMount(t *testing.T) {
	r := newRegistry(t, wire.Private)
	source, target := "acme/charts/team/source", testName
	d := digestOf("content")
	r.want(http.StatusCreated, call{method: "POST", path: "/v2/" + source + "/blobs/uploads/?digest=" + d, body: "content"})
	mount := func(query, token string) call {
		return call{method: "POST", path: "/v2/" + target + "/blobs/uploads/?mount=" + query, token: token}
	}
	// Whatever stands in the way, an upload begins.
	for _, query := range []string{
		digestOf("nothing") + "&from=" + source, d + "&from=acme/charts/nothing", d + "&from=team/source", d + "&from=other/charts/team/source",
		d + "&from=", d + "&from=..%2Fsource", d + "&from=" + source + "%2F", digestOf("nothing"),
	} {
		answer := r.want(http.StatusAccepted, mount(query, ""))
		if !strings.HasPrefix(answer.Header.Get("Location"), "/v2/"+target+"/blobs/uploads/") || answer.Header.Get("Docker-Content-Digest") != "" {
			t.Errorf("%s: %v", query, answer.Header)
		}
	}
	r.wantProblem(http.StatusBadRequest, "DIGEST_INVALID", mount("sha256:x&from="+source, ""))
	r.want(http.StatusForbidden, mount(d+"&from="+source, "read"))
	r.want(http.StatusForbidden, mount(d+"&from="+source, "write"))
	r.want(http.StatusNotFound, call{method: "HEAD", path: "/v2/" + target + "/blobs/" + d})

	answer := r.want(http.StatusCreated, mount(d+"&from="+source, "read and write"))
	want := []string{"/v2/" + target + "/blobs/" + d, d}
	if diff := cmp.Diff(want, []string{answer.Header.Get("Location"), answer.Header.Get("Docker-Content-Digest")}); diff != "" {
		t.Error(diff)
	}
	if got := read(t, r.want(http.StatusOK, call{method: "GET", path: "/v2/" + target + "/blobs/" + d})); got != "content" {
		t.Errorf("it has %q", got)
	}
	target = "acme/charts/third"
	r.want(http.StatusCreated, mount(d, ""))
	r.want(http.StatusOK, call{method: "GET", path: "/v2/" + target + "/blobs/" + d})
}

// A token must not learn, or take, what is in a repository that it may not read.
func TestMountNeedsReadOfTheSource(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.pushBlob("secret")
	for _, content := range []string{"secret", "not there"} {
		for _, query := range []string{"&from=" + testName, ""} {
			r.want(http.StatusAccepted, call{method: "POST", token: "all of another chart", path: "/v2/acme/charts/other/blobs/uploads/?mount=" + digestOf(content) + query})
			r.want(http.StatusNotFound, call{method: "HEAD", token: "all of another chart", path: "/v2/acme/charts/other/blobs/" + digestOf(content)})
		}
	}
}

func TestUploadRefusals(t *testing.T) {
	r := newRegistry(t, wire.Private)
	location := r.begin()
	r.wantProblem(http.StatusBadRequest, "DIGEST_INVALID", call{method: "PUT", path: location, body: "x"}, "?digest=")
	for _, extent := range []string{"1", "a-b", "3-1", "-1-2", "bytes 0-1/*", "0-5"} {
		r.want(http.StatusBadRequest, call{method: "PATCH", path: location, body: "x", header: map[string]string{"Content-Range": extent}})
	}
	large := call{method: "PUT", path: location + "?digest=" + digestOf("x"), reader: io.LimitReader(zeros{}, maxTestBlob+1)}
	r.wantProblem(http.StatusRequestEntityTooLarge, "SIZE_INVALID", large, "a blob may have "+quota.Size(maxTestBlob)+" at most in this registry")
	large.reader = nil
	large.body = strings.Repeat("x", maxTestBlob+1)
	r.wantProblem(http.StatusRequestEntityTooLarge, "SIZE_INVALID", large)
	broken := call{method: "PUT", path: r.begin() + "?digest=" + digestOf("x"), reader: io.MultiReader(strings.NewReader("x"), brokenReader{})}
	r.wantProblem(http.StatusBadRequest, "SIZE_INVALID", broken, "ended early")
	r.want(http.StatusNotFound, call{method: "HEAD", path: "/v2/" + testName + "/blobs/" + digestOf("x")})
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestUploadIsCancelled(t *testing.T) {
	r := newRegistry(t, wire.Private)
	location := r.begin()
	r.want(http.StatusAccepted, call{method: "PATCH", path: location, body: "x"})
	r.want(http.StatusNoContent, call{method: "DELETE", path: location})
	r.wantProblem(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", call{method: "GET", path: location})
}

// The address of an upload is of use to who began it, for the repository it was begun in, for a day.
func TestUploadIsBound(t *testing.T) {
	r := newRegistry(t, wire.Private)
	location := r.begin()
	segment := location[strings.LastIndex(location, "/")+1:]
	if !regexp.MustCompile(`^[A-Za-z0-9_-]{22}\.[0-9]+\.[A-Za-z0-9_-]{43}$`).MatchString(segment) {
		t.Errorf("the upload %q does not have 128 bits of id and a signature", segment)
	}
	unknown := func(c call) {
		t.Helper()
		for _, method := range []string{"GET", "PATCH", "DELETE"} {
			c.method = method
			r.wantProblem(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", c)
		}
		c.method, c.body = "PUT", "x"
		c.path += "?digest=" + digestOf("x")
		r.wantProblem(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", c)
	}
	unknown(call{path: location, token: "another"})
	unknown(call{path: "/v2/acme/charts/other/blobs/uploads/" + segment})
	unknown(call{path: location[:len(location)-2] + "AA"})
	unknown(call{path: location + "A"})
	unknown(call{path: "/v2/" + testName + "/blobs/uploads/" + segment[:22]})
	id, rest, _ := strings.Cut(segment, ".")
	_, signature, _ := strings.Cut(rest, ".")
	unknown(call{path: "/v2/" + testName + "/blobs/uploads/" + id + ".9999999999." + signature})
	r.want(http.StatusNoContent, call{method: "GET", path: location})
	r.now = r.now.Add(uploadLifetime)
	r.want(http.StatusNoContent, call{method: "GET", path: location})
	r.now = r.now.Add(time.Second)
	unknown(call{path: location})
}

// Keys are replaced with an overlap: what the old one signed stays good until it is taken away.
func TestUploadKeysAreReplaced(t *testing.T) {
	r := newRegistry(t, wire.Private)
	location := r.begin()
	older, newer := r.keys[0], bytes.Repeat([]byte{2}, 32)
	r.keys = [][]byte{newer, older}
	r.want(http.StatusNoContent, call{method: "GET", path: location})
	fresh := r.begin()
	r.keys = [][]byte{newer}
	r.want(http.StatusNotFound, call{method: "GET", path: location})
	r.want(http.StatusNoContent, call{method: "GET", path: fresh})
}

// readerFunc is a reader that is called once and then ends.
type readerFunc struct {
	f    func() string
	done bool
}

func (r *readerFunc) Read(p []byte) (int, error) {
	if r.done {
		return 0, io.EOF
	}
	r.done = true
	return copy(p, r.f()), nil
}

// A token that is revoked while its holder is sending stores nothing.
func TestRevocationDuringAPushStoresNothing(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.pushChart("layer", "1.0.0")
	location := r.begin()
	go func() { _ = r.access.Watch(t.Context()) }()
	revokeAll := func(content string) *readerFunc {
		return &readerFunc{f: func() string {
			r.snapshot.Revision++
			keep := r.snapshot
			keep.Tokens = keep.Tokens[:1]
			if err := os.WriteFile(r.file, keep.Encode(), 0o600); err != nil {
				t.Error(err)
			}
			for deadline := time.Now().Add(30 * time.Second); r.access.State().Revision != keep.Revision; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Error("the changed access file is not in force")
					break
				}
			}
			return content
		}}
	}
	r.wantProblem(http.StatusForbidden, "DENIED", call{method: "PUT", path: location + "?digest=" + digestOf("x"), reader: revokeAll("x")}, "no longer valid")
	r.want(http.StatusNotFound, call{method: "HEAD", path: "/v2/" + testName + "/blobs/" + digestOf("x"), token: "read"})
}

func FuzzUploadState(f *testing.F) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := signer{keys: func() [][]byte { return [][]byte{bytes.Repeat([]byte{7}, 32)} }, now: func() time.Time { return now }, random: strings.NewReader("sixteen bytes!!!")}
	issued, err := s.issue("a/b/c", "crt_x")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{issued, "", ".", "..", issued + ".", strings.ToUpper(issued), "a.1.b", strings.Repeat(".", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, segment string) {
		id, err := s.verify(segment, "a/b/c", "crt_x")
		if segment == issued {
			if err != nil || !strings.HasPrefix(issued, id+".") {
				t.Errorf("what was issued is refused: %q, %v", id, err)
			}
		} else if !errors.Is(err, repository.ErrUploadUnknown) {
			t.Errorf("%q is taken", segment)
		}
	})
}

func FuzzChunkStart(f *testing.F) {
	for _, seed := range []string{"", "0-0", "5-3", "-1", "0-99999999999999999999", "1-2-3", " 1-2"} {
		f.Add(seed, int64(1))
	}
	f.Fuzz(func(t *testing.T, header string, length int64) {
		start, err := chunkStart(header, length)
		if err == nil && (header == "") != (start == -1) || start < -1 {
			t.Errorf("%q of %d bytes begins at %d, %v", header, length, start, err)
		}
	})
}

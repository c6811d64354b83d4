package registryserver_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
)

const repositoryPath = "/v2/acme/charts/web"

// raw sends bytes as they are, and returns status and body of the answer; 0 where there was none.
func (r *running) raw(request string) (status int, body string) {
	r.t.Helper()
	c := r.dial()
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		return 0, ""
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close()
	content, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, string(content)
}

// line is a request without a body to a target as it is.
func (r *running) line(method, target string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", method, target, r.token)
}

var ownFiles = regexp.MustCompile(`/data\.state/|/objects/(check/|probe)|/\.tmp/`)

// stored are the files of the storage, without those with which the server tries out whether it works.
func stored(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files := map[string]bool{}
	if err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && !ownFiles.MatchString(path) {
			files[path] = true
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

// startIn is start with the folder that holds all that the server writes.
func startIn(t *testing.T, change func(*registryserver.Config)) (*running, string) {
	t.Helper()
	var folder string
	r := start(t, func(c *registryserver.Config) {
		folder = filepath.Dir(c.Storage.Dir)
		if change != nil {
			change(c)
		}
	})
	r.untilReady()
	return r, folder
}

// unchanged runs attacks of which nothing may stay behind.
func (r *running) unchanged(folder string, attacks func()) {
	r.t.Helper()
	before := stored(r.t, folder)
	attacks()
	after := stored(r.t, folder)
	for f := range after {
		// The server's own work goes on meanwhile.
		if !before[f] && !strings.Contains(f, "/objects/leases/") && !strings.Contains(f, "/objects/inventory/") {
			r.t.Errorf("%s was stored", f)
		}
	}
}

func wantError(t *testing.T, what string, status int, body string, wanted ...int) {
	t.Helper()
	for _, w := range wanted {
		if status == w {
			var parsed struct {
				Errors []struct{ Code, Message string }
			}
			if err := json.Unmarshal([]byte(body), &parsed); err == nil && len(parsed.Errors) == 1 && parsed.Errors[0].Message != "" {
				return
			}
			if w == http.StatusBadRequest && strings.HasPrefix(body, "400 Bad Request") {
				return // net/http refused it before anything of ours saw it.
			}
		}
	}
	t.Errorf("%s: %d %.200s, want an error with one of %d", what, status, body, wanted)
}

func TestHostileNames(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, nil)
	long := strings.Repeat("a", 300)
	names := []string{
		"..", ".", "../web", "web/..", "web/../../..", "%2e%2e", "%2e%2e%2fweb", "web%2fx", "web%2Fx", "web//x", "/web", "web/", `web\x`, "web%5c..%5cx", "web%00", "web%00.json",
		"web%0d%0aX-Evil:%201", "%c0%ae%c0%ae", "%e0%80%ae", "%ff", "w%C3%A9b", "w%D0%B5b", "WEB", "Web", "web%20", "web;x", "web?", "%", "%zz", long, strings.Repeat("a/", 150) + "a", "web%E2%80%8B", "_web", "web-", "web.", "-web", "web..x", "web/.x", "con:", "c:", "~", "web%2500",
	}
	r.unchanged(folder, func() {
		for _, name := range names {
			for _, target := range []string{
				"GET /v2/acme/charts/" + name + "/tags/list",
				"POST /v2/acme/charts/" + name + "/blobs/uploads/?digest=" + digest.FromString("").String(),
				"PUT /v2/acme/charts/" + name + "/manifests/1.0.0",
				"DELETE /v2/acme/charts/" + name + "/manifests/1.0.0",
				"GET /v2/acme/charts/" + name + "/referrers/" + digest.FromString("").String(),
			} {
				method, target, _ := strings.Cut(target, " ")
				status, body := r.raw(r.line(method, target))
				wantError(t, method+" "+target, status, body, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed)
			}
		}
		for _, reference := range []string{
			"..", "%2e%2e", "..%2fx", "%2e", ".", "-x", ".x", "a%20b", "a%00", "a%0ab", `a\b`, long, strings.Repeat("a", 129), "a+b", "%C3%A9", "a%2fb", "",
		} {
			for _, target := range []string{"PUT " + repositoryPath + "/manifests/", "GET " + repositoryPath + "/manifests/", "GET " + repositoryPath + "/blobs/", "PATCH " + repositoryPath + "/blobs/uploads/", "GET " + repositoryPath + "/blobs/uploads/"} {
				method, target, _ := strings.Cut(target, " ")
				status, body := r.raw(r.line(method, target+reference))
				wantError(t, method+" "+target+reference, status, body, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed)
			}
		}
	})
}

func TestHostileDigests(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, nil)
	hex := digest.FromString("x").Encoded()
	r.unchanged(folder, func() {
		for _, d := range []string{
			"sha256:", "sha256:" + hex[:63], "sha256:" + hex + "0", "sha256:" + strings.ToUpper(hex), "SHA256:" + hex, "sha512:" + hex, "sha1:" + hex[:40], "md5:" + hex[:32],
			"sha256:../../../etc/passwd", "sha256:..%2f..%2fx", "sha256%3a" + hex[:10], "sha256:" + strings.Repeat("g", 64), "sha256+x:" + hex, ":", "sha256:" + hex + ":" + hex, "sha256:" + strings.Repeat("0", 5000), "sha256:" + hex[:62] + "%00",
		} {
			for _, target := range []string{
				"GET " + repositoryPath + "/blobs/" + d, "HEAD " + repositoryPath + "/blobs/" + d, "DELETE " + repositoryPath + "/blobs/" + d, "GET " + repositoryPath + "/manifests/" + d,
				"PUT " + repositoryPath + "/manifests/" + d, "POST " + repositoryPath + "/blobs/uploads/?digest=" + d, "GET " + repositoryPath + "/referrers/" + d,
			} {
				method, target, _ := strings.Cut(target, " ")
				status, body := r.raw(r.line(method, target))
				if method == "HEAD" {
					if status != http.StatusBadRequest && status != http.StatusNotFound {
						t.Errorf("%s %s: %d", method, target, status)
					}
					continue
				}
				wantError(t, method+" "+target, status, body, http.StatusBadRequest, http.StatusNotFound)
			}
		}
	})
}

// What was announced is what is stored, or nothing is.
func TestContentThatIsNotWhatItSays(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, nil)
	d := digest.FromString("hello").String()
	head := func(method, target, more string) string {
		return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: close\r\n%s", method, target, r.token, more)
	}
	upload := repositoryPath + "/blobs/uploads/?digest=" + d
	r.unchanged(folder, func() {
		for what, request := range map[string]string{
			"another blob":                head("POST", upload, "Content-Length: 5\r\n\r\nhullo"),
			"a manifest of another":       head("PUT", repositoryPath+"/manifests/"+d, "Content-Type: "+charttest.ManifestMediaType+"\r\nContent-Length: 2\r\n\r\n{}"),
			"a chunk that is too short":   head("POST", upload, "Transfer-Encoding: chunked\r\n\r\n5\r\nhel\r\n0\r\n\r\n"),
			"a chunk that is too long":    head("POST", upload, "Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n"),
			"a chunk of no size":          head("POST", upload, "Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n"),
			"a chunk of a gigantic size":  head("POST", upload, "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
			"two lengths":                 head("POST", upload, "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
			"a length of less than none":  head("POST", upload, "Content-Length: -5\r\n\r\nhello"),
			"a length over all bounds":    head("POST", upload, "Content-Length: 9223372036854775807\r\n\r\nhello"),
			"a length that no int holds":  head("POST", upload, "Content-Length: 99999999999999999999\r\n\r\nhello"),
			"a transfer encoding twice":   head("POST", upload, "Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
			"an unknown transfer":         head("POST", upload, "Transfer-Encoding: gzip\r\n\r\nhello"),
			"an expectation of its own":   head("POST", upload, "Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello"),
			"a header that is no header":  head("POST", upload, "Content-Length: 5\r\nX\x00Y: 1\r\n\r\nhello"),
			"a space before the colon":    head("POST", upload, "Content-Length : 5\r\n\r\nhello"),
			"a chunk extension that ends": head("POST", upload, "Transfer-Encoding: chunked\r\n\r\n5;"+strings.Repeat("x", 100_000)+"\r\nhello\r\n0\r\n\r\n"),
		} {
			if status, body := r.raw(request); status != 0 && (status < 400 || status == http.StatusInternalServerError) {
				t.Errorf("%s: %d %s", what, status, body)
			}
		}
		// A body that breaks off.
		c := r.dial()
		fmt.Fprint(c, head("POST", upload, "Content-Length: 5\r\n\r\nhel"))
		c.Close()
		eventually(t, "the broken request was logged", func() bool { return strings.Count(r.log.String(), "status=400") > 0 })
	})
	c := r.dial()
	fmt.Fprint(c, head("POST", upload, "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"))
	reader := bufio.NewReader(c)
	if line, err := reader.ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") {
		t.Fatalf("it is not told to go on: %q %v", line, err)
	}
	fmt.Fprint(c, "hello")
	_, _ = reader.ReadString('\n')
	if answer, err := http.ReadResponse(reader, nil); err != nil || answer.StatusCode != http.StatusCreated {
		t.Errorf("%v, %v", answer, err)
	}
}

func TestHostileManifests(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, nil)
	d := digest.FromString("{}")
	r.pushBlob("{}")
	config := charttest.Descriptor("text/plain", []byte("{}"))
	with := func(fields string) string {
		return `{"schemaVersion":2,"config":` + config + `,"layers":[]` + fields + `}`
	}
	r.unchanged(folder, func() {
		for what, c := range map[string]struct {
			manifest string
			status   int
		}{
			"over 4 MiB":               {with(`,"x":"` + strings.Repeat("x", 4<<20) + `"`), http.StatusRequestEntityTooLarge},
			"deep":                     {with(`,"x":` + strings.Repeat(`{"x":`, 10_000) + "1" + strings.Repeat("}", 10_000)), http.StatusBadRequest},
			"deep lists":               {with(`,"x":` + strings.Repeat("[", 500_000) + strings.Repeat("]", 500_000)), http.StatusBadRequest},
			"a key twice":              {with(`,"layers":[]`), http.StatusBadRequest},
			"10,000 layers":            {`{"schemaVersion":2,"config":` + config + `,"layers":[` + strings.Repeat(config+",", 9_999) + config + `]}`, http.StatusBadRequest},
			"an index as well":         {with(`,"manifests":[]`), http.StatusBadRequest},
			"another mediaType":        {with(`,"mediaType":"application/vnd.oci.image.index.v1+json"`), http.StatusBadRequest},
			"a million values":         {with(`,"x":[` + strings.Repeat("1,", 1_000_000) + `1]`), http.StatusBadRequest},
			"no UTF-8":                 {with(",\"x\":\"\xff\""), http.StatusBadRequest},
			"a tail":                   {with("") + "{}", http.StatusBadRequest},
			"nothing":                  {"", http.StatusBadRequest},
			"a number":                 {"1e999999999", http.StatusBadRequest},
			"a size of less than none": {strings.Replace(with(""), `"size":2`, `"size":-2`, 1), http.StatusBadRequest},
			"another size":             {strings.Replace(with(""), `"size":2`, `"size":3`, 1), http.StatusBadRequest},
			"a size that no int holds": {strings.Replace(with(""), `"size":2`, `"size":99999999999999999999`, 1), http.StatusBadRequest},
			"a digest that is a path":  {strings.Replace(with(""), d.String(), "sha256:../../../../etc/passwd", 1), http.StatusBadRequest},
		} {
			status, body := r.putManifest("1.0.0", []byte(c.manifest))
			wantError(t, what, status, body, c.status)
		}
	})
	// Nothing is fetched from where a manifest points, and a subject may be what does not exist, or each other's.
	fetched := atomic.Bool{}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched.Store(true) }))
	defer elsewhere.Close()
	foreign := strings.Replace(charttest.Descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", []byte("elsewhere")), `"size"`, `"urls":["`+elsewhere.URL+`/x"],"size"`, 1)
	for what, fields := range map[string]string{
		"urls":           `,"other":[` + foreign + `]`,
		"a subject":      `,"subject":` + charttest.Descriptor(charttest.ManifestMediaType, []byte("nowhere")),
		"1 MB to say":    `,"annotations":{"a":"` + strings.Repeat("a", 1_000_000) + `"}`,
		"its own field":  `,"x":{"y":[1,2,3]}`,
		"unicode":        `,"annotations":{"\u202e":"\u0000"}`,
		"a foreign tail": `,"annotations":{"</script>":"<script>alert(1)</script>"}`,
	} {
		manifest := with(fields)
		if status, body := r.putManifest("", []byte(manifest)); status != http.StatusCreated {
			t.Errorf("%s: %d %s", what, status, body)
		}
		got := r.request("GET", r.public+repositoryPath+"/manifests/"+digest.FromString(manifest).String(), nil, nil)
		if text(t, got) != manifest || got.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(got.Header.Get("Content-Security-Policy"), "sandbox") {
			t.Errorf("%s: it is not served byte for byte, and as no page: %v", what, got.Header)
		}
	}
	manifest := strings.Replace(with(""), `"layers":[]`, `"layers":[`+foreign+`]`, 1)
	if status, body := r.putManifest("", []byte(manifest)); status != http.StatusCreated {
		t.Errorf("a layer that is elsewhere: %d %s", status, body)
	}
	if fetched.Load() {
		t.Error("the server fetched what a manifest points to")
	}
}

// Referrers come in pages of bounded size, however many and large they are.
func TestReferrersFlood(t *testing.T) {
	t.Parallel()
	r, _ := startIn(t, nil)
	r.pushBlob("{}")
	subject := charttest.Descriptor(charttest.ManifestMediaType, []byte("subject"))
	const flood, bytesEach = 12, 700_000
	for i := range flood {
		manifest := fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[],"subject":%s,"annotations":{"n":"%d","x":%q}}`,
			charttest.Descriptor("text/plain", []byte("{}")), subject, i, strings.Repeat("x", bytesEach))
		if status, body := r.putManifest("", []byte(manifest)); status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
	}
	seen := map[string]bool{}
	for path, pages := repositoryPath+"/referrers/"+digest.FromString("subject").String(), 0; path != ""; pages++ {
		answer := r.request("GET", r.public+path, nil, nil)
		body := text(t, answer)
		if answer.StatusCode != http.StatusOK || len(body) > 5<<20 || pages > flood {
			t.Fatalf("page %d: %d with %d bytes", pages, answer.StatusCode, len(body))
		}
		var index struct{ Manifests []struct{ Digest string } }
		if err := json.Unmarshal([]byte(body), &index); err != nil {
			t.Fatal(err)
		}
		for _, m := range index.Manifests {
			seen[m.Digest] = true
		}
		path = ""
		if link, _, found := strings.Cut(strings.TrimPrefix(answer.Header.Get("Link"), "<"), ">"); found {
			path = link
		}
	}
	if len(seen) != flood {
		t.Errorf("%d of %d referrers were listed", len(seen), flood)
	}
}

// Whether another repository has a blob cannot be found out by naming it in a manifest, nor by its address.
func TestOtherRepositoriesAreNoOracle(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, nil)
	r.pushBlob("secret")
	r.pushBlob("{}")
	r.limit(folder, "mine", wire.Scopes()...)
	answers := map[string]bool{}
	for _, blob := range []string{"secret", "nobody has this"} {
		var said []string
		d := digest.FromString(blob).String()
		chart := charttest.Manifest(charttest.Descriptor("application/vnd.cncf.helm.config.v1+json", []byte(blob)))
		for _, request := range []struct{ method, path, body string }{
			{"GET", "/v2/acme/charts/mine/blobs/" + d, ""}, {"HEAD", "/v2/acme/charts/mine/blobs/" + d, ""}, {"GET", "/v2/acme/charts/web/blobs/" + d, ""},
			{"HEAD", "/v2/acme/charts/web/blobs/" + d, ""}, {"PUT", "/v2/acme/charts/mine/manifests/1.0.0", string(chart)},
			{"POST", "/v2/acme/charts/mine/blobs/uploads/?mount=" + d + "&from=acme/charts/web", ""}, {"POST", "/v2/acme/charts/mine/blobs/uploads/?mount=" + d, ""},
		} {
			answer := r.request(request.method, r.public+request.path, strings.NewReader(request.body), map[string]string{"Content-Type": charttest.ManifestMediaType})
			body := strings.ReplaceAll(text(t, answer), d, "DIGEST")
			if answer.StatusCode < 300 && request.method != "POST" || answer.StatusCode == http.StatusCreated {
				t.Errorf("%s %s: %d", request.method, request.path, answer.StatusCode)
			}
			said = append(said, fmt.Sprint(answer.StatusCode, body))
		}
		answers[strings.ReplaceAll(strings.Join(said, "\n"), fmt.Sprintf(`"size":%d`, len(blob)), "")] = true
	}
	if len(answers) != 1 {
		t.Errorf("the answers differ: %v", answers)
	}
}

func TestHostileRanges(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, nil)
	const content = "hello"
	address := r.pushBlob(content)
	for _, header := range []string{
		"bytes=9-", "bytes=5-", "bytes=99999999999999999999-", "bytes=9223372036854775807-9223372036854775807", "bytes=-0", "bytes=3-1", "bytes=0-0,2-2", "bytes=0-,0-,0-,0-", "bytes=", "bytes", "bytes=a-b",
		"bytes=--1", "bytes= 1-2", "bytes=1-2-3", "octets=0-1", "bytes=0x1-2", "bytes=-9223372036854775808", "bytes=" + strings.Repeat("0-1,", 5000) + "0-1",
	} {
		answer := r.request("GET", address, nil, map[string]string{"Range": header})
		body := text(t, answer)
		whole := answer.StatusCode == http.StatusOK && body == content
		part := answer.StatusCode == http.StatusPartialContent && strings.Contains(content, body) && answer.Header.Get("Content-Range") != ""
		if !whole && !part && answer.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("%.60s: %d %q", header, answer.StatusCode, body)
		}
	}
	r.unchanged(folder, func() {
		location := r.request("POST", r.public+repositoryPath+"/blobs/uploads/", nil, nil).Header.Get("Location")
		for _, header := range []string{
			"1-5", "0-3", "0-5", "4-0", "-5-0", "0-9223372036854775807", "9223372036854775807-9223372036854775808", "99999999999999999999-99999999999999999999", "bytes 0-4/5", "0-4,5-9", "a-b", "0", "-", "+0-4",
		} {
			answer := r.request("PATCH", r.public+location, strings.NewReader("hello"), map[string]string{"Content-Range": header})
			if body := text(t, answer); answer.StatusCode != http.StatusBadRequest && answer.StatusCode != http.StatusRequestedRangeNotSatisfiable {
				t.Errorf("%s: %d %s", header, answer.StatusCode, body)
			}
		}
	})
}

// An upload is of who began it, where it was begun, and once.
func TestHostileUploads(t *testing.T) {
	t.Parallel()
	r, _ := startIn(t, nil)
	begin := func() string {
		return r.request("POST", r.public+repositoryPath+"/blobs/uploads/", nil, nil).Header.Get("Location")
	}
	status := func(method, location, body string) int {
		answer := r.request(method, r.public+location, strings.NewReader(body), nil)
		_ = text(t, answer)
		return answer.StatusCode
	}
	first, second := begin(), begin()
	if first == second || len(filepath.Base(first)) < 40 {
		t.Errorf("the addresses of uploads can be guessed: %s, %s", first, second)
	}
	for what, location := range map[string]string{
		"another repository": strings.Replace(first, "/web/", "/other/", 1),
		"another session":    first[:len(first)-4] + "AAAA",
		"no signature":       first[:strings.LastIndex(first, ".")],
		"one that is cut":    first[:len(first)-1],
		"a path":             repositoryPath + "/blobs/uploads/..",
	} {
		for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
			if got := status(method, location+"?digest="+digest.FromString("x").String(), "x"); got != http.StatusNotFound && got != http.StatusBadRequest {
				t.Errorf("%s of %s: %d", method, what, got)
			}
		}
	}
	content := strings.Repeat("x", 1000)
	// Of many chunks at one offset one is taken; the others are told where the upload stands.
	var taken atomic.Int64
	var sending sync.WaitGroup
	for range 8 {
		sending.Go(func() {
			answer := r.request("PATCH", r.public+first, strings.NewReader(content), map[string]string{"Content-Range": "0-999"})
			body := text(t, answer)
			switch answer.StatusCode {
			case http.StatusAccepted:
				taken.Add(1)
			case http.StatusRequestedRangeNotSatisfiable:
			default:
				t.Errorf("a chunk was answered %d %s", answer.StatusCode, body)
			}
		})
	}
	sending.Wait()
	if taken.Load() != 1 {
		t.Errorf("%d chunks were taken", taken.Load())
	}
	finish := first + "?digest=" + digest.FromString(content).String()
	if got := status("PUT", finish, ""); got != http.StatusCreated {
		t.Errorf("finish: %d", got)
	}
	for _, method := range []string{"PUT", "PATCH", "GET", "DELETE"} {
		if got := status(method, finish, "x"); got != http.StatusNotFound {
			t.Errorf("%s once it is finished: %d", method, got)
		}
	}
	if got := status("DELETE", second, ""); got != http.StatusNoContent {
		t.Errorf("cancel of one without content: %d", got)
	}
	if got := status("PUT", second+"?digest="+digest.FromString("x").String(), "x"); got != http.StatusNotFound {
		t.Errorf("finish of a cancelled one: %d", got)
	}
}

// However pushes and deletes of one version meet, what is listed can be pulled whole.
func TestPushesAgainstDeletes(t *testing.T) {
	t.Parallel()
	r, _ := startIn(t, nil)
	const pushers, rounds = 3, 4
	c := charttest.New("web", "1.0.0", 0)
	var running sync.WaitGroup
	for range pushers {
		running.Go(func() {
			for range rounds {
				for _, reference := range []string{"", "1.0.0"} {
					if status, body := r.putChart(reference, c); status != http.StatusCreated && status != http.StatusConflict && status != http.StatusBadRequest {
						t.Errorf("push: %d %s", status, body)
					}
				}
			}
		})
		running.Go(func() {
			for range rounds {
				for _, path := range []string{"/manifests/1.0.0", "/manifests/" + digest.FromBytes(c.Manifest).String(), "/blobs/" + digest.FromBytes(c.Content).String()} {
					answer := r.request("DELETE", r.public+repositoryPath+path, nil, nil)
					if body := text(t, answer); answer.StatusCode != http.StatusAccepted && answer.StatusCode != http.StatusNotFound {
						t.Errorf("DELETE %s: %d %s", path, answer.StatusCode, body)
					}
				}
			}
		})
	}
	running.Wait()
	if status, body := r.putChart("1.0.0", c); status != http.StatusCreated {
		t.Fatalf("the last push: %d %s", status, body)
	}
	for path, want := range map[string][]byte{"/manifests/1.0.0": c.Manifest, "/blobs/" + digest.FromBytes(c.Content).String(): c.Content, "/blobs/" + digest.FromBytes(c.Config).String(): c.Config} {
		if got := text(t, r.request("GET", r.public+repositoryPath+path, nil, nil)); !bytes.Equal([]byte(got), want) {
			t.Errorf("%s is %.100q", path, got)
		}
	}
}

// What clients call the server, and what they say of where they come from, changes no answer: addresses in answers are
// relative or configured.
func TestNamesThatClientsSay(t *testing.T) {
	t.Parallel()
	r, _ := startIn(t, func(c *registryserver.Config) { c.ExternalURL = "https://charts.example.com" })
	answer := func(method, path, token, headers string) string {
		c := r.dial()
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\n%s\r\nAuthorization: Bearer %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", method, path, headers, token)
		whole, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(`(Date: .*|X-Request-Id: .*|/uploads/.*)`).ReplaceAllString(string(whole), "")
	}
	for _, request := range []struct{ method, path, token string }{
		{"GET", "/v2/", "sesame"}, {"GET", "/v2/else/where/web/tags/list", r.token}, {"POST", repositoryPath + "/blobs/uploads/", r.token}, {"GET", "/", "sesame"},
	} {
		want := answer(request.method, request.path, request.token, "Host: x")
		for _, headers := range []string{
			"Host: evil.example", "Host: charts.example.com.evil.example:8080",
			"Host: x\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /evil\r\nX-Forwarded-For: 10.0.0.1",
			"Host: x\r\nForwarded: host=evil.example;proto=http;for=10.0.0.1", "Host: x\r\nX-Original-URL: /metrics\r\nX-Rewrite-URL: /metrics", "Host: x\r\nOrigin: https://evil.example",
		} {
			if got := answer(request.method, request.path, request.token, headers); got != want {
				t.Errorf("%s %s with %q:\n%s\nand without:\n%s", request.method, request.path, headers, got, want)
			}
		}
		// The whole address as the target, as proxies are asked.
		if got := answer(request.method, "http://evil.example"+request.path, request.token, "Host: x"); got != want {
			t.Errorf("%s %s of another host:\n%s\nand without:\n%s", request.method, request.path, got, want)
		}
	}
}

// Who may push may neither replace a version, "latest" for one, nor delete it.
func TestPushersReplaceNothing(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, nil)
	first, second := charttest.New("web", "1.0.0", 0), charttest.New("web", "1.0.0", 400)
	manifest, blobs := image("first")
	if status, body := r.putManifest("latest", manifest, blobs...); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	if status, body := r.putChart("1.0.0", first); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	owner := r.token
	r.limit(folder, "*", wire.ReadPackages, wire.WritePackages)
	other, more := image("second")
	if status, body := r.putManifest("latest", other, more...); status != http.StatusConflict {
		t.Errorf("latest was replaced: %d %s", status, body)
	}
	if status, body := r.putChart("1.0.0", second); status != http.StatusConflict {
		t.Errorf("a version was replaced: %d %s", status, body)
	}
	for _, path := range []string{"/manifests/latest", "/manifests/1.0.0", "/manifests/" + digest.FromBytes(first.Manifest).String(), "/blobs/" + digest.FromBytes(first.Content).String()} {
		answer := r.request("DELETE", r.public+repositoryPath+path, nil, nil)
		if body := text(t, answer); answer.StatusCode != http.StatusForbidden {
			t.Errorf("DELETE %s: %d %s", path, answer.StatusCode, body)
		}
	}
	r.token = owner
	if got := text(t, r.request("GET", r.public+repositoryPath+"/manifests/latest", nil, nil)); got != string(manifest) {
		t.Errorf("latest is %s", got)
	}
}

// limit adds a token with so much to the access file, and goes on with it once it is in force.
func (r *running) limit(folder, charts string, scopes ...wire.Scope) {
	r.t.Helper()
	minted, err := access.Mint(rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	file := filepath.Join(folder, "data.state", "access.json")
	if err := access.EditFile(file, func(a *wire.Access) error {
		a.Tokens = append(a.Tokens, wire.Token{ID: minted.ID(), SHA256: minted.SHA256(), Scopes: scopes, Charts: []string{charts}})
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	r.token = minted.Reveal()
	eventually(r.t, "the new token is in force", func() bool {
		return r.request("GET", r.public+"/v2/", nil, nil).StatusCode == http.StatusOK
	})
}

// Nothing is fetched that a chart names, a schema for one.
func TestWhatChartsNameIsNotFetched(t *testing.T) {
	t.Parallel()
	r, _ := startIn(t, nil)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s was fetched", r.URL) }))
	defer elsewhere.Close()
	loop := `{"$ref": "` + elsewhere.URL + `/schema", "allOf": [{"$ref": "file:///etc/passwd"}, {"$ref": "#"}], "$schema": "` + elsewhere.URL + `/draft"}`
	yaml := "apiVersion: v2\nname: web\nversion: 1.0.0\nicon: " + elsewhere.URL + "/icon.png\ndependencies: [{name: x, version: 1.0.0, repository: " + elsewhere.URL + "}]\n"
	config := fmt.Sprintf(`{"apiVersion":"v2","name":"web","version":"1.0.0","icon":%q,"dependencies":[{"name":"x","version":"1.0.0","repository":%q}]}`, elsewhere.URL+"/icon.png", elsewhere.URL)
	c := charttest.Assemble([]byte(config), charttest.Archive(
		charttest.File("web/Chart.yaml", yaml), charttest.File("web/values.schema.json", loop), charttest.File("web/values.yaml", "a: "+elsewhere.URL),
	))
	if status, body := r.putChart("1.0.0", c); status != http.StatusCreated {
		t.Errorf("%d %s", status, body)
	}
}

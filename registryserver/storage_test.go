package registryserver_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/check"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/chartroom-dev/chartroom/test/s3server"
	"github.com/google/go-cmp/cmp"
)

// storeInS3 moves a server's storage into a new bucket.
func storeInS3(t *testing.T, server *s3server.Server, name string) func(*registryserver.Config) {
	t.Helper()
	server.NewBucket(t, name)
	dir := t.TempDir()
	for file, content := range map[string]string{"accessKeyID": server.AccessKey, "secretAccessKey": server.SecretKey} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func(c *registryserver.Config) {
		state := c.Storage.Dir + ".state"
		c.Access.File, c.Keys = filepath.Join(state, "access.json"), filepath.Join(state, "upload.keys")
		c.Storage = registryserver.StorageConfig{S3: registryserver.S3Config{
			Bucket: name, Prefix: "p", Endpoint: server.Endpoint, PathStyle: true, CredentialsDir: dir,
		}}
	}
}

// storageRequests are those that the metrics count, by operation.
func (r *running) storageRequests() map[string]int {
	r.t.Helper()
	counts := map[string]int{}
	for lines := bufio.NewScanner(strings.NewReader(text(r.t, r.request("GET", r.metrics+"/metrics", nil, nil)))); lines.Scan(); {
		var operation string
		var n int
		line := strings.NewReplacer(`chartroom_storage_requests_total{operation="`, "", `",outcome="`, " ", `"}`, "").Replace(lines.Text())
		if strings.HasPrefix(lines.Text(), "chartroom_storage_requests_total{") {
			if _, err := fmt.Sscanf(line, "%s %s %d", &operation, new(string), &n); err != nil {
				r.t.Fatalf("%s: %v", lines.Text(), err)
			}
			counts[operation] += n
		}
	}
	return counts
}

// storage is what /readyz says of it, once it was tried out.
func (r *running) storage() (report struct {
	Warnings []string
	Storage  struct {
		Kind         string
		SingleWriter bool
		Checks       []check.Result
	}
}) {
	r.t.Helper()
	eventually(r.t, "the storage was tried out", func() bool {
		_, body := r.ready()
		if err := json.Unmarshal([]byte(body), &report); err != nil {
			r.t.Fatal(err)
		}
		return len(report.Storage.Checks) > 0
	})
	return report
}

// A push writes one object for each blob, one for the manifest and one for the tag, and nothing else; behind it other servers
// are told of it.
func TestPushWritesWhatItMust(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	r := start(t, storeInS3(t, server, "charts"))
	r.storage() // Whose objects would be counted.
	files := func() (names []string) {
		root := filepath.Join(server.Dir, "charts", "p")
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				names = append(names, strings.TrimPrefix(path, root+"/"))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	// Beside the layout there is only the lease of who sweeps, which was taken at the start, and what the server tells others
	// of its changes.
	eventually(t, "the checks are cleared away", func() bool {
		got := files()
		return len(got) == 3 && strings.HasPrefix(got[0], "inventory/changes/") && slices.Equal(got[1:], []string{"layout.json", "leases/garbage.json"})
	})
	before := r.storageRequests()
	if status, body := r.putChart("1.0.0", charttest.New("web", "1.0.0", 50_000)); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	// Two blobs, the manifest and the tag; and, behind them, what was changed.
	writes := func() (n int) {
		after := r.storageRequests()
		for _, operation := range []string{"PutObject", "CopyObject", "CreateMultipartUpload", "UploadPart", "DeleteObject"} {
			n += after[operation] - before[operation]
		}
		return n
	}
	eventually(t, "other servers are told", func() bool { return writes() >= 5 })
	if got := files(); writes() != 5 || len(got) != 7 {
		t.Errorf("%d requests wrote, and the objects are %v", writes(), got)
	}
}

// What another process deletes is gone at once, or after the staleness that was asked for.
func TestStaleness(t *testing.T) {
	t.Parallel()
	for staleness, want := range map[time.Duration]int{0: http.StatusNotFound, 5 * time.Minute: http.StatusOK} {
		var dir string
		r := start(t, func(c *registryserver.Config) {
			c.Storage.Staleness = registryserver.Duration(staleness)
			dir = c.Storage.Dir
		})
		if status, body := r.putChart("1.0.0", charttest.New("web", "1.0.0", 100)); status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
		version := r.public + "/v2/acme/charts/web/manifests/1.0.0"
		if answer := r.request("GET", version, nil, nil); answer.StatusCode != http.StatusOK {
			t.Fatal(answer.Status)
		}
		if err := os.Remove(filepath.Join(dir, "objects", "charts", "web", "tags", "1.0.0")); err != nil {
			t.Fatal(err)
		}
		if answer := r.request("GET", version, nil, nil); answer.StatusCode != want {
			t.Errorf("with a staleness of %s a version that is gone is answered with %s", staleness, answer.Status)
		}
	}
}

// Large blobs that are fetched whole are fetched from S3, by an address that the log does not have.
func TestRedirect(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	inS3 := storeInS3(t, server, "charts")
	r := start(t, func(c *registryserver.Config) {
		inS3(c)
		c.Storage.S3.Redirect = "large" // Any case will do.
	})
	large := strings.Repeat("0123456789abcdef", 1<<16)
	whole, small := r.pushBlob(large), r.pushBlob(large[1:])
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ask := func(method, address, bytes string) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if bytes != "" {
			request.Header.Set("Range", bytes)
		}
		if strings.HasPrefix(address, r.public) {
			request.SetBasicAuth("x", r.token)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer
	}
	redirected := ask("GET", whole, "")
	location := redirected.Header.Get("Location")
	if redirected.StatusCode != http.StatusTemporaryRedirect || !strings.Contains(location, "X-Amz-Expires=300&") ||
		redirected.Header.Get("Cache-Control") != "no-store" || redirected.Header.Get("Docker-Content-Digest") == "" {
		t.Fatalf("%d %v", redirected.StatusCode, redirected.Header)
	}
	fetched := ask("GET", location, "")
	if content, err := io.ReadAll(fetched.Body); err != nil || string(content) != large || fetched.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%d bytes, %v, %v", len(content), err, fetched.Header)
	}
	for name, c := range map[string]struct {
		answer *http.Response
		status int
	}{
		"HEAD":      {ask("HEAD", whole, ""), http.StatusOK},
		"a range":   {ask("GET", whole, "bytes=5-9"), http.StatusPartialContent},
		"small":     {ask("GET", small, ""), http.StatusOK},
		"not there": {ask("GET", strings.Replace(whole, "/web/", "/other/", 1), ""), http.StatusNotFound},
	} {
		if c.answer.StatusCode != c.status {
			t.Errorf("%s: %d", name, c.answer.StatusCode)
		}
	}
	if strings.Contains(r.log.String(), "X-Amz") {
		t.Error("the log has the address")
	}
}

// ignoring is an S3 server that tells every writer that it won.
func ignoring(t *testing.T, server *s3server.Server) string {
	t.Helper()
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // The signature names it.
		},
		ModifyResponse: func(answer *http.Response) error {
			if answer.Request.Method == http.MethodPut && answer.StatusCode == http.StatusPreconditionFailed {
				answer.StatusCode, answer.Body, answer.ContentLength = http.StatusOK, http.NoBody, 0
				answer.Header = http.Header{"Etag": {`"x"`}, "Content-Length": {"0"}}
			}
			return nil
		},
	}
	proxy := httptest.NewServer(forward)
	t.Cleanup(proxy.Close)
	return proxy.URL
}

func TestStorageIsReported(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	names := []string{"put", "get", "list", "conditional put", "conditional delete", "tag", "presign", "delete"}
	for name, c := range map[string]struct {
		change func(*registryserver.Config)
		want   wire.StorageState
		failed []string
	}{
		"a directory": {func(*registryserver.Config) {}, wire.StorageState{Kind: wire.StorageFilesystem}, nil},
		"S3":          {storeInS3(t, server, "charts"), wire.StorageState{Kind: wire.StorageS3}, nil},
		"S3 without conditions": {func() func(*registryserver.Config) {
			inS3 := storeInS3(t, server, "careless")
			return func(c *registryserver.Config) {
				inS3(c)
				c.Storage.S3.Endpoint = ignoring(t, server)
			}
		}(), wire.StorageState{Kind: wire.StorageS3, SingleWriter: true}, []string{"conditional put"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, operator := startOperated(t, c.change)
			answer, err := operator.Get("https://" + r.server.Addresses()["admin"].String() + wire.PathAbout)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			var about wire.About
			if err := json.NewDecoder(answer.Body).Decode(&about); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, about.Storage); diff != "" {
				t.Error(diff)
			}
			report := r.storage()
			if report.Storage.Kind != c.want.Kind || report.Storage.SingleWriter != c.want.SingleWriter ||
				strings.Contains(strings.Join(report.Warnings, "\n"), "only one server") != c.want.SingleWriter ||
				strings.Contains(r.log.String(), "only one server") != c.want.SingleWriter {
				t.Errorf("%+v\n%s", report, r.log)
			}
			var got, failed []string
			for _, result := range report.Storage.Checks {
				got = append(got, result.Name)
				if result.Outcome == check.Failed {
					failed = append(failed, result.Name)
				}
			}
			if diff := cmp.Diff(names, got) + cmp.Diff(c.failed, failed); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What the storage cannot do now, the operator is told too, in a sentence without secrets.
func TestStorageThatIsGoneIsReported(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	r, operator := startOperated(t, storeInS3(t, server, "charts"))
	server.Kill()
	answer, err := operator.Get("https://" + r.server.Addresses()["admin"].String() + wire.PathAbout)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var about wire.About
	if err := json.NewDecoder(answer.Body).Decode(&about); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(about.Storage.Problem, "cannot be read: ") {
		t.Errorf("%+v", about.Storage)
	}
}

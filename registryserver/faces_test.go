package registryserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
)

const packages = "/api/v2/packages/organizations/acme/registries/charts/packages"

// publish sends an archive as a form.
func (r *running) publish(path string, content []byte, header map[string]string) *http.Response {
	r.t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part, err := w.CreateFormFile("file", "x.tgz")
	if err != nil {
		r.t.Fatal(err)
	}
	_, _ = part.Write(content)
	_ = w.Close()
	all := map[string]string{"Content-Type": w.FormDataContentType()}
	for k, v := range header {
		all[k] = v
	}
	// Without a length, as cm-push sends it.
	return r.request("POST", r.public+path, struct{ io.Reader }{&b}, all)
}

// versions are those of a chart in the index, and where their archives are.
func (r *running) versions(name string) map[string]string {
	r.t.Helper()
	var index struct {
		Entries map[string][]struct {
			Version, Digest string
			URLs            []string
		}
		ServerInfo struct{ ContextPath string }
	}
	if err := json.Unmarshal([]byte(text(r.t, r.request("GET", r.public+"/acme/charts/helm/index.yaml", nil, nil))), &index); err != nil {
		r.t.Fatal(err)
	}
	if index.ServerInfo.ContextPath != "/acme/charts/helm" {
		r.t.Errorf("archives are to be published behind %q", index.ServerInfo.ContextPath)
	}
	all := map[string]string{}
	for _, e := range index.Entries[name] {
		all[e.Version] = e.URLs[0]
	}
	return all
}

// However a chart was pushed, it is served every way.
func TestOneChartEveryWay(t *testing.T) {
	t.Parallel()
	r, _ := startIn(t, nil)
	contents := map[string][]byte{}
	for version, push := range map[string]func(c charttest.Chart) int{
		"1.0.0": func(c charttest.Chart) int {
			for _, reference := range []string{"", "1.0.0"} {
				if status, body := r.putChart(reference, c); status != http.StatusCreated {
					t.Fatalf("%d %s", status, body)
				}
			}
			return http.StatusCreated
		},
		"2.0.0": func(c charttest.Chart) int {
			return r.publish("/acme/charts/helm/api/charts", c.Content, nil).StatusCode
		},
		"3.0.0": func(c charttest.Chart) int {
			return r.publish(packages, c.Content, nil).StatusCode + 1
		},
	} {
		c := charttest.New("web", version, 0)
		contents[version] = c.Content
		if status := push(c); status != http.StatusCreated {
			t.Fatalf("%s: %d", version, status)
		}
	}
	eventually(t, "all are in the index", func() bool { return len(r.versions("web")) == len(contents) })
	for version, where := range r.versions("web") {
		content := contents[version]
		if got := text(t, r.request("GET", r.public+"/acme/charts/helm/"+where, nil, nil)); got != string(content) {
			t.Errorf("the archive of %s is another one", version)
		}
		if got := text(t, r.request("GET", r.public+repositoryPath+"/blobs/"+digest.FromBytes(content).String(), nil, nil)); got != string(content) {
			t.Errorf("the layer of %s is another one", version)
		}
		var described struct{ Archive, Version, Name string }
		if err := json.Unmarshal([]byte(text(t, r.request("GET", r.public+packages+"/web:"+version, nil, nil))), &described); err != nil || described.Archive != digest.FromBytes(content).String() || described.Version != version {
			t.Errorf("%s is described as %+v, %v", version, described, err)
		}
	}
	// Both downloads of each count.
	eventually(t, "downloads are counted", func() bool {
		return strings.Contains(text(t, r.request("GET", r.public+packages+"/web:2.0.0/downloads", nil, nil)), `"downloads":2,`)
	})
	if status := r.request("DELETE", r.public+packages+"/web:2.0.0", nil, nil).StatusCode; status != http.StatusOK {
		t.Errorf("delete: %d", status)
	}
	eventually(t, "it is not in the index", func() bool { return r.versions("web")["2.0.0"] == "" })
}

// Whoever has not logged in learns how, with the program that they use.
func TestFacesSayHowToLogIn(t *testing.T) {
	t.Parallel()
	r, _ := startIn(t, nil)
	for path, words := range map[string][]string{
		"/acme/charts/helm/index.yaml": {"helm repo add NAME " + r.public + "/acme/charts/helm ", "curl has `--user …`"}, packages: {"curl --user"},
	} {
		body := text(t, r.request("GET", r.public+path, nil, map[string]string{"Authorization": "Bearer none"}))
		for _, w := range words {
			if !strings.Contains(body, w) {
				t.Errorf("%s: %q does not say %q", path, body, w)
			}
		}
	}
}

func TestFacesAreRecorded(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, nil)
	content := charttest.New("web", "1.0.0", 0).Content
	id := func(name string) map[string]string { return map[string]string{"X-Request-Id": name} }
	r.publish("/acme/charts/helm/api/charts", content, id("helm"))
	r.publish(packages, content, id("rest"))
	r.request("POST", r.public+packages+"/web:1.0.0/copy?to=stable/web", nil, id("copy"))
	r.request("DELETE", r.public+packages+"/web:1.0.0", nil, id("delete"))
	r.limit(folder, "other", wire.Scopes()...)
	r.publish(packages, content, id("refused"))
	r.request("GET", r.public+"/acme/charts/helm/charts/web/web-1.0.0.tgz", nil, id("foreign"))
	for _, want := range []struct {
		request, chart string
		action         audit.Action
		result         audit.Result
	}{
		{"helm", "web", audit.Push, audit.Done}, {"rest", "web", audit.Push, audit.Done}, {"copy", "stable/web", audit.Push, audit.Done},
		{"delete", "web", audit.Delete, audit.Done}, {"refused", "web", audit.Push, audit.Refused}, {"foreign", "web", audit.Pull, audit.Refused},
	} {
		got := r.recorded(want.request)
		if got.Chart != want.chart || got.Action != want.action || got.Result != want.result || want.result == audit.Done && got.Reference != "1.0.0" {
			t.Errorf("recorded %+v", got)
		}
	}
	metrics := text(t, r.request("GET", r.metrics+"/metrics", nil, nil))
	if !strings.Contains(metrics, `chartroom_http_requests_total{method="POST",route="/helm/api/charts",status="2xx"} 1`) {
		t.Error("the route is not in the metrics")
	}
}

// What is not sent whole leaves nothing that anybody could find, and who sends slowly is told so.
func TestHostileUploadsOfArchives(t *testing.T) {
	t.Parallel()
	r, _ := startIn(t, func(c *registryserver.Config) { _ = c.Limits.ClientTimeout.UnmarshalText([]byte("1s")) })
	const head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n"
	for _, path := range []string{"/acme/charts/helm/api/charts", packages} {
		request := func(more string) string {
			return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: multipart/form-data; boundary=b\r\nConnection: close\r\n%s", path, r.token, more)
		}
		for what, o := range map[string]struct {
			more   string
			status int
		}{
			"slow":                   {"Content-Length: 1000\r\n\r\n" + head, http.StatusRequestTimeout},
			"a length over bounds":   {"Content-Length: 9223372036854775807\r\n\r\n" + head, http.StatusRequestEntityTooLarge},
			"a chunk of no size":     {"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n", http.StatusBadRequest},
			"a chunk that ends soon": {"Transfer-Encoding: chunked\r\n\r\n5\r\n--b--\r\n0\r\n\r\n", http.StatusBadRequest},
		} {
			if status, body := r.raw(request(o.more)); status != o.status {
				t.Errorf("%s to %s: %d %s, want %d", what, path, status, body, o.status)
			}
		}
		c := r.dial()
		_, _ = io.WriteString(c, request("Content-Length: 1000\r\n\r\n"+head))
		c.Close()
	}
	if got := r.versions("web"); len(got) > 0 {
		t.Errorf("there is %v", got)
	}
}

// What a path hides from programs on the way leads nowhere, and stores and deletes nothing.
func TestHostileTargetsOfFaces(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, nil)
	if status := r.publish(packages, charttest.New("web", "1.0.0", 0).Content, nil).StatusCode; status != http.StatusOK {
		t.Fatal(status)
	}
	r.unchanged(folder, func() {
		for _, name := range []string{
			"..", "../web", "%2e%2e", "%2e%2e%2fweb", "web%2fx", "web//x", `web\x`, "web%00", "web%0d%0aX-Evil:%201", "%c0%ae%c0%ae", "w%C3%A9b", "web%20", "web%2500", "~", "..~web", "con:", strings.Repeat("a", 300), strings.Repeat("a/", 150) + "a",
		} {
			for _, target := range []string{
				"GET /acme/charts/helm/charts/" + name + "/" + name + "-1.0.0.tgz", "GET /acme/charts/helm/" + name + "/index.yaml", "POST /acme/charts/helm/api/charts/" + name, "DELETE /acme/charts/helm/charts/" + name + "/" + name + "-1.0.0.tgz",
				"GET " + packages + "/" + name + ":1.0.0", "DELETE " + packages + "/" + name + ":1.0.0", "POST " + packages + "/" + name + ":1.0.0/copy?to=stable/web", "POST " + packages + "/web:1.0.0/copy?to=" + name,
				"GET " + packages + "/" + name + ":1.0.0/versions", "POST " + packages + "?to=" + name,
			} {
				method, path, _ := strings.Cut(target, " ")
				status, body := r.raw(r.line(method, path))
				if status != http.StatusBadRequest && status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
					t.Errorf("%s: %d %.200s", target, status, body)
				}
			}
		}
	})
	// The method that is judged is the one that is used.
	for _, header := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
		r.request("GET", r.public+packages+"/web:1.0.0?_method=DELETE", nil, map[string]string{header: "DELETE"})
	}
	if status := r.request("GET", r.public+packages+"/web:1.0.0", nil, nil).StatusCode; status != http.StatusOK {
		t.Errorf("the chart is answered %d", status)
	}
}

// What one replica has taken, the others serve at once; what has to be known of all charts they learn within seconds.
func TestFacesOfReplicas(t *testing.T) {
	t.Parallel()
	var shared registryserver.Config
	one, _ := startIn(t, func(c *registryserver.Config) { shared = *c })
	other, _ := startIn(t, func(c *registryserver.Config) {
		c.Storage = shared.Storage
		c.Access.File = filepath.Join(shared.Storage.Dir+".state", "access.json")
		c.Keys = filepath.Join(shared.Storage.Dir+".state", "upload.keys")
	})
	other.token = one.token
	content := charttest.New("web", "1.0.0", 0).Content
	if status := one.publish("/acme/charts/helm", content, nil).StatusCode; status != http.StatusCreated {
		t.Fatal(status)
	}
	if got := text(t, other.request("GET", other.public+"/acme/charts/helm/charts/web/web-1.0.0.tgz", nil, nil)); got != string(content) {
		t.Errorf("the other replica serves %.100q", got)
	}
	if got := text(t, other.request("GET", other.public+packages+"/web:1.0.0", nil, nil)); !strings.Contains(got, digest.FromBytes(content).String()) {
		t.Errorf("the other replica says %s", got)
	}
	eventually(t, "it is in the other's index", func() bool { return len(other.versions("web")) == 1 })
	if status := other.request("DELETE", other.public+packages+"/web:1.0.0", nil, nil).StatusCode; status != http.StatusOK {
		t.Errorf("delete: %d", status)
	}
	if status := one.request("GET", one.public+packages+"/web:1.0.0", nil, nil).StatusCode; status != http.StatusNotFound {
		t.Errorf("after the delete: %d", status)
	}
	eventually(t, "it is in no index", func() bool { return len(one.versions("web"))+len(other.versions("web")) == 0 })
}

// How full the registry is, those learn who may read all of it.
func TestFacesAreDiscreetAboutQuotas(t *testing.T) {
	t.Parallel()
	r, folder := startIn(t, func(c *registryserver.Config) { c.Quota.Versions = 1 })
	r.untilCounted(0)
	r.pushVersion("1.0.0")
	next, foreign := charttest.New("web", "1.0.1", 0).Content, charttest.New("other", "1.0.0", 0).Content
	refused := func(path string, content []byte) string {
		t.Helper()
		answer := r.publish(path, content, nil)
		body := text(t, answer)
		if answer.StatusCode != http.StatusForbidden || !strings.Contains(body, "over the registry's quota of 1 version") {
			t.Errorf("%s: %d %s", path, answer.StatusCode, body)
		}
		return body
	}
	for _, path := range []string{"/acme/charts/helm/api/charts", packages} {
		if body := refused(path, next); !strings.Contains(body, "used: 1 version") {
			t.Errorf("%s: it is not said how full it is: %s", path, body)
		}
	}
	r.limit(folder, "other", wire.Scopes()...)
	for _, path := range []string{"/acme/charts/helm/api/charts", packages} {
		if body := refused(path, foreign); strings.Contains(body, "used") {
			t.Errorf("%s: it is said how full it is: %s", path, body)
		}
	}
}

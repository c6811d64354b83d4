package helmrepo_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/access/accesstest"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/face/facetest"
	"github.com/chartroom-dev/chartroom/registryserver/helmrepo"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
)

const (
	prefix   = "/acme/charts/helm"
	address  = "https://charts.example.com"
	ociTypes = "application/vnd.oci.image.manifest.v1+json"
)

// known is an inventory of names alone.
type known struct {
	inventory.Reader
	mu       sync.Mutex
	building bool
	revision uint64
	next     chan struct{}
	charts   []string
	// indexes counts those that were taken.
	indexes int
}

func (k *known) Building() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.building
}

func (k *known) Changed() (uint64, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.revision, k.next
}

func (k *known) built() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.building = false
	close(k.next)
	k.next = make(chan struct{})
}

func (k *known) push(chart string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.charts, k.revision = append(k.charts, chart), k.revision+1
}

func (k *known) Index(may func(string) bool) inventory.Index {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.indexes++
	var names []string
	for _, c := range k.charts {
		if may == nil || may(c) {
			names = append(names, c)
		}
	}
	return index(names)
}

// index writes the names of charts, and in which form.
type index []string

func (i index) ETag(form inventory.IndexForm, gzipped bool) string {
	return fmt.Sprintf(`"%d-%t-%s"`, form, gzipped, strings.Join(i, "."))
}

func (i index) Write(w io.Writer, form inventory.IndexForm, gzipped bool) error {
	text := fmt.Sprintf("%d %s", form, strings.Join(i, " "))
	if !gzipped {
		_, err := io.WriteString(w, text)
		return err
	}
	z := gzip.NewWriter(w)
	if _, err := io.WriteString(z, text); err != nil {
		return err
	}
	return z.Close()
}

// registry is one with its Helm repository.
type registry struct {
	*facetest.Registry
	known              *known
	pulled, downloaded []string
}

type call = facetest.Call

func newRegistry(t *testing.T, visibility wire.Visibility, change ...func(*repository.Options)) *registry {
	t.Helper()
	var options repository.Options
	for _, c := range change {
		c(&options)
	}
	r := &registry{Registry: facetest.New(t, visibility, prefix, options), known: &known{next: make(chan struct{}), charts: []string{"web", "other"}}}
	r.Handler = helmrepo.New(helmrepo.Options{
		Store: r.Store, Inventory: r.known, Publisher: publish.New(r.Store), Door: r.Door, Observe: r.Observe,
		Pulled:     func(chart, digest string) { r.pulled = append(r.pulled, chart+"@"+digest) },
		Downloaded: func(chart string, d digest.Digest) { r.downloaded = append(r.downloaded, chart+"@"+d.String()) },
	})
	return r
}

// refused wants an error in the form of ChartMuseum, with words in it.
func (r *registry) refused(status int, c call, words ...string) {
	r.T.Helper()
	answer := r.Want(status, c)
	var body map[string]string
	if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil || len(body) != 1 || body["error"] == "" {
		r.T.Fatalf("%s %s: %d %s is no error", c.Method, c.Path, answer.Code, answer.Body)
	}
	for _, w := range words {
		if !strings.Contains(body["error"], w) {
			r.T.Errorf("%s %s: %q does not say %q", c.Method, c.Path, body["error"], w)
		}
	}
}

// field is one of a form.
type field struct {
	name    string
	content []byte
}

// form is a request that publishes.
func form(path string, fields ...field) call {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, f := range fields {
		// cm-push names the whole path of the file.
		part, _ := w.CreateFormFile(f.name, "/tmp/x/chart.tgz")
		_, _ = part.Write(f.content)
	}
	_ = w.Close()
	// Without a length, as cm-push sends it.
	return call{Method: "POST", Path: path, Body: struct{ io.Reader }{&b}, Header: map[string]string{"Content-Type": w.FormDataContentType()}}
}

func (r *registry) publish(content []byte) {
	r.T.Helper()
	if got := r.Want(http.StatusCreated, form("/api/charts", field{"chart", content})).Body.String(); got != `{"saved":true}` {
		r.T.Errorf("it is answered %s", got)
	}
}

func manifestOf(t *testing.T, r *registry, name, reference string) string {
	t.Helper()
	repo, err := r.Store.Repository(name)
	facetest.OK(t, err)
	content, _, err := repo.OpenManifest(t.Context(), reference)
	facetest.OK(t, err)
	defer content.Close()
	manifest, err := io.ReadAll(content)
	facetest.OK(t, err)
	return string(manifest)
}

func provenance(content []byte) []byte {
	return []byte("-----BEGIN PGP SIGNED MESSAGE-----\n\nfiles:\n  x: " + digest.FromBytes(content).String() + "\n-----BEGIN PGP SIGNATURE-----\n")
}

func TestPublishedChartIsWhatHelmPushes(t *testing.T) {
	r := newRegistry(t, wire.Private)
	archive, err := os.ReadFile("../publish/testdata/old.tgz")
	facetest.OK(t, err)
	want, err := os.ReadFile("../publish/testdata/old.manifest.json")
	facetest.OK(t, err)
	r.publish(archive)
	got := manifestOf(t, r, "old", "0.9.0-rc.1_b1")
	created := func(manifest string) string {
		var m struct{ Annotations map[string]string }
		facetest.OK(t, json.Unmarshal([]byte(manifest), &m))
		return m.Annotations["org.opencontainers.image.created"]
	}
	if got != strings.Replace(string(want), created(string(want)), created(got), 1) || created(got) == "" {
		t.Errorf("the manifest is\n%s\nand helm's\n%s", got, want)
	}
	r.publish(archive)
	if again := manifestOf(t, r, "old", "0.9.0-rc.1_b1"); again != got {
		t.Errorf("the second time it is\n%s", again)
	}
	for _, path := range []string{"/charts/old/old-0.9.0-rc.1+b1.tgz", "/charts/old/old-0.9.0-rc.1%2Bb1.tgz"} {
		if !bytes.Equal(r.Want(http.StatusOK, call{Path: path}).Body.Bytes(), archive) {
			t.Errorf("%s is another one", path)
		}
	}
}

func TestPublishingWays(t *testing.T) {
	big := make([]byte, 0)
	for i := range 3 {
		big = charttest.New("big", "1.0."+fmt.Sprint(i), 1<<20).Content
	}
	c := charttest.New("web", "1.0.0", 0).Content
	prov := provenance(c)
	for what, o := range map[string]struct {
		call  call
		chart string
	}{
		"as cm-push does":          {form("/api/charts", field{"chart", c}), "web"},
		"as curl does":             {form("/api/charts", field{"file", c}), "web"},
		"at the repository":        {form("", field{"file", c}), "web"},
		"at its folder":            {form("/", field{"file", c}), "web"},
		"with provenance":          {form("/api/charts", field{"chart", c}, field{"prov", prov}), "web"},
		"with provenance first":    {form("/api/charts", field{"prov", prov}, field{"file", c}), "web"},
		"under a path":             {form("/api/charts?to=team/a/web", field{"file", c}), "team/a/web"},
		"larger than what is held": {form("/api/charts", field{"file", big}), "big"},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRegistry(t, wire.Private)
			var sent bytes.Buffer
			_, _ = sent.ReadFrom(o.call.Body)
			version := "1.0.0"
			content := c
			if o.chart == "big" {
				version, content = "1.0.2", big
			}
			for range 2 { // The second time, nothing changes.
				o.call.Body = bytes.NewReader(sent.Bytes())
				r.Want(http.StatusCreated, o.call)
			}
			if got := r.Want(http.StatusOK, call{Path: "/" + inventory.ArchivePath(o.chart, version)}).Body.Bytes(); !bytes.Equal(got, content) {
				t.Errorf("another archive came back: %d bytes", len(got))
			}
			signed := call{Path: "/" + inventory.ArchivePath(o.chart, version) + ".prov"}
			if !strings.Contains(what, "provenance") {
				r.refused(http.StatusNotFound, signed, "was not signed")
			} else if got := r.Want(http.StatusOK, signed).Body.Bytes(); !bytes.Equal(got, prov) {
				t.Errorf("the provenance is %s", got)
			}
			seen := r.Observed[1]
			if seen.Action != audit.Push || seen.Chart != o.chart || seen.Reference != version || !strings.HasPrefix(seen.Stored, "sha256:") {
				t.Errorf("observed %+v", seen)
			}
		})
	}
}

// What helm has pushed has another time in its manifest; the same archive is the same chart all the same.
func TestPublishingWhatHelmHasPushed(t *testing.T) {
	r := newRegistry(t, wire.Private)
	c := charttest.New("web", "1.0.0", 0)
	repo, err := r.Store.Repository("web")
	facetest.OK(t, err)
	for _, blob := range [][]byte{c.Config, c.Content} {
		facetest.OK(t, repo.PutBlob(t.Context(), digest.FromBytes(blob), bytes.NewReader(blob), -1))
	}
	_, err = repo.PutManifest(t.Context(), "1.0.0", ociTypes, c.Manifest, "helm")
	facetest.OK(t, err)
	r.publish(c.Content)
	if got := manifestOf(t, r, "web", "1.0.0"); got != string(c.Manifest) {
		t.Errorf("the version has become %s", got)
	}
	if !bytes.Equal(r.Want(http.StatusOK, call{Path: "/charts/web/web-1.0.0.tgz"}).Body.Bytes(), c.Content) {
		t.Error("it is served otherwise")
	}
	other := charttest.New("web", "1.0.0", 700).Content
	for _, path := range []string{"/api/charts", "/api/charts?force"} {
		r.refused(http.StatusConflict, form(path, field{"chart", other}), "acme/charts/web 1.0.0 exists already with other content", "raise the version in Chart.yaml")
	}
	r.refused(http.StatusConflict, form("/api/charts?force", field{"chart", other}), "--force changes nothing")
	r.refused(http.StatusConflict, form("/api/charts", field{"chart", c.Content}, field{"prov", provenance(c.Content)}), "exists already")
}

func TestRefusedForms(t *testing.T) {
	r := newRegistry(t, wire.Private)
	c := charttest.New("web", "1.0.0", 0).Content
	late := charttest.Archive(charttest.File("web/filler", random(400<<10)), charttest.File("web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n"))
	text := func(contentType, body string) call {
		return call{Method: "POST", Path: "/api/charts", Body: strings.NewReader(body), Header: map[string]string{"Content-Type": contentType}}
	}
	const multi = "multipart/form-data; boundary=b"
	for what, o := range map[string]struct {
		call   call
		status int
		words  string
	}{
		"no form":                 {text("application/gzip", string(c)), 400, "multipart/form-data"},
		"no boundary":             {text("multipart/form-data", "x"), 400, "multipart/form-data"},
		"nothing":                 {text(multi, ""), 400, "is cut"},
		"no end":                  {text(multi, "--b\r\nContent-Disposition: form-data; name=\"prov\"\r\n\r\n-----BEGIN"), 400, "ended early"},
		"no field":                {text(multi, "--b--\r\n"), 400, "has no chart"},
		"a long beginning":        {text(multi, strings.Repeat("x\r\n", 100_000)+"--b--\r\n"), 400, "between its fields"},
		"long headers":            {text(multi, "--b\r\nX: "+strings.Repeat("x", 100_000)+"\r\n\r\n"), 400, "between its fields"},
		"many headers":            {text(multi, "--b\r\n"+strings.Repeat("X: y\r\n", 20_000)+"\r\n"), 400, "is cut"},
		"two charts":              {form("/api/charts", field{"chart", c}, field{"file", c}), 400, "more than one chart"},
		"two provenances":         {form("/api/charts", field{"prov", provenance(c)}, field{"prov", provenance(c)}), 400, "more than one"},
		"another field":           {form("/api/charts", field{"x", c}), 400, `field "x"`},
		"only a provenance":       {form("/api/charts", field{"prov", provenance(c)}), 400, "has no chart"},
		"a large provenance":      {form("/api/charts", field{"prov", bytes.Repeat([]byte("x"), 2<<20)}), 400, "the provenance has more than"},
		"a provenance of another": {form("/api/charts", field{"chart", c}, field{"prov", provenance([]byte("x"))}), 400, "of another archive"},
		"a provenance of nobody":  {form("/api/charts", field{"chart", c}, field{"prov", []byte(digest.FromBytes(c))}), 400, "not a signed message"},
		"an empty provenance":     {form("/api/charts", field{"chart", c}, field{"prov", nil}), 400, "not a signed message"},
		"no archive":              {form("/api/charts", field{"chart", []byte("<html>")}), 400, "@ before"},
		"an empty archive":        {form("/api/charts", field{"chart", nil}), 400, "not a gzip archive"},
		"a cut archive":           {form("/api/charts", field{"chart", c[:len(c)-9]}), 400, "the chart"},
		"no chart":                {form("/api/charts", field{"chart", charttest.Archive(charttest.File("web/x", "x"))}), 400, "no Chart.yaml"},
		"a path as its name":      {form("/api/charts", field{"chart", charttest.Archive(charttest.File("web/Chart.yaml", "apiVersion: v2\nname: a/web\nversion: 1.0.0\n"))}), 400, "which no chart may be"},
		"a name in capitals":      {form("/api/charts", field{"chart", charttest.Archive(charttest.File("web/Chart.yaml", "apiVersion: v2\nname: WEB\nversion: 1.0.0\n"))}), 400, "lower-case"},
		"a version that is none":  {form("/api/charts", field{"chart", charttest.Archive(charttest.File("web/Chart.yaml", "apiVersion: v2\nname: web\nversion: latest\n"))}), 400, "not a semantic version"},
		"an archive that escapes": {form("/api/charts", field{"chart", charttest.Archive(charttest.File("web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n"), charttest.File("../x", "x"))}), 400, "not plain"},
		"a bomb":                  {form("/api/charts", field{"chart", charttest.Archive(charttest.File("web/x", strings.Repeat("x", 4<<20)))}), 400, "unpacks to more"},
		"another name":            {form("/api/charts?to=team/shop", field{"chart", c}), 400, `the chart is named "web"`},
		"a path above":            {form("/api/charts?to=../web", field{"chart", c}), 400, "lower-case"},
		"a late Chart.yaml":       {form("/api/charts", field{"chart", late}), 400, "?to="},
	} {
		t.Run(what, func(t *testing.T) {
			r.T = t
			r.refused(o.status, o.call, o.words)
		})
	}
	if names, _, err := r.Store.Repositories(t.Context(), 0, ""); err != nil || len(names) > 0 {
		for _, name := range names {
			if repo, _ := r.Store.Repository(name); repo != nil {
				if tags, _, _ := repo.Tags(t.Context(), 0, ""); len(tags) > 0 {
					t.Errorf("%s has %v", name, tags)
				}
			}
		}
	}
	r.T = t
	r.Want(http.StatusCreated, form("/api/charts?to=web", field{"chart", late}))
}

func random(n int) string {
	b := make([]byte, n)
	state := uint32(1)
	for i := range b {
		state = state*1664525 + 1013904223
		b[i] = byte(state >> 24)
	}
	return string(b)
}

// endless never ends, and counts what is taken of it.
type endless struct{ taken int64 }

func (e *endless) Read(p []byte) (int, error) {
	clear(p)
	e.taken += int64(len(p))
	return len(p), nil
}

func TestLargeUploadsEnd(t *testing.T) {
	r := newRegistry(t, wire.Private, func(o *repository.Options) { o.MaxBlobBytes = 1 << 20 })
	for _, path := range []string{"/api/charts?to=web"} {
		body := &endless{}
		c := form(path)
		c.Header["Content-Type"] = "multipart/form-data; boundary=b"
		c.Body = io.MultiReader(strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"chart\"; filename=\"x\"\r\n\r\n"), body)
		r.refused(http.StatusRequestEntityTooLarge, c, "1 MiB at most")
		if body.taken > 4<<20 {
			t.Errorf("%d bytes were taken", body.taken)
		}
	}
}

func TestIndex(t *testing.T) {
	r := newRegistry(t, wire.Private)
	for _, o := range []struct{ path, token, accept, want string }{
		{"/index.yaml", "all", "", "0 web other"},
		{"/index.yaml", "all of another chart", "", "0 other"},
		{"/index.yaml", "write", "", "0 "},
		{"/index.yaml?format=oci", "read", "", "1 web other"},
		{"/index.yaml", "read", "gzip", "0 web other"},
		{"/index.yaml", "read", "br, *;q=0.5", "0 web other"},
		{"/index.yaml", "read", "gzip;q=0, *", "0 web other"},
		{"/index.yaml", "read", "identity", "0 web other"},
	} {
		c := call{Path: o.path, Token: o.token, Header: map[string]string{"Accept-Encoding": o.accept}}
		answer := r.Want(http.StatusOK, c)
		body := io.Reader(answer.Body)
		zipped := answer.Header().Get("Content-Encoding") == "gzip"
		if want := o.accept != "" && o.accept != "identity" && !strings.Contains(o.accept, "gzip;q=0,"); zipped != want {
			t.Errorf("%+v: gzip %v", o, zipped)
		}
		if zipped {
			z, err := gzip.NewReader(body)
			facetest.OK(t, err)
			body = z
		}
		if got, err := io.ReadAll(body); err != nil || string(got) != o.want {
			t.Errorf("%+v: %q, %v", o, got, err)
		}
		etag := answer.Header().Get("ETag")
		if etag == "" || !strings.Contains(answer.Header().Get("Vary"), "Accept-Encoding") || answer.Header().Get("Content-Type") != "application/yaml" {
			t.Errorf("the headers are %v", answer.Header())
		}
		for _, known := range []string{etag, "W/" + etag, `"x", ` + etag, "*"} {
			c.Header["If-None-Match"] = known
			if again := r.Want(http.StatusNotModified, c); again.Body.Len() != 0 || again.Header().Get("ETag") != etag {
				t.Errorf("If-None-Match %s: %v", known, again.Header())
			}
		}
		c.Header["If-None-Match"] = `"x"`
		c.Method = http.MethodHead
		if again := r.Want(http.StatusOK, c); again.Body.Len() != 0 {
			t.Errorf("HEAD has a body: %s", again.Body)
		}
	}
	r.refused(http.StatusBadRequest, call{Path: "/index.yaml?format=atom"}, "format", "atom")
}

// Polls where nothing has changed cost next to nothing, and a change is seen at once by all.
func TestIndexIsMadeOnceForEachChange(t *testing.T) {
	r := newRegistry(t, wire.Private)
	poll := func(token, form string) call {
		return call{Path: "/index.yaml" + form, Token: token, Header: map[string]string{"If-None-Match": r.Want(http.StatusOK, call{Path: "/index.yaml" + form, Token: token}).Header().Get("ETag")}}
	}
	all, oci, confined := poll("all", ""), poll("read", "?format=oci"), poll("all of another chart", "")
	before := r.known.indexes
	for range 3 {
		r.Want(http.StatusNotModified, all)
		r.Want(http.StatusNotModified, oci)
	}
	if r.known.indexes != before {
		t.Errorf("%d indexes were made for nothing", r.known.indexes-before)
	}
	r.known.push("new")
	if got := r.Want(http.StatusOK, all).Body.String(); got != "0 web other new" {
		t.Errorf("after a push the index is %q", got)
	}
	if got := r.Want(http.StatusOK, oci).Body.String(); got != "1 web other new" {
		t.Errorf("after a push the index of OCI is %q", got)
	}
	r.Want(http.StatusNotModified, confined)
}

// writer calls before with each part of a body, before it is written.
type writer struct {
	http.ResponseWriter
	before func()
}

func (w *writer) Write(part []byte) (int, error) {
	w.before()
	return w.ResponseWriter.Write(part)
}

// If this fails, two who read slowly take all places, and nobody else gets an index.
func TestSlowReadersOfTheIndexTakeNoPlace(t *testing.T) {
	r := newRegistry(t, wire.Private)
	var entered, left, written int
	r.Door.Admit = func(*http.Request, string, face.Load) (func(), bool) {
		entered++
		return func() { left++ }, true
	}
	next := r.Handler
	r.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		next.ServeHTTP(&writer{w, func() {
			written++
			if left != entered {
				t.Error("it is written while the place is taken")
			}
		}}, q)
	})
	r.Want(http.StatusOK, call{Path: "/index.yaml"})
	if entered != 1 || left != 1 || written == 0 {
		t.Errorf("%d came, %d left, %d parts were written", entered, left, written)
	}
}

func TestIndexWaitsForTheFirstLook(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.known.building = true
	answered := make(chan *httptest.ResponseRecorder)
	go func() { answered <- r.Do(call{Path: "/index.yaml"}) }()
	select {
	case answer := <-answered:
		t.Fatalf("it is answered before: %d %s", answer.Code, answer.Body)
	default:
	}
	r.known.built()
	if answer := <-answered; answer.Code != http.StatusOK {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
}

func TestFilesInParts(t *testing.T) {
	r := newRegistry(t, wire.Public)
	c := charttest.New("web", "1.0.0", 2000).Content
	r.publish(c)
	get := func(header ...string) *httptest.ResponseRecorder {
		h := map[string]string{}
		for i := 0; i < len(header); i += 2 {
			h[header[i]] = header[i+1]
		}
		return r.Do(call{Path: "/charts/web/web-1.0.0.tgz", Token: "none", Header: h})
	}
	whole := get()
	if whole.Code != 200 || !bytes.Equal(whole.Body.Bytes(), c) || whole.Header().Get("Content-Type") != "application/gzip" || whole.Header().Get("Content-Length") != fmt.Sprint(len(c)) || whole.Header().Get("Accept-Ranges") != "bytes" {
		t.Errorf("%d %v", whole.Code, whole.Header())
	}
	etag := whole.Header().Get("ETag")
	for _, o := range []struct {
		header []string
		status int
		want   []byte
	}{
		{[]string{"Range", "bytes=0-9"}, 206, c[:10]},
		{[]string{"Range", "bytes=-5"}, 206, c[len(c)-5:]},
		{[]string{"Range", "bytes=0-9", "If-Range", etag}, 206, c[:10]},
		{[]string{"Range", "bytes=0-9", "If-Range", `"x"`}, 200, c},
		{[]string{"Range", "bytes=999999-"}, 416, nil},
		{[]string{"If-None-Match", etag}, 304, nil},
	} {
		got := get(o.header...)
		if got.Code != o.status || o.want != nil && !bytes.Equal(got.Body.Bytes(), o.want) {
			t.Errorf("%v: %d with %d bytes", o.header, got.Code, got.Body.Len())
		}
	}
	head := r.Want(http.StatusOK, call{Method: http.MethodHead, Path: "/charts/web/web-1.0.0.tgz", Token: "none"})
	if head.Body.Len() != 0 || head.Header().Get("Content-Length") != fmt.Sprint(len(c)) {
		t.Errorf("HEAD: %v", head.Header())
	}
	// The whole ones, and no others, count.
	one := "web@" + digest.FromBytes(c).String()
	if !slices.Equal(r.downloaded, []string{one, one}) {
		t.Errorf("downloaded were %v", r.downloaded)
	}
	manifest := "web@" + digest.FromString(manifestOf(t, r, "web", "1.0.0")).String()
	if len(r.pulled) != 8 || r.pulled[0] != manifest {
		t.Errorf("pulled were %v", r.pulled)
	}
}

// Names and versions both have dashes.
func TestNamesOfFiles(t *testing.T) {
	r := newRegistry(t, wire.Private)
	for _, c := range []struct{ name, version string }{
		{"a", "1.0.0"}, {"a-1", "1.0.0"}, {"a", "1.0.0-1.0.0"}, {"a-1.0.0", "1.0.0"}, {"a", "2.0.0-2.0.0"}, {"a-b", "1.0.0-rc-1"}, {"a", "1.2"}, {"a-1.0.0", "2.0.0"},
	} {
		content := charttest.New(c.name, c.version, 0).Content
		r.publish(content)
		if got := r.Want(http.StatusOK, call{Path: "/" + inventory.ArchivePath(c.name, c.version)}).Body.Bytes(); !bytes.Equal(got, content) {
			t.Errorf("%v is another chart", c)
		}
	}
	for _, name := range []string{
		"a/a-2.0.0.tgz", "a/a.tgz", "a/-1.0.0.tgz", "a/a-1.0.0", "a/a-1.0.0.zip", "b/b-1.0.0.tgz", "a/a-.tgz", "A/A-1.0.0.tgz", "team/a/a-1.0.0.tgz", "a/a-latest.tgz", ".tgz",
		"a/a-1.0.0.tgz.prov.prov", "a-1.0.0.tgz", "a/b-1.0.0.tgz", "a-1/a-1.0.0.tgz", "a/.tgz", ".-1.0.0.tgz",
	} {
		r.refused(http.StatusNotFound, call{Path: "/charts/" + name}, "no such file")
	}
}

func TestArtifactHub(t *testing.T) {
	r := newRegistry(t, wire.Public)
	r.refused(http.StatusNotFound, call{Path: "/artifacthub-repo.yml", Token: "none"}, "acme/charts/artifacthub.io:artifacthub.io")
	repo, err := r.Store.Repository("artifacthub.io")
	facetest.OK(t, err)
	const metadata = "repositoryID: 1\n"
	for _, blob := range []string{metadata, ""} {
		facetest.OK(t, repo.PutBlob(t.Context(), digest.FromString(blob), strings.NewReader(blob), -1))
	}
	const layer = "application/vnd.cncf.artifacthub.repository-metadata.layer.v1.yaml"
	manifest := charttest.Manifest(charttest.Descriptor("application/vnd.cncf.artifacthub.config.v1+yaml", nil), charttest.Descriptor(layer, []byte(metadata)))
	_, err = repo.PutManifest(t.Context(), "artifacthub.io", ociTypes, manifest, "oras")
	facetest.OK(t, err)
	answer := r.Want(http.StatusOK, call{Path: "/artifacthub-repo.yml", Token: "none"})
	if answer.Body.String() != metadata || answer.Header().Get("Content-Type") != "application/yaml" {
		t.Errorf("%s %v", answer.Body, answer.Header())
	}
}

func TestFullStorageIsSaid(t *testing.T) {
	r := newRegistry(t, wire.Private, func(o *repository.Options) { o.MaxChartBytes = 1000; o.MaxBlobBytes = 1 << 20 })
	r.refused(http.StatusRequestEntityTooLarge, form("/api/charts", field{"chart", charttest.New("web", "1.0.0", 5000).Content}), "1000")
}

func TestAdmissionIsAsked(t *testing.T) {
	r := newRegistry(t, wire.Private)
	for load, c := range map[face.Load]call{
		face.Light: {Path: "/charts/web/web-1.0.0.tgz"}, face.Listing: {Path: "/index.yaml"}, face.Upload: form("/api/charts"), face.FailedLogin: {Path: "/index.yaml", Token: "expired"},
	} {
		asked := false
		r.Admit = func(l face.Load) bool { asked = asked || l == load; return l != load }
		r.refused(http.StatusTooManyRequests, c, "try again")
		if !asked {
			t.Errorf("it was not asked for %d", load)
		}
	}
}

// row is what the test knows of one address apart from the handler: what a token must be granted for the chart, whether a
// public registry answers everybody, and a request that succeeds.
type row struct {
	method, needs string
	open          bool
	call          func() call
}

func rows() map[string]row {
	get := func(path string) func() call { return func() call { return call{Path: path} } }
	post := func(path string) func() call {
		return func() call { return form(path, field{"file", charttest.New("web", "1.0.0", 0).Content}) }
	}
	return map[string]row{
		"index":        {"GET", "", true, get("/index.yaml")},
		"index HEAD":   {"HEAD", "", true, get("/index.yaml")},
		"archive":      {"GET", "r", true, get("/charts/web/web-1.0.0.tgz")},
		"archive HEAD": {"HEAD", "r", true, get("/charts/web/web-1.0.0.tgz")},
		"provenance":   {"GET", "r", true, get("/charts/web/web-1.0.0.tgz.prov")},
		"artifact hub": {"GET", "r", true, get("/artifacthub-repo.yml")},
		"publish":      {"POST", "rw", false, post("/api/charts")},
		"publish to":   {"POST", "rw", false, post("/api/charts?to=web")},
		"publish here": {"POST", "rw", false, post("")},
	}
}

func TestEveryRouteJudgesEveryCredential(t *testing.T) {
	for _, visibility := range []wire.Visibility{wire.Private, wire.Public} {
		r := newRegistry(t, visibility)
		content := charttest.New("web", "1.0.0", 0).Content
		r.Want(http.StatusCreated, form("/api/charts", field{"chart", content}, field{"prov", provenance(content)}))
		repo, err := r.Store.Repository("artifacthub.io")
		facetest.OK(t, err)
		facetest.OK(t, repo.PutBlob(t.Context(), digest.FromString(""), strings.NewReader(""), -1))
		empty := charttest.Descriptor("application/vnd.cncf.artifacthub.repository-metadata.layer.v1.yaml", nil)
		_, err = repo.PutManifest(t.Context(), "artifacthub.io", ociTypes, charttest.Manifest(empty, empty), "oras")
		facetest.OK(t, err)
		grants := accesstest.Grants()
		for what, o := range rows() {
			for _, name := range append([]string{"none"}, slices.Sorted(maps.Keys(grants))...) {
				for _, bearer := range []bool{false, true} {
					c := o.call()
					c.Method, c.Token, c.Bearer = o.method, name, bearer
					answer := r.Do(c)
					granted, known := grants[name]
					want := http.StatusForbidden
					switch {
					case granted == accesstest.Nobody, !known && (!o.open || visibility != wire.Public):
						want = http.StatusUnauthorized
					case !known, strings.Trim(o.needs, granted) == "":
						want = 0
					}
					if want == 0 && answer.Code >= 300 || want != 0 && answer.Code != want {
						t.Errorf("%s %s with %q (bearer %v): %d %s, want %d (0 is success)", visibility, what, name, bearer, answer.Code, answer.Body, want)
					}
					if (answer.Code == http.StatusUnauthorized) != (len(answer.Header().Values("WWW-Authenticate")) == 1) {
						t.Errorf("%s with %q: the challenges are %q", what, name, answer.Header().Values("WWW-Authenticate"))
					}
					if want != 0 && answer.Header().Get("ETag")+answer.Header().Get("Docker-Content-Digest") != "" {
						t.Errorf("%s with %q: a refusal has headers of the content: %v", what, name, answer.Header())
					}
				}
			}
		}
	}
}

func TestEveryOtherMethodIsRefused(t *testing.T) {
	r := newRegistry(t, wire.Private)
	for path, takes := range map[string]string{
		"/index.yaml": "GET HEAD", "/charts/web/web-1.0.0.tgz": "GET HEAD", "/artifacthub-repo.yml": "GET HEAD", "/api/charts": "POST", "": "POST",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} {
			if slices.Contains(strings.Fields(takes), method) {
				continue
			}
			r.refused(http.StatusMethodNotAllowed, call{Method: method, Path: path, Header: map[string]string{"X-HTTP-Method-Override": strings.Fields(takes)[0]}}, "does not take")
			r.Want(http.StatusUnauthorized, call{Method: method, Path: path, Token: "none"})
		}
		if allow := r.Want(http.StatusNoContent, call{Method: "OPTIONS", Path: path}).Header().Get("Allow"); !strings.Contains(allow, strings.Fields(takes)[0]) {
			t.Errorf("OPTIONS %s: %s", path, allow)
		}
	}
}

// As clients of ChartMuseum would delete.
func TestDeletesAreElsewhere(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.refused(http.StatusNotFound, call{Method: "DELETE", Path: "/api/charts/web/1.0.0"}, "the REST API deletes versions")
}

// Whatever an anonymous client asks a private registry for, and whatever a token asks for that does not cover it, the
// answer is the same for what exists and for what does not.
func TestNothingTellsWhatExists(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.publish(charttest.New("web", "1.0.0", 0).Content)
	want := r.Want(http.StatusUnauthorized, call{Path: "/index.yaml", Token: "none"}).Body.String()
	for _, path := range []string{"/charts/web/web-1.0.0.tgz", "/charts/web/web-2.0.0.tgz", "/charts/x", "/nothing", "/artifacthub-repo.yml", "/a%2fb", "/../x", ""} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS", "BREW"} {
			if got := r.Want(http.StatusUnauthorized, call{Method: method, Path: path, Token: "none"}).Body.String(); got != want {
				t.Errorf("%s %s is answered %s, and the index %s", method, path, got, want)
			}
		}
	}
	foreign := map[string]bool{}
	for _, path := range []string{"/charts/web/web-1.0.0.tgz", "/charts/web/web-2.0.0.tgz", "/charts/web/web-1.0.0.tgz.prov"} {
		foreign[r.Want(http.StatusForbidden, call{Path: path, Token: "all of another chart"}).Body.String()] = true
	}
	if len(foreign) != 1 {
		t.Errorf("the refusals differ: %v", foreign)
	}
	missing := r.Want(http.StatusForbidden, call{Path: "/charts/nothing/nothing-1.0.0.tgz", Token: "all of another chart"}).Body.String()
	if !foreign[strings.ReplaceAll(missing, "nothing", "web")] {
		t.Errorf("of what does not exist it says %s", missing)
	}
}

func TestHostilePaths(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.publish(charttest.New("web", "1.0.0", 0).Content)
	for _, path := range []string{
		"/charts/..%2f..%2fweb/web-1.0.0.tgz", "/charts/../charts/web/web-1.0.0.tgz", "/charts/%2e%2e/charts/web/web-1.0.0.tgz", "/charts//web/web-1.0.0.tgz", "/charts/./web/web-1.0.0.tgz", "/charts/web//web-1.0.0.tgz", "/charts/web%2Dx%252f/web-1.0.0.tgz", "/charts/web/web-1.0.0.tgz%00",
		"/charts/web/web-1.0.0.tgz/", "/charts/web%20/web%20-1.0.0.tgz", "/charts%2fweb%2fweb-1.0.0.tgz", "/charts/web%2fweb-1.0.0.tgz", "//index.yaml", "/index.yaml/", "/index.yaml%0d%0a", `/charts/web\web-1.0.0.tgz`, "/api/charts/", "/charts", "/charts/",
	} {
		for _, method := range []string{"GET", "POST"} {
			answer := r.Do(call{Method: method, Path: path})
			if answer.Code != http.StatusBadRequest && answer.Code != http.StatusNotFound && answer.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d %s", method, path, answer.Code, answer.Body)
			}
		}
	}
}

// A token that is revoked while its holder sends a chart publishes nothing.
func TestRevocationWhilePublishing(t *testing.T) {
	r := newRegistry(t, wire.Private)
	c := form("/api/charts", field{"chart", charttest.New("web", "1.0.0", 0).Content})
	var sent bytes.Buffer
	_, _ = sent.ReadFrom(c.Body)
	c.Token = "read and write"
	c.Body = io.MultiReader(bytes.NewReader(sent.Bytes()[:sent.Len()-3]), afterwards(func() { r.Revoke(t, "read and write") }), bytes.NewReader(sent.Bytes()[sent.Len()-3:]))
	r.refused(http.StatusForbidden, c, "no longer valid")
	r.refused(http.StatusNotFound, call{Path: "/charts/web/web-1.0.0.tgz"}, "no such file")
}

// afterwards does something where it is read, and is empty.
type afterwards func()

func (a afterwards) Read([]byte) (int, error) {
	a()
	return 0, io.EOF
}

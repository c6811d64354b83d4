package restapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access/accesstest"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/face/facetest"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/restapi"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

const (
	address = "https://charts.example.com"
	root    = "/api/v2/packages/organizations/acme/registries/charts/packages"
	oci     = "application/vnd.oci.image.manifest.v1+json"
)

// registry is one with its REST API.
type registry struct {
	*facetest.Registry
	known *known
}

type call = facetest.Call

func newRegistry(t *testing.T, visibility wire.Visibility) *registry {
	t.Helper()
	k := &known{t: t}
	r := &registry{Registry: facetest.New(t, visibility, root, k.options()), known: k}
	k.store = r.Store
	h := restapi.New(restapi.Options{
		Store: r.Store, Inventory: r.known, Publisher: publish.New(r.Store), Organization: "acme", Registry: "charts", ExternalURL: address + "/",
		Door: r.Door, Observe: r.Observe,
	})
	r.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !h.Serves(q.URL.Path) {
			t.Errorf("%s is not served", q.URL.Path)
		}
		h.ServeHTTP(w, q)
		if got := w.Header().Get("Content-Type"); got != "application/json" && w.(*httptest.ResponseRecorder).Code != http.StatusNoContent {
			t.Errorf("%s %s: the answer is %q", q.Method, q.URL.Path, got)
		}
	})
	return r
}

// known is an inventory that reads all that is stored for each question.
type known struct {
	inventory.Reader
	t        *testing.T
	store    *repository.Store
	building bool
	blind    bool
	// copies are the versions that were pushed as copies: "what = of what".
	copies []string
	// written, when not nil, is called when a tag was written.
	written func()
	// asked, when not nil, is called by who waits.
	asked func()
}

// options are those of the store that it reads.
func (k *known) options() repository.Options {
	return repository.Options{MaxBlobBytes: 1 << 20, Record: func(_ context.Context, c repository.Change) (string, func(bool), error) {
		if c.CopiedFrom != "" {
			k.copies = append(k.copies, c.Repository+":"+c.Tag+" = "+c.CopiedFrom)
		}
		return "", func(bool) {
			if k.written != nil {
				k.written()
			}
		}, nil
	}}
}

func (k *known) Building() bool { return k.building }

func (k *known) Changed() (uint64, <-chan struct{}) {
	if k.asked != nil {
		k.asked()
	}
	return 0, nil
}

func (k *known) Charts(may func(string) bool) (all []inventory.Chart) {
	names, _, err := k.store.Repositories(k.t.Context(), 0, "")
	facetest.OK(k.t, err)
	for _, name := range names {
		if c, found := k.Chart(name); found && (may == nil || may(name)) {
			all = append(all, c)
		}
	}
	return all
}

func (k *known) Chart(name string) (inventory.Chart, bool) {
	c := inventory.Chart{Name: name, Downloads: 17}
	for _, v := range k.Versions(name) {
		if v.Chart {
			c.Versions++
		}
	}
	return c, c.Versions > 0
}

func (k *known) Versions(name string) (all []inventory.Version) {
	repo, err := k.store.Repository(name)
	if err != nil || k.blind {
		return nil
	}
	versions, err := repo.Versions(k.t.Context())
	facetest.OK(k.t, err)
	slices.SortFunc(versions, func(a, b repository.Version) int { return strings.Compare(b.Tag, a.Tag) })
	for _, v := range versions {
		stored, _, err := publish.Layers(k.t.Context(), repo, v.Tag)
		all = append(all, inventory.Version{
			Tag: v.Tag, Digest: v.Digest, Chart: err == nil, Archive: stored.Archive.Digest, ArchiveSize: stored.Archive.Size, Provenance: stored.Provenance.Digest, StoredSize: 99,
			PushedAt: v.PushedAt, PushedBy: v.PushedBy, Downloads: 7, LastPulled: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Description: "Serves pages", AppVersion: "9", Type: "application", KubeVersion: ">=1.0.0",
		})
	}
	return all
}

func (k *known) Highest(name string, from, to int) (some []inventory.Listed, all int) {
	for _, v := range k.Versions(name) {
		if v.Chart {
			some = append(some, inventory.Listed{Name: name, Version: v})
		}
	}
	return some[min(len(some), from):min(len(some), to)], len(some)
}

func (k *known) Newest(may func(string) bool, from, to int) (some []inventory.Listed, all int) {
	for _, c := range k.Charts(may) {
		versions, _ := k.Highest(c.Name, 0, c.Versions)
		some = append(some, versions...)
	}
	slices.SortStableFunc(some, func(a, b inventory.Listed) int { return b.PushedAt.Compare(a.PushedAt) })
	return some[min(len(some), from):min(len(some), to)], len(some)
}

func (k *known) Version(name, tag string) (inventory.Version, bool) {
	for _, v := range k.Versions(name) {
		if v.Tag == tag {
			return v, true
		}
	}
	return inventory.Version{}, false
}

// refused wants a problem with words in its message.
func (r *registry) refused(status int, c call, words ...string) {
	r.T.Helper()
	answer := r.Want(status, c)
	var body struct{ Code, Message string }
	if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil || body.Code == "" || body.Message == "" {
		r.T.Fatalf("%s %s: %d %s is no problem", c.Method, c.Path, answer.Code, answer.Body)
	}
	for _, w := range words {
		if !strings.Contains(body.Message, w) {
			r.T.Errorf("%s %s: %q does not say %q", c.Method, c.Path, body.Message, w)
		}
	}
}

// form is a request that publishes an archive, and its provenance where there is one.
func form(query string, archive []byte, provenance ...[]byte) call {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part, _ := w.CreateFormFile("file", "chart.tgz")
	_, _ = part.Write(archive)
	for _, p := range provenance {
		part, _ = w.CreateFormFile("prov", "chart.tgz.prov")
		_, _ = part.Write(p)
	}
	_ = w.Close()
	return call{Method: "POST", Path: query, Body: &b, Header: map[string]string{"Content-Type": w.FormDataContentType()}}
}

func archive(name, version string) []byte { return charttest.New(name, version, 0).Content }

func (r *registry) publish(name, version string) map[string]any {
	r.T.Helper()
	return object(r.T, r.Want(http.StatusOK, form("", archive(name, version))))
}

func object(t *testing.T, answer *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	var body map[string]any
	facetest.OK(t, json.Unmarshal(answer.Body.Bytes(), &body))
	return body
}

func TestPackage(t *testing.T) {
	r := newRegistry(t, wire.Private)
	content := archive("web", "1.2.3+b.1")
	c := form("?to=team/web", content, []byte("-----BEGIN PGP SIGNED MESSAGE-----\n"+digest.FromBytes(content).String()))
	c.Token = "read and write"
	published := object(t, r.Want(http.StatusOK, c))
	if seen := r.Observed[len(r.Observed)-1]; seen.Action != audit.Push || seen.Chart != "team/web" || seen.Reference != "1.2.3_b.1" || seen.Stored != published["digest"] {
		t.Errorf("observed %+v", seen)
	}
	when, err := time.Parse(time.RFC3339Nano, published["pushed_at"].(string))
	if err != nil || time.Since(when) > time.Hour || published["created_at"] != published["pushed_at"] || !strings.HasPrefix(published["digest"].(string), "sha256:") {
		t.Errorf("it was pushed %v as %v", published["pushed_at"], published["digest"])
	}
	organization := map[string]any{"id": "acme", "slug": "acme", "web_url": address + "/"}
	registry := map[string]any{"id": "charts", "slug": "charts", "url": address + root, "web_url": address + "/acme/charts"}
	want := map[string]any{
		"id": "team~web:1.2.3_b.1", "url": address + root + "/team~web:1.2.3_b.1", "web_url": address + "/acme/charts/charts/team/web/1.2.3+b.1", "name": "team/web", "version": "1.2.3+b.1",
		"created_at": published["created_at"], "pushed_at": published["pushed_at"], "pushed_by": "crt_" + r.Tokens["read and write"][4:12],
		"digests": map[string]any{"sha256": digest.FromBytes(content).Encoded()}, "digest": published["digest"], "archive": digest.FromBytes(content).String(), "size": float64(len(content)), "stored_size": 99.0,
		"app_version": "9", "kube_version": ">=1.0.0", "description": "Serves pages", "type": "application", "deprecated": false, "signed": true, "signatures": 0.0, "attestations": 0.0, "downloads": 7.0, "last_pulled": "2026-01-02",
		"download_url": address + "/acme/charts/helm/charts/team/web/web-1.2.3+b.1.tgz", "oci_url": "oci://charts.example.com/acme/charts/team/web:1.2.3_b.1",
		"organization": organization, "registry": registry,
	}
	if diff := cmp.Diff(want, published); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, id := range []string{"team~web:1.2.3_b.1", "team~web:1.2.3+b.1", "team~web%3A1.2.3_b.1"} {
		if diff := cmp.Diff(want, object(t, r.Want(http.StatusOK, call{Path: "/" + id}))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
	counts := object(t, r.Want(http.StatusOK, call{Path: "/team~web:1.2.3_b.1/downloads"}))
	if diff := cmp.Diff(map[string]any{"id": "team~web:1.2.3_b.1", "name": "team/web", "downloads": 7.0, "last_pulled": "2026-01-02", "all_versions": 17.0}, counts); diff != "" {
		t.Error(diff)
	}
	// What the inventory has not seen is said with what is known.
	r.known.blind = true
	ctx, cancel := context.WithCancel(t.Context())
	r.known.asked = cancel
	again := form("?to=team/web", content)
	again.Ctx = ctx
	if got := object(t, r.Want(http.StatusOK, again)); got["digest"] != published["digest"] || got["archive"] != published["archive"] || got["pushed_at"] != nil {
		t.Errorf("it is described as %v", got)
	}
}

func TestLists(t *testing.T) {
	r := newRegistry(t, wire.Private)
	for i := range 7 {
		r.publish("web", fmt.Sprintf("1.0.%d", i))
	}
	r.publish("other", "1.0.0")
	repo, err := r.Store.Repository("web")
	facetest.OK(t, err)
	facetest.OK(t, repo.PutBlob(t.Context(), digest.FromString("{}"), strings.NewReader("{}"), -1))
	_, err = repo.PutManifest(t.Context(), "image", oci, charttest.Manifest(charttest.Descriptor("text/plain", []byte("{}"))), "x")
	facetest.OK(t, err)
	// pages reads a list from its beginning to its end, by the links.
	pages := func(path, token string) (ids []string, pages int) {
		for path != "" {
			answer := r.Want(http.StatusOK, call{Path: path, Token: token})
			var page struct {
				Items []struct{ ID string }
				Links map[string]string
			}
			facetest.OK(t, json.Unmarshal(answer.Body.Bytes(), &page))
			for _, i := range page.Items {
				ids = append(ids, i.ID)
			}
			pages++
			path = strings.TrimPrefix(page.Links["next"], address)
			if link := answer.Header().Get("Link"); strings.Contains(link, `rel="next"`) != (path != "") || path != "" && !strings.Contains(link, "<"+page.Links["next"]+`>; rel="next"`) || !strings.Contains(link, `rel="first"`) || !strings.Contains(link, `rel="last"`) {
				t.Errorf("the links are %s", link)
			}
			if (pages > 1) != (page.Links["prev"] != "") || page.Links["first"] == "" || page.Links["last"] == "" || page.Links["self"] == "" {
				t.Errorf("the links are %v", page.Links)
			}
		}
		return ids, pages
	}
	newest := []string{"other:1.0.0", "web:1.0.6", "web:1.0.5", "web:1.0.4", "web:1.0.3", "web:1.0.2", "web:1.0.1", "web:1.0.0"}
	for _, o := range []struct {
		path, token string
		want        []string
		pages       int
	}{
		{"?", "", newest, 1},
		{"?per_page=3", "", newest, 3},
		{"?per_page=4", "read", newest, 2},
		{"?per_page=3&name=web", "", newest[1:], 3},
		{"?name=nothing", "", nil, 1},
		{"?name=WEB/../..", "", nil, 1},
		{"?", "all of another chart", newest[:1], 1},
		{"?name=web", "all of another chart", nil, 1},
		{"?", "write", nil, 1},
		{"/web:1.0.3/versions?per_page=5", "", newest[1:], 2},
	} {
		got, n := pages(o.path, o.token)
		if !slices.Equal(got, o.want) || n != o.pages {
			t.Errorf("%s with %q: %v on %d pages", o.path, o.token, got, n)
		}
	}
	if page := object(t, r.Want(http.StatusOK, call{Path: "?page=9&per_page=100"})); len(page["items"].([]any)) != 0 || page["total"] != 8.0 {
		t.Errorf("behind the end there is %v", page)
	}
	for _, query := range []string{"page=0", "page=-1", "page=x", "page=1000001", "page=99999999999999999999", "per_page=0", "per_page=101", "per_page=", "per_page=%31%30%00"} {
		r.refused(http.StatusBadRequest, call{Path: "?" + query}, "a number from 1 to")
	}
}

func TestCopy(t *testing.T) {
	r := newRegistry(t, wire.Private)
	published := r.publish("web", "1.0.0")
	repo, err := r.Store.Repository("web")
	facetest.OK(t, err)
	subject, err := repo.StatManifest(t.Context(), "1.0.0")
	facetest.OK(t, err)
	facetest.OK(t, repo.PutBlob(t.Context(), digest.FromString("{}"), strings.NewReader("{}"), -1))
	facetest.OK(t, repo.PutBlob(t.Context(), digest.FromString("signed"), strings.NewReader("signed"), -1))
	signature := strings.Replace(string(charttest.Manifest(charttest.Descriptor("application/vnd.oci.empty.v1+json", []byte("{}")), charttest.Descriptor("text/plain", []byte("signed")))),
		`"layers"`, fmt.Sprintf(`"subject":{"mediaType":%q,"digest":%q,"size":%d},"layers"`, oci, subject.Digest, subject.Size), 1)
	_, err = repo.PutManifest(t.Context(), digest.FromString(signature).String(), oci, []byte(signature), "x")
	facetest.OK(t, err)
	old := charttest.Manifest(charttest.Descriptor("text/plain", []byte("{}")))
	oldTag := "sha256-" + subject.Digest.Encoded() + ".sig"
	_, err = repo.PutManifest(t.Context(), oldTag, oci, old, "x")
	facetest.OK(t, err)

	for range 2 {
		copied := object(t, r.Want(http.StatusOK, call{Method: "POST", Path: "/web:1.0.0/copy?to=stable/web"}))
		if copied["digest"] != published["digest"] || copied["archive"] != published["archive"] || copied["id"] != "stable~web:1.0.0" {
			t.Errorf("the copy is %v", copied)
		}
	}
	if copies := r.known.copies; !slices.Equal(copies, []string{"stable/web:1.0.0 = web:1.0.0"}) {
		t.Errorf("who keeps account of copies is told of %q", copies)
	}
	if seen := r.Observed[len(r.Observed)-1]; seen.Action != audit.Push || seen.Chart != "stable/web" || seen.Stored != published["digest"] {
		t.Errorf("observed %+v", seen)
	}
	target, err := r.Store.Repository("stable/web")
	facetest.OK(t, err)
	found, _, err := target.Referrers(t.Context(), subject.Digest, "", "")
	if err != nil || len(found) != 1 || found[0].Digest != digest.FromString(signature) {
		t.Errorf("the signatures are %v, %v", found, err)
	}
	if _, err := target.StatManifest(t.Context(), oldTag); err != nil {
		t.Error(err)
	}
	body, _, err := target.OpenBlob(t.Context(), digest.FromBytes(archive("web", "1.0.0")), nil)
	facetest.OK(t, err)
	_ = body.Close()

	r.Want(http.StatusOK, form("?to=taken/web", charttest.New("web", "1.0.0", 900).Content))
	copying := func(id, to string) call { return call{Method: "POST", Path: "/" + id + "/copy?to=" + to} }
	r.refused(http.StatusConflict, copying("web:1.0.0", "taken/web"), "acme/charts/taken/web 1.0.0 exists already with other content")
	r.refused(http.StatusBadRequest, copying("web:1.0.0", "stable/shop"), `the chart is named "web"`)
	r.refused(http.StatusBadRequest, copying("web:1.0.0", ""), "?to=")
	r.refused(http.StatusBadRequest, copying("web:1.0.0", "../web"), "lower-case")
	r.refused(http.StatusNotFound, copying("web:2.0.0", "stable/web"), "no such package")
	r.refused(http.StatusNotFound, copying("web:"+oldTag, "stable/web"), "no such package")
	other := copying("web:1.0.0", "other")
	other.Token = "all of another chart"
	r.refused(http.StatusForbidden, other, `does not cover the chart "web"`)
}

func TestDelete(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.publish("web", "1.0.0")
	r.publish("web", "1.0.1")
	if got := object(t, r.Want(http.StatusOK, call{Method: "DELETE", Path: "/web:1.0.0", Token: "delete"})); got["id"] != "web:1.0.0" || len(got) != 1 {
		t.Errorf("it is answered %v", got)
	}
	r.refused(http.StatusNotFound, call{Method: "DELETE", Path: "/web:1.0.0"}, "no such package")
	r.refused(http.StatusNotFound, call{Path: "/web:1.0.0"}, "no such package")
	// As those write the id who do not know of the "~".
	for path, status := range map[string]int{"/team/web:1.0.0": http.StatusNotFound, "/web/1.0.0": http.StatusNotFound, "/team%2Fweb:1.0.0": http.StatusBadRequest} {
		r.refused(status, call{Path: path}, "~ for each /")
	}
	r.Want(http.StatusOK, call{Path: "/web:1.0.1"})
}

// What is no package is not found, and stays: of signatures and images clients of OCI take care.
func TestDeleteLeavesWhatIsNoPackage(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.publish("web", "1.0.0")
	repo, err := r.Store.Repository("web")
	facetest.OK(t, err)
	facetest.OK(t, repo.PutBlob(t.Context(), digest.FromString("{}"), strings.NewReader("{}"), -1))
	absent := r.Want(http.StatusNotFound, call{Method: "DELETE", Path: "/web:none", Token: "delete"}).Body.String()
	for _, tag := range []string{"image", "sha256-" + strings.Repeat("a", 64) + ".sig"} {
		_, err = repo.PutManifest(t.Context(), tag, oci, charttest.Manifest(charttest.Descriptor("text/plain", []byte("{}"))), "x")
		facetest.OK(t, err)
		// Who may not read is not told either that there is something.
		if got := r.Want(http.StatusNotFound, call{Method: "DELETE", Path: "/web:" + tag, Token: "delete"}).Body.String(); got != absent {
			t.Errorf("deleting %s is answered %s, and what does not exist %s", tag, got, absent)
		}
		if _, err := repo.StatManifest(t.Context(), tag); err != nil {
			t.Errorf("%s is deleted: %v", tag, err)
		}
	}
}

// A version that is moved before it is described is described as it was pushed.
func TestPublishedIsDescribedAsItWasPushed(t *testing.T) {
	r := newRegistry(t, wire.Private)
	moved := false
	r.known.written = func() {
		if moved {
			return
		}
		moved = true
		r.Want(http.StatusOK, call{Method: "DELETE", Path: "/web:1.0.0"})
		r.Want(http.StatusOK, form("", charttest.New("web", "1.0.0", 900).Content))
	}
	content := archive("web", "1.0.0")
	answer := r.Want(http.StatusOK, form("", content))
	got := object(t, answer)
	if !moved || got["archive"] != digest.FromBytes(content).String() || got["digest"] != answer.Header().Get("Docker-Content-Digest") {
		t.Errorf("%v is described as %v", answer.Header(), got)
	}
}

// document is what of the OpenAPI document is compared with the handler.
type document struct {
	Paths      map[string]map[string]json.RawMessage
	Components struct{ Schemas map[string]schema }
}

type operation struct {
	Responses map[string]struct {
		Content map[string]struct{ Schema schema }
	}
}

type schema struct {
	Ref                  string `json:"$ref"`
	Type                 string
	Required             []string
	Properties           map[string]schema
	Items                *schema
	AdditionalProperties *bool
}

// check compares a value with a schema.
func (d document) check(s schema, value any, where string) (problems []string) {
	if s.Ref != "" {
		s = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	wrong := func() []string {
		return append(problems, fmt.Sprintf("%s is %v, not of the type %q", where, value, s.Type))
	}
	switch v := value.(type) {
	case map[string]any:
		if s.Type != "object" {
			return wrong()
		}
		for _, name := range s.Required {
			if _, found := v[name]; !found {
				problems = append(problems, where+" lacks "+name)
			}
		}
		for name, element := range v {
			if property, found := s.Properties[name]; found {
				problems = append(problems, d.check(property, element, where+"."+name)...)
			} else if s.AdditionalProperties != nil {
				problems = append(problems, where+" has "+name)
			}
		}
	case []any:
		if s.Type != "array" {
			return wrong()
		}
		for _, element := range v {
			problems = append(problems, d.check(*s.Items, element, where+"[]")...)
		}
	case string:
		if s.Type != "string" {
			return wrong()
		}
	case float64:
		if s.Type != "integer" {
			return wrong()
		}
	case bool:
		if s.Type != "boolean" {
			return wrong()
		}
	default:
		return wrong()
	}
	return problems
}

// step is a request of which the document says how it is answered.
type step struct {
	call
	path   string // As in the document.
	status int
	// busy is what is not admitted, late makes the inventory know of nothing, building is before the first look.
	busy           face.Load
	late, building bool
}

func steps() []step {
	const all = "/api/v2/packages/organizations/{organization}/registries/{registry}/packages"
	const one, copying, versions, downloads = all + "/{id}", all + "/{id}/copy", all + "/{id}/versions", all + "/{id}/downloads"
	web, other, foreign := archive("web", "1.0.0"), charttest.New("web", "1.0.0", 900).Content, "/api/v2/packages/organizations/acme/registries/other/packages"
	get := func(path, token string) call { return call{Method: "GET", Path: path, Token: token} }
	with := func(c call, token string) call { c.Token = token; return c }
	at := func(c call, path string) call { c.Path = path; return c }
	oversize := call{Method: "POST", Path: "?to=web", Header: map[string]string{"Content-Type": "multipart/form-data; boundary=b"}}
	oversize.Body = io.MultiReader(strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n"), neverending{})
	post := func(path, token string) call { return call{Method: "POST", Path: path, Token: token} }
	remove := func(id, token string) call { return call{Method: "DELETE", Path: "/" + id, Token: token} }
	s := []step{
		{call: get("/api/v2/openapi.json", "none"), path: "/api/v2/openapi.json", status: 200},
		{call: get("/api/v2/openapi.json", "expired"), path: "/api/v2/openapi.json", status: 401},
		{call: get("/api/v2/openapi.json", "none"), path: "/api/v2/openapi.json", status: 429, busy: face.Light},

		{call: form("", web), path: all, status: 200},
		{call: call{Method: "POST"}, path: all, status: 400},
		{call: with(form("", web), "none"), path: all, status: 401},
		{call: with(form("", web), "read"), path: all, status: 403},
		{call: at(form("", web), foreign), path: all, status: 404},
		{call: form("", other), path: all, status: 409},
		{call: oversize, path: all, status: 413},
		{call: form("", web), path: all, status: 429, busy: face.Upload},

		{call: get("", ""), path: all, status: 200},
		{call: get("?page=x", ""), path: all, status: 400},
		{call: get("", "none"), path: all, status: 401},
		{call: get(foreign, ""), path: all, status: 404},
		{call: get("", ""), path: all, status: 429, busy: face.Listing},
		{call: get("", ""), path: all, status: 503, building: true},

		{call: get("/web:1.0.0", ""), path: one, status: 200},
		{call: get("/web:1.0.0", ""), path: one, status: 503, late: true},

		{call: post("/web:1.0.0/copy?to=stable/web", ""), path: copying, status: 200},
		{call: post("/web:1.0.0/copy", ""), path: copying, status: 400},
		{call: post("/web:1.0.0/copy?to=stable/web", "none"), path: copying, status: 401},
		{call: post("/web:1.0.0/copy?to=stable/web", "read"), path: copying, status: 403},
		{call: post("/web:2.0.0/copy?to=stable/web", ""), path: copying, status: 404},
		{call: form("?to=taken/web", other), path: all, status: 200},
		{call: post("/web:1.0.0/copy?to=taken/web", ""), path: copying, status: 409},
		{call: post("/web:1.0.0/copy?to=stable/web", ""), path: copying, status: 429, busy: face.Upload},

		{call: get("/web:1.0.0/versions?per_page=x", ""), path: versions, status: 400},
		{call: get("/web:1.0.0/versions", ""), path: versions, status: 503, building: true},
		{call: get("/web:1.0.0/downloads", ""), path: downloads, status: 503, building: true},
	}
	for _, path := range []string{one, versions, downloads} {
		tail := strings.TrimPrefix(path, one)
		busy := face.Light
		if path == versions {
			busy = face.Listing
		}
		s = append(s,
			step{call: get("/web:1.0.0"+tail, ""), path: path, status: 200},
			step{call: get("/web:1.0.0"+tail, "none"), path: path, status: 401},
			step{call: get("/web:1.0.0"+tail, "write"), path: path, status: 403},
			step{call: get("/web:2.0.0"+tail, ""), path: path, status: 404},
			step{call: get("/web:1.0.0"+tail, ""), path: path, status: 429, busy: busy},
		)
	}
	return append(s,
		step{call: remove("web:1.0.0", "none"), path: one, status: 401},
		step{call: remove("web:1.0.0", "read and write"), path: one, status: 403},
		step{call: remove("web:2.0.0", ""), path: one, status: 404},
		step{call: remove("web:1.0.0", ""), path: one, status: 429, busy: face.Light},
		step{call: remove("web:1.0.0", ""), path: one, status: 200},
	)
}

// neverending are zeros.
type neverending struct{}

func (neverending) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What the document says is what the handler does: each address, method and status is reached, and there are no others.
func TestDocument(t *testing.T) {
	r := newRegistry(t, wire.Private)
	var d document
	facetest.OK(t, json.Unmarshal(r.Want(http.StatusOK, call{Path: "/api/v2/openapi.json", Token: "none"}).Body.Bytes(), &d))
	unreached := map[string]operation{}
	for path, methods := range d.Paths {
		for method, raw := range methods {
			if method == "parameters" {
				continue
			}
			var o operation
			facetest.OK(t, json.Unmarshal(raw, &o))
			for status := range o.Responses {
				if status != "default" {
					unreached[strings.ToUpper(method)+" "+path+" "+status] = o
				}
			}
		}
	}
	described := maps.Clone(unreached)
	for _, s := range steps() {
		key := fmt.Sprintf("%s %s %d", s.Method, s.path, s.status)
		busy := s.busy
		r.Admit = func(l face.Load) bool { return s.status != http.StatusTooManyRequests || l != busy }
		ctx, cancel := context.WithCancel(t.Context())
		r.known.blind, r.known.building, r.known.asked = s.late, s.building, func() {}
		if s.late || s.building {
			r.known.asked = cancel
		}
		s.Ctx = ctx
		answer := r.Want(s.status, s.call)
		cancel()
		o, found := described[key]
		if !found {
			t.Errorf("the document does not have %s", key)
			continue
		}
		delete(unreached, key)
		var value any
		facetest.OK(t, json.Unmarshal(answer.Body.Bytes(), &value))
		for _, p := range d.check(o.Responses[fmt.Sprint(s.status)].Content["application/json"].Schema, value, "the answer") {
			t.Errorf("%s: %s", key, p)
		}
	}
	for key := range unreached {
		t.Errorf("the document has %s, which no request of this test reaches", key)
	}
	// The methods that an address takes are those of the document.
	r.Admit = func(face.Load) bool { return true }
	for path, methods := range d.Paths {
		allow := []string{"OPTIONS"}
		for method := range methods {
			if method != "parameters" {
				allow = append(allow, strings.ToUpper(method))
			}
		}
		slices.Sort(allow)
		at := strings.NewReplacer("{organization}", "acme", "{registry}", "charts", "{id}", "web:1.0.0").Replace(path)
		if got := r.Want(http.StatusNoContent, call{Method: "OPTIONS", Path: at}).Header().Get("Allow"); got != strings.Join(allow, ", ") {
			t.Errorf("%s takes %s, and the document has %v", path, got, allow)
		}
		for _, method := range []string{"PUT", "PATCH", "TRACE", "PROPFIND"} {
			r.refused(http.StatusMethodNotAllowed, call{Method: method, Path: at, Header: map[string]string{"X-HTTP-Method-Override": "DELETE"}}, "does not take")
		}
	}
}

func TestEveryRouteJudgesEveryCredential(t *testing.T) {
	rows := map[string]struct {
		needs string
		open  bool
		call  func() call
	}{
		"list":      {"", true, func() call { return call{} }},
		"get":       {"r", true, func() call { return call{Path: "/web:1.0.0"} }},
		"versions":  {"r", true, func() call { return call{Path: "/web:1.0.0/versions"} }},
		"downloads": {"r", true, func() call { return call{Path: "/web:1.0.0/downloads"} }},
		"publish":   {"rw", false, func() call { return form("", archive("web", "1.0.0")) }},
		"copy":      {"rw", false, func() call { return call{Method: "POST", Path: "/web:1.0.0/copy?to=stable/web"} }},
		"delete":    {"d", false, func() call { return call{Method: "DELETE", Path: "/web:1.0.0"} }},
	}
	grants := accesstest.Grants()
	for _, visibility := range []wire.Visibility{wire.Private, wire.Public} {
		r := newRegistry(t, visibility)
		for what, o := range rows {
			for _, name := range append([]string{"none"}, slices.Sorted(maps.Keys(grants))...) {
				for _, bearer := range []bool{false, true} {
					r.publish("web", "1.0.0")
					c := o.call()
					c.Token, c.Bearer = name, bearer
					answer := r.Do(c)
					granted, known := grants[name]
					want := http.StatusForbidden
					switch {
					case granted == accesstest.Nobody, !known && (!o.open || visibility != wire.Public):
						want = http.StatusUnauthorized
					case !known, strings.Trim(o.needs, granted) == "":
						want = http.StatusOK
					}
					if answer.Code != want {
						t.Errorf("%s %s with %q (bearer %v): %d %s, want %d", visibility, what, name, bearer, answer.Code, answer.Body, want)
					}
					if (answer.Code == http.StatusUnauthorized) != (len(answer.Header().Values("WWW-Authenticate")) == 1) {
						t.Errorf("%s with %q: the challenges are %q", what, name, answer.Header().Values("WWW-Authenticate"))
					}
				}
			}
		}
	}
}

// Whatever an anonymous client asks a private registry for, and whatever a token asks for that does not cover it, the
// answer is the same for what exists and for what does not.
func TestNothingTellsWhatExists(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.publish("web", "1.0.0")
	want := r.Want(http.StatusUnauthorized, call{Token: "none"}).Body.String()
	for _, path := range []string{"/web:1.0.0", "/web:2.0.0", "/x", "/web:1.0.0/versions", "/web:1.0.0/nothing", "/api/v2", "/api/v2/x", "/api/v2/packages/organizations/x/registries/y/packages", "/a%2fb", "/.."} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS", "BREW"} {
			if got := r.Want(http.StatusUnauthorized, call{Method: method, Path: path, Token: "none"}).Body.String(); got != want {
				t.Errorf("%s %s is answered %s, and the list %s", method, path, got, want)
			}
		}
	}
	said := map[string]bool{}
	for _, path := range []string{"/web:1.0.0", "/web:2.0.0", "/nothing:1.0.0", "/web:1.0.0/versions", "/nothing:1.0.0/versions", "/web:2.0.0/downloads"} {
		body := r.Want(http.StatusForbidden, call{Path: path, Token: "all of another chart"}).Body.String()
		said[strings.ReplaceAll(body, "nothing", "web")] = true
	}
	if len(said) != 1 {
		t.Errorf("the refusals differ: %v", said)
	}
	said = map[string]bool{}
	for _, id := range []string{"web:1.0.0", "web:2.0.0"} {
		said[r.Want(http.StatusForbidden, call{Method: "POST", Path: "/" + id + "/copy?to=other", Token: "all of another chart"}).Body.String()] = true
		said[r.Want(http.StatusForbidden, call{Method: "DELETE", Path: "/" + id, Token: "read and write"}).Body.String()] = false
	}
	if len(said) != 2 {
		t.Errorf("the refusals differ: %v", said)
	}
}

func TestHostilePaths(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.publish("web", "1.0.0")
	for _, id := range []string{
		"..", "%2e%2e", "web%2f..:1.0.0", "web:1.0.0%2f", "web:..", "..:1.0.0", "~:1.0.0", "~~..~web:1.0.0", "web~..:1.0.0", ":1.0.0", "web:", "web", ":", "web:1.0.0:x", "web:1.0.0%00", "web%252f:1.0.0", "WEB:1.0.0", "web:-x",
		strings.Repeat("a", 300) + ":1.0.0", "web:" + strings.Repeat("1", 300), "web:sha256:" + strings.Repeat("a", 64), "%zz", "web%20:1.0.0", "web:1.0.0;x", `web\:1.0.0`,
	} {
		for _, target := range []string{"GET /" + id, "DELETE /" + id, "POST /" + id + "/copy?to=stable/web", "GET /" + id + "/versions", "GET /" + id + "/downloads"} {
			method, path, _ := strings.Cut(target, " ")
			if _, err := url.Parse(path); err != nil {
				continue // net/http refuses it.
			}
			answer := r.Do(call{Method: method, Path: path})
			if answer.Code != http.StatusBadRequest && answer.Code != http.StatusNotFound {
				t.Errorf("%s: %d %s", target, answer.Code, answer.Body)
			}
		}
	}
	for _, path := range []string{"/api/v2//openapi.json", "/api/v2/./openapi.json", "/api/v2/packages/../openapi.json", "/api/v2/openapi.json/", "/api/v2%2fopenapi.json"} {
		if answer := r.Do(call{Path: path}); answer.Code != http.StatusBadRequest && answer.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, answer.Code)
		}
	}
	r.Want(http.StatusOK, call{Path: "/web:1.0.0"})
}

var secrets = regexp.MustCompile(`cr[ts]_\w{9,}|eyJ`)

func TestAnswersHoldNoSecret(t *testing.T) {
	r := newRegistry(t, wire.Private)
	for name := range accesstest.Grants() {
		for _, c := range []call{{}, {Path: "/web:1.0.0"}, {Path: "/api/v2/openapi.json"}} {
			c.Token = name
			if answer := r.Do(c); secrets.MatchString(answer.Body.String()) || secrets.MatchString(fmt.Sprint(answer.Header())) {
				t.Errorf("with %q: %s", name, answer.Body)
			}
		}
	}
}

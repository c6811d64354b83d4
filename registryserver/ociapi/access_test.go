package ociapi

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/access/accesstest"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// row is what the test knows of one route and method, apart from the router: what must be granted, and a request that
// succeeds for whoever it is granted to.
type row struct {
	// needs are letters of grants that a token must have for the chart; none where it is enough to have logged in.
	needs string
	// open is true where a public registry answers those who have not.
	open    bool
	attempt func(r *registry) call
}

// rows are all that there is. A route without a row fails the test, and so does a row without a route.
var rows = map[string]row{
	"GET /v2/":                                {"", false, at("/v2/")},
	"HEAD /v2/":                               {"", false, at("/v2/")},
	"GET /v2/_catalog":                        {"", true, at("/v2/_catalog")}, // What may not be read is left out of it.
	"HEAD /v2/_catalog":                       {"", true, at("/v2/_catalog")},
	"GET /v2/{name}/tags/list":                {"r", true, at("/v2/" + testName + "/tags/list")},
	"HEAD /v2/{name}/tags/list":               {"r", true, at("/v2/" + testName + "/tags/list")},
	"GET /v2/{name}/referrers/{digest}":       {"r", true, at("/v2/" + testName + "/referrers/" + digestOf("subject"))},
	"HEAD /v2/{name}/referrers/{digest}":      {"r", true, at("/v2/" + testName + "/referrers/" + digestOf("subject"))},
	"GET /v2/{name}/blobs/{digest}":           {"r", true, at("/v2/" + testName + "/blobs/" + digestOf("layer"))},
	"HEAD /v2/{name}/blobs/{digest}":          {"r", true, at("/v2/" + testName + "/blobs/" + digestOf("layer"))},
	"DELETE /v2/{name}/blobs/{digest}":        {"d", false, at("/v2/" + testName + "/blobs/" + digestOf("layer"))},
	"GET /v2/{name}/manifests/{reference}":    {"r", true, at("/v2/" + testName + "/manifests/1.0.0")},
	"HEAD /v2/{name}/manifests/{reference}":   {"r", true, at("/v2/" + testName + "/manifests/1.0.0")},
	"DELETE /v2/{name}/manifests/{reference}": {"d", false, at("/v2/" + testName + "/manifests/1.0.0")},
	"PUT /v2/{name}/manifests/{reference}": {"rw", false, func(r *registry) call {
		return r.manifestCall("1.0.0", manifestOf("layer"))
	}},
	"POST /v2/{name}/blobs/uploads/": {"rw", false, func(*registry) call {
		return call{path: "/v2/" + testName + "/blobs/uploads/?digest=" + digestOf("new"), body: "new"}
	}},
	"GET /v2/{name}/blobs/uploads/{upload}":    {"rw", false, uploadCall("")},
	"DELETE /v2/{name}/blobs/uploads/{upload}": {"rw", false, uploadCall("")},
	"PATCH /v2/{name}/blobs/uploads/{upload}":  {"rw", false, uploadCall("")},
	"PUT /v2/{name}/blobs/uploads/{upload}":    {"rw", false, uploadCall("?digest=" + digestOf("x"))},
}

func at(path string) func(*registry) call { return func(*registry) call { return call{path: path} } }

// uploadCall continues an upload that holds "x" but for the last byte; the identity named "all" began it.
func uploadCall(query string) func(r *registry) call {
	return func(r *registry) call {
		c := call{path: "/v2/" + testName + "/blobs/uploads/", method: "POST"}
		c.path = r.want(http.StatusAccepted, c).Header.Get("Location") + query
		c.body = "x"
		return c
	}
}

// credentials are what requests come with, and nobody what those are granted that are not valid.
var credentials = accesstest.Grants()

const nobody = accesstest.Nobody

// mine are those with the identity of the token "all", which began the uploads that are continued.
var mine = []string{"all", "session of all"}

const success = 0

// wanted is the status of a request; success is any below 300.
func wanted(visibility wire.Visibility, method, pattern, name string) int {
	w := rows[method+" "+pattern]
	grants, known := credentials[name]
	switch {
	case !known && w.open && visibility == wire.Public:
		return success
	case !known || grants == nobody:
		return http.StatusUnauthorized
	case strings.Trim(w.needs, grants) == "" && strings.HasSuffix(pattern, "{upload}") && !slices.Contains(mine, name):
		return http.StatusNotFound // An upload that another identity began is unknown.
	case strings.Trim(w.needs, grants) == "":
		return success
	case method == http.MethodHead && strings.Contains(grants, "w"):
		return http.StatusNotFound // It is told why where the push begins.
	}
	return http.StatusForbidden
}

// Whatever the route, each kind of credentials must be judged alike by Basic and Bearer, and refused as the table says.
func TestEveryRouteJudgesEveryCredential(t *testing.T) {
	unused := maps.Clone(rows)
	for _, rt := range append([]*route{base, catalog}, routes...) {
		for method := range rt.methods {
			key := method + " " + rt.pattern
			delete(unused, key)
			for _, visibility := range []wire.Visibility{wire.Private, wire.Public} {
				t.Run(string(visibility)+" "+key, func(t *testing.T) {
					w, ok := rows[key]
					if !ok {
						t.Fatal("this route has no row in the table")
					}
					judgeAll(t, newRegistry(t, visibility), visibility, method, rt.pattern, w)
				})
			}
		}
	}
	for key := range unused {
		t.Errorf("there is no such route: %s", key)
	}
}

func judgeAll(t *testing.T, r *registry, visibility wire.Visibility, method, pattern string, w row) {
	t.Helper()
	for name := range r.tokens {
		if _, ok := credentials[name]; !ok {
			t.Errorf("the token %q is not in the table of credentials", name)
		}
	}
	changed := true
	for _, name := range append([]string{"none"}, slices.Sorted(maps.Keys(credentials))...) {
		for _, bearer := range []bool{false, true} {
			if changed {
				r.pushChart("layer", "1.0.0")
			}
			c := w.attempt(r)
			c.method, c.token, c.bearer = method, name, bearer
			answer := r.do(c)
			body := read(t, answer)
			changed = answer.StatusCode < 300 && method != http.MethodGet && method != http.MethodHead
			want := wanted(visibility, method, pattern, name)
			if want == success && answer.StatusCode >= 300 || want != success && answer.StatusCode != want {
				t.Errorf("with the token %q (bearer %v): status %d, want %d (0 is success): %s", name, bearer, answer.StatusCode, want, body)
			}
			challenges := answer.Header.Values("WWW-Authenticate")
			if (answer.StatusCode == http.StatusUnauthorized) != (len(challenges) == 1) {
				t.Errorf("with the token %q: status %d with the challenges %q", name, answer.StatusCode, challenges)
			}
			if want != success && answer.Header.Get("Docker-Content-Digest")+answer.Header.Get("Location")+answer.Header.Get("Link") != "" {
				t.Errorf("with the token %q: the refusal carries headers of the content: %v", name, answer.Header)
			}
		}
	}
}

// A method that a route does not have is none for anybody, and credentials are judged before that is said.
func TestEveryOtherMethodIsRefused(t *testing.T) {
	for _, visibility := range []wire.Visibility{wire.Private, wire.Public} {
		r := newRegistry(t, visibility)
		r.pushChart("layer", "1.0.0")
		for _, rt := range append([]*route{base, catalog}, routes...) {
			path := strings.NewReplacer("{name}", testName, "{digest}", digestOf("layer"), "{reference}", "1.0.0", "{upload}", "x").Replace(rt.pattern)
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"} {
				if _, has := rt.methods[method]; has {
					continue
				}
				for _, name := range append([]string{"none"}, slices.Sorted(maps.Keys(credentials))...) {
					want := http.StatusMethodNotAllowed
					grants, known := credentials[name]
					switch {
					case grants == nobody || !known && (visibility == wire.Private || rt == base):
						want = http.StatusUnauthorized
					case method == http.MethodOptions:
						want = http.StatusNoContent
					}
					if got := r.do(call{method: method, path: path, token: name}).StatusCode; got != want {
						t.Errorf("%s %s %s with the token %q: status %d, want %d", visibility, method, path, name, got, want)
					}
				}
			}
		}
	}
}

// Whatever an anonymous client asks a private registry for, the answer is the same, byte for byte.
func TestPrivateRegistryTellsAnonymousNothing(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.pushChart("layer", "1.0.0")
	want := read(t, r.want(http.StatusUnauthorized, call{method: "GET", path: "/v2/", token: "none"}))
	for _, path := range []string{
		"/v2/" + testName + "/manifests/1.0.0", "/v2/" + testName + "/manifests/2.0.0", "/v2/" + testName + "/manifests/-bad",
		"/v2/" + testName + "/tags/list", "/v2/acme/charts/nothing/tags/list", "/v2/other/name/web/tags/list",
		"/v2/" + testName + "/blobs/" + digestOf("layer"), "/v2/" + testName + "/blobs/" + digestOf("nothing"),
		"/v2/_catalog", "/v2/no/such/route", "/v2/a%2fb/tags/list", "/v2/../x", "/v2/UPPER/charts/web/tags/list",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"} {
			if got := read(t, r.want(http.StatusUnauthorized, call{method: method, path: path, token: "none"})); got != want {
				t.Errorf("%s %s answered %s, but /v2/ %s", method, path, got, want)
			}
		}
	}
}

func TestUnauthorizedSaysHowToLogIn(t *testing.T) {
	r := newRegistry(t, wire.Public)
	answer := r.wantProblem(http.StatusUnauthorized, "UNAUTHORIZED", call{method: "GET", path: "/v2/", token: "none"}, "helm registry login "+externalHost)
	if got := answer.Header.Get("WWW-Authenticate"); got != `Basic realm="chartroom"` {
		t.Errorf("the challenge is %q", got)
	}
	r.wantProblem(http.StatusUnauthorized, "UNAUTHORIZED", call{method: "GET", path: "/v2/", token: "expired"}, "wrong, expired or revoked")
}

func TestRefusalNamesTheMissingScope(t *testing.T) {
	r := newRegistry(t, wire.Private)
	for _, c := range []struct {
		token, method, path string
		words               []string
	}{
		{"read", "POST", "/v2/" + testName + "/blobs/uploads/", []string{"a push needs", "write_packages"}},
		{"write", "POST", "/v2/" + testName + "/blobs/uploads/", []string{"a push needs", "read_packages"}},
		{"read and write", "DELETE", "/v2/" + testName + "/manifests/1.0.0", []string{"delete_packages"}},
		{"all of another chart", "GET", "/v2/" + testName + "/tags/list", []string{`does not cover the chart "web"`}},
	} {
		r.wantProblem(http.StatusForbidden, "DENIED", call{method: c.method, path: c.path, token: c.token}, c.words...)
	}
}

// Two credentials in one request could be judged by one part of the server and used by another.
func TestTwoAuthorizationHeadersAreRefused(t *testing.T) {
	r := newRegistry(t, wire.Public)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("x", r.tokens["all"])
	request.Header.Add("Authorization", "Bearer "+r.tokens["all"])
	recorder := newRecorder()
	r.handler.ServeHTTP(recorder, request)
	if recorder.Code != http.StatusUnauthorized {
		t.Errorf("status %d, want 401", recorder.Code)
	}
}

// A header that names another method must not change what is judged.
func TestMethodOverrideIsIgnored(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.pushChart("layer", "1.0.0")
	for _, header := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
		r.want(http.StatusOK, call{method: "GET", path: "/v2/" + testName + "/manifests/1.0.0", header: map[string]string{header: "DELETE"}})
	}
	r.want(http.StatusOK, call{method: "GET", path: "/v2/" + testName + "/manifests/1.0.0?_method=DELETE"})
}

// A token in the address is none: addresses end up in logs.
func TestTokenInQueryIsIgnored(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.want(http.StatusUnauthorized, call{method: "GET", path: "/v2/?access_token=" + r.tokens["all"] + "&token=" + r.tokens["all"], token: "none"})
}

func TestRouteAndIdentityAreObserved(t *testing.T) {
	r := newRegistry(t, wire.Private)
	r.do(call{method: "GET", path: "/v2/" + testName + "/tags/list"})
	r.do(call{method: "GET", path: "/v2/x", token: "malformed"})
	r.do(call{method: "GET", path: "/elsewhere", token: "none"})
	r.do(call{method: "DELETE", path: "/v2/" + testName + "/manifests/1.0.0", token: "read"})
	r.do(call{method: "GET", path: "/v2/" + testName + "/blobs/uploads/signed.secret"})
	id := r.tokens["all"][:len("crt_12345678")]
	want := []string{
		"/v2/{name}/tags/list (list) web   " + id,
		"other (other)     what came is no token of this program: a registry token starts with crt_",
		"other (other)     there is nothing here",
		"/v2/{name}/manifests/{reference} (delete) web 1.0.0  " + r.tokens["read"][:len("crt_12345678")] + " this token may read but not delete",
		"/v2/{name}/blobs/uploads/{upload} (upload) web   " + id + " there is no such upload",
	}
	for i, o := range r.observed {
		got := fmt.Sprintf("%s (%s) %s %s %s %s %s", o.Route, o.Action, o.Chart, o.Reference, o.Stored, o.Identity.ID, o.Reason)
		if !strings.HasPrefix(got, want[i]) {
			t.Errorf("observed %q, want %q", got, want[i])
		}
		if strings.Contains(got, "secret") || strings.Contains(got, r.tokens["all"]) {
			t.Errorf("observed a secret: %q", got)
		}
	}
	if strings.Contains(r.log.String(), "crt_") {
		t.Errorf("the log has a token: %s", r.log)
	}
}

func TestPublicRegistryServesAnonymousReads(t *testing.T) {
	r := newRegistry(t, wire.Public)
	r.pushChart("layer", "1.0.0")
	r.want(http.StatusOK, call{method: "GET", path: "/v2/" + testName + "/manifests/1.0.0", token: "none"})
	r.wantProblem(http.StatusNotFound, "NAME_UNKNOWN", call{method: "GET", path: "/v2/else/where/web/tags/list", token: "none"}, "acme/charts")
	r.wantProblem(http.StatusUnauthorized, "UNAUTHORIZED", call{method: "POST", path: "/v2/" + testName + "/blobs/uploads/", token: "none"}, "credentials")
}

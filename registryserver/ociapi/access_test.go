package ociapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// attempts make, for each route and method, a request that succeeds for whoever is allowed. A route without an entry
// fails the test.
var attempts = map[string]func(r *registry) call{
	"GET /v2/":                                func(*registry) call { return call{path: "/v2/"} },
	"HEAD /v2/":                               func(*registry) call { return call{path: "/v2/"} },
	"GET /v2/{name}/tags/list":                func(*registry) call { return call{path: "/v2/" + testName + "/tags/list"} },
	"HEAD /v2/{name}/tags/list":               func(*registry) call { return call{path: "/v2/" + testName + "/tags/list"} },
	"GET /v2/{name}/blobs/{digest}":           blobCall,
	"HEAD /v2/{name}/blobs/{digest}":          blobCall,
	"DELETE /v2/{name}/blobs/{digest}":        blobCall,
	"GET /v2/{name}/manifests/{reference}":    tagCall,
	"HEAD /v2/{name}/manifests/{reference}":   tagCall,
	"DELETE /v2/{name}/manifests/{reference}": tagCall,
	"PUT /v2/{name}/manifests/{reference}": func(r *registry) call {
		return r.manifestCall("1.0.0", manifestOf("layer"))
	},
	"POST /v2/{name}/blobs/uploads/": func(*registry) call {
		return call{path: "/v2/" + testName + "/blobs/uploads/?digest=" + digestOf("new"), body: "new"}
	},
	"GET /v2/{name}/blobs/uploads/{upload}":    uploadCall(""),
	"DELETE /v2/{name}/blobs/uploads/{upload}": uploadCall(""),
	"PATCH /v2/{name}/blobs/uploads/{upload}":  uploadCall(""),
	"PUT /v2/{name}/blobs/uploads/{upload}":    uploadCall("?digest=" + digestOf("x")),
}

func blobCall(*registry) call { return call{path: "/v2/" + testName + "/blobs/" + digestOf("layer")} }
func tagCall(*registry) call  { return call{path: "/v2/" + testName + "/manifests/1.0.0"} }

// uploadCall continues an upload that holds "x" but for the last byte; the identity named "all" began it.
func uploadCall(query string) func(r *registry) call {
	return func(r *registry) call {
		c := call{path: "/v2/" + testName + "/blobs/uploads/", method: "POST"}
		c.path = r.want(http.StatusAccepted, c).Header.Get("Location") + query
		c.body = "x"
		return c
	}
}

// allowedTo are the tokens that satisfy each need.
var allowedTo = map[need][]string{
	needsLogin:  {"read", "write", "delete", "read and write", "all", "all of another chart"},
	needsRead:   {"read", "read and write", "all"},
	needsPush:   {"read and write", "all"},
	needsDelete: {"delete", "all"},
}

var invalidTokens = []string{"malformed", "wrong secret", "expired", "revoked"}

// Whatever the route, each kind of credentials must be judged alike by Basic and Bearer, and refused as the table says.
func TestEveryRouteJudgesEveryCredential(t *testing.T) {
	for _, visibility := range []wire.Visibility{wire.Private, wire.Public} {
		for _, rt := range append([]*route{base}, routes...) {
			for method, action := range rt.methods {
				t.Run(string(visibility)+" "+method+" "+rt.pattern, func(t *testing.T) {
					attempt, ok := attempts[method+" "+rt.pattern]
					if !ok {
						t.Fatal("this route has no entry in the table of attempts")
					}
					judgeAll(t, newRegistry(t, visibility), visibility, method, rt, action, attempt)
				})
			}
		}
	}
}

func judgeAll(t *testing.T, r *registry, visibility wire.Visibility, method string, rt *route, action action, attempt func(*registry) call) {
	t.Helper()
	names := append([]string{"none", "read", "write", "delete", "read and write", "all", "all of another chart"}, invalidTokens...)
	changed := true
	for _, name := range names {
		for _, bearer := range []bool{false, true} {
			if changed {
				r.pushChart("layer", "1.0.0")
			}
			c := attempt(r)
			c.method, c.token, c.bearer = method, name, bearer
			answer := r.do(c)
			body := read(t, answer)
			changed = answer.StatusCode < 300 && method != http.MethodGet && method != http.MethodHead
			want := wanted(visibility, method, action, name)
			// An upload that another identity began is unknown to whoever is otherwise allowed.
			if name == "read and write" && strings.HasSuffix(rt.pattern, "{upload}") {
				want = http.StatusNotFound
			}
			if want == 0 && answer.StatusCode >= 300 || want != 0 && answer.StatusCode != want {
				t.Errorf("with the token %q (bearer %v): status %d, want %d (0 is success): %s", name, bearer, answer.StatusCode, want, body)
			}
			challenges := answer.Header.Values("WWW-Authenticate")
			if (answer.StatusCode == http.StatusUnauthorized) != (len(challenges) == 1) {
				t.Errorf("with the token %q: status %d with the challenges %q", name, answer.StatusCode, challenges)
			}
			if want != 0 && answer.Header.Get("Docker-Content-Digest")+answer.Header.Get("Location")+answer.Header.Get("Link") != "" {
				t.Errorf("with the token %q: the refusal carries headers of the content: %v", name, answer.Header)
			}
		}
	}
}

// wanted is the status that a token's request must have; 0 for success.
func wanted(visibility wire.Visibility, method string, action action, name string) int {
	for _, invalid := range invalidTokens {
		if name == invalid {
			return http.StatusUnauthorized
		}
	}
	if name == "none" {
		if visibility == wire.Public && action.needs == needsRead {
			return 0
		}
		return http.StatusUnauthorized
	}
	for _, allowed := range allowedTo[action.needs] {
		if name == allowed {
			return 0
		}
	}
	if name == "write" && method == http.MethodHead {
		return http.StatusNotFound
	}
	return http.StatusForbidden
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
	id := r.tokens["all"][:len("crt_12345678")]
	want := "/v2/{name}/tags/list " + id + "|other |other "
	if got := strings.Join(r.observed, "|"); got != want {
		t.Errorf("observed %q, want %q", got, want)
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

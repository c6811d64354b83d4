package exchange_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/exchange"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const audience = "https://charts.example.com/acme/charts"

type face struct {
	t       *testing.T
	handler http.Handler
	access  *access.Enforcer
	token   string
	log     *bytes.Buffer
	allow   bool
	// observed is what was noted of each request.
	observed []*audit.Observation
}

func newFace(t *testing.T) *face {
	t.Helper()
	token, err := access.Mint(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := newFaceOf(t, wire.Access{Tokens: []wire.Token{{ID: token.ID(), SHA256: token.SHA256(), Scopes: []wire.Scope{wire.ReadPackages, wire.WritePackages}, Charts: []string{"*"}}}})
	f.token = token.Reveal()
	return f
}

func newFaceOf(t *testing.T, snapshot wire.Access) *face {
	t.Helper()
	f := &face{t: t, token: "no token", log: new(bytes.Buffer), allow: true}
	file := filepath.Join(t.TempDir(), "access.json")
	if err := os.WriteFile(file, snapshot.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	f.access = access.NewEnforcer(access.EnforcerOptions{Registry: "acme/charts", File: file, Audience: audience, SessionKeys: func() [][]byte { return [][]byte{make([]byte, 32)} }})
	f.handler = exchange.Handler(exchange.Options{
		Access: f.access, Audience: audience, Allow: func(*http.Request) bool { return f.allow },
		Observe: func(context.Context) *audit.Observation {
			f.observed = append(f.observed, &audit.Observation{})
			return f.observed[len(f.observed)-1]
		},
		Log: slog.New(slog.NewTextHandler(f.log, nil)),
	})
	return f
}

// form is a good request, changed by others; an empty value takes a parameter away.
func (f *face) form(changes ...string) url.Values {
	form := url.Values{
		"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token":      {f.token},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
	}
	for i := 0; i < len(changes); i += 2 {
		if form.Set(changes[i], changes[i+1]); changes[i+1] == "" {
			form.Del(changes[i])
		}
	}
	return form
}

func (f *face) do(method, contentType, body string) (int, http.Header, map[string]any) {
	f.t.Helper()
	request := httptest.NewRequestWithContext(f.t.Context(), method, exchange.Path, strings.NewReader(body))
	request.Header.Set("Content-Type", contentType)
	recorder := httptest.NewRecorder()
	f.handler.ServeHTTP(recorder, request)
	answer := map[string]any{}
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil {
		f.t.Fatalf("%s: %v", recorder.Body, err)
	}
	if strings.Contains(recorder.Body.String(), f.token) {
		f.t.Errorf("the answer has the token in it: %s", recorder.Body)
	}
	return recorder.Code, recorder.Header(), answer
}

const formType = "application/x-www-form-urlencoded"

func TestExchange(t *testing.T) {
	f := newFace(t)
	for _, c := range []struct {
		form  url.Values
		scope string
	}{
		{f.form(), "read_packages write_packages"},
		{f.form("scope", "read_packages"), "read_packages"},
		{f.form("scope", " write_packages  read_packages "), "write_packages read_packages"},
		{f.form("audience", audience, "resource", audience), "read_packages write_packages"},
		{f.form("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"), "read_packages write_packages"},
		{f.form("subject_token_type", "urn:ietf:params:oauth:token-type:id_token", "requested_token_type", "urn:ietf:params:oauth:token-type:access_token"), "read_packages write_packages"},
	} {
		status, header, answer := f.do("POST", formType+"; charset=utf-8", c.form.Encode())
		if status != 200 || answer["token_type"] != "Bearer" || answer["issued_token_type"] != "urn:ietf:params:oauth:token-type:access_token" || answer["expires_in"] != 900.0 && answer["expires_in"] != 899.0 || answer["scope"] != c.scope {
			t.Fatalf("%d %v, want the scope %s", status, answer, c.scope)
		}
		if header.Get("Cache-Control") != "no-store" || header.Get("Content-Type") != "application/json" {
			t.Errorf("the headers are %v", header)
		}
		token, _ := answer["access_token"].(string)
		id, err := f.access.Authenticate(t.Context(), access.Credentials{Secret: token, Present: true})
		if err != nil || !f.access.Authorize(id, wire.WritePackages, "a").Allowed == strings.Contains(c.scope, "write") {
			t.Errorf("the session is not good: %+v, %v", id, err)
		}
	}
	if o := f.observed[0]; o.Route != exchange.Path || o.Action != audit.Exchange || o.Identity.ID != f.token[:12] {
		t.Errorf("observed %+v", o)
	}
}

func TestRefusals(t *testing.T) {
	f := newFace(t)
	_, _, answer := f.do("POST", formType, f.form().Encode())
	session, _ := answer["access_token"].(string)
	for name, c := range map[string]struct {
		method, contentType, body string
		status                    int
		code, words               string
	}{
		"GET":                  {"GET", formType, "", 405, "invalid_request", "POST alone"},
		"JSON":                 {"POST", "application/json", `{}`, 400, "invalid_request", "must be a form"},
		"no type":              {"POST", "", f.form().Encode(), 400, "invalid_request", "must be a form"},
		"no form":              {"POST", formType, "%zz", 400, "invalid_request", "not as application"},
		"a huge form":          {"POST", formType, f.form("x", strings.Repeat("x", 40_000)).Encode(), 413, "invalid_request", "more than"},
		"twice":                {"POST", formType, f.form().Encode() + "&subject_token=x", 400, "invalid_request", "more than once"},
		"no grant type":        {"POST", formType, f.form("grant_type", "").Encode(), 400, "unsupported_grant_type", "grant_type must be"},
		"another grant type":   {"POST", formType, f.form("grant_type", "password").Encode(), 400, "unsupported_grant_type", "grant_type must be"},
		"no token":             {"POST", formType, f.form("subject_token", "").Encode(), 400, "invalid_request", "subject_token is missing"},
		"no token type":        {"POST", formType, f.form("subject_token_type", "").Encode(), 400, "invalid_request", "subject_token_type must be"},
		"SAML":                 {"POST", formType, f.form("subject_token_type", "urn:ietf:params:oauth:token-type:saml2").Encode(), 400, "invalid_request", "subject_token_type must be"},
		"a refresh token":      {"POST", formType, f.form("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token").Encode(), 400, "invalid_request", "requested_token_type"},
		"an actor":             {"POST", formType, f.form("actor_token", "x").Encode(), 400, "invalid_request", "leave actor_token out"},
		"another audience":     {"POST", formType, f.form("audience", audience+"/").Encode(), 400, "invalid_target", "audience must be"},
		"another resource":     {"POST", formType, f.form("resource", "https://x.example").Encode(), 400, "invalid_target", "resource must be"},
		"a scope of docker's":  {"POST", formType, f.form("scope", "repository:other:*").Encode(), 400, "invalid_scope", "unknown scope"},
		"every scope":          {"POST", formType, f.form("scope", "*").Encode(), 400, "invalid_scope", "unknown scope"},
		"many parameters":      {"POST", formType, f.form().Encode() + strings.Repeat("&a", 12_000), 400, "invalid_request", "not as application"},
		"an unknown scope":     {"POST", formType, f.form("scope", "admin").Encode(), 400, "invalid_scope", "unknown scope"},
		"more than it has":     {"POST", formType, f.form("scope", "read_packages delete_packages").Encode(), 400, "invalid_scope", "it has read_packages and write_packages"},
		"the same scope often": {"POST", formType, f.form("scope", strings.Repeat("read_packages ", 9)).Encode(), 400, "invalid_scope", "more than once"},
		"a wrong token":        {"POST", formType, f.form("subject_token", f.token[:len(f.token)-1]+"!").Encode(), 400, "invalid_request", "not valid for " + audience},
		"no JWT":               {"POST", formType, f.form("subject_token", "a.b.c").Encode(), 400, "invalid_request", "not valid for " + audience},
		"a session":            {"POST", formType, f.form("subject_token", session).Encode(), 400, "invalid_request", "cannot be exchanged"},
	} {
		status, header, answer := f.do(c.method, c.contentType, c.body)
		words, _ := answer["error_description"].(string)
		if status != c.status || answer["error"] != c.code || !strings.Contains(words, c.words) || len(answer) != 2 {
			t.Errorf("%s: %d %v, want %d %s with %q", name, status, answer, c.status, c.code, c.words)
		}
		if (header.Get("Allow") == "POST") != (status == 405) {
			t.Errorf("%s: Allow is %q", name, header.Get("Allow"))
		}
	}
	var reasons strings.Builder
	for _, o := range f.observed {
		reasons.WriteString(o.Credential + " " + o.Reason + "\n")
	}
	if all := reasons.String(); !strings.Contains(all, "as an OIDC token it is wrong") || !strings.Contains(all, "it has read_packages and write_packages") || strings.Contains(all, f.token) {
		t.Errorf("the reasons are %s", all)
	}
	f.allow = false
	if status, header, _ := f.do("POST", formType, f.form().Encode()); status != 429 || header.Get("Retry-After") != "2" {
		t.Errorf("too often: %d, Retry-After %q", status, header.Get("Retry-After"))
	}
}

// A token in the address would end up in logs, and a client that sends one there must notice.
func TestTokenInTheAddressIsIgnored(t *testing.T) {
	f := newFace(t)
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, exchange.Path+"?"+f.form().Encode(), http.NoBody)
	request.Header.Set("Content-Type", formType)
	recorder := httptest.NewRecorder()
	f.handler.ServeHTTP(recorder, request)
	if body, _ := io.ReadAll(recorder.Body); recorder.Code != 400 || !strings.Contains(string(body), "unsupported_grant_type") {
		t.Errorf("%d %s", recorder.Code, body)
	}
}

// A credential that nothing is granted for is exchanged for nothing, and what a session may is never more than what its
// parent may, whichever that is.
func TestEveryCredential(t *testing.T) {
	mint := func() access.Token {
		token, err := access.Mint(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	const issuer = "https://issuer.example"
	jwks, err := json.Marshal(map[string]any{"keys": []any{issuertest.JWK("first", issuertest.Key("first"))}})
	if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Minute)
	bearer := func(iss, aud, sub string, age int64) string {
		issued := time.Now().Unix() - age
		return issuertest.Sign(`{"alg":"ES256","kid":"first"}`, fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":%q,"iat":%d,"exp":%d}`, iss, aud, sub, issued, issued+300), issuertest.Key("first"))
	}
	snapshot := wire.Access{Policies: []wire.Policy{{Name: "ci", Statements: []any{map[string]any{
		"iss": issuer, "jwks": string(jwks), "scopes": []any{"read_packages"}, "claims": map[string]any{"sub": "job"}, "charts": []any{"other"},
	}}}}}
	token := func(charts string, expires *time.Time, scopes ...wire.Scope) string {
		m := mint()
		snapshot.Tokens = append(snapshot.Tokens, wire.Token{ID: m.ID(), SHA256: m.SHA256(), Scopes: scopes, Charts: []string{charts}, ExpiresAt: expires})
		return m.Reveal()
	}
	const read, write, remove = wire.ReadPackages, wire.WritePackages, wire.DeletePackages
	for name, c := range map[string]struct {
		token string
		// scope is what the session is for, and web and other are what it may do to the charts of these names; empty where the
		// token is not good.
		scope, web, other string
	}{
		"read":           {token("*", nil, read), "read_packages", "r", "r"},
		"write":          {token("*", nil, write), "write_packages", "w", "w"},
		"delete":         {token("*", nil, remove), "delete_packages", "d", "d"},
		"one chart":      {token("other", nil, read, write, remove), "read_packages write_packages delete_packages", "", "rwd"},
		"OIDC":           {bearer(issuer, audience, "job", 0), "read_packages", "", "r"},
		"expired":        {token("*", &past, read), "", "", ""},
		"unknown":        {mint().Reveal(), "", "", ""},
		"malformed":      {"crt_x", "", "", ""},
		"another issuer": {bearer(issuer+".evil.example", audience, "job", 0), "", "", ""},
		"another aud":    {bearer(issuer, audience+"-2", "job", 0), "", "", ""},
		"expired OIDC":   {bearer(issuer, audience, "job", 300), "", "", ""},
		"no policy":      {bearer(issuer, audience, "stranger", 0), "", "", ""},
	} {
		f := newFaceOf(t, snapshot)
		status, _, answer := f.do("POST", formType, f.form("subject_token", c.token).Encode())
		if c.scope == "" {
			if status != 400 || answer["error"] != "invalid_request" || answer["access_token"] != nil {
				t.Errorf("%s: %d %v", name, status, answer)
			}
			continue
		}
		if status != 200 || answer["scope"] != c.scope {
			t.Errorf("%s: %d %v", name, status, answer)
			continue
		}
		session, _ := answer["access_token"].(string)
		id, err := f.access.Authenticate(t.Context(), access.Credentials{Secret: session, Present: true})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for chart, grants := range map[string]string{"web": c.web, "other": c.other} {
			for letter, scope := range map[string]wire.Scope{"r": read, "w": write, "d": remove} {
				if got := f.access.Authorize(id, scope, chart).Allowed; got != strings.Contains(grants, letter) {
					t.Errorf("%s: %s on %s is %v", name, scope, chart, got)
				}
			}
		}
		// Credentials in the head are nobody's concern here.
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, exchange.Path, strings.NewReader(f.form("subject_token", "").Encode()))
		request.Header.Set("Content-Type", formType)
		request.SetBasicAuth("x", c.token)
		recorder := httptest.NewRecorder()
		if f.handler.ServeHTTP(recorder, request); recorder.Code != 400 {
			t.Errorf("%s: a token in the head was exchanged: %d %s", name, recorder.Code, recorder.Body)
		}
	}
}

// FuzzForm: whatever is sent, nothing but a good token is exchanged, and the answer is one that RFC 6749 has.
func FuzzForm(f *testing.F) {
	f.Add("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=a.b.c&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt", formType)
	f.Add("grant_type=x&grant_type=y;z=%zz", formType+"; charset=x")
	f.Add("{}", "application/json")
	enforcer := access.NewEnforcer(access.EnforcerOptions{Registry: "acme/charts", Audience: audience, SessionKeys: func() [][]byte { return [][]byte{make([]byte, 32)} }})
	handler := exchange.Handler(exchange.Options{Access: enforcer, Audience: audience, Log: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, body, contentType string) {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, exchange.Path, strings.NewReader(body))
		request.Header.Set("Content-Type", contentType)
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		var answer struct {
			Error string `json:"error"`
			Words string `json:"error_description"`
		}
		if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil || recorder.Code != 400 && recorder.Code != 413 || answer.Error == "" || answer.Words == "" {
			t.Errorf("%d %s", recorder.Code, recorder.Body)
		}
	})
}

package access_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const audience = "https://charts.example.com/team-a/charts"

// gate is an enforcer of one registry whose access file and clock are changed by hand.
type gate struct {
	*access.Enforcer
	t    *testing.T
	file string
	at   time.Time
	log  *bytes.Buffer
	keys [][]byte
}

func newGate(t *testing.T, a wire.Access) *gate {
	t.Helper()
	g := &gate{t: t, file: filepath.Join(t.TempDir(), "access.json"), at: time.Now().Truncate(time.Second), log: new(bytes.Buffer), keys: [][]byte{bytes.Repeat([]byte{1}, 32)}}
	write(t, g.file, a.Encode())
	g.Enforcer = access.NewEnforcer(access.EnforcerOptions{
		Registry: "team-a/charts", File: g.file, Audience: audience, AllowedNetworks: issuertest.Loopback,
		SessionKeys: func() [][]byte { return g.keys }, Now: func() time.Time { return g.at }, Log: slog.New(slog.NewTextHandler(g.log, nil)),
	})
	if problem := g.State().Problem; problem != "" {
		t.Fatal(problem)
	}
	t.Cleanup(func() {
		ended, end := context.WithCancel(context.Background())
		end()
		_ = g.Watch(ended) // Which ends what runs in the background.
	})
	return g
}

// change replaces the access file.
func (g *gate) change(a wire.Access) {
	g.t.Helper()
	write(g.t, g.file, a.Encode())
	g.LookAtFile()
	if problem := g.State().Problem; problem != "" {
		g.t.Fatal(problem)
	}
}

func (g *gate) authenticate(secret string) (access.Identity, error) {
	g.t.Helper()
	r := httptest.NewRequestWithContext(g.t.Context(), http.MethodGet, "/v2/", nil)
	r.Header.Set("Authorization", "Bearer "+secret)
	return g.Identify(r)
}

func (g *gate) want(secret string) access.Identity {
	g.t.Helper()
	id, err := g.authenticate(secret)
	if err != nil {
		var refused *access.RefusedError
		if errors.As(err, &refused) {
			g.t.Fatalf("refused: %s", refused.Reason)
		}
		g.t.Fatal(err)
	}
	return id
}

// wantRefused checks that a token is refused with nothing but the usual words, for a reason that the log is told.
func (g *gate) wantRefused(name, secret, reason string) {
	g.t.Helper()
	_, err := g.authenticate(secret)
	var refused *access.RefusedError
	if !errors.Is(err, access.ErrUnauthenticated) || err.Error() != access.ErrUnauthenticated.Error() || !errors.As(err, &refused) {
		g.t.Errorf("%s: %v", name, err)
		return
	}
	if !strings.Contains(refused.Reason, reason) || len(refused.Reason) > 2100 {
		g.t.Errorf("%s: the reason is %q, want something with %q", name, refused.Reason, reason)
	}
	for part := range strings.SplitSeq(secret, ".") {
		if len(part) > 20 && strings.Contains(refused.Reason+refused.Token, part) {
			g.t.Errorf("%s: the log gives the token away: %+v", name, refused)
		}
	}
}

// policies makes a snapshot of policies in YAML, with the issuer's address for ISS and its certificate for CA.
func policies(t *testing.T, i *issuertest.Issuer, texts ...string) wire.Access {
	t.Helper()
	a := wire.Access{}
	for n, text := range texts {
		p, err := policy.Parse([]byte(strings.NewReplacer("ISS", i.URL, "AUTHORITY", fmt.Sprintf("%q", i.CA())).Replace(text)))
		if err != nil {
			t.Fatal(err)
		}
		var statements []any
		decoder := json.NewDecoder(bytes.NewReader(p.JSON()))
		decoder.UseNumber()
		if err := decoder.Decode(&statements); err != nil {
			t.Fatal(err)
		}
		a.Policies = append(a.Policies, wire.Policy{Name: fmt.Sprintf("team-a/p%d", n), Statements: statements})
	}
	return a
}

const readsWeb = `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages], claims: {ref: main}, charts: [web/*]}]`

func TestOIDCTokens(t *testing.T) {
	i := issuertest.New(t)
	g := newGate(t, policies(t, i, readsWeb, `[{iss: ISS, ca: AUTHORITY, scopes: [write_packages], claims: {ref: {matches: "*"}, actor: me}}, {iss: ISS, ca: AUTHORITY, scopes: [read_packages, delete_packages], claims: {ref: main}, charts: [other]}]`))
	token := i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main", "actor": "me", "sub": "repo:acme/app:ref:refs/heads/main"}))
	id := g.want(token)
	if want := "oidc:" + i.URL + "#repo:acme/app:ref:refs/heads/main"; id.ID != want || id.Issuer != i.URL || strings.Join(id.Policies, " ") != "team-a/p0[0] team-a/p1[0]" || id.Name != "team-a/p0" {
		t.Errorf("the identity is %+v, want %s", id, want)
	}
	for _, c := range []struct {
		scope wire.Scope
		chart string
		want  bool
	}{
		{wire.ReadPackages, "web/a", true},
		{wire.ReadPackages, "api", false},
		{wire.WritePackages, "api", true},   // Several policies add up,
		{wire.ReadPackages, "other", false}, // but only the first statement of each counts.
		{wire.DeletePackages, "other", false},
	} {
		if d := g.Authorize(id, c.scope, c.chart); d.Allowed != c.want {
			t.Errorf("%s on %s: %+v", c.scope, c.chart, d)
		}
	}
	if d := g.AuthorizePush(id, "web/a"); !d.Allowed {
		t.Errorf("a push: %+v", d)
	}
	if d := g.AuthorizePush(id, "api"); d.Allowed || !strings.Contains(d.Reason, "read_packages") {
		t.Errorf("a push: %+v", d)
	}
	if n := i.Requests(issuertest.KeysPath); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
	if states := g.Issuers(); len(states) != 1 || states[0].Issuer != i.URL || states[0].Keys != 1 || states[0].Refreshed == nil || states[0].Problem != "" || states[0].Source == "" {
		t.Errorf("the issuers are %+v", states)
	}
}

func TestOIDCTokensThatAreRefused(t *testing.T) {
	i, stranger := issuertest.New(t), issuertest.New(t)
	g := newGate(t, policies(t, i, readsWeb, `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages], claims: {actor: boss}}]`))
	good := map[string]any{"ref": "main"}
	g.want(i.Token(i.Claims(audience, g.at, good)))
	for name, c := range map[string]struct{ token, reason string }{
		"another issuer":    {stranger.Token(stranger.Claims(audience, g.at, good)), "no policy names its issuer"},
		"as if of ours":     {stranger.Token(i.Claims(audience, g.at, map[string]any{"ref": "main", "iss": i.URL + "/"})), "no policy names its issuer"},
		"a forged one":      {issuertest.Sign(`{"alg":"ES256","kid":"first"}`, string(mustJSON(t, i.Claims(audience, g.at, good))), issuertest.Key("attacker")), "did not sign it"},
		"no claim":          {i.Token(i.Claims(audience, g.at, nil)), "team-a/p0[0]: claims.ref: the token has no such claim; team-a/p1[0]: claims.actor"},
		"a wrong claim":     {i.Token(i.Claims(audience, g.at, map[string]any{"ref": "x"})), `"x" is not equal to "main"`},
		"another audience":  {i.Token(i.Claims(audience+"/", g.at, good)), "aud: the token's is"},
		"another registry":  {i.Token(i.Claims("https://charts.example.com/team-b/charts", g.at, good)), "aud"},
		"expired":           {i.Token(i.Claims(audience, g.at.Add(-5*time.Minute), good)), "expired"},
		"long lived":        {i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main", "exp": g.at.Unix() + 301})), "maxTokenLifetime"},
		"no token":          {"a.b.c", "wrong"},
		"two parts":         {"a.b", "3 parts"},
		"a claim of markup": {i.Token(i.Claims(audience, g.at, map[string]any{"ref": "x\n\x1b[31mforged"})), `"x\n\x1b[31mforged"`},
		"a large claim":     {i.Token(i.Claims(audience, g.at, map[string]any{"ref": strings.Repeat("x", 5000)})), "…"},
	} {
		g.wantRefused(name, c.token, c.reason)
	}
	if n := stranger.Requests(issuertest.DiscoveryPath); n != 0 {
		t.Errorf("an issuer that no policy names was asked %d times", n)
	}
}

func mustJSON(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A policy that is taken back or made narrower takes effect with the next decision, also in the middle of a request.
func TestNarrowerPoliciesTakeEffectAtOnce(t *testing.T) {
	i := issuertest.New(t)
	g := newGate(t, policies(t, i, `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages, write_packages], claims: {ref: main}}]`))
	token := i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main"}))
	id := g.want(token)
	if !g.AuthorizePush(id, "web/a").Allowed || !g.AuthorizePush(id, "api").Allowed {
		t.Fatal("not allowed")
	}
	g.change(policies(t, i, readsWeb))
	if g.AuthorizePush(id, "web/a").Allowed || g.Authorize(id, wire.ReadPackages, "api").Allowed || !g.Authorize(id, wire.ReadPackages, "web/a").Allowed {
		t.Error("a narrower policy does not hold for a request that is being served")
	}
	if id := g.want(token); g.AuthorizePush(id, "web/a").Allowed {
		t.Error("a narrower policy does not hold for a token that was proved before")
	}
	g.change(wire.Access{})
	if d := g.Authorize(id, wire.ReadPackages, "web/a"); d.Allowed || !strings.Contains(d.Reason, "no policy admits it any more") {
		t.Errorf("a policy that is gone: %+v", d)
	}
	g.wantRefused("a policy that is gone", token, "no policy names its issuer")
}

// The proof of a token is remembered, but not for longer than the token is valid.
func TestProofsAreRemembered(t *testing.T) {
	i := issuertest.New(t)
	g := newGate(t, policies(t, i, readsWeb))
	token := i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main", "exp": g.at.Unix() + 70}))
	g.want(token)
	i.Publish(issuertest.JWK("second", issuertest.Key("second")))
	g.at = g.at.Add(29 * time.Second)
	g.want(token)
	short := i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main", "exp": g.at.Unix() + 10}))
	id := g.want(short)
	g.at = g.at.Add(10 * time.Second)
	g.wantRefused("expired", short, "expired")
	// The request that it began goes on for a while.
	if !g.Authorize(id, wire.ReadPackages, "web/a").Allowed {
		t.Error("a request ends with the token that began it")
	}
	g.at = g.at.Add(15 * time.Minute)
	if g.Authorize(id, wire.ReadPackages, "web/a").Allowed {
		t.Error("a request never ends")
	}
}

// What was proved with a key that the issuer has dropped since is proved no longer, however long the token lives.
func TestProofsAreForgotten(t *testing.T) {
	i := issuertest.New(t)
	g := newGate(t, policies(t, i, `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages], claims: {ref: main}, maxTokenLifetime: 2h}]`))
	claims := i.Claims(audience, g.at, map[string]any{"ref": "main", "exp": g.at.Unix() + 7200})
	token := i.Token(claims)
	g.want(token)
	i.Publish(issuertest.JWK("second", issuertest.Key("second")))
	g.at = g.at.Add(61 * time.Second)
	g.want(issuertest.Sign(`{"alg":"ES256","kid":"second"}`, string(mustJSON(t, claims)), issuertest.Key("second")))
	g.wantRefused("a key that was dropped", token, "did not sign it")
}

// Replicas whose clocks are apart by as much as is allowed take the same tokens and each other's sessions; no clock brings
// back what has ended by it.
func TestClocksThatAreApart(t *testing.T) {
	i := issuertest.New(t)
	snapshot := policies(t, i, readsWeb)
	mine := mint(t)
	issued := time.Now().Truncate(time.Second)
	ends := issued.Add(time.Hour)
	snapshot.Tokens = []wire.Token{entry(mine)}
	snapshot.Tokens[0].ExpiresAt = &ends
	right := newGate(t, snapshot)
	right.at = issued
	token := i.Token(i.Claims(audience, issued, map[string]any{"ref": "main", "nbf": issued.Unix(), "exp": issued.Unix() + 300}))
	session, err := right.Exchange(t.Context(), token, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ahead time.Duration
		// Why each is refused; empty where it is taken.
		token, session, registryToken string
	}{
		"as the issuer's":        {0, "", "", ""},
		"30 seconds behind":      {-30 * time.Second, "", "", ""},
		"more behind":            {-31 * time.Second, "ahead of the clock", "", ""},
		"ahead":                  {299 * time.Second, "", "", ""},
		"ahead of the token":     {300 * time.Second, "expired", "", ""},
		"ahead of the session":   {15 * time.Minute, "expired", "expired", ""},
		"ahead of all":           {time.Hour, "expired", "expired", "expired"},
		"a second before all":    {time.Hour - time.Second, "expired", "expired", ""},
		"far behind, as in 1970": {-issued.Sub(time.Unix(0, 0)), "ahead of the clock", "", ""},
	} {
		g := newGate(t, snapshot)
		g.at = issued.Add(c.ahead)
		for secret, reason := range map[string]string{token: c.token, session.Token: c.session, mine.Reveal(): c.registryToken} {
			if reason == "" {
				g.want(secret)
			} else {
				g.wantRefused(name, secret, reason)
			}
		}
	}
}

// The first token does not wait for its issuer: the keys are looked for as soon as a policy names it.
func TestKeysAreLookedForBeforeTokensNeedThem(t *testing.T) {
	i := issuertest.New(t)
	g := newGate(t, policies(t, i, readsWeb))
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- g.Watch(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); g.Issuers()[0].Keys != 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the issuers are %+v", g.Issuers())
		}
	}
	stop()
	if err := <-watched; err != nil {
		t.Error(err)
	}
}

func TestInlineKeysProveTheirOwnStatementsAlone(t *testing.T) {
	i := issuertest.New(t)
	inline := string(mustJSON(t, map[string]any{"keys": []any{issuertest.JWK("first", issuertest.Key("inline"))}}))
	g := newGate(t, policies(t, i,
		`[{iss: ISS, jwks: '`+inline+`', scopes: [read_packages], claims: {ref: main}}]`,
		`[{iss: ISS, ca: AUTHORITY, scopes: [delete_packages], claims: {ref: main}}]`))
	sign := func(key string) string {
		return issuertest.Sign(`{"alg":"ES256","kid":"first"}`, string(mustJSON(t, i.Claims(audience, g.at, map[string]any{"ref": "main"}))), issuertest.Key(key))
	}
	for key, may := range map[string][2]bool{"inline": {true, false}, "first": {false, true}} {
		id := g.want(sign(key))
		if got := [2]bool{g.Authorize(id, wire.ReadPackages, "a").Allowed, g.Authorize(id, wire.DeletePackages, "a").Allowed}; got != may {
			t.Errorf("signed with the key %q it may read and delete: %v, want %v", key, got, may)
		}
	}
}

func TestKubernetes(t *testing.T) {
	i := issuertest.New(t)
	a := policies(t, i, `[{iss: kubernetes, scopes: [read_packages], claims: {sub: "system:serviceaccount:team-a:app", /kubernetes.io/serviceaccount/uid: u}}]`)
	claims := func(g *gate) map[string]any {
		return i.Claims(audience, g.at, map[string]any{
			"sub": "system:serviceaccount:team-a:app", "exp": g.at.Unix() + 3600,
			"kubernetes.io": map[string]any{"namespace": "team-a", "serviceaccount": map[string]any{"name": "app", "uid": "u"}},
		})
	}
	g := newGate(t, a)
	g.wantRefused("before the operator has read the keys", i.Token(claims(g)), "no policy names its issuer")
	a.Kubernetes = &wire.Issuer{Issuer: i.URL, JWKS: i.JWKS()}
	g.change(a)
	if id := g.want(i.Token(claims(g))); id.Subject != "system:serviceaccount:team-a:app" {
		t.Errorf("the identity is %+v", id)
	}
	a.Kubernetes.JWKS = "{"
	g.change(a) // The rest of the snapshot must hold: it may revoke something.
	g.wantRefused("keys that cannot be read", i.Token(claims(g)), "did not sign it")
	a.Kubernetes.JWKS = ""
	g.change(a)
	g.wantRefused("no keys", i.Token(claims(g)), "no policy names its issuer")
	if n := i.Requests(issuertest.DiscoveryPath); n != 0 {
		t.Errorf("the cluster's issuer was asked %d times", n)
	}
}

func TestIdentitiesOfSubjectsAreApart(t *testing.T) {
	i := issuertest.New(t)
	g := newGate(t, policies(t, i, `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages], claims: {sub: {matches: "*"}}}]`))
	seen := map[string]string{}
	for _, subject := range []string{"a", "a ", "a%", "a\n", "a\x00", "ä", "a\u00a0", "a%0a", strings.Repeat("a", 256), strings.Repeat("a", 257), strings.Repeat("a", 256) + "b"} {
		id := g.want(i.Token(i.Claims(audience, g.at, map[string]any{"sub": subject}))).ID
		if other, twice := seen[id]; twice {
			t.Errorf("%q and %q are both %s", subject, other, id)
		}
		seen[id] = subject
		if strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || len(id) > 400 {
			t.Errorf("%q is %q", subject, id)
		}
		// Nobody is another by being called what that one is shown as.
		_, shown, _ := strings.Cut(id, "#")
		if shown != subject && g.want(i.Token(i.Claims(audience, g.at, map[string]any{"sub": shown}))).ID == id {
			t.Errorf("%q and %q are both %s", subject, shown, id)
		}
	}
}

func TestPoliciesThatAreRefused(t *testing.T) {
	statement := map[string]any{"iss": "https://a.example", "scopes": []any{"read_packages"}, "claims": map[string]any{"a": "b"}}
	with := func(field string, value any) []any {
		changed := map[string]any{}
		for k, v := range statement {
			changed[k] = v
		}
		changed[field] = value
		return []any{changed}
	}
	var many []wire.Policy
	for range access.MaxPolicies + 1 {
		many = append(many, wire.Policy{Statements: []any{statement}})
	}
	issuers := []wire.Policy{{}, {}}
	for n := range access.MaxIssuers + 1 {
		half := &issuers[n%2]
		half.Statements = append(half.Statements, with("iss", fmt.Sprintf("https://%d.example", n))...)
	}
	for name, c := range map[string]struct {
		policies []wire.Policy
		why      string
	}{
		"no statements":   {[]wire.Policy{{Name: "x"}}, "policy x (policies[0]): the policy has no statement"},
		"a bad rule":      {[]wire.Policy{{Statements: []any{statement}}, {Name: "team-a/x", Statements: with("claims", map[string]any{"ref": []any{}})}}, "policy team-a/x (policies[1]): statements[0]: claims: ref: a list is no rule"},
		"a bad name":      {[]wire.Policy{{Name: "a\nb", Statements: []any{statement}}}, "name: it must be"},
		"bad keys":        {[]wire.Policy{{Statements: with("jwks", "{}")}}, "statements[0]: jwks: the key set has no list of keys"},
		"many":            {many, "65 policies; at most 64"},
		"of many issuers": {issuers, "65 issuers that have to be asked"},
	} {
		_, err := access.Compile(wire.Access{Policies: c.policies})
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want something with %q", name, err, c.why)
		}
	}
}

func TestSessions(t *testing.T) {
	i := issuertest.New(t)
	mine := mint(t)
	snapshot := policies(t, i, `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages, write_packages], claims: {ref: main, n: 12345678901234567890.5}, charts: [web/*]}]`)
	snapshot.Tokens = []wire.Token{entry(mine)}
	snapshot.Tokens[0].Scopes = []wire.Scope{wire.ReadPackages}
	g := newGate(t, snapshot)
	token := i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main", "n": json.RawMessage("12345678901234567890.50"), "deep": map[string]any{"a": []int{1}}}))
	for name, c := range map[string]struct{ parent, chart string }{"OIDC": {token, "web/a"}, "a registry token": {mine.Reveal(), "a"}} {
		parent := g.want(c.parent)
		session, err := g.Exchange(t.Context(), c.parent, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !strings.HasPrefix(session.Token, "crs_") || session.Lifetime != access.SessionLifetime {
			t.Errorf("%s: %+v", name, session)
		}
		id := g.want(session.Token)
		if id.ID != parent.ID || id.Name != parent.Name || id.Session != session.Token[:20] {
			t.Errorf("%s: the identity is %+v, and its parent's %+v", name, id, parent)
		}
		for _, chart := range []string{c.chart, "elsewhere"} {
			for _, scope := range wire.Scopes() {
				if got, want := g.Authorize(id, scope, chart).Allowed, g.Authorize(parent, scope, chart).Allowed; got != want {
					t.Errorf("%s: %s on %s is %v, and %v for its parent", name, scope, chart, got, want)
				}
			}
		}
		if narrow, err := g.Exchange(t.Context(), c.parent, []wire.Scope{wire.ReadPackages}); err != nil {
			t.Error(err)
		} else if id := g.want(narrow.Token); !g.Authorize(id, wire.ReadPackages, c.chart).Allowed {
			t.Errorf("%s: the session may not read", name)
		} else if d := g.Authorize(id, wire.WritePackages, c.chart); d.Allowed || !strings.Contains(d.Reason, "this session token is for read_packages; it lacks write_packages") {
			t.Errorf("%s: a session for reading writes: %+v", name, d)
		}
		if _, err := g.Exchange(t.Context(), session.Token, nil); !errors.Is(err, access.ErrSessionParent) {
			t.Errorf("%s: a session token was exchanged: %v", name, err)
		}
		if _, err := g.Exchange(t.Context(), c.parent, []wire.Scope{wire.ReadPackages, wire.DeletePackages}); !errors.Is(err, access.ErrScope) {
			t.Errorf("%s: more than its parent has: %v", name, err)
		}
	}
	if _, err := g.Exchange(t.Context(), "rubbish", nil); !errors.Is(err, access.ErrUnauthenticated) {
		t.Error(err)
	}
}

// A session outlives the token that it came from, and ends by itself.
func TestSessionsEnd(t *testing.T) {
	i := issuertest.New(t)
	mine := mint(t)
	snapshot := policies(t, i, readsWeb)
	snapshot.Tokens = []wire.Token{entry(mine)}
	g := newGate(t, snapshot)
	token := i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main"}))
	session, err := g.Exchange(t.Context(), token, nil)
	if err != nil {
		t.Fatal(err)
	}
	ofToken, err := g.Exchange(t.Context(), mine.Reveal(), nil)
	if err != nil {
		t.Fatal(err)
	}
	g.at = g.at.Add(15*time.Minute - time.Second)
	g.wantRefused("the token itself", token, "expired")
	id := g.want(session.Token)
	g.want(ofToken.Token)
	g.at = g.at.Add(time.Second)
	g.wantRefused("the session", session.Token, "the session token expired 0s ago")
	g.wantRefused("a registry token's session", ofToken.Token, "the session token expired 0s ago")
	if !g.Authorize(id, wire.ReadPackages, "web/a").Allowed {
		t.Error("a request ends with the session that began it")
	}
	g.at = g.at.Add(15 * time.Minute)
	if g.Authorize(id, wire.ReadPackages, "web/a").Allowed {
		t.Error("a request never ends")
	}
}

func TestSessionsDieWithTheirParents(t *testing.T) {
	i := issuertest.New(t)
	mine := mint(t)
	snapshot := policies(t, i, `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages, write_packages], claims: {ref: main}}]`)
	snapshot.Tokens = []wire.Token{entry(mine)}
	g := newGate(t, snapshot)
	ofOIDC, err := g.Exchange(t.Context(), i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main"})), nil)
	if err != nil {
		t.Fatal(err)
	}
	ofToken, err := g.Exchange(t.Context(), mine.Reveal(), nil)
	if err != nil {
		t.Fatal(err)
	}
	id, idOfToken := g.want(ofOIDC.Token), g.want(ofToken.Token)

	narrower := policies(t, i, readsWeb)
	g.change(narrower)
	if g.Authorize(id, wire.WritePackages, "web/a").Allowed || g.Authorize(id, wire.ReadPackages, "api").Allowed || !g.Authorize(id, wire.ReadPackages, "web/a").Allowed {
		t.Error("a narrower policy does not hold for a session")
	}
	if g.Authorize(idOfToken, wire.ReadPackages, "a").Allowed {
		t.Error("a session outlives the token that was revoked")
	}
	g.wantRefused("a revoked token's", ofToken.Token, "was revoked")
	g.change(policies(t, i, `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages], claims: {ref: other}}]`))
	g.wantRefused("a policy that no longer matches", ofOIDC.Token, `claims.ref: "main" is not equal to "other"`)
	g.change(policies(t, i, `[{iss: ISS, jwks: '`+i.JWKS()+`', scopes: [read_packages], claims: {ref: main}}]`))
	g.wantRefused("keys that did not prove it", ofOIDC.Token, "was not signed with a key that this statement trusts")
	g.change(wire.Access{})
	g.wantRefused("no policy", ofOIDC.Token, "no longer good")
}

func TestForgedSessions(t *testing.T) {
	i := issuertest.New(t)
	mine := mint(t)
	reads := entry(mine)
	reads.Scopes = []wire.Scope{wire.ReadPackages}
	g := newGate(t, wire.Access{Tokens: []wire.Token{reads}})
	session, err := g.Exchange(t.Context(), mine.Reveal(), nil)
	if err != nil {
		t.Fatal(err)
	}
	good := session.Token
	g.want(good)
	signed, signature, _ := strings.Cut(good, ".")
	claims, err := base64.RawURLEncoding.DecodeString(signed[21:])
	if err != nil {
		t.Fatal(err)
	}
	wider := strings.Replace(string(claims), `"scopes":["read_packages"]`, `"scopes":["delete_packages"]`, 1)
	for name, token := range map[string]string{
		"nothing":          "crs_",
		"no claims":        "crs_.",
		"no signature":     signed,
		"an empty one":     signed + ".",
		"other claims":     signed[:21] + base64.RawURLEncoding.EncodeToString([]byte(wider+" ")) + "." + signature,
		"another id":       "crs_0" + signed[5:] + "x." + signature,
		"half a signature": good[:len(good)-10],
		"padding":          good + "=",
		"too long":         signed + strings.Repeat("A", 12_000) + "." + signature,
		"rubbish behind":   good + ".x",
	} {
		g.wantRefused(name, token, "the session token is wrong")
	}
	// Another registry's, with the same keys.
	other := newGate(t, wire.Access{Tokens: []wire.Token{reads}})
	elsewhere := access.NewEnforcer(access.EnforcerOptions{Registry: "team-b/charts", File: other.file, SessionKeys: func() [][]byte { return g.keys }})
	if foreign, err := elsewhere.Exchange(t.Context(), mine.Reveal(), nil); err != nil {
		t.Error(err)
	} else {
		g.wantRefused("another registry's", foreign.Token, "another registry's")
	}
	// Keys are replaced with an overlap.
	old := g.keys[0]
	g.keys = [][]byte{bytes.Repeat([]byte{2}, 32), old}
	g.want(good)
	g.keys = g.keys[:1]
	g.wantRefused("a key that is gone", good, "did not sign it")

	none := access.NewEnforcer(access.EnforcerOptions{Registry: "team-a/charts", File: g.file})
	if _, err := none.Exchange(t.Context(), mine.Reveal(), nil); !errors.Is(err, access.ErrNoSessions) {
		t.Error(err)
	}
	if _, err := none.Authenticate(t.Context(), access.Credentials{Secret: good, Present: true}); !errors.Is(err, access.ErrUnauthenticated) {
		t.Error(err)
	}
	// What is too large for a header is refused here rather than by each server on the way.
	g.change(policies(t, i, `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages], claims: {ref: main}}]`))
	large := i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main", "x": strings.Repeat("x", 9000)}))
	if _, err := g.Exchange(t.Context(), large, nil); !errors.Is(err, access.ErrTooLarge) {
		t.Error(err)
	}
}

// FuzzAuthenticate: nothing that is sent as a secret brings the server down or is let in.
func FuzzAuthenticate(f *testing.F) {
	f.Add("crs_0123456789abcdef_e30.AAAA")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("crt_12345678_x")
	enforcer := access.NewEnforcer(access.EnforcerOptions{SessionKeys: func() [][]byte { return [][]byte{make([]byte, 32)} }})
	f.Fuzz(func(t *testing.T, secret string) {
		if id, err := enforcer.Authenticate(t.Context(), access.Credentials{Secret: secret, Present: true}); !errors.Is(err, access.ErrUnauthenticated) {
			t.Errorf("%q is %+v (%v)", secret, id, err)
		}
	})
}

// The operator reads what a pod says of its issuers within a bound, and whoever may write policies must not be able to
// pass it.
func TestIssuersAreReportedWithinBounds(t *testing.T) {
	i := issuertest.New(t)
	var given, asked strings.Builder
	for n := range policy.MaxStatements {
		fmt.Fprintf(&given, "- {iss: ISS, jwks: '%s', scopes: [read_packages], claims: {ref: r%d}}\n", i.JWKS(), n)
		fmt.Fprintf(&asked, "- {iss: \"https://issuer.invalid/%s%d\", scopes: [read_packages], claims: {ref: main}}\n", strings.Repeat("x", 480), n)
	}
	g := newGate(t, policies(t, i, given.String(), asked.String()))
	states := g.Issuers()
	said, err := json.Marshal(states)
	if err != nil || len(states) != access.MaxIssuers || len(said)+len(states)*6*300 > 200<<10 {
		t.Errorf("%d issuers are told of in %d bytes: %v", len(states), len(said), err)
	}
}

// Package accesstest makes credentials of all kinds for tests: of each scope and of none, valid and not.
package accesstest

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Nobody is what the grants of credentials that are not valid are.
const Nobody = "-"

// Grants are the names of all credentials, and what each is granted for all charts but the one named "other": letters of r, w
// and d.
func Grants() map[string]string {
	return map[string]string{
		"read": "r", "write": "w", "delete": "d", "read and write": "rw", "all": "rwd", "another": "rwd", "all of another chart": "",
		"OIDC read": "r", "OIDC write": "w", "OIDC read and write": "rw", "OIDC delete": "d", "OIDC of another chart": "",
		"session of all": "rwd", "session of all for reading": "r", "session of OIDC": "rw",

		"malformed": Nobody, "wrong secret": Nobody, "unknown": Nobody, "expired": Nobody, "revoked": Nobody,
		"OIDC that no rule has": Nobody, "OIDC of another": Nobody, "OIDC forged": Nobody, "OIDC that expired": Nobody, "OIDC of another issuer": Nobody,
		"session of revoked": Nobody, "session of another registry": Nobody, "session that expired": Nobody, "session forged": Nobody,
	}
}

// Credentials are those of the registry acme/charts.
type Credentials struct {
	// Enforcer has the credentials in force.
	Enforcer *access.Enforcer
	// Tokens by their names in Grants.
	Tokens map[string]string
	// File is the access file, which holds Snapshot.
	File     string
	Snapshot wire.Access
}

// New makes credentials for a registry whose address is audience. keys are those of session tokens.
func New(t *testing.T, audience string, visibility wire.Visibility, keys func() [][]byte) *Credentials {
	t.Helper()
	c := &Credentials{Tokens: map[string]string{}}
	const read, write, remove = wire.ReadPackages, wire.WritePackages, wire.DeletePackages
	snapshot := wire.Access{Revision: 1, Visibility: visibility}
	past, err := time.Parse(time.RFC3339, "2001-01-01T00:00:00Z")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		name    string
		scopes  []wire.Scope
		charts  string
		expires *time.Time
	}{
		{name: "read", scopes: []wire.Scope{read}},
		{name: "write", scopes: []wire.Scope{write}},
		{name: "delete", scopes: []wire.Scope{remove}},
		{name: "read and write", scopes: []wire.Scope{read, write}},
		{name: "all", scopes: wire.Scopes()},
		{name: "another", scopes: wire.Scopes()},
		{name: "all of another chart", scopes: wire.Scopes(), charts: "other"},
		{name: "expired", scopes: wire.Scopes(), expires: &past},
		{name: "revoked", scopes: wire.Scopes()},
		{name: "unknown", scopes: wire.Scopes()},
	} {
		token, err := access.Mint(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.Tokens[k.name] = token.Reveal()
		if k.charts == "" {
			k.charts = "*"
		}
		if k.name != "unknown" {
			snapshot.Tokens = append(snapshot.Tokens, wire.Token{
				ID: token.ID(), SHA256: token.SHA256(), Scopes: k.scopes, Charts: []string{k.charts}, ExpiresAt: k.expires,
			})
		}
	}
	c.addFederated(t, audience, &snapshot)
	c.Tokens["malformed"] = "not-a-token"
	c.Tokens["wrong secret"] = c.Tokens["all"][:len(c.Tokens["all"])-3] + "000"
	c.File = filepath.Join(t.TempDir(), "access.json")
	if err := os.WriteFile(c.File, snapshot.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Enforcer = access.NewEnforcer(access.EnforcerOptions{
		Registry: "acme/charts", File: c.File, StateDir: t.TempDir(), Audience: audience, SessionKeys: keys,
	})
	if problem := c.Enforcer.State().Problem; problem != "" {
		t.Fatal(problem)
	}
	c.addSessions(t, audience, keys)
	c.Snapshot = snapshot
	c.Revoke(t, "revoked")
	return c
}

// addSessions exchanges tokens, here, at another registry that has the same keys, and here an hour ago.
func (c *Credentials) addSessions(t *testing.T, audience string, keys func() [][]byte) {
	t.Helper()
	at := func(registry string, now time.Time) *access.Enforcer {
		return access.NewEnforcer(access.EnforcerOptions{
			Registry: registry, File: c.File, Audience: audience, SessionKeys: keys, Now: func() time.Time { return now },
		})
	}
	for name, s := range map[string]struct {
		parent string
		at     *access.Enforcer
		scopes []wire.Scope
	}{
		"session of all":              {"all", c.Enforcer, nil},
		"session of all for reading":  {"all", c.Enforcer, []wire.Scope{wire.ReadPackages}},
		"session of OIDC":             {"OIDC read and write", c.Enforcer, nil},
		"session of revoked":          {"revoked", c.Enforcer, nil},
		"session of another registry": {"all", at("acme/other", time.Now()), nil},
		"session that expired":        {"all", at("acme/charts", time.Now().Add(-time.Hour)), nil},
	} {
		session, err := s.at.Exchange(t.Context(), c.Tokens[s.parent], s.scopes)
		if err != nil {
			t.Fatal(err)
		}
		c.Tokens[name] = session.Token
	}
	forged := c.Tokens["session of all"]
	c.Tokens["session forged"] = forged[:len(forged)-4] + "AAAA"
}

// Revoke takes a token away, and is in force when it returns.
func (c *Credentials) Revoke(t *testing.T, name string) {
	t.Helper()
	c.Snapshot.Revision++
	c.Snapshot.Tokens = slices.DeleteFunc(c.Snapshot.Tokens, func(one wire.Token) bool { return one.ID == c.Tokens[name][len("crt_"):len("crt_12345678")] })
	if _, err := c.Enforcer.Push(c.Snapshot.Encode()); err != nil {
		t.Fatal(err)
	}
}

// addFederated adds policies for an issuer whose keys are in them, and tokens of it.
func (c *Credentials) addFederated(t *testing.T, audience string, snapshot *wire.Access) {
	t.Helper()
	const issuer = "https://issuer.example"
	jwks, err := json.Marshal(map[string]any{"keys": []any{issuertest.JWK("first", issuertest.Key("first"))}})
	if err != nil {
		t.Fatal(err)
	}
	statement := func(sub string, scopes ...any) map[string]any {
		return map[string]any{"iss": issuer, "jwks": string(jwks), "scopes": scopes, "claims": map[string]any{"sub": sub}}
	}
	neighbour := statement("neighbour", "read_packages", "write_packages", "delete_packages")
	neighbour["charts"] = []any{"other"}
	snapshot.Policies = []wire.Policy{{Name: "acme/ci", Statements: []any{
		statement("reader", "read_packages"), statement("writer", "write_packages"), statement("pusher", "read_packages", "write_packages"),
		statement("remover", "delete_packages"), neighbour,
	}}}
	for name, o := range map[string]struct {
		issuer, subject, audience, key string
		age                            int64
	}{
		"OIDC read":              {issuer, "reader", audience, "first", 0},
		"OIDC write":             {issuer, "writer", audience, "first", 0},
		"OIDC read and write":    {issuer, "pusher", audience, "first", 0},
		"OIDC delete":            {issuer, "remover", audience, "first", 0},
		"OIDC of another chart":  {issuer, "neighbour", audience, "first", 0},
		"OIDC that no rule has":  {issuer, "stranger", audience, "first", 0},
		"OIDC of another":        {issuer, "pusher", audience + "-of-another", "first", 0},
		"OIDC forged":            {issuer, "pusher", audience, "forger", 0},
		"OIDC that expired":      {issuer, "pusher", audience, "first", 300},
		"OIDC of another issuer": {issuer + ".evil.example", "pusher", audience, "first", 0},
	} {
		issued := time.Now().Unix() - o.age
		claims, err := json.Marshal(map[string]any{"iss": o.issuer, "sub": o.subject, "aud": o.audience, "iat": issued, "exp": issued + 300})
		if err != nil {
			t.Fatal(err)
		}
		c.Tokens[name] = issuertest.Sign(`{"alg":"ES256","kid":"first"}`, string(claims), issuertest.Key(o.key))
	}
}

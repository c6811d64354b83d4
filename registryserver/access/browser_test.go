package access_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestBrowsers(t *testing.T) {
	i := issuertest.New(t)
	mine := mint(t)
	snapshot := policies(t, i, `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages, write_packages], claims: {ref: main}}]`)
	e := entry(mine)
	e.Scopes = wire.Scopes()
	snapshot.Tokens = []wire.Token{e}
	g := newGate(t, snapshot)
	began := g.at
	token := i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main"}))
	for name, c := range map[string]struct {
		secret   string
		lifetime time.Duration
		// temporary is how long a temporary token lives that is made when 10 minutes have gone by.
		temporary time.Duration
	}{
		"a registry token": {mine.Reveal(), time.Hour, 15 * time.Minute},
		"OIDC":             {token, 15 * time.Minute, 5 * time.Minute},
	} {
		g.at = began
		session, err := g.SignIn(t.Context(), c.secret)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if session.Lifetime != c.lifetime || len(session.Token) > 3800 {
			t.Errorf("%s: a session of %v in %d bytes", name, session.Lifetime, len(session.Token))
		}
		id, err := g.Resume(session.Token)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !g.Authorize(id, wire.WritePackages, "web").Allowed || g.Authorize(id, wire.DeletePackages, "web").Allowed {
			t.Errorf("%s: what a browser may do is not to read and write", name)
		}
		// Each kind is good for one thing.
		g.wantRefused(name, session.Token, "not meant to be")
		g.at = g.at.Add(10 * time.Minute)
		if id, err = g.Resume(session.Token); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		temporary, err := g.Temporary(id)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if temporary.Lifetime != c.temporary || !slices.Equal(temporary.Scopes, []wire.Scope{wire.ReadPackages, wire.WritePackages}) {
			t.Errorf("%s: a temporary token for %v, for %v", name, temporary.Scopes, temporary.Lifetime)
		}
		pushing := g.want(temporary.Token)
		if !g.AuthorizePush(pushing, "web").Allowed || g.Authorize(pushing, wire.DeletePackages, "web").Allowed {
			t.Errorf("%s: a temporary token does not push, or deletes", name)
		}
		if _, err := g.Resume(temporary.Token); !errors.Is(err, access.ErrUnauthenticated) {
			t.Errorf("%s: a temporary token is a browser's: %v", name, err)
		}
		for what, err := range map[string]error{
			"signing in with a temporary token": second(g.SignIn(t.Context(), temporary.Token)), "exchanging it": second(g.Exchange(t.Context(), temporary.Token, nil)),
			"exchanging a browser's": second(g.Exchange(t.Context(), session.Token, nil)), "another from a temporary token": second(g.Temporary(pushing)),
		} {
			if !errors.Is(err, access.ErrSessionParent) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		g.at = g.at.Add(c.lifetime)
		if _, err := g.Resume(session.Token); !errors.Is(err, access.ErrUnauthenticated) {
			t.Errorf("%s: it never ends: %v", name, err)
		}
	}
	for _, rubbish := range []string{"", "crs_", "crs_0011223344556677_e30.AAAA", mine.Reveal(), token} {
		if _, err := g.Resume(rubbish); !errors.Is(err, access.ErrUnauthenticated) {
			t.Errorf("%.20q: %v", rubbish, err)
		}
	}
	g.at = began
	session, err := g.SignIn(t.Context(), mine.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	g.change(policies(t, i, `[{iss: ISS, ca: AUTHORITY, scopes: [read_packages], claims: {ref: main}}]`))
	if _, err := g.Resume(session.Token); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("it outlives its token: %v", err)
	}
}

func second(_ access.Session, err error) error { return err }

// A cookie has room for less than a header.
func TestSignInWithManyClaims(t *testing.T) {
	i := issuertest.New(t)
	g := newGate(t, policies(t, i, readsWeb))
	token := i.Token(i.Claims(audience, g.at, map[string]any{"ref": "main", "long": strings.Repeat("x", 4000)}))
	if _, err := g.SignIn(t.Context(), token); !errors.Is(err, access.ErrTooLarge) {
		t.Errorf("error %v", err)
	}
}

func TestTemporaryNeedsToWrite(t *testing.T) {
	mine := mint(t)
	e := entry(mine)
	e.Scopes = []wire.Scope{wire.ReadPackages}
	g := newGate(t, wire.Access{Tokens: []wire.Token{e}})
	session, err := g.SignIn(t.Context(), mine.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	id, err := g.Resume(session.Token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Temporary(id); !errors.Is(err, access.ErrScope) {
		t.Errorf("error %v", err)
	}
	if g.WritesAll(id) || !slices.Equal(g.Scopes(id), []wire.Scope{wire.ReadPackages}) {
		t.Errorf("it has %v", g.Scopes(id))
	}
	if got := g.Scopes(access.Identity{Anonymous: true}); len(got) > 0 || g.Public() {
		t.Errorf("anonymous has %v", got)
	}
}

func TestWhatIsShownOfTokensAndPolicies(t *testing.T) {
	i := issuertest.New(t)
	mine := mint(t)
	snapshot := policies(t, i, readsWeb)
	e := entry(mine)
	e.Name = "team/ci"
	snapshot.Tokens = []wire.Token{e}
	g := newGate(t, snapshot)
	if tokens := g.Tokens(); len(tokens) != 1 || tokens[0].ID != mine.String() || tokens[0].Name != "team/ci" || !tokens[0].LastUsed.IsZero() {
		t.Errorf("%+v", tokens)
	}
	g.want(mine.Reveal())
	if tokens := g.Tokens(); !tokens[0].LastUsed.Equal(g.at.Truncate(access.UseBucket)) {
		t.Errorf("last used at %v", tokens[0].LastUsed)
	}
	if shown := g.Policies(); len(shown) != 1 || len(shown[0].Statements) != 1 || !slices.Equal(shown[0].Statements[0].Scopes, []wire.Scope{wire.ReadPackages}) {
		t.Errorf("%+v", shown)
	}
	claims, err := policy.ParseClaims([]byte(`{"iss": "` + i.URL + `", "ref": "main"}`))
	if err != nil {
		t.Fatal(err)
	}
	if trials := g.Try(claims); len(trials) != 1 || trials[0].Matched == nil {
		t.Errorf("%+v", trials)
	}
	claims["ref"] = "other"
	if trials := g.Try(claims); trials[0].Matched != nil || !strings.Contains(trials[0].Verdicts[0].Reason, "claims.ref") {
		t.Errorf("%+v", trials)
	}
}

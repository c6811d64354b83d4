package access_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// entry is the snapshot's part of a token that may do all to every chart.
func entry(token access.Token) wire.Token {
	return wire.Token{ID: token.ID(), SHA256: token.SHA256(), Name: "somebody", Scopes: wire.Scopes(), Charts: []string{"*"}}
}

func TestCompileRefuses(t *testing.T) {
	good := mint(t)
	for name, c := range map[string]struct {
		spoil func(*wire.Access)
		want  []string
	}{
		"visibility":    {func(a *wire.Access) { a.Visibility = "Open" }, []string{"visibility", "Open", "Private", "Public"}},
		"no scopes":     {func(a *wire.Access) { a.Tokens[1].Scopes = nil }, []string{good.ID(), "tokens[1]", "scopes", "read_packages"}},
		"unknown scope": {func(a *wire.Access) { a.Tokens[1].Scopes = []wire.Scope{"admin"} }, []string{good.ID(), "scopes", `"admin"`, "read_packages, write_packages, delete_packages"}},
		"no charts":     {func(a *wire.Access) { a.Tokens[1].Charts = nil }, []string{good.ID(), "charts"}},
		"many charts":   {func(a *wire.Access) { a.Tokens[1].Charts = make([]string, access.MaxCharts+1) }, []string{good.ID(), "charts", "64"}},
		"bad glob":      {func(a *wire.Access) { a.Tokens[1].Charts = []string{"a", "[b]"} }, []string{good.ID(), "charts", `"[b]"`}},
		"bad id":        {func(a *wire.Access) { a.Tokens[1].ID = "short" }, []string{"tokens[1]", "id"}},
		"id of signs":   {func(a *wire.Access) { a.Tokens[1].ID = "../../.." }, []string{"tokens[1]", "id"}},
		"short hash":    {func(a *wire.Access) { a.Tokens[1].SHA256 = good.SHA256()[2:] }, []string{good.ID(), "sha256"}},
		"upper hash":    {func(a *wire.Access) { a.Tokens[1].SHA256 = strings.Repeat("A", 64) }, []string{good.ID(), "sha256"}},
		"no hash":       {func(a *wire.Access) { a.Tokens[1].SHA256 = "" }, []string{good.ID(), "sha256"}},
		"name's length": {func(a *wire.Access) { a.Tokens[1].Name = strings.Repeat("n", 321) }, []string{good.ID(), "name"}},
		"name's line":   {func(a *wire.Access) { a.Tokens[1].Name = "a\nb" }, []string{good.ID(), "name"}},
		"name's bytes":  {func(a *wire.Access) { a.Tokens[1].Name = "\xff" }, []string{good.ID(), "name"}},
		"many tokens":   {func(a *wire.Access) { a.Tokens = make([]wire.Token, 2001) }, []string{"2001", "2000"}},
	} {
		a := wire.Access{Version: 1, Revision: 1, Tokens: []wire.Token{entry(mint(t)), entry(good)}}
		if _, err := access.Compile(a); err != nil {
			t.Fatalf("before it was broken: %v", err)
		}
		c.spoil(&a)
		_, err := access.Compile(a)
		if err == nil {
			t.Errorf("%s: was taken", name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", name, err, want)
			}
		}
		if strings.Contains(err.Error(), good.SHA256()[2:]) {
			t.Errorf("%s: the error quotes a hash: %v", name, err)
		}
	}
}

func TestCompileTakesWhatIsAllowedAtMost(t *testing.T) {
	e := entry(mint(t))
	e.Name, e.Charts = strings.Repeat("n", 320), slices.Repeat([]string{"web"}, 64)
	if _, err := access.Compile(wire.Access{Tokens: slices.Repeat([]wire.Token{e}, 2000)}); err != nil {
		t.Error(err)
	}
}

func TestValidateSHA256(t *testing.T) {
	good := mint(t).SHA256()
	if err := access.ValidateSHA256(good); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", good[2:], good + "00", strings.Repeat("A", 64), strings.Repeat("g", 64), good[:63] + " "} {
		if err := access.ValidateSHA256(text); err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A whole token that somebody wrote where the id belongs must not get into a log.
func TestCompileDoesNotQuoteATokenInPlaceOfItsID(t *testing.T) {
	token := mint(t)
	e := entry(token)
	e.ID = token.Reveal()
	if _, err := access.Compile(wire.Access{Tokens: []wire.Token{e}}); err == nil || strings.Contains(err.Error(), e.ID) {
		t.Errorf("the error is %v", err)
	}
}

func TestDecisions(t *testing.T) {
	const (
		read, write, del = wire.ReadPackages, wire.WritePackages, wire.DeletePackages
		push             = "push"
	)
	long := strings.Repeat("x", 5000)
	many := []string{"a-*", "b"}
	for len(many) < access.MaxCharts {
		many = append(many, "team/"+strings.Repeat("y", 60))
	}
	for name, c := range map[string]struct {
		scopes []wire.Scope // None: no credentials.
		charts []string
		public bool
		asked  wire.Scope
		chart  string
		reason string // Empty: allowed.
	}{
		"anonymous reads in public":     {public: true, asked: read, chart: "a"},
		"anonymous reads in private":    {asked: read, chart: "a", reason: "this registry is private: log in with a registry token that has read_packages"},
		"anonymous writes in public":    {public: true, asked: write, chart: "a", reason: "without credentials charts can only be read here: log in with a registry token that has write_packages"},
		"anonymous deletes in public":   {public: true, asked: del, chart: "a", reason: "without credentials charts can only be read here: log in with a registry token that has delete_packages"},
		"anonymous pushes to public":    {public: true, asked: push, chart: "a", reason: "without credentials charts can only be read here: log in with a registry token that has read_packages and write_packages"},
		"anonymous pushes to private":   {asked: push, chart: "a", reason: "this registry is private: log in with a registry token that has read_packages and write_packages"},
		"reader reads":                  {scopes: []wire.Scope{read}, asked: read, chart: "a"},
		"reader writes":                 {scopes: []wire.Scope{read}, asked: write, chart: "a", reason: "this token may read but not write charts here: it lacks the scope write_packages"},
		"reader deletes":                {scopes: []wire.Scope{read}, asked: del, chart: "a", reason: "this token may read but not delete charts here: it lacks the scope delete_packages"},
		"reader pushes":                 {scopes: []wire.Scope{read}, asked: push, chart: "a", reason: "a push needs read_packages and write_packages; this token lacks write_packages"},
		"writer writes":                 {scopes: []wire.Scope{write}, asked: write, chart: "a"},
		"writer reads":                  {scopes: []wire.Scope{write}, asked: read, chart: "a", reason: "this token may write but not read charts here: it lacks the scope read_packages"},
		"writer pushes":                 {scopes: []wire.Scope{write}, asked: push, chart: "a", reason: "a push needs read_packages and write_packages; this token lacks read_packages"},
		"writer reads in public":        {scopes: []wire.Scope{write}, public: true, asked: read, chart: "a", reason: "this token may write but not read charts here: it lacks the scope read_packages"},
		"reader and writer pushes":      {scopes: []wire.Scope{write, read}, asked: push, chart: "a"},
		"reader and writer deletes":     {scopes: []wire.Scope{write, read}, asked: del, chart: "a", reason: "this token may read and write but not delete charts here: it lacks the scope delete_packages"},
		"deleter deletes":               {scopes: []wire.Scope{del}, asked: del, chart: "a"},
		"deleter pushes":                {scopes: []wire.Scope{del}, asked: push, chart: "a", reason: "a push needs read_packages and write_packages; this token lacks read_packages and write_packages"},
		"covered":                       {scopes: wire.Scopes(), charts: []string{"b", "a-*"}, asked: push, chart: "a-1"},
		"not covered":                   {scopes: wire.Scopes(), charts: []string{"a-*", "b"}, asked: read, chart: "x", reason: `this token does not cover the chart "x"; it covers: a-*, b`},
		"push not covered":              {scopes: wire.Scopes(), charts: []string{"a-*", "b"}, asked: push, chart: "x", reason: `this token does not cover the chart "x"; it covers: a-*, b`},
		"not covered, in public too":    {scopes: wire.Scopes(), charts: []string{"b"}, public: true, asked: read, chart: "x", reason: `this token does not cover the chart "x"; it covers: b`},
		"a chart of another's name":     {scopes: wire.Scopes(), charts: []string{"b"}, asked: read, chart: "b2", reason: `this token does not cover the chart "b2"; it covers: b`},
		"long chart, many globs":        {scopes: wire.Scopes(), charts: many, asked: read, chart: long, reason: `this token does not cover the chart "` + long[:100] + `…"; it covers: a-*, b, ` + many[2] + ", " + many[3] + " and 60 more"},
		"a chart with a line in it":     {scopes: wire.Scopes(), charts: []string{"b"}, asked: read, chart: "x\ny", reason: `this token does not cover the chart "x\ny"; it covers: b`},
		"a chart that is no valid text": {scopes: wire.Scopes(), charts: []string{"b"}, asked: read, chart: "\xff", reason: `this token does not cover the chart "\xff"; it covers: b`},
	} {
		token := mint(t)
		e := entry(token)
		e.Scopes = c.scopes
		if c.charts != nil {
			e.Charts = c.charts
		}
		a := wire.Access{Version: 1, Revision: 1}
		var credentials access.Credentials
		if c.public {
			a.Visibility = wire.Public
		}
		if c.scopes != nil {
			a.Tokens = []wire.Token{e}
			credentials = access.Credentials{Secret: token.Reveal(), Present: true}
		}
		enforcer := alone(t, a)
		id, err := enforcer.Authenticate(t.Context(), credentials)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got access.Decision
		if c.asked == push {
			got = enforcer.AuthorizePush(id, c.chart)
		} else {
			got = enforcer.Authorize(id, c.asked, c.chart)
		}
		if got.Allowed != (c.reason == "") || got.Reason != c.reason {
			t.Errorf("%s: allowed %v, %q\nwant %q", name, got.Allowed, got.Reason, c.reason)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	mine, expired, soon, revoked := mint(t), mint(t), mint(t), mint(t)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	later := now.Add(time.Second)
	entries := []wire.Token{entry(mine), entry(expired), entry(soon)}
	entries[1].ExpiresAt, entries[2].ExpiresAt = &now, &later
	// A stranger's token with the id of mine, before and behind it.
	for range 2 {
		stranger := entry(mint(t))
		stranger.ID = mine.ID()
		entries = append(entries, stranger)
		entries[0], entries[len(entries)-1] = entries[len(entries)-1], entries[0]
	}
	entries = append(entries, entry(mine))
	enforcer := alone(t, wire.Access{Version: 1, Revision: 1, Tokens: entries}, func(o *access.EnforcerOptions) {
		o.Now = func() time.Time { return now }
	})
	forge := func(id access.Token) string { return checksummed(id.Reveal()[:13] + revoked.Reveal()[13:56]) }
	for name, c := range map[string]struct {
		secret string
		want   access.Identity
		why    string // For the log alone; empty: valid.
	}{
		"mine":                  {mine.Reveal(), access.Identity{ID: "crt_" + mine.ID(), Name: "somebody"}, ""},
		"until its last tick":   {soon.Reveal(), access.Identity{ID: "crt_" + soon.ID(), Name: "somebody"}, ""},
		"at its expiry":         {expired.Reveal(), access.Identity{}, "it expired at 2030-01-01T00:00:00Z"},
		"revoked":               {revoked.Reveal(), access.Identity{}, "there is no such token"},
		"my id, other secret":   {forge(mine), access.Identity{}, "its secret is wrong"},
		"an id, other secret":   {forge(soon), access.Identity{}, "its secret is wrong"},
		"old id, other secret":  {forge(expired), access.Identity{}, "its secret is wrong"},
		"my id, other checksum": {mine.Reveal()[:13] + revoked.Reveal()[13:], access.Identity{}, "checksum is wrong"},
		"not a token":           {"swordfish", access.Identity{}, "no token of this program"},
		"a hash":                {mine.SHA256(), access.Identity{}, "no token of this program"},
		"nothing":               {"", access.Identity{}, "no token of this program"},
	} {
		// Basic and Bearer with the same token are the same to us.
		for _, header := range []string{basic("anybody", c.secret), "Bearer " + c.secret} {
			credentials, err := access.FromRequest(request(header))
			if err != nil {
				credentials = access.Credentials{Present: true}
			}
			got, err := enforcer.Authenticate(t.Context(), credentials)
			if (err == nil) != (c.why == "") || (err != nil && (!errors.Is(err, access.ErrUnauthenticated) || err.Error() != access.ErrUnauthenticated.Error())) {
				t.Errorf("%s, %.6s: %v", name, header, err)
			}
			if refused := (*access.RefusedError)(nil); errors.As(err, &refused) && !strings.Contains(refused.Reason, c.why) {
				t.Errorf("%s, %.6s: %q does not say %q", name, header, refused.Reason, c.why)
			}
			if got.ID != c.want.ID || got.Name != c.want.Name || got.Anonymous {
				t.Errorf("%s, %.6s: %+v", name, header, got)
			}
			if allowed := enforcer.Authorize(got, wire.ReadPackages, "a").Allowed; allowed != (c.why == "") {
				t.Errorf("%s, %.6s: may read: %v", name, header, allowed)
			}
		}
	}
	anonymous, err := enforcer.Authenticate(t.Context(), access.Credentials{})
	if err != nil || anonymous.ID != "anonymous" || !anonymous.Anonymous {
		t.Errorf("no credentials: %+v, %v", anonymous, err)
	}
	for _, id := range []string{"", "anonymous", "crt_" + mine.ID(), "crt_" + revoked.ID()} {
		if d := enforcer.Authorize(access.Identity{ID: id}, wire.ReadPackages, "a"); d.Allowed || !strings.Contains(d.Reason, "no longer valid") {
			t.Errorf("an identity %q that nobody proved: %+v", id, d)
		}
	}
}

// One token in a snapshot twice has the rights of both, each on its own charts.
func TestOneTokenTwice(t *testing.T) {
	token := mint(t)
	reader, writer := entry(token), entry(token)
	reader.Scopes, writer.Scopes, writer.Charts = []wire.Scope{wire.ReadPackages}, []wire.Scope{wire.WritePackages}, []string{"web"}
	enforcer := alone(t, wire.Access{Version: 1, Tokens: []wire.Token{reader, writer}})
	id, err := enforcer.Authenticate(t.Context(), access.Credentials{Secret: token.Reveal(), Present: true})
	if err != nil {
		t.Fatal(err)
	}
	if !enforcer.AuthorizePush(id, "web").Allowed {
		t.Error("may not push where it may read and write")
	}
	if d := enforcer.AuthorizePush(id, "db"); d.Allowed || !strings.Contains(d.Reason, "lacks write_packages") {
		t.Errorf("may write where it may only read: %+v", d)
	}
}

// What all charts hold together is for who may read each of them, by whatever right.
func TestReadsAll(t *testing.T) {
	g := newGate(t, wire.Access{})
	for name, c := range map[string]struct {
		scopes []wire.Scope
		charts []string
		want   bool
	}{
		"reads everything": {[]wire.Scope{wire.ReadPackages}, []string{"web", "*"}, true},
		"reads some":       {[]wire.Scope{wire.ReadPackages}, []string{"web", "team/*", "?"}, false},
		"writes":           {[]wire.Scope{wire.WritePackages, wire.DeletePackages}, []string{"*"}, false},
	} {
		token := mint(t)
		g.change(wire.Access{Tokens: []wire.Token{{ID: token.ID(), SHA256: token.SHA256(), Scopes: c.scopes, Charts: c.charts}}})
		id := g.want(token.Reveal())
		if got := g.ReadsAll(id); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
		g.change(wire.Access{})
		if g.ReadsAll(id) {
			t.Errorf("%s: a token that was revoked", name)
		}
	}
	token := mint(t)
	g.change(wire.Access{Visibility: wire.Public, Tokens: []wire.Token{entry(token)}})
	for _, scope := range []wire.Scope{wire.ReadPackages, wire.WritePackages} {
		session, err := g.Exchange(t.Context(), token.Reveal(), []wire.Scope{scope})
		if err != nil {
			t.Fatal(err)
		}
		if got := g.ReadsAll(g.want(session.Token)); got != (scope == wire.ReadPackages) {
			t.Errorf("a session for %s: %v", scope, got)
		}
	}
	anybody := access.Identity{ID: "anonymous", Anonymous: true}
	if !g.ReadsAll(anybody) {
		t.Error("nobody reads a public registry")
	}
	g.change(wire.Access{Visibility: wire.Private})
	if g.ReadsAll(anybody) {
		t.Error("anybody reads a private registry")
	}
}

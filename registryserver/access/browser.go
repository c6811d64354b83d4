package access

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// BrowserLifetime is how long a browser stays signed in with a registry token. With an OIDC token it is
	// SessionLifetime, as those are made to end soon.
	BrowserLifetime = time.Hour
	// maxCookieBytes is what fits into a cookie, of which browsers take 4 KiB with its name and attributes.
	maxCookieBytes = 3800
)

// SignIn makes the session token that a browser keeps as a cookie, for who presents a registry token or an OIDC token. It
// reads and writes at most. Resume takes it, and Authenticate does not. Errors: ErrUnauthenticated, ErrSessionParent,
// ErrTooLarge, ErrNoSessions.
func (e *Enforcer) SignIn(ctx context.Context, secret string) (Session, error) {
	if e.options.SessionKeys == nil {
		return Session{}, ErrNoSessions
	}
	if strings.HasPrefix(secret, sessionPrefix) {
		return Session{}, ErrSessionParent
	}
	id, err := e.Authenticate(ctx, Credentials{Secret: secret, Present: true})
	if err != nil {
		return Session{}, err
	}
	lifetime := BrowserLifetime
	if id.bearer != nil {
		lifetime = SessionLifetime
	}
	s := session{Expires: e.options.Now().Add(lifetime).Unix(), Scopes: []wire.Scope{wire.ReadPackages, wire.WritePackages}, Browser: true}
	return e.issue(id, s, maxCookieBytes)
}

// Resume turns the session token of a browser into an identity, whose parent is judged by the snapshot in force. Errors are
// those of Authenticate.
func (e *Enforcer) Resume(cookie string) (Identity, error) {
	if !strings.HasPrefix(cookie, sessionPrefix) {
		return Identity{}, &RefusedError{Reason: "the cookie holds no session token"}
	}
	return e.authenticateSession(cookie, true)
}

// Temporary makes a session token that pushes, for who came with the session token of a browser: it reads and writes at
// most, for SessionLifetime; that of an OIDC token ends with the browser's session. It cannot be exchanged for another, or
// for a browser's. Errors: ErrScope where id may not write, ErrSessionParent where id did not come from a browser,
// ErrTooLarge.
func (e *Enforcer) Temporary(id Identity) (Session, error) {
	if id.session == nil || !id.session.Browser {
		return Session{}, ErrSessionParent
	}
	has := e.Scopes(id)
	if !slices.Contains(has, wire.WritePackages) {
		return Session{}, fmt.Errorf("%w: it has %s", ErrScope, listScopes(has, " and "))
	}
	scopes := slices.DeleteFunc(has, func(s wire.Scope) bool { return s != wire.ReadPackages && s != wire.WritePackages })
	expires := e.options.Now().Add(SessionLifetime).Unix()
	if id.bearer != nil {
		expires = min(expires, id.session.Expires)
	}
	return e.issue(id, session{Expires: expires, Scopes: scopes}, maxSessionBytes)
}

// Scopes are those that id has on any chart, by the snapshot in force now.
func (e *Enforcer) Scopes(id Identity) []wire.Scope {
	return e.current.Load().policy.scopes(id, e.options.Now())
}

// WritesAll reports whether id may push every chart that there can be, by the snapshot in force now.
func (e *Enforcer) WritesAll(id Identity) bool {
	return e.current.Load().policy.hasForAll(id, wire.WritePackages, e.options.Now())
}

// Public reports whether who has no credentials may read.
func (e *Enforcer) Public() bool { return e.current.Load().policy.public }

// TokenState is what may be shown of a registry token.
type TokenState struct {
	// ID is "crt_<id>", and Name says whose it is.
	ID, Name string
	Scopes   []wire.Scope
	Charts   []string
	// ExpiresAt is nil where it does not expire.
	ExpiresAt *time.Time
	// LastUsed is when it was last accepted by this server, to UseBucket; zero where it was not since the start.
	LastUsed time.Time
}

// Tokens are those of the snapshot in force, by Name and ID, those that have expired included.
func (e *Enforcer) Tokens() []TokenState {
	var all []TokenState
	for id, entries := range e.current.Load().policy.tokens {
		for _, found := range entries {
			t := TokenState{ID: tokenPrefix + id, Name: found.name, Scopes: slices.Clone(found.scopes), Charts: slices.Clone(found.charts), ExpiresAt: found.expiresAt}
			if at := found.used.Load(); at > 0 {
				t.LastUsed = time.Unix(at, 0).UTC()
			}
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b TokenState) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return all
}

// PolicyState is an OIDC policy of the snapshot in force.
type PolicyState struct {
	// Name says whose it is.
	Name string
	// Statements are the policy's.
	Statements []policy.Statement
}

// Policies are those of the snapshot in force, by Name.
func (e *Enforcer) Policies() []PolicyState {
	var all []PolicyState
	for _, o := range e.current.Load().policy.objects {
		all = append(all, PolicyState{Name: o.name, Statements: slices.Clone(o.policy.Statements)})
	}
	return all
}

// Trial is what one policy says of claims.
type Trial struct {
	// Policy is its name.
	Policy string
	// Matched is the statement that the claims satisfy; nil where there is none.
	Matched *policy.Statement
	// Verdicts are those of the statements up to that one.
	Verdicts []policy.Verdict
}

// Try holds claims against the policies in force: the issuer and the rules, and neither audience nor lifetime. It proves
// nothing and admits nobody.
func (e *Enforcer) Try(claims map[string]any) []Trial {
	p := e.current.Load().policy
	issuer, _ := claims["iss"].(string)
	c := p.context
	c.ClaimsOnly = true
	var all []Trial
	for _, o := range p.objects {
		matched, verdicts := o.policy.Judge(policy.Token{Issuer: issuer, Claims: claims}, c)
		all = append(all, Trial{Policy: o.name, Matched: matched, Verdicts: verdicts})
	}
	return all
}

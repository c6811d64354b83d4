package access

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// sessionPrefix begins a session token: crs_<id>_<claims>.<signature>. The id has 16 hexadecimal digits; claims and
	// signature are base64url.
	sessionPrefix   = "crs_"
	sessionIDLength = 16
	// SessionLifetime is how long a session token is valid.
	SessionLifetime = 15 * time.Minute
	// maxSessionBytes bounds a session token, so that it fits into a header as Basic's password.
	maxSessionBytes = 11 << 10
)

// Errors of Exchange beside ErrUnauthenticated.
var (
	// ErrNoSessions: this server has no keys to sign session tokens with.
	ErrNoSessions = errors.New("this registry issues no session tokens")
	// ErrScope: the session was to have more than its parent.
	ErrScope = errors.New("the token does not have the scope that was asked for")
	// ErrSessionParent: a session token cannot be exchanged for another, or it would never end.
	ErrSessionParent = errors.New("a session token cannot be exchanged: exchange what it came from")
	// ErrTooLarge: the token has more claims than a session token can carry.
	ErrTooLarge = errors.New("the token is too large to be exchanged")
)

// Session is a session token. It stands for its parent for a while, and is never more than that: at each request the
// parent is judged again, by the snapshot in force then.
type Session struct {
	// Token is the token itself.
	Token string
	// Scopes are those that it has at most, wherever its parent has them.
	Scopes []wire.Scope
	// Lifetime is how long it is valid.
	Lifetime time.Duration
	// Identity is the parent's.
	Identity Identity
}

// session is what a session token says. It is signed, and so is what this server wrote itself.
type session struct {
	Registry string       `json:"registry"`
	Expires  int64        `json:"expires"` // Seconds since 1970.
	Scopes   []wire.Scope `json:"scopes"`
	// Token is the id of a registry token, and Fingerprint the SHA-256 of its secret.
	Token       string `json:"token,omitempty"`
	Fingerprint []byte `json:"fingerprint,omitempty"`
	// Bearer is who an OIDC token was about.
	Bearer *sessionBearer `json:"bearer,omitempty"`
	// Browser is true of one that is a browser's cookie, and good for nothing else.
	Browser bool `json:"browser,omitempty"`
}

// sessionBearer is a bearer as a session token carries it.
type sessionBearer struct {
	Issuer   string         `json:"issuer"`
	Subject  string         `json:"subject"`
	Audience string         `json:"audience"`
	Lifetime time.Duration  `json:"lifetime"`
	Trusted  []string       `json:"trusted"`
	Claims   map[string]any `json:"claims"`
}

// Exchange makes a session token for who presents a registry token or an OIDC token, with the scopes, or with all that it
// has where none are named. Errors: ErrUnauthenticated, ErrScope, ErrSessionParent, ErrTooLarge, ErrNoSessions.
func (e *Enforcer) Exchange(ctx context.Context, secret string, scopes []wire.Scope) (Session, error) {
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
	now, p := e.options.Now(), e.current.Load().policy
	has := scopesOf(p.entries(id, now))
	if len(scopes) == 0 {
		scopes = has
	}
	if lacks := without(scopes, has); len(lacks) > 0 || len(scopes) == 0 {
		return Session{}, fmt.Errorf("%w: it has %s", ErrScope, listScopes(has, " and "))
	}
	return e.issue(id, session{Expires: now.Add(SessionLifetime).Unix(), Scopes: scopes}, maxSessionBytes)
}

// issue makes a session token of at most so many bytes that stands for what id does.
func (e *Enforcer) issue(id Identity, s session, most int) (Session, error) {
	s.Registry = e.options.Registry
	if id.bearer == nil {
		s.Token, s.Fingerprint = strings.TrimPrefix(id.ID, tokenPrefix), id.fingerprint[:]
	} else {
		t := id.bearer.token
		s.Bearer = &sessionBearer{
			Issuer: t.Issuer, Subject: id.Subject, Audience: t.Audience, Lifetime: t.Lifetime,
			Trusted: e.current.Load().policy.admit(id.bearer).fingerprints, Claims: t.Claims,
		}
	}
	token, err := s.sign(e.options.SessionKeys()[0], most)
	if err != nil {
		return Session{}, err
	}
	lifetime := time.Unix(s.Expires, 0).Sub(e.options.Now()).Truncate(time.Second)
	return Session{Token: token, Scopes: s.Scopes, Lifetime: lifetime, Identity: id}, nil
}

// scopesOf lists what any of the entries grants, in the order in which scopes are documented.
func scopesOf(entries []entry) []wire.Scope {
	var has []wire.Scope
	for _, s := range wire.Scopes() {
		if slices.ContainsFunc(entries, func(e entry) bool { return slices.Contains(e.scopes, s) }) {
			has = append(has, s)
		}
	}
	return has
}

func (s session) sign(key []byte, most int) (string, error) {
	var id [sessionIDLength / 2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("making a session token: %w", err)
	}
	claims, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("making a session token: %w", err)
	}
	signed := sessionPrefix + hex.EncodeToString(id[:]) + "_" + base64.RawURLEncoding.EncodeToString(claims)
	token := signed + "." + base64.RawURLEncoding.EncodeToString(signatureOf(key, signed))
	if len(token) > most {
		return "", ErrTooLarge
	}
	return token, nil
}

// signatureOf begins with the purpose, because the same keys sign other things.
func signatureOf(key []byte, signed string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("chartroom session 1\x00" + signed))
	return mac.Sum(nil)
}

// authenticateSession reads a session token, a browser's or another, and judges its parent by the snapshot in force.
func (e *Enforcer) authenticateSession(secret string, browser bool) (Identity, error) {
	s, err := e.readSession(secret)
	if err != nil {
		return Identity{}, refuse(secret, "the session token is wrong: %v", err)
	}
	if s.Browser != browser {
		return Identity{}, refuse(secret, "the session token is used where it is not meant to be: that of a browser is good for pages alone, and no other is")
	}
	expires, now := time.Unix(s.Expires, 0), e.options.Now()
	if !now.Before(expires) {
		return Identity{}, refuse(secret, "the session token expired %v ago", now.Sub(expires).Round(time.Second))
	}
	p := e.current.Load().policy
	var id Identity
	if s.Bearer == nil {
		id = Identity{ID: tokenPrefix + s.Token, fingerprint: [sha256.Size]byte(s.Fingerprint)}
		found := p.entries(id, now)
		if len(found) == 0 {
			return Identity{}, refuse(secret, "the token %s, which the session token was exchanged for, was revoked or has expired", id.ID)
		}
		e.use(found, now)
		id.Name = found[0].name
	} else {
		b := s.Bearer.bearer()
		a := p.admit(b)
		if a.reason != "" {
			return Identity{}, refuse(secret, "the session token of %s for %s is no longer good: %s", quoteName(s.Bearer.Subject), s.Bearer.Issuer, a.reason)
		}
		id = p.identity(b, a, s.Bearer.Subject)
	}
	id.session, id.until = s, expires.Add(requestGrace)
	id.Session = secret[:len(sessionPrefix)+sessionIDLength]
	return id, nil
}

func (b *sessionBearer) bearer() *bearer {
	proved := &bearer{token: policy.Token{Issuer: b.Issuer, Audience: b.Audience, Lifetime: b.Lifetime, Claims: b.Claims}, trusted: map[string]bool{}}
	for _, fingerprint := range b.Trusted {
		proved.trusted[fingerprint] = true
	}
	return proved
}

// readSession verifies the signature first: nothing that a stranger wrote is read any further. The errors quote nothing.
func (e *Enforcer) readSession(secret string) (*session, error) {
	if e.options.SessionKeys == nil {
		return nil, ErrNoSessions
	}
	signed, written, _ := strings.Cut(secret, ".")
	signature, err := base64.RawURLEncoding.Strict().DecodeString(written)
	if len(secret) > maxSessionBytes || err != nil {
		return nil, errors.New("its form is not crs_<id>_<claims>.<signature>")
	}
	if !slices.ContainsFunc(e.options.SessionKeys(), func(key []byte) bool { return hmac.Equal(signature, signatureOf(key, signed)) }) {
		return nil, errors.New("this registry did not sign it")
	}
	claims, err := base64.RawURLEncoding.DecodeString(signed[len(sessionPrefix)+sessionIDLength+1:])
	if err != nil {
		return nil, err
	}
	var s session
	decoder := json.NewDecoder(bytes.NewReader(claims))
	decoder.UseNumber()
	if err := decoder.Decode(&s); err != nil {
		return nil, err
	}
	if s.Registry != e.options.Registry {
		return nil, errors.New("it is another registry's")
	}
	if s.Bearer == nil && len(s.Fingerprint) != sha256.Size {
		return nil, errors.New("it has no parent")
	}
	return &s, nil
}

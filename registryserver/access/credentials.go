package access

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// maxAuthorizationBytes bounds the Authorization header.
const maxAuthorizationBytes = 16 << 10

// Credentials are what a request carried: at most one of Basic's password or Bearer's token. They never format as the
// secret.
type Credentials struct {
	// Secret is the password or bearer token; the user name of Basic is ignored.
	Secret string `json:"-"`
	// Present is true when there was an Authorization header.
	Present bool
}

// tokenForm is how a kind of token begins, and how many bytes of one may be shown.
type tokenForm struct {
	prefix string
	shown  int
}

// tokenLike are registry tokens, session tokens and JWTs.
var tokenLike = []tokenForm{{tokenPrefix, len(tokenPrefix) + idLength}, {sessionPrefix, len(sessionPrefix) + sessionIDLength}, {"eyJ", 12}}

// Masked is a text that a client chose, such as a path, without the secrets in it that can be told from other text: each
// ends at the next slash.
func Masked(s string) string {
	suspicious := slices.ContainsFunc(tokenLike, func(t tokenForm) bool { return strings.Contains(s, t.prefix) })
	if !suspicious { // As all but all are: the path of each request comes through here.
		return s
	}
	parts := strings.Split(s, "/")
	for n, part := range parts {
		for _, t := range tokenLike {
			if i := strings.Index(part, t.prefix); i >= 0 && len(part)-i-t.shown >= 20 {
				part = part[:i+t.shown] + "…"
			}
		}
		parts[n] = part
	}
	return strings.Join(parts, "/")
}

// Format writes whether there are credentials, whatever the verb, and never which.
func (c Credentials) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.LogValue().String()) }

// LogValue says whether there are credentials.
func (c Credentials) LogValue() slog.Value {
	if c.Present {
		return slog.StringValue("credentials")
	}
	return slog.StringValue("no credentials")
}

// FromRequest reads the Authorization header: Basic (RFC 7617) or Bearer (RFC 6750). More than one such header, an
// unknown scheme, or a malformed one is an error, which is answered 401. Query parameters are never looked at. The
// error never quotes the header.
func FromRequest(r *http.Request) (Credentials, error) {
	values := r.Header.Values("Authorization")
	switch {
	case len(values) == 0:
		return Credentials{}, nil
	case len(values) > 1:
		return Credentials{}, errors.New("the request has more than one Authorization header")
	case len(values[0]) > maxAuthorizationBytes:
		return Credentials{}, fmt.Errorf("the Authorization header is longer than %d bytes", maxAuthorizationBytes)
	}
	scheme, value, _ := strings.Cut(values[0], " ")
	var secret string
	switch strings.ToLower(scheme) {
	case "basic":
		_, password, ok := r.BasicAuth()
		if !ok {
			return Credentials{}, errors.New("the Authorization header is not Basic as RFC 7617 has it: base64 of user:password")
		}
		secret = password
	case "bearer":
		secret = strings.Trim(value, " ")
		if strings.ContainsAny(secret, " \t,") {
			return Credentials{}, errors.New("the Authorization header is not Bearer as RFC 6750 has it: one token without spaces")
		}
	default:
		return Credentials{}, errors.New("the Authorization header is neither Basic nor Bearer")
	}
	if secret == "" {
		return Credentials{}, errors.New("the Authorization header has an empty password or token")
	}
	return Credentials{Secret: secret, Present: true}, nil
}

const (
	// maxLogins bounds the headers that are remembered, and maxLoginBytes each of them: 3 MiB together.
	maxLogins     = 2 * MaxTokens
	maxLoginBytes = 512
)

// logins remember whose the Authorization headers of earlier requests were, so that they need not be decoded and hashed
// again. Whether what they prove is worth anything is judged anew each time. The zero value is ready for use.
type logins struct {
	mu sync.RWMutex
	of map[string]Identity
}

func (l *logins) get(header string) (Identity, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	id, ok := l.of[header]
	return id, ok
}

// add remembers a header that was found to be valid. One token may come in many, with any user name.
func (l *logins) add(header string, id Identity) {
	if len(header) > maxLoginBytes {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil || len(l.of) >= maxLogins {
		l.of = map[string]Identity{}
	}
	l.of[header] = id
}

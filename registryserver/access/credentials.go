package access

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
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

// Package exchange is the face at which a token that soon ends is exchanged for that of a session (OAuth 2.0 Token
// Exchange, RFC 8693), so that a long push outlives the token that it began with. It only translates.
package exchange

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Path is where the exchange is. No organization is called "-".
const Path = "/-/oidc/exchange"

// What RFC 8693 calls things (sections 2.1 and 3).
const (
	grantType       = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
)

// maxFormBytes is more than a token and the names around it have.
const maxFormBytes = 32 << 10

// Options configure the face.
type Options struct {
	// Access makes the tokens.
	Access *access.Enforcer
	// Audience is the registry's own address; a request that names another is refused.
	Audience string
	// Allow, when not nil, says whether a client may ask once more; false tells it to come back later.
	Allow func(r *http.Request) bool
	// Observe, when not nil, is called once for each request, as ociapi.Options.Observe is.
	Observe func(ctx context.Context) *audit.Observation
	// Log is told what went wrong in the server itself. Nil means slog.Default.
	Log *slog.Logger
}

// answer is that of a successful exchange (RFC 8693 section 2.2.1).
type answer struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in"`
	Scope           string `json:"scope"`
}

// problem is why there is none (RFC 6749 section 5.2).
type problem struct {
	status      int
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

func (p *problem) Error() string { return p.Description }

func invalid(format string, args ...any) error {
	return &problem{http.StatusBadRequest, "invalid_request", fmt.Sprintf(format, args...)}
}

// Handler answers requests for Path.
func Handler(o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Observe == nil {
		o.Observe = func(context.Context) *audit.Observation { return &audit.Observation{} }
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Pragma", "no-cache") // RFC 6749 section 5.1 wants it.
		seen := o.Observe(r.Context())
		seen.Route, seen.Action = Path, audit.Exchange
		session, err := o.exchange(r)
		seen.Identity = session.Identity
		if err != nil {
			o.refuse(w, r, err, seen)
			return
		}
		respond(w, http.StatusOK, answer{
			AccessToken: session.Token, IssuedTokenType: typeAccessToken, TokenType: "Bearer",
			ExpiresIn: int64(session.Lifetime.Seconds()), Scope: join(session.Scopes),
		})
	})
}

func (o Options) exchange(r *http.Request) (access.Session, error) {
	if r.Method != http.MethodPost {
		return access.Session{}, &problem{http.StatusMethodNotAllowed, "invalid_request", "this address takes POST alone"}
	}
	if o.Allow != nil && !o.Allow(r) {
		return access.Session{}, &problem{http.StatusTooManyRequests, "invalid_request", "too many tokens were exchanged from where you are; try again in a few seconds"}
	}
	form, err := readForm(r)
	if err != nil {
		return access.Session{}, err
	}
	if got := form.Get("grant_type"); got != grantType {
		return access.Session{}, &problem{http.StatusBadRequest, "unsupported_grant_type", "grant_type must be " + grantType}
	}
	switch form.Get("subject_token_type") {
	case typeJWT, typeIDToken, typeAccessToken:
	default:
		return access.Session{}, invalid("subject_token_type must be %s, %s or %s", typeJWT, typeIDToken, typeAccessToken)
	}
	if t := form.Get("requested_token_type"); t != "" && t != typeAccessToken {
		return access.Session{}, invalid("requested_token_type must be %s, or be left out", typeAccessToken)
	}
	if form.Has("actor_token") || form.Has("actor_token_type") {
		return access.Session{}, invalid("nobody can act for another here: leave actor_token out")
	}
	for _, name := range []string{"audience", "resource"} {
		if target := form.Get(name); target != "" && target != o.Audience {
			return access.Session{}, &problem{http.StatusBadRequest, "invalid_target", fmt.Sprintf("%s must be %s, or be left out", name, o.Audience)}
		}
	}
	if form.Get("subject_token") == "" {
		return access.Session{}, invalid("subject_token is missing: send the token that is to be exchanged")
	}
	scopes, err := readScopes(form.Get("scope"))
	if err != nil {
		return access.Session{}, err
	}
	return o.Access.Exchange(r.Context(), form.Get("subject_token"), scopes)
}

// readForm reads the body. Parameters in the address are ignored: addresses end up in logs.
func readForm(r *http.Request) (url.Values, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, invalid("the body must be a form: Content-Type: application/x-www-form-urlencoded")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxFormBytes+1))
	if err != nil {
		return nil, invalid("the form could not be read to its end")
	}
	if len(body) > maxFormBytes {
		return nil, &problem{http.StatusRequestEntityTooLarge, "invalid_request", fmt.Sprintf("the form has more than %d bytes", maxFormBytes)}
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalid("the form is not as application/x-www-form-urlencoded has it")
	}
	for _, values := range form {
		if len(values) > 1 {
			return nil, invalid("a parameter is there more than once") // RFC 6749 section 3.2.
		}
	}
	return form, nil
}

func readScopes(text string) ([]wire.Scope, error) {
	var scopes []wire.Scope
	for _, name := range strings.Fields(text) {
		if err := access.ValidateScope(wire.Scope(name)); err != nil {
			return nil, &problem{http.StatusBadRequest, "invalid_scope", err.Error()}
		}
		scopes = append(scopes, wire.Scope(name))
	}
	if len(scopes) > len(wire.Scopes()) {
		return nil, &problem{http.StatusBadRequest, "invalid_scope", "a scope is there more than once"}
	}
	return scopes, nil
}

// refuse answers with what the client may know; why a token is not good is for the log.
func (o Options) refuse(w http.ResponseWriter, r *http.Request, err error, seen *audit.Observation) {
	var known *problem
	var refused *access.RefusedError
	switch {
	case errors.As(err, &known):
	case errors.As(err, &refused):
		seen.Credential, seen.Reason = refused.Token, refused.Reason
		fallthrough
	case errors.Is(err, access.ErrUnauthenticated):
		// RFC 8693 section 2.2.2 has this code for tokens that are not good.
		known = &problem{http.StatusBadRequest, "invalid_request", "the subject_token is not valid for " + o.Audience}
	case errors.Is(err, access.ErrScope):
		known = &problem{http.StatusBadRequest, "invalid_scope", err.Error()}
	case errors.Is(err, access.ErrSessionParent), errors.Is(err, access.ErrTooLarge):
		known = &problem{http.StatusBadRequest, "invalid_request", err.Error()}
	default:
		o.Log.ErrorContext(r.Context(), "a token could not be exchanged", "error", err)
		known = &problem{http.StatusInternalServerError, "server_error", "the registry failed; its log says why"}
	}
	if seen.Reason == "" {
		seen.Reason = known.Description
	}
	switch known.status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "2")
	}
	respond(w, known.status, known)
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The only error is a client that has gone.
	_ = json.NewEncoder(w).Encode(body)
}

func join(scopes []wire.Scope) string {
	names := make([]string, 0, len(scopes))
	for _, s := range scopes {
		names = append(names, string(s))
	}
	return strings.Join(names, " ")
}

// Package access decides who may do what in one registry: it makes and reads registry tokens, compiles access
// snapshots, and judges credentials against the snapshot in force. Both the server and the operator use it, so that
// they agree.
package access

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Token is a registry token, secret included: "crt_<id>_<secret>_<checksum>". The id has 8 characters, the secret 43
// (32 random bytes), the checksum 6 (CRC-32 IEEE of all before its underscore), all in base62.
//
// It never formats as its secret: String and LogValue give the id alone; Reveal gives the token.
type Token struct {
	id, secret string
}

// Mint makes a token from a source of randomness, crypto/rand.Reader outside of tests.
func Mint(random io.Reader) (Token, error) { panic("unwritten") }

// ParseToken reads a token. The error names what is wrong with the form and never quotes the input.
func ParseToken(s string) (Token, error) { panic("unwritten") }

// ID is the public part.
func (t Token) ID() string { return t.id }

// SHA256 is the SHA-256 of the secret part in lower-case hexadecimal, the only form in which it leaves its holder.
func (t Token) SHA256() string { panic("unwritten") }

// Reveal returns the token itself, for the Secret or the terminal that it is made for.
func (t Token) Reveal() string { panic("unwritten") }

// String is "crt_<id>", safe for logs.
func (t Token) String() string { return "crt_" + t.id }

// Match reports whether name, a chart's path below the registry, is matched by the glob pattern: "*" is any run of
// characters, "/" included, "?" any one; all else is itself. Anchored and case-sensitive; linear in practice and
// bounded by len(pattern)*len(name).
func Match(pattern, name string) bool { panic("unwritten") }

// ValidatePattern says what is wrong with a chart glob: empty, over 256 bytes, or a character no chart path can have.
func ValidatePattern(pattern string) error { panic("unwritten") }

// Policy is a compiled access snapshot. It is immutable.
type Policy struct{ _ int }

// Compile checks a snapshot and makes it fast to judge by. An error names the token and the field: unknown scope or
// visibility, no scopes, no charts, a bad glob, a bad id or hash, more than 2,000 tokens.
func Compile(a wire.Access) (*Policy, error) { panic("unwritten") }

// Identity is who makes a request, as far as it was proved.
type Identity struct {
	// ID is "anonymous", or "crt_<id>" of a token: what audit logs and pushed-by records say. Never a secret.
	ID string
	// Name is the token's Name; empty for anonymous.
	Name string
	// Anonymous is true when no credentials came with the request.
	Anonymous bool

	grants []grant
}

type grant struct{}

// Decision is the answer to "may this identity do that to this chart".
type Decision struct {
	Allowed bool
	// Reason is a sentence for the client when not allowed: which scope is missing, or that the token does not cover the
	// chart. It reveals nothing but what the client's own token has.
	Reason string
}

// Credentials are what a request carried: at most one of Basic's password or Bearer's token.
type Credentials struct {
	// Secret is the password or bearer token; the user name of Basic is ignored.
	Secret string
	// Present is true when there was an Authorization header.
	Present bool
}

// FromRequest reads the Authorization header: Basic (RFC 7617) or Bearer (RFC 6750). More than one such header, an
// unknown scheme, or a malformed one is an error, which is answered 401. Query parameters are never looked at.
func FromRequest(r *http.Request) (Credentials, error) { panic("unwritten") }

// Enforcer holds the snapshot in force. All methods may be called from many goroutines.
type Enforcer struct{ _ int }

// EnforcerOptions configure an Enforcer.
type EnforcerOptions struct {
	// Registry is organization/slug: a snapshot for another registry is refused. A snapshot that names none is taken.
	Registry string
	// File is the path of the snapshot that is the floor: a file, or a file in a mounted Secret folder. It is read at
	// the start and again whenever it changes. For a server alone, the file is the truth: with StateDir empty, a
	// changed file is taken whatever its revision, unless it cannot be read, or is of an unknown version.
	File string
	// StateDir keeps the last pushed snapshot for the next start. Empty: nothing is kept, and pushes are refused.
	// When set, in force is the highest revision of memory, StateDir and File, and it never goes backwards.
	StateDir string
	// Visibility overrides the snapshot's when not empty.
	Visibility wire.Visibility
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Changed, when not nil, is called after each attempt to take a snapshot, with where it came from ("file", "push"
	// or "state") and the state after it. For logs and metrics.
	Changed func(source string, s wire.AccessState)
}

// NewEnforcer reads File and StateDir. A missing or unreadable snapshot is not an error: until there is one, nobody is
// admitted, and State().Problem says why.
func NewEnforcer(o EnforcerOptions) *Enforcer { panic("unwritten") }

// Watch takes changes of File until ctx ends. It returns nil then.
func (e *Enforcer) Watch(ctx context.Context) error { panic("unwritten") }

// Push takes a snapshot that the operator sent. It returns the state in force afterwards. Errors: ErrOlder,
// ErrRefused. Nil means that a snapshot of this revision and digest is in force and kept for the next start.
func (e *Enforcer) Push(document []byte) (wire.AccessState, error) { panic("unwritten") }

// Pushed is closed at the first successful Push.
func (e *Enforcer) Pushed() <-chan struct{} { panic("unwritten") }

// State is what is in force now.
func (e *Enforcer) State() wire.AccessState { panic("unwritten") }

// Authenticate turns credentials into an identity. No credentials are anonymous, which is an identity too. Wrong,
// expired, revoked or unreadable ones are ErrUnauthenticated, always the same error.
func (e *Enforcer) Authenticate(ctx context.Context, c Credentials) (Identity, error) {
	panic("unwritten")
}

// Authorize judges whether id, as Authenticate returned it for this request, has scope on chart, by the snapshot in
// force now. An anonymous identity may read in a public registry and nothing else.
func (e *Enforcer) Authorize(id Identity, scope wire.Scope, chart string) Decision {
	panic("unwritten")
}

// AuthorizePush is Authorize for a push, which needs reading too: the reason names whichever scope is missing, and says
// that a push needs both.
func (e *Enforcer) AuthorizePush(id Identity, chart string) Decision { panic("unwritten") }

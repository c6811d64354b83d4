package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/chartroom-dev/chartroom/registryserver/glob"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Bounds of a snapshot, beside [wire.MaxAccessBytes].
const (
	// MaxTokens is the most tokens that one registry has.
	MaxTokens = 2000
	// MaxCharts is the most chart globs that one token has.
	MaxCharts = 64
	// MaxPolicies is the most OIDC policies that one registry has, and MaxIssuers how many issuers they name at most that
	// have to be asked for their keys.
	MaxPolicies = 64
	MaxIssuers  = 64

	maxNameBytes = 320 // A namespace, a slash and the longest name of an object.
)

// Policy is a compiled access snapshot. It is immutable.
type Policy struct {
	public bool
	// tokens holds several entries under one id: ids are short and public, and a stranger's token that has taken the id
	// of mine must not stand before it.
	tokens map[string][]entry
	federation
}

// entry is what one token of a snapshot, or one statement of a policy, grants.
type entry struct {
	fingerprint [sha256.Size]byte
	name        string
	scopes      []wire.Scope
	charts      []string
	expiresAt   *time.Time
	// used is when a token was last accepted, in Unix seconds to UseBucket, and 0 before; nil of a statement.
	used *atomic.Int64
}

// Compile checks a snapshot and makes it fast to judge by. An error names the token and the field: unknown scope or
// visibility, no scopes, no charts, a bad glob, a bad id, hash or name, more than 2,000 tokens or 64 globs in one; or the
// policy, its statement and what is wrong with it. It never quotes a hash.
func Compile(a wire.Access) (*Policy, error) {
	p := &Policy{tokens: make(map[string][]entry, len(a.Tokens))}
	switch a.Visibility {
	case wire.Public:
		p.public = true
	case wire.Private, "":
	default:
		return nil, fmt.Errorf("visibility %q is unknown; it is %s or %s", clip(string(a.Visibility), 40), wire.Private, wire.Public)
	}
	if len(a.Tokens) > MaxTokens {
		return nil, fmt.Errorf("the snapshot has %d tokens; at most %d are allowed", len(a.Tokens), MaxTokens)
	}
	for i, t := range a.Tokens {
		if err := ValidateID(t.ID); err != nil {
			return nil, fmt.Errorf("tokens[%d]: id: %w", i, err)
		}
		compiled, err := compileToken(t)
		if err != nil {
			return nil, fmt.Errorf("token %s (tokens[%d]): %w", t.ID, i, err)
		}
		p.tokens[t.ID] = append(p.tokens[t.ID], compiled)
	}
	var err error
	p.federation, err = compilePolicies(a)
	return p, err
}

func compileToken(t wire.Token) (entry, error) {
	e := entry{name: t.Name, scopes: slices.Clone(t.Scopes), charts: slices.Clone(t.Charts), used: new(atomic.Int64)}
	if t.ExpiresAt != nil {
		at := *t.ExpiresAt
		e.expiresAt = &at
	}
	var err error
	if e.fingerprint, err = decodeSHA256(t.SHA256); err != nil {
		return e, fmt.Errorf("sha256: %w", err)
	}
	return e, ValidateGrant(t)
}

// ValidateSHA256 says that a text cannot be the SHA-256 of a token's secret. It does not quote it.
func ValidateSHA256(text string) error {
	_, err := decodeSHA256(text)
	return err
}

func decodeSHA256(text string) (sum [sha256.Size]byte, err error) {
	decoded, err := hex.DecodeString(text)
	if err != nil || len(decoded) != sha256.Size || text != strings.ToLower(text) {
		return sum, fmt.Errorf("it must be %d lower-case hexadecimal digits", 2*sha256.Size)
	}
	return [sha256.Size]byte(decoded), nil
}

// ValidateGrant says what is wrong with the name, scopes or charts of a token; the error begins with the field and a
// colon.
func ValidateGrant(t wire.Token) error {
	if err := validateName(t.Name); err != nil {
		return err
	}
	if len(t.Scopes) == 0 {
		return fmt.Errorf("scopes: there must be at least one of %s", listScopes(wire.Scopes(), ", "))
	}
	for _, s := range t.Scopes {
		if err := ValidateScope(s); err != nil {
			return fmt.Errorf("scopes: %w", err)
		}
	}
	if len(t.Charts) == 0 || len(t.Charts) > MaxCharts {
		return fmt.Errorf(`charts: there must be 1 to %d globs; "*" is every chart`, MaxCharts)
	}
	for _, pattern := range t.Charts {
		if err := glob.ValidateChart(pattern); err != nil {
			return fmt.Errorf("charts: %w", err)
		}
	}
	return nil
}

func validateName(name string) error {
	if len(name) > maxNameBytes || !utf8.ValidString(name) || strings.ContainsFunc(name, unprintable) {
		return fmt.Errorf("name: it must be at most %d bytes of printable characters", maxNameBytes)
	}
	return nil
}

// ValidateScope says that a scope is unknown, and which ones there are.
func ValidateScope(s wire.Scope) error {
	if slices.Contains(wire.Scopes(), s) {
		return nil
	}
	return fmt.Errorf("unknown scope %q; there are %s", clip(string(s), 40), listScopes(wire.Scopes(), ", "))
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// find returns the entries of that id and fingerprint that have not expired; normally none or one.
func (p *Policy) find(id string, fingerprint [sha256.Size]byte, now time.Time) []entry {
	candidates := p.tokens[id]
	if len(candidates) == 0 {
		// The same work as for an id that exists, so that time does not tell which do.
		candidates = []entry{{}}
	}
	if len(candidates) == 1 {
		if candidates[0].is(fingerprint, now) {
			return candidates
		}
		return nil
	}
	var found []entry
	for _, e := range candidates {
		if e.is(fingerprint, now) {
			found = append(found, e)
		}
	}
	return found
}

// findAgain returns the entries of an identity's token that have not expired.
func (p *Policy) findAgain(id Identity, now time.Time) []entry {
	return p.find(strings.TrimPrefix(id.ID, tokenPrefix), id.fingerprint, now)
}

// sha256 is the fingerprint as snapshots have it.
func (e *entry) sha256() string { return hex.EncodeToString(e.fingerprint[:]) }

// whyNot says why a token that find did not find is none, for the log.
func (p *Policy) whyNot(id string, fingerprint [sha256.Size]byte) string {
	candidates := p.tokens[id]
	if len(candidates) == 0 {
		return "there is no such token: it was revoked, or is of another registry"
	}
	for _, e := range candidates {
		if subtle.ConstantTimeCompare(e.fingerprint[:], fingerprint[:]) == 1 && e.expiresAt != nil {
			return "it expired at " + e.expiresAt.UTC().Format(time.RFC3339)
		}
	}
	return "its secret is wrong, or was replaced by a rotation"
}

// is reports whether the entry is that of the fingerprint and has not expired.
func (e *entry) is(fingerprint [sha256.Size]byte, now time.Time) bool {
	same := subtle.ConstantTimeCompare(e.fingerprint[:], fingerprint[:]) == 1
	return same && len(e.scopes) > 0 && (e.expiresAt == nil || now.Before(*e.expiresAt))
}

// allows reports whether the entry alone covers a chart with all the scopes.
func (e *entry) allows(chart string, needed []wire.Scope) bool {
	for _, s := range needed {
		if !slices.Contains(e.scopes, s) {
			return false
		}
	}
	for _, pattern := range e.charts {
		if glob.Match(pattern, chart) {
			return true
		}
	}
	return false
}

package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Bounds of a snapshot, beside [wire.MaxAccessBytes].
const (
	// MaxTokens is the most tokens that one registry has.
	MaxTokens = 2000
	// MaxCharts is the most chart globs that one token has.
	MaxCharts = 64

	maxNameBytes = 320 // A namespace, a slash and the longest name of an object.
)

// Policy is a compiled access snapshot. It is immutable.
type Policy struct {
	public bool
	// tokens holds several entries under one id: ids are short and public, and a stranger's token that has taken the id
	// of mine must not stand before it.
	tokens map[string][]entry
}

// entry is one token of a snapshot.
type entry struct {
	fingerprint [sha256.Size]byte
	name        string
	scopes      []wire.Scope
	charts      []string
	expiresAt   *time.Time
}

// Compile checks a snapshot and makes it fast to judge by. An error names the token and the field: unknown scope or
// visibility, no scopes, no charts, a bad glob, a bad id, hash or name, more than 2,000 tokens or 64 globs in one. It
// never quotes a hash.
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
	return p, nil
}

func compileToken(t wire.Token) (entry, error) {
	e := entry{name: t.Name, scopes: slices.Clone(t.Scopes), charts: slices.Clone(t.Charts)}
	if t.ExpiresAt != nil {
		at := *t.ExpiresAt
		e.expiresAt = &at
	}
	sum, err := hex.DecodeString(t.SHA256)
	if err != nil || len(sum) != sha256.Size || t.SHA256 != strings.ToLower(t.SHA256) {
		return e, fmt.Errorf("sha256: it must be %d lower-case hexadecimal digits", 2*sha256.Size)
	}
	copy(e.fingerprint[:], sum)
	return e, ValidateGrant(t)
}

// ValidateGrant says what is wrong with the name, scopes or charts of a token; the error begins with the field and a
// colon.
func ValidateGrant(t wire.Token) error {
	if len(t.Name) > maxNameBytes || !utf8.ValidString(t.Name) || strings.ContainsFunc(t.Name, unprintable) {
		return fmt.Errorf("name: it must be at most %d bytes of printable characters", maxNameBytes)
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
		if err := ValidatePattern(pattern); err != nil {
			return fmt.Errorf("charts: %w", err)
		}
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
	var found []entry
	for _, e := range candidates {
		same := subtle.ConstantTimeCompare(e.fingerprint[:], fingerprint[:]) == 1
		if same && len(e.scopes) > 0 && (e.expiresAt == nil || now.Before(*e.expiresAt)) {
			found = append(found, e)
		}
	}
	return found
}

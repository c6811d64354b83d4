package access

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/glob"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Bounds on what a reason quotes.
const (
	maxQuotedChart = 100
	maxQuotedGlobs = 200
)

// Identity is who makes a request, as far as it was proved. It carries no rights: those are looked up in the snapshot
// in force at each decision, so that a token revoked in the middle of a request ends there.
type Identity struct {
	// ID is "anonymous", "crt_<id>" of a registry token, or "oidc:<issuer>#<subject>": what audit logs and pushed-by
	// records say. Never a secret. A session token has the ID of what it was exchanged for.
	ID string
	// Name is the token's Name; empty for anonymous.
	Name string
	// Anonymous is true when no credentials came with the request.
	Anonymous bool
	// Issuer and Subject are those of an OIDC token, and Policies the statements that admit it, as in "team-a/ci[0]".
	Issuer, Subject string
	Policies        []string
	// Session is "crs_<id>" where a session token came with the request.
	Session string

	fingerprint [sha256.Size]byte
	// bearer is who an OIDC token is about; nil for registry tokens. admitted is what judge, a snapshot, granted it.
	bearer   *bearer
	judge    *Policy
	admitted []entry
	// session narrows and ends what the identity may do; nil without a session token.
	session *session
	// until is when a request that the identity began must have ended; zero where the snapshot says it.
	until time.Time
}

// String is ID.
func (id Identity) String() string { return id.ID }

// Decision is the answer to "may this identity do that to this chart".
type Decision struct {
	Allowed bool
	// Reason is a sentence for the client when not allowed: which scope is missing, or that the token does not cover the
	// chart. It reveals nothing but what the client's own token has.
	Reason string
}

func deny(format string, args ...any) Decision {
	return Decision{Reason: fmt.Sprintf(format, args...)}
}

// decide judges whether id has all the needed scopes on chart at that instant.
func (p *Policy) decide(id Identity, chart string, now time.Time, needed ...wire.Scope) Decision {
	push := len(needed) > 1
	if id.Anonymous {
		switch {
		case p.public && slices.Equal(needed, []wire.Scope{wire.ReadPackages}):
			return Decision{Allowed: true}
		case p.public:
			return deny("without credentials charts can only be read here: log in with a registry token that has %s", listScopes(needed, " and "))
		}
		return deny("this registry is private: log in with a registry token that has %s", listScopes(needed, " and "))
	}
	entries := p.entries(id, now)
	if len(entries) == 0 {
		return deny("this token is no longer valid here: it was revoked, has expired, or no policy admits it any more")
	}
	if id.session != nil {
		if lacks := without(needed, id.session.Scopes); len(lacks) > 0 {
			return deny("this session token is for %s; it lacks %s", listScopes(id.session.Scopes, " and "), listScopes(lacks, " and "))
		}
	}
	if entries[0].allows(chart, needed) {
		return Decision{Allowed: true} // As nearly always, and without the work that a reason needs.
	}
	var covered []string
	var has []wire.Scope
	for _, e := range entries {
		covered = append(covered, e.charts...)
		if slices.ContainsFunc(e.charts, func(pattern string) bool { return glob.Match(pattern, chart) }) {
			has = append(has, e.scopes...)
		}
	}
	if len(has) == 0 {
		return deny("this token does not cover the chart %q; it covers: %s", clip(chart, maxQuotedChart), listGlobs(covered))
	}
	lacks := without(needed, has)
	switch {
	case len(lacks) == 0:
		return Decision{Allowed: true}
	case push:
		return deny("a push needs %s; this token lacks %s", listScopes(needed, " and "), listScopes(lacks, " and "))
	}
	may := ""
	for _, s := range wire.Scopes() {
		if slices.Contains(has, s) {
			may = join(may, " and ", verb(s))
		}
	}
	return deny("this token may %s but not %s charts here: it lacks the scope %s", may, verb(lacks[0]), lacks[0])
}

// hasForAll judges whether id has a scope on whatever chart at that instant.
func (p *Policy) hasForAll(id Identity, scope wire.Scope, now time.Time) bool {
	if id.Anonymous {
		return p.public && scope == wire.ReadPackages
	}
	if id.session != nil && !slices.Contains(id.session.Scopes, scope) {
		return false
	}
	return slices.ContainsFunc(p.entries(id, now), func(e entry) bool {
		return slices.Contains(e.scopes, scope) && slices.Contains(e.charts, "*")
	})
}

// scopes are those that id has on any chart at that instant.
func (p *Policy) scopes(id Identity, now time.Time) []wire.Scope {
	if id.Anonymous {
		if p.public {
			return []wire.Scope{wire.ReadPackages}
		}
		return nil
	}
	has := scopesOf(p.entries(id, now))
	if id.session != nil {
		has = slices.DeleteFunc(has, func(s wire.Scope) bool { return !slices.Contains(id.session.Scopes, s) })
	}
	return has
}

// entries are what the snapshot grants the identity, as it was proved for this request.
func (p *Policy) entries(id Identity, now time.Time) []entry {
	switch {
	case !id.until.IsZero() && !now.Before(id.until):
		return nil
	case id.bearer != nil && id.judge == p:
		return id.admitted
	case id.bearer != nil:
		return p.admit(id.bearer).entries
	}
	return p.findAgain(id, now)
}

// verb is what a scope allows: read, write or delete.
func verb(s wire.Scope) string { return strings.TrimSuffix(string(s), "_packages") }

func without(scopes, these []wire.Scope) []wire.Scope {
	return slices.DeleteFunc(slices.Clone(scopes), func(s wire.Scope) bool { return slices.Contains(these, s) })
}

func listScopes(scopes []wire.Scope, separator string) string {
	list := ""
	for _, s := range scopes {
		list = join(list, separator, string(s))
	}
	return list
}

// listGlobs writes the first few globs, and how many more there are.
func listGlobs(globs []string) string {
	list := ""
	for i, g := range globs {
		longer := join(list, ", ", g)
		if len(longer) > maxQuotedGlobs && i > 0 {
			return fmt.Sprintf("%s and %d more", list, len(globs)-i)
		}
		list = longer
	}
	return list
}

func join(list, separator, next string) string {
	if list == "" {
		return next
	}
	return list + separator + next
}

// clip cuts s to so many bytes, with an ellipsis where something is missing.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

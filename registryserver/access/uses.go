package access

import (
	"cmp"
	"slices"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// UseBucket is how exactly the last use of a token is known: it is when the period of this length began in which the
// token was accepted last. So most requests write nothing, and who keeps it writes once a period at most.
const UseBucket = 10 * time.Minute

// use records that the tokens of these entries were accepted.
func (e *Enforcer) use(entries []entry, now time.Time) {
	at := now.Truncate(UseBucket).Unix()
	for i := range entries {
		if before := entries[i].used.Load(); at > before && entries[i].used.CompareAndSwap(before, at) {
			e.uses.Add(1)
		}
	}
}

// inherit takes over from the policy before when the tokens of this one were used.
func (p *Policy) inherit(before *Policy) {
	for id, entries := range p.tokens {
		for i := range entries {
			for _, known := range before.tokens[id] {
				if known.fingerprint == entries[i].fingerprint && known.name == entries[i].name {
					entries[i].used = known.used
				}
			}
		}
	}
}

// UseCount grows whenever Uses changes.
func (e *Enforcer) UseCount() uint64 { return e.uses.Load() }

// Uses says which tokens of the snapshot in force were accepted since the start, and when last, to UseBucket.
func (e *Enforcer) Uses() wire.Uses {
	uses := wire.Uses{Count: e.UseCount()} // Before the look: what comes in between is looked at again.
	for _, entries := range e.current.Load().policy.tokens {
		for i := range entries {
			if at := entries[i].used.Load(); at > 0 {
				uses.Tokens = append(uses.Tokens, wire.TokenUse{SHA256: entries[i].sha256(), At: time.Unix(at, 0).UTC()})
			}
		}
	}
	slices.SortFunc(uses.Tokens, func(a, b wire.TokenUse) int {
		return cmp.Or(cmp.Compare(a.SHA256, b.SHA256), a.At.Compare(b.At))
	})
	return uses
}

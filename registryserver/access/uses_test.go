package access_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestUses(t *testing.T) {
	mine, other := mint(t), mint(t)
	g := newGate(t, wire.Access{Tokens: []wire.Token{entry(mine), entry(other)}})
	start := g.at.Truncate(access.UseBucket).UTC()
	g.at = start
	count := uint64(0)
	want := func(when string, grows bool, uses map[access.Token]time.Time) {
		t.Helper()
		if got := g.UseCount(); (got > count) != grows || got < count {
			t.Errorf("%s: the count went from %d to %d", when, count, got)
		}
		count = g.UseCount()
		got := map[string]time.Time{}
		for _, u := range g.Uses().Tokens {
			got[u.SHA256] = u.At
		}
		wanted := map[string]time.Time{}
		for token, at := range uses {
			wanted[token.SHA256()] = at
		}
		if diff := cmp.Diff(wanted, got); diff != "" || g.Uses().Count != count {
			t.Errorf("%s, count %d: %s", when, g.Uses().Count, diff)
		}
	}
	want("before any", false, nil)
	if _, err := g.authenticate(mint(t).Reveal()); err == nil {
		t.Fatal("a stranger's token is accepted")
	}
	want("after a stranger", false, nil)

	g.want(mine.Reveal())
	want("after the first", true, map[access.Token]time.Time{mine: start})
	g.at = start.Add(access.UseBucket - time.Second)
	g.want(mine.Reveal())
	want("soon after", false, map[access.Token]time.Time{mine: start})

	next := start.Add(access.UseBucket)
	g.at = next.Add(time.Minute)
	g.want(mine.Reveal()) // Which is remembered.
	want("later", true, map[access.Token]time.Time{mine: next})
	g.at = start
	g.want(mine.Reveal())
	want("when the clock was put back", false, map[access.Token]time.Time{mine: next})

	// A new snapshot forgets nothing but what is not in it.
	g.change(wire.Access{Tokens: []wire.Token{entry(mint(t)), entry(mine), entry(other)}})
	want("after a change", false, map[access.Token]time.Time{mine: next})
	session, err := g.Exchange(t.Context(), other.Reveal(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want("after an exchange", true, map[access.Token]time.Time{mine: next, other: start})
	g.at = start.Add(access.UseBucket)
	g.want(session.Token)
	want("after the use of a session", true, map[access.Token]time.Time{mine: next, other: next})
	g.change(wire.Access{Tokens: []wire.Token{entry(other)}})
	want("after a revocation", false, map[access.Token]time.Time{other: next})
}

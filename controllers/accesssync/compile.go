package accesssync

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// envelopeBytes is more than a snapshot has beside its tokens and policies.
const envelopeBytes = 1 << 10

// compiled is what the tokens of a registry come to.
type compiled struct {
	// access is the snapshot, without a revision.
	access wire.Access
	// refused are the tokens that are revoked or being deleted, and the policies that are being deleted.
	refused map[types.UID]bool
	// unproved are those of refused whose revocation nobody has confirmed yet.
	unproved []types.UID
	// leftOut is the number of tokens for which there was no room.
	leftOut int
	// policiesLeftOut are the policies for which there was no room, with the reason.
	policiesLeftOut map[types.UID]string
	// next is when the first token expires, and the snapshot changes by that; zero when none does.
	next time.Time
}

// compile makes the access snapshot of a registry from its tokens, as they were gathered for it at an instant. Where
// there is no room for all, the older tokens stay, so that nobody can displace them by making new ones; and those of the
// registry's own namespace before all others, so that no guest can use the room up.
func compile(registry *v1alpha1.HelmRegistry, inputs []tokens.Input) compiled {
	out := compiled{refused: map[types.UID]bool{}, access: wire.Access{
		Version:    wire.AccessVersion,
		Registry:   registry.Path(),
		Visibility: wire.Visibility(registry.Visibility()),
		Tokens:     []wire.Token{},
	}}
	inputs = slices.SortedFunc(slices.Values(inputs), func(a, b tokens.Input) int { return precedence(registry, a.Token, b.Token) })
	room := wire.MaxAccessBytes - envelopeBytes - policyBytes
	add := func(entry wire.Token) bool {
		size := len(encode(entry)) + 1
		if len(out.access.Tokens) == access.MaxTokens || size > room {
			out.leftOut++
			room = 0 // No younger token takes what is left.
			return false
		}
		room -= size
		out.access.Tokens = append(out.access.Tokens, entry)
		if at := entry.ExpiresAt; at != nil && (out.next.IsZero() || at.Before(out.next)) {
			out.next = *at
		}
		return true
	}
	// The tokens beside the published ones, which must not take the room of those: the replaced ones, then the ones that
	// are about to replace, whose rotation can wait.
	var previous, next []wire.Token
	for _, in := range inputs {
		if tokens.IsRevoked(in.Token) {
			out.refused[in.Token.UID] = true
			if !meta.IsStatusConditionTrue(in.Token.Status.Conditions, v1alpha1.ConditionRevoked) {
				out.unproved = append(out.unproved, in.Token.UID)
			}
			continue
		}
		decision := tokens.Decide(in)
		if !decision.InForce || !in.Grants(registry.Name) || !add(tokens.Entry(in.Token, decision.Credentials.Current)) {
			continue
		}
		if c := decision.Credentials.Previous; c != nil {
			previous = append(previous, tokens.Entry(in.Token, *c))
		}
		if c := decision.Credentials.Next; c != nil {
			next = append(next, tokens.Entry(in.Token, *c))
		}
	}
	for _, entry := range slices.Concat(previous, next) {
		add(entry)
	}
	// The form in which the pods have it, so that entries can be compared.
	out.access = canonical(out.access)
	return out
}

// precedence compares objects by which of them goes first where there is no room for all: those of the registry's own
// namespace, then the older ones.
func precedence(registry *v1alpha1.HelmRegistry, a, b client.Object) int {
	guest := func(o client.Object) int {
		if o.GetNamespace() == registry.Namespace {
			return 0
		}
		return 1
	}
	made := a.GetCreationTimestamp()
	return cmp.Or(cmp.Compare(guest(a), guest(b)), made.Compare(b.GetCreationTimestamp().Time),
		cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

// canonical returns a snapshot as it reads once it was encoded.
func canonical(a wire.Access) wire.Access {
	decoded, err := wire.DecodeAccess(a.Encode())
	if err != nil {
		panic(err) // compile keeps to the bounds.
	}
	return decoded
}

// narrows reports whether the newer snapshot takes something away that the older one gives. Pods refuse what has
// expired by themselves.
func narrows(older, newer wire.Access, now time.Time) bool {
	if older.Visibility == wire.Public && newer.Visibility != wire.Public {
		return true
	}
	if narrowsPolicies(older, newer) {
		return true
	}
	stays := make(map[string]bool, len(newer.Tokens))
	for _, t := range newer.Tokens {
		stays[string(encode(t))] = true
	}
	return slices.ContainsFunc(older.Tokens, func(t wire.Token) bool {
		return !stays[string(encode(t))] && (t.ExpiresAt == nil || t.ExpiresAt.After(now))
	})
}

// encode returns the bytes of a part of a snapshot.
func encode(part any) []byte {
	encoded, err := json.Marshal(part)
	if err != nil {
		panic(err) // Strings and times, and what was decoded from JSON, always encode.
	}
	return encoded
}

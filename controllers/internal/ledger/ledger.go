// Package ledger records, within the operator's process, which access snapshot the pods of each registry have
// confirmed. accesssync writes it; the controllers of registries and tokens read it and are woken by it. It is never
// stored: after a start it is empty until the pods have been asked again.
package ledger

import (
	"context"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/chartroom-dev/chartroom/controllers/internal/board"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Reasons of a State that is not confirmed. They are condition reasons.
const (
	// ReasonWaitingForReplicas: pods have not confirmed the newest snapshot yet.
	ReasonWaitingForReplicas = "WaitingForReplicas"
	// ReasonNoReplicas: there is no live pod. Pods that start later start with the newest snapshot.
	ReasonNoReplicas = "NoReplicas"
	// ReasonSnapshotRefused: a pod answered that it does not take the snapshot.
	ReasonSnapshotRefused = "SnapshotRefused"
	// ReasonNameTaken: the Secret of the snapshot has a name under which a foreign Secret is.
	ReasonNameTaken = "NameTaken"
	// ReasonWriteFailed: the snapshot could not be written to its Secret, and no pod has been told of it.
	ReasonWriteFailed = "WriteFailed"
	// ReasonTooManyTokens: there are more tokens than a registry can have; the youngest are left out.
	ReasonTooManyTokens = "TooManyTokens"
)

// ReasonReplicaUnreachable is that of a revocation which has waited for a pod since UnreachableAfter, and of a pod that is
// taken out of service for it.
const ReasonReplicaUnreachable = "ReplicaUnreachable"

// UnreachableAfter is how long a revocation may wait for a pod before it is called unreachable.
const UnreachableAfter = 10 * time.Minute

// Snapshot is an access snapshot together with what it was made from.
type Snapshot struct {
	// Access is the snapshot as it was written.
	Access wire.Access
	// Refused are the RegistryTokens that were seen revoked or being deleted, and the OIDCPolicies that were seen being
	// deleted, when the snapshot was made, and are therefore not in it.
	Refused map[types.UID]bool
	// LeftOut are the OIDCPolicies for which there was no room, with the reason.
	LeftOut map[types.UID]string
}

// holds reports whether the snapshot has exactly this entry.
func (s *Snapshot) holds(t wire.Token) bool {
	return s != nil && slices.ContainsFunc(s.Access.Tokens, func(entry wire.Token) bool {
		return entry.ID == t.ID && entry.SHA256 == t.SHA256 && entry.Name == t.Name &&
			sameSet(entry.Scopes, t.Scopes) && sameSet(entry.Charts, t.Charts) && sameInstant(entry.ExpiresAt, t.ExpiresAt)
	})
}

// frees reports whether the snapshot has no entry of that name.
func (s *Snapshot) frees(name string) bool {
	return s != nil && !slices.ContainsFunc(s.Access.Tokens, func(entry wire.Token) bool { return entry.Name == name })
}

// holdsPolicy reports whether the snapshot has exactly this policy.
func (s *Snapshot) holdsPolicy(p wire.Policy) bool {
	return s != nil && slices.ContainsFunc(s.Access.Policies, p.Equal)
}

// names reports whether the snapshot has a policy of this name, whatever it says.
func (s *Snapshot) names(policy string) bool {
	return s != nil && slices.ContainsFunc(s.Access.Policies, func(p wire.Policy) bool { return p.Name == policy })
}

func sameSet[T ~string](a, b []T) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func sameInstant(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}

// State is how far the access snapshot of one registry has come. It is not changed after it was set.
type State struct {
	// Generation is that of the HelmRegistry that the newest snapshot was made for: nothing is known here of a later one.
	Generation int64
	// Revision and Digest are those of the newest snapshot.
	Revision int64
	Digest   string
	// Confirmed of Total live pods enforce the newest snapshot. Pods that are not ready, or are terminating, are live.
	Confirmed, Total int32
	// Reason and Message say why the newest snapshot is not confirmed or not whole, as in a condition. Reason is empty
	// when every live pod, and at least one, enforces it.
	Reason, Message string
	// Stalled says that the Reason stays until somebody changes an object.
	Stalled bool
	// Newest is the newest snapshot; nil when none could be made.
	Newest *Snapshot
	// InForce is the newest snapshot that every live pod has confirmed, or any newer one; nil when there is none. With
	// no live pod it is the newest: nobody enforces anything older.
	InForce *Snapshot
}

// Holds reports whether every live pod, and at least one, enforces an entry exactly as it is in t.
func (s State) Holds(t wire.Token) bool {
	return s.Total > 0 && s.Enforces(t)
}

// Enforces reports whether every live pod enforces an entry exactly as it is in t, of which there may be none: those that
// start later start with it.
func (s State) Enforces(t wire.Token) bool { return s.InForce.holds(t) && s.Newest.holds(t) }

// Lacks reports whether it is proved that no pod admits the RegistryToken or OIDCPolicy with this UID, whatever token it
// ever had: every live pod enforces a snapshot that was made after it was seen revoked or being deleted, which is final.
func (s State) Lacks(token types.UID) bool { return s.InForce != nil && s.InForce.Refused[token] }

// Frees reports whether no pod admits a token of that name, namespace/name of the RegistryToken, by any snapshot that was
// made so far.
func (s State) Frees(name string) bool { return s.InForce.frees(name) && s.Newest.frees(name) }

// Enforcing returns how many live pods enforce a policy exactly as it is in p.
func (s State) Enforcing(p wire.Policy) int32 {
	switch {
	case !s.Newest.holdsPolicy(p):
		return 0
	case s.InForce.holdsPolicy(p):
		return s.Total
	}
	return s.Confirmed
}

// Accepts reports whether the newest snapshot has a policy exactly as it is in p.
func (s State) Accepts(p wire.Policy) bool { return s.Newest.holdsPolicy(p) }

// FreesPolicy reports whether it is proved that no pod enforces a policy of this name, as long as none is added.
func (s State) FreesPolicy(policy string) bool {
	return s.InForce != nil && s.InForce == s.Newest && !s.Newest.names(policy)
}

// Reader is the ledger for those who only read it.
type Reader interface {
	// State returns what is known of a registry; false when its pods have not been asked since the operator started.
	State(registry types.NamespacedName) (State, bool)
	// Source wakes a controller whenever the state of a registry changes. It maps the registry to requests; nil means
	// a request for the registry itself.
	Source(requests func(ctx context.Context, registry types.NamespacedName) []reconcile.Request) source.Source
}

// Ledger is the record: a board of States.
type Ledger struct{ *board.Board[State] }

// New returns an empty ledger.
func New() *Ledger { return &Ledger{board.New[State]()} }

// Unconfirmed returns the number of live pods, of all registries, that do not enforce the newest snapshot.
func (l *Ledger) Unconfirmed() int {
	n := 0
	l.Each(func(s State) { n += int(s.Total - s.Confirmed) })
	return n
}

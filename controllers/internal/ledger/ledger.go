// Package ledger records, within the operator's process, which access snapshot the pods of each registry have
// confirmed. accesssync writes it; the controllers of registries and tokens read it and are woken by it. It is never
// stored: after a start it is empty until the pods have been asked again.
package ledger

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

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

// Snapshot is an access snapshot together with what it was made from.
type Snapshot struct {
	// Access is the snapshot as it was written.
	Access wire.Access
	// Refused are the RegistryTokens that were seen revoked or being deleted when the snapshot was made, and are
	// therefore not in it.
	Refused map[types.UID]bool
}

// holds reports whether the snapshot has exactly this entry.
func (s *Snapshot) holds(t wire.Token) bool {
	return s != nil && slices.ContainsFunc(s.Access.Tokens, func(entry wire.Token) bool {
		return entry.ID == t.ID && entry.SHA256 == t.SHA256 && entry.Name == t.Name &&
			sameSet(entry.Scopes, t.Scopes) && sameSet(entry.Charts, t.Charts) && sameInstant(entry.ExpiresAt, t.ExpiresAt)
	})
}

func sameSet[T ~string](a, b []T) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func sameInstant(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}

// State is how far the access snapshot of one registry has come. It is not changed after it was set.
type State struct {
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
	return s.Total > 0 && s.InForce.holds(t) && s.Newest.holds(t)
}

// Lacks reports whether it is proved that no pod admits the RegistryToken with this UID, whatever token it ever had:
// every live pod enforces a snapshot that was made after the RegistryToken was seen revoked or being deleted, which is
// final.
func (s State) Lacks(token types.UID) bool { return s.InForce != nil && s.InForce.Refused[token] }

// Reader is the ledger for those who only read it.
type Reader interface {
	// State returns what is known of a registry; false when its pods have not been asked since the operator started.
	State(registry types.NamespacedName) (State, bool)
	// Source wakes a controller whenever the state of a registry changes. It maps the registry to requests; nil means
	// a request for the registry itself.
	Source(requests func(ctx context.Context, registry types.NamespacedName) []reconcile.Request) source.Source
}

// Ledger is the record. All methods may be called from many goroutines, and none waits for a reader.
type Ledger struct {
	mu        sync.Mutex
	states    map[types.NamespacedName]State
	listeners []*listener
}

// listener holds the registries whose change one controller has not taken yet: at most one entry for each, however
// slow the controller is.
type listener struct {
	mu      sync.Mutex
	pending map[types.NamespacedName]struct{}
	wake    chan struct{}
}

// New returns an empty ledger.
func New() *Ledger { return &Ledger{states: map[types.NamespacedName]State{}} }

// Set records the state of a registry, and wakes the readers when it is another than before.
func (l *Ledger) Set(registry types.NamespacedName, s State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.states[registry]; ok && reflect.DeepEqual(old, s) {
		return
	}
	l.states[registry] = s
	l.notify(registry)
}

// Forget removes a registry that is gone, and wakes the readers.
func (l *Ledger) Forget(registry types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.states, registry)
	l.notify(registry)
}

func (l *Ledger) notify(registry types.NamespacedName) {
	for _, to := range l.listeners {
		to.add(registry)
	}
}

// State implements Reader.
func (l *Ledger) State(registry types.NamespacedName) (State, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.states[registry]
	return s, ok
}

// Unconfirmed returns the number of live pods, of all registries, that do not enforce the newest snapshot.
func (l *Ledger) Unconfirmed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, s := range l.states {
		n += int(s.Total - s.Confirmed)
	}
	return n
}

// Source implements Reader.
func (l *Ledger) Source(requests func(context.Context, types.NamespacedName) []reconcile.Request) source.Source {
	if requests == nil {
		requests = func(_ context.Context, registry types.NamespacedName) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: registry}}
		}
	}
	to := &listener{pending: map[types.NamespacedName]struct{}{}, wake: make(chan struct{}, 1)}
	l.mu.Lock()
	l.listeners = append(l.listeners, to)
	l.mu.Unlock()
	return source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		go to.run(ctx, func(registry types.NamespacedName) {
			for _, request := range requests(ctx, registry) {
				queue.Add(request)
			}
		})
		return nil
	})
}

func (to *listener) add(registry types.NamespacedName) {
	to.mu.Lock()
	to.pending[registry] = struct{}{}
	to.mu.Unlock()
	select {
	case to.wake <- struct{}{}:
	default:
	}
}

func (to *listener) run(ctx context.Context, each func(types.NamespacedName)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-to.wake:
		}
		to.mu.Lock()
		taken := to.pending
		to.pending = map[types.NamespacedName]struct{}{}
		to.mu.Unlock()
		for registry := range taken {
			each(registry)
		}
	}
}

// Package board records, within the operator's process, what one controller found out about each registry, and wakes the
// controllers that read it. Nothing is ever stored: after a start a board is empty until its writer has looked again.
package board

import (
	"context"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Board holds one T for each registry. All methods may be called from many goroutines, and none waits for a reader. A T is
// not changed after it was set.
type Board[T any] struct {
	mu        sync.Mutex
	states    map[types.NamespacedName]T
	listeners []*listener
}

// listener holds the registries whose change one controller has not taken yet: at most one entry for each, however
// slow the controller is.
type listener struct {
	mu      sync.Mutex
	pending map[types.NamespacedName]struct{}
	wake    chan struct{}
}

// New returns an empty board.
func New[T any]() *Board[T] { return &Board[T]{states: map[types.NamespacedName]T{}} }

// Set records the state of a registry, and wakes the readers when it is another than before.
func (b *Board[T]) Set(registry types.NamespacedName, state T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, ok := b.states[registry]; ok && reflect.DeepEqual(old, state) {
		return
	}
	b.states[registry] = state
	b.notify(registry)
}

// Forget removes a registry that is gone, and wakes the readers.
func (b *Board[T]) Forget(registry types.NamespacedName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.states, registry)
	b.notify(registry)
}

func (b *Board[T]) notify(registry types.NamespacedName) {
	for _, to := range b.listeners {
		to.add(registry)
	}
}

// State returns what is known of a registry; false when nothing is.
func (b *Board[T]) State(registry types.NamespacedName) (T, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	state, ok := b.states[registry]
	return state, ok
}

// Each calls f with the state of every registry, in no order. f may not call the board.
func (b *Board[T]) Each(f func(T)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, state := range b.states {
		f(state)
	}
}

// Source wakes a controller whenever the state of a registry changes. It maps the registry to requests; nil means a
// request for the registry itself.
func (b *Board[T]) Source(requests func(context.Context, types.NamespacedName) []reconcile.Request) source.Source {
	if requests == nil {
		requests = func(_ context.Context, registry types.NamespacedName) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: registry}}
		}
	}
	to := &listener{pending: map[types.NamespacedName]struct{}{}, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	b.listeners = append(b.listeners, to)
	b.mu.Unlock()
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

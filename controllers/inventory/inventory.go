// Package inventory follows what the registries hold. It asks every ready pod, which answers when there is something new,
// chooses the newest of what they say, records it for the controller that writes the status, and tells of changes in
// events. It writes nothing else.
package inventory

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/controllers/internal/status"
	"github.com/chartroom-dev/chartroom/controllers/internal/wake"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// FieldManager is the name under which this controller records events.
const FieldManager = "chartroom-inventory"

// Pods asks registry pods on their admin port, as registryclient.Client does.
type Pods interface {
	Inventory(ctx context.Context, registry types.NamespacedName, ip, etag string) (*wire.Inventory, string, error)
}

// Reconciler follows the registries. Its exported fields are set before SetupWithManager.
type Reconciler struct {
	client.Client
	// Owned caches the pods that bear the operator's label.
	Owned       cache.Cache
	Pods        Pods
	Inventories *reports.InventoryBoard
	Recorder    events.EventRecorder

	mu      sync.Mutex
	watches map[types.NamespacedName]*watch
	// ended says that the operator stops, or leads no more.
	ended bool
}

// +kubebuilder:rbac:groups=chartroom.dev,resources=helmregistries,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconcile follows the ready pods of one registry, and no others.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	key := request.NamespacedName
	registry := &v1alpha1.HelmRegistry{}
	if err := r.Get(ctx, key, registry); client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("reading the registry: %w", err)
	}
	// One that is gone has no UID.
	if registry.UID == "" || !registry.DeletionTimestamp.IsZero() {
		r.unfollow(key)
		return reconcile.Result{}, nil
	}
	pods, err := r.ready(ctx, key)
	if err != nil {
		return reconcile.Result{}, err
	}
	r.follow(ctx, registry, pods)
	return reconcile.Result{}, nil
}

// ready returns the pods of a registry that serve.
func (r *Reconciler) ready(ctx context.Context, key types.NamespacedName) ([]pod, error) {
	list := &corev1.PodList{}
	if err := r.Owned.List(ctx, list, client.InNamespace(key.Namespace), client.MatchingLabels{
		v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelRegistry: key.Name,
	}); err != nil {
		return nil, fmt.Errorf("listing the registry's pods: %w", err)
	}
	var pods []pod
	for _, p := range list.Items {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		if ready && p.Status.PodIP != "" && p.DeletionTimestamp.IsZero() {
			pods = append(pods, pod{uid: p.UID, ip: p.Status.PodIP})
		}
	}
	return pods, nil
}

// follow sees to it that these pods of a registry are followed.
func (r *Reconciler) follow(ctx context.Context, registry *v1alpha1.HelmRegistry, pods []pod) {
	key := client.ObjectKeyFromObject(registry)
	r.mu.Lock()
	w := r.watches[key]
	r.mu.Unlock()
	if w != nil && w.uid != registry.UID {
		r.unfollow(key) // It was deleted and created again.
		w = nil
	}
	if w == nil {
		if w = r.begin(ctx, key, registry.UID); w == nil {
			return
		}
	}
	w.follow(pods)
}

// begin begins to follow a registry; nil when the operator stops.
func (r *Reconciler) begin(ctx context.Context, key types.NamespacedName, uid types.UID) *watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil
	}
	// A watch outlives the reconciliation that begins it: Start ends it.
	w := newWatch(context.WithoutCancel(ctx), uid, watchOptions{
		ask: func(ctx context.Context, ip, etag string) (*wire.Inventory, string, error) {
			return r.Pods.Inventory(ctx, key, ip, etag)
		},
		publish:  func(i reports.Inventory) { r.Inventories.Set(key, i) },
		announce: func(ctx context.Context, note string) { r.announce(ctx, key, note) },
		log:      ctrl.LoggerFrom(ctx),
	})
	if r.watches == nil {
		r.watches = map[types.NamespacedName]*watch{}
	}
	r.watches[key] = w
	return w
}

// unfollow ends what follows a registry, and forgets what it said.
func (r *Reconciler) unfollow(key types.NamespacedName) {
	r.mu.Lock()
	w := r.watches[key]
	delete(r.watches, key)
	r.mu.Unlock()
	if w != nil {
		w.end()
		r.Inventories.Forget(key)
	}
}

// announce records an event on a registry.
func (r *Reconciler) announce(ctx context.Context, key types.NamespacedName, note string) {
	registry := &v1alpha1.HelmRegistry{}
	if r.Get(ctx, key, registry) != nil {
		return // It is gone.
	}
	r.Recorder.Eventf(registry, nil, corev1.EventTypeNormal, "ChartsChanged", "Observe", "%s", status.Note(note))
}

// Start ends all that is followed when the operator stops or leads no more. It is for the manager.
func (r *Reconciler) Start(ctx context.Context) error {
	<-ctx.Done()
	r.mu.Lock()
	r.ended = true
	watches := r.watches
	r.watches = nil
	r.mu.Unlock()
	for _, w := range watches {
		w.cancel()
	}
	for _, w := range watches {
		w.end()
	}
	return nil
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	if err := mgr.Add(r); err != nil {
		return fmt.Errorf("adding what ends the questions to pods: %w", err)
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("inventory").
		For(&v1alpha1.HelmRegistry{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Kind(r.Owned, &corev1.Pod{}, handler.TypedEnqueueRequestsFromMapFunc(wake.RegistryOfPod))).
		Complete(r)
	if err != nil {
		return fmt.Errorf("setting up the controller of inventories: %w", err)
	}
	return nil
}

// Package accesssync brings the access snapshot of each registry to its pods: tokens, policies and visibility become one
// document, which is written to a Secret first (what pods boot from), then sent to every pod, and whose confirmation is
// recorded in the ledger. A pod that does not confirm that something was taken away is taken out of service.
package accesssync

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/clusterissuer"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/policies"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// FieldManager is the name under which this controller writes.
const FieldManager = "chartroom-accesssync"

// Pods asks registry pods on their admin port. Errors are those of registryclient.Client.
type Pods interface {
	About(ctx context.Context, registry types.NamespacedName, ip string) (wire.About, error)
	PushAccess(ctx context.Context, registry types.NamespacedName, ip string, document []byte) (wire.AccessState, error)
	Forget(registry types.NamespacedName)
}

// Reconciler keeps the access snapshots. Its exported fields are set before SetupWithManager.
type Reconciler struct {
	client.Client
	// Owned caches the Secrets and pods that bear the operator's label.
	Owned cache.Cache
	// Live reads past the cache, before something is written that rests on it.
	Live client.Reader
	Pods Pods
	// Secrets reads what policies refer to, and Cluster what "iss: kubernetes" stands for in them.
	Secrets  *policies.Secrets
	Cluster  *clusterissuer.Reader
	Ledger   *ledger.Ledger
	Recorder events.EventRecorder
	Metrics  *Metrics
	// Now is the clock.
	Now func() time.Time

	mu       sync.Mutex
	memories map[types.NamespacedName]*memory
}

// Metrics are what this controller measures.
type Metrics struct{ confirmation prometheus.Histogram }

// NewMetrics registers the metrics of this controller.
func NewMetrics(registerer prometheus.Registerer, record *ledger.Ledger) (*Metrics, error) {
	m := &Metrics{confirmation: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "chartroom_access_confirmation_seconds",
		Help:    "Time from the moment a change of access was seen until every live pod enforced it.",
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 600},
	})}
	unconfirmed := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "chartroom_access_unconfirmed_replicas",
		Help: "Live registry pods that do not yet enforce the newest access snapshot of their registry.",
	}, func() float64 { return float64(record.Unconfirmed()) })
	for _, c := range []prometheus.Collector{m.confirmation, unconfirmed} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of the access snapshots: %w", err)
		}
	}
	return m, nil
}

// memory is what is known of one registry since the operator started. Only one worker at a time has it.
type memory struct {
	pods map[types.UID]podMemory
	// newest and inForce are as in ledger.State.
	newest, inForce *ledger.Snapshot
	document        []byte
	// told are the conditions that pods are told, and toldAt is when they were taken.
	told   []metav1.Condition
	toldAt time.Time
	// since is when a change was seen that is not confirmed yet; zero when there is none.
	since time.Time
	// narrowed says that the change takes something away.
	narrowed bool
	// rounds counts the rounds without full confirmation, for the pause between them.
	rounds int
}

// podMemory is what a pod has answered.
type podMemory struct {
	restarts int32
	// answered says that it has, since its container last started.
	answered bool
	state    wire.AccessState
	// refused says that it does not take the newest snapshot.
	refused bool
	// failing is since when it has not answered; zero when it has.
	failing time.Time
}

// +kubebuilder:rbac:groups=chartroom.dev,resources=helmregistries;registrytokens;oidcpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch;patch;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconcile brings the snapshot of one registry up to date.
//
// HelmRegistries, RegistryTokens and OIDCPolicies are what a snapshot is made of, namespaces' labels are what a registry
// may select the namespaces of its guests by. Secrets are read because they hold the tokens, and the certificates that
// policies refer to, and written because a snapshot is one (create and patch are what server-side apply asks for). Pods are patched, to take an unreachable one out of the
// Service, and deleted, to end one that cannot be told of a revocation. Events tell of that.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	key := request.NamespacedName
	registry := &v1alpha1.HelmRegistry{}
	if err := r.Get(ctx, key, registry); apierrors.IsNotFound(err) {
		r.forget(key)
		return reconcile.Result{}, nil
	} else if err != nil {
		return reconcile.Result{}, fmt.Errorf("reading the registry: %w", err)
	}
	m := r.recall(key)
	now := r.Now()
	inputs, err := r.gather(ctx, registry, now)
	if err != nil {
		return reconcile.Result{}, err
	}
	pods, err := r.listPods(ctx, key, m)
	if err != nil {
		return reconcile.Result{}, err
	}
	federated, cluster, err := r.gatherPolicies(ctx, registry)
	if err != nil {
		return reconcile.Result{}, err
	}
	c := compile(registry, inputs)
	c.addPolicies(registry, federated, cluster)
	untold := m.tell(registry.Status.Conditions, now)
	taken, err := r.settle(ctx, registry, m, c, now)
	if err != nil {
		r.tellFailure(key, err)
		return reconcile.Result{}, err
	}
	r.deliver(ctx, key, m, pods)
	fenceErr := r.fence(ctx, registry, m, c, pods)
	state := m.judge(registry, pods, c, taken)
	if state.Confirmed == state.Total {
		if !m.since.IsZero() && state.Total > 0 {
			r.Metrics.confirmation.Observe(r.Now().Sub(m.since).Seconds())
		}
		m.since, m.narrowed = time.Time{}, false
	}
	r.Ledger.Set(key, state)
	pause := m.pause(state, c.next, r.Now())
	if untold > 0 && (pause == 0 || untold < pause) {
		pause = untold
	}
	return reconcile.Result{RequeueAfter: pause}, fenceErr
}

// recall returns what is known of a registry.
func (r *Reconciler) recall(key types.NamespacedName) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.memories[key]
	if m == nil {
		m = &memory{pods: map[types.UID]podMemory{}}
		if r.memories == nil {
			r.memories = map[types.NamespacedName]*memory{}
		}
		r.memories[key] = m
	}
	return m
}

// tellFailure records that a snapshot could not be made durable. What was confirmed before stays confirmed.
func (r *Reconciler) tellFailure(key types.NamespacedName, err error) {
	state, _ := r.Ledger.State(key)
	state.Reason = ledger.ReasonWriteFailed
	state.Message = fmt.Sprintf("the access snapshot could not be written (%s); the operator's log says more", apierrors.ReasonForError(err))
	r.Ledger.Set(key, state)
}

func (r *Reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	delete(r.memories, key)
	r.mu.Unlock()
	r.Pods.Forget(key)
	r.Ledger.Forget(key)
}

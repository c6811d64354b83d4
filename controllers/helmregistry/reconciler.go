// Package helmregistry brings up what a HelmRegistry asks for, storage, certificates, workload and network, and is the
// only one to write its status.
package helmregistry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/apply"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/pki"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
)

// FieldManager is the name under which this controller writes.
const FieldManager = "chartroom-helmregistry"

// Reconciler reconciles HelmRegistries. All exported fields but AllowPodImages, AllowEgressCIDRs, AllowedHostSuffixes,
// DialService and Now are needed.
type Reconciler struct {
	// Client writes, and reads HelmRegistries from the cache.
	Client client.Client
	// APIReader reads all else without a cache: a decision to write is never made on what was true a while ago, and no
	// Secret stays in memory.
	APIReader client.Reader
	// Events records events.
	Events events.EventRecorder
	// Ledger says how far access snapshots have come.
	Ledger ledger.Reader
	// Reports says what pods said of their storage.
	Reports *reports.Board
	// Inventories says what pods said of what the registry holds.
	Inventories *reports.InventoryBoard
	// Pods asks pods to purge.
	Pods Pods
	// Authorities sign certificates.
	Authorities *pki.Store
	// RegistryImage is the image that registries run.
	RegistryImage string
	// OperatorNamespace is where the operator's pods are.
	OperatorNamespace string
	// AllowedHostSuffixes are domains in which the operator signs certificates for exposure.host.
	AllowedHostSuffixes []string
	// AllowPodImages lets pod templates name images.
	AllowPodImages bool
	// AllowEgressCIDRs are networks in which registries may ask issuers of OIDC tokens, and tell receivers of events, although
	// they are not public.
	AllowEgressCIDRs []string
	// DialService opens a connection to a Service, to see that it leads to a pod; where it is nil, nobody looks.
	DialService func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock; time.Now where it is nil.
	Now func() time.Time

	// looked is when a purge was last looked at, a time.Time by the registry's types.UID.
	looked sync.Map
}

// +kubebuilder:rbac:groups=chartroom.dev,resources=helmregistries,verbs=get;list;patch;watch
// +kubebuilder:rbac:groups=chartroom.dev,resources=helmregistries/finalizers,verbs=update
// +kubebuilder:rbac:groups=chartroom.dev,resources=helmregistries/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=create;delete;get;list;patch;watch
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=create;delete;get;list;patch;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=create;delete;get;list;patch;watch
// +kubebuilder:rbac:groups="",resources=services,verbs=create;get;list;patch;watch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get
// +kubebuilder:rbac:groups="",resources=pods,verbs=list
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=create;delete;get;list;patch;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=create;get;list;patch;watch
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=create;delete;get;list;patch;watch
// +kubebuilder:rbac:groups=storage.k8s.io,resources=storageclasses,verbs=get
// +kubebuilder:rbac:groups="",resources=secrets,verbs=update,namespace=chartroom-system

// Reconcile brings one HelmRegistry up. Errors are retried with growing pauses; what only a change of an object can
// mend is said in the status instead.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	registry := &v1alpha1.HelmRegistry{}
	if err := r.Client.Get(ctx, request.NamespacedName, registry); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !registry.DeletionTimestamp.IsZero() {
		return r.delete(ctx, registry)
	}
	if err := r.ensureFinalizer(ctx, registry); err != nil {
		return reconcile.Result{}, err
	}
	if err := r.announce(ctx, registry); err != nil {
		return reconcile.Result{}, err
	}
	s := r.newScope(registry)
	s.reports, s.reported = r.Reports.State(request.NamespacedName)
	s.inventory, s.inventoryKnown = r.Inventories.State(request.NamespacedName)
	for _, phase := range []func(context.Context, *scope) error{
		r.reconcileAddress, r.reconcileStorage, r.reconcileReplicas, r.reconcileRetention, r.reconcileNotifications, r.reconcileCertificates, r.reconcileWorkload, r.reconcileReach, r.prune,
	} {
		s.note(phase(ctx, s))
	}
	s.note(s.storage.growth)
	s.note(s.tooManyReplicas())
	s.access, s.accessKnown = r.Ledger.State(request.NamespacedName)
	err := errors.Join(append(s.failures, r.writeStatus(ctx, s))...)
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: s.requeueAfter()}, nil
}

// scope is all that one reconciliation has read, decided and done.
type scope struct {
	registry *v1alpha1.HelmRegistry
	params   desired.Params
	now      time.Time

	// stalled is the first thing that only a change of an object can mend; waiting the first that time will mend;
	// failures are what went wrong and is tried again.
	stalled  *stalledError
	waiting  *waitingError
	failures []error
	// singleWriter says that pods reported storage on which only one of them may write.
	singleWriter bool
	// pending says that the registry is suspended and that changes wait for its end.
	pending bool

	storage     storageOutcome
	certificate certificateOutcome
	workload    workloadOutcome
	access      ledger.State
	accessKnown bool
	// reports is what pods said; reported says that they were asked since the operator started.
	reports  reports.State
	reported bool
	// inventory is what pods said that the registry holds; inventoryKnown says that they did, or were given the time to,
	// since the operator started.
	inventory      reports.Inventory
	inventoryKnown bool
	// nextChange is when certificates or authorities are due.
	nextChange time.Time
}

func (r *Reconciler) newScope(registry *v1alpha1.HelmRegistry) *scope {
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	return &scope{
		registry: registry, now: now(),
		params: desired.Params{
			Registry: registry, Image: r.RegistryImage, AllowPodImages: r.AllowPodImages, AllowEgressCIDRs: r.AllowEgressCIDRs, OperatorNamespace: r.OperatorNamespace,
		},
	}
}

// stalledError is what only a change of an object can mend.
type stalledError struct{ reason, message string }

func (e *stalledError) Error() string { return e.reason + ": " + e.message }

func stalled(reason, format string, args ...any) error {
	return &stalledError{reason, fmt.Sprintf(format, args...)}
}

// waitingError is what time will mend.
type waitingError struct{ reason, message string }

func (e *waitingError) Error() string { return e.reason + ": " + e.message }

func waiting(reason, format string, args ...any) error {
	return &waitingError{reason, fmt.Sprintf(format, args...)}
}

// judged says what an error of a phase means to the registry's owner, who cannot read the operator's log: what the API
// server refuses is said in its words.
func judged(err error) error {
	var stop *stalledError
	var wait *waitingError
	switch {
	case errors.As(err, &stop), errors.As(err, &wait):
	case apierrors.IsInvalid(err):
		return stalled("ObjectRefused", "the API server refuses what is asked for: %s", rootMessage(err))
	case apierrors.IsForbidden(err):
		return waiting("ObjectRefused", "the API server refuses what is asked for: %s", rootMessage(err))
	}
	return err
}

// note files what a phase returned.
func (s *scope) note(err error) {
	err = judged(err)
	var stop *stalledError
	var wait *waitingError
	switch {
	case err == nil:
	case errors.As(err, &stop):
		if s.stalled == nil {
			s.stalled = stop
		}
	case errors.As(err, &wait):
		if s.waiting == nil {
			s.waiting = wait
		}
	default:
		s.failures = append(s.failures, err)
	}
}

// blocked says that the workload must stay as it is.
func (s *scope) blocked() bool { return s.stalled != nil || s.waiting != nil || len(s.failures) > 0 }

// due asks to be reconciled again at an instant at the latest.
func (s *scope) due(at time.Time) {
	if s.nextChange.IsZero() || at.Before(s.nextChange) {
		s.nextChange = at
	}
}

// requeueAfter is when to look again although nothing happened. What is waited for ends with an event, and so does most
// of what stalls a registry; not so a foreign object that goes, or a storage class that is changed.
func (s *scope) requeueAfter() time.Duration {
	switch {
	case s.workload.unreached:
		return reachPause
	case s.waiting != nil:
		s.due(s.now.Add(10 * time.Second))
	case s.stalled != nil:
		s.due(s.now.Add(time.Minute))
	}
	if s.nextChange.IsZero() {
		return 0
	}
	return max(s.nextChange.Sub(s.now), time.Second)
}

// applier writes as this controller.
func (r *Reconciler) applier() apply.Applier {
	return apply.Applier{Client: r.Client, Owner: FieldManager}
}

// read reads the object that want names into live, and says whether it is there and this registry's.
func (r *Reconciler) read(ctx context.Context, s *scope, want, live client.Object) (bool, error) {
	err := r.APIReader.Get(ctx, client.ObjectKeyFromObject(want), live)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	kind := want.GetObjectKind().GroupVersionKind().Kind
	if err != nil {
		return false, fmt.Errorf("reading %s %s: %w", kind, want.GetName(), err)
	}
	return true, ownership(s.registry, kind, live)
}

// reconcileChild brings one object to what is desired and reads it into live. While the registry is suspended,
// a change is noted and not made.
func (r *Reconciler) reconcileChild(ctx context.Context, s *scope, want, live client.Object) error {
	there, err := r.read(ctx, s, want, live)
	if err != nil {
		return err
	}
	if s.registry.Spec.Suspend {
		same := false
		if there {
			same, err = r.applier().Holds(live, want)
		}
		s.pending = s.pending || !same
		return err
	}
	return r.write(ctx, want, live, there)
}

// write applies want over live, and reads live again when that changed anything.
func (r *Reconciler) write(ctx context.Context, want, live client.Object, there bool) error {
	var before client.Object
	if there {
		before = live
	}
	changed, err := r.applier().Apply(ctx, before, want)
	if err != nil || !changed {
		return err
	}
	return r.APIReader.Get(ctx, client.ObjectKeyFromObject(want), live)
}

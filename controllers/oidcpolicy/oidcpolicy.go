// Package oidcpolicy says of each OIDCPolicy whether it is right, at which registries it is in force, and what their pods
// know of its issuers; and sees a deletion through: the object is not let go before every live pod refuses what it
// admitted. accesssync puts policies in force.
package oidcpolicy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/apply"
	"github.com/chartroom-dev/chartroom/controllers/internal/clusterissuer"
	"github.com/chartroom-dev/chartroom/controllers/internal/guests"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/policies"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
)

// FieldManager is the name under which this controller writes.
const FieldManager = "chartroom-oidcpolicy"

// Reconciler keeps the status of OIDCPolicies. Its fields are set before SetupWithManager.
type Reconciler struct {
	client.Client
	// Live reads past the cache, before an object is let go.
	Live     client.Reader
	Secrets  *policies.Secrets
	Cluster  *clusterissuer.Reader
	Ledger   ledger.Reader
	Reports  *reports.Board
	Recorder events.EventRecorder
	// Now is the clock.
	Now func() time.Time
}

// scope is what one pass has read.
type scope struct {
	policy   *v1alpha1.OIDCPolicy
	compiled policies.Compiled
	// wrong says why the policy could not be compiled; nil when it could.
	wrong error
	// registries are those that the policy is for, and those that its status still tells of, by namespace and name.
	registries []place
	cluster    clusterissuer.State
	now        time.Time
}

// place is a registry as one policy sees it.
type place struct {
	key types.NamespacedName
	// registry is nil when there is none of that name, or none that could be waited for.
	registry *v1alpha1.HelmRegistry
	// targeted says that the policy is for it, as its spec says now.
	targeted bool
	// refused says why the registry does not let the policy attach; nil when it does.
	refused error
	// state is the ledger's; known is false when the pods have not been asked yet.
	state ledger.State
	known bool
	// pods are what they said of themselves.
	pods []reports.Pod
}

// +kubebuilder:rbac:groups=chartroom.dev,resources=oidcpolicies,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=chartroom.dev,resources=oidcpolicies/status,verbs=patch
// +kubebuilder:rbac:groups=chartroom.dev,resources=helmregistries,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconcile brings the status of one OIDCPolicy up to date.
//
// OIDCPolicies are patched to hold and release the finalizer, never their spec; their status is patched alone.
// HelmRegistries and the labels of namespaces are what a policy's place depends on, Secrets hold the certificates that it
// refers to. Events tell of what changed.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	p := &v1alpha1.OIDCPolicy{}
	if err := r.Get(ctx, request.NamespacedName, p); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	finalizers := apply.Applier{Client: r.Client, Owner: FieldManager}
	if !policies.IsRevoked(p) && !policies.Held(p) {
		// accesssync waits for it, so that nothing in force can disappear unseen. The change brings us back.
		return finalizers.SetFinalizer(ctx, p, v1alpha1.FinalizerPolicy, controllerutil.AddFinalizer)
	}
	s, err := r.read(ctx, p)
	if err != nil {
		return reconcile.Result{}, err
	}
	if policies.IsRevoked(p) && s.proved() {
		return finalizers.SetFinalizer(ctx, p, v1alpha1.FinalizerPolicy, controllerutil.RemoveFinalizer)
	}
	before := p.DeepCopy()
	s.setStatus()
	r.tell(before, p)
	if !equality.Semantic.DeepEqual(before.Status, p.Status) {
		if err := r.Status().Patch(ctx, p, client.MergeFrom(before), client.FieldOwner(FieldManager)); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(fmt.Errorf("writing the status: %w", err))
		}
	}
	return reconcile.Result{RequeueAfter: s.pause()}, nil
}

// read gathers what the status depends on.
func (r *Reconciler) read(ctx context.Context, p *v1alpha1.OIDCPolicy) (*scope, error) {
	s := &scope{policy: p, cluster: r.Cluster.State(), now: r.Now()}
	authorities, err := r.Secrets.Authorities(ctx, p)
	if err != nil {
		return nil, err
	}
	if s.compiled, s.wrong = policies.Compile(p, authorities); s.wrong == nil {
		s.wrong = policies.CheckSelector(p)
	}
	found, err := r.registries(ctx, p)
	if err != nil {
		return nil, err
	}
	namespace, err := guests.Namespace(ctx, r.Client, p.Namespace)
	if err != nil {
		return nil, err
	}
	for key, registry := range found {
		at := place{key: key, registry: registry}
		if registry != nil {
			at.targeted = policies.Targets(p, registry)
			if s.wrong == nil {
				at.refused = policies.Admit(p, s.compiled, registry, namespace.Labels)
			}
		} else if named, ok := p.RegistryKey(); ok {
			at.targeted = named == key
		}
		if policies.IsRevoked(p) {
			if at.registry, err = guests.MustConfirm(ctx, r.Live, r.Client, p.Namespace, key); err != nil {
				return nil, err
			}
		}
		at.state, at.known = r.Ledger.State(key)
		said, _ := r.Reports.State(key)
		at.pods = said.Pods
		s.registries = append(s.registries, at)
	}
	slices.SortFunc(s.registries, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name))
	})
	return s, nil
}

// registries returns those that a policy is for, and those that its status tells of. The value is nil for one that does not
// exist.
func (r *Reconciler) registries(ctx context.Context, p *v1alpha1.OIDCPolicy) (map[types.NamespacedName]*v1alpha1.HelmRegistry, error) {
	found := map[types.NamespacedName]*v1alpha1.HelmRegistry{}
	if p.Spec.RegistrySelector != nil {
		list := &v1alpha1.HelmRegistryList{}
		if err := r.List(ctx, list, client.InNamespace(p.Namespace)); err != nil {
			return nil, fmt.Errorf("listing the registries: %w", err)
		}
		for i := range list.Items {
			if policies.Targets(p, &list.Items[i]) {
				found[client.ObjectKeyFromObject(&list.Items[i])] = &list.Items[i]
			}
		}
	}
	var keys []types.NamespacedName
	if key, named := p.RegistryKey(); named {
		keys = append(keys, key)
	}
	for _, recorded := range p.Status.Registries {
		keys = append(keys, types.NamespacedName{Namespace: recorded.Namespace, Name: recorded.Name})
	}
	for _, key := range keys {
		if found[key] != nil {
			continue
		}
		registry := &v1alpha1.HelmRegistry{}
		if err := r.Get(ctx, key, registry); apierrors.IsNotFound(err) {
			registry = nil
		} else if err != nil {
			return nil, fmt.Errorf("reading the registry %s: %w", key, err)
		}
		found[key] = registry
	}
	return found, nil
}

// proved reports whether no pod enforces the policy that is being deleted, as far as there is one to ask.
func (s *scope) proved() bool {
	return !slices.ContainsFunc(s.registries, func(at place) bool { return s.holds(at) })
}

// holds reports whether a registry's pods have not confirmed yet that they refuse what the policy admitted, which is being
// deleted.
func (s *scope) holds(at place) bool {
	proved := at.known && at.state.Lacks(s.policy.UID)
	return at.registry != nil && !proved
}

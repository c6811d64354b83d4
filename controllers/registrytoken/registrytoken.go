// Package registrytoken issues the token of each RegistryToken into a Secret, keeps the Secret as it should be, and sees
// a revocation through: the object is not let go before every live pod refuses the token.
package registrytoken

import (
	"context"
	"fmt"
	"io"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/apply"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
)

// FieldManager is the name under which this controller writes.
const FieldManager = "chartroom-registrytoken"

// Reconciler keeps RegistryTokens and their Secrets. Its fields are set before SetupWithManager.
type Reconciler struct {
	client.Client
	// Owned caches the Secrets and ConfigMaps that bear the operator's label.
	Owned cache.Cache
	// Live reads past the cache, before something is done that cannot be undone.
	Live     client.Reader
	Ledger   ledger.Reader
	Recorder events.EventRecorder
	// Random is where tokens come from.
	Random io.Reader
	// Now is the clock.
	Now func() time.Time
}

// scope is what one pass has read and done.
type scope struct {
	in       tokens.Input
	decision tokens.Decision
	// state is the ledger's; known is false when the pods have not been asked yet.
	state ledger.State
	known bool
	// proved says that no pod admits the revoked token; gone that there is no registry left to ask.
	proved, gone bool
	// failure is what kept the Secret from being written; nil when nothing did.
	failure error
}

// +kubebuilder:rbac:groups=chartroom.dev,resources=registrytokens,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=chartroom.dev,resources=registrytokens/status,verbs=patch
// +kubebuilder:rbac:groups=chartroom.dev,resources=helmregistries,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=namespaces;configmaps,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconcile brings one RegistryToken to where it should be.
//
// RegistryTokens are patched to hold and release the finalizer, never their spec; their status is patched alone.
// HelmRegistries, the labels of namespaces and the ConfigMap of a registry's authority are what a token and its Secret
// depend on. Secrets hold the tokens: create and patch are what server-side apply asks for, delete ends a revoked one.
// Events tell of what was issued, ended or refused.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	token := &v1alpha1.RegistryToken{}
	if err := r.Get(ctx, request.NamespacedName, token); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if token.DeletionTimestamp.IsZero() && !controllerutil.ContainsFinalizer(token, v1alpha1.FinalizerToken) {
		// Before anything is issued, so that nothing issued can escape its revocation. The change brings us back.
		return r.setFinalizer(ctx, token, controllerutil.AddFinalizer)
	}
	s, err := r.read(ctx, r.Client, r.Owned, token)
	if err != nil {
		return reconcile.Result{}, err
	}
	if s.decision.Action == tokens.Issue {
		// What the cache does not show yet, or never, must not be overwritten.
		if s, err = r.readLive(ctx, token); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		token = s.in.Token
	}
	before := token.DeepCopy()
	if s.failure = r.act(ctx, s); s.failure == nil && s.ended() && !token.DeletionTimestamp.IsZero() {
		return r.setFinalizer(ctx, token, controllerutil.RemoveFinalizer)
	}
	setConditions(s)
	r.tell(before, token)
	if !equality.Semantic.DeepEqual(before.Status, token.Status) {
		if err := r.Status().Patch(ctx, token, client.MergeFrom(before), client.FieldOwner(FieldManager)); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(fmt.Errorf("writing the status: %w", err))
		}
	}
	return reconcile.Result{RequeueAfter: s.pause()}, s.failure
}

// read gathers what the token's state depends on, and decides.
func (r *Reconciler) read(ctx context.Context, reader, secrets client.Reader, token *v1alpha1.RegistryToken) (*scope, error) {
	registry := &v1alpha1.HelmRegistry{}
	if err := reader.Get(ctx, token.RegistryKey(), registry); apierrors.IsNotFound(err) {
		registry = nil
	} else if err != nil {
		return nil, fmt.Errorf("reading the registry %s: %w", token.RegistryKey(), err)
	}
	in, err := tokens.Gather(ctx, reader, secrets, token, registry, r.Now())
	if err != nil {
		return nil, err
	}
	s := &scope{in: in, decision: tokens.Decide(in)}
	s.state, s.known = r.Ledger.State(token.RegistryKey())
	return s, nil
}

func (r *Reconciler) readLive(ctx context.Context, cached *v1alpha1.RegistryToken) (*scope, error) {
	token := &v1alpha1.RegistryToken{}
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(cached), token); err != nil {
		return nil, err
	}
	return r.read(ctx, r.Live, r.Live, token)
}

// act does what was decided, and records in the status what there is to know of the token.
func (r *Reconciler) act(ctx context.Context, s *scope) error {
	token := s.in.Token
	token.Status.ObservedGeneration = token.Generation
	switch s.decision.Action {
	case tokens.Revoke:
		return r.revoke(ctx, s)
	case tokens.Issue:
		if err := r.issue(ctx, s); err != nil {
			return err
		}
	case tokens.Adopt, tokens.Keep:
		if err := r.publish(ctx, s); err != nil {
			return err
		}
	case tokens.Wait, tokens.Stall, tokens.Expire:
		return nil
	}
	record(token, s.decision.Credential)
	return nil
}

// revoke ends the Secret, and finds out whether the pods have ended the token.
func (r *Reconciler) revoke(ctx context.Context, s *scope) error {
	if tokens.Ours(s.in) {
		// Not left to the garbage collector: another object of this name would adopt it.
		err := r.Delete(ctx, s.in.Secret, client.Preconditions{UID: &s.in.Secret.UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("deleting the Secret %s: %w", s.in.Secret.Name, err)
		}
	}
	if meta.IsStatusConditionTrue(s.in.Token.Status.Conditions, v1alpha1.ConditionRevoked) {
		s.proved = true // A revocation is final: no later snapshot can hold the token.
		return nil
	}
	var err error
	s.proved = s.known && s.state.Lacks(s.in.Token.UID)
	if !s.proved {
		s.gone, err = r.registryGone(ctx, s.in.Token)
	}
	return err
}

// ended reports whether nothing is left to wait for in a revocation.
func (s *scope) ended() bool { return s.proved || s.gone }

// registryGone reports whether there is no registry left that could admit the token, or none that could be waited for:
// in a namespace that is being deleted, pods and registries go in no order.
func (r *Reconciler) registryGone(ctx context.Context, token *v1alpha1.RegistryToken) (bool, error) {
	key := token.RegistryKey()
	err := r.Live.Get(ctx, key, &v1alpha1.HelmRegistry{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the registry %s: %w", key, err)
	}
	for _, name := range []string{token.Namespace, key.Namespace} {
		namespace := tokens.Namespace()
		if err := r.Get(ctx, client.ObjectKey{Name: name}, namespace); client.IgnoreNotFound(err) != nil {
			return false, fmt.Errorf("reading the namespace %s: %w", name, err)
		}
		if !namespace.DeletionTimestamp.IsZero() {
			return true, nil
		}
	}
	return false, nil
}

// setFinalizer adds or removes the finalizer, in a pass of its own.
func (r *Reconciler) setFinalizer(ctx context.Context, token *v1alpha1.RegistryToken, change func(client.Object, string) bool) (reconcile.Result, error) {
	before := token.DeepCopy()
	if !change(token, v1alpha1.FinalizerToken) {
		return reconcile.Result{}, nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	err := r.Patch(ctx, token, patch, client.FieldOwner(FieldManager))
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: 50 * time.Millisecond}, nil
	}
	return reconcile.Result{}, client.IgnoreNotFound(err)
}

// applier writes Secrets.
func (r *Reconciler) applier() apply.Applier {
	return apply.Applier{Client: r.Client, Owner: FieldManager}
}

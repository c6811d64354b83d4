// Package registrytoken issues the token of each RegistryToken into a Secret, keeps the Secret as it should be, and sees
// a revocation through: the object is not let go before every live pod refuses the token.
package registrytoken

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
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
	"github.com/chartroom-dev/chartroom/controllers/internal/guests"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
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
	Live   client.Reader
	Ledger ledger.Reader
	// Uses says which tokens pods have accepted.
	Uses     *reports.UsesBoard
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
	// places are the registries whose pods may admit the token.
	places []place
	// proved says that no pod admits the revoked token; gone that there is no registry left to ask.
	proved, gone bool
	// uses says, by registry, which tokens the pods have accepted.
	uses []reports.Uses
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
		return r.applier().SetFinalizer(ctx, token, v1alpha1.FinalizerToken, hold)
	}
	s, err := r.read(ctx, r.Client, r.Owned, token)
	if err != nil {
		return reconcile.Result{}, err
	}
	switch s.decision.Action {
	case tokens.Issue, tokens.Stage, tokens.Switch:
		// What the cache does not show yet, or never, must not be overwritten.
		if s, err = r.readLive(ctx, token); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		token = s.in.Token
	}
	before := token.DeepCopy()
	if s.failure = r.act(ctx, s); s.failure == nil && s.ended() && !token.DeletionTimestamp.IsZero() {
		return r.applier().SetFinalizer(ctx, token, v1alpha1.FinalizerToken, controllerutil.RemoveFinalizer)
	}
	token.Status.Registries = s.registries()
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
	registries, err := tokens.Registries(ctx, reader, token)
	if err != nil {
		return nil, err
	}
	in, err := tokens.Gather(ctx, reader, secrets, token, registries, r.Now())
	if err != nil {
		return nil, err
	}
	s := &scope{in: in}
	if s.places, err = r.places(ctx, reader, in); err != nil {
		return nil, err
	}
	for _, p := range s.places {
		uses, _ := r.Uses.State(p.registry)
		s.uses = append(s.uses, uses)
	}
	s.in.Enforced = s.enforces
	s.decision = tokens.Decide(s.in)
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
	case tokens.Stage:
		if err := r.stage(ctx, s); err != nil {
			return err
		}
	case tokens.Adopt, tokens.Keep, tokens.Switch:
		if err := r.publish(ctx, s); err != nil {
			return err
		}
	case tokens.Wait, tokens.Stall, tokens.Expire:
		return nil
	}
	record(token, s.decision.Credentials)
	token.Status.LastUsed = s.lastUsed()
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
	waiting := slices.DeleteFunc(slices.Clone(s.places), s.refuses)
	s.proved = len(s.places) > 0 && len(waiting) == 0
	s.gone = !s.proved
	for _, p := range waiting {
		registry, err := guests.MustConfirm(ctx, r.Live, r.Client, s.in.Token.Namespace, p.registry)
		if err != nil || registry != nil {
			s.gone = false
			return err
		}
	}
	return nil
}

// ended reports whether nothing is left to wait for in a revocation.
func (s *scope) ended() bool { return s.proved || s.gone }

// hold adds the finalizer, and to a token that was made elsewhere what a restore needs to know: its Secret cannot tell.
func hold(token client.Object, finalizer string) bool {
	if token.(*v1alpha1.RegistryToken).Unpublished() && token.GetAnnotations()[v1alpha1.AnnotationIssuedAt] == "" {
		annotations := maps.Clone(token.GetAnnotations())
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[v1alpha1.AnnotationIssuedAt] = token.GetCreationTimestamp().UTC().Format(time.RFC3339)
		token.SetAnnotations(annotations)
	}
	return controllerutil.AddFinalizer(token, finalizer)
}

// applier writes Secrets, and finalizers.
func (r *Reconciler) applier() apply.Applier {
	return apply.Applier{Client: r.Client, Owner: FieldManager}
}

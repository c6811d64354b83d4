// Package podreports asks the pods of every registry, from time to time and whenever they change, what they say of
// themselves, and records it for the other controllers. It decides nothing and writes to nothing else.
package podreports

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/controllers/internal/wake"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// period is the time between two rounds when nothing happens: how late a condition may be that no event tells of.
	period = 15 * time.Second
	// soon is the time until pods are asked again that did not answer.
	soon = time.Second
	// parallel is the number of pods of one registry that are asked at the same time.
	parallel = 16
)

// Pods asks registry pods on their admin port.
type Pods interface {
	About(ctx context.Context, registry types.NamespacedName, ip string) (wire.About, error)
	Uses(ctx context.Context, registry types.NamespacedName, ip string) (wire.Uses, error)
}

// Reconciler keeps the reports. All fields are set before SetupWithManager.
type Reconciler struct {
	client.Client
	// Owned caches the pods that bear the operator's label.
	Owned   cache.Cache
	Pods    Pods
	Reports *reports.Board
	Uses    *reports.UsesBoard
}

// +kubebuilder:rbac:groups=chartroom.dev,resources=helmregistries,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch

// Reconcile asks the pods of one registry.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	key := request.NamespacedName
	if err := r.Get(ctx, key, &v1alpha1.HelmRegistry{}); apierrors.IsNotFound(err) {
		r.Reports.Forget(key)
		r.Uses.Forget(key)
		return reconcile.Result{}, nil
	} else if err != nil {
		return reconcile.Result{}, fmt.Errorf("reading the registry: %w", err)
	}
	pods, err := r.running(ctx, key)
	if err != nil {
		return reconcile.Result{}, err
	}
	state := r.ask(ctx, key, pods)
	r.Reports.Set(key, state)
	pause := period
	if len(state.Pods) < len(pods) {
		pause = soon
	}
	if len(pods) == 0 {
		return reconcile.Result{}, nil // A pod that comes up wakes us.
	}
	return reconcile.Result{RequeueAfter: wait.Jitter(pause/2, 1)}, nil
}

// running returns the pods of a registry that can answer, sorted by name.
func (r *Reconciler) running(ctx context.Context, key types.NamespacedName) ([]corev1.Pod, error) {
	list := &corev1.PodList{}
	if err := r.Owned.List(ctx, list, client.InNamespace(key.Namespace), client.MatchingLabels{
		v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelRegistry: key.Name,
	}); err != nil {
		return nil, fmt.Errorf("listing the registry's pods: %w", err)
	}
	pods := slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		return pod.Status.PodIP == "" || pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil
	})
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return pods, nil
}

func (r *Reconciler) ask(ctx context.Context, key types.NamespacedName, pods []corev1.Pod) reports.State {
	answers := make([]*reports.Pod, len(pods))
	usages := make([]*wire.UsageState, len(pods))
	uses := make([]reports.PodUses, len(pods))
	known, _ := r.Uses.State(key)
	slots := make(chan struct{}, parallel)
	var group sync.WaitGroup
	for i := range pods {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			uses[i] = known[pods[i].UID]
			if about, err := r.Pods.About(ctx, key, pods[i].Status.PodIP); err == nil {
				uses[i] = r.askUses(ctx, key, pods[i].Status.PodIP, about, uses[i])
				answers[i] = &reports.Pod{Name: pods[i].Name, Storage: about.Storage, Retention: about.Retention, Garbage: about.Garbage, Issuers: about.Issuers}
				usages[i] = about.Usage
			}
		})
	}
	group.Wait()
	said := reports.Uses{}
	for i := range pods {
		said[pods[i].UID] = uses[i]
	}
	r.Uses.Set(key, said)
	var state reports.State
	for _, answer := range answers {
		if answer != nil {
			state.Pods = append(state.Pods, *answer)
		}
	}
	before, _ := r.Reports.State(key)
	// Each counts for all; they agree within seconds.
	return state.Used(cmp.Or(usages...), before, time.Now())
}

// askUses returns which tokens a pod has accepted: what it said before, unless that has changed.
func (r *Reconciler) askUses(ctx context.Context, key types.NamespacedName, ip string, about wire.About, before reports.PodUses) reports.PodUses {
	if about.Uses == before.Count {
		return before
	}
	uses, err := r.Pods.Uses(ctx, key, ip)
	if err != nil {
		return before // The next round asks again.
	}
	at := make(map[string]time.Time, len(uses.Tokens))
	for _, token := range uses.Tokens {
		if token.At.After(at[token.SHA256]) {
			at[token.SHA256] = token.At.UTC()
		}
	}
	return reports.PodUses{Count: uses.Count, At: at}
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(manager ctrl.Manager) error {
	err := ctrl.NewControllerManagedBy(manager).
		Named("podreports").
		For(&v1alpha1.HelmRegistry{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Kind(r.Owned, &corev1.Pod{}, handler.TypedEnqueueRequestsFromMapFunc(wake.RegistryOfPod))).
		// A worker may wait a second for pods that do not answer; others go on.
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("setting up the controller of pods' reports: %w", err)
	}
	return nil
}

package accesssync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/registryclient"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// parallel is the number of pods of one registry that are asked at the same time.
	parallel = 16
	// insist is how long one round tries a pod that refuses the connection, because its server is about to listen.
	insist = 400 * time.Millisecond
	// maxNamed bounds the pods that a message names.
	maxNamed = 3
)

// listPods returns the pods of a registry that have an address and are not finished, sorted by name, and drops from
// memory what is no longer true: pods that are gone, and what containers said before they were started again.
func (r *Reconciler) listPods(ctx context.Context, key types.NamespacedName, m *memory) ([]*corev1.Pod, error) {
	list := &corev1.PodList{}
	if err := r.Owned.List(ctx, list, client.InNamespace(key.Namespace), client.MatchingLabels{
		v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelRegistry: key.Name,
	}); err != nil {
		return nil, fmt.Errorf("listing the registry's pods: %w", err)
	}
	var pods []*corev1.Pod
	known := map[types.UID]podMemory{}
	for i := range list.Items {
		pod := &list.Items[i]
		if pod.Status.PodIP == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		of := m.pods[pod.UID]
		if n := restarts(pod); n != of.restarts {
			of = podMemory{restarts: n}
		}
		if !live(pod) {
			of.failing = time.Time{}
		}
		known[pod.UID] = of
		pods = append(pods, pod)
	}
	m.pods = known
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return pods, nil
}

func containerStatus(pod *corev1.Pod) *corev1.ContainerStatus {
	for i := range pod.Status.ContainerStatuses {
		if s := &pod.Status.ContainerStatuses[i]; s.Name == desired.Container {
			return s
		}
	}
	return nil
}

func restarts(pod *corev1.Pod) int32 {
	if s := containerStatus(pod); s != nil {
		return s.RestartCount
	}
	return 0
}

// live reports whether a pod with an address may admit clients, ready, terminating or not. A pod whose server is known
// not to run admits nobody; when it runs again it starts with what was written before, and is sent the newest at once.
func live(pod *corev1.Pod) bool {
	s := containerStatus(pod)
	return s == nil || s.State.Waiting == nil && s.State.Terminated == nil
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// confirmed reports whether a pod has said that it enforces the newest snapshot.
func (m *memory) confirmed(pod *corev1.Pod) bool {
	of := m.pods[pod.UID]
	return of.answered && of.state.Revision == m.newest.Access.Revision && of.state.Digest == m.newest.Access.Digest
}

// deliver sends the newest snapshot to the pods that have not confirmed it, in parallel.
func (r *Reconciler) deliver(ctx context.Context, key types.NamespacedName, m *memory, pods []*corev1.Pod) {
	answers := make([]podMemory, len(pods))
	slots := make(chan struct{}, parallel)
	var group sync.WaitGroup
	for i, pod := range pods {
		answers[i] = m.pods[pod.UID]
		if m.confirmed(pod) || answers[i].refused {
			continue
		}
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			answers[i] = r.ask(ctx, key, pod, answers[i], m.newest.Access, m.document)
		})
	}
	group.Wait()
	for i, pod := range pods {
		m.pods[pod.UID] = answers[i]
	}
}

// ask brings a snapshot to one pod and returns what is known of the pod afterwards.
func (r *Reconciler) ask(ctx context.Context, key types.NamespacedName, pod *corev1.Pod, of podMemory, newest wire.Access, document []byte) podMemory {
	// A pod that is ready was told before the operator started, as a rule. One that is not waits to be told.
	if !of.answered && of.failing.IsZero() && ready(pod) {
		about, err := r.Pods.About(ctx, key, pod.Status.PodIP)
		if err == nil && about.Access.Revision == newest.Revision && about.Access.Digest == newest.Digest {
			return podMemory{restarts: of.restarts, answered: true, state: about.Access}
		}
	}
	deadline := time.Now().Add(insist)
	for {
		state, err := r.Pods.PushAccess(ctx, key, pod.Status.PodIP, document)
		if err == nil || errors.Is(err, registryclient.ErrNewer) || errors.Is(err, registryclient.ErrRefused) {
			return podMemory{restarts: of.restarts, answered: true, state: state, refused: errors.Is(err, registryclient.ErrRefused)}
		}
		if !live(pod) || time.Now().After(deadline) || ctx.Err() != nil {
			if live(pod) && of.failing.IsZero() {
				of.failing = r.Now()
			}
			return of
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait.Jitter(20*time.Millisecond, 3)):
		}
	}
}

// judge says how far the newest snapshot has come.
func (m *memory) judge(registry *v1alpha1.HelmRegistry, pods []*corev1.Pod, c compiled, taken bool) ledger.State {
	s := ledger.State{
		Generation: registry.Generation,
		Revision:   int64(m.newest.Access.Revision), //nolint:gosec // One more for each change: it stays far below 2^63.
		Digest:     m.newest.Access.Digest,
		Newest:     m.newest,
	}
	var waiting, refusing []string
	for _, pod := range pods {
		if !live(pod) {
			continue
		}
		s.Total++
		of := m.pods[pod.UID]
		switch {
		case m.confirmed(pod):
			s.Confirmed++
			continue
		case of.refused:
			refusing = append(refusing, pod.Name)
		default:
			waiting = append(waiting, pod.Name)
		}
		if m.inForce != nil && (!of.answered || of.state.Revision < m.inForce.Access.Revision) {
			m.inForce = nil
		}
	}
	if s.Confirmed == s.Total {
		m.inForce, m.rounds = m.newest, 0
	} else {
		m.rounds++
	}
	s.InForce = m.inForce
	switch {
	case taken:
		s.Reason, s.Stalled = ledger.ReasonNameTaken, true
		s.Message = fmt.Sprintf("the Secret %s exists and is not this registry's; delete it, so that the access snapshot can be written there", desired.AccessName(registry))
	case c.leftOut > 0:
		s.Reason, s.Stalled = ledger.ReasonTooManyTokens, true
		s.Message = fmt.Sprintf("the registry has no room for %d of its tokens, the youngest; delete some RegistryTokens, or shorten their charts", c.leftOut)
	case len(refusing) > 0:
		s.Reason = ledger.ReasonSnapshotRefused
		s.Message = fmt.Sprintf("revision %d of the access snapshot is refused by %s, which may be of another version", s.Revision, naming(refusing))
	case s.Total == 0:
		s.Reason, s.Message = ledger.ReasonNoReplicas, "the registry has no running pod"
	case len(waiting) > 0:
		s.Reason = ledger.ReasonWaitingForReplicas
		s.Message = fmt.Sprintf("%d of %d pods enforce revision %d of the access snapshot; waiting for %s", s.Confirmed, s.Total, s.Revision, naming(waiting))
	}
	return s
}

func naming(names []string) string {
	if more := len(names) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), more)
	}
	return strings.Join(names, ", ")
}

// pause returns when to come back: soon while pods have not confirmed, else when the first token expires; zero is never.
func (m *memory) pause(s ledger.State, next, now time.Time) time.Duration {
	var pause time.Duration
	switch {
	case s.Confirmed < s.Total && m.outranked(m.newest.Access):
		return 10 * time.Millisecond // A pod is ahead; the next revision will be above it.
	case s.Confirmed < s.Total && m.rounds > 20:
		pause = 30 * time.Second
	case s.Confirmed < s.Total:
		pause = 100 * time.Millisecond << min(m.rounds, 3)
	case s.Reason == ledger.ReasonNameTaken:
		pause = time.Minute // What is not ours is not watched.
	case next.IsZero():
		return 0
	default:
		return max(next.Sub(now), 0) + time.Second
	}
	return wait.Jitter(pause/2, 2)
}

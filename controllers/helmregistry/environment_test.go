package helmregistry_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/helmregistry"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/pki"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/chartroom-dev/chartroom/test/integration/environment"
)

// These tests run the controller, with the operator's own rights, against a real API server. There is no node and no
// other controller: the tests play the volume provisioner, the Deployment controller and accesssync.

const image = "localhost/chartroom:test"

var (
	env      *environment.Environment
	accesses = ledger.New()
	said     = reports.New()
	holding  = reports.NewInventories()
	purgers  = &fakePurgers{state: map[types.NamespacedName]wire.PurgeState{}}
	// cutOff makes every Service lead nowhere.
	cutOff atomic.Bool
)

// fakePurgers play the pods that delete the charts of registries.
type fakePurgers struct {
	mu    sync.Mutex
	state map[types.NamespacedName]wire.PurgeState
	begun map[types.NamespacedName]int
}

func (f *fakePurgers) Purge(_ context.Context, registry types.NamespacedName, _ string, begin bool) (wire.PurgeState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state, ok := f.state[registry]
	if !ok {
		return state, errors.New("connection refused")
	}
	if begin {
		if f.begun == nil {
			f.begun = map[types.NamespacedName]int{}
		}
		f.begun[registry]++
		state.Phase, state.Problem = wire.PurgeRunning, ""
		f.state[registry] = state
	}
	return state, nil
}

func (f *fakePurgers) set(r *v1alpha1.HelmRegistry, state wire.PurgeState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state[client.ObjectKeyFromObject(r)] = state
}

func (f *fakePurgers) told(r *v1alpha1.HelmRegistry) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.begun[client.ObjectKeyFromObject(r)]
}

func dialService(context.Context, string, string) (net.Conn, error) {
	if cutOff.Load() {
		return nil, syscall.ECONNREFUSED
	}
	here, there := net.Pipe()
	return here, there.Close()
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctrl.SetLogger(logr.Discard())
	if env, err = environment.Start(); err != nil {
		return 1, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	defer func() {
		cancel()
		err = errors.Join(err, <-stopped, env.Stop())
	}()
	mgr, err := operator(accesses)
	if err != nil {
		stopped <- nil
		return 1, err
	}
	go func() { stopped <- mgr.Start(ctx) }()
	return m.Run(), nil
}

// operator is a manager with the controller in it, which has the operator's own rights.
func operator(accesses ledger.Reader) (ctrl.Manager, error) {
	mgr, err := ctrl.NewManager(env.Operator, ctrl.Options{
		Scheme: env.Scheme, Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr(true)},
		Cache: cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
	})
	if err != nil {
		return nil, err
	}
	reconciler := &helmregistry.Reconciler{
		Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Events: mgr.GetEventRecorder("chartroom-operator"),
		Ledger:              accesses,
		Reports:             said,
		Inventories:         holding,
		Pods:                purgers,
		Authorities:         &pki.Store{Reader: mgr.GetAPIReader(), Writer: mgr.GetClient(), Namespace: environment.OperatorNamespace},
		RegistryImage:       image,
		OperatorNamespace:   environment.OperatorNamespace,
		AllowedHostSuffixes: []string{"example.com"},
		DialService:         dialService,
	}
	return mgr, reconciler.SetupWithManager(mgr)
}

// namespace makes a namespace for one test.
func namespace(t *testing.T) string {
	t.Helper()
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	create(t, n)
	return n.Name
}

func create(t *testing.T, o client.Object) {
	t.Helper()
	if err := env.Client.Create(t.Context(), o); err != nil {
		t.Fatalf("creating %T: %v", o, err)
	}
}

func get[T client.Object](t *testing.T, o T, namespace, name string) T {
	t.Helper()
	if err := env.Client.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, o); err != nil {
		t.Fatalf("reading %T %s/%s: %v", o, namespace, name, err)
	}
	return o
}

// eventually waits until condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(25 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("did not come true: %s", what)
}

func registry(t *testing.T, spec v1alpha1.HelmRegistrySpec) *v1alpha1.HelmRegistry {
	t.Helper()
	r := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: namespace(t), Name: "charts"}, Spec: spec}
	create(t, r)
	return r
}

// refresh reads the registry again, and checks that its status keeps kstatus's rules.
func refresh(t *testing.T, r *v1alpha1.HelmRegistry) *v1alpha1.HelmRegistry {
	t.Helper()
	get(t, r, r.Namespace, r.Name)
	checkStatus(t, r)
	return r
}

func checkStatus(t *testing.T, r *v1alpha1.HelmRegistry) {
	t.Helper()
	if len(r.Status.Conditions) == 0 {
		if r.Status.ObservedGeneration != -1 {
			t.Errorf("without conditions observedGeneration is %d, want -1", r.Status.ObservedGeneration)
		}
		return
	}
	ready := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady)
	reconciling := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReconciling)
	stalled := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionStalled)
	switch {
	case ready == nil:
		t.Errorf("there is no condition Ready: %+v", r.Status.Conditions)
	case ready.Status == metav1.ConditionTrue && (reconciling != nil || stalled != nil):
		t.Errorf("Ready, and yet Reconciling or Stalled: %+v", r.Status.Conditions)
	case ready.Status != metav1.ConditionTrue && (reconciling == nil) == (stalled == nil):
		t.Errorf("not Ready, and not exactly one of Reconciling and Stalled: %+v", r.Status.Conditions)
	case ready.Status == metav1.ConditionTrue && ready.ObservedGeneration != r.Status.ObservedGeneration:
		t.Errorf("Ready is about generation %d, the status about %d", ready.ObservedGeneration, r.Status.ObservedGeneration)
	}
	for _, c := range []*metav1.Condition{reconciling, stalled} {
		if c != nil && c.Status != metav1.ConditionTrue {
			t.Errorf("%s is there, and not True", c.Type)
		}
	}
	for _, c := range r.Status.Conditions {
		if c.ObservedGeneration > r.Generation || c.Reason == "" {
			t.Errorf("condition %+v of an object of generation %d", c, r.Generation)
		}
	}
}

// condition waits until a condition has a status and a reason for the newest generation.
func condition(t *testing.T, r *v1alpha1.HelmRegistry, kind string, status metav1.ConditionStatus, reason string) *metav1.Condition {
	t.Helper()
	var c *metav1.Condition
	deadline := time.Now().Add(time.Minute)
	for {
		refresh(t, r)
		c = meta.FindStatusCondition(r.Status.Conditions, kind)
		if c != nil && c.Status == status && (reason == "" || c.Reason == reason) && r.Status.ObservedGeneration == r.Generation && c.ObservedGeneration == r.Generation {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatalf("condition %s did not become %s/%s; the conditions are %+v", kind, status, reason, r.Status.Conditions)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// bind plays the volume provisioner.
func bind(t *testing.T, r *v1alpha1.HelmRegistry, name string) {
	t.Helper()
	claim := &corev1.PersistentVolumeClaim{}
	eventually(t, "there is a claim", func() bool {
		return env.Client.Get(t.Context(), types.NamespacedName{Namespace: r.Namespace, Name: name}, claim) == nil
	})
	claim.Status.Phase = corev1.ClaimBound
	claim.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(1<<40, resource.BinarySI)}
	if err := env.Client.Status().Update(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
}

// rollOut plays the Deployment controller: all pods are of the newest template and ready.
func rollOut(t *testing.T, r *v1alpha1.HelmRegistry) {
	t.Helper()
	eventually(t, "the Deployment is rolled out", func() bool {
		d := &appsv1.Deployment{}
		if env.Client.Get(t.Context(), client.ObjectKeyFromObject(r), d) != nil {
			return false
		}
		n := *d.Spec.Replicas
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n}
		return env.Client.Status().Update(t.Context(), d) == nil
	})
}

// confirm plays accesssync, for this generation of the registry and all later ones.
func confirm(r *v1alpha1.HelmRegistry) {
	accesses.Set(client.ObjectKeyFromObject(r), ledger.State{Generation: math.MaxInt64, Revision: 1, Confirmed: 1, Total: 1})
}

// bringUp binds the claim, rolls out and confirms, until the registry is Ready.
func bringUp(t *testing.T, r *v1alpha1.HelmRegistry) {
	t.Helper()
	bind(t, r, "charts")
	confirm(r)
	becomeReady(t, r)
}

// becomeReady rolls out whatever the operator asks for, until the registry is Ready for its newest generation.
func becomeReady(t *testing.T, r *v1alpha1.HelmRegistry) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the registry's conditions were %+v", r.Status.Conditions)
		}
	})
	eventually(t, "the registry is Ready", func() bool {
		d := &appsv1.Deployment{}
		if env.Client.Get(t.Context(), client.ObjectKeyFromObject(r), d) == nil && d.Status.ObservedGeneration != d.Generation {
			rollOut(t, r)
		}
		ready := meta.FindStatusCondition(refresh(t, r).Status.Conditions, v1alpha1.ConditionReady)
		return ready != nil && ready.Status == metav1.ConditionTrue && r.Status.ObservedGeneration == r.Generation
	})
}

// update changes a registry and waits for nothing.
func update(t *testing.T, r *v1alpha1.HelmRegistry, change func(*v1alpha1.HelmRegistrySpec)) {
	t.Helper()
	eventually(t, "the registry is updated", func() bool {
		get(t, r, r.Namespace, r.Name)
		change(&r.Spec)
		return env.Client.Update(t.Context(), r) == nil
	})
}

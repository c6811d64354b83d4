// Package integration runs the whole operator, with its own rights, against a real API server. There is no node: the tests
// play the kubelet, and a pod is an object whose admin port is the registry server's own, on the loopback interface.
package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
	"github.com/chartroom-dev/chartroom/registryserver/admin"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/chartroom-dev/chartroom/test/integration/environment"
)

var (
	env *environment.Environment
	op  = &operator{}
	// addresses are the listeners of the pods, by the address that the operator dials.
	addresses sync.Map
	// tried is since when, by address, the operator has dialled a pod that is cut off, and when it did last.
	tried sync.Map
	ips   atomic.Int32
	// issuerHidden has the API server tell the operator nothing of the cluster's issuer.
	issuerHidden atomic.Bool
)

// hidingIssuer is the operator's way to the API server.
type hidingIssuer struct{ http.RoundTripper }

func (h hidingIssuer) RoundTrip(r *http.Request) (*http.Response, error) {
	if issuerHidden.Load() && r.URL.Path == "/.well-known/openid-configuration" {
		return nil, errors.New("the test hides the issuer")
	}
	return h.RoundTripper.RoundTrip(r)
}

func TestMain(m *testing.M) {
	// go test shows it when something fails.
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	var err error
	if env, err = environment.Start(); err != nil {
		return 1, err
	}
	if err = op.start(); err != nil {
		return 1, errors.Join(err, env.Stop())
	}
	code := m.Run()
	return code, errors.Join(op.stop(), env.Stop())
}

// operator is the running operator.
type operator struct {
	cancel  context.CancelFunc
	done    chan error
	metrics *prometheus.Registry
}

func (o *operator) start() error {
	var ctx context.Context
	ctx, o.cancel = context.WithCancel(context.Background())
	o.done, o.metrics = make(chan error, 1), prometheus.NewRegistry()
	skip := true
	connection := rest.CopyConfig(env.Operator)
	connection.Wrap(func(way http.RoundTripper) http.RoundTripper { return hidingIssuer{way} })
	manager, err := ctrl.NewManager(connection, ctrl.Options{
		Scheme:     env.Scheme,
		Cache:      controllers.Cache(),
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		return err
	}
	if err := controllers.Add(ctx, manager, controllers.Options{
		Namespace:     environment.OperatorNamespace,
		RegistryImage: "localhost/chartroom:test",
		Metrics:       o.metrics,
		DialPod:       dial,
		// Nobody routes Services here.
		DialService: func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			return here, there.Close()
		},
	}); err != nil {
		return err
	}
	go func() { o.done <- manager.Start(ctx) }()
	return nil
}

func (o *operator) stop() error {
	o.cancel()
	return <-o.done
}

// dial leads to the listener of a pod; there is no answer from one that is cut off.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	if to, ok := addresses.Load(address); ok {
		return new(net.Dialer).DialContext(ctx, network, to.(string))
	}
	now := time.Now()
	first, _ := tried.LoadOrStore(address, [2]time.Time{now, now})
	tried.Store(address, [2]time.Time{first.([2]time.Time)[0], now})
	<-ctx.Done()
	return nil, ctx.Err()
}

// cluster is what one test does with the API server, in a namespace of its own.
type cluster struct {
	t         *testing.T
	namespace string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t}
	c.namespace = c.newNamespace(nil).Name
	return c
}

func (c *cluster) newNamespace(labels map[string]string) *corev1.Namespace {
	c.t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: labels}}
	c.create(namespace)
	return namespace
}

// registry returns the registry "charts" of the test's namespace.
func (c *cluster) registry(change func(*v1alpha1.HelmRegistry)) *v1alpha1.HelmRegistry {
	registry := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "charts"}}
	if change != nil {
		change(registry)
	}
	return registry
}

func (c *cluster) create(o client.Object) {
	c.t.Helper()
	if err := env.Client.Create(c.t.Context(), o); err != nil {
		c.t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
	}
}

func (c *cluster) get(o client.Object) {
	c.t.Helper()
	if err := env.Client.Get(c.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		c.t.Fatalf("reading %T %s: %v", o, o.GetName(), err)
	}
}

// exists reads an object when there is one.
func (c *cluster) exists(o client.Object) bool {
	c.t.Helper()
	err := env.Client.Get(c.t.Context(), client.ObjectKeyFromObject(o), o)
	if err != nil && !apierrors.IsNotFound(err) {
		c.t.Fatalf("reading %T %s: %v", o, o.GetName(), err)
	}
	return err == nil
}

func (c *cluster) update(o client.Object, change func()) {
	c.t.Helper()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		c.get(o)
		change()
		return env.Client.Update(c.t.Context(), o)
	})
	if err != nil {
		c.t.Fatalf("updating %T %s: %v", o, o.GetName(), err)
	}
}

func (c *cluster) delete(o client.Object) {
	c.t.Helper()
	if err := env.Client.Delete(c.t.Context(), o); client.IgnoreNotFound(err) != nil {
		c.t.Fatalf("deleting %T %s: %v", o, o.GetName(), err)
	}
}

func (c *cluster) eventually(what string, condition func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if condition() {
			return
		}
	}
	c.t.Fatalf("did not come true: %s", what)
}

func (c *cluster) hasEvent(about client.Object, reason string) bool {
	c.t.Helper()
	list := &eventsv1.EventList{}
	if err := env.Client.List(c.t.Context(), list, client.InNamespace(about.GetNamespace())); err != nil {
		c.t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Regarding.UID == about.GetUID() && e.Reason == reason {
			return true
		}
	}
	return false
}

// floor returns the snapshot in the Secret of the registry "charts".
func (c *cluster) floor() wire.Access { return c.floorOf("charts") }

func (c *cluster) floorOf(registry string) wire.Access {
	c.t.Helper()
	secret := c.accessSecretOf(registry)
	if !c.exists(secret) {
		return wire.Access{}
	}
	a, err := wire.DecodeAccess(secret.Data["access.json"])
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *cluster) accessSecret() *corev1.Secret { return c.accessSecretOf("charts") }

func (c *cluster) accessSecretOf(registry string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: registry + "-access"}}
}

// pod is a pod of a registry.
type pod struct {
	c        *cluster
	registry string
	name, ip string
	enforcer *access.Enforcer
	asked    atomic.Int32
	pushed   atomic.Int32
	// early says that a snapshot arrived before it was in the Secret.
	early atomic.Bool
	// shelf is what the pod says that it holds.
	shelf *shelf
	stop  func() error
}

// startPod starts a ready pod of the registry "charts", with an empty memory.
func (c *cluster) startPod(name string) *pod {
	c.t.Helper()
	return c.startPodOf("charts", name)
}

func (c *cluster) startPodOf(registry, name string) *pod {
	c.t.Helper()
	n := ips.Add(1)
	p := &pod{c: c, registry: registry, name: name, ip: fmt.Sprintf("10.1.%d.%d", n/250, n%250+1), shelf: newShelf()}
	p.enforcer = access.NewEnforcer(access.EnforcerOptions{
		Registry: c.namespace + "/" + registry, StateDir: c.t.TempDir(), Audience: c.registry(nil).URL(), AllowedNetworks: issuertest.Loopback,
	})
	p.serve()
	object := p.object()
	object.Labels = map[string]string{
		v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelRegistry: registry, v1alpha1.LabelServing: "true"}
	object.Spec = corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "registry", Image: "x"}}}
	c.create(object)
	object.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: p.ip, PodIPs: []corev1.PodIP{{IP: p.ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "registry", State: corev1.ContainerState{
			Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}},
	}
	if err := env.Client.Status().Update(c.t.Context(), object); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// serve opens the pod's admin port with the certificate that the operator made for the registry.
func (p *pod) serve() {
	c := p.c
	c.t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: p.registry + "-admin"}}
	c.eventually("the admin certificate is there", func() bool { return c.exists(secret) })
	folder := c.t.TempDir()
	for entry, content := range secret.Data {
		if err := os.WriteFile(filepath.Join(folder, entry), content, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	tlsConfig, err := admin.TLSConfig(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"), filepath.Join(folder, "ca.crt"), log)
	if err != nil {
		c.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	handler := admin.Handler(admin.Options{Program: "test", Registry: c.namespace + "/" + p.registry, Enforcer: p.enforcer, Log: log})
	server := &http.Server{TLSConfig: tlsConfig, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == wire.PathInventory {
				p.shelf.ServeHTTP(w, r)
				return
			}
			document, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(document))
			handler.ServeHTTP(w, r)
			if r.Method != http.MethodPut {
				p.asked.Add(1)
				return
			}
			p.pushed.Add(1)
			written := c.accessSecretOf(p.registry)
			if env.Client.Get(context.WithoutCancel(r.Context()), client.ObjectKeyFromObject(written), written) != nil {
				return // Deleted by the test.
			}
			pushed, _ := wire.DecodeAccess(document)
			if a, err := wire.DecodeAccess(written.Data["access.json"]); err == nil && a.Revision < pushed.Revision {
				p.early.Store(true)
			}
		})}
	go server.ServeTLS(listener, "", "")
	addresses.Store(net.JoinHostPort(p.ip, "5443"), listener.Addr().String())
	p.stop = server.Close
	c.t.Cleanup(func() {
		// A question that waits for its answer would hold up the end.
		p.shelf.close()
		// Not Close: a snapshot that is being kept would still be written into the folder that is removed next.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			c.t.Errorf("the admin port of the pod %s does not end: %v", p.name, err)
		}
		if p.early.Load() {
			c.t.Error("a pod was sent a snapshot that was not in the Secret yet")
		}
	})
}

func (p *pod) object() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.c.namespace, Name: p.name}}
}

// cutOff makes the pod unreachable for the operator, while it goes on.
func (p *pod) cutOff() {
	addresses.Delete(net.JoinHostPort(p.ip, "5443"))
	p.stop()
}

// finish ends the pod, as the kubelet does when its containers have stopped.
func (p *pod) finish() {
	p.c.t.Helper()
	p.cutOff()
	if err := env.Client.Delete(p.c.t.Context(), p.object(), client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
		p.c.t.Fatal(err)
	}
}

// admits reports whether the pod lets the token in a Secret do something.
func (p *pod) admits(secret *corev1.Secret, scope wire.Scope) bool {
	p.c.t.Helper()
	id, err := p.enforcer.Authenticate(p.c.t.Context(), access.Credentials{Secret: string(secret.Data["password"]), Present: true})
	return err == nil && p.enforcer.Authorize(id, scope, "web").Allowed
}

// inForce reports whether the pod enforces what is in the Secret.
func (p *pod) inForce() bool {
	p.c.t.Helper()
	state, floor := p.enforcer.State(), p.c.floorOf(p.registry)
	return state.Revision > 0 && state.Revision == floor.Revision && state.Digest == floor.Digest
}

func TestPodsAreToldAndCounted(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	c.eventually("the snapshot is there before any pod", func() bool { return c.floor().Revision == 1 })
	confirmed := func(n int32) func() bool {
		return func() bool {
			c.get(registry)
			a := registry.Status.Access
			return a != nil && a.Confirmed == n && a.Total == n && a.Revision == int64(c.floor().Revision) &&
				meta.IsStatusConditionTrue(registry.Status.Conditions, v1alpha1.ConditionAccessConfirmed)
		}
	}
	first := c.startPod("charts-1")
	c.eventually("one pod of one has confirmed", confirmed(1))
	second := c.startPod("charts-2")
	c.eventually("two pods of two have confirmed", confirmed(2))
	c.update(registry, func() { registry.Spec.Visibility = v1alpha1.VisibilityPublic })
	c.eventually("both are public", func() bool { return c.floor().Visibility == wire.Public && first.inForce() && second.inForce() })
	c.eventually("two pods of two have confirmed that", confirmed(2))
	second.finish()
	c.eventually("one pod is left", confirmed(1))
	families, err := op.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var measured uint64
	for _, family := range families {
		if family.GetName() == "chartroom_access_confirmation_seconds" {
			measured = family.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	if measured == 0 {
		t.Error("the time until the change was confirmed was not measured")
	}

	// A container that was started again is told again, whatever it said before.
	pushed, object := first.pushed.Load()+first.asked.Load(), first.object()
	c.get(object)
	object.Status.ContainerStatuses[0].RestartCount++
	if err := env.Client.Status().Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	c.eventually("the restarted container was asked", func() bool { return first.pushed.Load()+first.asked.Load() > pushed })
}

func TestRevisionsGoAboveWhatPodsEnforce(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	pod := c.startPod("charts-1")
	c.eventually("the pod enforces the snapshot", pod.inForce)
	ahead := wire.Access{Revision: 40, Registry: c.namespace + "/charts", Visibility: wire.Public}
	if _, err := pod.enforcer.Push(ahead.Encode()); err != nil {
		t.Fatal(err)
	}
	c.create(newToken(c.namespace, "ci", nil))
	c.eventually("the pod enforces a snapshot above its own", func() bool { return pod.inForce() && c.floor().Revision == 41 })
}

func TestAccessSecretComesBack(t *testing.T) {
	c := newCluster(t)
	c.create(c.registry(nil))
	pod := c.startPod("charts-1")
	token := newToken(c.namespace, "ci", nil)
	c.create(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	secret := c.accessSecret()
	for name, change := range map[string]func(){
		"deleted":     func() { c.delete(secret) },
		"edited":      func() { c.update(secret, func() { secret.Data["access.json"] = []byte("{}") }) },
		"labels gone": func() { c.update(secret, func() { secret.Labels = nil }) },
		"owner gone":  func() { c.update(secret, func() { secret.OwnerReferences = nil }) },
		"spaces added": func() {
			c.update(secret, func() { secret.Data["access.json"] = append(secret.Data["access.json"], ' ') })
		},
		"another's rules": func() { c.update(secret, func() { secret.Data["access.json"] = wire.Access{Revision: 99}.Encode() }) },
	} {
		change()
		c.eventually(name+": the Secret is whole again, and in force", func() bool {
			return c.exists(secret) && len(secret.OwnerReferences) == 1 && secret.Labels[v1alpha1.LabelRegistry] == "charts" &&
				!strings.HasSuffix(string(secret.Data["access.json"]), " ") && len(secret.Data["access.json"]) > 100 && pod.inForce()
		})
	}
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
}

// A text for people goes to the pods beside the snapshot, and is none of it.
func TestTextsGoToThePods(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(func(r *v1alpha1.HelmRegistry) { r.Spec.DisplayName = "Charts" })
	c.create(registry)
	pod := c.startPod("charts-1")
	secret := c.accessSecret()
	says := func(name string) bool {
		if !c.exists(secret) {
			return false
		}
		told, err := wire.DecodePresentation(secret.Data[wire.PresentationFile])
		return err == nil && told.DisplayName == name && told.Authority == c.namespace+"/charts-ca"
	}
	c.eventually("the pods are told the title", func() bool { return says("Charts") && pod.inForce() })
	before := c.floor().Revision
	c.update(registry, func() { registry.Spec.DisplayName = "Other charts" })
	c.eventually("the pods are told the new title", func() bool { return says("Other charts") })
	c.update(secret, func() { delete(secret.Data, wire.PresentationFile) })
	c.eventually("the pods are told again", func() bool { return says("Other charts") })
	if after := c.floor().Revision; after != before {
		t.Errorf("a text made revision %d of the access snapshot, after %d", after, before)
	}
}

// What the registry says, and how it is, goes to the pods as well; and what was told leads to no other write.
func TestSettingsGoToThePods(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(func(r *v1alpha1.HelmRegistry) { r.Spec.Description = "What it is for." })
	c.create(registry)
	pod := c.startPod("charts-1")
	secret := c.accessSecret()
	told := func() wire.Settings {
		if !c.exists(secret) {
			return wire.Settings{}
		}
		s, err := wire.DecodeSettings(secret.Data[wire.SettingsFile])
		if err != nil {
			return wire.Settings{}
		}
		return s
	}
	is := func(status string) func() bool {
		return func() bool {
			return slices.ContainsFunc(told().Conditions, func(c wire.Condition) bool { return c.Type == "AccessConfirmed" && c.Status == status })
		}
	}
	c.eventually("the pods are told the spec", func() bool {
		s := told()
		return s.Name == "charts" && strings.Contains(s.Spec, "description: What it is for.") && pod.inForce()
	})
	before, writes := c.floor().Revision, 0
	c.eventually("the pods are told a condition", is("True"))
	c.update(registry, func() { registry.Spec.Description = "Something else." })
	c.eventually("the pods are told the new spec", func() bool { return strings.Contains(told().Spec, "Something else.") && is("True")() })
	version := ""
	c.settle(func() int {
		c.get(secret)
		if secret.ResourceVersion != version {
			version = secret.ResourceVersion
			writes++
		}
		return writes
	})
	if after := c.floor().Revision; after != before {
		t.Errorf("what pods were told made revision %d of the access snapshot, after %d", after, before)
	}
}

func TestForeignAccessSecretIsLeftAlone(t *testing.T) {
	c := newCluster(t)
	foreign := c.accessSecret()
	foreign.StringData = map[string]string{"access.json": "mine"}
	c.create(foreign)
	before := foreign.ResourceVersion
	registry := c.registry(nil)
	c.create(registry)
	c.eventually("the registry is stalled", func() bool {
		c.get(registry)
		stalled := meta.FindStatusCondition(registry.Status.Conditions, v1alpha1.ConditionStalled)
		return stalled != nil && stalled.Reason == "NameTaken"
	})
	if c.get(foreign); foreign.ResourceVersion != before {
		t.Error("the foreign Secret was touched")
	}
}

func TestAnAddedTokenFencesNobody(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	first, silent := c.startPod("charts-1"), c.startPod("charts-2")
	c.eventually("both enforce the snapshot", func() bool { return first.inForce() && silent.inForce() })
	silent.cutOff()
	token := newToken(c.namespace, "ci", nil)
	c.create(token)
	c.eventuallyIs(token, v1alpha1.ConditionPropagated, metav1.ConditionFalse, "WaitingForReplicas")
	c.eventually("the operator tried for longer than a pod may leave a revocation unanswered", func() bool {
		span, ok := tried.Load(net.JoinHostPort(silent.ip, "5443"))
		return ok && span.([2]time.Time)[1].Sub(span.([2]time.Time)[0]) > 8*time.Second
	})
	object := silent.object()
	if c.get(object); !object.DeletionTimestamp.IsZero() || object.Labels[v1alpha1.LabelServing] == "" {
		t.Error("a pod that could not be told of an added token was taken out of service")
	}
	c.update(registry, func() { registry.Spec.Visibility = v1alpha1.VisibilityPublic })
	silent.serve()
	c.eventually("the pod is told when it answers again", silent.inForce)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
}

func TestNothingIsWrittenAtRest(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	pod := c.startPod("charts-1")
	token := newToken(c.namespace, "ci", nil)
	c.create(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	revoked := newToken(c.namespace, "revoked", func(token *v1alpha1.RegistryToken) { token.Spec.State = v1alpha1.TokenRevoked })
	c.create(revoked)
	c.eventuallyIs(revoked, v1alpha1.ConditionRevoked, metav1.ConditionTrue, "Confirmed")
	policy := newPolicy(c.namespace, "ci", "kubernetes", `{"sub":"x"}`, nil)
	c.create(policy)
	c.policyIs(policy, v1alpha1.ConditionIssuersReachable, metav1.ConditionTrue, "Reachable")
	c.policyIs(policy, v1alpha1.ConditionReady, metav1.ConditionTrue, "InForce")
	pod.shelf.push("a", "app", "1.0.0")
	c.holds(registry, 1)
	c.eventually("the registry's status has settled", func() bool {
		c.get(registry)
		return meta.IsStatusConditionTrue(registry.Status.Conditions, v1alpha1.ConditionAccessConfirmed)
	})
	calls := func() []environment.Call {
		all, err := env.OperatorCalls()
		if err != nil {
			t.Fatal(err)
		}
		var own []environment.Call
		for _, call := range all {
			if call.Namespace == c.namespace && call.Resource != "events" {
				own = append(own, call)
			}
		}
		return own
	}
	c.eventually("the pods are told how the registry is", func() bool {
		c.get(registry)
		secret, told := c.accessSecret(), map[string]string{}
		c.get(secret)
		settings, err := wire.DecodeSettings(secret.Data[wire.SettingsFile])
		for _, condition := range settings.Conditions {
			told[condition.Type] = condition.Status + condition.Reason + condition.Message
		}
		return err == nil && len(told) == len(registry.Status.Conditions) && !slices.ContainsFunc(registry.Status.Conditions, func(c metav1.Condition) bool {
			return told[c.Type] != string(c.Status)+c.Reason+c.Message
		})
	})
	c.settle(func() int { return len(calls()) })
	before, pushed := calls(), pod.pushed.Load()
	asked := pod.asked.Load()
	// A new operator reads everything anew, which is more than a resync does.
	if err := op.stop(); err != nil {
		t.Fatal(err)
	}
	if err := op.start(); err != nil {
		t.Fatal(err)
	}
	c.eventually("the new operator asks the pod", func() bool { return pod.asked.Load() > asked })
	c.settle(func() int { return len(calls()) })
	if diff := cmp.Diff(before, calls()); diff != "" {
		t.Errorf("an operator that found nothing changed wrote: %s", diff)
	}
	if pod.pushed.Load() != pushed {
		t.Error("a pod that was up to date was sent the snapshot again")
	}
}

// settle waits until a number has stayed the same for three seconds.
func (c *cluster) settle(number func() int) {
	c.t.Helper()
	last, since := number(), time.Now()
	c.eventually("nothing happens any more", func() bool {
		if n := number(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
}

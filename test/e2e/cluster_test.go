//go:build e2e

// Package e2e tests Chartroom as its users meet it: the operator and the registries run as pods on a real node, and
// every push and pull is made by a real helm. Each test says, in its comment, what a user would see go wrong.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// patience bounds every wait for something that should take seconds: machines are noisy.
const patience = 2 * time.Minute

const operatorNamespace = "chartroom-system"

// root is the top folder of the project.
func root(t *testing.T) string {
	t.Helper()
	folder, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// kubeconfig is the file that names the cluster under test.
func kubeconfig(t *testing.T) string {
	t.Helper()
	file, err := filepath.Abs(kubeconfigFile())
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func kubeconfigFile() string {
	if file := os.Getenv("KUBECONFIG"); file != "" {
		return file
	}
	return "../../.cluster/kubeconfig"
}

func newClient(t *testing.T) client.Client {
	t.Helper()
	c, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func connect() (client.Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfigFile())
	if err != nil {
		return nil, err
	}
	// Tests that run at the same time share what the API server gives to one client.
	config.QPS, config.Burst = 200, 400
	if err := addKinds(); err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: clientgoscheme.Scheme})
}

// addKinds makes the project's kinds known, once for all tests.
var addKinds = sync.OnceValue(func() error { return v1alpha1.AddToScheme(clientgoscheme.Scheme) })

func TestMain(m *testing.M) {
	if err := allowNode(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// allowNode lets registries tell events to receivers on the node, where the tests listen, and to no others in the cluster. It is
// done before the first test, because it rolls all registries.
func allowNode(ctx context.Context) error {
	c, err := connect()
	if err != nil {
		return err
	}
	address, err := nodeAddress(ctx, c)
	if err != nil {
		return err
	}
	var operator appsv1.Deployment
	if err := c.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: "chartroom-operator"}, &operator); err != nil {
		return fmt.Errorf("reading the operator's Deployment: %w", err)
	}
	flag, container := "--allow-egress-cidrs="+address+"/32", &operator.Spec.Template.Spec.Containers[0]
	if slices.Contains(container.Args, flag) {
		return nil
	}
	container.Args = append(container.Args, flag)
	if err := c.Update(ctx, &operator); err != nil {
		return fmt.Errorf("changing the operator's Deployment: %w", err)
	}
	return wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		if err := c.Get(ctx, client.ObjectKeyFromObject(&operator), &operator); err != nil {
			return false, err
		}
		s := operator.Status
		return s.ObservedGeneration == operator.Generation && s.UpdatedReplicas == 1 && s.ReadyReplicas == 1 && s.Replicas == 1, nil
	})
}

// nodeAddress is that of the node, where the tests may listen.
func nodeAddress(ctx context.Context, c client.Client) (string, error) {
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes); err != nil {
		return "", fmt.Errorf("listing the nodes: %w", err)
	}
	for _, node := range nodes.Items {
		for _, address := range node.Status.Addresses {
			if address.Type == corev1.NodeInternalIP {
				return address.Address, nil
			}
		}
	}
	return "", errors.New("no node has an address")
}

// world is one test's corner of the cluster: a namespace that enforces the restricted pod security profile.
type world struct {
	*testing.T
	client.Client
	namespace string
	kubectl   string
	failures  *failures
}

// failures are what the test found wrong. They are said again at its end, below all that the cluster has to say, because
// that is the part of a long log that people are shown.
type failures struct {
	mu    sync.Mutex
	found []string
}

// Errorf is that of testing.T.
func (w *world) Errorf(format string, args ...any) {
	w.Helper()
	w.failures.note(fmt.Sprintf(format, args...))
	w.T.Errorf(format, args...)
}

// Fatalf is that of testing.T.
func (w *world) Fatalf(format string, args ...any) {
	w.Helper()
	w.failures.note(fmt.Sprintf(format, args...))
	w.T.Fatalf(format, args...)
}

func (f *failures) note(found string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found = append(f.found, found)
}

// newWorld makes a namespace, which is deleted with all in it when the test ends. When the test failed, it first prints
// what the cluster knows: objects, events and the logs of the pods.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, Client: newClient(t), kubectl: tool(t, "kubectl"), failures: new(failures)}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "e2e-",
		Labels:       map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	w.must(w.Create(t.Context(), namespace), "creating a namespace")
	w.namespace = namespace.Name
	t.Cleanup(func() {
		if t.Failed() {
			w.report()
		}
		if err := w.Delete(context.Background(), namespace); err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("deleting the namespace: %v", err)
		}
	})
	return w
}

// tool is the path of a program of hack/tool.
func tool(t *testing.T, name string) string {
	t.Helper()
	command := exec.Command(filepath.Join(root(t), "hack/tool"), name)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("hack/tool %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

func (w *world) must(err error, doing string) {
	w.Helper()
	if err != nil {
		w.Fatalf("%s: %v", doing, err)
	}
}

const (
	// reportedLines of each thing that is reported are kept, the last ones, and reportedBytes of each line.
	reportedLines = 40
	reportedBytes = 300
)

// report prints what helps to see why a test failed: at first what the cluster knows, at last what the test found.
func (w *world) report() {
	for _, arguments := range [][]string{
		{"-n", operatorNamespace, "logs", "deployment/chartroom-operator", "--tail=2000"},
		{"-n", w.namespace, "logs", "--selector=app.kubernetes.io/managed-by=chartroom", "--all-containers", "--prefix", "--tail=40"},
		{"-n", w.namespace, "describe", "helmregistries,registrytokens,oidcpolicies"},
		{"-n", w.namespace, "get", "events", "--sort-by=.lastTimestamp"},
		{"-n", w.namespace, "get", "pods,deployments,pvc,helmregistries,registrytokens,oidcpolicies", "-o", "wide"},
	} {
		out, err := exec.Command(w.kubectl, append([]string{"--kubeconfig", kubeconfig(w.T)}, arguments...)...).CombinedOutput()
		about := ""
		if arguments[1] == operatorNamespace {
			about = w.namespace
		}
		w.Logf("kubectl %s (%v)\n%s", strings.Join(arguments, " "), err, excerpt(string(out), about))
	}
	for _, found := range w.failures.found {
		w.Logf("FAILED: %s", found)
	}
}

// excerpt has the last lines of a text that contain about, cut to a length that can be read.
func excerpt(text, about string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, about) {
			lines = append(lines, line[:min(len(line), reportedBytes)])
		}
	}
	lines = lines[max(0, len(lines)-reportedLines):]
	for i, line := range lines {
		lines[i] = strings.TrimSuffix(line, "\n")
	}
	return strings.Join(lines, "\n")
}

// eventually waits until condition returns nil.
func (w *world) eventually(what string, condition func(ctx context.Context) error) {
	w.Helper()
	var last error
	err := wait.PollUntilContextTimeout(w.Context(), 100*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		err := condition(ctx)
		if err == nil || last == nil || ctx.Err() == nil {
			last = err // Not what it says when there is no more time.
		}
		return err == nil, nil
	})
	if err != nil {
		w.Fatalf("waited in vain for %s: %v (last: %v)", what, err, last)
	}
}

// run executes a command line of the host in the cluster's network: names of Services resolve. It returns both outputs
// together.
func (w *world) run(environment []string, stdin string, command ...string) (string, error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(root(w.T), "hack/cluster/run"), command...)
	c.Env = append(os.Environ(), environment...)
	c.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.String(), err
}

// registry creates a HelmRegistry and waits, as a user would, until kubectl says that it is ready.
func (w *world) registry(name string, change ...func(*v1alpha1.HelmRegistry)) *v1alpha1.HelmRegistry {
	w.Helper()
	r := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}}
	for _, c := range change {
		c(r)
	}
	w.must(w.Create(w.Context(), r), "creating a HelmRegistry")
	return w.ready(r)
}

// ready waits for Ready and reads the registry as it is then.
func (w *world) ready(r *v1alpha1.HelmRegistry) *v1alpha1.HelmRegistry {
	w.Helper()
	w.kubectlWait("Ready", "helmregistry/"+r.Name)
	w.must(w.Get(w.Context(), client.ObjectKeyFromObject(r), r), "reading the HelmRegistry")
	return r
}

// change edits an object as kubectl would: what edit did to it is sent, whatever the operator wrote meanwhile.
func (w *world) change(object client.Object, edit func()) {
	w.Helper()
	before := object.DeepCopyObject().(client.Object)
	edit()
	w.must(w.Patch(w.Context(), object, client.MergeFrom(before)), "changing an object")
}

func (w *world) kubectlWait(condition, object string) {
	w.Helper()
	out, err := exec.Command(w.kubectl, "--kubeconfig", kubeconfig(w.T), "-n", w.namespace, "wait",
		"--for=condition="+condition, object, "--timeout="+patience.String()).CombinedOutput()
	if err != nil {
		w.Fatalf("kubectl wait %s %s: %v\n%s", condition, object, err, out)
	}
}

// token creates a RegistryToken, waits until every pod enforces it, and returns it with its secret value.
func (w *world) token(registry, name string, scopes []v1alpha1.Scope, change ...func(*v1alpha1.RegistryToken)) (*v1alpha1.RegistryToken, string) {
	w.Helper()
	token := &v1alpha1.RegistryToken{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec:       v1alpha1.RegistryTokenSpec{RegistryRef: v1alpha1.RegistryReference{Name: registry}, Scopes: scopes},
	}
	for _, c := range change {
		c(token)
	}
	w.must(w.Create(w.Context(), token), "creating a RegistryToken")
	w.kubectlWait("Ready", "registrytoken/"+name)
	var secret corev1.Secret
	w.must(w.Get(w.Context(), client.ObjectKeyFromObject(token), &secret), "reading the token's Secret")
	w.must(w.Get(w.Context(), client.ObjectKeyFromObject(token), token), "reading the RegistryToken")
	return token, string(secret.Data["password"])
}

var (
	readWrite = []v1alpha1.Scope{v1alpha1.ScopeRead, v1alpha1.ScopeWrite}
	readOnly  = []v1alpha1.Scope{v1alpha1.ScopeRead}
)

// caFile writes the certificate authority of a registry to a file.
func (w *world) caFile(registry string) string {
	w.Helper()
	var ca corev1.ConfigMap
	w.must(w.Get(w.Context(), client.ObjectKey{Namespace: w.namespace, Name: registry + "-ca"}, &ca), "reading the CA")
	file := filepath.Join(w.TempDir(), "ca.crt")
	w.must(os.WriteFile(file, []byte(ca.Data["ca.crt"]), 0o600), "writing the CA")
	return file
}

// pods are the live pods of a registry.
func (w *world) pods(ctx context.Context, registry string) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := w.List(ctx, &pods, client.InNamespace(w.namespace), client.MatchingLabels{
		"app.kubernetes.io/managed-by": "chartroom", "chartroom.dev/registry": registry,
	})
	return pods.Items, err
}

// podReady waits for one ready pod that is not in not, and returns it.
func (w *world) podReady(registry string, not ...corev1.Pod) corev1.Pod {
	w.Helper()
	var found corev1.Pod
	w.eventually("a ready pod of "+registry, func(ctx context.Context) error {
		pods, err := w.pods(ctx, registry)
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if !isReady(pod) || pod.DeletionTimestamp != nil || contains(not, pod) {
				continue
			}
			found = pod
			return nil
		}
		return fmt.Errorf("none of %d pods is", len(pods))
	})
	return found
}

func contains(pods []corev1.Pod, pod corev1.Pod) bool {
	for _, p := range pods {
		if p.UID == pod.UID {
			return true
		}
	}
	return false
}

func isReady(pod corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// scaleOperator stops the operator (0) or starts it (1), and waits until it is so.
func (w *world) scaleOperator(replicas int32) {
	w.Helper()
	var operator appsv1.Deployment
	key := client.ObjectKey{Namespace: operatorNamespace, Name: "chartroom-operator"}
	w.must(w.Get(context.Background(), key, &operator), "reading the operator's Deployment")
	before := operator.DeepCopy()
	operator.Spec.Replicas = &replicas
	w.must(w.Patch(context.Background(), &operator, client.MergeFrom(before)), "scaling the operator")
	err := wait.PollUntilContextTimeout(context.Background(), 200*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		var pods corev1.PodList
		if err := w.List(ctx, &pods, client.InNamespace(operatorNamespace)); err != nil {
			return false, err
		}
		running := 0
		for _, pod := range pods.Items {
			if replicas == 0 || isReady(pod) {
				running++
			}
		}
		return running == int(replicas), nil
	})
	w.must(err, "waiting for the operator to scale")
}

// condition returns the status of a condition, "" when it is not there.
func condition(conditions []metav1.Condition, kind string) metav1.ConditionStatus {
	if c := meta.FindStatusCondition(conditions, kind); c != nil {
		return c.Status
	}
	return ""
}

// gone waits until an object does not exist any more.
func (w *world) gone(object client.Object) {
	w.Helper()
	w.eventually(fmt.Sprintf("%T %s to be gone", object, object.GetName()), func(ctx context.Context) error {
		err := w.Get(ctx, client.ObjectKeyFromObject(object), object)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is still there"))
	})
}

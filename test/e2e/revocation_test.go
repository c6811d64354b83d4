//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// asker asks the pods of a registry themselves, past the Service, whether they admit a token.
type asker struct {
	*world
	registry string
	// path is that of the registry, organization and slug.
	path string
	http *http.Client
}

func (w *world) asker(r *v1alpha1.HelmRegistry) *asker {
	w.Helper()
	var ca corev1.ConfigMap
	w.must(w.Get(w.Context(), client.ObjectKey{Namespace: w.namespace, Name: r.Name + "-ca"}, &ca), "reading the CA")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca.Data["ca.crt"]))
	host, path, _ := strings.Cut(strings.TrimPrefix(r.Status.OCIURL, "oci://"), "/")
	name, _, _ := strings.Cut(host, ":")
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS13}}
	w.Cleanup(transport.CloseIdleConnections)
	return &asker{world: w, registry: r.Name, path: path, http: &http.Client{Transport: transport, Timeout: 5 * time.Second}}
}

// status is what a pod answers to who shows a password, or to who shows none where that is empty.
func (a *asker) status(ctx context.Context, pod corev1.Pod, password, path string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(pod.Status.PodIP, "5000")+path, nil)
	if err != nil {
		return 0, err
	}
	if password != "" {
		request.SetBasicAuth("chartroom", password)
	}
	answer, err := a.http.Do(request)
	if err != nil {
		return 0, err
	}
	answer.Body.Close()
	return answer.StatusCode, nil
}

// serving are the pods that are ready; there must be so many.
func (a *asker) serving(n int) []corev1.Pod {
	a.Helper()
	var all []corev1.Pod
	a.eventually(fmt.Sprintf("%d pods, all of them ready", n), func(ctx context.Context) (err error) {
		if all, err = a.pods(ctx, a.registry); err != nil {
			return err
		}
		if len(all) != n || slices.ContainsFunc(all, func(p corev1.Pod) bool { return !isReady(p) }) {
			return fmt.Errorf("there are %d", len(all))
		}
		return nil
	})
	return all
}

// refusedBy requires that each of the pods refuses the password.
func (a *asker) refusedBy(pods []corev1.Pod, password, when string) {
	a.Helper()
	for _, pod := range pods {
		if status, err := a.status(a.Context(), pod, password, "/v2/"); err == nil && status != http.StatusUnauthorized {
			a.Errorf("%s, the pod %s answers %d to a token that is revoked", when, pod.Name, status)
		}
	}
}

// lastAdmitted asks a pod without a pause until it has refused a password and stop was closed, and returns when the last
// request was sent that it admitted. When its answer came would be too late: the pod judged it before.
func (a *asker) lastAdmitted(pod corev1.Pod, password string, stop <-chan struct{}) (last time.Time) {
	for refused := false; ; {
		sent := time.Now()
		status, err := a.status(a.Context(), pod, password, "/v2/")
		switch {
		case a.Context().Err() != nil:
			return last
		case err != nil:
			a.Errorf("asking the pod %s: %v", pod.Name, err)
			return last
		case status == http.StatusOK:
			last = sent
		default:
			refused = true
		}
		select {
		case <-stop:
			if refused {
				return last
			}
		default:
		}
	}
}

// If this fails, a token that leaked goes on working for longer than kubectl says.
func TestRevocationAtThreePods(t *testing.T) {
	w := newWorld(t)
	three := int32(3)
	r := w.onS3(w.s3Server(), func(r *v1alpha1.HelmRegistry) { r.Spec.Replicas = &three })
	a := w.asker(r)
	const tries = 100
	passwords := map[string]string{}
	for i := range tries {
		token := &v1alpha1.RegistryToken{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: fmt.Sprintf("leaked-%d", i)},
			Spec:       v1alpha1.RegistryTokenSpec{RegistryRef: v1alpha1.RegistryReference{Name: "charts"}, Scopes: readOnly},
		}
		w.must(w.Create(t.Context(), token), "creating a RegistryToken")
	}
	w.kubectlWait("Ready", "registrytoken/leaked-"+fmt.Sprint(tries-1))
	for i := range tries {
		name := fmt.Sprintf("leaked-%d", i)
		w.kubectlWait("Ready", "registrytoken/"+name)
		var secret corev1.Secret
		w.must(w.Get(t.Context(), client.ObjectKey{Namespace: w.namespace, Name: name}, &secret), "reading a Secret")
		passwords[name] = string(secret.Data["password"])
	}
	pods := a.serving(3)
	var took []time.Duration
	for name, password := range passwords {
		took = append(took, a.revoke(pods, name, password))
	}
	slices.Sort(took)
	t.Logf("MEASURED from deleting a RegistryToken to the last request that any of 3 pods admitted, in %d tries: median %d ms, worst %d ms",
		tries, took[tries/2].Milliseconds(), took[tries-1].Milliseconds())
}

// revoke deletes a token while all pods are asked, and returns how long one of them went on admitting it. It must be none
// any more once the object is gone.
func (a *asker) revoke(pods []corev1.Pod, name, password string) time.Duration {
	a.Helper()
	var group sync.WaitGroup
	last, stop := make([]time.Time, len(pods)), make(chan struct{})
	for i, pod := range pods {
		if status, err := a.status(a.Context(), pod, password, "/v2/"); err != nil || status != http.StatusOK {
			a.Fatalf("before it is revoked, the pod %s answers the token %d, %v", pod.Name, status, err)
		}
		group.Go(func() { last[i] = a.lastAdmitted(pod, password, stop) })
	}
	token := &v1alpha1.RegistryToken{ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: name}}
	started := time.Now()
	a.must(a.Delete(a.Context(), token), "deleting a RegistryToken")
	var gone time.Time
	a.eventually("the RegistryToken to be gone", func(ctx context.Context) error {
		if err := a.Get(ctx, client.ObjectKeyFromObject(token), token); !apierrors.IsNotFound(err) {
			return errors.Join(err, errors.New("it is there"))
		}
		gone = time.Now()
		return nil
	})
	close(stop)
	group.Wait()
	newest := slices.MaxFunc(last, time.Time.Compare)
	if newest.After(gone) {
		a.Errorf("a pod admitted a request that was sent %s after the token's object was gone", newest.Sub(gone))
	}
	return max(0, newest.Sub(started))
}

// If this fails, a token that was revoked works again, or its revocation never ends, because something else broke at the
// wrong moment.
func TestRevocationThroughFailures(t *testing.T) {
	w := newWorld(t)
	r := w.onS3(w.s3Server())
	t.Cleanup(func() { w.scaleOperator(1) })

	t.Run("operator killed between writing and pushing", func(t *testing.T) {
		w := w.in(t)
		a := w.asker(r)
		token, password := w.token("charts", "written", readOnly)
		key := client.ObjectKey{Namespace: w.namespace, Name: "charts-access"}
		var secret corev1.Secret
		w.must(w.Get(t.Context(), key, &secret), "reading the floor")
		before := secret.ResourceVersion
		operator := w.operatorPods()[0]
		w.inNetworkOf(operator, "iptables", "-I", "OUTPUT", "-p", "tcp", "--dport", "5443", "-j", "DROP")
		w.must(w.Delete(t.Context(), token), "deleting the token")
		for secret.ResourceVersion == before {
			w.must(w.Get(t.Context(), key, &secret), "reading the floor")
		}
		w.kill(operator)
		for _, pod := range a.serving(2) {
			if status, err := a.status(t.Context(), pod, password, "/v2/"); err != nil || status != http.StatusOK {
				w.Errorf("the pod %s heard of the revocation before the operator was killed, so this shows nothing: %d, %v", pod.Name, status, err)
			}
		}
		w.inNetworkOf(w.restarted(operator), "iptables", "-D", "OUTPUT", "-p", "tcp", "--dport", "5443", "-j", "DROP")
		w.gone(token)
		a.refusedBy(a.serving(2), password, "after the operator was killed")
	})

	t.Run("leader moved", func(t *testing.T) {
		w := w.in(t)
		a := w.asker(r)
		w.scaleOperator(2)
		token, password := w.token("charts", "moved", readOnly)
		leader := w.leader()
		w.must(w.Delete(t.Context(), token), "deleting the token")
		w.must(w.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: leader}}), "deleting the leader")
		w.gone(token)
		a.refusedBy(a.serving(2), password, "after the leader moved")
		w.scaleOperator(1)
	})

	t.Run("container restarted before its mount is up to date", func(t *testing.T) {
		w := w.in(t)
		a := w.asker(r)
		token, password := w.token("charts", "mounted", readOnly)
		pods := a.serving(2)
		w.must(w.Delete(t.Context(), token), "deleting the token")
		w.gone(token)
		// The kubelet brings a changed Secret to its mount within about a minute, and the operator may not help.
		w.scaleOperator(0)
		w.kill(pods...)
		for _, pod := range pods {
			w.eventually("the restarted container to refuse", func(ctx context.Context) error {
				status, err := a.status(ctx, pod, password, "/v2/")
				if status == http.StatusOK {
					w.Fatalf("the restarted container admits a token that is revoked")
				}
				return err
			})
		}
		w.scaleOperator(1)
	})

	t.Run("replica cut off from the operator", func(t *testing.T) {
		w := w.in(t)
		a := w.asker(r)
		token, password := w.token("charts", "unreachable", readOnly)
		pods := a.serving(2)
		w.inNetworkOf(pods[0], "iptables", "-I", "INPUT", "-p", "tcp", "--dport", "5443", "-j", "DROP")
		started := time.Now()
		w.must(w.Delete(t.Context(), token), "deleting the token")
		w.gone(token)
		t.Logf("MEASURED a revocation with one of two pods cut off, until it was proved: %d ms", time.Since(started).Milliseconds())
		left := a.serving(2)
		if contains(left, pods[0]) {
			w.Errorf("the pod that could not be reached is still there")
		}
		a.refusedBy(left, password, "after a replica was cut off")
		w.eventually("an event that says so", func(ctx context.Context) error {
			var events corev1.EventList
			if err := w.List(ctx, &events, client.InNamespace(w.namespace)); err != nil {
				return err
			}
			if !slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason == "ReplicaUnreachable" }) {
				return errors.New("there is none")
			}
			return nil
		})
	})

	t.Run("visibility flips", func(t *testing.T) {
		w := w.in(t)
		a := w.asker(r)
		_, password := w.token("charts", "kept", readOnly)
		pods := a.serving(2)
		const list = "/v2/_catalog"
		for _, visibility := range []v1alpha1.Visibility{v1alpha1.VisibilityPublic, v1alpha1.VisibilityPrivate} {
			want := map[v1alpha1.Visibility]int{v1alpha1.VisibilityPublic: http.StatusOK, v1alpha1.VisibilityPrivate: http.StatusUnauthorized}[visibility]
			w.change(r, func() { r.Spec.Visibility = visibility })
			w.eventually("the pods to be "+string(visibility), func(ctx context.Context) error {
				if err := w.Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
					return err
				}
				if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionAccessConfirmed); c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != r.Generation {
					return fmt.Errorf("%+v", c)
				}
				return nil
			})
			for _, pod := range pods {
				if got, err := a.status(t.Context(), pod, "", list); err != nil || got != want {
					w.Errorf("%s is proved, but the pod %s answers a stranger %d, %v", visibility, pod.Name, got, err)
				}
				if got, err := a.status(t.Context(), pod, password, list); err != nil || got != http.StatusOK {
					w.Errorf("while %s, the pod %s answers the token %d, %v", visibility, pod.Name, got, err)
				}
			}
		}
	})
}

// If this fails, who holds a session token keeps rights that its policy no longer gives.
func TestSessionsFollowTheirPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.registry("charts")
	a := w.asker(r)
	account := w.serviceAccount("publisher")
	p := w.policy("charts", "publisher", readWrite)
	w.kubectlWait("Ready", "oidcpolicy/publisher")
	pod := a.serving(1)[0]
	session := a.exchange(pod, w.serviceToken(r, account))
	if got := a.beginsUpload(pod, session); got != http.StatusAccepted {
		w.Fatalf("with the policy as it was, the session's upload is answered %d", got)
	}

	w.change(p, func() { p.Spec.Statements[0].Scopes = readOnly })
	w.eventually("the narrower policy to be in force", func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != p.Generation {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	if got := a.beginsUpload(pod, session); got != http.StatusForbidden {
		w.Errorf("the policy is narrower, and the session's upload is answered %d", got)
	}
	if got, err := a.status(t.Context(), pod, session, "/v2/_catalog"); err != nil || got != http.StatusOK {
		w.Errorf("the session no longer reads: %d, %v", got, err)
	}
	w.must(w.Delete(t.Context(), p), "deleting the policy")
	w.gone(p)
	a.refusedBy([]corev1.Pod{pod}, session, "after the session's policy was deleted")
}

// exchange turns a token into that of a session (RFC 8693).
func (a *asker) exchange(pod corev1.Pod, token string) string {
	a.Helper()
	form := url.Values{
		"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
		"subject_token":      {token},
	}
	answer, err := a.http.PostForm("https://"+net.JoinHostPort(pod.Status.PodIP, "5000")+"/-/oidc/exchange", form)
	a.must(err, "exchanging a token")
	defer answer.Body.Close()
	var said struct {
		AccessToken string `json:"access_token"`
		Description string `json:"error_description"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&said); err != nil || said.AccessToken == "" {
		a.Fatalf("exchanging a token: %d %s %v", answer.StatusCode, said.Description, err)
	}
	return said.AccessToken
}

// beginsUpload is the status with which a pod answers who wants to write.
func (a *asker) beginsUpload(pod corev1.Pod, password string) int {
	a.Helper()
	request, err := http.NewRequestWithContext(a.Context(), http.MethodPost, "https://"+net.JoinHostPort(pod.Status.PodIP, "5000")+"/v2/"+a.path+"/app/blobs/uploads/", nil)
	a.must(err, "making a request")
	request.SetBasicAuth("chartroom", password)
	answer, err := a.http.Do(request)
	a.must(err, "beginning an upload")
	answer.Body.Close()
	return answer.StatusCode
}

func (w *world) operatorPods() []corev1.Pod {
	w.Helper()
	var pods corev1.PodList
	w.must(w.List(w.Context(), &pods, client.InNamespace(operatorNamespace)), "listing the operator's pods")
	return pods.Items
}

// leader is the name of the operator's pod that works.
func (w *world) leader() (name string) {
	w.Helper()
	w.eventually("a leader", func(ctx context.Context) error {
		var leases coordinationv1.LeaseList
		if err := w.List(ctx, &leases, client.InNamespace(operatorNamespace)); err != nil {
			return err
		}
		for _, l := range leases.Items {
			if l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity != "" {
				name, _, _ = strings.Cut(*l.Spec.HolderIdentity, "_")
				return nil
			}
		}
		return errors.New("there is none")
	})
	return name
}

// kill ends the first containers of pods with SIGKILL.
func (w *world) kill(pods ...corev1.Pod) {
	w.Helper()
	for _, pod := range pods {
		container := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
		if out, err := exec.Command(filepath.Join(root(w.T), "hack/cluster/ctr"), "tasks", "kill", "--signal", "SIGKILL", container).CombinedOutput(); err != nil {
			w.Fatalf("killing %s: %v\n%s", pod.Name, err, out)
		}
	}
}

// restarted waits until the first container of a pod runs again that was killed.
func (w *world) restarted(pod corev1.Pod) corev1.Pod {
	w.Helper()
	before := pod.Status.ContainerStatuses[0].RestartCount
	w.eventually("the container of "+pod.Name+" to run again", func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(&pod), &pod); err != nil {
			return err
		}
		if c := pod.Status.ContainerStatuses[0]; c.RestartCount == before || c.State.Running == nil {
			return fmt.Errorf("%+v", c.State)
		}
		return nil
	})
	return pod
}

// inNetworkOf runs a command of the node in the network of a pod.
func (w *world) inNetworkOf(pod corev1.Pod, command ...string) {
	w.Helper()
	container := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	out, err := exec.Command(filepath.Join(root(w.T), "hack/cluster/ctr"), "tasks", "ls").CombinedOutput()
	w.must(err, "listing the containers")
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != container {
			continue
		}
		if out, err := exec.Command("nsenter", append([]string{"--target", fields[1], "--net"}, command...)...).CombinedOutput(); err != nil {
			w.Fatalf("%s in the network of %s: %v\n%s", strings.Join(command, " "), pod.Name, err, out)
		}
		return
	}
	w.Fatalf("no container of %s runs:\n%s", pod.Name, out)
}

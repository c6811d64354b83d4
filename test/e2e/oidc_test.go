//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// policy creates an OIDCPolicy for a service account of the test's namespace.
func (w *world) policy(registry, account string, scopes []v1alpha1.Scope) *v1alpha1.OIDCPolicy {
	w.Helper()
	claims, err := json.Marshal(map[string]string{"sub": "system:serviceaccount:" + w.namespace + ":" + account})
	w.must(err, "writing the claims")
	p := &v1alpha1.OIDCPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: account},
		Spec: v1alpha1.OIDCPolicySpec{
			RegistryRef: &v1alpha1.RegistryReference{Name: registry},
			Statements:  []v1alpha1.PolicyStatement{{Iss: "kubernetes", Scopes: scopes, Claims: &runtime.RawExtension{Raw: claims}}},
		},
	}
	w.must(w.Create(w.Context(), p), "creating an OIDCPolicy")
	return p
}

func (w *world) serviceAccount(name string) *corev1.ServiceAccount {
	w.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}}
	w.must(w.Create(w.Context(), account), "creating a service account")
	return account
}

// serviceToken is a token of a service account for a registry, as the kubelet would project it into a pod.
func (w *world) serviceToken(r *v1alpha1.HelmRegistry, account *corev1.ServiceAccount) string {
	w.Helper()
	lifetime := int64(3600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{r.Status.URL}, ExpirationSeconds: &lifetime}}
	w.must(w.SubResource("token").Create(w.Context(), account, request), "asking for a token of a service account")
	return request.Status.Token
}

// publish runs a pod of a service account that pushes and pulls a chart with nothing but the token that the kubelet
// projects into it. It returns what the pod said, and whether it succeeded.
func (w *world) publish(r *v1alpha1.HelmRegistry, pod, helm, account, archive string) (string, bool) {
	w.Helper()
	content := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: pod},
		BinaryData: map[string][]byte{filepath.Base(archive): read(w.T, archive)},
	}
	w.must(w.Create(w.Context(), content), "creating the chart's ConfigMap")
	no, yes, user, lifetime := false, true, int64(65532), int64(3600)
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: pod},
		Spec: corev1.PodSpec{
			ServiceAccountName: account, AutomountServiceAccountToken: &no, RestartPolicy: corev1.RestartPolicyNever,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, RunAsUser: &user, FSGroup: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "publish", Image: "localhost/publisher:test", ImagePullPolicy: corev1.PullNever,
				Command:         []string{"/publisher", "/" + helm, "/charts", "/chart/" + filepath.Base(archive), r.Status.OCIURL},
				Env:             []corev1.EnvVar{{Name: "HOME", Value: "/tmp"}},
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
				VolumeMounts:    []corev1.VolumeMount{{Name: "charts", MountPath: "/charts"}, {Name: "chart", MountPath: "/chart"}, {Name: "tmp", MountPath: "/tmp"}},
			}},
			Volumes: []corev1.Volume{
				{Name: "charts", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: r.Status.URL, ExpirationSeconds: &lifetime}},
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: r.Name + "-ca"}}},
				}}}},
				{Name: "chart", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: pod}}}},
				{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
		},
	}
	return w.runPod(object)
}

// runPod creates a pod, waits for its end, and returns what it said, and whether it succeeded.
func (w *world) runPod(pod *corev1.Pod) (string, bool) {
	w.Helper()
	w.must(w.Create(w.Context(), pod), "creating a pod")
	w.eventually("the pod "+pod.Name+" to end", func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if phase := pod.Status.Phase; phase != corev1.PodSucceeded && phase != corev1.PodFailed {
			return fmt.Errorf("it is %s", phase)
		}
		return nil
	})
	out, err := exec.Command(w.kubectl, "--kubeconfig", kubeconfig(w.T), "-n", w.namespace, "logs", pod.Name).CombinedOutput()
	w.must(err, "reading what the pod said")
	return string(out), pod.Status.Phase == corev1.PodSucceeded
}

// If this fails, a job in the cluster needs a stored secret to push a chart, or goes on after its right was taken away.
func TestServiceAccountsPublishWithoutSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.registry("charts")
	w.serviceAccount("publisher")
	w.serviceAccount("stranger")
	p := w.policy("charts", "publisher", readWrite)
	w.kubectlWait("Ready", "oidcpolicy/publisher")
	h := w.helm(newestHelm(t), "charts")

	for i, helm := range []string{"helm-v3", "helm-v4"} {
		archive := h.chart("app", fmt.Sprintf("1.0.%d", i), "x", r.Status.Image)
		if out, ok := w.publish(r, "publish-"+helm, helm, "publisher", archive); !ok || !strings.Contains(out, "published") {
			w.Errorf("%s does not push and pull with a projected token:\n%s", helm, out)
		}
	}
	archive := h.chart("app", "2.0.0", "x", r.Status.Image)
	if out, ok := w.publish(r, "stranger", "helm-v4", "stranger", archive); ok {
		w.Errorf("another service account publishes:\n%s", out)
	}

	w.kubectlWait("IssuersReachable", "oidcpolicy/publisher")
	w.must(w.Get(t.Context(), client.ObjectKeyFromObject(p), p), "reading the policy")
	if at := p.Status.Registries; len(at) != 1 || !at[0].Accepted || at[0].Confirmed != 1 || at[0].Total != 1 {
		w.Errorf("the policy's registries are %+v", at)
	}

	started := time.Now()
	w.must(w.Delete(t.Context(), p), "deleting the policy")
	w.gone(p)
	t.Logf("the deletion was confirmed after %v", time.Since(started))
	if out, ok := w.publish(r, "too-late", "helm-v4", "publisher", archive); ok {
		w.Errorf("a service account publishes after its policy was deleted:\n%s", out)
	}
	var secrets corev1.SecretList
	w.must(w.List(t.Context(), &secrets, client.InNamespace(w.namespace)), "listing the Secrets")
	for _, s := range secrets.Items {
		if s.Type == corev1.SecretTypeDockerConfigJson {
			w.Errorf("there is a stored secret, %s", s.Name)
		}
	}
}

// If this fails, a policy ends with the operator or the API server, or a narrower one is not enforced at once.
func TestPoliciesHoldWithoutTheOperator(t *testing.T) {
	w := newWorld(t)
	r := w.registry("charts")
	account := w.serviceAccount("reader")
	p := w.policy("charts", "reader", readOnly)
	w.kubectlWait("Ready", "oidcpolicy/reader")
	token := w.serviceToken(r, account)
	h := w.helm(newestHelm(t), "charts")
	logsIn := func() bool {
		_, err := h.login(r, token)
		return err == nil
	}
	if !logsIn() {
		w.Fatalf("the token of the service account is refused")
	}

	w.scaleOperator(0)
	t.Cleanup(func() { w.scaleOperator(1) })
	pod := w.podReady("charts")
	w.must(w.Delete(t.Context(), &pod), "deleting the registry's pod")
	w.podReady("charts", pod)
	w.eventually("the new pod to admit the token", func(context.Context) error {
		if !logsIn() {
			return fmt.Errorf("it is refused")
		}
		return nil
	})
	w.must(w.Delete(t.Context(), p), "deleting the policy")
	w.scaleOperator(1)
	w.gone(p)
	if logsIn() {
		w.Errorf("the policy is gone, and its token still logs in")
	}
}

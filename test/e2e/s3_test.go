//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The S3 server's own credentials; registries get others, which can be taken away.
const s3Root, s3RootSecret = "root", "rootsecret"

// s3Server is an S3 server in the test's namespace. The machine that runs the tests reaches the addresses of Services.
type s3Server struct {
	*world
	address, inside string
	client          *s3.Client
}

// s3Server starts an S3 server with an empty bucket named charts, and waits until it answers.
func (w *world) s3Server() *s3Server {
	w.Helper()
	labels := map[string]string{"app": "s3"}
	volumes := []corev1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "users", MountPath: "/users"}}
	no, yes, user := false, true, int64(65532)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "s3", Labels: labels},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &no,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, RunAsUser: &user, FSGroup: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "s3", Image: "localhost/versitygw:test", ImagePullPolicy: corev1.PullNever,
				Args:            []string{"--port", ":7070", "--health", "/healthz", "--keep-alive", "--quiet", "--iam-dir", "/users", "posix", "/data"},
				Env:             []corev1.EnvVar{{Name: "ROOT_ACCESS_KEY_ID", Value: s3Root}, {Name: "ROOT_SECRET_ACCESS_KEY", Value: s3RootSecret}},
				ReadinessProbe:  &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(7070)}}},
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
				VolumeMounts:    volumes,
			}},
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "users", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
		},
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "s3"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 7070}}},
	}
	w.must(w.Create(w.Context(), pod), "creating the S3 server")
	w.must(w.Create(w.Context(), service), "creating the S3 server's Service")
	s := &s3Server{world: w, address: "http://" + service.Spec.ClusterIP + ":7070", inside: "http://s3." + w.namespace + ".svc:7070"}
	s.client = s3.New(s3.Options{
		BaseEndpoint: aws.String(s.address), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s3Root, s3RootSecret, ""),
	})
	w.eventually("the S3 server to make a bucket", func(ctx context.Context) error {
		_, err := s.client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("charts")})
		return err
	})
	return s
}

// admin runs a command of the S3 server's on its users.
func (s *s3Server) admin(arguments ...string) {
	s.Helper()
	command := append([]string{"admin", "--access", s3Root, "--secret", s3RootSecret, "--endpoint-url", s.address}, arguments...)
	if out, err := exec.Command(tool(s.T, "versitygw"), command...).CombinedOutput(); err != nil {
		s.Fatalf("versitygw %s: %v\n%s", strings.Join(command, " "), err, out)
	}
}

// user makes a user who may use every bucket, and what a Secret holds of him.
func (s *s3Server) user(name string) map[string][]byte {
	s.Helper()
	s.admin("create-user", "--access", name, "--secret", name+"secret", "--role", "admin")
	return map[string][]byte{"accessKeyID": []byte(name), "secretAccessKey": []byte(name + "secret")}
}

// objects are the keys in the bucket, the first page of them.
func (s *s3Server) objects(ctx context.Context) ([]string, error) {
	page, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String("charts")})
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, o := range page.Contents {
		keys = append(keys, aws.ToString(o.Key))
	}
	return keys, nil
}

// writer pushes and pulls charts of its own until it is told to stop, and keeps a ledger of what it was told is done.
type writer struct {
	*helm
	chart    string
	archives []string

	mu     sync.Mutex
	pushed int
	pulls  int
	errs   []error
}

// writers are one for each of two clients, with packaged charts in hand.
func (w *world) writers(r *v1alpha1.HelmRegistry, password string, charts int) []*writer {
	w.Helper()
	var out []*writer
	for i, name := range []string{"helm-v3", "helm-v4"} {
		h := w.helm(tool(w.T, name), r.Name).loggedIn(r, password)
		writer := &writer{helm: h, chart: fmt.Sprintf("app%d", i)}
		for n := range charts {
			writer.archives = append(writer.archives, h.chart(writer.chart, fmt.Sprintf("1.0.%d", n), "x", r.Status.Image))
		}
		out = append(out, writer)
	}
	return out
}

func (x *writer) run(ctx context.Context, r *v1alpha1.HelmRegistry) {
	for n := 0; ctx.Err() == nil; n++ {
		if n < len(x.archives) {
			out, err := x.world.run(x.environment, "", x.path, "push", x.archives[n], r.Status.OCIURL, x.trust())
			x.note(err, "pushing version "+fmt.Sprint(n), out)
			if err != nil {
				return // What follows would only say the same again.
			}
			x.mu.Lock()
			x.pushed = n + 1
			x.mu.Unlock()
		}
		x.pullBack(r, n%len(x.archives))
	}
}

// pullBack pulls an acknowledged version and compares it.
func (x *writer) pullBack(r *v1alpha1.HelmRegistry, n int) {
	folder, err := os.MkdirTemp(x.TempDir(), "pull-")
	if err != nil {
		x.note(err, "making a folder", "")
		return
	}
	out, err := x.world.run(x.environment, "", x.path, "pull", r.Status.OCIURL+"/"+x.chart, x.trust(), "--destination", folder, "--version", fmt.Sprintf("1.0.%d", n))
	if err == nil {
		want, _ := os.ReadFile(x.archives[n])
		got, _ := os.ReadFile(filepath.Join(folder, filepath.Base(x.archives[n])))
		if len(want) == 0 || !bytes.Equal(got, want) {
			err = errors.New("it is not what was pushed")
		}
	}
	x.mu.Lock()
	x.pulls++
	x.mu.Unlock()
	x.note(err, "pulling version "+fmt.Sprint(n), out)
}

func (x *writer) note(err error, doing, out string) {
	if err == nil || x.Context().Err() != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	// With the time, because the logs of the pods have it.
	x.errs = append(x.errs, fmt.Errorf("%s: %s of %s: %w\n%s", time.Now().UTC().Format("15:04:05.000"), doing, x.chart, err, out))
}

// settled waits until the registry is Ready with its newest generation and all pods are of the newest template.
func (w *world) settled(r *v1alpha1.HelmRegistry) {
	w.Helper()
	w.eventually("the registry to be ready with what it asks for", func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
			return err
		}
		ready := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil || ready.Status != metav1.ConditionTrue || ready.ObservedGeneration != r.Generation {
			return fmt.Errorf("generation %d: %+v", r.Generation, ready)
		}
		return nil
	})
}

// onS3 makes a registry of two pods on a bucket.
func (w *world) onS3(s *s3Server, change ...func(*v1alpha1.HelmRegistry)) *v1alpha1.HelmRegistry {
	w.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "bucket"}, Data: s.user("one")}
	w.must(w.Create(w.Context(), secret), "creating the credentials")
	two := int32(2)
	return w.registry("charts", append([]func(*v1alpha1.HelmRegistry){func(r *v1alpha1.HelmRegistry) {
		r.Spec.Replicas = &two
		r.Spec.Storage.S3 = &v1alpha1.S3Storage{
			Bucket: "charts", Prefix: "team-a/charts", Endpoint: s.inside, PathStyle: true, CredentialsSecretRef: &v1alpha1.LocalObjectReference{Name: "bucket"},
		}
	}}, change...)...)
}

// If this fails, an upgrade, a node that is drained or a new password of the bucket breaks somebody's push or pull, or a
// deleted registry leaves its charts in the bucket, or takes more than them.
func TestReplicasOnS3(t *testing.T) {
	w := newWorld(t)
	s := w.s3Server()
	other := "somebody/else"
	_, err := s.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("charts"), Key: aws.String(other), Body: strings.NewReader("x")})
	w.must(err, "writing another's object")
	r := w.onS3(s, func(r *v1alpha1.HelmRegistry) { r.Spec.DeletionPolicy = v1alpha1.DeletionDelete })
	if r.Status.Replicas != 2 || r.Status.ReadyReplicas != 2 {
		w.Errorf("ready with %d of %d pods", r.Status.ReadyReplicas, r.Status.Replicas)
	}
	w.must(w.Get(t.Context(), client.ObjectKeyFromObject(r), &policyv1.PodDisruptionBudget{}), "reading the disruption budget")
	_, password := w.token("charts", "ci", readWrite)
	writers := w.writers(r, password, 60)

	load, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	for _, writer := range writers {
		own := r.DeepCopy() // r is read anew meanwhile.
		group.Go(func() { writer.run(load, own) })
	}
	for round := range 2 {
		w.change(r, func() {
			r.Spec.PodTemplate = &runtime.RawExtension{Raw: fmt.Appendf(nil, `{"metadata":{"annotations":{"round":"%d"}}}`, round)}
		})
		w.settled(r)
	}
	pod := w.podReady("charts")
	w.must(w.Delete(t.Context(), &pod), "deleting a pod")
	w.podReady("charts", pod)
	w.settled(r)
	w.rotate(s)
	w.settled(r)
	stop()
	group.Wait()

	for _, writer := range writers {
		for _, err := range writer.errs {
			w.Errorf("a request was lost: %v", err)
		}
		writer.errs = nil
		for n := range writer.pushed {
			writer.pullBack(r, n)
		}
		for _, err := range writer.errs {
			w.Errorf("after it all: %v", err)
		}
		t.Logf("%s: %d pushes and %d pulls, none lost, while pods were replaced", writer.chart, writer.pushed, writer.pulls)
		if writer.pushed == 0 {
			w.Errorf("nothing was pushed")
		}
	}

	w.must(w.Delete(t.Context(), r), "deleting the HelmRegistry")
	w.gone(r)
	keys, err := s.objects(t.Context())
	if err != nil || len(keys) != 1 || keys[0] != other {
		w.Errorf("the bucket holds %q (%v), want the other's object alone", keys, err)
	}
}

// rotate gives the pods other credentials, waits until they have them, and takes the old ones away. No pod restarts.
func (w *world) rotate(s *s3Server) {
	w.Helper()
	var before []corev1.Pod
	w.eventually("the pods that were replaced to be gone", func(ctx context.Context) (err error) {
		if before, err = w.pods(ctx, "charts"); err == nil && len(before) != 2 {
			err = fmt.Errorf("there are %d", len(before))
		}
		return err
	})
	secret := &corev1.Secret{}
	w.must(w.Get(w.Context(), client.ObjectKey{Namespace: w.namespace, Name: "bucket"}, secret), "reading the credentials")
	next := s.user("two")
	w.change(secret, func() { secret.Data = next })
	for _, pod := range before {
		w.eventually("pod "+pod.Name+" to use the new credentials", func(context.Context) error {
			out, err := exec.Command(w.kubectl, "--kubeconfig", kubeconfig(w.T), "-n", w.namespace, "logs", pod.Name).CombinedOutput()
			if err == nil && !bytes.Contains(out, []byte("S3 credentials changed and are in use")) {
				err = errors.New("its log does not say so")
			}
			return err
		})
	}
	s.admin("delete-user", "--access", "one")
	after, err := w.pods(w.Context(), "charts")
	w.must(err, "listing the pods")
	for _, pod := range after {
		if !contains(before, pod) || pod.Status.ContainerStatuses[0].RestartCount > 0 {
			w.Errorf("pod %s is new, or was restarted", pod.Name)
		}
	}
}

// If this fails, somebody who asks for two pods on a volume for one gets pods that hang, and no word why.
func TestReplicasOnAVolumeForOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	two := int32(2)
	r := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "charts"}, Spec: v1alpha1.HelmRegistrySpec{Replicas: &two}}
	w.must(w.Create(t.Context(), r), "creating a HelmRegistry")
	w.kubectlWait("Stalled", "helmregistry/charts")
	w.must(w.Get(t.Context(), client.ObjectKeyFromObject(r), r), "reading the HelmRegistry")
	if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionStalled); c.Reason != "ReplicasNotPossible" {
		w.Errorf("it is stalled by %s: %s", c.Reason, c.Message)
	}
}

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// stock is what a test has pushed to a registry and not deleted: the digests of its charts' versions, by chart and version,
// and how many bytes the archives have.
type stock struct {
	*world
	registry *v1alpha1.HelmRegistry
	helm     *helm
	charts   map[string]map[string]string
	bytes    map[string]int64
}

var manifestDigest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// push pushes an archive, and returns when helm had said that it is there.
func (s *stock) push(archive, chart, version string) time.Time {
	s.Helper()
	out := s.helm.push(s.registry, archive)
	pushed := time.Now()
	digest := manifestDigest.FindString(out)
	if digest == "" {
		s.Fatalf("helm push says no digest:\n%s", out)
	}
	if s.charts[chart] == nil {
		s.charts[chart] = map[string]string{}
	}
	s.charts[chart][version] = digest
	s.bytes[chart] += int64(len(read(s.T, archive)))
	return pushed
}

// delete deletes a version through a pod.
func (s *stock) delete(a *asker, password, chart, version string) {
	s.Helper()
	pod := s.podReady(s.registry.Name)
	url := "https://" + net.JoinHostPort(pod.Status.PodIP, "5000") + "/v2/" + a.path + "/" + chart + "/manifests/" + version
	request, err := http.NewRequestWithContext(s.Context(), http.MethodDelete, url, nil)
	s.must(err, "making a request")
	request.SetBasicAuth("chartroom", password)
	answer, err := a.http.Do(request)
	s.must(err, "deleting a version")
	answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		s.Fatalf("deleting %s %s: the pod answers %d", chart, version, answer.StatusCode)
	}
	delete(s.charts[chart], version)
	if len(s.charts[chart]) == 0 {
		delete(s.charts, chart)
	}
}

// differs says in what the status differs from the stock; nil when in nothing. The versions of a chart are pushed in the
// order of their precedence, with one digit in each part.
func (s *stock) differs(ctx context.Context) error {
	if err := s.Get(ctx, client.ObjectKeyFromObject(s.registry), s.registry); err != nil {
		return err
	}
	status := s.registry.Status
	if status.Inventory == nil {
		return errors.New("there is no inventory")
	}
	var versions, size int64
	for _, c := range status.Charts {
		all := s.charts[c.Name]
		var latest string
		for version := range all {
			latest = max(latest, version)
		}
		if c.Versions != int64(len(all)) || c.LatestVersion != latest || c.Digest != all[latest] || c.AppVersion != "1.0" || c.LastPushed == nil {
			return fmt.Errorf("the chart is %+v, and %d versions up to %s with the digest %s were pushed", c, len(all), latest, all[latest])
		}
		versions += c.Versions
		size += c.SizeBytes
	}
	i := status.Inventory
	if len(status.Charts) != len(s.charts) || i.Charts != int64(len(s.charts)) || i.Versions != versions || i.SizeBytes != size || i.Size == "" || i.Truncated {
		return fmt.Errorf("there are %+v and %d charts in the list, of %d charts with %d versions and %d bytes", i, len(status.Charts), len(s.charts), versions, size)
	}
	if !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionInventoryFresh) {
		return fmt.Errorf("the inventory is not fresh: %+v", status.Conditions)
	}
	return nil
}

// arrives waits until the status equals the stock, and returns how long after an instant it did.
func (s *stock) arrives(since time.Time, what string) time.Duration {
	s.Helper()
	var last error
	err := wait.PollUntilContextTimeout(s.Context(), 10*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		last = s.differs(ctx)
		return last == nil, nil
	})
	if err != nil {
		s.Fatalf("%s is not in the status: %v", what, last)
	}
	return time.Since(since)
}

// If this fails, `kubectl get helmregistries` tells of charts that are not there, does not tell of those that are, or is
// late.
func TestInventoryFollowsPushes(t *testing.T) {
	for name, create := range map[string]func(w *world) *v1alpha1.HelmRegistry{
		"one pod on a volume":  func(w *world) *v1alpha1.HelmRegistry { return w.registry("charts") },
		"two pods on a bucket": func(w *world) *v1alpha1.HelmRegistry { return w.onS3(w.s3Server()) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.inventoryFollows(create(w))
		})
	}
}

// inventoryFollows requires that the status follows what is pushed to a registry, pulled and deleted.
func (w *world) inventoryFollows(r *v1alpha1.HelmRegistry) {
	w.Helper()
	all := []v1alpha1.Scope{v1alpha1.ScopeRead, v1alpha1.ScopeWrite, v1alpha1.ScopeDelete}
	_, password := w.token(r.Name, "ci", all)
	s := &stock{world: w, registry: r, helm: w.helm(newestHelm(w.T), r.Name).loggedIn(r, password), charts: map[string]map[string]string{}, bytes: map[string]int64{}}
	s.arrives(time.Now(), "that there is nothing")

	const pushes = 20
	var took []time.Duration
	for i := range pushes {
		chart, version := []string{"app", "web"}[i%2], fmt.Sprintf("1.%d.%d", i/10, i%10)
		archive := s.helm.chart(chart, version, version, r.Status.Image)
		took = append(took, s.arrives(s.push(archive, chart, version), "a push"))
	}
	slices.Sort(took)
	w.Logf("MEASURED from the end of helm push to the status, in %d pushes: median %d ms, worst %d ms", pushes, took[pushes/2].Milliseconds(), took[pushes-1].Milliseconds())
	for _, c := range r.Status.Charts {
		if c.SizeBytes < s.bytes[c.Name] || c.Downloads != 0 {
			w.Errorf("the chart is %+v; its archives have %d bytes, and nobody has downloaded any", c, s.bytes[c.Name])
		}
	}

	s.helm.pull(r, "app", "")
	w.eventually("the download to be in the status", func(ctx context.Context) error {
		if err := s.differs(ctx); err != nil {
			return err
		}
		if app := r.Status.Charts[0]; app.Name != "app" || app.Downloads != 1 || r.Status.Inventory.Downloads != 1 {
			return fmt.Errorf("%+v of %+v", app, r.Status.Inventory)
		}
		return nil
	})

	a := w.asker(r)
	for _, version := range []string{"1.1.8", "1.0.2"} {
		deleted := time.Now()
		s.delete(a, password, "app", version)
		w.Logf("MEASURED from a request to delete a version to the status: %d ms", s.arrives(deleted, "a deletion").Milliseconds())
	}
	for version := range s.charts["web"] {
		s.delete(a, password, "web", version)
	}
	s.arrives(time.Now(), "the deletion of a chart")
	s.shown()
}

// shown requires that kubectl shows people what the status says.
func (s *stock) shown() {
	s.Helper()
	kubectl := func(arguments ...string) string {
		s.Helper()
		out, err := exec.Command(s.kubectl, append([]string{"--kubeconfig", kubeconfig(s.T), "-n", s.namespace}, arguments...)...).CombinedOutput()
		if err != nil {
			s.Fatalf("kubectl %s: %v\n%s", strings.Join(arguments, " "), err, out)
		}
		return string(out)
	}
	s.row(s.registry)
	description := kubectl("describe", "hreg", s.registry.Name)
	for _, part := range []string{s.registry.Status.Charts[0].LatestVersion, s.registry.Status.Charts[0].Digest, s.registry.Status.Instructions.Push, s.registry.Status.Instructions.Pull} {
		if !strings.Contains(description, part) {
			s.Errorf("kubectl describe does not show %q:\n%s", part, description)
		}
	}
	s.eventually("an event to tell of the deletion", func(ctx context.Context) error {
		var list eventsv1.EventList
		if err := s.List(ctx, &list, client.InNamespace(s.namespace)); err != nil {
			return err
		}
		var notes []string
		for _, e := range list.Items {
			if e.Reason == "ChartsChanged" && e.Type == corev1.EventTypeNormal {
				notes = append(notes, e.Note)
			}
		}
		if !slices.ContainsFunc(notes, func(note string) bool { return strings.Contains(note, "hart web is gone") }) {
			return fmt.Errorf("the notes are %q", notes)
		}
		return nil
	})
}

// row requires that `kubectl get` shows what the status says.
func (w *world) row(r *v1alpha1.HelmRegistry) {
	w.Helper()
	out, err := exec.Command(w.kubectl, "--kubeconfig", kubeconfig(w.T), "-n", w.namespace, "get", "hreg", r.Name, "--no-headers").CombinedOutput()
	w.must(err, "kubectl get")
	i := r.Status.Inventory
	row, want := strings.Join(strings.Fields(string(out)), " "), fmt.Sprintf("%s True %s %d %d %s ", r.Name, r.Status.URL, i.Charts, i.Versions, i.Size)
	if !strings.HasPrefix(row, want) {
		w.Errorf("kubectl get shows %q, want that it begins with %q", row, want)
	}
}

// If this fails, what happens while the operator is down is never seen in the status, or is lost.
func TestInventoryCatchesUp(t *testing.T) {
	w := newWorld(t)
	r := w.registry("charts")
	_, password := w.token("charts", "ci", readWrite)
	s := &stock{world: w, registry: r, helm: w.helm(newestHelm(t), "charts").loggedIn(r, password), charts: map[string]map[string]string{}, bytes: map[string]int64{}}
	push := func(version string) time.Time {
		return s.push(s.helm.chart("app", version, version, r.Status.Image), "app", version)
	}
	s.arrives(push("1.0.0"), "the first push")

	w.scaleOperator(0)
	t.Cleanup(func() { w.scaleOperator(1) })
	for i := range 5 {
		push(fmt.Sprintf("1.1.%d", i))
	}
	if s.differs(t.Context()) == nil {
		w.Fatalf("the status follows with no operator: the test proves nothing")
	}
	if i := r.Status.Inventory; i == nil || i.Versions != 1 {
		w.Errorf("with no operator the status says %+v", i)
	}
	w.scaleOperator(1)
	w.Logf("MEASURED from an operator that is ready to the status of what was pushed before: %d ms", s.arrives(time.Now(), "what was pushed with no operator").Milliseconds())
}

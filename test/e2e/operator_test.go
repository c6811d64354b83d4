//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// auditEvent is what the tests read of a line of the API server's audit log.
type auditEvent struct {
	Stage     string
	Verb      string
	ObjectRef struct{ Resource, Namespace, Name, Subresource string }
	User      struct{ Username string }
	Timestamp time.Time `json:"requestReceivedTimestamp"`
}

// operatorWrites reads the writes of the operator since an instant, leases excepted, from the API server's audit log.
func operatorWrites(t *testing.T, since time.Time) []string {
	t.Helper()
	f, err := os.Open(filepath.Join(root(t), ".cluster/audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var writes []string
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return writes // What has no end yet is being written at this moment.
		}
		if err != nil {
			t.Fatal(err)
		}
		var e auditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("the audit log has a line that is no event: %v", err)
		}
		if e.Timestamp.Before(since) || e.Stage != "ResponseComplete" ||
			!strings.HasPrefix(e.User.Username, "system:serviceaccount:"+operatorNamespace+":") ||
			slices.Contains([]string{"get", "list", "watch"}, e.Verb) || e.ObjectRef.Resource == "leases" {
			continue
		}
		writes = append(writes, fmt.Sprintf("%s %s/%s %s/%s", e.Verb, e.ObjectRef.Resource, e.ObjectRef.Subresource, e.ObjectRef.Namespace, e.ObjectRef.Name))
	}
}

// If this fails, an idle Chartroom loads the API server of its cluster for ever, and Argo CD shows it as always changing.
func TestNothingIsWrittenAtRest(t *testing.T) {
	w := newWorld(t)
	r := w.registry("charts")
	token, _ := w.token("charts", "ci", readWrite)
	began := time.Now()
	if len(operatorWrites(t, began.Add(-patience))) == 0 {
		w.Fatalf("the audit log has no write of the operator, although it just made a registry: the test would prove nothing")
	}
	// What is under way settles: the namespaces of earlier tests, where nothing may be written for a while before the last
	// object goes, and the conditions that pods are told, up to 15 s after the write before.
	w.eventually("the namespaces of other tests to be gone, and 20 seconds without a write", func(ctx context.Context) error {
		var namespaces corev1.NamespaceList
		if err := w.List(ctx, &namespaces); err != nil {
			return err
		}
		for _, n := range namespaces.Items {
			if n.DeletionTimestamp != nil {
				return fmt.Errorf("the namespace %s is going away", n.Name)
			}
		}
		if writes := operatorWrites(t, time.Now().Add(-20*time.Second)); len(writes) > 0 {
			return fmt.Errorf("the operator wrote %v", writes)
		}
		return nil
	})

	began = time.Now()
	// A change of an annotation by a user makes every controller look at the object again.
	for _, object := range []client.Object{r, token} {
		w.change(object, func() { object.SetAnnotations(map[string]string{"example.com/resync": "now"}) })
	}
	select {
	case <-time.After(time.Minute):
	case <-t.Context().Done():
	}
	if writes := operatorWrites(t, began); len(writes) > 0 {
		w.Errorf("in 60 s without a change, and a resync, the operator wrote:\n%s", strings.Join(writes, "\n"))
	}
}

// If this fails, something that was deleted or edited by hand stays broken, although the HelmRegistry says what it
// should be.
func TestDriftComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.registry("charts")
	_, password := w.token("charts", "ci", readWrite)
	name := func(suffix string) client.ObjectKey {
		return client.ObjectKey{Namespace: w.namespace, Name: "charts" + suffix}
	}
	for kind, child := range map[string]struct {
		key    client.ObjectKey
		object client.Object
	}{
		"Deployment":    {name(""), &appsv1.Deployment{}},
		"Service":       {name(""), &corev1.Service{}},
		"NetworkPolicy": {name(""), &networkingv1.NetworkPolicy{}},
		"access Secret": {name("-access"), &corev1.Secret{}},
		"TLS Secret":    {name("-tls"), &corev1.Secret{}},
		"CA ConfigMap":  {name("-ca"), &corev1.ConfigMap{}},
	} {
		w.must(w.Get(t.Context(), child.key, child.object), "reading the "+kind)
		old := child.object.GetUID()
		w.must(w.Delete(t.Context(), child.object), "deleting the "+kind)
		w.eventually("the "+kind+" to come back", func(ctx context.Context) error {
			if err := w.Get(ctx, child.key, child.object); err != nil {
				return err
			}
			if child.object.GetUID() == old {
				return fmt.Errorf("it is still the old one")
			}
			return nil
		})
	}
	w.eventually("the registry to be ready again", func(ctx context.Context) error {
		if err := w.Get(ctx, name(""), r); err != nil {
			return err
		}
		if condition(r.Status.Conditions, v1alpha1.ConditionReady) != "True" {
			return fmt.Errorf("%+v", r.Status.Conditions)
		}
		return nil
	})
	h := w.helm(newestHelm(t), "charts").loggedIn(r, password)
	h.push(r, h.chart("app", "1.0.0", "x", r.Status.Image))
}

// If this fails, a change of a text in a HelmRegistry interrupts those who pull from it.
func TestTextsRollNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.registry("charts")
	before := w.podReady("charts")
	w.change(r, func() { r.Spec.DisplayName, r.Spec.Description = "Charts of team A", "All that team A publishes." })
	w.eventually("the change to be seen", func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
			return err
		}
		if r.Status.ObservedGeneration != r.Generation || condition(r.Status.Conditions, v1alpha1.ConditionReady) != "True" {
			return fmt.Errorf("observed generation %d of %d", r.Status.ObservedGeneration, r.Generation)
		}
		return nil
	})
	if after := w.podReady("charts"); after.UID != before.UID {
		w.Errorf("the pod was replaced")
	}
}

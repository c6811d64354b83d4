package helmregistry

import (
	"errors"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
)

// A changed image reaches every registry, in order, and never more than a few are down for it at once.
func TestAChangedImageRollsAFewAtATime(t *testing.T) {
	const registries = 10
	all := make([]v1alpha1.HelmRegistry, registries)
	set := func(i int, image, available string) {
		r := &all[i]
		r.Namespace, r.Name, r.UID = "team-a", fmt.Sprintf("charts-%02d", i), types.UID(fmt.Sprint(i))
		truth := metav1.ConditionStatus("False")
		if available == "RolledOut" {
			truth = "True"
		}
		r.Status = v1alpha1.HelmRegistryStatus{Image: image, Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionAvailable, Status: truth, Reason: available}, {Type: v1alpha1.ConditionReady, Status: truth},
		}}
	}
	for i := range all {
		set(i, "old", "RolledOut")
	}
	// One that is down anyway does not wait, and one that is suspended holds nobody up.
	set(8, "old", "ProgressDeadlineExceeded")
	all[0].Spec.Suspend = true
	if !mayRoll(&all[8], all, "new") {
		t.Error("a registry that does not serve has to wait for others")
	}
	rounds := 0
	for ; rounds < registries; rounds++ {
		var roll []int
		for i := range all {
			if all[i].Status.Image == "old" && !all[i].Spec.Suspend && i != 8 && mayRoll(&all[i], all, "new") {
				roll = append(roll, i)
				set(i, "new", reasonRolloutInProgress)
			}
		}
		if len(roll) == 0 {
			break
		}
		if len(roll) > rollingAtOnce {
			t.Fatalf("%v roll at once", roll)
		}
		if mayRoll(&all[9], all, "new") && len(roll) == rollingAtOnce && all[9].Status.Image == "old" {
			t.Errorf("one more may roll while %v do", roll)
		}
		// The first of each round does not come up; its Deployment gives up.
		for n, i := range roll {
			if n == 0 {
				set(i, "new", "ProgressDeadlineExceeded")
			} else {
				set(i, "new", "RolledOut")
			}
		}
	}
	for i := range all {
		if i != 0 && i != 8 && all[i].Status.Image != "new" {
			t.Errorf("after %d rounds %s still runs the old image", rounds, all[i].Name)
		}
	}
}

// What the operator wants is held back in the Deployment's image alone, and only as long as it must be.
func TestHeldImage(t *testing.T) {
	me := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-z", Name: "charts", UID: "me"}}
	me.Status.Image = "old"
	me.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAvailable, Status: "True"}}
	deployment := func(image string) *appsv1.Deployment {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: me.Namespace, Name: me.Name, Labels: desired.Labels(me)}}
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "sidecar", Image: "other"}, {Name: desired.Container, Image: image}}
		return d
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		running string
		rolling int
		want    string
	}{
		"others roll":                 {"old", rollingAtOnce, "old"},
		"a few others roll":           {"old", rollingAtOnce - 1, "new"},
		"the status lags behind":      {"new", rollingAtOnce, "new"},
		"two images ago, others roll": {"older", rollingAtOnce, "older"},
	} {
		t.Run(name, func(t *testing.T) {
			objects := []client.Object{deployment(c.running)}
			for i := range c.rolling {
				other := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: fmt.Sprint("charts-", i), UID: types.UID(fmt.Sprint(i))}}
				other.Status.Image = "new"
				other.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAvailable, Status: "False", Reason: reasonRolloutInProgress}}
				objects = append(objects, other)
			}
			fixed := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
			r := &Reconciler{Client: fixed, APIReader: fixed, RegistryImage: "new"}
			s, want := r.newScope(me), deployment("new")
			if err := r.holdImage(t.Context(), s, want); err != nil {
				t.Fatal(err)
			}
			if got := registryContainer(want).Image; got != c.want {
				t.Errorf("the wanted image is %s, want %s", got, c.want)
			}
			if waits := s.requeueAfter() > 0; waits != (c.want != "new") {
				t.Errorf("it looks again by itself: %v", waits)
			}
		})
	}
}

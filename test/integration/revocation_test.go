package integration

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// waitsFor deletes what gives access, while a pod is silent that admits by it, and requires that the deletion waits for that
// pod, which is taken out of service, says so, and ends with it. conditions are those of the object as it was read last.
func (c *cluster) waitsFor(silent *pod, o client.Object, conditions *[]metav1.Condition, admits func() bool) {
	c.t.Helper()
	silent.cutOff()
	c.delete(o)
	object := silent.object()
	c.eventually("the silent pod is out of the Service and being deleted", func() bool {
		c.get(object)
		_, serving := object.Labels[v1alpha1.LabelServing]
		return !serving && !object.DeletionTimestamp.IsZero()
	})
	if !admits() {
		c.t.Fatal("the silent pod was meant to still admit what is revoked")
	}
	c.get(o)
	if condition := meta.FindStatusCondition(*conditions, v1alpha1.ConditionRevoked); condition == nil ||
		condition.Status != metav1.ConditionFalse || !strings.Contains(condition.Message, object.Name) {
		c.t.Errorf("the condition does not say which pod is waited for: %+v", condition)
	}
	silent.finish()
	c.eventually("the object is gone when the pod is", func() bool { return !c.exists(o) })
}

// neverHangs requires that what gives access can be deleted whatever is gone of those who would have to confirm that. give
// makes it for the registry charts, and waits until it is in force.
func neverHangs(t *testing.T, give func(c *cluster) client.Object) {
	t.Helper()
	c := newCluster(t)
	for name, take := range map[string]func(registry *v1alpha1.HelmRegistry, pod *pod){
		"no pods": func(_ *v1alpha1.HelmRegistry, pod *pod) { pod.finish() },
		"no registry": func(registry *v1alpha1.HelmRegistry, pod *pod) {
			pod.cutOff()
			c.delete(registry)
			c.eventually("the registry is gone", func() bool { return !c.exists(registry) })
		},
		"namespace is being deleted": func(registry *v1alpha1.HelmRegistry, pod *pod) {
			pod.cutOff()
			c.delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: registry.Namespace}})
		},
	} {
		c.namespace = c.newNamespace(nil).Name
		registry := c.registry(nil)
		c.create(registry)
		pod := c.startPod("charts-1")
		o := give(c)
		take(registry, pod)
		c.delete(o)
		c.eventually(name+": it is gone", func() bool { return !c.exists(o) })
	}
}

package helmregistry

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
)

const (
	// rollingAtOnce is how many registries may be rolling when a changed image of the operator's rolls them all.
	rollingAtOnce = 3
	// rollPause is how long a registry waits before it looks whether it may roll.
	rollPause = 5 * time.Second
)

// holdImage keeps the running image in the wanted Deployment while other registries roll. All else is brought in force,
// and as the image is nothing that the spec asks for, the registry stays Ready.
func (r *Reconciler) holdImage(ctx context.Context, s *scope, want *appsv1.Deployment) error {
	wanted, before := registryContainer(want), s.registry.Status.Image
	if before == "" || before == wanted.Image || wanted.Image != r.RegistryImage {
		return nil
	}
	var all v1alpha1.HelmRegistryList
	if err := r.Client.List(ctx, &all); err != nil {
		return fmt.Errorf("looking for registries that roll: %w", err)
	}
	if mayRoll(s.registry, all.Items, r.RegistryImage) {
		return nil
	}
	// The status may be older than the Deployment.
	if err := r.readDeployment(ctx, s); err != nil || s.workload.deployment == nil {
		return err
	}
	if running := registryContainer(s.workload.deployment); running != nil && running.Image != wanted.Image {
		wanted.Image = running.Image
		s.due(s.now.Add(rollPause))
	}
	return nil
}

// mayRoll says whether a registry may now go over to an image. One that does not serve has nothing to lose; another waits
// while enough roll, or will that come before it by namespace and name. One that does not come up gives its place away
// when its Deployment gives up.
func mayRoll(me *v1alpha1.HelmRegistry, all []v1alpha1.HelmRegistry, image string) bool {
	if !meta.IsStatusConditionTrue(me.Status.Conditions, v1alpha1.ConditionAvailable) {
		return true
	}
	ahead := 0
	for i := range all {
		other := &all[i]
		if other.UID == me.UID || other.Status.Image == "" || other.Spec.Suspend {
			continue
		}
		available := meta.FindStatusCondition(other.Status.Conditions, v1alpha1.ConditionAvailable)
		rolling := other.Status.Image == image && available != nil && available.Status != metav1.ConditionTrue &&
			(available.Reason == reasonRolloutInProgress || available.Reason == reasonServiceNotReached)
		before := other.Namespace+"/"+other.Name < me.Namespace+"/"+me.Name
		willRoll := other.Status.Image != image && before && meta.IsStatusConditionTrue(other.Status.Conditions, v1alpha1.ConditionReady)
		if rolling || willRoll {
			ahead++
		}
	}
	return ahead < rollingAtOnce
}

// registryContainer is the container of the registry; nil when there is none.
func registryContainer(d *appsv1.Deployment) *corev1.Container {
	for i := range d.Spec.Template.Spec.Containers {
		if c := &d.Spec.Template.Spec.Containers[i]; c.Name == desired.Container {
			return c
		}
	}
	return nil
}

package helmregistry_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// What pods say of the usage is in the status, and who watches events learns before pushes are refused.
func TestUsageOfAQuota(t *testing.T) {
	size, versions := resource.MustParse("1Gi"), int64(10)
	r := registry(t, v1alpha1.HelmRegistrySpec{Quota: v1alpha1.Quota{Size: &size, Versions: &versions}})
	warnings := func() (notes []string) {
		var list eventsv1.EventList
		if err := env.Client.List(t.Context(), &list, client.InNamespace(r.Namespace)); err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if strings.HasPrefix(e.Reason, "Quota") && e.Type == corev1.EventTypeWarning {
				notes = append(notes, e.Reason+": "+e.Note)
			}
		}
		return notes
	}
	usage := func() *v1alpha1.UsageStatus {
		return get(t, &v1alpha1.HelmRegistry{}, r.Namespace, r.Name).Status.Usage
	}
	say := func(bytes, charts, versions int64) {
		said.Set(client.ObjectKeyFromObject(r), reports.State{
			Pods: []reports.Pod{{Name: "charts-1"}}, Usage: &wire.UsageState{SizeBytes: bytes, Charts: charts, Versions: versions},
		})
		want := &v1alpha1.UsageStatus{SizeBytes: bytes, Charts: charts, Versions: versions}
		eventually(t, "the usage is in the status", func() bool { return cmp.Equal(want, usage()) })
	}
	const nearly, reached = "QuotaNearlyUsed: nearly all of the quota is used: ", "QuotaReached: the quota is used up, and pushes that add to it are refused: "
	var want []string
	for _, step := range []struct {
		bytes, charts, versions int64
		warning                 string
	}{
		{1 << 20, 500, 8, ""},
		{1 << 20, 500, 9, nearly + "9 of 10 versions"},
		{1 << 21, 500, 9, ""},
		{1 << 30, 500, 11, reached + "1073741824 of 1Gi bytes, 11 of 10 versions"},
		{1 << 20, 1, 1, ""},
	} {
		say(step.bytes, step.charts, step.versions)
		if step.warning != "" {
			want = append(want, step.warning)
			eventually(t, "there is a warning", func() bool { return len(warnings()) == len(want) })
		}
	}
	got := strings.Join(warnings(), "\n")
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("there is no warning %q in\n%s", w, got)
		}
	}
	// What was known stays while no pod answers, and goes with the quota.
	said.Set(client.ObjectKeyFromObject(r), reports.State{})
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.DisplayName = "x" })
	eventually(t, "the change is observed", func() bool {
		now := get(t, &v1alpha1.HelmRegistry{}, r.Namespace, r.Name)
		return now.Status.ObservedGeneration == now.Generation
	})
	if got := usage(); got == nil || got.Versions != 1 {
		t.Errorf("while no pod answers the usage is %+v", got)
	}
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Quota = v1alpha1.Quota{} })
	eventually(t, "the usage is gone", func() bool { return usage() == nil })
}

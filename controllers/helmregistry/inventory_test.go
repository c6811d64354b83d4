package helmregistry_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// asUTC compares instants, wherever they are told.
var asUTC = cmp.Transformer("utc", func(t metav1.Time) time.Time { return t.UTC() })

// What pods say that the registry holds is in the status, and stays there while none says anything.
func TestInventoryInTheStatus(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	condition(t, r, v1alpha1.ConditionInventoryFresh, metav1.ConditionUnknown, "Pending")
	if r.Status.Inventory != nil || r.Status.Charts != nil {
		t.Errorf("before any pod has spoken there is %+v, %+v", r.Status.Inventory, r.Status.Charts)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	second := metav1.NewTime(at.Truncate(time.Second))
	key := client.ObjectKeyFromObject(r)
	said := wire.Inventory{
		Totals: wire.InventoryTotals{Charts: 200, Versions: 301, SizeBytes: 12_900_000, Downloads: 7, LastPushed: &at},
		Charts: []wire.InventoryChart{
			{Name: "app", LatestVersion: "1.2.3", AppVersion: "2.0", Digest: "sha256:abc", Versions: 3, SizeBytes: 10, Downloads: 7, LastPushed: &at},
			{Name: "team/web", LatestVersion: "0.1.0-rc.1", Digest: "sha256:def", Versions: 1},
		},
		Truncated: true,
	}
	holding.Set(key, reports.Inventory{Known: &said})
	condition(t, r, v1alpha1.ConditionInventoryFresh, metav1.ConditionTrue, "Fresh")
	wantInventory := &v1alpha1.InventoryStatus{Charts: 200, Versions: 301, SizeBytes: 12_900_000, Size: "12.3MiB", Downloads: 7, LastPushed: &second, Truncated: true}
	wantCharts := []v1alpha1.ChartStatus{
		{Name: "app", LatestVersion: "1.2.3", AppVersion: "2.0", Digest: "sha256:abc", Versions: 3, SizeBytes: 10, Downloads: 7, LastPushed: &second},
		{Name: "team/web", LatestVersion: "0.1.0-rc.1", Digest: "sha256:def", Versions: 1},
	}
	same := func(when string) {
		t.Helper()
		refresh(t, r)
		if diff := cmp.Diff(wantInventory, r.Status.Inventory, asUTC) + cmp.Diff(wantCharts, r.Status.Charts, asUTC); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
		if !meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionReady) {
			t.Errorf("%s the registry is not Ready: %+v", when, r.Status.Conditions)
		}
	}
	same("while a pod says so")

	since := time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)
	for _, reason := range []string{reports.ReasonNoReplicas, reports.ReasonNoAnswer, reports.ReasonBuilding, reports.ReasonPodsOutdated} {
		holding.Set(key, reports.Inventory{Known: &said, Stale: &reports.Stale{Reason: reason, Since: since}})
		c := condition(t, r, v1alpha1.ConditionInventoryFresh, metav1.ConditionFalse, reason)
		if !strings.Contains(c.Message, "since 2026-03-01T13:00:00Z") || !strings.HasSuffix(c.Message, ".") {
			t.Errorf("%s: %q", reason, c.Message)
		}
		same(reason)
	}

	// The next operator knows nothing of that time, and has nothing to add while it is no different.
	version := r.ResourceVersion
	holding.Forget(key)
	holding.Set(key, reports.Inventory{Stale: &reports.Stale{Reason: reports.ReasonPodsOutdated, Since: since.Add(time.Hour)}})
	settle(t)
	same("after a new start")
	if r.ResourceVersion != version {
		t.Error("the status was written anew")
	}
	holding.Set(key, reports.Inventory{Known: &wire.Inventory{}})
	condition(t, r, v1alpha1.ConditionInventoryFresh, metav1.ConditionTrue, "Fresh")
	wantInventory, wantCharts = &v1alpha1.InventoryStatus{Size: "0B"}, nil
	same("when all is deleted")
}

// The largest status that pods can bring about is taken by the API server, and kubectl shows what there is.
func TestTheLargestInventory(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	at := time.Now().Add(-5*time.Hour - 30*time.Minute)
	said := wire.Inventory{Totals: wire.InventoryTotals{Charts: 100, Versions: 1 << 62, SizeBytes: 1 << 62, Downloads: 1 << 62, LastPushed: &at}}
	for n := range wire.MaxInventoryCharts {
		said.Charts = append(said.Charts, wire.InventoryChart{
			Name: fmt.Sprintf("%0255d", n), LatestVersion: strings.Repeat("1", 128), AppVersion: strings.Repeat("ä", 64), Digest: "sha512:" + strings.Repeat("a", 128),
		})
	}
	holding.Set(client.ObjectKeyFromObject(r), reports.Inventory{Known: &said})
	condition(t, r, v1alpha1.ConditionInventoryFresh, metav1.ConditionTrue, "Fresh")
	if refresh(t, r); len(r.Status.Charts) != wire.MaxInventoryCharts {
		t.Errorf("%d charts are in the status", len(r.Status.Charts))
	}
	out, err := env.Kubectl(t.Context(), "-n", r.Namespace, "get", "hreg")
	if err != nil {
		t.Fatal(err)
	}
	header, row, _ := strings.Cut(strings.TrimSpace(out), "\n")
	if got := strings.Join(strings.Fields(header), " "); got != "NAME READY REASON URL CHARTS VERSIONS SIZE LAST PUSH AGE" {
		t.Errorf("the columns are %s", got)
	}
	fields := strings.Fields(row)
	if len(fields) != 8 || strings.Join(fields[3:7], " ") != "100 4611686018427387904 4.0EiB 5h30m" {
		t.Errorf("the row is %q", row)
	}
}

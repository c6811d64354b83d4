package helmregistry

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/controllers/internal/status"
)

// inventoryStatus is what the pods say that the registry holds; what was known last while none says anything.
func (s *scope) inventoryStatus() (*v1alpha1.InventoryStatus, []v1alpha1.ChartStatus) {
	known := s.inventory.Known
	if known == nil {
		return s.registry.Status.Inventory, s.registry.Status.Charts
	}
	var charts []v1alpha1.ChartStatus
	for _, c := range known.Charts {
		charts = append(charts, v1alpha1.ChartStatus{
			Name: c.Name, LatestVersion: c.LatestVersion, AppVersion: c.AppVersion, Digest: c.Digest,
			Versions: c.Versions, SizeBytes: c.SizeBytes, Downloads: c.Downloads, LastPushed: pushed(c.LastPushed),
		})
	}
	t := known.Totals
	return &v1alpha1.InventoryStatus{
		Charts: t.Charts, Versions: t.Versions, SizeBytes: t.SizeBytes, Size: size(t.SizeBytes), Downloads: t.Downloads,
		LastPushed: pushed(t.LastPushed), Truncated: known.Truncated,
	}, charts
}

func pushed(at *time.Time) *metav1.Time {
	if at == nil {
		return nil
	}
	return instant(*at)
}

// size writes a number of bytes for people.
func size(bytes int64) string {
	value, units := float64(bytes), []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	if value < 1024 {
		return fmt.Sprintf("%dB", bytes)
	}
	unit := -1
	// What would be rounded to 1024.0 of one unit is 1.0 of the next.
	for ; unit < 0 || value >= 1023.95 && unit < len(units)-1; unit++ {
		value /= 1024
	}
	return fmt.Sprintf("%.1f%s", value, units[unit])
}

// inventoryFresh says whether the inventory is what the pods say now. What was said before is said again by a new operator
// until it has asked them, and while the reason is the same.
func (s *scope) inventoryFresh() status.Finding {
	before := meta.FindStatusCondition(s.registry.Status.Conditions, v1alpha1.ConditionInventoryFresh)
	stale := s.inventory.Stale
	switch {
	case s.inventoryKnown && stale == nil:
		return status.Is("Fresh", "the inventory is what the pods say")
	case before != nil && (!s.inventoryKnown || before.Status == metav1.ConditionFalse && before.Reason == stale.Reason):
		return status.Finding{Status: before.Status, Reason: before.Reason, Message: before.Message}
	case !s.inventoryKnown:
		return status.Unknown("Pending", "no pod has said yet what the registry holds")
	}
	words := map[string]string{
		reports.ReasonNoReplicas:   "no pod is ready",
		reports.ReasonNoAnswer:     "no pod answers",
		reports.ReasonBuilding:     "the pods are still going through what is stored, and have been",
		reports.ReasonPodsOutdated: "the pods run a program that does not say what the registry holds, and have",
	}
	return status.IsNot(stale.Reason, fmt.Sprintf("%s since %s; the inventory is what was known before", words[stale.Reason], stale.Since.Format(time.RFC3339)))
}

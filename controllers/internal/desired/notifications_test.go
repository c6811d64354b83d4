package desired_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
)

// The most that the CRD lets through does not fit into one argument of a program, and a little less does.
func TestNotificationsFitIntoAnArgument(t *testing.T) {
	r := &v1alpha1.HelmRegistry{}
	for i := range 16 {
		n := v1alpha1.Notification{Name: fmt.Sprint("n", i), URL: "https://example.com/" + strings.Repeat("x", 2000), Format: "flux", Filter: &v1alpha1.NotificationFilter{}}
		for j := range 32 {
			n.Filter.Charts = append(n.Filter.Charts, fmt.Sprintf("%02d%s", j, strings.Repeat("x", 198)))
		}
		r.Spec.Notifications = append(r.Spec.Notifications, n)
	}
	if err := desired.CheckNotifications(r); err == nil || !strings.Contains(err.Error(), "131071 fit") {
		t.Errorf("error is %v", err)
	}
	r.Spec.Notifications = r.Spec.Notifications[:14]
	if err := desired.CheckNotifications(r); err != nil {
		t.Error(err)
	}
}

package helmregistry

import (
	"context"

	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/pki"
)

// reconcileNotifications judges what the rules of the CRD cannot, and looks at the Secrets of those who are told of
// events. The pods mount them themselves and see their changes.
func (r *Reconciler) reconcileNotifications(ctx context.Context, s *scope) error {
	if err := desired.CheckNotifications(s.registry); err != nil {
		return stalled("NotificationInvalid", "spec.notifications%s", err)
	}
	for _, n := range s.registry.Spec.Notifications {
		if n.Disabled {
			continue
		}
		if name, entry, found := desired.NotificationSecret(n); found {
			if _, err := r.readEntries(ctx, s, name, "NotificationSecret", entry); err != nil {
				return err
			}
		}
		if n.TLS == nil || n.TLS.CASecretRef == nil {
			continue
		}
		found, err := r.readEntries(ctx, s, n.TLS.CASecretRef.Name, "NotificationCA", desired.EntryAuthorities)
		if err != nil {
			return err
		}
		if err := pki.CheckBundle(found.Data[desired.EntryAuthorities]); err != nil {
			return stalled("NotificationCAInvalid", "%s of Secret %s: %s", desired.EntryAuthorities, n.TLS.CASecretRef.Name, err)
		}
	}
	return nil
}

package helmregistry

import (
	"context"
	"fmt"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
)

// Indexes of the cache of HelmRegistries.
const (
	indexHost   = "host"
	indexSecret = "spec.tls.secretRef.name"
)

// reservedOrganizations are the first path elements of the server's own pages and interfaces. The CRD refuses them
// where they are written; a namespace can have such a name, too.
var reservedOrganizations = []string{"v2", "api", "healthz", "readyz", "metrics", "static"}

// reconcileAddress decides whether the registry has its address to itself.
func (r *Reconciler) reconcileAddress(ctx context.Context, s *scope) error {
	if o := s.registry.Organization(); slices.Contains(reservedOrganizations, o) {
		return stalled("OrganizationReserved", "the namespace's name %s is a reserved word and cannot be the organization: create the HelmRegistry anew with spec.organization, for example team-%s", o, o)
	}
	var same v1alpha1.HelmRegistryList
	if err := r.Client.List(ctx, &same, client.MatchingFields{indexHost: s.registry.Host()}); err != nil {
		return fmt.Errorf("looking for registries of the same host: %w", err)
	}
	for i := range same.Items {
		other := &same.Items[i]
		if other.UID == s.registry.UID || !before(other, s.registry) {
			continue
		}
		// Who the other is, is not for everybody who may read this registry.
		if other.Namespace == s.registry.Namespace {
			return stalled("AddressTaken", "the host %s belongs to the HelmRegistry %s: write another spec.exposure.host", s.registry.Host(), other.Name)
		}
		return stalled("AddressTaken", "the host %s belongs to a HelmRegistry in another namespace: write another spec.exposure.host", s.registry.Host())
	}
	return nil
}

// before says whether of two registries that claim one host a has it: the one whose own Service name it is, then the
// older, then by namespace and name.
func before(a, b *v1alpha1.HelmRegistry) bool {
	if own := ownHost(a); own != ownHost(b) {
		return own
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Namespace+"/"+a.Name < b.Namespace+"/"+b.Name
}

func ownHost(r *v1alpha1.HelmRegistry) bool {
	return slices.Contains(desired.ServiceNames(r)[:3], desired.Hostname(r))
}

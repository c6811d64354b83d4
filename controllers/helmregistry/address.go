package helmregistry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
)

// Indexes of the cache of HelmRegistries.
const (
	indexHost   = "host"
	indexSecret = "secret"
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
	if err := r.Client.List(ctx, &same, client.MatchingFields{indexHost: desired.Hostname(s.registry)}); err != nil {
		return fmt.Errorf("looking for registries of the same host: %w", err)
	}
	me, first := s.registry, s.registry
	for i := range same.Items {
		if before(&same.Items[i], first) {
			first = &same.Items[i]
		}
	}
	if !mayShareName(me, first) {
		return addressTaken(me, first, desired.Hostname(me))
	}
	for i := range same.Items {
		other := &same.Items[i]
		if other.UID != me.UID && address(other) == address(me) && before(other, me) && mayShareName(other, first) {
			return addressTaken(me, other, me.Host())
		}
	}
	return nil
}

func addressTaken(me, other *v1alpha1.HelmRegistry, host string) error {
	// Who the other is, is not for everybody who may read this registry.
	owner := "a HelmRegistry in another namespace"
	if other.Namespace == me.Namespace {
		owner = "the HelmRegistry " + other.Name
	}
	return stalled("AddressTaken", "the host %s belongs to %s: write another spec.exposure.host", host, owner)
}

// mayShareName says whether a registry may be under the name of its host beside the first that is. Ports part
// registries, but not certificates: the operator signs for one name in one namespace only.
func mayShareName(r, first *v1alpha1.HelmRegistry) bool {
	return r.Namespace == first.Namespace || r.TLSMode() != v1alpha1.TLSSelfSigned || desired.HostAllowed(r, nil)
}

// address is the registry's host without the port that is the usual one.
func address(r *v1alpha1.HelmRegistry) string {
	if r.TLSMode() == v1alpha1.TLSNone {
		return strings.TrimSuffix(r.Host(), ":80")
	}
	return strings.TrimSuffix(r.Host(), ":443")
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

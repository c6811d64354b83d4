package accesssync

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/guests"
	"github.com/chartroom-dev/chartroom/controllers/internal/policies"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// policyBytes are kept free in a snapshot for policies, so that they displace no token, and no token them. Those of one
// registry have some kilobytes.
const policyBytes = 256 << 10

// policyInput is a policy that may be for a registry, with all that its place in the snapshot depends on.
type policyInput struct {
	policy          *v1alpha1.OIDCPolicy
	compiled        policies.Compiled
	wrong           error // Why it could not be compiled, or was not.
	namespaceLabels map[string]string
}

// addPolicies adds the policies of a registry to its snapshot. cluster is what "iss: kubernetes" stands for; nil when that
// is not known. As with tokens, the older ones stay where there is no room for all, and those of the registry's own
// namespace go first.
func (c *compiled) addPolicies(registry *v1alpha1.HelmRegistry, inputs []policyInput, cluster *wire.Issuer) {
	inputs = slices.SortedFunc(slices.Values(inputs), func(a, b policyInput) int { return precedence(registry, a.policy, b.policy) })
	s := shelf{room: policyBytes, issuers: map[string]bool{}}
	if cluster != nil {
		s.room -= len(encode(cluster))
	}
	for _, in := range inputs {
		if policies.IsRevoked(in.policy) {
			c.refuse(in.policy, registry)
			continue
		}
		if !policies.Held(in.policy) || !policies.Targets(in.policy, registry) || in.wrong != nil ||
			policies.Admit(in.policy, in.compiled, registry, in.namespaceLabels) != nil {
			continue
		}
		if why := s.put(in.compiled); why != "" {
			if c.policiesLeftOut == nil {
				c.policiesLeftOut = map[types.UID]string{}
			}
			c.policiesLeftOut[in.policy.UID] = why
			continue
		}
		c.access.Policies = append(c.access.Policies, in.compiled.Entry)
		if in.compiled.MeansTheCluster() {
			c.access.Kubernetes = cluster
		}
	}
	c.access = canonical(c.access)
}

// refuse notes that a policy is gone for good, where it may have been in force.
func (c *compiled) refuse(p *v1alpha1.OIDCPolicy, registry *v1alpha1.HelmRegistry) {
	if policies.Targets(p, registry) || policies.Records(p, client.ObjectKeyFromObject(registry)) {
		c.refused[p.UID] = true
		c.unproved = append(c.unproved, p.UID)
	}
}

// shelf is the room that a snapshot has for policies.
type shelf struct {
	room, policies int
	issuers        map[string]bool // Those that have to be asked.
	full           string          // Why nothing more is taken.
}

// put takes a policy, or says why there is no room for it, and then takes none any more: no younger one gets what is left.
func (s *shelf) put(c policies.Compiled) string {
	if s.full != "" {
		return s.full
	}
	size, asked := len(encode(c.Entry))+1, map[string]bool{}
	for i := range c.Policy.Statements {
		// That of the cluster is given.
		if source, _ := access.SourceOf(&c.Policy.Statements[i], nil); source.Issuer != "" && source.JWKS == "" && !s.issuers[source.Fingerprint()] {
			asked[source.Fingerprint()] = true
		}
	}
	switch {
	case s.policies == access.MaxPolicies:
		s.full = fmt.Sprintf("the registry has %d policies already: delete one, or put statements of several into one", access.MaxPolicies)
	case size > s.room:
		s.full = fmt.Sprintf("the policies of the registry would have more than %d KiB together: delete one, or write fewer and shorter statements", policyBytes>>10)
	case len(s.issuers)+len(asked) > access.MaxIssuers:
		s.full = fmt.Sprintf("the policies of the registry would name more than %d issuers that have to be asked for their keys: delete one", access.MaxIssuers)
	default:
		s.room -= size
		s.policies++
		for id := range asked {
			s.issuers[id] = true
		}
	}
	return s.full
}

// narrowsPolicies reports whether the newer snapshot lacks a policy of the older one, or a key of the cluster's issuer. An
// edited policy counts as taken away: which tokens it admits less is not for us to find out.
func narrowsPolicies(older, newer wire.Access) bool {
	for _, p := range older.Policies {
		if !slices.ContainsFunc(newer.Policies, p.Equal) {
			return true
		}
	}
	if older.Kubernetes == nil || newer.Kubernetes == nil {
		return older.Kubernetes != nil
	}
	keys := keysOf(newer.Kubernetes)
	return older.Kubernetes.Issuer != newer.Kubernetes.Issuer ||
		slices.ContainsFunc(keysOf(older.Kubernetes), func(key json.RawMessage) bool {
			return !slices.ContainsFunc(keys, func(other json.RawMessage) bool { return bytes.Equal(key, other) })
		})
}

// keysOf returns the keys of an issuer as they were written; nil when they cannot be read.
func keysOf(i *wire.Issuer) []json.RawMessage {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal([]byte(i.JWKS), &set) != nil {
		return nil
	}
	return set.Keys
}

// gatherPolicies reads the policies of a registry with all that their place in the snapshot depends on, and what stands
// for the cluster's issuer. As long as the API server could not be asked since the operator started, that is what it was
// before.
func (r *Reconciler) gatherPolicies(ctx context.Context, registry *v1alpha1.HelmRegistry) ([]policyInput, *wire.Issuer, error) {
	found, err := policies.Of(ctx, r.Client, client.ObjectKeyFromObject(registry))
	if err != nil || len(found) == 0 {
		return nil, nil, err
	}
	inputs := make([]policyInput, 0, len(found))
	for _, p := range found {
		in, err := r.readPolicy(ctx, p, registry)
		if err != nil {
			return nil, nil, err
		}
		inputs = append(inputs, in)
	}
	if issuer, known := r.Cluster.Issuer(); known {
		return inputs, &issuer, nil
	}
	before, err := fetchFloor(ctx, r.Owned, registry, nil, client.ObjectKey{Namespace: registry.Namespace, Name: desired.AccessName(registry)})
	return inputs, before.access.Kubernetes, err
}

// readPolicy reads what one policy depends on. Those of namespaces that the registry does not admit cost it nothing more
// than that: anybody can name it in a policy.
func (r *Reconciler) readPolicy(ctx context.Context, p *v1alpha1.OIDCPolicy, registry *v1alpha1.HelmRegistry) (policyInput, error) {
	in := policyInput{policy: p}
	if p.Namespace != registry.Namespace {
		namespace, err := guests.Namespace(ctx, r.Client, p.Namespace)
		if err != nil {
			return in, err
		}
		in.namespaceLabels = namespace.Labels
	}
	in.wrong = policies.AdmitAny(p, registry, in.namespaceLabels)
	if in.wrong == nil {
		authorities, err := r.Secrets.Authorities(ctx, p)
		if err != nil {
			return in, err
		}
		in.compiled, in.wrong = policies.Compile(p, authorities)
	}
	return in, nil
}

package registrytoken

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
)

// reasonNotChosen is that of a registry of whose pods not all have confirmed yet that they refuse a token which is no
// longer for it.
const reasonNotChosen = "NotChosen"

// place is a registry whose pods may admit the token.
type place struct {
	registry types.NamespacedName
	// left says that the token is no longer for it.
	left bool
	// state is the ledger's; known is false when the pods have not been asked yet.
	state ledger.State
	known bool
}

// places returns where the token may be admitted, sorted by name: at the registries that it is for, of which the one that
// it names need not exist; and at those of which its status tells, until they are gone or it is proved that nobody
// admits it there any more.
func (r *Reconciler) places(ctx context.Context, reader client.Reader, in tokens.Input) ([]place, error) {
	var places []place
	at := func(registry types.NamespacedName, left bool) place {
		state, known := r.Ledger.State(registry)
		return place{registry: registry, left: left, state: state, known: known}
	}
	if key, named := in.Token.RegistryKey(); named {
		return []place{at(key, false)}, nil
	}
	for _, registry := range in.Registries {
		places = append(places, at(client.ObjectKeyFromObject(registry), false))
	}
	for _, recorded := range in.Token.Status.Registries {
		key := types.NamespacedName{Namespace: in.Token.Namespace, Name: recorded.Name}
		if slices.ContainsFunc(places, func(p place) bool { return p.registry == key }) {
			continue
		}
		switch err := reader.Get(ctx, key, &v1alpha1.HelmRegistry{}); {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return nil, fmt.Errorf("reading the registry %s: %w", key, err)
		}
		left := at(key, true)
		// What is revoked needs the stronger proof, that the pods were told after it had been.
		if tokens.IsRevoked(in.Token) || !left.known || !left.state.Frees(in.Token.Namespace+"/"+in.Token.Name) {
			places = append(places, left)
		}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.registry.Name, b.registry.Name) })
	return places, nil
}

// enforces reports whether every live pod of every registry that the token is for enforces a credential, of which there
// may be none.
func (s *scope) enforces(c tokens.Credential) bool {
	entry := tokens.Entry(s.in.Token, c)
	return s.first(func(p place) bool { return p.left || p.known && p.state.Enforces(entry) }) == nil
}

// holds reports whether every live pod of a registry that the token is for, and at least one, enforces it.
func (s *scope) holds(p place) bool {
	return p.left || p.known && p.state.Holds(tokens.Entry(s.in.Token, s.decision.Credentials.Current))
}

// holdsAll reports whether they enforce the end of the one that it replaced, too, and nobody admits it where it is no
// longer for.
func (s *scope) holdsAll(p place) bool {
	previous := s.decision.Credentials.Previous
	return !p.left && s.holds(p) && (previous == nil || p.state.Holds(tokens.Entry(s.in.Token, *previous)))
}

// refuses reports whether it is proved that no pod of a registry admits the revoked token.
func (s *scope) refuses(p place) bool { return p.known && p.state.Lacks(s.in.Token.UID) }

// first returns the first registry of which something is not true; nil when there is none.
func (s *scope) first(is func(place) bool) *place {
	if i := slices.IndexFunc(s.places, func(p place) bool { return !is(p) }); i >= 0 {
		return &s.places[i]
	}
	return nil
}

// at adds to a message which of several registries it is about.
func (s *scope) at(p *place, message string) string {
	if _, named := s.in.Token.RegistryKey(); named {
		return message
	}
	return fmt.Sprintf("%s (at the registry %s)", message, p.registry.Name)
}

// registries is what the status says of each registry that a selector chooses.
func (s *scope) registries() []v1alpha1.TokenRegistry {
	if _, named := s.in.Token.RegistryKey(); named {
		return nil
	}
	var out []v1alpha1.TokenRegistry
	for _, p := range s.places {
		out = append(out, v1alpha1.TokenRegistry{Name: p.registry.Name, Reason: s.reasonAt(p)})
	}
	return out
}

func (s *scope) reasonAt(p place) string {
	revoked := s.decision.Action == tokens.Revoke
	before := slices.IndexFunc(s.in.Token.Status.Registries, func(r v1alpha1.TokenRegistry) bool { return r.Name == p.registry.Name })
	switch {
	case s.failure != nil:
		return reasonWriteFailed
	case revoked && s.refuses(p), !revoked && s.decision.InForce && s.holdsAll(p):
		return reasonConfirmed
	case p.left:
		return reasonNotChosen
	case !revoked && !s.decision.InForce:
		return s.decision.Reason
	case !p.known && before >= 0:
		return s.in.Token.Status.Registries[before].Reason // The operator has just started.
	case !p.known:
		return reasonPending
	case p.state.Reason != "":
		return p.state.Reason
	}
	return ledger.ReasonWaitingForReplicas
}

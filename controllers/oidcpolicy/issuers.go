package oidcpolicy

import (
	"fmt"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/clusterissuer"
	"github.com/chartroom-dev/chartroom/controllers/internal/status"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
)

// messageUnasked is said of an issuer of which nothing is known yet.
const messageUnasked = "nobody has said yet what is known of the issuer"

// issuers says what is known of the issuers that the statements name, in their order. One that is named with different keys
// or authorities is there once for each.
func (s *scope) issuers() []v1alpha1.PolicyIssuer {
	var out []v1alpha1.PolicyIssuer
	seen := map[string]bool{}
	for i := range s.compiled.Policy.Statements {
		statement := &s.compiled.Policy.Statements[i]
		source, _ := access.SourceOf(statement, nil)
		if id := source.Fingerprint(); !seen[id] {
			seen[id] = true
			out = append(out, s.settled(len(out), s.issuer(statement)))
		}
	}
	return out
}

// noted is the least time between two changes of the status that tell of nothing but keys which were fetched again.
const noted = time.Hour

// settled keeps what the status says already of the issuer at that place, where there is nothing new to say: after the
// operator has started, where the same keys were fetched again a while ago, and where the same went wrong at another time.
func (s *scope) settled(i int, now v1alpha1.PolicyIssuer) v1alpha1.PolicyIssuer {
	if s.policy.Status.ObservedGeneration != s.policy.Generation || i >= len(s.policy.Status.Issuers) {
		return now
	}
	before := s.policy.Status.Issuers[i]
	if before.Iss != now.Iss {
		return now
	}
	if now.Message == messageUnasked {
		return before
	}
	if withoutNumbers(before.Message) == withoutNumbers(now.Message) {
		now.Message = before.Message
	}
	was, is := before.LastRefreshed, now.LastRefreshed
	if was != nil && is != nil && is.Sub(was.Time).Abs() < noted {
		now.LastRefreshed = was
	}
	return now
}

func withoutNumbers(text string) string {
	return strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}, text)
}

func (s *scope) issuer(statement *policy.Statement) v1alpha1.PolicyIssuer {
	source, asked := access.SourceOf(statement, nil)
	switch given, _ := source.Given(); {
	case !asked && s.cluster == (clusterissuer.State{}):
		return v1alpha1.PolicyIssuer{Iss: statement.Issuer, Message: messageUnasked}
	case !asked: // It is the cluster's.
		keys := s.cluster.Keys
		return v1alpha1.PolicyIssuer{
			Iss: statement.Issuer, Reachable: keys > 0 && s.cluster.Problem == "", Keys: int32(keys), //nolint:gosec // A few.
			LastRefreshed: at(s.cluster.Refreshed), Message: clip(s.cluster.Problem),
		}
	case given > 0:
		return v1alpha1.PolicyIssuer{Iss: statement.Issuer, Reachable: true, Keys: int32(given)} //nolint:gosec // A few.
	}
	return s.asked(statement.Issuer, source.Fingerprint())
}

// asked sums up what the pods say of an issuer that they have to ask.
func (s *scope) asked(issuer, source string) v1alpha1.PolicyIssuer {
	out := v1alpha1.PolicyIssuer{Iss: issuer}
	var refreshed *time.Time
	said := false
	for _, place := range s.registries {
		for _, pod := range place.pods {
			for _, state := range pod.Issuers {
				if state.Source != source || !place.targeted {
					continue
				}
				keys := int32(state.Keys) //nolint:gosec // Bounded by the size of what issuers are listened to.
				if out.Keys = min(out.Keys, keys); !said {
					out.Keys = keys
				}
				said = true
				if state.Refreshed != nil && (refreshed == nil || state.Refreshed.Before(*refreshed)) {
					refreshed = state.Refreshed
				}
				if state.Problem != "" && out.Message == "" {
					out.Message = clip(fmt.Sprintf("pod %s: %s", pod.Name, state.Problem))
				}
			}
		}
	}
	if refreshed != nil {
		out.LastRefreshed = at(*refreshed)
	}
	if !said || out.Keys == 0 && out.Message == "" {
		out.Message = messageUnasked
	}
	out.Reachable = out.Message == ""
	return out
}

// reachability sums up what is known of the issuers.
func reachability(issuers []v1alpha1.PolicyIssuer) status.Finding {
	finding := status.Is(reasonReachable, "the keys of all issuers are known")
	for _, i := range issuers {
		switch {
		case i.Reachable:
		case i.Message == messageUnasked:
			finding = status.Unknown(reasonPending, fmt.Sprintf("the issuer %s: %s", i.Iss, messageUnasked))
		default:
			return status.IsNot(reasonIssuerUnreachable, fmt.Sprintf("the issuer %s: %s", i.Iss, i.Message))
		}
	}
	return finding
}

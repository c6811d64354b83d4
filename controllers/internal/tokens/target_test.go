package tokens

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// choosing is a token of several registries, those of the team web.
func choosing() *v1alpha1.RegistryToken {
	token := newToken()
	token.Spec.RegistryRef = v1alpha1.RegistryReference{}
	token.Spec.RegistrySelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "web"}}
	return token
}

func TestChosen(t *testing.T) {
	registry := func(name, namespace, team string, age int) v1alpha1.HelmRegistry {
		return v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"team": team},
			CreationTimestamp: metav1.NewTime(now.Add(-time.Duration(age) * time.Hour))}}
	}
	all := []v1alpha1.HelmRegistry{
		registry("young", "team-a", "web", 1), registry("old", "team-a", "web", 2), registry("as-old", "team-a", "web", 2),
		registry("of-others", "team-a", "other", 3), registry("elsewhere", "team-b", "web", 4),
	}
	var crowd []v1alpha1.HelmRegistry
	for i := range v1alpha1.MaxTokenRegistries + 1 {
		crowd = append(crowd, registry(fmt.Sprintf("r%02d", i), "team-a", "web", i))
	}
	for name, c := range map[string]struct {
		selector metav1.LabelSelector
		all      []v1alpha1.HelmRegistry
		want     []string
	}{
		"by label":           {metav1.LabelSelector{MatchLabels: map[string]string{"team": "web"}}, all, []string{"as-old", "old", "young"}},
		"all":                {metav1.LabelSelector{}, all, []string{"of-others", "as-old", "old", "young"}},
		"none":               {metav1.LabelSelector{MatchLabels: map[string]string{"team": "none"}}, all, nil},
		"no selector":        {metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: "Like"}}}, all, nil},
		"the oldest of many": {metav1.LabelSelector{}, crowd, nil},
	} {
		t.Run(name, func(t *testing.T) {
			token := choosing()
			token.Spec.RegistrySelector = &c.selector
			var got []string
			for _, r := range Chosen(token, c.all) {
				got = append(got, r.Name)
			}
			if len(c.all) > v1alpha1.MaxTokenRegistries {
				if len(got) != v1alpha1.MaxTokenRegistries || got[0] != "r64" || slices.Contains(got, "r00") {
					t.Errorf("chosen are %d: %v", len(got), got)
				}
			} else if !slices.Equal(got, c.want) {
				t.Errorf("chosen are %v, want %v", got, c.want)
			}
		})
	}
}

// Nothing is granted of which the status does not tell, and what it tells of concerns the registry until it does no more.
func TestGrantsAreRecordedFirst(t *testing.T) {
	recorded := func(token *v1alpha1.RegistryToken) *v1alpha1.RegistryToken {
		token.Status.Registries = []v1alpha1.TokenRegistry{{Name: "charts"}}
		return token
	}
	held := func(token *v1alpha1.RegistryToken) *v1alpha1.RegistryToken {
		token.Finalizers = []string{v1alpha1.FinalizerToken}
		return token
	}
	for name, c := range map[string]struct {
		token           *v1alpha1.RegistryToken
		registries      []*v1alpha1.HelmRegistry
		concerns, grant bool
	}{
		"named, but not held": {newToken(), registries(newRegistry()), true, false},
		"named":               {held(newToken()), registries(newRegistry()), true, true},
		"chosen":              {held(choosing()), registries(newRegistry()), true, false},
		"chosen and recorded": {held(recorded(choosing())), registries(newRegistry()), true, true},
		"chosen no longer":    {held(recorded(choosing())), nil, true, false},
		"neither":             {held(choosing()), nil, false, false},
	} {
		in := Input{Token: c.token, Registries: c.registries}
		if got := Concerns(c.token, c.registries, "charts"); got != c.concerns {
			t.Errorf("%s: it concerns the registry: %t", name, got)
		}
		if got := in.Grants("charts"); got != c.grant {
			t.Errorf("%s: it is granted: %t", name, got)
		}
	}
}

func TestDecideOnSeveralRegistries(t *testing.T) {
	broken := choosing()
	broken.Spec.RegistrySelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "team", Operator: "Like"}}
	revoked := choosing()
	revoked.Spec.State = v1alpha1.TokenRevoked
	for name, c := range map[string]struct {
		token      *v1alpha1.RegistryToken
		registries []*v1alpha1.HelmRegistry
		action     Action
		reason     string
	}{
		"some":            {choosing(), registries(newRegistry(), newRegistry()), Issue, ReasonIssued},
		"none":            {choosing(), nil, Wait, ReasonRegistryNotFound},
		"none to be read": {broken, nil, Stall, ReasonInvalidSpec},
		"none any more":   {revoked, nil, Revoke, ReasonRevoked},
	} {
		if d := Decide(Input{Token: c.token, Registries: c.registries, Now: now}); d.Action != c.action || d.Reason != c.reason {
			t.Errorf("%s: decided %v, %s (%s)", name, d.Action, d.Reason, d.Message)
		}
	}
}

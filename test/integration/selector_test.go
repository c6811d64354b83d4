package integration

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// named returns a registry of the test's namespace.
func (c *cluster) named(name, team string) *v1alpha1.HelmRegistry {
	return c.registry(func(r *v1alpha1.HelmRegistry) { r.Name, r.Labels = name, map[string]string{"team": team} })
}

func TestOneTokenForSeveralRegistries(t *testing.T) {
	c := newCluster(t)
	first, second, other := c.named("first", "web"), c.named("second", "web"), c.named("other", "data")
	pods := map[string]*pod{}
	for _, r := range []*v1alpha1.HelmRegistry{first, second, other} {
		c.create(r)
		pods[r.Name] = c.startPodOf(r.Name, r.Name+"-1")
	}
	token := newToken(c.namespace, "team", func(token *v1alpha1.RegistryToken) {
		token.Spec.RegistryRef = v1alpha1.RegistryReference{}
		token.Spec.RegistrySelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "web"}}
	})
	c.create(token)
	secret := c.issued(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	admitting := func() []string {
		var names []string
		for _, name := range []string{"first", "other", "second"} {
			if pods[name].admits(secret, wire.ReadPackages) {
				names = append(names, name)
			}
		}
		return names
	}
	// told waits until the status tells of registries by their reasons, and checks who admits the token then.
	told := func(what string, want map[string]string, admit ...string) {
		t.Helper()
		got := map[string]string{}
		c.eventually(what, func() bool {
			c.get(token)
			clear(got)
			for _, r := range token.Status.Registries {
				got[r.Name] = r.Reason
			}
			return cmp.Equal(want, got)
		})
		if names := admitting(); !slices.Equal(names, admit) {
			t.Errorf("%s: the token is admitted at %v, want %v", what, names, admit)
		}
	}
	told("both are told of", map[string]string{"first": "Confirmed", "second": "Confirmed"}, "first", "second")
	hosts := func() []string {
		c.get(secret)
		var config struct{ Auths map[string]any }
		if err := json.Unmarshal(secret.Data[".dockerconfigjson"], &config); err != nil {
			t.Fatal(err)
		}
		var names []string
		for host := range config.Auths {
			names = append(names, host)
		}
		slices.Sort(names)
		return names
	}
	c.get(first)
	c.get(second)
	if want := []string{first.Host(), second.Host()}; !slices.Equal(hosts(), want) || len(secret.Data["registry"]) > 0 {
		t.Errorf("the Secret has entries for %v, want %v", hosts(), want)
	}

	// It follows the labels, and a rotation waits for all.
	c.update(other, func() { other.Labels["team"] = "web" })
	told("a third is told of", map[string]string{"first": "Confirmed", "other": "Confirmed", "second": "Confirmed"}, "first", "other", "second")
	c.eventually("the Secret has the third", func() bool { return len(hosts()) == 3 })
	pods["second"].cutOff()
	c.rotate(token, "once")
	password := string(secret.Data["password"])
	c.eventually("the new token is at the others", func() bool {
		c.get(secret)
		staged := secret.DeepCopy()
		staged.Data["password"] = secret.Data["next-token"]
		return len(secret.Data["next-token"]) > 0 && pods["first"].admits(staged, wire.ReadPackages) && pods["other"].admits(staged, wire.ReadPackages)
	})
	if string(secret.Data["password"]) != password {
		t.Error("the Secret was switched before all registries enforced the new token")
	}
	pods["second"].serve()
	secret = c.rotated(token, "once")
	told("all have the new one", map[string]string{"first": "Confirmed", "other": "Confirmed", "second": "Confirmed"}, "first", "other", "second")

	// What no longer is chosen is told of until its pod refuses the token.
	pods["first"].cutOff()
	c.update(first, func() { first.Labels["team"] = "none" })
	told("the first is no longer chosen", map[string]string{"first": "NotChosen", "other": "Confirmed", "second": "Confirmed"}, "first", "other", "second")
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	pods["first"].serve()
	told("the first is out", map[string]string{"other": "Confirmed", "second": "Confirmed"}, "other", "second")
	c.eventuallyIs(token, v1alpha1.ConditionPropagated, metav1.ConditionTrue, "Confirmed")

	// It goes only when all refuse it.
	pods["second"].cutOff()
	c.delete(token)
	c.eventually("the others refuse it", func() bool { return slices.Equal(admitting(), []string{"second"}) })
	c.eventually("the status says for whom it waits", func() bool {
		return c.exists(token) && slices.Contains(token.Status.Registries, v1alpha1.TokenRegistry{Name: "other", Reason: "Confirmed"})
	})
	c.eventuallyIs(token, v1alpha1.ConditionRevoked, metav1.ConditionFalse, "WaitingForReplicas")
	pods["second"].serve()
	c.eventually("the token is gone", func() bool { return !c.exists(token) })
	if names := admitting(); len(names) > 0 {
		t.Errorf("the token is gone, and admitted at %v", names)
	}
}

func TestSelectorWaitsForARegistry(t *testing.T) {
	c := newCluster(t)
	token := newToken(c.namespace, "team", func(token *v1alpha1.RegistryToken) {
		token.Spec.RegistryRef, token.Spec.RegistrySelector = v1alpha1.RegistryReference{}, &metav1.LabelSelector{}
	})
	c.create(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionFalse, "RegistryNotFound")
	registry := c.named("charts", "web")
	c.create(registry)
	pod := c.startPod("charts-1")
	secret := c.issued(token)
	c.eventuallyIs(token, v1alpha1.ConditionReady, metav1.ConditionTrue, "Published")
	if !pod.admits(secret, wire.ReadPackages) {
		t.Error("the pod does not admit the token")
	}

	// Without a registry there is nobody to wait for.
	pod.finish()
	c.delete(registry)
	c.eventually("the registry is gone", func() bool { return !c.exists(registry) })
	c.delete(token)
	c.eventually("the token is gone", func() bool { return !c.exists(token) })
}

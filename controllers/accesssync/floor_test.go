package accesssync

import (
	"bytes"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Conditions that come and go are told once in a while, and what was told leads to no other write.
func TestTellingOfConditions(t *testing.T) {
	var m memory
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	is := func(status metav1.ConditionStatus) []metav1.Condition {
		return []metav1.Condition{{Type: "Ready", Status: status}}
	}
	for _, step := range []struct {
		what       string
		after      time.Duration
		conditions []metav1.Condition
		told       metav1.ConditionStatus
		wait       time.Duration
	}{
		{"before the first status", 0, nil, "", 0},
		{"the first status is told at once", time.Second, is("False"), "False", 0},
		{"again", time.Second, is("False"), "False", 0},
		{"another waits", time.Second, is("True"), "False", 13 * time.Second},
		{"and is forgotten when it is gone", time.Second, is("False"), "False", 0},
		{"another one waits", 5 * time.Second, is("True"), "False", 7 * time.Second},
		{"until it is its time", 7 * time.Second, is("True"), "True", 0},
		{"and then is what was told", time.Hour, is("True"), "True", 0},
	} {
		now = now.Add(step.after)
		if wait := m.tell(step.conditions, now); wait != step.wait {
			t.Errorf("%s: it waits for %s", step.what, wait)
		}
		var told metav1.ConditionStatus
		if len(m.told) > 0 {
			told = m.told[0].Status
		}
		if told != step.told {
			t.Errorf("%s: %q is told", step.what, told)
		}
	}
}

func TestWhatPodsAreToldIsPartOfTheSecret(t *testing.T) {
	registry := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "charts", UID: "1"}}
	access := wire.Access{Revision: 3, Visibility: wire.Private}
	access.Digest = access.ContentDigest()
	told := []metav1.Condition{{Type: "Ready", Status: "True", Message: "fine"}}
	secret, err := buildSecret(registry, told, access)
	if err != nil {
		t.Fatal(err)
	}
	intact := func(what string, want bool, told []metav1.Condition) {
		t.Helper()
		f, err := readFloor(registry, told, secret)
		if err != nil || f.intact != want || f.access.Revision != 3 {
			t.Errorf("%s: %+v, %v", what, f, err)
		}
	}
	intact("as it was written", true, told)
	intact("other conditions", false, []metav1.Condition{{Type: "Ready", Status: "False"}})
	registry.Spec.Suspend = true
	intact("another spec", false, told)
	registry.Spec.Suspend = false
	delete(secret.Data, wire.SettingsFile)
	intact("without the settings", false, told)
}

// A Secret has room for 1 MiB. Access comes first.
func TestSettingsTakeTheRoomThatIsLeft(t *testing.T) {
	registry := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "charts"}}
	registry.Spec.Exposure.Service.Annotations = map[string]string{"a": strings.Repeat("x", 40<<10)}
	for bytesOfAccess, want := range map[int]struct{ settings, spec bool }{
		1 << 10: {true, true}, 1000 << 10: {true, false}, corev1.MaxSecretSize - 40: {false, false},
	} {
		entries, err := entriesOf(registry, nil, wire.Access{Visibility: wire.Private, Tokens: []wire.Token{{Name: strings.Repeat("x", bytesOfAccess-250)}}})
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, content := range entries {
			sum += len(content)
		}
		document, told := entries[wire.SettingsFile]
		if sum > corev1.MaxSecretSize || told != want.settings || bytes.Contains(document, []byte("xxx")) != want.spec {
			t.Errorf("with %d bytes of access: %d bytes of settings, %d in all", len(entries[documentKey]), len(document), sum)
		}
	}
}

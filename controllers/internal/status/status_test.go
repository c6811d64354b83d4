package status_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/controllers/internal/status"
)

func TestConditions(t *testing.T) {
	part := []status.Part{{Type: "Available", Finding: status.IsNot("Waiting", "not yet")}}
	tests := map[string]struct {
		summary status.Summary
		want    []metav1.Condition
	}{
		"ready": {status.Summary{Ready: status.Is("Ready", "serves")}, []metav1.Condition{
			{Type: "Ready", Status: "True", Reason: "Ready", Message: "Serves.", ObservedGeneration: 3},
			{Type: "Available", Status: "False", Reason: "Waiting", Message: "Not yet.", ObservedGeneration: 3},
		}},
		"under way": {status.Summary{Ready: status.IsNot("Waiting", "not yet")}, []metav1.Condition{
			{Type: "Ready", Status: "False", Reason: "Waiting", Message: "Not yet.", ObservedGeneration: 3},
			{Type: "Reconciling", Status: "True", Reason: "Progressing", Message: "Not yet.", ObservedGeneration: 3},
			{Type: "Available", Status: "False", Reason: "Waiting", Message: "Not yet.", ObservedGeneration: 3},
		}},
		"stalled": {status.Summary{Ready: status.IsNot("NameTaken", "rename it"), Stalled: true}, []metav1.Condition{
			{Type: "Ready", Status: "False", Reason: "NameTaken", Message: "Rename it.", ObservedGeneration: 3},
			{Type: "Stalled", Status: "True", Reason: "NameTaken", Message: "Rename it.", ObservedGeneration: 3},
			{Type: "Available", Status: "False", Reason: "Waiting", Message: "Not yet.", ObservedGeneration: 3},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := status.Conditions(nil, 3, test.summary, part)
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(metav1.Condition{}, "LastTransitionTime")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again := status.Conditions(got, 3, test.summary, part); !cmp.Equal(got, again) {
				t.Errorf("the same findings give other conditions:\n%s", cmp.Diff(got, again))
			}
		})
	}
}

func TestTimeOfTransitionIsOfTheStatus(t *testing.T) {
	long := metav1.NewTime(time.Now().Add(-time.Hour))
	old := []metav1.Condition{{Type: "Ready", Status: "False", Reason: "A", LastTransitionTime: long}}
	same := status.Conditions(old, 1, status.Summary{Ready: status.IsNot("B", "other words")}, nil)
	if !same[0].LastTransitionTime.Equal(&long) || same[0].Reason != "B" {
		t.Errorf("other words for the same status: %+v", same[0])
	}
	if other := status.Conditions(old, 1, status.Summary{Ready: status.Is("B", "")}, nil); other[0].LastTransitionTime.Equal(&long) {
		t.Errorf("another status has the old time: %+v", other[0])
	}
}

func TestMessagesAreSentences(t *testing.T) {
	for given, want := range map[string]string{
		"not yet":                             "Not yet.",
		"Is it?":                              "Is it?",
		"spec.podTemplate.spec is not one":    "spec.podTemplate.spec is not one.",
		"ca.crt of Secret x: not one":         "ca.crt of Secret x: not one.",
		"secretTemplate.labels: \"a\" is bad": "secretTemplate.labels: \"a\" is bad.",
		"crt_abc is gone":                     "crt_abc is gone.",
		"statements[0]: iss: it is missing":   "statements[0]: iss: it is missing.",
		"1 of 1 pods serve":                   "1 of 1 pods serve.",
		"écrit":                               "Écrit.",
		"":                                    "",
	} {
		if got := status.Conditions(nil, 1, status.Summary{Ready: status.IsNot("A", given)}, nil)[0].Message; got != want {
			t.Errorf("%q became %q, want %q", given, got, want)
		}
	}
}

func TestLongMessagesAreCut(t *testing.T) {
	if note := status.Note(strings.Repeat("ä", 2000)); len(note) > 1024 || len(note) < 900 || !strings.HasPrefix(note, "Ää") {
		t.Errorf("the note of an event has %d bytes: %.10s", len(note), note)
	}
	got := status.Conditions(nil, 1, status.Summary{Ready: status.IsNot("A", strings.Repeat("ä", 40000))}, nil)
	if n := len(got[0].Message); n == 0 || n > 32<<10 {
		t.Errorf("the message has %d bytes", n)
	}
}

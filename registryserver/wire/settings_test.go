package wire_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestSettings(t *testing.T) {
	s := wire.Settings{
		Namespace: "team-a", Name: "charts", Generation: 3, Spec: "replicas: 2\n",
		Conditions: []wire.Condition{{Type: "Ready", Status: "False", Reason: "X", Message: "<a>", Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}},
	}
	document := s.Encode()
	if want := `{"version":1,"namespace":"team-a","name":"charts","generation":3,"spec":"replicas: 2\n","conditions":[{"type":"Ready","status":"False","reason":"X","message":"<a>","since":"2026-01-02T03:04:05Z"}]}`; string(document) != want {
		t.Errorf("%s", document)
	}
	s.Version = 1
	if got, err := wire.DecodeSettings(document); !reflect.DeepEqual(got, s) || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for name, document := range map[string]string{"nothing": "", "no JSON": "{", "another version": `{"version":2}`, "no version": "{}", "too much": `{"version":1,"spec":"` + strings.Repeat("x", 256<<10) + `"}`} {
		if got, err := wire.DecodeSettings([]byte(document)); err == nil || !reflect.DeepEqual(got, wire.Settings{}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

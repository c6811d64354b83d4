package wire_test

import (
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestPresentation(t *testing.T) {
	p := wire.Presentation{DisplayName: "Charts", Description: "What it is for.", Emoji: "🌻", Color: "#f0ccff", Authority: "team-a/charts-ca"}
	document := p.Encode()
	if want := `{"version":1,"displayName":"Charts","description":"What it is for.","emoji":"🌻","color":"#f0ccff","authority":"team-a/charts-ca"}`; strings.TrimSpace(string(document)) != want {
		t.Errorf("%s", document)
	}
	p.Version = 1
	if got, err := wire.DecodePresentation(document); got != p || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for name, document := range map[string]string{"nothing": "", "no JSON": "{", "another version": `{"version":2}`, "no version": "{}", "too much": `{"version":1,"displayName":"` + strings.Repeat("x", 64<<10) + `"}`} {
		if got, err := wire.DecodePresentation([]byte(document)); err == nil || got != (wire.Presentation{}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func FuzzDecodePresentation(f *testing.F) {
	f.Add(wire.Presentation{DisplayName: "Charts", Emoji: "🌻"}.Encode())
	f.Add([]byte(`{"version":1,"displayName":"` + "\xff" + `"}`))
	f.Fuzz(func(t *testing.T, document []byte) { wantStable(t, document, wire.DecodePresentation) })
}

func FuzzDecodeSettings(f *testing.F) {
	f.Add(wire.Settings{Name: "charts", Spec: "a: 1\n", Conditions: []wire.Condition{{Type: "Ready", Status: "True"}}}.Encode())
	f.Add([]byte(`{"version":1,"conditions":[{"since":"9999-12-31T23:59:59-14:00"}]}`))
	f.Fuzz(func(t *testing.T, document []byte) { wantStable(t, document, wire.DecodeSettings) })
}

// wantStable wants what is taken to be the same once it is written.
func wantStable[T interface{ Encode() []byte }](t *testing.T, document []byte, decode func([]byte) (T, error)) {
	t.Helper()
	taken, err := decode(document)
	if err != nil {
		return
	}
	again, err := decode(taken.Encode())
	if err != nil || string(again.Encode()) != string(taken.Encode()) {
		t.Errorf("%q is taken as %s, and then as %s: %v", document, taken.Encode(), again.Encode(), err)
	}
}

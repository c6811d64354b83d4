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

package registryserver

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/web"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestAboutFollowsItsFile(t *testing.T) {
	var log bytes.Buffer
	file := filepath.Join(t.TempDir(), "about.json")
	config := Config{About: AboutConfig{Emoji: "🌻", File: file}}
	a := newAbout(config, slog.New(slog.NewTextHandler(&log, nil)))
	want := func(what string, want web.About) {
		t.Helper()
		a.told.looked = time.Time{} // As if it had not been looked at for a while.
		if got := a.get(); got != want {
			t.Errorf("%s: %+v", what, got)
		}
	}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want("without a file", web.About{Emoji: "🌻"})
	write(string(wire.Presentation{DisplayName: "Charts", Emoji: "x", Color: "#f0ccff", Authority: "team-a/charts-ca"}.Encode()))
	good := web.About{DisplayName: "Charts", Emoji: "🌻", Color: "#f0ccff", Authority: "team-a/charts-ca"}
	want("with a file", good)
	for _, bad := range []string{"{", `{"version":2}`, `{"version":1,"color":"red"}`, `{"version":1,"authority":"; rm"}`, `{"version":1,"displayName":"` + strings.Repeat("x", 129) + `"}`} {
		log.Reset()
		write(bad)
		want(bad, good)
		if !strings.Contains(log.String(), "was not taken") {
			t.Errorf("nobody is told of %.40s", bad)
		}
		log.Reset()
		want(bad, good)
		if log.Len() > 0 {
			t.Errorf("it is told again and again: %s", log.String())
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	want("when the file is gone", web.About{Emoji: "🌻"})
}

package registryserver

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestSettingsOfTheServerAlone(t *testing.T) {
	folder := t.TempDir()
	c := Config{
		Access: AccessConfig{File: filepath.Join(folder, "access.json")}, DrainTimeout: Duration(90 * time.Second),
		Notifications: []receivers.Receiver{
			{Name: "flux", URL: "https://flux.example/hook/hunter2?t=hunter2", Format: receivers.Flux, Auth: receivers.Auth{HMAC: &receivers.HMAC{SecretFile: "flux-webhook"}}},
			{Name: "odd", URL: "://hunter2"},
		},
	}.WithDefaults()
	settings := newSettings(c, slog.New(slog.NewTextHandler(io.Discard, nil)))
	got := settings()
	if got.Name != "" || strings.Contains(got.Spec, "hunter2") || c.Notifications[0].URL != "https://flux.example/hook/hunter2?t=hunter2" {
		t.Errorf("%+v", got)
	}
	for _, line := range []string{"listen: 127.0.0.1:5000\n", "drainTimeout: 1m30s\n", "url: https://flux.example/…\n", "secretFile: flux-webhook\n", "interval: 1h0m0s\n"} {
		if !strings.Contains(got.Spec, line) {
			t.Errorf("%q is not in\n%s", line, got.Spec)
		}
	}
	for _, line := range []string{"s3:", "about:\n  color", `""`, "null"} {
		if strings.Contains(got.Spec, line) {
			t.Errorf("%q is in\n%s", line, got.Spec)
		}
	}
	// What is shown can be written into a file again.
	var again Config
	if err := decode([]byte(got.Spec), &again); err != nil {
		t.Error(err)
	}
}

func TestSettingsThatTheOperatorTells(t *testing.T) {
	folder := t.TempDir()
	document := wire.Settings{Namespace: "team-a", Name: "charts", Spec: "replicas: 2\n"}.Encode()
	if err := os.WriteFile(filepath.Join(folder, "settings.json"), document, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Access: AccessConfig{File: filepath.Join(folder, "access.json")}}.WithDefaults()
	if got := newSettings(c, slog.New(slog.NewTextHandler(io.Discard, nil)))(); got.Name != "charts" || got.Spec != "replicas: 2\n" {
		t.Errorf("%+v", got)
	}
}

package registryserver

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The lines stand among those of slog's handlers, and whoever reads the log must not see a difference.
func TestLinesAreThoseOfSlog(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000000, time.UTC)
	lines := []requestLine{
		{at: at, id: "id", method: "GET", path: "/v2/a/b/c/manifests/1.0.0", identity: "crt_a", remote: "127.0.0.1:1", status: 200, bytes: 12, took: 1500 * time.Microsecond},
		{at: at, level: slog.LevelError, id: "id", method: "G T", path: "/v2/\"\n\x00=é\xff<", remote: "[::1]:1", status: 500, brokenOff: true},
	}
	for _, form := range []string{"text", "json"} {
		t.Run(form, func(t *testing.T) {
			var got, want bytes.Buffer
			log := newAccessLog(&got, form)
			handler := slog.Handler(slog.NewTextHandler(&want, nil))
			if form == "json" {
				handler = slog.NewJSONHandler(&want, nil)
			}
			for _, l := range lines {
				log.add(&l)
				r := slog.NewRecord(l.at, l.level, "request", 0)
				r.AddAttrs(slog.String("method", l.method), slog.String("path", l.path), slog.Int("status", l.status),
					slog.Int64("bytes", l.bytes), slog.Duration("duration", l.took), slog.String("identity", l.identity), slog.String("remote", l.remote))
				if l.brokenOff {
					r.AddAttrs(slog.Bool("brokenOff", true))
				}
				r.AddAttrs(slog.String("request", l.id))
				if err := handler.Handle(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
			log.lines.Flush()
			if form == "json" {
				if d := cmp.Diff(decoded(t, want.String()), decoded(t, got.String())); d != "" {
					t.Errorf("-slog +here:\n%s", d)
				}
				return
			}
			if d := cmp.Diff(want.String(), got.String()); d != "" {
				t.Errorf("-slog +here:\n%s", d)
			}
		})
	}
}

func decoded(t *testing.T, lines string) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(lines) {
		var one map[string]any
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, one)
	}
	return all
}

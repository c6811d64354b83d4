package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/google/go-cmp/cmp"
)

// written is what is recorded by do.
func written(t *testing.T, reads bool, do func(*audit.Log)) []string {
	t.Helper()
	var out bytes.Buffer
	log := audit.New(&out, "acme/charts", reads, nil)
	do(log)
	flush(t, log)
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

func flush(t *testing.T, log *audit.Log) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	log.Run(ctx)
}

func TestWhatIsRecorded(t *testing.T) {
	for _, c := range []struct {
		action    audit.Action
		status    int
		record    bool
		withReads bool
	}{
		{audit.Login, 200, false, true},
		{audit.Login, 401, true, true},
		{audit.Login, 429, true, true},
		{audit.List, 200, false, true},
		{audit.List, 404, false, true},
		{audit.Pull, 200, false, true},
		{audit.Pull, 307, false, true},
		{audit.Pull, 403, true, true},
		{audit.Pull, 404, false, true},
		{audit.Pull, 500, false, true},
		{audit.Upload, 202, false, true},
		{audit.Upload, 204, false, true},
		{audit.Upload, 201, true, true},
		{audit.Upload, 413, true, true},
		{audit.Push, 201, true, true},
		{audit.Push, 409, true, true},
		{audit.Push, 500, true, true},
		{audit.Delete, 202, true, true},
		{audit.Delete, 404, true, true},
		{audit.Exchange, 200, true, true},
		{audit.Exchange, 400, true, true},
		{audit.Other, 404, false, true},
		{audit.Other, 401, true, true},
	} {
		for _, reads := range []bool{false, true} {
			lines := written(t, reads, func(log *audit.Log) {
				log.Answered(&audit.Observation{Action: c.action}, "", "", c.status, time.Now())
			})
			if want := c.record || reads && c.withReads; (lines[0] != "") != want {
				t.Errorf("%s with status %d, reads %v: recorded %q", c.action, c.status, reads, lines)
			}
		}
	}
}

func TestRecord(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.FixedZone("", 3600))
	observation := audit.Observation{
		Route: "/v2/{name}/manifests/{reference}", Action: audit.Push, Chart: "web", Reference: "1.0.0", Stored: "sha256:abc",
		Identity: access.Identity{ID: "oidc:https://issuer.example#repo:acme/web", Session: "crs_0011", Policies: []string{"team/ci[0]"}},
		Reason:   "of no use when all is well",
	}
	refused := audit.Observation{
		Action: audit.Pull, Chart: strings.Repeat("x", 300), Reference: "sha256:abc", Stored: "sha256:abc",
		Credential: "crt_12345678", Reason: "it expired at \n\x1b[31m",
	}
	lines := written(t, false, func(log *audit.Log) {
		log.Answered(&observation, "203.0.113.7:1", "id-1", 201, at)
		log.Answered(&refused, "203.0.113.7:2", "id-2", 401, at)
		log.Add(audit.Record{Time: at, Action: audit.Delete, Result: audit.Done, Chart: "web", Reference: "0.1.0", Identity: "retention", Reason: "older than 30 days"})
	})
	want := []string{
		`{"time":"2026-01-02T02:04:05.678Z","registry":"acme/charts","action":"push","result":"done","chart":"web","reference":"1.0.0","digest":"sha256:abc",` +
			`"identity":"oidc:https://issuer.example#repo:acme/web","session":"crs_0011","policies":["team/ci[0]"],"source":"203.0.113.7:1","status":201,"request":"id-1"}`,
		`{"time":"2026-01-02T02:04:05.678Z","registry":"acme/charts","action":"pull","result":"refused","chart":"` + strings.Repeat("x", 255) + `…","reference":"sha256:abc",` +
			`"credential":"crt_12345678","source":"203.0.113.7:2","status":401,"reason":"it expired at \n\u001b[31m","request":"id-2"}`,
		`{"time":"2026-01-02T02:04:05.678Z","registry":"acme/charts","action":"delete","result":"done","chart":"web","reference":"0.1.0","identity":"retention","reason":"older than 30 days"}`,
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestFileIsRotated(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	file, err := audit.OpenFile(audit.FileOptions{Path: path, MaxMiB: 2, Keep: 2}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var other bytes.Buffer
	log := audit.New(audit.Both(file, &other), "acme/charts", false, nil)
	const records = 12_000
	for i := range records {
		log.Add(audit.Record{Action: audit.Push, Request: fmt.Sprint(i), Reason: strings.Repeat("x", 500)})
		if i%1000 == 0 {
			flush(t, log)
		}
	}
	flush(t, log)
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(other.String(), "\n"); n != records {
		t.Errorf("%d of %d records came to the other output", n, records)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) < 2 || len(entries) > 3 {
		t.Errorf("there are %d files", len(entries))
	}
	last := ""
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || info.Size() > 2<<20 {
			t.Errorf("%s has mode %v and %d bytes", e.Name(), info.Mode(), info.Size())
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			var r audit.Record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("a torn line in %s: %v", e.Name(), err)
			}
			if e.Name() == "audit.log" {
				last = r.Request
			}
		}
	}
	if last != fmt.Sprint(records-1) {
		t.Errorf("the newest record in the file is %q", last)
	}
}

func TestFileThatCannotBe(t *testing.T) {
	if _, err := audit.OpenFile(audit.FileOptions{Path: filepath.Join(t.TempDir(), "no", "audit.log"), MaxMiB: 2, Keep: 1}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it was opened")
	}
}

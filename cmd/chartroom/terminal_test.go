package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Names that strangers chose are printed so that they do nothing to a terminal, and begin no line.
func TestNothingOfStrangersSteersATerminal(t *testing.T) {
	t.Parallel()
	const evil = "\x1b]0;owned\x07\x1b[2J\rforged"
	quoted := `"\u001b]0;owned\u0007\u001b[2J\rforged"`
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/index.yaml" {
			_, _ = w.Write([]byte("apiVersion: v1\nentries:\n  web:\n  - {name: " + quoted + ", version: " + quoted + ", urls: [" + quoted + "]}\n"))
			return
		}
		http.NotFound(w, r)
	}))
	defer source.Close()
	folder := t.TempDir()
	p := serveDir(t, folder)
	if err := p.push("web", "1.0.0", 100); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"policy.json": `[{"iss": "https://issuer.example", "scopes": ["read_packages"], "claims": {"a": "b"}},
			{"iss": "https://issuer.example", "scopes": ["read_packages"], "claims": {"a": {"matches": "*"}}}]`,
		"claims.json": `{"iss": "https://issuer.example", ` + quoted + `: ` + quoted + `, "a": ` + quoted + `}`,
		"wrong.json":  `[{` + quoted + `: 1}]`,
	} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, stray := range []string{objectFile(folder, "charts", "web", "tags", evil), objectFile(folder, evil)} {
		if err := os.WriteFile(stray, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		code int
		args []string
	}{
		{1, []string{"import", "--from", source.URL}},
		{1, []string{"import", "--from", source.URL, "--dry-run"}},
		{0, []string{"policy", "test", "--policy", "policy.json", "--claims", "claims.json"}},
		{2, []string{"policy", "test", "--policy", "wrong.json", "--claims", "claims.json"}},
		{0, []string{"verify"}},
		{0, []string{"gc", "--dry-run"}},
	} {
		code, out, stderr := chartroom(t, folder, c.args...)
		if code != c.code {
			t.Errorf("%v: exit code %d, want %d", c.args, code, c.code)
		}
		if strings.ContainsFunc(out+stderr, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) || strings.Contains(out+stderr, "\nforged") {
			t.Errorf("%v prints %q", c.args, out+stderr)
		}
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// tokenCommand runs "chartroom token" with these arguments.
func tokenCommand(args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(append([]string{"token"}, args...))
	err = root.Execute()
	return out.String(), errs.String(), err
}

func readAccess(t *testing.T, file string) wire.Access {
	t.Helper()
	a, err := access.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func create(t *testing.T, file string, args ...string) access.Token {
	t.Helper()
	stdout, _, err := tokenCommand(append([]string{"create", "--access", file}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	token, err := access.ParseToken(strings.TrimSuffix(stdout, "\n"))
	if err != nil {
		t.Fatalf("standard output is not one token alone: %q", stdout)
	}
	return token
}

func TestTokenCreate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.json")
	before := time.Now()
	stdout, stderr, err := tokenCommand("create", "--access", file, "--scopes", "read_packages,write_packages", "--charts", "web/*,shop-?", "--ttl", "720h", "--name", "ci")
	if err != nil {
		t.Fatal(err)
	}
	token, err := access.ParseToken(strings.TrimSuffix(stdout, "\n"))
	if err != nil {
		t.Fatalf("standard output is not one token alone: %q", stdout)
	}
	if strings.Contains(stderr, strings.TrimSpace(stdout)) || !strings.Contains(stderr, "revoke --access "+file+" "+token.ID()) {
		t.Errorf("standard error: %q", stderr)
	}
	if !strings.Contains(stderr, "There was no such file before") {
		t.Errorf("who mistypes the name of the file does not learn that it is a new one: %q", stderr)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	got := readAccess(t, file)
	expiry := got.Tokens[0].ExpiresAt
	if expiry == nil || expiry.Before(before.Add(720*time.Hour-time.Second)) || expiry.After(time.Now().Add(720*time.Hour)) {
		t.Errorf("it expires at %v", expiry)
	}
	want := wire.Access{Version: 1, Revision: 1, Visibility: wire.Private, Digest: got.Digest, Tokens: []wire.Token{{
		ID: token.ID(), SHA256: token.SHA256(), Name: "ci", ExpiresAt: expiry,
		Scopes: []wire.Scope{wire.ReadPackages, wire.WritePackages}, Charts: []string{"shop-?", "web/*"},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	// The least where nothing is said: reading, all charts, no expiry.
	if _, stderr, _ := tokenCommand("create", "--access", file); strings.Contains(stderr, "no such file") {
		t.Errorf("standard error: %q", stderr)
	}
	second := create(t, file)
	got = readAccess(t, file)
	if len(got.Tokens) != 3 || got.Revision != 3 {
		t.Fatalf("%+v", got)
	}
	for _, e := range got.Tokens {
		if e.ID == second.ID() {
			want := wire.Token{ID: second.ID(), SHA256: second.SHA256(), Scopes: []wire.Scope{wire.ReadPackages}, Charts: []string{"*"}}
			if diff := cmp.Diff(want, e); diff != "" {
				t.Error(diff)
			}
		}
	}
}

func TestTokenCreateRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"an unknown scope": {[]string{"--scopes", "read_packages,admin"}, []string{"--scopes", `"admin"`, "read_packages, write_packages, delete_packages"}},
		"no scope":         {[]string{"--scopes", ""}, []string{"--scopes: ", "at least one", "read_packages, write_packages, delete_packages"}},
		"a bad glob":       {[]string{"--charts", "a,B*"}, []string{"--charts", `"B*"`}},
		"no glob":          {[]string{"--charts", ""}, []string{"--charts: ", "every chart"}},
		"no time to live":  {[]string{"--ttl", "0s"}, []string{"--ttl", "720h"}},
		"less than none":   {[]string{"--ttl", "-1h"}, []string{"--ttl", "720h"}},
		"a bad name":       {[]string{"--name", "a\nb"}, []string{"--name: ", "printable"}},
		"a long name":      {[]string{"--name", strings.Repeat("n", 400)}, []string{"--name: ", "320"}},
		"an argument":      {[]string{"ci"}, []string{"ci"}},
	} {
		file := filepath.Join(t.TempDir(), "access.json")
		stdout, _, err := tokenCommand(append([]string{"create", "--access", file}, c.args...)...)
		if err == nil || stdout != "" {
			t.Errorf("%s: %q, %v", name, stdout, err)
			continue
		}
		// What takes arguments is cobra's to judge, before the command runs.
		if usage := new(usageError); name != "an argument" && !errors.As(err, &usage) {
			t.Errorf("%s is no usage error: %v", name, err)
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", name, err, want)
			}
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s: the file was made", name)
		}
	}
	if _, _, err := tokenCommand("create"); err == nil || !strings.Contains(err.Error(), "access") {
		t.Errorf("no file: %v", err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// A token that nobody has seen is in force all the same: its maker must learn of it.
func TestTokenCreateThatCannotPrint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.json")
	root := rootCommand()
	root.SetOut(brokenPipe{})
	root.SetErr(&bytes.Buffer{})
	root.SetArgs([]string{"token", "create", "--access", file})
	err := root.Execute()
	if id := readAccess(t, file).Tokens[0].ID; err == nil || !strings.Contains(err.Error(), "revoke --access "+file+" "+id) {
		t.Errorf("%v", err)
	}
}

func TestTokenList(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.json")
	past, future := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2920, 1, 2, 3, 4, 5, 0, time.UTC)
	hash := strings.Repeat("a", 64)
	err := access.EditFile(file, func(a *wire.Access) error {
		a.Tokens = []wire.Token{
			{ID: "00000001", SHA256: hash, Name: "ci", Scopes: wire.Scopes(), Charts: []string{"a", "b/*"}},
			{ID: "00000002", SHA256: hash, Scopes: []wire.Scope{wire.ReadPackages}, Charts: []string{"*"}, ExpiresAt: &past},
			{ID: "00000003", SHA256: hash, Scopes: []wire.Scope{wire.ReadPackages}, Charts: []string{"*"}, ExpiresAt: &future},
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stdout, _, err := tokenCommand("list", "--access", file)
	if err != nil {
		t.Fatal(err)
	}
	want := `ID         NAME   SCOPES                                        CHARTS   EXPIRES
00000001   ci     delete_packages,read_packages,write_packages  a,b/*    never
00000002   -      read_packages                                 *        2020-01-02T03:04:05Z (expired)
00000003   -      read_packages                                 *        2920-01-02T03:04:05Z
`
	if diff := cmp.Diff(strings.Fields(want), strings.Fields(stdout)); diff != "" {
		t.Errorf("%s\n%s", diff, stdout)
	}

	stdout, _, err = tokenCommand("list", "--access", file, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var listed []map[string]any
	if err := json.Unmarshal([]byte(stdout), &listed); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"id": "00000002", "scopes": []any{"read_packages"}, "charts": []any{"*"}, "expiresAt": "2020-01-02T03:04:05Z"}, listed[1]); diff != "" {
		t.Error(diff)
	}
	if len(listed) != 3 || strings.Contains(stdout, hash) {
		t.Errorf("%s", stdout)
	}

	if _, _, err := tokenCommand("list", "--access", file, "-o", "yaml"); err == nil || !strings.Contains(err.Error(), "table and json") {
		t.Errorf("an unknown form: %v", err)
	}
	if _, _, err := tokenCommand("list", "--access", file+"x"); err == nil || !strings.Contains(err.Error(), "token create --access "+file+"x") {
		t.Errorf("no file: %v", err)
	}
}

func TestTokenListOfNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.json")
	if err := access.EditFile(file, func(*wire.Access) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if stdout, _, err := tokenCommand("list", "--access", file, "-o", "json"); err != nil || stdout != "[]\n" {
		t.Errorf("%q, %v", stdout, err)
	}
}

func TestTokenRevoke(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.json")
	tokens := []access.Token{create(t, file), create(t, file), create(t, file), create(t, file)}
	for i, argument := range []string{tokens[0].ID(), tokens[1].Reveal(), tokens[2].String()} {
		if _, _, err := tokenCommand("revoke", "--access", file, argument); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	left := readAccess(t, file)
	if len(left.Tokens) != 1 || left.Tokens[0].ID != tokens[3].ID() || left.Revision != 7 {
		t.Errorf("%+v", left)
	}

	_, _, err := tokenCommand("revoke", "--access", file, tokens[0].ID())
	if err == nil || !strings.Contains(err.Error(), tokens[0].ID()) || !strings.Contains(err.Error(), "token list --access "+file) {
		t.Errorf("a token that is gone: %v", err)
	}
	mistyped := tokens[3].Reveal() + "x"
	_, stderr, err := tokenCommand("revoke", "--access", file, mistyped)
	if err == nil || strings.Contains(err.Error()+stderr, mistyped[13:30]) {
		t.Errorf("a mistyped token: %v", err)
	}
	if got := readAccess(t, file); got.Revision != left.Revision {
		t.Errorf("what failed changed the file: %+v", got)
	}
	missing := file + "x"
	if _, _, err := tokenCommand("revoke", "--access", missing, tokens[0].ID()); err == nil {
		t.Error("revoked in a file that is not there")
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("revoking made a file")
	}
}

func TestTokenScopesAreCompleted(t *testing.T) {
	for typed, want := range map[string][]string{
		"":                             {"read_packages", "write_packages", "delete_packages"},
		"write_packages,":              {"write_packages,read_packages", "write_packages,delete_packages"},
		"read_packages,write_packages": {"read_packages,write_packages", "read_packages,delete_packages"},
	} {
		var out bytes.Buffer
		root := rootCommand()
		root.SetOut(&out)
		root.SetErr(&bytes.Buffer{})
		root.SetArgs([]string{"__complete", "token", "create", "--scopes", typed})
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if diff := cmp.Diff(want, lines[:len(lines)-1]); diff != "" {
			t.Errorf("%q: %s", typed, diff)
		}
	}
}

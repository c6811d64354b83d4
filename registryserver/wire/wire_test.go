package wire_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// snapshot is an unsorted one with everything in it.
func snapshot() wire.Access {
	// Half a second and another zone, neither of which may reach the bytes.
	expiry := time.Date(2031, 5, 4, 5, 2, 1, 500, time.FixedZone("", 3600))
	return wire.Access{
		Revision:   7,
		Registry:   "team-a/charts",
		Visibility: wire.Public,
		Tokens: []wire.Token{
			{ID: "bbbbbbbb", SHA256: strings.Repeat("2", 64), Name: "team-a/<ci> & co", Scopes: []wire.Scope{wire.WritePackages, wire.ReadPackages}, Charts: []string{"web/*", "a-?"}, ExpiresAt: &expiry},
			{ID: "bbbbbbbb", SHA256: strings.Repeat("1", 64), Scopes: []wire.Scope{wire.ReadPackages}, Charts: []string{"*"}},
			{ID: "aaaaaaaa", SHA256: strings.Repeat("3", 64), Name: "z", Scopes: []wire.Scope{wire.DeletePackages}, Charts: []string{"*"}},
			{ID: "aaaaaaaa", SHA256: strings.Repeat("3", 64), Name: "y", Scopes: []wire.Scope{wire.DeletePackages}, Charts: []string{"*"}},
		},
	}
}

// withPolicies is snapshot with policies in it.
func withPolicies() wire.Access {
	a := snapshot()
	statement := func(rule any) any {
		return map[string]any{
			"iss": "https://issuer.example", "scopes": []any{"read_packages"},
			"claims": map[string]any{"b": rule, "a": json.Number("1.50"), "A": nil}, "charts": []any{"web/*"},
		}
	}
	a.Policies = []wire.Policy{
		{Name: "team-a/ci & co", Statements: []any{statement("z"), statement("a")}},
		{Name: "team-a/ci & co", Statements: []any{statement(map[string]any{"matches": []any{"<x>*"}, "not_equals": true})}},
		{Statements: []any{statement("y")}},
	}
	a.Kubernetes = &wire.Issuer{Issuer: "https://kubernetes.default.svc", JWKS: `{"keys":[]}`}
	return a
}

func TestCanonicalBytes(t *testing.T) {
	want := golden(t, "testdata/access.json", snapshot())
	golden(t, "testdata/policies.json", withPolicies())
	reversed := snapshot()
	for i, j := 0, len(reversed.Tokens)-1; i < j; i, j = i+1, j-1 {
		reversed.Tokens[i], reversed.Tokens[j] = reversed.Tokens[j], reversed.Tokens[i]
	}
	if diff := cmp.Diff(string(want), string(reversed.Encode())); diff != "" {
		t.Errorf("the order of the tokens matters (-want +got):\n%s", diff)
	}
}

// golden compares a snapshot's bytes with those in a file.
func golden(t *testing.T, file string, a wire.Access) []byte {
	t.Helper()
	got := a.Encode()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("pods of another version of this program would see another snapshot (-want +got):\n%s", diff)
	}
	return want
}

func TestPoliciesAreSorted(t *testing.T) {
	reversed := withPolicies()
	slices.Reverse(reversed.Policies)
	if diff := cmp.Diff(string(withPolicies().Encode()), string(reversed.Encode())); diff != "" {
		t.Errorf("the order of the policies matters (-want +got):\n%s", diff)
	}
	statements := withPolicies()
	for _, p := range statements.Policies {
		slices.Reverse(p.Statements)
	}
	if statements.ContentDigest() == withPolicies().ContentDigest() {
		t.Error("the order of the statements does not matter, but the first that matches wins")
	}
}

// Pods of an older program go on where there is no policy.
func TestVersions(t *testing.T) {
	for name, c := range map[string]struct {
		access wire.Access
		want   int
	}{
		"tokens":     {snapshot(), 1},
		"no policy":  {wire.Access{Version: 2, Policies: []wire.Policy{}}, 1},
		"policies":   {withPolicies(), 2},
		"kubernetes": {wire.Access{Kubernetes: &wire.Issuer{}}, 2},
	} {
		decoded, err := wire.DecodeAccess(c.access.Encode())
		if err != nil || decoded.Version != c.want {
			t.Errorf("%s: version %d (%v), want %d", name, decoded.Version, err, c.want)
		}
	}
}

func TestEncodeLeavesItsReceiverAlone(t *testing.T) {
	a := snapshot()
	a.Encode()
	if diff := cmp.Diff(snapshot(), a); diff != "" {
		t.Errorf("Encode changed the snapshot that it was given (-want +got):\n%s", diff)
	}
}

func TestDecodeReadsWhatEncodeWrote(t *testing.T) {
	for _, a := range []wire.Access{snapshot(), withPolicies()} {
		decoded, err := wire.DecodeAccess(a.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(a.Encode()), string(decoded.Encode())); diff != "" {
			t.Errorf("-encoded +encoded again:\n%s", diff)
		}
	}
}

func TestContentDigest(t *testing.T) {
	base := snapshot().ContentDigest()
	for name, change := range map[string]struct {
		change func(*wire.Access)
		same   bool
	}{
		"revision":                 {func(a *wire.Access) { a.Revision++ }, true},
		"digest":                   {func(a *wire.Access) { a.Digest = "sha256:0" }, true},
		"registry":                 {func(a *wire.Access) { a.Registry = "team-b/charts" }, false},
		"visibility":               {func(a *wire.Access) { a.Visibility = wire.Private }, false},
		"no token":                 {func(a *wire.Access) { a.Tokens = nil }, false},
		"a scope":                  {func(a *wire.Access) { a.Tokens[1].Scopes = wire.Scopes() }, false},
		"a glob":                   {func(a *wire.Access) { a.Tokens[1].Charts = []string{"x"} }, false},
		"an expiry":                {func(a *wire.Access) { a.Tokens[0].ExpiresAt = nil }, false},
		"less than a second later": {func(a *wire.Access) { at := a.Tokens[0].ExpiresAt.Add(time.Millisecond); a.Tokens[0].ExpiresAt = &at }, true},
	} {
		a := snapshot()
		change.change(&a)
		if same := a.ContentDigest() == base; same != change.same {
			t.Errorf("%s changed: the same digest is %v, want %v", name, same, change.same)
		}
	}
	if decoded, err := wire.DecodeAccess(snapshot().Encode()); err != nil || decoded.ContentDigest() != base {
		t.Errorf("a snapshot has one digest where it is made and another where it is read (%v)", err)
	}
	if said, unsaid := (wire.Access{Visibility: wire.Private}).ContentDigest(), (wire.Access{}).ContentDigest(); said != unsaid {
		t.Error("Private, which holds where nothing is said, has a digest of its own")
	}
}

// An expiry that JSON cannot write is no reason to fail: it would take down who encodes.
func TestEncodeBoundsTheYears(t *testing.T) {
	for year, want := range map[int]string{12000: "9999-12-31T23:59:59Z", -5: "0000-01-01T00:00:00Z"} {
		at := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		encoded := wire.Access{Tokens: []wire.Token{{ExpiresAt: &at}}}.Encode()
		if !strings.Contains(string(encoded), `"expiresAt":"`+want+`"`) {
			t.Errorf("year %d became %s", year, encoded)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(snapshot().Encode())
	for name, c := range map[string]struct{ document, want string }{
		"nothing":             {``, "not JSON"},
		"no object":           {`[]`, "not JSON"},
		"no version":          {`{"revision":1,"tokens":[]}`, "version 0"},
		"a later version":     {`{"version":3,"roles":[]}`, "version 3; this program knows the versions 1 and 2"},
		"policies too early":  {`{"version":1,"policies":[{"statements":[{}]}]}`, "of version 1, which has no policies: write version 2"},
		"an issuer too early": {`{"version":1,"kubernetes":{}}`, "of version 1"},
		"a claim twice":       {`{"version":2,"policies":[{"statements":[{"claims":{"a":1,"a":2}}]}]}`, `"a" twice`},
		"iss twice":           {`{"version":2,"policies":[{"statements":[{"iss":1,"iss":2}]}]}`, `"iss" twice`},
		"name twice":          {`{"version":2,"policies":[{"name":"a","Name":"b"}]}`, `"Name" twice`},
		"a damaged policy":    {strings.Replace(string(withPolicies().Encode()), `"z"`, `"x"`, 1), "damaged"},
		"an unknown field":    {`{"version":1,"admins":[]}`, `unknown field "admins"`},
		"an unknown field 2":  {`{"version":1,"tokens":[{"scope":"x"}]}`, `unknown field "scope"`},
		"a second document":   {good + `{}`, "not JSON"},
		"trailing data":       {good + `x`, "not JSON"},
		"a negative revision": {`{"version":1,"revision":-1}`, "cannot unmarshal"},
		"a damaged content":   {strings.Replace(good, "read_packages", "delete_packages", 1), "damaged"},
		"tokens twice":        {`{"version":1,"tokens":[],"tokens":[]}`, `"tokens" twice`},
		"tokens in two cases": {`{"version":1,"tokens":[],"TOKENS":[]}`, `"TOKENS" twice`},
		"scopes twice":        {`{"version":1,"tokens":[{"scopes":["a"],"scopes":["b"]}]}`, `"scopes" twice`},
		"version twice":       {`{"version":2,"version":1}`, `"version" twice`},
		"a deep document":     {`{"version":1,"tokens":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, "deep"},
		"many fields":         {`{"version":1` + fields(100) + `}`, "more than 64 fields"},
		"too many bytes":      {`{"version":1}` + strings.Repeat(" ", wire.MaxAccessBytes), "more than the"},
	} {
		if _, err := wire.DecodeAccess([]byte(c.document)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %v, want one with %q", name, err, c.want)
		}
	}
}

func fields(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`,"` + strings.Repeat("f", i+1) + `":0`)
	}
	return b.String()
}

func TestDecodeTakesADocumentWrittenByHand(t *testing.T) {
	a, err := wire.DecodeAccess([]byte("{\n  \"version\": 1,\n  \"visibility\": \"Public\"\n}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wire.Access{Version: 1, Visibility: wire.Public}, a); diff != "" {
		t.Error(diff)
	}
}

func TestClaimsMayDifferInCase(t *testing.T) {
	a, err := wire.DecodeAccess([]byte(`{"version":2,"policies":[{"statements":[{"claims":{"Ref":1,"ref":{"in":["x"]}}}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []any{map[string]any{"claims": map[string]any{"Ref": json.Number("1"), "ref": map[string]any{"in": []any{"x"}}}}}
	if diff := cmp.Diff(want, a.Policies[0].Statements); diff != "" {
		t.Error(diff)
	}
}

func TestAdminServerNameTellsRegistriesApart(t *testing.T) {
	if got, want := wire.AdminServerName("team-a", "charts"), "charts.team-a.admin.chartroom.dev"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// FuzzDecodeAccess: what is taken is stable, and nothing brings the reader down.
func FuzzDecodeAccess(f *testing.F) {
	f.Add(snapshot().Encode())
	f.Add(withPolicies().Encode())
	f.Add([]byte(`{"version":1,"tokens":[{"expiresAt":"9999-12-31T23:59:59-14:00"}]}`))
	f.Add([]byte(`{"version":1,"tokens":[],"toKens":null}`))
	f.Add([]byte("{\"version\":1,\"registry\":\"\xff\"}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := wire.DecodeAccess(data)
		if err != nil {
			return
		}
		encoded := a.Encode()
		again, err := wire.DecodeAccess(encoded)
		if err != nil {
			t.Fatalf("what was taken is refused once it is encoded: %v\n%s", err, encoded)
		}
		if !bytes.Equal(encoded, again.Encode()) {
			t.Fatalf("two encodings of one snapshot:\n%s\n%s", encoded, again.Encode())
		}
		if !json.Valid(encoded) {
			t.Fatalf("not JSON: %s", encoded)
		}
	})
}

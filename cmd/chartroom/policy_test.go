package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
)

const testPolicy = `
- iss: https://issuer.example
  scopes: [read_packages]
  claims: {ref: main}
- iss: https://issuer.example
  scopes: [read_packages, write_packages]
  claims: {ref: {matches: "*"}}
  charts: [web, "team/*"]
- iss: kubernetes
  scopes: [read_packages]
  claims: {sub: s}
`

// policyTestWith runs "chartroom policy test" with a file policy.yaml and these arguments, and what is typed.
func policyTestWith(t *testing.T, policy, input string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("policy.yaml", []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetIn(strings.NewReader(input))
	root.SetArgs(append([]string{"policy", "test", "--policy", "policy.yaml"}, args...))
	err = root.Execute()
	return out.String(), errs.String(), err
}

func testToken(lifetime int64) string {
	now := time.Now().Unix()
	return issuertest.Sign(`{"alg":"ES256","kid":"x"}`, fmt.Sprintf(`{"iss":"https://issuer.example","sub":"s","aud":"https://charts.example.com/a/b","ref":"x","iat":%d,"exp":%d}`, now, now+lifetime), issuertest.Key("x"))
}

func TestPolicyTest(t *testing.T) {
	for name, c := range map[string]struct {
		input string
		args  []string
		// out and errs are parts of what is printed, in this order; an empty failure is success.
		out, errs []string
		failure   string
	}{
		"the first": {
			`{"iss": "https://issuer.example", "ref": "main"}`, []string{"--claims", "-"},
			[]string{"statements[0] matches: read_packages on the charts *\n"}, []string{"warning: statements[1]: claims.ref: a glob that begins with *"}, "",
		},
		"the second": {
			"iss: https://issuer.example\nref: x\n", []string{"--claims", "-"},
			[]string{`statements[0] does not match: claims.ref: "x" is not equal to "main"`, "statements[1] matches: read_packages, write_packages on the charts web, team/*\n"}, nil, "",
		},
		"none": {
			`{"iss": "https://issuer.example"}`, []string{"--claims", "-"},
			[]string{"statements[0] does not match: claims.ref: the token has no such claim", "statements[1] does not", "statements[2] does not match: iss: kubernetes stands for"}, nil, "no statement matches",
		},
		"kubernetes": {
			`{"iss": "https://k", "sub": "s"}`, []string{"--claims", "-", "--kubernetes-issuer", "https://k"},
			[]string{"statements[2] matches"}, nil, "",
		},
		"a token": {
			testToken(300) + "\n", []string{"--token", "-"},
			[]string{"statements[1] matches"}, []string{"signature was not verified", "Neither was the audience"}, "",
		},
		"a token for the registry": {
			testToken(300), []string{"--token", "-", "--audience", "https://charts.example.com/a/b"}, []string{"statements[1] matches"}, nil, "",
		},
		"a token for another registry": {
			testToken(300), []string{"--token", "-", "--audience", "https://charts.example.com/a/c"},
			[]string{`statements[1] does not match: aud: the token's is "https://charts.example.com/a/b"`}, nil, "no statement matches",
		},
		"a token that lives too long": {testToken(301), []string{"--token", "-"}, []string{"maxTokenLifetime"}, nil, "no statement matches"},
		"an expired token":            {testToken(-5), []string{"--token", "-"}, []string{"not good: the token's claims: the token expired"}, nil, "whatever the policy says"},
		"no token":                    {"x", []string{"--token", "-"}, []string{"not good: a signed token has 3 parts"}, nil, "whatever the policy says"},
		"no claims":                   {"[]", []string{"--claims", "-"}, nil, nil, "-: claims are a map"},
		"an unknown form":             {"", []string{"--claims", "-", "-o", "xml"}, nil, nil, "--output"},
		"neither":                     {"", nil, nil, nil, "at least one of the flags"},
		"both":                        {"", []string{"--claims", "-", "--token", "x"}, nil, nil, "none of the others can be"},
		"a file that is not there":    {"", []string{"--claims", "claims.json"}, nil, nil, "no such file"},
	} {
		stdout, stderr, err := policyTestWith(t, testPolicy, c.input, c.args...)
		if c.failure == "" && err != nil || c.failure != "" && (err == nil || !strings.Contains(err.Error(), c.failure)) {
			t.Errorf("%s: the error is %v, want %q", name, err, c.failure)
		}
		inOrder(t, name, stdout, c.out)
		inOrder(t, name, stderr, c.errs)
		if strings.Contains(stdout+stderr+fmt.Sprint(err), "eyJ") {
			t.Errorf("%s: the token is printed", name)
		}
	}
	_, _, err := policyTestWith(t, "- {iss: https://a.example, scopes: [read_packages], claims: {ref: [a]}}", "{}", "--claims", "-")
	if err == nil || !strings.Contains(err.Error(), "policy.yaml: statements[0]: claims: ref: a list is no rule") {
		t.Errorf("a wrong policy: %v", err)
	}
}

func inOrder(t *testing.T, name, printed string, parts []string) {
	t.Helper()
	rest := printed
	for _, part := range parts {
		_, after, found := strings.Cut(rest, part)
		if !found {
			t.Errorf("%s: %q is not in\n%s", name, part, printed)
			return
		}
		rest = after
	}
}

func TestPolicyTestAsJSON(t *testing.T) {
	stdout, _, err := policyTestWith(t, testPolicy, `{"iss": "https://issuer.example", "ref": "x"}`, "--claims", "-", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Matched        *int
		Scopes, Charts []string
		Statements     []struct {
			Statement int
			Matches   bool
			Reason    string
		}
		Warnings []struct {
			Statement int
			Text      string
		}
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if got.Matched == nil || *got.Matched != 1 || len(got.Scopes) != 2 || len(got.Charts) != 2 || len(got.Statements) != 2 || got.Statements[0].Reason == "" || !got.Statements[1].Matches || len(got.Warnings) != 1 {
		t.Errorf("got %s", stdout)
	}
	stdout, _, err = policyTestWith(t, testPolicy, `{}`, "--claims", "-", "-o", "json")
	if err == nil || !strings.Contains(stdout, `"matched": null`) {
		t.Errorf("%v: %s", err, stdout)
	}
}

func TestPolicyTestExitCodes(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for file, text := range map[string]string{"policy.yaml": testPolicy, "good.json": `{"iss": "https://issuer.example", "ref": "main"}`, "bad.json": `{}`, "wrong.yaml": "[]"} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		policy, claims string
		want           int
	}{
		{"policy.yaml", "good.json", 0},
		{"policy.yaml", "bad.json", 1},
		{"wrong.yaml", "good.json", 2},
		{"policy.yaml", "wrong.yaml", 2},
		{"none.yaml", "good.json", 2},
		{"policy.yaml", "none.json", 2},
		{"policy.yaml", ".", 2},
	} {
		if code, out, stderr := chartroom(t, folder, "policy", "test", "--policy", c.policy, "--claims", c.claims); code != c.want {
			t.Errorf("%+v: exit code %d: %s%s", c, code, out, stderr)
		}
	}
}

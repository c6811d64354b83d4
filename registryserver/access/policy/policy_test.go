package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	issuer   = "https://issuer.example"
	audience = "https://charts.example.com/acme/charts"
)

func parse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

func claims(t *testing.T, text string) map[string]any {
	t.Helper()
	c, err := policy.ParseClaims([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return c
}

// judge says why claims do not satisfy a statement with one rule map, in JSON or YAML; empty when they do.
func judge(t *testing.T, rules, tokenClaims string) string {
	t.Helper()
	p := parse(t, `[{"iss": "`+issuer+`", "scopes": ["read_packages"], "claims": `+rules+`}]`)
	matched, verdicts := p.Judge(policy.Token{Issuer: issuer, Audience: audience, Claims: claims(t, tokenClaims)}, policy.Context{Audience: audience})
	if (matched != nil) != (verdicts[0].Reason == "") || verdicts[0].Matches != (matched != nil) {
		t.Errorf("the statement matches and says %q", verdicts[0].Reason)
	}
	return verdicts[0].Reason
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		rules, claims string
		// reason is a part of why not; empty where the statement matches.
		reason string
	}{
		{`{"a": "x"}`, `{"a": "x"}`, ""},
		{`{"a": "x"}`, `{"a": "X"}`, `claims.a: "X" is not equal to "x"`},
		{`{"a": "x"}`, `{"b": "x"}`, "claims.a: the token has no such claim"},
		{`{"a": {"equals": "x"}}`, `{"a": "x"}`, ""},
		{`{"a": 1}`, `{"a": "1"}`, `"1" is not equal to 1`},
		{`{"a": "1"}`, `{"a": 1}`, `1 is not equal to "1"`},
		{`{"a": true}`, `{"a": "true"}`, "not equal"},
		{`{"a": true}`, `{"a": true}`, ""},
		{`{"a": 1}`, `{"a": 1.0}`, ""},
		{`{"a": 100}`, `{"a": 1e2}`, ""},
		{`{"a": -0.50}`, `{"a": -5E-1}`, ""},
		{`{"a": 0}`, `{"a": -0.0}`, ""},
		{`{"a": 5}`, `{"a": -5}`, "not equal"},
		{`{"a": -5}`, `{"a": 5}`, "not equal"},
		{`{"a": 1}`, `{"a": 10}`, "not equal"},
		{`{"a": 1}`, `{"a": 0.1}`, "not equal"},
		{`{"a": 9007199254740993}`, `{"a": 9007199254740992}`, "not equal"},
		{`{"a": 1}`, `{"a": 1e9999999999}`, "a number, which no matcher takes"},
		{`{"a": null}`, `{"a": null}`, ""},
		{`{"a": null}`, `{}`, "no such claim"},
		{`{"a": null}`, `{"a": "null"}`, "not equal"},
		{`{"a": {"not_equals": "x"}}`, `{"a": "y"}`, ""},
		{`{"a": {"not_equals": "x"}}`, `{"a": null}`, ""},
		{`{"a": {"not_equals": "x"}}`, `{"a": "x"}`, "not_equals excludes"},
		{`{"a": {"not_equals": "x"}}`, `{}`, "no such claim"},
		{`{"a": {"not_equals": "x"}}`, `{"a": ["y"]}`, "a list, which no matcher takes"},
		{`{"a": {"not_equals": "x"}}`, `{"a": {"b": "y"}}`, "a map, which no matcher takes"},
		{`{"a": {"in": ["x", 2]}}`, `{"a": 2}`, ""},
		{`{"a": {"in": ["x", 2]}}`, `{"a": "2"}`, "not in the list of 2"},
		{`{"a": {"not_in": ["x", "y"]}}`, `{"a": "z"}`, ""},
		{`{"a": {"not_in": ["x", "y"]}}`, `{"a": "y"}`, "not_in excludes"},
		{`{"a": {"not_in": ["x", "y"]}}`, `{}`, "no such claim"},
		{`{"a": {"matches": "x*"}}`, `{"a": "x/y:z"}`, ""},
		{`{"a": {"matches": "x?"}}`, `{"a": "x"}`, `"x" matches none of "x?"`},
		{`{"a": {"matches": ["main", "feature/*"]}}`, `{"a": "feature/1"}`, ""},
		{`{"a": {"matches": ["main", "feature/*"]}}`, `{"a": "a-feature/1"}`, "matches none"},
		{`{"a": {"matches": "MAIN"}}`, `{"a": "main"}`, "matches none"},
		{`{"a": {"matches": "*"}}`, `{"a": 1}`, "is not a string"},
		{`{"a": {"matches": "*"}}`, `{"a": true}`, "is not a string"},
		{`{"a": {"matches": "*"}}`, `{"a": null}`, "is not a string"},
		{`{"a": {"matches": "*"}}`, `{"a": ["x"]}`, "a list"},
		{`{"a": {"matches": "*"}}`, `{"a": "` + strings.Repeat("x", 4097) + `"}`, "more than the 4096 bytes"},
		{`{"a": {"matches": "x*"}}`, `{"a": "` + strings.Repeat("x", 4096) + `"}`, ""},
		{`{"a": {"not_equals": "x"}}`, `{"a": "` + strings.Repeat("x", 4097) + `"}`, ""},
		{`{"a": {"matches": ["main", "feature/*"], "not_equals": "feature/not-this-one"}}`, `{"a": "feature/x"}`, ""},
		{`{"a": {"matches": ["main", "feature/*"], "not_equals": "feature/not-this-one"}}`, `{"a": "feature/not-this-one"}`, "not_equals"},
		{`{"a": {"equals": "main", "not_equals": "main"}}`, `{"a": "main"}`, "not_equals"},
		{`{"a": {"equals": "main", "not_equals": "main"}}`, `{"a": "x"}`, "not equal"},
		{`{"a": "x", "b": "y"}`, `{"a": "x", "b": "z"}`, "claims.b"},
		{`{"a": "x", "b": "y"}`, `{"a": "x"}`, "claims.b"},
		{`{"/kubernetes.io/serviceaccount/uid": "u"}`, `{"kubernetes.io": {"serviceaccount": {"uid": "u"}}}`, ""},
		{`{"/kubernetes.io/serviceaccount/uid": "u"}`, `{"kubernetes.io": {"serviceaccount": null}}`, "no such claim"},
		{`{"/kubernetes.io/serviceaccount/uid": "u"}`, `{"kubernetes.io": "serviceaccount"}`, "no such claim"},
		{`{"/kubernetes.io/serviceaccount/uid": "u"}`, `{"/kubernetes.io/serviceaccount/uid": "u"}`, "no such claim"},
		{`{"/a~1b/c~0d": 1}`, `{"a/b": {"c~d": 1}}`, ""},
		{`{"/a~01": 1}`, `{"a~1": 1}`, ""},
		{`{"/list/0": "x"}`, `{"list": ["x"]}`, "no such claim"},
		{`{"oidc.circleci.com/vcs-ref": "x"}`, `{"oidc.circleci.com/vcs-ref": "x"}`, ""},
	} {
		got := judge(t, c.rules, c.claims)
		if c.reason == "" && got != "" || c.reason != "" && !strings.Contains(got, c.reason) {
			t.Errorf("%s on %.100s: %q, want %q", c.rules, c.claims, got, c.reason)
		}
	}
}

func TestFirstMatchWins(t *testing.T) {
	p := parse(t, `
- {iss: `+issuer+`, scopes: [delete_packages], claims: {a: other}}
- {iss: `+issuer+`, scopes: [read_packages], claims: {a: {matches: "x*"}}}
- {iss: `+issuer+`, scopes: [read_packages, write_packages, delete_packages], claims: {a: x1}}
`)
	matched, verdicts := p.Judge(policy.Token{Issuer: issuer, Claims: claims(t, `{"a":"x1"}`)}, policy.Context{})
	if matched == nil || len(matched.Scopes) != 1 || matched.Scopes[0] != wire.ReadPackages {
		t.Errorf("matched %+v: a later statement must not widen what the first that matches grants", matched)
	}
	want := []policy.Verdict{{Statement: 0, Reason: `claims.a: "x1" is not equal to "other"`}, {Statement: 1, Matches: true}}
	if diff := cmp.Diff(want, verdicts); diff != "" {
		t.Error(diff)
	}
}

func TestIssuerAudienceAndLifetime(t *testing.T) {
	for name, c := range map[string]struct {
		fields  string // beside scopes and claims.
		token   policy.Token
		context policy.Context
		reason  string
	}{
		"as it should be":          {token: policy.Token{Issuer: issuer, Audience: audience, Lifetime: 300 * time.Second}},
		"a second too long":        {token: policy.Token{Issuer: issuer, Audience: audience, Lifetime: 301 * time.Second}, reason: "5m1s"},
		"longer allowed":           {fields: `, "maxTokenLifetime": "1h"`, token: policy.Token{Issuer: issuer, Audience: audience, Lifetime: time.Hour}},
		"shorter allowed":          {fields: `, "maxTokenLifetime": "60s"`, token: policy.Token{Issuer: issuer, Audience: audience, Lifetime: 61 * time.Second}, reason: "maxTokenLifetime"},
		"another issuer":           {token: policy.Token{Issuer: issuer + "/", Audience: audience}, reason: "iss: the token's is"},
		"an issuer that begins so": {token: policy.Token{Issuer: issuer + ".evil.example", Audience: audience}, reason: "iss"},
		"another audience":         {token: policy.Token{Issuer: issuer, Audience: audience + "/"}, reason: "aud: the token's is"},
		"no audience":              {token: policy.Token{Issuer: issuer}, reason: "aud"},
		"its own audience":         {fields: `, "audiences": ["sts"]`, token: policy.Token{Issuer: issuer, Audience: "sts"}},
		"the address all the same": {fields: `, "audiences": ["sts"]`, token: policy.Token{Issuer: issuer, Audience: audience}},
		"an audience in capitals":  {fields: `, "audiences": ["sts"]`, token: policy.Token{Issuer: issuer, Audience: "STS"}, reason: "or one of audiences"},
		"only the claims":          {token: policy.Token{Issuer: issuer, Lifetime: time.Hour}, context: policy.Context{ClaimsOnly: true}},
		"not trusted": {
			token:   policy.Token{Issuer: issuer, Audience: audience},
			context: policy.Context{Trusted: func(*policy.Statement) string { return "signed with another key" }}, reason: "another key",
		},
	} {
		p := parse(t, `[{"iss": "`+issuer+`", "scopes": ["read_packages"], "claims": {"a": 1}`+c.fields+`}]`)
		c.context.Audience = audience
		c.token.Claims = claims(t, `{"a": 1}`)
		matched, verdicts := p.Judge(c.token, c.context)
		if got := verdicts[0].Reason; (matched != nil) != (c.reason == "") || !strings.Contains(got, c.reason) {
			t.Errorf("%s: %q, want %q", name, got, c.reason)
		}
	}
}

func TestKubernetesStandsForTheClustersIssuer(t *testing.T) {
	p := parse(t, `[{"iss": "kubernetes", "scopes": ["read_packages"], "claims": {"sub": "s"}}]`)
	token := policy.Token{Issuer: "https://kubernetes.default.svc", Audience: audience, Lifetime: time.Hour, Claims: claims(t, "sub: s")}
	if _, v := p.Judge(token, policy.Context{Audience: audience, KubernetesIssuer: token.Issuer}); !v[0].Matches {
		t.Errorf("refused: %s", v[0].Reason)
	}
	token.Lifetime += time.Second
	if _, v := p.Judge(token, policy.Context{Audience: audience, KubernetesIssuer: token.Issuer}); v[0].Matches {
		t.Error("it may live for longer than an hour")
	}
	for _, iss := range []string{"kubernetes", ""} {
		token.Issuer = iss
		if _, v := p.Judge(token, policy.Context{ClaimsOnly: true}); v[0].Matches {
			t.Errorf("the issuer %q is taken where the cluster's is not known", iss)
		}
	}
}

// What other programs' policies look like must paste in, whichever way it is written.
func TestFormsOfThePolicy(t *testing.T) {
	asJSON := `[{"iss": "https://agent.buildkite.com", "scopes": ["read_packages"],
	  "claims": {"organization_slug": "acme", "pipeline_slug": {"in": ["one", "two"]}, "build_branch": {"matches": ["main", "feature/*"], "not_equals": "feature/not-this-one"}}}]`
	asYAML := `
# A comment.
- iss: "https://agent.buildkite.com"
  scopes:
    - read_packages
  claims:
    organization_slug: acme
    pipeline_slug:
      in: [one, two]
    build_branch:
      matches:
        - main
        - 'feature/*'
      not_equals: feature/not-this-one
`
	asObject := "apiVersion: chartroom.dev/v1alpha1\nkind: OIDCPolicy\nmetadata: {name: x}\nspec:\n  registryRef: {name: charts}\n  statements:" + strings.ReplaceAll(asYAML, "\n", "\n    ")
	asString := "kind: OIDCPolicy\nspec:\n  policy: |" + strings.ReplaceAll(asYAML, "\n", "\n    ")
	want := string(parse(t, asJSON).JSON())
	for name, text := range map[string]string{"YAML": asYAML, "object": asObject, "string": asString, "tabs": strings.ReplaceAll(asJSON, " ", "\t")} {
		p, err := policy.ParseObject([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, string(p.JSON())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if p, err := policy.ParseObject([]byte("kind: OIDCPolicy\nspec: {statements: [{iss: https://a.example, scopes: [read_packages], claims: {a: b}, caSecretRef: {name: ca}}]}")); err != nil || len(p.Statements) != 1 {
		t.Errorf("an object that refers to a Secret: %v", err)
	}
}

func TestScalarsOfYAML(t *testing.T) {
	p := parse(t, `[{iss: https://a.example, scopes: [read_packages], claims: {a: 2024-01-02, b: yes, c: "1", d: 1.50, e: True, f: ~, g: 0755x, h: main}}]`)
	want := `[{"claims":{"a":"2024-01-02","b":"yes","c":"1","d":1.50,"e":true,"f":null,"g":"0755x","h":"main"},"iss":"https://a.example","scopes":["read_packages"]}]`
	if got := string(p.JSON()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRefusedPolicies(t *testing.T) {
	one := func(statement string) string {
		return "- {iss: https://a.example, scopes: [read_packages], " + statement + "}"
	}
	long := strings.Repeat("x", 2000)
	many := func(n int, each string) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(each, i)
		}
		return strings.Join(list, ", ")
	}
	for text, why := range map[string]string{
		"":                           "empty",
		"[]":                         "no statement",
		"x":                          "a policy is a list of statements",
		"iss: a":                     "a policy is a list of statements, and this is a map",
		"[[]]":                       "statements[0]: a statement is a map",
		"- a: [":                     "as YAML",
		"- a\n---\n- b":              "more than one YAML document",
		"- &x a":                     "line 1: it has the anchor &x",
		"- &x {a: b}\n- *x":          "anchor",
		"- *x":                       "unknown anchor",
		"- !!str a":                  "tag !!str",
		"- !foo {a: b}":              "tag !foo",
		"- {iss: a, iss: b}":         "the key \"iss\" is there twice",
		`[{"iss": "a", "iss": "b"}]`: "twice",
		"- {1: a}":                   "a key must be a string, and this is a number",
		"- {<<: {a: b}}":             "cannot be in a policy",
		"- iss:":                     "there is nothing behind the colon",
		strings.Repeat("[", 50) + strings.Repeat("]", 50):                                    "nested",
		"[" + many(65, "{iss: a%d}") + "]":                                                   "65 statements; at most 64",
		"- {scopes: [read_packages], claims: {a: b}}":                                        "statements[0]: iss: it is missing",
		"- {iss: 1, scopes: [read_packages], claims: {a: b}}":                                "iss: it must be a string, and is a number",
		"- {iss: http://a.example, scopes: [read_packages], claims: {a: b}}":                 "is not an issuer: write its address",
		"- {iss: https://u@a.example, scopes: [read_packages], claims: {a: b}}":              "is not an issuer",
		"- {iss: \"https://a.example?x=1\", scopes: [read_packages], claims: {a: b}}":        "is not an issuer",
		"- {iss: \"https://a.example#\", scopes: [read_packages], claims: {a: b}}":           "is not an issuer",
		"- {iss: \"https://a.example/ \", scopes: [read_packages], claims: {a: b}}":          "is not an issuer",
		"- {iss: HTTPS://a.example, scopes: [read_packages], claims: {a: b}}":                "is not an issuer",
		"- {iss: a.example, scopes: [read_packages], claims: {a: b}}":                        "is not an issuer",
		"- {iss: \"https://*.example/*\", scopes: [read_packages], claims: {}}":              "claims: write a map with at least one rule",
		"- {iss: https://a.example, claims: {a: b}}":                                         "scopes: write a list of what the statement grants",
		"- {iss: https://a.example, scopes: [], claims: {a: b}}":                             "scopes: write a list",
		"- {iss: https://a.example, scopes: read_packages, claims: {a: b}}":                  "scopes: write a list",
		"- {iss: https://a.example, scopes: [read], claims: {a: b}}":                         `unknown scope "read"; there are read_packages, write_packages, delete_packages`,
		"- {iss: https://a.example, scopes: [read_packages, read_packages], claims: {a: b}}": "twice",
		one("claims: {}"):                                                          "claims: write a map with at least one rule",
		one("claims: [a]"):                                                         "claims: write a map",
		one("claim: {a: b}"):                                                       `"claim": there is no such field in a statement; there are iss, scopes, claims`,
		one("claims: {ref: [a, b]}"):                                               "claims: ref: a list is no rule: write {in: [...]}",
		one("claims: {ref: {}}"):                                                   "claims: ref: the rule is empty",
		one("claims: {ref: {equal: a}}"):                                           "claims: ref: equal: there is no such matcher; there are equals, not_equals",
		one("claims: {ref: {equals: [a]}}"):                                        "claims: ref: equals: it takes one value: write in for a list",
		one("claims: {ref: {equals: {a: b}}}"):                                     "a map is no value to compare with",
		one("claims: {ref: {in: a}}"):                                              "claims: ref: in: write a list of at least one value",
		one("claims: {ref: {in: []}}"):                                             "in: write a list of at least one value",
		one("claims: {ref: {not_in: []}}"):                                         "not_in: write a list of at least one value",
		one("claims: {ref: {in: [[a]]}}"):                                          "a list is no value",
		one("claims: {ref: {matches: []}}"):                                        "matches: the list is empty",
		one("claims: {ref: {matches: [1]}}"):                                       "has a number in it",
		one("claims: {ref: {matches: ''}}"):                                        "a glob has 1 to 256 bytes",
		one("claims: {ref: {matches: " + long + "}}"):                              "a glob has 1 to 256 bytes",
		one("claims: {ref: " + long + "}"):                                         "2000 bytes; at most 1024",
		one("claims: {" + strings.Repeat("x", 300) + ": a}"):                       "name has 1 to 256 bytes",
		one("claims: {'': a}"):                                                     "name has 1 to 256 bytes",
		one("claims: {/a~2: a}"):                                                   "JSON pointer",
		one("claims: {" + many(33, "c%d: a") + "}"):                                "33 rules; at most 32",
		one("claims: {a: {in: [" + many(65, "v%d") + "]}}"):                        "65 values; at most 64",
		one("claims: {a: 0x1f}"):                                                   "not a number as JSON has them",
		one("claims: {a: 010}"):                                                    "not a number as JSON has them",
		one("claims: {a: .inf}"):                                                   "not a number as JSON has them",
		one("claims: {a: 1_000}"):                                                  "not a number as JSON has them",
		one("claims: {a: 1e9999999999}"):                                           "not a number as JSON has them",
		one("claims: {a: b}, charts: []"):                                          "charts: the list is empty",
		one("claims: {a: b}, charts: '*'"):                                         "charts: it must be a list of strings",
		one("claims: {a: b}, charts: [A]"):                                         "charts: the chart glob \"A\" has the character",
		one("claims: {a: b}, maxTokenLifetime: 300"):                               "maxTokenLifetime: write a duration",
		one("claims: {a: b}, maxTokenLifetime: 25h"):                               "between 1s and 24h",
		one("claims: {a: b}, maxTokenLifetime: 0s"):                                "between 1s and 24h",
		one("claims: {a: b}, audiences: ['']"):                                     "audiences: an audience has",
		one("claims: {a: b}, audiences: x"):                                        "audiences: it must be a list",
		one("claims: {a: b}, jwks: {keys: []}"):                                    "jwks: write the issuer's keys as one string",
		one("claims: {a: b}, ca: x"):                                               "ca: write certificates in PEM",
		"- {iss: kubernetes, scopes: [read_packages], claims: {a: b}, jwks: '{}'}": "jwks: leave it out",
		strings.Repeat(" ", policy.MaxBytes+1):                                     "bytes; at most",
	} {
		_, err := policy.Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%.150s\n\tgot  %v\n\twant %s", text, err, why)
		}
	}
}

func TestLint(t *testing.T) {
	for _, c := range []struct {
		statement string
		// warnings has a part of each.
		warnings []string
	}{
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository: acme/app}`, nil},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository_owner_id: "1"}`, nil},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository: {matches: "acme/*"}}`, nil},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {sub: {matches: "repo:acme/*"}}`, nil},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {sub: {matches: "repo:acme*"}}`, []string{"add a rule for repository"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {sub: {matches: "repo:*"}}`, []string{"add a rule for repository"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository: {matches: "acme*"}}`, []string{"add a rule for repository"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository: {matches: ["acme/*", "*/app"]}}`, []string{"add a rule for repository", "begins with *"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository_owner: {matches: "acme*"}}`, []string{"add a rule for repository"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository: {in: [acme/app, acme/web]}}`, nil},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository: {matches: [acme/app, acme/web]}}`, nil},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository_owner: {matches: "acme/*"}}`, []string{"add a rule for repository"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository: {matches: "/*"}}`, []string{"add a rule for repository"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [write_packages], claims: {repository: acme/app, ref: {in: [refs/heads/main]}}`, nil},
		{`iss: https://token.actions.githubusercontent.com, scopes: [write_packages], claims: {repository: acme/app, ref: {not_equals: refs/heads/x}}`, []string{"any branch"}},
		{`iss: https://own.example, scopes: [write_packages], claims: {a: {matches: "*x", in: [yx]}}`, nil},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {repository: {not_equals: evil/app}}`, []string{"add a rule for repository"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages], claims: {ref: refs/heads/main}`, []string{"add a rule for repository"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [read_packages, write_packages], claims: {repository: acme/app}`, []string{"any branch"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [delete_packages], claims: {repository: acme/app, ref: {matches: "*"}}`, []string{"any branch", "begins with *"}},
		{`iss: https://token.actions.githubusercontent.com, scopes: [write_packages], claims: {repository: acme/app, environment: production}`, nil},
		{`iss: https://gitlab.com, scopes: [read_packages], claims: {ref: main}`, []string{"add a rule for project_path"}},
		{`iss: https://gitlab.com, scopes: [write_packages], claims: {project_path: {matches: "acme/*"}, ref: main}`, nil},
		{`iss: https://agent.buildkite.com, scopes: [write_packages], claims: {pipeline_slug: app}`, []string{"add a rule for organization_slug", "any branch"}},
		{`iss: https://oidc.circleci.com/org/1, scopes: [write_packages], claims: {oidc.circleci.com/project-id: p}`, []string{"any branch"}},
		{`iss: kubernetes, scopes: [write_packages], claims: {aud: x}`, []string{"add a rule for sub"}},
		{`iss: kubernetes, scopes: [write_packages], claims: {sub: {matches: "system:serviceaccount:team-a:*"}}`, nil},
		{`iss: kubernetes, scopes: [write_packages], claims: {sub: {matches: "system:serviceaccount:*"}}`, []string{"add a rule for sub"}},
		{`iss: https://own.example, scopes: [write_packages], claims: {a: {matches: "*x"}}`, []string{"begins with *"}},
		{`iss: https://own.example, scopes: [write_packages], claims: {a: {matches: "*x", equals: yx}}`, nil},
		{`iss: https://own.example, scopes: [write_packages], claims: {a: b}, maxTokenLifetime: 1h`, nil},
		{`iss: https://own.example, scopes: [write_packages], claims: {a: b}, maxTokenLifetime: 61m`, []string{"a token that leaks is good for 1h1m0s"}},
	} {
		warnings := parse(t, "- {"+c.statement+"}").Lint()
		good := len(warnings) == len(c.warnings)
		for i, w := range warnings {
			good = good && strings.Contains(w.Text, c.warnings[i])
		}
		if !good {
			t.Errorf("%s:\n\tgot  %v\n\twant %q", c.statement, warnings, c.warnings)
		}
	}
}

// Of everything there may be so much and no more, and what is written is what is granted.
func TestBoundsOfPolicies(t *testing.T) {
	list := func(n int, each string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(each, i)
		}
		return strings.Join(all, ", ")
	}
	x := func(n int) string { return strings.Repeat("x", n) }
	statement := func(fields string) string {
		if !strings.Contains(fields, "claims:") {
			fields += ", claims: {a: b}"
		}
		return "- {iss: https://a.example, scopes: [read_packages], " + fields + "}"
	}
	for what, c := range map[string]struct {
		most int
		of   func(n int) string
	}{
		"statements": {64, func(n int) string {
			return "[" + list(n, "{iss: https://%d.example, scopes: [read_packages], claims: {a: b}}") + "]"
		}},
		"rules":                {32, func(n int) string { return statement("claims: {" + list(n, "c%d: x") + "}") }},
		"values":               {64, func(n int) string { return statement("claims: {a: {in: [" + list(n, "v%d") + "]}}") }},
		"values left out":      {64, func(n int) string { return statement("claims: {a: {not_in: [" + list(n, "v%d") + "]}}") }},
		"globs":                {64, func(n int) string { return statement("claims: {a: {matches: [" + list(n, "v%d") + "]}}") }},
		"charts":               {64, func(n int) string { return statement("charts: [" + list(n, "v%d") + "]") }},
		"audiences":            {16, func(n int) string { return statement("audiences: [" + list(n, "v%d") + "]") }},
		"bytes of a name":      {256, func(n int) string { return statement("claims: {" + x(n) + ": b}") }},
		"bytes of a value":     {1024, func(n int) string { return statement("claims: {a: " + x(n) + "}") }},
		"bytes of a glob":      {256, func(n int) string { return statement("claims: {a: {matches: " + x(n) + "}}") }},
		"bytes of an audience": {512, func(n int) string { return statement("audiences: [" + x(n) + "]") }},
		"bytes of an issuer": {512 - len("https://a.example/"), func(n int) string {
			return "- {iss: https://a.example/" + x(n) + ", scopes: [read_packages], claims: {a: b}}"
		}},
		"seconds of a life": {24 * 3600, func(n int) string { return statement(fmt.Sprintf("maxTokenLifetime: %ds", n)) }},
	} {
		if _, err := policy.Parse([]byte(c.of(c.most))); err != nil {
			t.Errorf("%d %s: %v", c.most, what, err)
		}
		if _, err := policy.Parse([]byte(c.of(c.most + 1))); err == nil {
			t.Errorf("%d %s are taken", c.most+1, what)
		}
	}
	for fields, why := range map[string]string{
		"maxTokenLifetime: 1s":    "",
		"maxTokenLifetime: 999ms": "between 1s and 24h",
		`jwks: ""`:                "jwks: write the issuer's keys",
		"ca: 1":                   "ca: write certificates in PEM",
	} {
		if _, err := policy.Parse([]byte(statement(fields))); why == "" && err != nil || why != "" && (err == nil || !strings.Contains(err.Error(), why)) {
			t.Errorf("%s: %v, want something with %q", fields, err, why)
		}
	}
	for fields, want := range map[string]string{"claims: {a: b}": "*", "charts: [web, team/*]": "web team/*"} {
		if got := strings.Join(parse(t, statement(fields)).Statements[0].Charts, " "); got != want {
			t.Errorf("%s: the charts are %s, want %s", fields, got, want)
		}
	}
	certificate := "ca: " + fmt.Sprintf("%q", issuertest.New(t).CA())
	if got := parse(t, statement(certificate)).Statements[0].CA; !strings.HasPrefix(got, "-----BEGIN") {
		t.Errorf("the authority is %q", got)
	}
	for _, text := range []string{statement(certificate + ", jwks: x"), strings.Replace(statement(certificate), "https://a.example", "kubernetes", 1)} {
		if _, err := policy.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), "ca: leave it out") {
			t.Errorf("%.80s: %v", text, err)
		}
	}
	if why := judge(t, `{"a": {"in": ["x"]}, "b": {"matches": ["`+x(200)+`", "2", "3", "4", "5"]}}`, `{"a": "x", "b": "`+x(4000)+`"}`); len(why) > 500 || !strings.Contains(why, "2 more") {
		t.Errorf("%d bytes say why: %s", len(why), why)
	}
}

// What is read is bounded, in either form, and what is within the bounds is taken.
func TestClaimsAreBounded(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + "x" + strings.Repeat("]", n) }
	many := func(n int) string { return "[" + strings.Repeat("x, ", n) + "x]" }
	for text, why := range map[string]string{
		"a: " + deep(9):   "",
		"a: " + deep(11):  "nested more than 10 deep",
		"a: " + many(255): "",
		"a: " + many(600): "members",
		`{"a": ` + strings.ReplaceAll(deep(11), "x", "1") + "}":  "nested more than 10 deep",
		`{"a": ` + strings.ReplaceAll(many(600), "x", "1") + "}": "members",
		"a: " + strings.Repeat("x", policy.MaxBytes):             "bytes; at most",
		"a: &x y\nb: *x":    "anchor",
		"a: !!str 1":        "tag",
		"a: 1\n---\na: 2\n": "more than one YAML document",
		"":                  "empty",
		"[a]":               "claims are a map",
	} {
		_, err := policy.ParseClaims([]byte(text))
		if why == "" && err != nil || why != "" && (err == nil || !strings.Contains(err.Error(), why)) {
			t.Errorf("%.40s: %v, want something with %q", text, err, why)
		}
	}
}

// FuzzParse: what is taken can be written and read again as the same, and judges without a panic.
func FuzzParse(f *testing.F) {
	f.Add("- {iss: https://a.example, scopes: [read_packages], claims: {a: {matches: x*}}}")
	f.Add(`[{"iss":"kubernetes","scopes":["write_packages"],"claims":{"/a/b":1.0e3},"charts":["x/*"],"maxTokenLifetime":"1h"}]`)
	f.Add("- &a {iss: *a}\n- !!x y")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.Parse([]byte(text))
		if err != nil {
			return
		}
		again, err := policy.Parse(p.JSON())
		if err != nil {
			t.Fatalf("%s is refused: %v", p.JSON(), err)
		}
		if diff := cmp.Diff(string(p.JSON()), string(again.JSON())); diff != "" {
			t.Error(diff)
		}
		p.Lint()
		p.Judge(policy.Token{Issuer: p.Statements[0].Issuer, Claims: map[string]any{"a": "x"}}, policy.Context{})
	})
}

// FuzzJudge compares with an evaluator that follows the text of the manual word for word.
func FuzzJudge(f *testing.F) {
	f.Add(`{"a":{"matches":["x*","?"],"not_equals":"xx"}}`, `{"a":"xy"}`)
	f.Add(`{"a":{"in":[1,"1",null,true]},"/b/c":{"not_in":[2]}}`, `{"a":1.0,"b":{"c":3}}`)
	f.Add(`{"a":"x"}`, `{"a":["x"]}`)
	f.Fuzz(func(t *testing.T, rules, tokenClaims string) {
		if !json.Valid([]byte(rules)) || !json.Valid([]byte(tokenClaims)) {
			return
		}
		p, err := policy.Parse([]byte(`[{"iss":"` + issuer + `","scopes":["read_packages"],"claims":` + rules + `}]`))
		if err != nil {
			return
		}
		token, err := policy.ParseClaims([]byte(tokenClaims))
		if err != nil {
			return
		}
		want := naive(t, rules, token)
		matched, verdicts := p.Judge(policy.Token{Issuer: issuer, Claims: token}, policy.Context{})
		if (matched != nil) != want {
			t.Errorf("%s on %s: matches is %v, want %v: %v", rules, tokenClaims, matched != nil, want, verdicts)
		}
	})
}

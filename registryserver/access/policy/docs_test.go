package policy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// recommended reads the policy that a page of the manual recommends, which is the first block of YAML in it.
func recommended(t *testing.T, page string) *policy.Policy {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("../../../docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(content), "```yaml\n")
	text, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatalf("%s has no policy in it", page)
	}
	return parse(t, text)
}

// What the manual recommends must admit the tokens of the issuers that it names, as they are, and nobody else's.
func TestRecommendedPolicies(t *testing.T) {
	for fixture, c := range map[string]struct {
		page string
		// strangers are changes of claims after which nothing may be written.
		strangers []map[string]any
	}{
		"github":                   {"oidc-github.md", githubStrangers},
		"github-immutable-subject": {"oidc-github.md", githubStrangers},
		"gitlab": {"oidc-gitlab.md", []map[string]any{
			{"project_path": "evil/web"}, {"project_id": "1"}, {"ref": "feature"}, {"ref_protected": "false"}, {"ref_protected": true}, {"iss": "https://gitlab.example.com"},
		}},
		"circleci": {"oidc-circleci.md", []map[string]any{
			{"iss": "https://oidc.circleci.com/org/0"}, {"oidc.circleci.com/project-id": "0"}, {"oidc.circleci.com/vcs-ref": "refs/heads/x"}, {"oidc.circleci.com/ssh-rerun": true}, {"oidc.circleci.com/vcs-ref": nil},
		}},
		"kubernetes": {"oidc-kubernetes.md", []map[string]any{
			{"sub": "system:serviceaccount:team-b:publisher"}, {"sub": "system:serviceaccount:team-a:default"}, {"iss": "https://other"}, {"sub": nil},
		}},
		"buildkite": {"oidc-buildkite.md", []map[string]any{
			{"organization_slug": "evil"}, {"pipeline_slug": "other"}, {"build_branch": "main-2"}, {"build_source": "api"}, {"build_source": nil},
		}},
	} {
		p := recommended(t, c.page)
		if warnings := p.Lint(); len(warnings) > 0 {
			t.Errorf("%s: %v", c.page, warnings)
		}
		content, err := os.ReadFile(filepath.Join("testdata", fixture+".json"))
		if err != nil {
			t.Fatal(err)
		}
		judge := func(change map[string]any) (*policy.Statement, []policy.Verdict) {
			token := claims(t, string(content))
			for name, value := range change {
				if token[name] = value; value == nil {
					delete(token, name)
				}
			}
			issuer, _ := token["iss"].(string)
			aud, _ := token["aud"].(string)
			return p.Judge(policy.Token{Issuer: issuer, Audience: aud, Lifetime: lifetimeOf(t, token), Claims: token}, policy.Context{Audience: audience, KubernetesIssuer: "https://kubernetes.default.svc.cluster.local"})
		}
		if matched, verdicts := judge(nil); matched == nil || len(matched.Scopes) != 2 || matched.Scopes[1] != wire.WritePackages {
			t.Errorf("%s: %s does not admit it: %v", fixture, c.page, verdicts)
		}
		for _, change := range append(c.strangers, map[string]any{"aud": audience + "2"}) {
			if matched, _ := judge(change); matched != nil && len(matched.Scopes) > 1 {
				t.Errorf("%s: %s lets it write with %v", fixture, c.page, change)
			}
		}
	}
}

var githubStrangers = []map[string]any{
	{"repository": "evil/web", "repository_owner_id": "1"},
	{"repository_owner_id": "1"}, // The name was given to somebody else.
	{"repository": "acme/other"},
	{"environment": nil, "ref": "refs/pull/7/merge", "event_name": "pull_request"},
	{"environment": "staging"},
}

func lifetimeOf(t *testing.T, token map[string]any) time.Duration {
	t.Helper()
	var seconds [2]int64
	for i, name := range []string{"iat", "exp"} {
		number, ok := token[name].(json.Number)
		if !ok {
			t.Fatalf("%s is no number", name)
		}
		var err error
		if seconds[i], err = number.Int64(); err != nil {
			t.Fatal(err)
		}
	}
	return time.Duration(seconds[1]-seconds[0]) * time.Second
}

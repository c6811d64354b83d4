package policy

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Warning says that a statement is in force, and admits more than its author may have meant.
type Warning struct {
	Statement int    `json:"statement"`
	Text      string `json:"text"`
}

// Lint looks for statements that strangers could satisfy.
func (p *Policy) Lint() []Warning {
	var warnings []Warning
	for i := range p.Statements {
		for _, text := range p.Statements[i].lint() {
			warnings = append(warnings, Warning{Statement: i, Text: text})
		}
	}
	return warnings
}

// issuer is what is known of one that many people's jobs have in common.
type issuer struct {
	// owners are the claims that say whose job it is, and the advice names the first. paths are those of them in which
	// an owner ends at a slash or colon, so that a glob which goes on behind it is as good as a value.
	owners, paths []string
	// places say what of the owner's it is: a branch, a tag, an environment.
	places []string
}

// shared are the issuers that many have in common, by the host of their address. CircleCI's has the organization in its
// path, so it has no owners here.
var shared = map[string]issuer{
	"token.actions.githubusercontent.com": {
		owners: []string{"repository", "repository_id", "repository_owner", "repository_owner_id", "sub", "job_workflow_ref", "workflow_ref"},
		paths:  []string{"repository", "sub", "job_workflow_ref", "workflow_ref"},
		places: []string{"ref", "environment", "sub", "job_workflow_ref", "workflow_ref", "ref_protected", "base_ref"},
	},
	"gitlab.com": {
		owners: []string{"project_path", "project_id", "namespace_path", "namespace_id", "sub", "ci_config_ref_uri"},
		paths:  []string{"project_path", "namespace_path", "sub", "ci_config_ref_uri"},
		places: []string{"ref", "environment", "sub", "ref_path", "ref_protected", "ci_config_ref_uri"},
	},
	"agent.buildkite.com": {
		owners: []string{"organization_slug", "organization_id", "pipeline_id", "sub"},
		paths:  []string{"sub"},
		places: []string{"build_branch", "build_tag", "sub"},
	},
	"oidc.circleci.com": {
		places: []string{"oidc.circleci.com/vcs-ref", "oidc.circleci.com/context-ids", "sub"},
	},
	Kubernetes: {
		owners: []string{"sub", "/kubernetes.io/namespace", "/kubernetes.io/serviceaccount/uid"},
		paths:  []string{"sub"},
	},
}

// longLifetime is from where on a stolen token is worth stealing.
const longLifetime = time.Hour

func (s *Statement) lint() []string {
	var warnings []string
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	host := s.Issuer
	if u, err := url.Parse(s.Issuer); err == nil && u.Host != "" {
		host = u.Host
	}
	known := shared[host]
	if len(known.owners) > 0 && !slices.ContainsFunc(s.rules, func(r rule) bool { return r.pins(known) }) {
		warn("no claim says whose tokens are meant, and anybody can have one of %s: add a rule for %s with equals or in, or matches with a glob that names the owner and the slash behind it", s.Issuer, known.owners[0])
	}
	writes := slices.Contains(s.Scopes, wire.WritePackages) || slices.Contains(s.Scopes, wire.DeletePackages)
	if writes && len(known.places) > 0 && !slices.ContainsFunc(s.rules, func(r rule) bool { return slices.Contains(known.places, r.claim) && r.narrows() }) {
		warn("it may write or delete from any branch, and so may a pull request: add a rule for %s", strings.Join(known.places[:2], " or "))
	}
	for _, r := range s.rules {
		if r.equals == nil && r.in == nil && slices.ContainsFunc(r.matches, func(g string) bool { return strings.HasPrefix(g, "*") }) {
			warn("claims.%s: a glob that begins with * matches whatever strangers put in front: begin it with what is yours", r.claim)
		}
	}
	if s.MaxTokenLifetime > longLifetime {
		warn("maxTokenLifetime: a token that leaks is good for %v; 5m is what most issuers need, and a session token makes a long push outlive it", s.MaxTokenLifetime)
	}
	return warnings
}

// pins reports whether the rule lets pass nothing but tokens of owners that it names.
func (r *rule) pins(known issuer) bool {
	if !slices.Contains(known.owners, r.claim) {
		return false
	}
	if r.equals != nil || r.in != nil {
		return true
	}
	for _, pattern := range r.matches {
		literal := pattern[:strings.IndexAny(pattern+"*", "*?")]
		if literal != pattern && (!slices.Contains(known.paths, r.claim) || !namesOwner(r.claim, literal)) {
			return false
		}
	}
	return r.matches != nil
}

// namesOwner reports whether what stands before the first wildcard has a whole owner in it. The claim sub has what it is
// about first: repo:OWNER/, project_path:GROUP/, organization:SLUG:, system:serviceaccount:NAMESPACE:.
func namesOwner(claim, literal string) bool {
	owner := literal
	if claim == "sub" {
		if rest, found := strings.CutPrefix(literal, "system:serviceaccount:"); found {
			owner = rest
		} else {
			_, owner, _ = strings.Cut(literal, ":")
		}
	}
	return strings.IndexAny(owner, "/:") > 0
}

// narrows reports whether not every value passes.
func (r *rule) narrows() bool {
	return r.equals != nil || r.in != nil || r.matches != nil && !slices.ContainsFunc(r.matches, func(g string) bool { return strings.Trim(g, "*") == "" })
}

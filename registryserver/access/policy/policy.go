// Package policy is the language of OIDC policies: which tokens of which issuers may do what. A policy is a list of
// statements; the first that a token satisfies says what it may do. The package is pure: it proves no token, reads no
// clock and dials nobody.
package policy

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Bounds of a policy.
const (
	// MaxBytes bounds the text of a policy.
	MaxBytes = 256 << 10
	// MaxStatements is how many statements a policy has, MaxRules how many rules a statement, and MaxValues how many
	// values a list in it.
	MaxStatements = 64
	MaxRules      = 32
	MaxValues     = 64

	maxAudiences    = 16
	maxNameBytes    = 256  // of a claim.
	maxPatternBytes = 256  // of a glob.
	maxValueBytes   = 1024 // of a value that a claim is compared with.
	maxIssuerBytes  = 512
	maxMatchedBytes = 4 << 10 // of a claim that globs are held against.
)

// Kubernetes is what a statement says instead of an issuer's address to mean that of the cluster.
const Kubernetes = "kubernetes"

// Limits on the time between a token's iat and exp.
const (
	DefaultLifetime           = 5 * time.Minute
	DefaultKubernetesLifetime = time.Hour
	MaxLifetime               = 24 * time.Hour
)

// Policy is a list of statements, checked and made fast to judge by. It is immutable.
type Policy struct {
	Statements []Statement
	written    []any
}

// Statement says what tokens of an issuer may do whose claims satisfy all its rules.
type Statement struct {
	// Issuer is compared with the claim iss, character by character; or it is [Kubernetes].
	Issuer string
	// Scopes are what the token may do, Charts the globs of the charts that it may do that to. Neither is empty.
	Scopes []wire.Scope
	Charts []string
	// MaxTokenLifetime is the longest time between iat and exp.
	MaxTokenLifetime time.Duration
	// Audiences are taken for aud beside the registry's own address.
	Audiences []string
	// JWKS are the issuer's keys (RFC 7517 section 5); empty where the issuer publishes them.
	JWKS string
	// CA has the authorities, in PEM, of which one signed the issuer's certificate; empty for the system's.
	CA string

	rules []rule // In the order of the claims' names.
}

// Parse reads a policy: a list of statements in JSON or in plain YAML, which has no anchors, aliases, tags or repeated
// keys. Errors name the statement, the claim, and what to write instead.
func Parse(text []byte) (*Policy, error) {
	written, err := plain("policy", text)
	if err != nil {
		return nil, err
	}
	return Compile(written)
}

// JSON is the policy as it was written, in a form in which equal policies have equal bytes.
func (p *Policy) JSON() []byte {
	text, err := json.Marshal(p.written)
	if err != nil {
		panic(err) // Compile took nothing but plain values.
	}
	return text
}

// Compile is Parse for a policy that was read already, into values as encoding/json makes them with UseNumber.
func Compile(written any) (*Policy, error) {
	list, ok := written.([]any)
	switch {
	case !ok:
		return nil, fmt.Errorf("a policy is a list of statements, and this is %s: begin each statement with \"- iss: \"", kindOf(written))
	case len(list) == 0:
		return nil, fmt.Errorf("the policy has no statement: it admits nobody; write at least one")
	case len(list) > MaxStatements:
		return nil, fmt.Errorf("the policy has %d statements; at most %d are allowed", len(list), MaxStatements)
	}
	p := &Policy{written: list}
	for i, element := range list {
		s, err := compileStatement(element)
		if err != nil {
			return nil, fmt.Errorf("statements[%d]: %w", i, err)
		}
		p.Statements = append(p.Statements, s)
	}
	return p, nil
}

// Context is what statements are judged in beside the token.
type Context struct {
	// Audience is the registry's own address, which aud must equal where a statement has no Audiences.
	Audience string
	// KubernetesIssuer is what [Kubernetes] stands for; empty when it is not known.
	KubernetesIssuer string
	// ClaimsOnly leaves out audience and lifetime.
	ClaimsOnly bool
	// Trusted says why a statement does not trust the key that the token was signed with; empty when it does. Nil
	// trusts all.
	Trusted func(*Statement) string
}

// Token is what a policy judges.
type Token struct {
	Issuer, Audience string
	// Lifetime is the time between iat and exp.
	Lifetime time.Duration
	// Claims are all of them, as encoding/json reads them with UseNumber.
	Claims map[string]any
}

// Verdict is what came of one statement.
type Verdict struct {
	Statement int  `json:"statement"`
	Matches   bool `json:"matches"`
	// Reason is the first thing that did not hold; empty when all did.
	Reason string `json:"reason,omitempty"`
}

// Judge holds a token against the statements, up to and including the first that it satisfies. matched is that one, or
// nil; the verdicts are those of all that were looked at.
func (p *Policy) Judge(t Token, c Context) (matched *Statement, verdicts []Verdict) {
	for i := range p.Statements {
		s := &p.Statements[i]
		reason := s.judge(t, c)
		verdicts = append(verdicts, Verdict{Statement: i, Matches: reason == "", Reason: reason})
		if reason == "" {
			return s, verdicts
		}
	}
	return nil, verdicts
}

// IssuerIn is the issuer's address, with what [Kubernetes] stands for; empty when that is not known.
func (s *Statement) IssuerIn(c Context) string {
	if s.Issuer == Kubernetes {
		return c.KubernetesIssuer
	}
	return s.Issuer
}

// judge says why the statement does not admit a token; empty when it does.
func (s *Statement) judge(t Token, c Context) string {
	switch issuer := s.IssuerIn(c); {
	case issuer == "":
		return "iss: kubernetes stands for the cluster's own issuer, which is not known here"
	case issuer != t.Issuer:
		return fmt.Sprintf("iss: the token's is %s, the statement's %q", quote(t.Issuer), issuer)
	}
	if c.Trusted != nil {
		if why := c.Trusted(s); why != "" {
			return why
		}
	}
	if !c.ClaimsOnly {
		if why := s.judgeAudience(t.Audience, c.Audience); why != "" {
			return why
		}
		if t.Lifetime > s.MaxTokenLifetime {
			return fmt.Sprintf("maxTokenLifetime: the token lives for %v from iat to exp, and the statement allows %v", t.Lifetime, s.MaxTokenLifetime)
		}
	}
	for _, r := range s.rules {
		if why := r.judge(t.Claims); why != "" {
			return "claims." + r.claim + ": " + why
		}
	}
	return ""
}

func (s *Statement) judgeAudience(audience, registry string) string {
	if audience == registry {
		return ""
	}
	for _, a := range s.Audiences {
		if audience == a {
			return ""
		}
	}
	also := ""
	if len(s.Audiences) > 0 {
		also = ", or one of audiences"
	}
	return fmt.Sprintf("aud: the token's is %s; it must be %q%s", quote(audience), registry, also)
}

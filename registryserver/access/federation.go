package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access/oidc"
	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// requestGrace is how long a request may go on whose token was valid when it began: a chart that is large, or comes
	// slowly, is not lost at its last byte.
	requestGrace = 15 * time.Minute
	// rememberedFor is how long the proof of a token is not repeated, and maxRemembered how many are remembered. A push
	// is a dozen requests with the same token.
	rememberedFor = 30 * time.Second
	maxRemembered = 1024
	// proofTimeout is how long one request waits for the keys of all issuers that its token may be of.
	proofTimeout = 6 * time.Second
)

// federation are the policies of a snapshot: what it grants to those for whom issuers vouch.
type federation struct {
	context policy.Context
	objects []object
	// sources are where the keys of an issuer come from, by its address; no two are the same.
	sources map[string][]oidc.Source
	proved  *proved
}

// object is one policy.
type object struct {
	name   string
	policy *policy.Policy
	// entries and trusts are what each statement grants, and the fingerprint of the source that it trusts.
	entries []entry
	trusts  map[*policy.Statement]string
}

func compilePolicies(a wire.Access) (federation, error) {
	f := federation{sources: map[string][]oidc.Source{}, proved: &proved{identities: map[[sha256.Size]byte]provedIdentity{}}}
	if len(a.Policies) > MaxPolicies {
		return f, fmt.Errorf("the snapshot has %d policies; at most %d are allowed", len(a.Policies), MaxPolicies)
	}
	if k := a.Kubernetes; k != nil && k.Issuer != "" && k.JWKS != "" {
		// Keys that cannot be read prove nothing; the rest of the snapshot holds all the same.
		f.context.KubernetesIssuer = k.Issuer
	}
	for i, p := range a.Policies {
		o, err := f.compileObject(p, a.Kubernetes)
		if err != nil {
			return f, fmt.Errorf("policy %s (policies[%d]): %w", clip(p.Name, maxNameBytes), i, err)
		}
		f.objects = append(f.objects, o)
	}
	asked := 0
	for _, s := range f.allSources() {
		if s.JWKS == "" {
			asked++
		}
	}
	if asked > MaxIssuers {
		return f, fmt.Errorf("the policies name %d issuers that have to be asked for their keys; at most %d are allowed", asked, MaxIssuers)
	}
	return f, nil
}

func (f *federation) compileObject(p wire.Policy, cluster *wire.Issuer) (object, error) {
	o := object{name: p.Name, trusts: map[*policy.Statement]string{}}
	var err error
	if o.policy, err = CompilePolicy(p); err != nil {
		return o, err
	}
	for i := range o.policy.Statements {
		s := &o.policy.Statements[i]
		o.entries = append(o.entries, entry{name: p.Name, scopes: s.Scopes, charts: s.Charts})
		if source, known := SourceOf(s, cluster); known {
			o.trusts[s] = source.Fingerprint()
			f.add(source)
		}
	}
	return o, nil
}

// CompilePolicy is [Compile] for one policy, whatever else there is. An error names the statement.
func CompilePolicy(p wire.Policy) (*policy.Policy, error) {
	if err := validateName(p.Name); err != nil {
		return nil, err
	}
	compiled, err := policy.Compile(p.Statements)
	if err != nil {
		return nil, err
	}
	for i := range compiled.Statements {
		s := &compiled.Statements[i]
		if _, err := (oidc.Source{Issuer: s.Issuer, JWKS: s.JWKS}).Given(); err != nil {
			return nil, fmt.Errorf("statements[%d]: jwks: %w", i, err)
		}
	}
	return compiled, nil
}

// SourceOf returns where the keys come from that a statement trusts; false where it means the cluster's issuer, and that
// is not known.
func SourceOf(s *policy.Statement, cluster *wire.Issuer) (oidc.Source, bool) {
	if s.Issuer != policy.Kubernetes {
		return oidc.Source{Issuer: s.Issuer, JWKS: s.JWKS, CA: s.CA}, true
	}
	if cluster == nil || cluster.Issuer == "" || cluster.JWKS == "" {
		return oidc.Source{}, false
	}
	return oidc.Source{Issuer: cluster.Issuer, JWKS: cluster.JWKS}, true
}

func (f *federation) add(source oidc.Source) {
	for _, s := range f.sources[source.Issuer] {
		if s == source {
			return
		}
	}
	f.sources[source.Issuer] = append(f.sources[source.Issuer], source)
}

func (f *federation) allSources() []oidc.Source {
	var all []oidc.Source
	for _, sources := range f.sources {
		all = append(all, sources...)
	}
	return all
}

// bearer is who an OIDC token is about, as it was proved.
type bearer struct {
	token policy.Token
	// trusted are the fingerprints of the sources with whose keys it was proved.
	trusted map[string]bool
}

// admission is what policies say of a bearer.
type admission struct {
	entries []entry
	// matched are the statements that gave the entries, and fingerprints the sources that they trust.
	matched, fingerprints []string
	// reason is why there are none.
	reason string
}

// admit judges a bearer: the first statement of each policy that matches counts, and several policies add up.
func (f *federation) admit(b *bearer) admission {
	var a admission
	var reasons []string
	for _, o := range f.objects {
		c := f.context
		c.Trusted = func(s *policy.Statement) string {
			if b.trusted[o.trusts[s]] {
				return ""
			}
			return "the token was not signed with a key that this statement trusts"
		}
		matched, verdicts := o.policy.Judge(b.token, c)
		last := verdicts[len(verdicts)-1]
		if matched == nil {
			for _, v := range verdicts {
				reasons = append(reasons, fmt.Sprintf("%s[%d]: %s", o.name, v.Statement, v.Reason))
			}
			continue
		}
		a.entries = append(a.entries, o.entries[last.Statement])
		a.matched = append(a.matched, fmt.Sprintf("%s[%d]", o.name, last.Statement))
		a.fingerprints = append(a.fingerprints, o.trusts[matched])
	}
	if len(a.entries) == 0 {
		a.reason = "no policy admits it: " + strings.Join(reasons, "; ")
	}
	return a
}

// authenticateOIDC proves a token and asks the policies in force. Issuers that none of them names are never asked for
// anything.
func (e *Enforcer) authenticateOIDC(ctx context.Context, secret string) (Identity, error) {
	now, p := e.options.Now(), e.current.Load().policy
	sum := sha256.Sum256([]byte(secret))
	if id, ok := p.proved.find(sum, now); ok {
		return id, nil
	}
	b, t, err := e.prove(ctx, p, secret, now)
	if err != nil {
		return Identity{}, err
	}
	a := p.admit(b)
	if a.reason != "" {
		return Identity{}, refuse(secret, "the token of %s for %s was proved, but %s", quoteName(t.Subject), t.Issuer, a.reason)
	}
	id := p.identity(b, a, t.Subject)
	id.until = t.ExpiresAt.Add(requestGrace)
	p.proved.add(sum, id, earlier(now.Add(rememberedFor), t.ExpiresAt), now)
	return id, nil
}

// prove verifies a token against the keys of its issuer. Its errors are RefusedErrors.
func (e *Enforcer) prove(ctx context.Context, p *Policy, secret string, now time.Time) (*bearer, *oidc.Token, error) {
	t, err := oidc.Parse(secret, now)
	if err != nil {
		return nil, nil, refuse(secret, "it is no registry token, and as an OIDC token it is wrong: %v", err)
	}
	sources := p.sources[t.Issuer]
	if len(sources) == 0 {
		return nil, nil, refuse(secret, "no policy names its issuer %s", quoteName(t.Issuer))
	}
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	b := &bearer{
		token:   policy.Token{Issuer: t.Issuer, Audience: t.Audience, Lifetime: t.Lifetime(), Claims: t.Claims},
		trusted: map[string]bool{},
	}
	var problems []string
	for _, s := range sources {
		if err := e.keys.Verify(ctx, s, t); err != nil {
			problems = append(problems, err.Error())
			continue
		}
		b.trusted[s.Fingerprint()] = true
	}
	if len(b.trusted) == 0 {
		return nil, nil, refuse(secret, "its issuer %s did not sign it, as far as can be told: %s", t.Issuer, strings.Join(problems, "; "))
	}
	return b, t, nil
}

// identity is that of a bearer whom the snapshot admits.
func (p *Policy) identity(b *bearer, a admission, subject string) Identity {
	return Identity{
		ID: identifier(b.token.Issuer, subject), Name: a.entries[0].name,
		Issuer: b.token.Issuer, Subject: subject, Policies: a.matched,
		bearer: b, judge: p, admitted: a.entries,
	}
}

// maxIdentifiedSubject is how much of a subject an identifier shows; what it cuts off, a digest stands for.
const maxIdentifiedSubject = 256

// identifier is the ID of who an issuer calls so. Different subjects have different ones, and none has a character that
// is more than one in a log.
func identifier(issuer, subject string) string {
	escaped := strings.Map(func(r rune) rune {
		if r <= ' ' || r == '%' || r >= 0x7f {
			return '%'
		}
		return r
	}, clipBytes(subject, maxIdentifiedSubject))
	// One that has the sign itself could be what another is shown as.
	if escaped != subject || strings.Contains(subject, "%") {
		sum := sha256.Sum256([]byte(subject))
		escaped += "%" + hex.EncodeToString(sum[:8])
	}
	return "oidc:" + issuer + "#" + escaped
}

func clipBytes(s string, most int) string { return s[:min(len(s), most)] }

func quoteName(s string) string { return fmt.Sprintf("%q", clip(s, maxQuotedGlobs)) }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// fingerprintOf tells tokens apart in a log.
func fingerprintOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return "sha256:" + hex.EncodeToString(sum[:6])
}

// proved remembers who tokens were proved to be of, by their SHA-256. It belongs to one snapshot: with another, all
// is proved anew.
type proved struct {
	mu         sync.Mutex
	identities map[[sha256.Size]byte]provedIdentity
}

type provedIdentity struct {
	identity Identity
	until    time.Time
}

func (p *proved) find(sum [sha256.Size]byte, now time.Time) (Identity, bool) {
	if p == nil {
		return Identity{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	found, ok := p.identities[sum]
	return found.identity, ok && now.Before(found.until)
}

func (p *proved) add(sum [sha256.Size]byte, id Identity, until, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.identities) >= maxRemembered {
		for key, remembered := range p.identities {
			if !now.Before(remembered.until) {
				delete(p.identities, key)
			}
		}
	}
	if len(p.identities) >= maxRemembered {
		clear(p.identities)
	}
	p.identities[sum] = provedIdentity{id, until}
}

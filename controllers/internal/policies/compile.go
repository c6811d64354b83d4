// Package policies decides about OIDCPolicies: what of one gets into access snapshots, which registries it is for, and why
// it is refused. Everything but Gather is a pure function.
package policies

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// entryAuthorities is the entry of the Secret that caSecretRef names.
const entryAuthorities = "ca.crt"

// Authorities are the entries ca.crt of the Secrets that a policy refers to, by the Secrets' names. One that does not
// exist is not in it.
type Authorities map[string][]byte

// Compiled is an OIDCPolicy that is right.
type Compiled struct {
	// Entry is how it stands in access snapshots.
	Entry wire.Policy
	// Policy is the same, to judge and warn by.
	Policy *policy.Policy
}

// Compile checks an OIDCPolicy, and puts what it refers to into it. An error names the statement and what to write
// instead.
func Compile(p *v1alpha1.OIDCPolicy, authorities Authorities) (Compiled, error) {
	c := Compiled{Entry: wire.Policy{Name: p.Namespace + "/" + p.Name}}
	var err error
	if p.Spec.Policy != "" {
		c.Entry.Statements, err = readText(p.Spec.Policy)
	} else {
		c.Entry.Statements, err = readStatements(p.Spec.Statements, authorities)
	}
	if err != nil {
		return Compiled{}, err
	}
	c.Policy, err = access.CompilePolicy(c.Entry)
	if err != nil {
		return Compiled{}, err
	}
	return c, nil
}

func readText(text string) ([]any, error) {
	parsed, err := policy.Parse([]byte(text))
	if err != nil {
		return nil, err
	}
	return decode(parsed.JSON())
}

func readStatements(written []v1alpha1.PolicyStatement, authorities Authorities) ([]any, error) {
	// The kind bounds all but the claims, and whoever may write policies must not make the operator read megabytes of
	// them for each snapshot.
	size := 0
	for i, s := range written {
		if s.Claims == nil {
			continue
		}
		if size += len(s.Claims.Raw); size > policy.MaxBytes {
			return nil, fmt.Errorf("statements[%d]: claims: with those before it, it has more than %d bytes: write fewer and shorter rules", i, policy.MaxBytes)
		}
	}
	text, err := json.Marshal(written)
	if err != nil {
		return nil, fmt.Errorf("statements: %w", err)
	}
	statements, err := decode(text)
	if err != nil {
		return nil, err
	}
	for i, s := range written {
		if s.CASecretRef == nil {
			continue
		}
		fields, _ := statements[i].(map[string]any)
		delete(fields, "caSecretRef")
		if fields["ca"], err = certificates(s.CASecretRef.Name, authorities); err != nil {
			return nil, fmt.Errorf("statements[%d]: caSecretRef: %w", i, err)
		}
	}
	return statements, nil
}

// decode reads statements as package policy has them.
func decode(text []byte) ([]any, error) {
	var statements []any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&statements); err != nil {
		return nil, fmt.Errorf("statements: %w", err)
	}
	return statements, nil
}

// certificates returns those of a Secret, and nothing else of it: a private key that stands beside them must not get into
// other namespaces.
func certificates(secret string, authorities Authorities) (string, error) {
	rest, found := authorities[secret]
	if !found {
		return "", fmt.Errorf("there is no Secret %s with an entry %s in the namespace of the policy: create it, or write the certificates into ca", secret, entryAuthorities)
	}
	if len(rest) > maxAuthorities {
		return "", fmt.Errorf("the entry %s of the Secret %s has more than %d bytes: leave out the certificates that are not needed", entryAuthorities, secret, maxAuthorities)
	}
	var out []byte
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
	if len(out) == 0 {
		return "", fmt.Errorf("the entry %s of the Secret %s holds no certificate: it must be PEM, from -----BEGIN CERTIFICATE----- on", entryAuthorities, secret)
	}
	return string(out), nil
}

// Scopes are all that the statements grant.
func (c Compiled) Scopes() []v1alpha1.Scope {
	var all []v1alpha1.Scope
	for i := range c.Policy.Statements {
		for _, s := range c.Policy.Statements[i].Scopes {
			if scope := v1alpha1.Scope(s); !slices.Contains(all, scope) {
				all = append(all, scope)
			}
		}
	}
	return all
}

// MeansTheCluster reports whether a statement is about the cluster's own service accounts.
func (c Compiled) MeansTheCluster() bool {
	return slices.ContainsFunc(c.Policy.Statements, func(s policy.Statement) bool { return s.Issuer == policy.Kubernetes })
}

package policy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/glob"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// statementFields are what a statement may have.
var statementFields = []string{"iss", "scopes", "claims", "charts", "maxTokenLifetime", "audiences", "jwks", "ca"}

func compileStatement(written any) (Statement, error) {
	var s Statement
	fields, ok := written.(map[string]any)
	if !ok {
		return s, fmt.Errorf("a statement is a map of iss, scopes and claims, and this is %s", kindOf(written))
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(statementFields, name) {
			return s, fmt.Errorf("%s: there is no such field in a statement; there are %s", quote(name), strings.Join(statementFields, ", "))
		}
	}
	for _, f := range []struct {
		name string
		read func(*Statement, any, bool) error
	}{
		{"iss", readIssuer}, {"scopes", readScopes}, {"claims", readClaims}, {"charts", readCharts},
		{"maxTokenLifetime", readLifetime}, {"audiences", readAudiences}, {"jwks", readJWKS}, {"ca", readCA},
	} {
		value, there := fields[f.name]
		if err := f.read(&s, value, there); err != nil {
			return s, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return s, nil
}

func readIssuer(s *Statement, value any, there bool) error {
	if !there {
		return fmt.Errorf("it is missing: write the issuer's address, as in the claim iss, or %s for the cluster's own service accounts", Kubernetes)
	}
	issuer, ok := value.(string)
	if !ok {
		return fmt.Errorf("it must be a string, and is %s", kindOf(value))
	}
	if s.Issuer = issuer; issuer == Kubernetes {
		return nil
	}
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.ContainsAny(issuer, "?#\\ ") || len(issuer) > maxIssuerBytes || u.String() != issuer {
		return fmt.Errorf("%s is not an issuer: write its address exactly as in the claim iss, such as https://token.actions.githubusercontent.com, without user, query or fragment; or %s", quote(issuer), Kubernetes)
	}
	return nil
}

func readScopes(s *Statement, value any, there bool) error {
	list, err := stringsOf(value, len(wire.Scopes()))
	if !there || err != nil || len(list) == 0 {
		return fmt.Errorf("write a list of what the statement grants, at least one of %s", allScopes())
	}
	for _, name := range list {
		scope := wire.Scope(name)
		if !slices.Contains(wire.Scopes(), scope) {
			return fmt.Errorf("unknown scope %s; there are %s", quote(name), allScopes())
		}
		if slices.Contains(s.Scopes, scope) {
			return fmt.Errorf("%s is there twice", scope)
		}
		s.Scopes = append(s.Scopes, scope)
	}
	return nil
}

func allScopes() string {
	names := make([]string, 0, len(wire.Scopes()))
	for _, s := range wire.Scopes() {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

func readClaims(s *Statement, value any, _ bool) error {
	claims, ok := value.(map[string]any)
	switch {
	case !ok || len(claims) == 0:
		return errors.New("write a map with at least one rule, such as {repository: acme/app}: without one, every token of the issuer would match")
	case len(claims) > MaxRules:
		return fmt.Errorf("there are %d rules; at most %d are allowed", len(claims), MaxRules)
	}
	for _, claim := range slices.Sorted(maps.Keys(claims)) {
		r, err := compileRule(claim, claims[claim])
		if err != nil {
			return fmt.Errorf("%s: %w", claim, err)
		}
		s.rules = append(s.rules, r)
	}
	return nil
}

func readCharts(s *Statement, value any, there bool) error {
	if !there {
		s.Charts = []string{"*"}
		return nil
	}
	list, err := stringsOf(value, MaxValues)
	if err == nil && len(list) == 0 {
		err = errors.New("the list is empty")
	}
	if err != nil {
		return fmt.Errorf(`%w: write a list of chart globs; "*", which is the default, is every chart`, err)
	}
	for _, pattern := range list {
		if err := glob.ValidateChart(pattern); err != nil {
			return err
		}
	}
	s.Charts = list
	return nil
}

func readLifetime(s *Statement, value any, there bool) error {
	s.MaxTokenLifetime = DefaultLifetime
	if s.Issuer == Kubernetes {
		s.MaxTokenLifetime = DefaultKubernetesLifetime
	}
	if !there {
		return nil
	}
	text, _ := value.(string)
	lifetime, err := time.ParseDuration(text)
	if err != nil || lifetime < time.Second || lifetime > MaxLifetime {
		return errors.New("write a duration between 1s and 24h, such as 300s or 1h")
	}
	s.MaxTokenLifetime = lifetime
	return nil
}

func readAudiences(s *Statement, value any, there bool) error {
	if !there {
		return nil
	}
	list, err := stringsOf(value, maxAudiences)
	if err != nil {
		return err
	}
	for _, a := range list {
		if a == "" || len(a) > maxIssuerBytes {
			return fmt.Errorf("an audience has 1 to %d bytes", maxIssuerBytes)
		}
	}
	s.Audiences = list
	return nil
}

func readJWKS(s *Statement, value any, there bool) error {
	var ok bool
	if s.JWKS, ok = value.(string); there && (!ok || s.JWKS == "") {
		return errors.New(`write the issuer's keys as one string of JSON, as in '{"keys": [...]}', or leave it out where the issuer publishes them`)
	}
	if s.JWKS != "" && s.Issuer == Kubernetes {
		return errors.New("leave it out: the keys of the cluster's issuer are read from the API server")
	}
	return nil
}

func readCA(s *Statement, value any, there bool) error {
	var ok bool
	s.CA, ok = value.(string)
	if there && (!ok || !x509.NewCertPool().AppendCertsFromPEM([]byte(s.CA))) {
		return errors.New("write certificates in PEM, from -----BEGIN CERTIFICATE----- on, or leave it out")
	}
	if s.CA != "" && (s.JWKS != "" || s.Issuer == Kubernetes) {
		return errors.New("leave it out: nobody is asked for keys that are here already")
	}
	return nil
}

// stringsOf reads a list of so many strings at most.
func stringsOf(value any, most int) ([]string, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("it must be a list of strings, and is %s", kindOf(value))
	}
	if len(list) > most {
		return nil, fmt.Errorf("it has %d members; at most %d are allowed", len(list), most)
	}
	texts := make([]string, 0, len(list))
	for _, element := range list {
		text, ok := element.(string)
		if !ok {
			return nil, fmt.Errorf("it must be a list of strings, and has %s in it", kindOf(element))
		}
		texts = append(texts, text)
	}
	return texts, nil
}

package policy

import (
	"errors"
	"fmt"
)

// ParseObject is Parse for text that is either a policy or an OIDCPolicy object, in which the policy is spec.statements,
// or a string in spec.policy. What refers to other objects is left out: nobody is dialled here.
func ParseObject(text []byte) (*Policy, error) {
	value, err := plain("policy", text)
	if err != nil {
		return nil, err
	}
	object, ok := value.(map[string]any)
	if !ok {
		return Compile(value)
	}
	if object["kind"] != "OIDCPolicy" {
		return nil, errors.New("this is a map: a policy is a list of statements, each of which begins with \"- iss: \", or a whole OIDCPolicy with kind and spec")
	}
	spec, _ := object["spec"].(map[string]any)
	if written, ok := spec["policy"].(string); ok {
		p, err := Parse([]byte(written))
		if err != nil {
			return nil, fmt.Errorf("spec.policy: %w", err)
		}
		return p, nil
	}
	statements, ok := spec["statements"].([]any)
	if !ok {
		return nil, errors.New("the OIDCPolicy has neither spec.statements, a list, nor spec.policy, a string")
	}
	for _, s := range statements {
		if fields, ok := s.(map[string]any); ok {
			delete(fields, "caSecretRef")
		}
	}
	return Compile(statements)
}

// ParseClaims reads the claims of a token, as a JSON object or as plain YAML.
func ParseClaims(text []byte) (map[string]any, error) {
	value, err := plain("claims", text)
	if err != nil {
		return nil, err
	}
	claims, ok := value.(map[string]any)
	if !ok {
		if _, ok := value.(string); ok {
			return nil, errors.New(`claims are a map, such as {"iss": "…", "sub": "…"}, and this is a string; of a token, they are the middle one of its three parts, decoded from base64url`)
		}
		return nil, fmt.Errorf("claims are a map, and this is %s", kindOf(value))
	}
	return claims, nil
}

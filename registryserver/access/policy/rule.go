package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/glob"
)

// rule is what a claim must satisfy. All matchers that are there must hold.
type rule struct {
	// claim is its name as it was written, path how to get to it from the outside in.
	claim string
	path  []string

	equals, notEquals *scalar
	in, notIn         []scalar
	matches           []string
}

func compileRule(claim string, written any) (rule, error) {
	r := rule{claim: claim}
	var err error
	if r.path, err = pathOf(claim); err != nil {
		return r, err
	}
	matchers, ok := written.(map[string]any)
	if !ok {
		if _, isList := written.([]any); isList {
			return r, errors.New("a list is no rule: write {in: [...]} for values, or {matches: [...]} for globs")
		}
		s, err := compileScalar(written)
		r.equals = &s
		return r, err
	}
	if len(matchers) == 0 {
		return r, errors.New("the rule is empty: write a value, or a map of equals, not_equals, in, not_in and matches")
	}
	for _, name := range slices.Sorted(maps.Keys(matchers)) {
		if err := r.add(name, matchers[name]); err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
	}
	return r, nil
}

func (r *rule) add(matcher string, written any) (err error) {
	switch matcher {
	case "equals":
		r.equals, err = one(written, "in")
	case "not_equals":
		r.notEquals, err = one(written, "not_in")
	case "in":
		r.in, err = several(written)
	case "not_in":
		r.notIn, err = several(written)
	case "matches":
		r.matches, err = globs(written)
	default:
		err = errors.New("there is no such matcher; there are equals, not_equals, in, not_in and matches")
	}
	return err
}

func one(written any, instead string) (*scalar, error) {
	if _, isList := written.([]any); isList {
		return nil, fmt.Errorf("it takes one value: write %s for a list", instead)
	}
	s, err := compileScalar(written)
	return &s, err
}

func several(written any) ([]scalar, error) {
	list, ok := written.([]any)
	switch {
	case !ok || len(list) == 0:
		return nil, errors.New("write a list of at least one value")
	case len(list) > MaxValues:
		return nil, fmt.Errorf("there are %d values; at most %d are allowed", len(list), MaxValues)
	}
	values := make([]scalar, 0, len(list))
	for _, element := range list {
		s, err := compileScalar(element)
		if err != nil {
			return nil, err
		}
		values = append(values, s)
	}
	return values, nil
}

func globs(written any) ([]string, error) {
	if text, ok := written.(string); ok {
		written = []any{text}
	}
	list, err := stringsOf(written, MaxValues)
	if err == nil && len(list) == 0 {
		err = errors.New("the list is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: write a glob, or a list of globs, in which * is any run of characters and ? any one", err)
	}
	for _, pattern := range list {
		if pattern == "" || len(pattern) > maxPatternBytes {
			return nil, fmt.Errorf("a glob has 1 to %d bytes", maxPatternBytes)
		}
	}
	return list, nil
}

// pathOf reads the name of a claim: the name itself, or, where it begins with a slash, a JSON pointer (RFC 6901) to a
// claim within others.
func pathOf(claim string) ([]string, error) {
	if claim == "" || len(claim) > maxNameBytes {
		return nil, fmt.Errorf("a claim's name has 1 to %d bytes", maxNameBytes)
	}
	if claim[0] != '/' {
		return []string{claim}, nil
	}
	path := strings.Split(claim[1:], "/")
	for i, name := range path {
		if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(name), "~") {
			return nil, errors.New(`in a JSON pointer a "~" is written ~0, and a "/" in a name ~1`)
		}
		path[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
	}
	return path, nil
}

// judge says why the claims do not satisfy the rule; empty when they do.
func (r *rule) judge(claims map[string]any) string {
	var value any = claims
	for _, name := range r.path {
		object, ok := value.(map[string]any)
		if !ok {
			return "the token has no such claim"
		}
		if value, ok = object[name]; !ok {
			return "the token has no such claim"
		}
	}
	s, ok := scalarOf(value)
	if !ok {
		return fmt.Sprintf("the claim is %s, which no matcher takes", kindOf(value))
	}
	switch {
	case r.equals != nil && s != *r.equals:
		return fmt.Sprintf("%s is not equal to %s", s, *r.equals)
	case r.notEquals != nil && s == *r.notEquals:
		return fmt.Sprintf("%s is what not_equals excludes", s)
	case r.in != nil && !slices.Contains(r.in, s):
		return fmt.Sprintf("%s is not in the list of %d", s, len(r.in))
	case r.notIn != nil && slices.Contains(r.notIn, s):
		return fmt.Sprintf("%s is what not_in excludes", s)
	case r.matches != nil && s.kind != text:
		return fmt.Sprintf("%s is not a string, and matches takes nothing else", s)
	case r.matches != nil && len(s.value) > maxMatchedBytes:
		return fmt.Sprintf("the claim has more than the %d bytes that matches takes", maxMatchedBytes)
	case r.matches != nil && !slices.ContainsFunc(r.matches, func(pattern string) bool { return glob.Match(pattern, s.value) }):
		return fmt.Sprintf("%s matches none of %s", s, quoteAll(r.matches))
	}
	return ""
}

// scalar is a value that compares with ==. "1" is not 1, and 1 is 1.0.
type scalar struct {
	kind  kind
	value string
}

type kind string

const (
	text    kind = "a string"
	number  kind = "a number"
	boolean kind = "a boolean"
	null    kind = "null"
)

func (s scalar) String() string {
	if s.kind == text {
		return quote(s.value)
	}
	return clip(s.value)
}

func compileScalar(written any) (scalar, error) {
	s, ok := scalarOf(written)
	if !ok {
		return s, fmt.Errorf("%s is no value to compare with: write a string, a number, true or false", kindOf(written))
	}
	if len(s.value) > maxValueBytes {
		return s, fmt.Errorf("the value has %d bytes; at most %d are allowed", len(s.value), maxValueBytes)
	}
	return s, nil
}

// scalarOf is false for lists, for objects, and for numbers of more digits than a computer compares.
func scalarOf(value any) (scalar, bool) {
	switch v := value.(type) {
	case string:
		return scalar{text, v}, true
	case bool:
		return scalar{boolean, fmt.Sprint(v)}, true
	case nil:
		return scalar{null, "null"}, true
	case json.Number:
		canonical, ok := canonicalNumber(string(v))
		return scalar{number, canonical}, ok
	}
	return scalar{}, false
}

// kindOf names what a value is, for messages.
func kindOf(value any) string {
	switch value.(type) {
	case map[string]any:
		return "a map"
	case []any:
		return "a list"
	case json.Number:
		return "a number"
	}
	s, _ := scalarOf(value)
	return string(s.kind)
}

// maxQuoted bounds what a message quotes.
const maxQuoted = 120

func clip(s string) string {
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "…"
	}
	return s
}

func quote(s string) string { return fmt.Sprintf("%q", clip(s)) }

func quoteAll(list []string) string {
	quoted := make([]string, 0, 4)
	for i, s := range list {
		if i == 3 && len(list) > 4 {
			quoted = append(quoted, fmt.Sprintf("%d more", len(list)-i))
			break
		}
		quoted = append(quoted, quote(s))
	}
	return strings.Join(quoted, ", ")
}

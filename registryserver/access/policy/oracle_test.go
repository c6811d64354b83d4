package policy_test

import (
	"encoding/json"
	"math/big"
	"regexp"
	"strings"
	"testing"
)

// naive judges rules, which the policy took, as slowly and simply as it can be written.
func naive(t *testing.T, rules string, claims map[string]any) bool {
	t.Helper()
	var all map[string]any
	decoder := json.NewDecoder(strings.NewReader(rules))
	decoder.UseNumber()
	if err := decoder.Decode(&all); err != nil {
		t.Fatal(err)
	}
	for claim, rule := range all {
		value, there := lookup(claims, claim)
		if !there || !naiveRule(rule, value) {
			return false
		}
	}
	return true
}

func lookup(claims map[string]any, claim string) (any, bool) {
	if !strings.HasPrefix(claim, "/") {
		value, there := claims[claim]
		return value, there
	}
	var value any = claims
	for _, name := range strings.Split(claim, "/")[1:] {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		if value, ok = object[strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")]; !ok {
			return nil, false
		}
	}
	return value, true
}

func naiveRule(rule, value any) bool {
	switch value.(type) {
	case map[string]any, []any:
		return false
	}
	if n, ok := value.(json.Number); ok && tooLong(n) {
		return false
	}
	matchers, ok := rule.(map[string]any)
	if !ok {
		return same(rule, value)
	}
	for matcher, operand := range matchers {
		holds := false
		switch matcher {
		case "equals":
			holds = same(operand, value)
		case "not_equals":
			holds = !same(operand, value)
		case "in":
			holds = among(operand.([]any), value)
		case "not_in":
			holds = !among(operand.([]any), value)
		case "matches":
			list, ok := operand.([]any)
			if !ok {
				list = []any{operand}
			}
			text, isText := value.(string)
			for _, pattern := range list {
				quoted := regexp.QuoteMeta(pattern.(string))
				quoted = strings.ReplaceAll(strings.ReplaceAll(quoted, `\*`, `.*`), `\?`, `.`)
				holds = holds || isText && len(text) <= 4096 && regexp.MustCompile(`(?s)\A`+quoted+`\z`).MatchString(text)
			}
		}
		if !holds {
			return false
		}
	}
	return true
}

func among(list []any, value any) bool {
	for _, element := range list {
		if same(element, value) {
			return true
		}
	}
	return false
}

func same(a, b any) bool {
	x, xIsNumber := a.(json.Number)
	y, yIsNumber := b.(json.Number)
	if xIsNumber != yIsNumber {
		return false
	}
	if !xIsNumber {
		return a == b
	}
	if large(x) || large(y) {
		return x == y // Only roughly: no such numbers are in the corpus.
	}
	p, _ := new(big.Rat).SetString(string(x))
	q, _ := new(big.Rat).SetString(string(y))
	return p.Cmp(q) == 0
}

func exponent(n json.Number) string {
	_, e, _ := strings.Cut(strings.ToLower(string(n)), "e")
	return e
}

func tooLong(n json.Number) bool { return len(exponent(n)) > 9 }

func large(n json.Number) bool { return len(strings.Trim(exponent(n), "+-0")) > 4 }

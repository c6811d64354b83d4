package glob_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/chartroom-dev/chartroom/registryserver/glob"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "nginx", true},
		{"*", "team/nginx", true},
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"nginx", "nginx", true},
		{"nginx", "nginx2", false},
		{"nginx", "my-nginx", false},
		{"Nginx", "nginx", false},
		{"team/*", "team/a/b", true},
		{"team/*", "team", false},
		{"team/*", "team2/a", false},
		{"team*", "team2/a", true},
		{"*-dev", "a-dev", true},
		{"*-dev", "a-dev-dev", true},
		{"*-dev", "a-dev2", false},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"a?c", "a/c", true},
		{"?", "é", true},
		{"*??", "é", false},
		{"*??", "€", false},
		{"*??ab", "€ab", false},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-c-b", false},
		{"**", "x", true},
		{"*?*", "", false},
		{"a.c", "abc", false},
		{"[a]", "a", false},
	} {
		if got := glob.Match(c.pattern, c.name); got != c.want {
			t.Errorf("Match(%q, %q) is %v", c.pattern, c.name, got)
		}
	}
}

// A search that goes back to every star would not end before the universe does.
func TestMatchIsBounded(t *testing.T) {
	pattern, name := strings.Repeat("*a", 2000)+"b", strings.Repeat("a", 4000)
	if glob.Match(pattern, name) {
		t.Error("there is no b")
	}
	if !glob.Match(pattern, name+"b") {
		t.Error("there is a b")
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("*??*a", "ééa")
	f.Add("**a*", "ba")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(name) || len(pattern)+len(name) > 500 {
			return
		}
		quoted := regexp.QuoteMeta(pattern)
		quoted = strings.ReplaceAll(strings.ReplaceAll(quoted, `\*`, `.*`), `\?`, `.`)
		want := regexp.MustCompile(`(?s)\A` + quoted + `\z`).MatchString(name)
		if got := glob.Match(pattern, name); got != want {
			t.Errorf("Match(%q, %q) is %v", pattern, name, got)
		}
	})
}

package glob_test

import (
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/glob"
)

func TestValidateChart(t *testing.T) {
	for _, good := range []string{"*", "a", "team/*", "a_b.c-d__0?", strings.Repeat("a", 256)} {
		if err := glob.ValidateChart(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("a", 257), "A*", "a b", "a,b", "[a-z]", "{a,b}", "é", "a\n", "a:1", `a\b`, "\xff"} {
		if err := glob.ValidateChart(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

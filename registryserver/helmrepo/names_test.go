package helmrepo

import (
	"strings"
	"testing"
)

func FuzzCandidates(f *testing.F) {
	for _, seed := range []string{"web-1.0.0", "team/web-1.0.0+b.1", "a-1.0.0-1.0.0", "-", "a-", "a/-1", strings.Repeat("-1", 300)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		all := candidates(path)
		if len(all) > maxCandidates {
			t.Errorf("%d candidates", len(all))
		}
		for _, c := range all {
			if c.chart == "" || c.tag == "" || strings.ReplaceAll(c.chart+"-"+c.tag, "_", "+") != strings.ReplaceAll(path, "_", "+") {
				t.Errorf("%q is %+v", path, c)
			}
		}
	})
}

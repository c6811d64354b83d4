package helmrepo

import (
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/inventory"
)

func FuzzParseFile(f *testing.F) {
	for _, seed := range []string{"web/web-1.0.0.tgz", "team/web/web-1.0.0+b.1.tgz.prov", "a-1.0.0/a-1.0.0-1.0.0.tgz", "-", "a/-1.tgz", "/.-1.tgz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, file string) {
		chart, tag, isProvenance, ok := parseFile(file)
		if !ok {
			return
		}
		got := inventory.ArchivePath(chart, tag)
		if isProvenance {
			got += ".prov"
		}
		// A "+" of a version is "_" in its tag.
		if want := "charts/" + file; strings.ReplaceAll(got, "_", "+") != strings.ReplaceAll(want, "_", "+") {
			t.Errorf("%q is %q %q, which is at %q", file, chart, tag, got)
		}
	})
}

package inventory

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestChanges(t *testing.T) {
	chart := func(name, latest, digest string, versions int64) wire.InventoryChart {
		return wire.InventoryChart{Name: name, LatestVersion: latest, Digest: digest, Versions: versions}
	}
	list := func(truncated bool, charts ...wire.InventoryChart) wire.Inventory {
		i := wire.Inventory{Charts: charts, Truncated: truncated}
		for _, c := range charts {
			i.Totals.Charts++
			i.Totals.Versions += c.Versions
		}
		return i
	}
	more := func(i wire.Inventory, charts, versions int64) wire.Inventory {
		i.Totals.Charts += charts
		i.Totals.Versions += versions
		return i
	}
	// at is a list of which everything was pushed at the latest at a time.
	at := func(seconds int64, i wire.Inventory) wire.Inventory {
		last := time.Unix(seconds, 0)
		i.Totals.LastPushed = &last
		i.Charts = slices.Clone(i.Charts)
		for n := range i.Charts {
			i.Charts[n].LastPushed = &last
		}
		return i
	}
	unlisted := func(seconds int64, i wire.Inventory) wire.Inventory {
		last := time.Unix(seconds, 0)
		i.Totals.LastPushed = &last
		return i
	}
	a, b, c := chart("a", "1.0.0", "x", 1), chart("b", "1.0.0", "x", 1), chart("c", "1.0.0", "x", 1)
	for name, test := range map[string]struct {
		before, after wire.Inventory
		want          []string
	}{
		"nothing":            {list(false, a, b), list(false, a, b), nil},
		"a new chart":        {list(false, a), list(false, a, b), []string{"the latest version of b is now 1.0.0"}},
		"a new version":      {list(false, a), list(false, chart("a", "1.1.0", "y", 2)), []string{"the latest version of a is now 1.1.0"}},
		"one that is older":  {list(false, a), list(false, chart("a", "1.0.0", "x", 2)), []string{"the chart a has 2 versions, +1"}},
		"one is deleted":     {list(false, chart("a", "1.0.0", "x", 3)), list(false, chart("a", "1.0.0", "x", 2)), []string{"the chart a has 2 versions, -1"}},
		"the latest is":      {list(false, chart("a", "1.1.0", "y", 2)), list(false, a), []string{"the latest version of a is now 1.0.0"}},
		"one is replaced":    {list(false, a), list(false, chart("a", "1.0.0", "y", 1)), []string{"version 1.0.0 of a was replaced"}},
		"an older one is":    {at(1, list(false, a)), at(2, list(false, a)), []string{"a version of a was replaced"}},
		"one that no list":   {at(1, list(true, a)), unlisted(2, at(1, list(true, a))), []string{"a version of a chart that is not listed was replaced"}},
		"the youngest goes":  {at(2, list(false, chart("a", "1.0.0", "x", 2))), at(1, list(false, a)), []string{"the chart a has 1 versions, -1"}},
		"a chart is gone":    {list(false, a, b), list(false, b), []string{"the chart a is gone"}},
		"the last is gone":   {list(false, a), list(false), []string{"the chart a is gone"}},
		"pushed off a list":  {list(true, b, c), more(list(true, a, b), 1, 1), []string{"the latest version of a is now 1.0.0"}},
		"moved into a list":  {more(list(true, a, b), 1, 1), list(true, b, c), []string{"the chart a is gone"}},
		"beyond what a list": {list(true, a), more(list(true, a), 1, 2), []string{"the registry has 3 versions of 2 charts, +2 and +1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, changes(test.before, test.after)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzTidy(f *testing.F) {
	f.Add("app", "1.0.0", "1.0", "sha256:x")
	f.Add("", "\x1b[2J", strings.Repeat("ä", 200), "\xff")
	f.Fuzz(func(t *testing.T, name, version, app, digest string) {
		given := wire.InventoryChart{Name: name, LatestVersion: version, AppVersion: app, Digest: digest}
		got := tidy(wire.Inventory{Charts: []wire.InventoryChart{given, given, {Name: "a"}}})
		checkTidy(t, got)
		if again := tidy(got); !cmp.Equal(got, again) {
			t.Errorf("tidy of what is tidy: %s", cmp.Diff(got, again))
		}
	})
}

func checkTidy(t *testing.T, got wire.Inventory) {
	t.Helper()
	if len(got.Charts) > wire.MaxInventoryCharts {
		t.Errorf("%d charts", len(got.Charts))
	}
	for n, c := range got.Charts {
		if n > 0 && c.Name <= got.Charts[n-1].Name {
			t.Errorf("%q follows %q", c.Name, got.Charts[n-1].Name)
		}
		for text, most := range map[string]int{c.Name: maxName, c.LatestVersion: maxVersion, c.AppVersion: maxVersion, c.Digest: maxDigest} {
			if len(text) > most || !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\n\r\x00\u202e") {
				t.Errorf("%q is left", text)
			}
		}
		if c.Name == "" {
			t.Error("a chart has no name")
		}
	}
}

func TestWhatAHostilePodSaysIsBounded(t *testing.T) {
	var said wire.Inventory
	for n := range 300 {
		said.Charts = append(said.Charts, wire.InventoryChart{Name: fmt.Sprintf("chart-%03d", 299-n/2), AppVersion: strings.Repeat("x", 1000)})
	}
	said.Charts = append(said.Charts, wire.InventoryChart{Name: "a\nb"}, wire.InventoryChart{Name: strings.Repeat("a", 256)}, wire.InventoryChart{})
	before := slices.Clone(said.Charts)
	got := tidy(said)
	checkTidy(t, got)
	if len(got.Charts) != 100 || got.Charts[0].Name != "chart-150" || !got.Truncated {
		t.Errorf("%d charts from %s on, truncated %t", len(got.Charts), got.Charts[0].Name, got.Truncated)
	}
	if !cmp.Equal(before, said.Charts) {
		t.Error("what was said was changed")
	}
}

package linediff_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/web/linediff"
	"github.com/google/go-cmp/cmp"
)

func numbered(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("line%d: %d\n", i, i))
	}
	return all
}

func TestCompare(t *testing.T) {
	same, removed, added := linediff.Same, linediff.Removed, linediff.Added
	ten := strings.Join(numbered(10), "")
	for name, c := range map[string]struct {
		before, after string
		want          [][]linediff.Line
	}{
		"nothing":     {"", "", nil},
		"no change":   {ten, ten, nil},
		"all is new":  {"", "a\nb\n", [][]linediff.Line{{{Op: added, Text: "a", After: 1}, {Op: added, Text: "b", After: 2}}}},
		"all is gone": {"a\n", "", [][]linediff.Line{{{Op: removed, Text: "a", Before: 1}}}},
		"a line in the middle": {ten, strings.Replace(ten, "line5: 5", "line5: x", 1), [][]linediff.Line{{
			{same, "line2: 2", 3, 3}, {same, "line3: 3", 4, 4}, {same, "line4: 4", 5, 5},
			{removed, "line5: 5", 6, 0}, {added, "line5: x", 0, 6},
			{same, "line6: 6", 7, 7}, {same, "line7: 7", 8, 8}, {same, "line8: 8", 9, 9},
		}}},
		"no end of line": {"a", "b", [][]linediff.Line{{{removed, "a", 1, 0}, {added, "b", 0, 1}}}},
	} {
		got, err := linediff.Compare(c.before, c.after)
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", name, err, d)
		}
	}
}

// What a new major version of a chart changes is much, and is still told line by line.
func TestManyChanges(t *testing.T) {
	before := numbered(2000)
	after := append([]string{}, before...)
	for i := 0; i < len(after); i += 8 {
		after[i] = strings.ToUpper(after[i])
	}
	places, err := linediff.Compare(strings.Join(before, ""), strings.Join(after, ""))
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for _, p := range places {
		for _, l := range p {
			if l.Op == linediff.Removed {
				changed++
			}
		}
	}
	if changed > 500 {
		t.Errorf("of 250 lines that changed, %d are shown", changed)
	}
}

func TestTooLarge(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 1<<20+1), strings.Repeat("\n", 30_001)} {
		if _, err := linediff.Compare(text, ""); !errors.Is(err, linediff.ErrTooLarge) {
			t.Errorf("error %v", err)
		}
		if _, err := linediff.Compare("", text); !errors.Is(err, linediff.ErrTooLarge) {
			t.Errorf("error %v", err)
		}
	}
	// As different as they can be, at the bounds.
	var before, after strings.Builder
	for i := range 30_000 {
		fmt.Fprintln(&before, i)
		fmt.Fprintln(&after, -i-1)
	}
	if _, err := linediff.Compare(before.String(), after.String()); err != nil {
		t.Error(err)
	}
}

// What is shown, applied to the one text, makes the other.
func FuzzCompare(f *testing.F) {
	f.Add("a\nb\nc\n", "a\nx\nc")
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.Contains(before+after, "\r") {
			return
		}
		places, err := linediff.Compare(before, after)
		if err != nil {
			return
		}
		lines := linesOf(before)
		var made []string
		at := 0
		for _, p := range places {
			for _, l := range p {
				if l.Op == linediff.Added {
					made = append(made, l.Text)
					continue
				}
				for ; at < l.Before-1; at++ {
					made = append(made, lines[at])
				}
				if lines[at] != l.Text {
					t.Fatalf("line %d is %q, and shown as %q", l.Before, lines[at], l.Text)
				}
				if at++; l.Op == linediff.Same {
					made = append(made, l.Text)
				}
			}
		}
		made = append(made, lines[at:]...)
		if len(places) > 0 && !slices.Equal(made, linesOf(after)) {
			t.Errorf("%q to %q makes %q", before, after, made)
		}
		if len(places) == 0 && !slices.Equal(lines, linesOf(after)) {
			t.Errorf("%q is said to be %q", before, after)
		}
	})
}

func linesOf(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		all = append(all, strings.TrimSuffix(line, "\n"))
	}
	return all
}

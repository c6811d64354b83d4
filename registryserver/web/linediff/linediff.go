// Package linediff compares two texts line by line, for people to read what changed.
package linediff

import (
	"errors"
	"slices"
	"strings"
)

// MaxBytes and MaxLines bound each of the texts.
const (
	MaxBytes = 1 << 20
	MaxLines = 30_000
)

const (
	// contextLines stand around what changed.
	contextLines = 3
	// maxDepth bounds how often what stands between two lines that are the same is looked at again, by itself.
	maxDepth = 40
)

// ErrTooLarge is that of texts over the bounds.
var ErrTooLarge = errors.New("the texts are too large to be compared")

// Op is what became of a line.
type Op string

// What became of a line.
const (
	Same    Op = "same"
	Removed Op = "removed"
	Added   Op = "added"
)

// Line is one line, without its end.
type Line struct {
	Op   Op
	Text string
	// Before and After are its numbers in the two texts, from 1; 0 where it is not there.
	Before, After int
}

// Compare returns what changed from before to after: for each place the lines that did, and a few around them. Nothing
// changed where there is no place. Error: ErrTooLarge.
//
// Lines that are in both texts once, and in the same order, are taken for the same (Bram Cohen's patience diff), as well as
// those at the beginning and end of what is between them; and so on, there. That follows the structure of texts such as
// values.yaml better than the shortest list of changes does, and takes a time that no text can make long.
func Compare(before, after string) ([][]Line, error) {
	for _, text := range []string{before, after} {
		if len(text) > MaxBytes || strings.Count(text, "\n") > MaxLines {
			return nil, ErrTooLarge
		}
	}
	c := comparison{before: split(before), after: split(after)}
	c.same = make([]int, len(c.before))
	for i := range c.same {
		c.same[i] = -1
	}
	c.compare(span{0, len(c.before)}, span{0, len(c.after)}, 0)
	return places(c.lines()), nil
}

func split(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		all = append(all, strings.TrimRight(line, "\r\n"))
	}
	return all
}

type comparison struct {
	before, after []string
	// same is, for each line before, which one after is the same; -1 for none.
	same []int
}

// span is from one line up to, and without, another.
type span struct{ from, to int }

func (c *comparison) compare(b, a span, depth int) {
	for b.from < b.to && a.from < a.to && c.before[b.from] == c.after[a.from] {
		c.same[b.from] = a.from
		b.from++
		a.from++
	}
	for b.from < b.to && a.from < a.to && c.before[b.to-1] == c.after[a.to-1] {
		b.to--
		a.to--
		c.same[b.to] = a.to
	}
	if b.from == b.to || a.from == a.to || depth == maxDepth {
		return
	}
	anchors := c.anchors(b, a)
	for _, p := range anchors {
		c.same[p.before] = p.after
		c.compare(span{b.from, p.before}, span{a.from, p.after}, depth+1)
		b.from, a.from = p.before+1, p.after+1
	}
	if len(anchors) > 0 {
		c.compare(b, a, depth+1)
	}
}

// pair is a line that is the same before and after.
type pair struct{ before, after int }

// anchors are the most lines that are once in each of the spans and in the same order in both.
func (c *comparison) anchors(b, a span) []pair {
	type count struct{ before, after, at int }
	counts := map[string]*count{}
	for i := a.from; i < a.to; i++ {
		n := counts[c.after[i]]
		if n == nil {
			n = new(count)
			counts[c.after[i]] = n
		}
		n.after++
		n.at = i
	}
	for i := b.from; i < b.to; i++ {
		if n := counts[c.before[i]]; n != nil {
			n.before++
		}
	}
	var unique []pair
	for i := b.from; i < b.to; i++ {
		if n := counts[c.before[i]]; n != nil && n.before == 1 && n.after == 1 {
			unique = append(unique, pair{i, n.at})
		}
	}
	return longestRise(unique)
}

// longestRise picks the most pairs whose lines rise after as they do before.
func longestRise(pairs []pair) []pair {
	// ends are, for each length, the index of the pair with which a rise of it ends lowest; previous lead back.
	var ends []int
	previous := make([]int, len(pairs))
	for i, p := range pairs {
		n, _ := slices.BinarySearchFunc(ends, p.after, func(end, after int) int { return pairs[end].after - after })
		previous[i] = -1
		if n > 0 {
			previous[i] = ends[n-1]
		}
		if n == len(ends) {
			ends = append(ends, i)
		} else {
			ends[n] = i
		}
	}
	if len(ends) == 0 {
		return nil
	}
	var rise []pair
	for i := ends[len(ends)-1]; i >= 0; i = previous[i] {
		rise = append(rise, pairs[i])
	}
	slices.Reverse(rise)
	return rise
}

// lines are all of both texts.
func (c *comparison) lines() []Line {
	var all []Line
	a := 0
	added := func(to int) {
		for ; a < to; a++ {
			all = append(all, Line{Op: Added, Text: c.after[a], After: a + 1})
		}
	}
	for b, same := range c.same {
		if same < 0 {
			all = append(all, Line{Op: Removed, Text: c.before[b], Before: b + 1})
			continue
		}
		added(same)
		all = append(all, Line{Op: Same, Text: c.before[b], Before: b + 1, After: a + 1})
		a++
	}
	added(len(c.after))
	return all
}

// places leaves out what is the same and far from what changed.
func places(all []Line) [][]Line {
	var found [][]Line
	from, to := 0, 0 // Of the place that is being gathered.
	for i, l := range all {
		if l.Op == Same {
			continue
		}
		if begin := max(0, i-contextLines); begin > to {
			if to > 0 {
				found = append(found, all[from:to])
			}
			from = begin
		}
		to = min(len(all), i+1+contextLines)
	}
	if to > 0 {
		found = append(found, all[from:to])
	}
	return found
}

package retention

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/chartroom-dev/chartroom/registryserver/glob"
)

// Version is a tag of a chart.
type Version struct {
	Tag string
	// Digest that the tag stands for.
	Digest string
	// Pushed is when the tag was pushed. Zero, where it is not known, is never long ago.
	Pushed time.Time
	// Pulled is when what the tag stands for was last pulled, at the latest. Zero where it never was.
	Pulled time.Time
	// Exempt tags are not versions: those of signatures and the like. They go only with what they belong to.
	Exempt bool
}

// Decision is what becomes of one version.
type Decision struct {
	Version
	// Delete is true for what may go.
	Delete bool
	// Rule is the index of the rule that decided; -1 where none did.
	Rule int
	// With is the digest of a chart that goes, where an exempt tag goes because it belongs to it.
	With string
	// Reason says why, for people.
	Reason string
}

// Policy is what was compiled, with its defaults filled in.
func (r *Rules) Policy() Policy { return r.policy }

// Covers reports whether a rule can select anything of the chart.
func (r *Rules) Covers(chart string) bool {
	return slices.ContainsFunc(r.rules, func(rule rule) bool { return matches(rule.Charts, chart) })
}

// candidate is a version that is being decided on.
type candidate struct {
	Decision
	// version is nil where the tag is none.
	version *semver.Version
}

// Decide says what becomes of all versions of one chart, in the order of their tags. It does not depend on the order in
// which they come.
func (r *Rules) Decide(chart string, versions []Version, now time.Time) []Decision {
	all := make([]candidate, len(versions))
	groups := make([][]*candidate, len(r.rules))
	for i, v := range versions {
		c := &all[i]
		c.Version, c.Rule, c.version = v, -1, parse(v.Tag)
		if v.Exempt {
			c.Reason = "it is not a version"
			continue
		}
		if c.Rule = r.selecting(chart, c); c.Rule < 0 {
			c.Reason = "no rule selects it"
			continue
		}
		groups[c.Rule] = append(groups[c.Rule], c)
	}
	for i, group := range groups {
		r.rules[i].decide(group, now, time.Duration(r.policy.KeepPulledWithin))
	}
	out := make([]Decision, len(all))
	for i, c := range all {
		out[i] = c.Decision
	}
	slices.SortFunc(out, func(a, b Decision) int { return cmp.Compare(a.Tag, b.Tag) })
	follow(out)
	return out
}

// selecting is the index of the first rule that selects a tag; -1 where none does.
func (r *Rules) selecting(chart string, c *candidate) int {
	return slices.IndexFunc(r.rules, func(rule rule) bool {
		return matches(rule.Charts, chart) && matches(rule.Tags, c.Tag) &&
			(rule.constraint == nil || c.version != nil && rule.constraint.Check(c.version))
	})
}

func matches(globs []string, name string) bool {
	return len(globs) == 0 || slices.ContainsFunc(globs, func(g string) bool { return glob.Match(g, name) })
}

// parse reads the version that a tag is: a semantic version (https://semver.org), with or without a leading "v".
func parse(tag string) *semver.Version {
	v, err := semver.StrictNewVersion(strings.ReplaceAll(strings.TrimPrefix(tag, "v"), "_", "+"))
	if err != nil {
		return nil
	}
	return v
}

// decide judges what the rule has selected of one chart.
func (r rule) decide(group []*candidate, now time.Time, keepPulled time.Duration) {
	slices.SortFunc(group, newestFirst)
	ranks := map[bool]int{}
	for _, c := range group {
		isVersion := c.version != nil
		rank := ranks[isVersion]
		ranks[isVersion]++
		r.judge(c, rank, now, keepPulled)
	}
}

// judge decides on a tag that is newer than all but rank others.
func (r rule) judge(c *candidate, rank int, now time.Time, keepPulled time.Duration) {
	age := now.Sub(c.Pushed)
	switch {
	case rank < r.KeepNewest:
		c.Reason = "it is " + r.newest()
	case r.OlderThan > 0 && (c.Pushed.IsZero() || age <= time.Duration(r.OlderThan)):
		c.Reason = fmt.Sprintf("it was pushed less than %s ago", short(r.OlderThan))
	case keepPulled > 0 && !c.Pulled.IsZero() && now.Sub(c.Pulled) < keepPulled:
		c.Reason = fmt.Sprintf("it was pulled less than %s ago, or may have been", short(Duration(keepPulled)))
	default:
		c.Delete = true
		var why []string
		if r.KeepNewest > 0 {
			why = append(why, "it is not "+r.newest())
		}
		if r.OlderThan > 0 {
			why = append(why, fmt.Sprintf("it was pushed more than %s ago", short(r.OlderThan)))
		}
		c.Reason = strings.Join(why, " and ")
	}
}

func (r rule) newest() string {
	if r.KeepNewest == 1 {
		return "the newest"
	}
	return fmt.Sprintf("one of the %d newest", r.KeepNewest)
}

// newestFirst ranks versions, by precedence, before other tags, by when they were pushed. It leaves nothing undecided.
func newestFirst(a, b *candidate) int {
	switch {
	case a.version == nil && b.version != nil:
		return 1
	case a.version != nil && b.version == nil:
		return -1
	case a.version != nil:
		if c := b.version.Compare(a.version); c != 0 {
			return c
		}
	}
	return cmp.Or(b.Pushed.Compare(a.Pushed), cmp.Compare(b.Tag, a.Tag))
}

// follow lets the signatures of a chart go with the last of its tags.
func follow(all []Decision) {
	stays, goes := map[string]bool{}, map[string]*Decision{}
	for i, d := range all {
		switch {
		case d.Exempt:
		case d.Delete:
			goes[d.Digest] = &all[i]
		default:
			stays[d.Digest] = true
		}
	}
	for i := range all {
		d := &all[i]
		if !d.Exempt {
			continue
		}
		subject := subjectOf(d.Tag)
		if last := goes[subject]; last != nil && !stays[subject] {
			d.Delete, d.Rule, d.With = true, last.Rule, subject
			d.Reason = "it belongs to " + last.Tag + ", which goes"
		}
	}
}

// subjectOf is the digest that a tag such as "sha256-<hex>.sig" is about; empty for tags of another form.
func subjectOf(tag string) string {
	for algorithm, length := range map[string]int{"sha256-": 64, "sha512-": 128} {
		encoded, ok := strings.CutPrefix(tag, algorithm)
		if ok && (len(encoded) == length || len(encoded) > length && strings.ContainsRune("._-", rune(encoded[length]))) {
			return strings.TrimSuffix(algorithm, "-") + ":" + encoded[:length]
		}
	}
	return ""
}

// short writes a duration without parts that are zero.
func short(d Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Package retention decides which versions of a chart are kept and which may go, and why. It is pure: it reads and
// deletes nothing.
package retention

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
)

// Bounds of a policy, which is tried on every version of every chart.
const (
	maxRules           = 32
	maxGlobs           = 32
	maxChartGlobBytes  = 200
	maxTagGlobBytes    = 128
	maxConstraintBytes = 256
	maxKeepNewest      = 1_000_000
)

// DefaultDelay is how long a plan is shown where a policy does not say.
const DefaultDelay = time.Hour

// Policy says which versions of a registry's charts may go. The zero value lets none go.
type Policy struct {
	// DryRun plans, and deletes nothing.
	DryRun bool `json:"dryRun,omitempty" yaml:"dryRun"`
	// Delay is how long a plan by exactly these rules is shown before the first deletion. 0 means DefaultDelay.
	Delay Duration `json:"delay,omitempty" yaml:"delay"`
	// KeepPulledWithin keeps, whatever the rules say, what was pulled within this time. 0: nothing is kept for being pulled.
	KeepPulledWithin Duration `json:"keepPulledWithin,omitempty" yaml:"keepPulledWithin"`
	// Rules are tried in their order: the first that selects a tag decides on it. What none selects stays.
	Rules []Rule `json:"rules,omitempty" yaml:"rules"`
}

// Rule selects tags of charts and says which of them stay. A selected tag goes when it is not among the KeepNewest newest
// and is older than OlderThan, where these are given; one of them must be.
type Rule struct {
	// Charts are globs over the chart's path below the registry; "*" matches any run of characters, "/" included. None
	// selects every chart.
	Charts []string `json:"charts,omitempty" yaml:"charts"`
	// Tags are globs over tags. None selects every tag.
	Tags []string `json:"tags,omitempty" yaml:"tags"`
	// Versions is a constraint such as "<1.0.0-0" on the version that a tag is; "+" of a version is "_" in its tag. As
	// with helm, it selects pre-releases only where it names one. Empty selects also what is no version.
	Versions string `json:"versions,omitempty" yaml:"versions"`
	// KeepNewest is how many of a chart's selected tags stay. Versions are ranked by precedence, and other tags, for
	// themselves, by when they were pushed. 0: none stays for being new.
	KeepNewest int `json:"keepNewest,omitempty" yaml:"keepNewest"`
	// OlderThan is how long ago a tag must have been pushed to go. 0: its age does not matter.
	OlderThan Duration `json:"olderThan,omitempty" yaml:"olderThan"`
}

// IsZero reports whether there is no policy at all.
func (p Policy) IsZero() bool {
	return !p.DryRun && p.Delay == 0 && p.KeepPulledWithin == 0 && len(p.Rules) == 0
}

// Hash names what the policy lets go: two policies that differ in DryRun and Delay alone have the same.
func (p Policy) Hash() string {
	p.DryRun, p.Delay = false, 0
	content, err := json.Marshal(p)
	if err != nil {
		panic(err) // Strings and numbers always encode.
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Duration is a time.Duration that is written as in "30m" or "720h".
type Duration time.Duration

// UnmarshalText reads a duration in the form of time.ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 30m or 720h", text)
	}
	*d = Duration(parsed)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is written in hours, minutes and seconds.
func (d Duration) String() string { return time.Duration(d).String() }

// Rules are a policy that can be used.
type Rules struct {
	policy Policy
	rules  []rule
}

// rule is a Rule with its constraint read; nil where there is none.
type rule struct {
	Rule
	constraint *semver.Constraints
}

// Compile judges a policy. Each line of an error begins with the field that is wrong, for example "rules[0].versions".
func Compile(p Policy) (*Rules, error) {
	var problems []error
	refuse := func(field, format string, args ...any) {
		problems = append(problems, fmt.Errorf(field+": "+format, args...))
	}
	if p.Delay < 0 {
		refuse("delay", "is negative")
	}
	if p.KeepPulledWithin < 0 {
		refuse("keepPulledWithin", "is negative")
	}
	switch {
	case len(p.Rules) == 0 && !p.IsZero():
		refuse("rules", "is empty, so that nothing would ever go: write a rule, for example {keepNewest: 10}")
	case len(p.Rules) > maxRules:
		refuse("rules", "has %d rules, more than the %d allowed", len(p.Rules), maxRules)
	}
	if p.Delay == 0 {
		p.Delay = Duration(DefaultDelay)
	}
	out := &Rules{policy: p}
	for i, r := range p.Rules[:min(len(p.Rules), maxRules)] {
		within := func(field, format string, args ...any) {
			refuse(fmt.Sprintf("rules[%d]", i)+field, format, args...)
		}
		out.rules = append(out.rules, r.compile(within))
	}
	if problems != nil {
		return nil, errors.Join(problems...)
	}
	return out, nil
}

func (r Rule) compile(refuse func(field, format string, args ...any)) rule {
	checkGlobs(r.Charts, ".charts", maxChartGlobBytes, "abcdefghijklmnopqrstuvwxyz0123456789._-/*?", refuse)
	checkGlobs(r.Tags, ".tags", maxTagGlobBytes, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-*?", refuse)
	switch {
	case r.KeepNewest == 0 && r.OlderThan == 0:
		refuse("", "has neither keepNewest nor olderThan, so that everything it selects would go: write one of them, or both")
	case r.KeepNewest < 0 || r.KeepNewest > maxKeepNewest:
		refuse(".keepNewest", "is %d: write a number from 1 to %d", r.KeepNewest, maxKeepNewest)
	case r.OlderThan < 0:
		refuse(".olderThan", "is negative")
	}
	out := rule{Rule: r}
	if r.Versions == "" {
		return out
	}
	if len(r.Versions) > maxConstraintBytes {
		refuse(".versions", "has %d bytes, more than the %d allowed", len(r.Versions), maxConstraintBytes)
		return out
	}
	var err error
	if out.constraint, err = semver.NewConstraint(r.Versions); err != nil {
		refuse(".versions", "%q is not a constraint on versions (%w): write for example \"<1.0.0\", or \">=1.0.0-0 <2.0.0-0\" with pre-releases", r.Versions, err)
	}
	return out
}

func checkGlobs(globs []string, field string, maxBytes int, alphabet string, refuse func(field, format string, args ...any)) {
	if len(globs) > maxGlobs {
		refuse(field, "has %d globs, more than the %d allowed", len(globs), maxGlobs)
	}
	for _, g := range globs {
		switch {
		case g == "" || len(g) > maxBytes:
			refuse(field, "a glob has 1 to %d characters, %.40q has %d; \"*\" is all", maxBytes, g, len(g))
		case strings.Trim(g, alphabet) != "":
			// Trim leaves what is between two characters that are not of the alphabet, or one.
			refuse(field, "the glob %q has a character that none of them can have (\"+\" in a version is \"_\" in its tag)", g)
		}
	}
}

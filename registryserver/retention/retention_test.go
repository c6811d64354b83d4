package retention_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"
	"go.yaml.in/yaml/v3"

	"github.com/chartroom-dev/chartroom/registryserver/retention"
)

const (
	hour = retention.Duration(time.Hour)
	day  = 24 * hour
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// ago is a version that was pushed, and where a second number is given pulled, so many days ago.
func ago(tag string, days ...int) retention.Version {
	v := retention.Version{Tag: tag, Digest: "sha256:" + tag}
	if len(days) > 0 {
		v.Pushed = now.AddDate(0, 0, -days[0])
	}
	if len(days) > 1 {
		v.Pulled = now.AddDate(0, 0, -days[1])
	}
	return v
}

func compile(t *testing.T, p retention.Policy) *retention.Rules {
	t.Helper()
	r, err := retention.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func gone(decisions []retention.Decision) []string {
	var tags []string
	for _, d := range decisions {
		if d.Delete {
			tags = append(tags, d.Tag)
		}
	}
	return tags
}

func TestDecide(t *testing.T) {
	newest := func(n int) []retention.Rule { return []retention.Rule{{KeepNewest: n}} }
	hex := strings.Repeat("ab", 32)
	signed := retention.Version{Tag: "1.0.0", Digest: "sha256:" + hex}
	exempt := func(tag string) retention.Version {
		return retention.Version{Tag: tag, Digest: "sha256:signature", Exempt: true}
	}
	for name, test := range map[string]struct {
		policy   retention.Policy
		versions []retention.Version
		// gone are the tags that go, in order.
		gone string
	}{
		"nothing":   {retention.Policy{Rules: newest(1)}, nil, ""},
		"no policy": {retention.Policy{}, []retention.Version{ago("1.0.0", 900)}, ""},
		"the newest are those of the highest precedence": {
			retention.Policy{Rules: newest(2)},
			[]retention.Version{ago("1.10.0", 9), ago("1.9.0", 1), ago("1.10.0-rc.1", 2), ago("v1.2.0", 3), ago("1.11.0-dev", 4)},
			"1.10.0-rc.1 1.9.0 v1.2.0",
		},
		"builds of one version: the later push is newer": {
			retention.Policy{Rules: newest(1)}, []retention.Version{ago("1.0.0_b", 2), ago("1.0.0_a", 1), ago("1.0.0", 3)}, "1.0.0 1.0.0_b",
		},
		"other tags are ranked by their push, for themselves": {
			retention.Policy{Rules: newest(1)},
			[]retention.Version{ago("latest", 9), ago("nightly", 1), ago("1.0.0", 99), ago("0.9.0", 1), ago("1.2", 5)},
			"0.9.0 1.2 latest",
		},
		"charts are counted together, not rules": {
			retention.Policy{Rules: []retention.Rule{{Tags: []string{"*-dev"}, KeepNewest: 1}, {KeepNewest: 2}}},
			[]retention.Version{ago("1.0.0-dev", 1), ago("1.1.0-dev", 1), ago("1.0.0", 1), ago("1.1.0", 1), ago("1.2.0", 1)},
			"1.0.0 1.0.0-dev",
		},
		"by age": {
			retention.Policy{Rules: []retention.Rule{{OlderThan: 10 * day}}},
			[]retention.Version{ago("1.0.0", 11), ago("2.0.0", 10), ago("3.0.0", 9), ago("4.0.0"), ago("5.0.0", -3)},
			"1.0.0",
		},
		"new or young is enough to stay": {
			retention.Policy{Rules: []retention.Rule{{KeepNewest: 1, OlderThan: 10 * day}}},
			[]retention.Version{ago("3.0.0", 99), ago("2.0.0", 9), ago("1.0.0", 99)},
			"1.0.0",
		},
		"by glob, and only that": {
			retention.Policy{Rules: []retention.Rule{{Tags: []string{"*-dev", "pr-?"}, OlderThan: hour}}},
			[]retention.Version{ago("1.0.0", 9), ago("1.0.0-dev", 9), ago("pr-1", 9), ago("pr-12", 9), ago("1.0.0-DEV", 9)},
			"1.0.0-dev pr-1",
		},
		"by chart": {
			retention.Policy{Rules: []retention.Rule{{Charts: []string{"other", "team/n*x"}, OlderThan: hour}}},
			[]retention.Version{ago("1.0.0", 9)}, "1.0.0",
		},
		"by another chart": {
			retention.Policy{Rules: []retention.Rule{{Charts: []string{"nginx", "team"}, OlderThan: hour}}}, []retention.Version{ago("1.0.0", 9)}, "",
		},
		"by constraint, which selects no pre-release that it does not name": {
			retention.Policy{Rules: []retention.Rule{{Versions: "<1.0.0", OlderThan: hour}}},
			[]retention.Version{ago("0.9.0", 9), ago("0.9.1-rc.1", 9), ago("0.9.2_build", 9), ago("1.0.0", 9), ago("latest", 9), ago("0.5", 9)},
			"0.9.0 0.9.2_build",
		},
		"by constraint with pre-releases": {
			retention.Policy{Rules: []retention.Rule{{Versions: "<1.0.0-0", OlderThan: hour}}},
			[]retention.Version{ago("0.9.0", 9), ago("0.9.1-rc.1", 9), ago("1.0.0-rc.1", 9), ago("1.0.0", 9)},
			"0.9.0 0.9.1-rc.1",
		},
		"the first rule that selects decides": {
			retention.Policy{Rules: []retention.Rule{{Versions: ">=1.0.0", KeepNewest: 1000}, {OlderThan: hour}}},
			[]retention.Version{ago("1.0.0", 9), ago("0.1.0", 9)}, "0.1.0",
		},
		"what was pulled stays": {
			retention.Policy{KeepPulledWithin: 30 * day, Rules: newest(1)},
			[]retention.Version{ago("3.0.0", 99), ago("2.0.0", 99, 29), ago("1.0.0", 99, 31), ago("0.5.0", 99), ago("0.4.0", 99, -1)},
			"0.5.0 1.0.0",
		},
		"pulls do not matter unless they should": {
			retention.Policy{Rules: newest(1)}, []retention.Version{ago("3.0.0", 9), ago("2.0.0", 9, 1)}, "2.0.0",
		},
		"signatures are no versions": {
			retention.Policy{Rules: newest(1)}, []retention.Version{signed, exempt("sha256-" + hex + ".sig"), exempt("artifacthub.io")}, "",
		},
		"signatures go with what they belong to": {
			retention.Policy{Rules: newest(1)},
			[]retention.Version{
				ago("2.0.0", 1), signed, exempt("sha256-" + hex), exempt("sha256-" + hex + ".sig"), exempt("sha256-" + hex + "0"),
				exempt("sha256-" + strings.Repeat("cd", 32) + ".sig"), exempt("artifacthub.io"),
			},
			"1.0.0 sha256-" + hex + " sha256-" + hex + ".sig",
		},
		"signatures stay with another tag of the same": {
			retention.Policy{Rules: newest(1)},
			[]retention.Version{ago("2.0.0", 1), signed, {Tag: "stable", Digest: signed.Digest}, exempt("sha256-" + hex + ".sig")},
			"1.0.0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := compile(t, test.policy).Decide("team/nginx", test.versions, now)
			if tags := strings.Join(gone(got), " "); tags != test.gone {
				t.Errorf("these go: %q, want %q: %+v", tags, test.gone, got)
			}
			if len(got) != len(test.versions) {
				t.Errorf("%d decisions on %d versions", len(got), len(test.versions))
			}
			for _, d := range got {
				if d.Reason == "" || d.Delete && d.Rule < 0 {
					t.Errorf("%+v has no reason, or no rule", d)
				}
			}
		})
	}
}

func TestReasons(t *testing.T) {
	r := compile(t, retention.Policy{KeepPulledWithin: 720 * hour, Rules: []retention.Rule{{Tags: []string{"?.*"}, KeepNewest: 2, OlderThan: retention.Duration(90 * time.Minute)}}})
	got := r.Decide("nginx", []retention.Version{ago("5.0.0", 9), ago("4.0.0", 9), ago("3.0.0", 0), ago("2.0.0", 9, 1), ago("1.0.0", 9), ago("latest", 9)}, now)
	want := []string{
		"1.0.0: it is not one of the 2 newest and it was pushed more than 1h30m ago",
		"2.0.0: it was pulled less than 720h ago, or may have been",
		"3.0.0: it was pushed less than 1h30m ago",
		"4.0.0: it is one of the 2 newest",
		"5.0.0: it is one of the 2 newest",
		"latest: no rule selects it",
	}
	for i, d := range got {
		if s := d.Tag + ": " + d.Reason; s != want[i] {
			t.Errorf("%q, want %q", s, want[i])
		}
	}
}

func TestCovers(t *testing.T) {
	r := compile(t, retention.Policy{Rules: []retention.Rule{{Charts: []string{"team/*"}, KeepNewest: 1}, {Charts: []string{"redis"}, KeepNewest: 1}}})
	for chart, want := range map[string]bool{"team/a": true, "redis": true, "redis2": false, "team": false} {
		if got := r.Covers(chart); got != want {
			t.Errorf("%s: %t", chart, got)
		}
	}
	if !compile(t, retention.Policy{Rules: []retention.Rule{{KeepNewest: 1}}}).Covers("x") {
		t.Error("a rule without charts does not cover all")
	}
}

func TestCompileRefuses(t *testing.T) {
	good := retention.Rule{KeepNewest: 1}
	long := strings.Repeat("a", 300)
	for name, test := range map[string]struct {
		policy retention.Policy
		want   string
	}{
		"no rules":            {retention.Policy{DryRun: true}, "rules: is empty"},
		"negative delay":      {retention.Policy{Delay: -1, Rules: []retention.Rule{good}}, "delay: is negative"},
		"negative time":       {retention.Policy{KeepPulledWithin: -1, Rules: []retention.Rule{good}}, "keepPulledWithin: is negative"},
		"many rules":          {retention.Policy{Rules: slices.Repeat([]retention.Rule{good}, 33)}, "rules: has 33 rules"},
		"nothing that stays":  {retention.Policy{Rules: []retention.Rule{good, {Tags: []string{"*"}}}}, "rules[1]: has neither keepNewest nor olderThan"},
		"a negative number":   {retention.Policy{Rules: []retention.Rule{{KeepNewest: -1}}}, "rules[0].keepNewest: is -1"},
		"a great number":      {retention.Policy{Rules: []retention.Rule{{KeepNewest: 1_000_001}}}, "rules[0].keepNewest: is 1000001"},
		"a negative age":      {retention.Policy{Rules: []retention.Rule{{OlderThan: -1}}}, "rules[0].olderThan: is negative"},
		"no constraint":       {retention.Policy{Rules: []retention.Rule{{KeepNewest: 1, Versions: "latest"}}}, `rules[0].versions: "latest" is not a constraint`},
		"a long constraint":   {retention.Policy{Rules: []retention.Rule{{KeepNewest: 1, Versions: long}}}, "rules[0].versions: has 300 bytes"},
		"an empty glob":       {retention.Policy{Rules: []retention.Rule{{KeepNewest: 1, Tags: []string{""}}}}, "rules[0].tags: a glob has 1 to 128 characters"},
		"a long glob":         {retention.Policy{Rules: []retention.Rule{{KeepNewest: 1, Charts: []string{long}}}}, "rules[0].charts: a glob has 1 to 200 characters"},
		"many globs":          {retention.Policy{Rules: []retention.Rule{{KeepNewest: 1, Charts: slices.Repeat([]string{"a"}, 33)}}}, "rules[0].charts: has 33 globs"},
		"a plus in a tag":     {retention.Policy{Rules: []retention.Rule{{KeepNewest: 1, Tags: []string{"1.0.0+*"}}}}, `rules[0].tags: the glob "1.0.0+*" has a character`},
		"capitals in a chart": {retention.Policy{Rules: []retention.Rule{{KeepNewest: 1, Charts: []string{"Nginx"}}}}, `rules[0].charts: the glob "Nginx" has a character`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := retention.Compile(test.policy)
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("the error is %v, want one that begins with %q", err, test.want)
			}
		})
	}
}

func TestPolicyIsReadAndNamed(t *testing.T) {
	const written = `{dryRun: true, delay: 30m, keepPulledWithin: 720h, rules: [{charts: ["a"], tags: ["*-dev"], versions: "<1.0.0-0", keepNewest: 10, olderThan: 2160h}]}`
	var p retention.Policy
	if err := yaml.Unmarshal([]byte(written), &p); err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var again retention.Policy
	if err := yaml.Unmarshal(content, &again); err != nil || p.Hash() != again.Hash() || !again.DryRun || again.Delay != hour/2 {
		t.Errorf("%s is read as %+v, %v", content, again, err)
	}
	again.DryRun, again.Delay = false, 0
	if p.Hash() != again.Hash() {
		t.Error("a dry run of the same rules has another name")
	}
	seen := map[string]bool{p.Hash(): true}
	for _, change := range []func(){
		func() { again.KeepPulledWithin++ }, func() { again.Rules[0].KeepNewest++ }, func() { again.Rules[0].OlderThan++ },
		func() { again.Rules[0].Versions += " " }, func() { again.Rules[0].Tags[0] = "*" }, func() { again.Rules[0].Charts = nil },
	} {
		change()
		if seen[again.Hash()] {
			t.Errorf("%+v has the name of another policy", again)
		}
		seen[again.Hash()] = true
	}
	if p := compile(t, again).Policy(); p.Delay != hour {
		t.Errorf("the delay is %s by default", p.Delay)
	}
	if err := yaml.Unmarshal([]byte("delay: soon"), &p); err == nil {
		t.Error("any word is a duration")
	}
}

// A policy, and versions of a chart, of which anything can be.
func arbitrary(r *rand.Rand) (retention.Policy, []retention.Version) {
	some := func(of ...string) []string {
		var out []string
		for _, s := range of {
			if r.IntN(3) == 0 {
				out = append(out, s)
			}
		}
		return out
	}
	p := retention.Policy{KeepPulledWithin: retention.Duration(r.IntN(2)*r.IntN(50)) * day}
	for range 1 + r.IntN(3) {
		rule := retention.Rule{
			Charts: some("*", "nginx", "redis"), Tags: some("*-dev", "1.*", "*", "latest"),
			Versions:   []string{"", "<1.0.0", ">=1.0.0-0 <2.0.0-0", "^2"}[r.IntN(4)],
			KeepNewest: r.IntN(4), OlderThan: retention.Duration(r.IntN(2)*r.IntN(40)) * day,
		}
		if rule.KeepNewest == 0 && rule.OlderThan == 0 {
			rule.KeepNewest = 1
		}
		p.Rules = append(p.Rules, rule)
	}
	var versions []retention.Version
	seen := map[string]bool{}
	for range r.IntN(30) {
		v := ago(fmt.Sprintf("%d.%d.0%s", r.IntN(3), r.IntN(4), []string{"", "-dev", "-rc.1", "_b1"}[r.IntN(4)]), r.IntN(60), r.IntN(60))
		switch r.IntN(8) {
		case 0:
			v.Tag = []string{"latest", "nightly", "1.2"}[r.IntN(3)]
		case 1:
			v.Tag, v.Exempt = fmt.Sprintf("sha256-%064d.sig", r.IntN(5)), true
		}
		v.Digest = fmt.Sprintf("sha256:%064d", r.IntN(12))
		if r.IntN(2) == 0 {
			v.Pulled = time.Time{}
		}
		if !seen[v.Tag] {
			versions = append(versions, v)
		}
		seen[v.Tag] = true
	}
	return p, versions
}

// What holds for every policy and every chart.
func TestProperties(t *testing.T) {
	for seed := range uint64(1_000) {
		r := rand.New(rand.NewPCG(seed, 1))
		p, versions := arbitrary(r)
		check(t, p, versions, r)
		if t.Failed() {
			t.Fatalf("seed %d: %+v on %+v", seed, p, versions)
		}
	}
}

func check(t *testing.T, p retention.Policy, versions []retention.Version, r *rand.Rand) {
	t.Helper()
	rules, err := retention.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	all := rules.Decide("nginx", versions, now)
	// The order does not matter.
	shuffled := slices.Clone(versions)
	r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if again := rules.Decide("nginx", shuffled, now); !slices.Equal(all, again) {
		t.Errorf("in another order it is %+v, not %+v", again, all)
	}
	// A second time, nothing more goes.
	var left []retention.Version
	for _, d := range all {
		if !d.Delete {
			left = append(left, d.Version)
		}
	}
	if more := gone(rules.Decide("nginx", left, now)); more != nil {
		t.Errorf("the second time goes %q", more)
	}
	kept := map[string]int{}
	for _, d := range all {
		if !d.Delete && d.Rule >= 0 {
			kept[group(d)]++
		}
	}
	for _, d := range all {
		if !d.Delete {
			continue
		}
		if d.Exempt {
			for _, other := range all {
				if !other.Exempt && !other.Delete && other.Digest == d.With {
					t.Errorf("%s goes, and belongs to %s, which stays", d.Tag, other.Tag)
				}
			}
			continue
		}
		rule := p.Rules[d.Rule]
		if rule.Versions != "" {
			constraint, err := semver.NewConstraint(rule.Versions)
			v, versionErr := semver.NewVersion(strings.ReplaceAll(d.Tag, "_", "+"))
			if err != nil || versionErr != nil || !constraint.Check(v) {
				t.Errorf("%s goes, which %q does not select", d.Tag, rule.Versions)
			}
		}
		if kept[group(d)] < rule.KeepNewest {
			t.Errorf("%s goes, and %d stay of the %d newest", d.Tag, kept[group(d)], rule.KeepNewest)
		}
		if rule.OlderThan > 0 && now.Sub(d.Pushed) <= time.Duration(rule.OlderThan) {
			t.Errorf("%s goes, and is not older than %s", d.Tag, rule.OlderThan)
		}
		if p.KeepPulledWithin > 0 && !d.Pulled.IsZero() && now.Sub(d.Pulled) < time.Duration(p.KeepPulledWithin) {
			t.Errorf("%s goes, and was pulled", d.Tag)
		}
	}
}

// group is what KeepNewest counts together.
func group(d retention.Decision) string {
	_, err := semver.StrictNewVersion(strings.ReplaceAll(strings.TrimPrefix(d.Tag, "v"), "_", "+"))
	return fmt.Sprint(d.Rule, err == nil)
}

func FuzzDecide(f *testing.F) {
	f.Add("<1.0.0-0", "*-dev", "0.1.0-dev\n1.0.0\nlatest", 1, 5)
	f.Add(">=1 || <0.5", "?.*", "v1.2.3\n1.2.3_b\n1", 0, 1)
	f.Fuzz(func(t *testing.T, constraint, glob, tags string, keep, age int) {
		p := retention.Policy{Rules: []retention.Rule{{Tags: []string{glob}, Versions: constraint, KeepNewest: keep, OlderThan: retention.Duration(age)}}}
		if _, err := retention.Compile(p); err != nil {
			return
		}
		var versions []retention.Version
		for i, tag := range strings.Split(tags, "\n") {
			if !slices.ContainsFunc(versions, func(v retention.Version) bool { return v.Tag == tag }) {
				versions = append(versions, ago(tag, i))
			}
		}
		check(t, p, versions, rand.New(rand.NewPCG(1, 1)))
	})
}

func BenchmarkDecide(b *testing.B) {
	r, err := retention.Compile(retention.Policy{Rules: []retention.Rule{{Tags: []string{"*-dev"}, OlderThan: day}, {Versions: ">=1.0.0", KeepNewest: 100}}})
	if err != nil {
		b.Fatal(err)
	}
	var versions []retention.Version
	for i := range 10_000 {
		versions = append(versions, ago(fmt.Sprintf("%d.%d.0", i/100, i%100), i))
	}
	for b.Loop() {
		r.Decide("nginx", versions, now)
	}
}

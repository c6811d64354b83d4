package readme_test

import (
	"context"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/leaktest"
	"github.com/chartroom-dev/chartroom/registryserver/web/readme"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func render(t *testing.T, source string) string {
	t.Helper()
	html, ok := readme.New(1, time.Minute).Render(t.Context(), []byte(source))
	if !ok {
		t.Fatalf("%.100q is not rendered", source)
	}
	return string(html)
}

func TestRender(t *testing.T) {
	for name, c := range map[string]struct{ source, want string }{
		"nothing":            {"", ""},
		"text":               {"a *b* **c** ~~d~~ `e`\n", "<p>a <em>b</em> <strong>c</strong> <del>d</del> <code>e</code></p>\n"},
		"headings":           {"# A b\n## A b\n###### C!\n", "<h2 id=\"user-content-a-b\">A b</h2>\n<h3 id=\"user-content-a-b-1\">A b</h3>\n<h6 id=\"user-content-c\">C!</h6>\n"},
		"a list":             {"3. a\n4. b\n\n- c\n", "<ol start=\"3\">\n<li>a</li>\n<li>b</li>\n</ol>\n<ul>\n<li>c</li>\n</ul>\n"},
		"code":               {"```yaml\na: <b>\n```\n", "<pre><code>a: &lt;b&gt;\n</code></pre>\n"},
		"a table":            {"| a | b |\n|:--|--:|\n| 1 | 2 |\n", "<table>\n<thead>\n<tr>\n<th align=\"left\">a</th>\n<th align=\"right\">b</th>\n</tr>\n</thead>\n<tbody>\n<tr>\n<td align=\"left\">1</td>\n<td align=\"right\">2</td>\n</tr>\n</tbody>\n</table>\n"},
		"a link":             {"[a](https://x.example \"t\")", "<p><a href=\"https://x.example\" rel=\"nofollow noreferrer\">a</a></p>\n"},
		"a bare link":        {"https://x.example/y", "<p><a href=\"https://x.example/y\" rel=\"nofollow noreferrer\">https://x.example/y</a></p>\n"},
		"a link within":      {"[a](#Some-Thing)", "<p><a href=\"#user-content-some-thing\" rel=\"nofollow noreferrer\">a</a></p>\n"},
		"a link to a file":   {"[a *b*](docs/x.md) [c](//evil.example)", "<p>a <em>b</em> c</p>\n"},
		"an image":           {"![alt *x*](https://x.example/i.png)", "<p><a href=\"https://x.example/i.png\" rel=\"nofollow noreferrer\">alt <em>x</em></a></p>\n"},
		"an image of here":   {"![alt](i.png)", "<p>alt</p>\n"},
		"an image in a link": {"[![b](https://x.example/i.png)](https://x.example)", "<p><a href=\"https://x.example\" rel=\"nofollow noreferrer\">b</a></p>\n"},
		"HTML":               {"<b>a</b> c\n\n<div>d</div>\n", "<p>a c</p>\n\n"},
	} {
		if got := render(t, c.source); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// harmful is what no README may bring onto a page.
var harmful = regexp.MustCompile(`(?i)<(script|style|img|svg|math|iframe|object|embed|form|input|button|base|meta|link|template|audio|video|textarea|noscript)|\son[a-z]+\s*=\s*["']?[^<]*>|<[^>]*(javascript|vbscript|data):|<[^>]*\s(style|class|hx-[a-z]+|data-[a-z]+|name|target|src)\s*=`)

var attacks = []string{
	`<script>window.__xss=1</script>`, `<img src=x onerror=window.__xss=1>`, `<svg/onload=window.__xss=1>`, `<a href="javascript:window.__xss=1">x</a>`,
	`[x](javascript:window.__xss=1)`, `[x](JaVaScRiPt:window.__xss=1)`, `[x](javascript&colon;window.__xss=1)`, `[x](&#106;avascript:window.__xss=1)`, `[x](java\nscript:window.__xss=1)`,
	`[x](data:text/html,<script>window.__xss=1</script>)`, `![x](data:image/svg+xml,<svg onload=window.__xss=1>)`, `[x](vbscript:x)`, `<javascript:window.__xss=1>`, `[x]: javascript:window.__xss=1` + "\n\n[x]",
	`<iframe srcdoc="<script>window.__xss=1</script>">`, `<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.__xss=1&gt;">`,
	`<meta http-equiv=refresh content="0;url=https://evil.example">`, `<base href=https://evil.example>`, `<div hx-get="/x" hx-trigger=load>`, `<style>@import 'https://evil.example'</style>`,
	"# x {onclick=window.__xss=1}", "```\"onmouseover=window.__xss=1\nx\n```", `<form action=https://evil.example><input name=password>`, `<a id=location name=cookie>x</a>`,
	`[x](https://evil.example "\" onmouseover=window.__xss=1")`, `[x](<https://evil.example/" onmouseover="window.__xss=1>)`, `![" onerror="window.__xss=1](https://evil.example/x)`, `<noscript><p title="</noscript><img src=x onerror=window.__xss=1>">`,
	`<x:script xmlns:x="http://www.w3.org/1999/xhtml">window.__xss=1</x:script>`, `<template><script>window.__xss=1</script></template>`, "https://evil.example/\"onmouseover=window.__xss=1",
}

func TestAttacks(t *testing.T) {
	for _, source := range attacks {
		if got := render(t, source); harmful.MatchString(got) {
			t.Errorf("%q makes %q", source, got)
		}
	}
}

// Each is at the bounds, and takes seconds at most: a minute is what the race detector on a busy machine does not need.
func TestSlowIsRefusedOrFast(t *testing.T) {
	repeat := func(s string, most int) string { return strings.Repeat(s, most/len(s)) }
	for name, source := range map[string]string{
		"emphasis": repeat("*a_ ", 256<<10), "brackets": repeat("[", 256<<10), "links": repeat("[a](", 256<<10), "quotes": repeat(">", 256<<10),
		"lists": repeat("- ", 256<<10), "ticks": repeat("`a``b```c", 256<<10), "HTML": repeat("<a ", 256<<10), "entities": repeat("&#x", 256<<10),
		"blocks": repeat(strings.Repeat("*_[", 600)+"\n\n", 256<<10), "headings": repeat("# a\n", 256<<10), "references": repeat("[a]: b\n\n", 256<<10),
		"tables": repeat("|a|b|\n|-|-|\n|c|d|\n\n", 256<<10), "a full table": repeat("|a", 200) + "\n" + repeat("|-", 200) + "\n" + repeat("|a\n", 590), "a wide table": repeat("|a", 120<<10) + "\n" + repeat("|-", 120<<10) + "\n" + repeat("|a\n", 10<<10),
		"words": repeat("www.a ", 256<<10), "at signs": repeat("a@", 256<<10), "slashes": repeat("http://", 256<<10), "backslashes": repeat(`\`, 256<<10), "hashes": repeat("#", 256<<10),
		"parentheses": repeat("(", 256<<10), "one line": repeat("a", 256<<10), "spaces": repeat(" ", 256<<10), "too large": repeat("a\n", 256<<10) + "aa",
		"nested lists": nested("- ", 99), "nested quotes": nested("> ", 99), "deep lists": nested("- ", 3000),
	} {
		started := time.Now()
		html, ok := readme.New(1, time.Minute).Render(t.Context(), []byte(source))
		t.Logf("%s: %v in %v, %d bytes", name, ok, time.Since(started).Round(time.Millisecond), len(html))
		if !ok && readme.Simple([]byte(source)) {
			t.Errorf("%s: it looked simple, and took more than a minute", name)
		}
	}
}

// nested is a list in a list, and so on.
func nested(mark string, deep int) string {
	var b strings.Builder
	for i := range deep {
		fmt.Fprintf(&b, "%s%sx\n", strings.Repeat(" ", len(mark)*i), mark)
	}
	return b.String()
}

func TestRenderGivesUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := readme.New(1, time.Minute).Render(ctx, []byte(strings.Repeat("a *b*\n\n", 20_000))); ok {
		t.Error("it is rendered for somebody who has gone")
	}
	if _, ok := readme.New(1, time.Nanosecond).Render(t.Context(), []byte("a")); ok {
		t.Error("its time is not bounded")
	}
	if _, ok := readme.New(0, time.Millisecond).Render(t.Context(), []byte("a")); ok {
		t.Error("it is rendered without a worker")
	}
}

func FuzzRender(f *testing.F) {
	for _, a := range attacks {
		f.Add(a)
	}
	r := readme.New(4, time.Minute)
	f.Fuzz(func(t *testing.T, source string) {
		html, ok := r.Render(t.Context(), []byte(source))
		if ok && harmful.MatchString(string(html)) {
			t.Errorf("%q makes %q", source, html)
		}
	})
}

// A reference of a few bytes stands for an address of any length.
func TestLargeIsRefused(t *testing.T) {
	refer := func(address, blocks int) []byte {
		return []byte("[a]: http://x/" + strings.Repeat("b", address) + "\n\n" + strings.Repeat(strings.Repeat("[a] ", 600)+"\n\n", blocks))
	}
	r := readme.New(1, time.Hour)
	if _, ok := r.Render(t.Context(), refer(1000, 3)); !ok {
		t.Error("what is small is refused")
	}
	// It has 3 MiB with what the sanitizer adds to each link.
	if html, ok := r.Render(t.Context(), refer(1705, 3)); ok {
		t.Errorf("it becomes %d bytes", len(html))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if html, ok := r.Render(t.Context(), refer(100_000, 1)); ok {
		t.Errorf("it becomes %d bytes", len(html))
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 256<<20 {
		t.Errorf("%d bytes were allocated", got)
	}
}

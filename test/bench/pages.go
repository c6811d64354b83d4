package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
)

// pages measures pages of a public registry with many charts, one after the other. The file server sends the same bytes,
// without making them, so a ratio to it says how long the page is and no more.
func pages(ctx context.Context, b *bench) error {
	s, err := b.fresh(ctx, ours, b.memory, "--visibility", "public")
	if err != nil {
		return err
	}
	if err := seedSmall(ctx, s, "page", b.listed-1, 1); err != nil {
		return err
	}
	maker, err := random()
	if err != nil {
		return err
	}
	readable, err := maker.Documented(folder, "readable", "1.0.0", readme(), values())
	if err != nil {
		return err
	}
	if err := seed(ctx, s, []load.Chart{readable}); err != nil {
		return err
	}
	s.Authorization = "" // As browsers come.
	const registry = "/default/charts"
	// With spaces of three digits, see the package of the pages.
	all := strings.Replace(fmt.Sprintf("%d,%03d", b.listed/1000, b.listed%1000), ",", "\u202f", 1) + " charts"
	if err := s.showing(ctx, registry, all); err != nil {
		return err
	}
	ceiling, err := b.fileServer(ctx)
	if err != nil {
		return err
	}
	list := fmt.Sprintf("page of a registry with %d charts", b.listed)
	for _, p := range []struct{ work, path, shows string }{
		{list, registry, all},
		{list + ", searched", registry + "?q=page-42", "page-4200"},
		{list + ", by time", registry + "?sort=updated", all},
		{list + ", the last", registry + "?page=1000000", "readable"},
		{"page of a version", registry + "/charts/readable/1.0.0", "helm install"},
		{"page of a version, README", registry + "/charts/readable/1.0.0/-/readme", "Section 49"},
		{"page of a version, values", registry + "/charts/readable/1.0.0/-/values", "component199"},
	} {
		if err := s.showing(ctx, p.path, p.shows); err != nil {
			return err
		}
		_, page, err := s.ask(ctx, http.MethodGet, p.path, nil)
		if err != nil {
			return err
		}
		if err := ceiling.put("page", page); err != nil {
			return err
		}
		heads := map[*server][]byte{s: s.Head(http.MethodGet, p.path, -1), ceiling: ceiling.Head(http.MethodGet, "/page", -1)}
		samples, err := b.interleave(ctx, p.work, []*server{s, ceiling}, func(ctx context.Context, s *server, _ int) (load.Result, error) {
			return load.Run(ctx, &s.Target, 1, load.Bounds{Time: b.time}, func(ctx context.Context, c *load.Conn, _ int) error {
				_, err := c.Do(ctx, http.StatusOK, heads[s], nil)
				return err
			})
		})
		if err != nil {
			return err
		}
		b.report.target(p.work+", p50", medianOf(samples[ours], p50)/1e3, below(100, "ms"),
			fmt.Sprintf("p99 %s ms; %d KiB, %s %s ms", short(medianOf(samples[ours], func(s sample) float64 { return millis(s.p99) })),
				len(page)>>10, files, short(medianOf(samples[files], p50)/1e3)))
	}
	return nil
}

// showing waits until a page has a text.
func (s *server) showing(ctx context.Context, path, text string) error {
	for started := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		answer, page, err := s.ask(ctx, http.MethodGet, path, nil)
		if err != nil {
			return err
		}
		if answer.StatusCode == http.StatusOK && strings.Contains(string(page), text) {
			return nil
		}
		if time.Since(started) > startPatience {
			return fmt.Errorf("%s does not show %q: %d", path, text, answer.StatusCode)
		}
	}
}

// readme is one of 20 KiB, with what READMEs of charts have.
func readme() string {
	var b strings.Builder
	b.WriteString("# Readable\n")
	for i := range 50 {
		fmt.Fprintf(&b, "\n## Section %d\n\nWhat *this* part of the [chart](https://charts.example) is for, in `code` and in **words**.\n\n", i)
		b.WriteString("| value | default | what it is |\n|---|---|---|\n| `replicas` | `1` | how many |\n| `image.tag` | `\"\"` | which |\n\n```sh\nhelm upgrade --install readable --set replicas=2\n```\n")
	}
	return b.String()
}

// values are of 30 KiB.
func values() string {
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, "# What the component is for.\ncomponent%d:\n  enabled: true\n  image: {repository: registry.example/acme/component, tag: \"1.%d.0\"}\n  resources:\n    limits: {memory: 256Mi}\n", i, i)
	}
	return b.String()
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
)

const pullConnections = 16

// pulls measures the pull sequence of helm, and distribution with passwords.
func pulls(ctx context.Context, b *bench) error {
	servers, err := b.freshAll(ctx, b.memory, ours, memory, distribution, crane)
	if err != nil {
		return err
	}
	all, err := b.pullFrom(ctx, "pull, 16 connections", servers)
	if err != nil {
		return err
	}
	b.report.target("pull, 16 connections, rate over the memory ceiling's", all.ratio(ours, memory, rate), atLeast(0.8), all.rates(ours, memory))
	b.report.target("pull, CPU per chart over the memory ceiling's", all.ratio(ours, memory, cpu), atMost(1.35), all.cpus(ours, memory))
	b.report.target("pull, rate over distribution's", all.ratio(ours, distribution, rate), atLeast(20), all.rates(ours, distribution))
	private, err := b.start(ctx, distribution, servers[2].dir, "htpasswd")
	if err != nil {
		return err
	}
	private.name = distribution + ", bcrypt cost 10"
	servers = []*server{servers[0], private}
	charts, err := b.pullCharts()
	if err != nil {
		return err
	}
	all, err = b.interleave(ctx, "pull, both private", servers, puller(b, servers, charts, 4*b.time))
	if err != nil {
		return err
	}
	b.report.target("pull, both private, rate over distribution's with htpasswd", all.ratio(ours, private.name, rate), atLeast(800), all.rates(ours, private.name))
	return nil
}

func (s samples) rates(names ...string) string { return s.figures("/s", rate, names) }
func (s samples) cpus(names ...string) string  { return s.figures(" µs", cpu, names) }

func (s samples) figures(unit string, of func(sample) float64, names []string) string {
	var list []string
	for _, n := range names {
		list = append(list, fmt.Sprintf("%s %s%s", n, short(medianOf(s[n], of)), unit))
	}
	return strings.Join(list, ", ")
}

// pullFrom fills the servers, compares what they serve with what was pushed, and lets them be pulled from.
func (b *bench) pullFrom(ctx context.Context, work string, servers []*server) (samples, error) {
	charts, err := b.pullCharts()
	if err != nil {
		return nil, err
	}
	for _, s := range servers {
		if err := seed(ctx, s, charts); err != nil {
			return nil, err
		}
		_, err := load.Run(ctx, &s.Target, seeders, load.Bounds{Operations: len(charts), Time: forever},
			func(ctx context.Context, c *load.Conn, i int) error {
				p := s.Pull(charts[i])
				return p.Verify(ctx, c)
			})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return b.interleave(ctx, work, servers, puller(b, servers, charts, b.time))
}

// puller pulls charts in an order that is neither that of the pushes nor random, for so long.
func puller(_ *bench, servers []*server, charts []load.Chart, during time.Duration) func(context.Context, *server, int) (load.Result, error) {
	prepared := map[*server][]load.Pull{}
	for _, s := range servers {
		for _, c := range charts {
			prepared[s] = append(prepared[s], s.Pull(c))
		}
	}
	return func(ctx context.Context, s *server, _ int) (load.Result, error) {
		all := prepared[s]
		return load.Run(ctx, &s.Target, pullConnections, load.Bounds{Time: during},
			func(ctx context.Context, c *load.Conn, i int) error { return all[i*7919%len(all)].Do(ctx, c) })
	}
}

const manyTags = "many-0000"

// manifests measures a manifest by tag in a chart of many tags.
func manifests(ctx context.Context, b *bench) error {
	servers, err := b.filledTags(ctx)
	if err != nil {
		return err
	}
	// The same content, served by another process for as long as the measuring takes without looking at it.
	stale, err := b.start(ctx, ours, servers[0].dir, "--staleness", "5m")
	if err != nil {
		return err
	}
	stale.name = ours + ", staleness 5m"
	servers = append(servers, stale)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		work := fmt.Sprintf("%s manifest by tag, of %d, 64 connections", method, b.tags)
		heads := map[*server][][]byte{}
		for _, s := range servers {
			for j := range b.tags {
				heads[s] = append(heads[s], s.Head(method, "/v2/"+folder+manyTags+"/manifests/"+smallVersion(j), -1, "Accept: "+load.ManifestType))
			}
		}
		all, err := b.interleave(ctx, work, servers, func(ctx context.Context, s *server, _ int) (load.Result, error) {
			return load.Run(ctx, &s.Target, 64, load.Bounds{Time: b.time}, func(ctx context.Context, c *load.Conn, i int) error {
				_, err := c.Do(ctx, http.StatusOK, heads[s][i*7919%b.tags], nil)
				return err
			})
		})
		if err != nil {
			return err
		}
		b.report.target(work+", rate over the memory ceiling's", all.ratio(ours, memory, rate), atLeast(0.75),
			all.rates(ours, memory)+"; "+all.cpus(ours, memory))
		b.report.target(work+", with staleness allowed, rate over the memory ceiling's", all.ratio(stale.name, memory, rate), atLeast(0.85),
			all.rates(stale.name, memory)+"; "+all.cpus(stale.name, memory))
		if method == http.MethodGet {
			b.report.ceiling = medianOf(all[memory], cpu)
		}
	}
	return nil
}

// filledTags are our server and the memory ceiling with one chart of many tags.
func (b *bench) filledTags(ctx context.Context) ([]*server, error) {
	servers, err := b.freshAll(ctx, b.memory, ours, memory)
	if err != nil {
		return nil, err
	}
	for _, s := range servers {
		if err := seedSmall(ctx, s, "many", 1, b.tags); err != nil {
			return nil, err
		}
	}
	return servers, nil
}

// lists measures the list of many tags. The ceiling serves the bytes that ours answers with.
func lists(ctx context.Context, b *bench) error {
	servers, err := b.filledTags(ctx)
	if err != nil {
		return err
	}
	path := "/v2/" + folder + manyTags + "/tags/list"
	var list bytes.Buffer
	first := servers[0].Dial()
	defer first.Close()
	first.Body = &list
	if _, err := first.Do(ctx, http.StatusOK, servers[0].Head(http.MethodGet, path, -1), nil); err != nil {
		return err
	}
	var listed struct{ Tags []string }
	if err := json.Unmarshal(list.Bytes(), &listed); err != nil || len(listed.Tags) != b.tags {
		return errors.New("the list of tags is not whole")
	}
	second := servers[1].Dial()
	defer second.Close()
	if _, err := second.Do(ctx, http.StatusCreated, servers[1].Head(http.MethodPut, path, list.Len(), "Content-Type: application/json"), list.Bytes()); err != nil {
		return err
	}
	// Ours reads its directory anew for the first seconds after a push.
	time.Sleep(settle + time.Second)
	work := fmt.Sprintf("tags/list of %d", b.tags)
	all, err := b.interleave(ctx, work, servers, func(ctx context.Context, s *server, _ int) (load.Result, error) {
		head := s.Head(http.MethodGet, path, -1)
		return load.Run(ctx, &s.Target, 1, load.Bounds{Time: b.time}, func(ctx context.Context, c *load.Conn, _ int) error {
			answer, err := c.Do(ctx, http.StatusOK, head, nil)
			if err == nil && answer.Length != int64(list.Len()) {
				err = fmt.Errorf("the list has %d bytes in place of %d", answer.Length, list.Len())
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	b.report.target(work+", time over the ceiling's", all.ratio(ours, memory, p50), atMost(1.5), all.figures(" µs p50", p50, []string{ours, memory}))
	return nil
}

// overTLS measures pulls over TLS 1.3.
func overTLS(ctx context.Context, b *bench) error {
	cert, key, err := b.certificate()
	if err != nil {
		return err
	}
	our, err := b.fresh(ctx, ours, b.memory, "--tls-cert", cert, "--tls-key", key)
	if err != nil {
		return err
	}
	ceiling, err := b.fresh(ctx, memory, b.memory, "-cert", cert, "-key", key)
	if err != nil {
		return err
	}
	our.TLS, ceiling.TLS = tlsConfig(), tlsConfig()
	all, err := b.pullFrom(ctx, "pull over TLS 1.3, 16 connections", []*server{our, ceiling})
	if err != nil {
		return err
	}
	b.report.target("pull over TLS 1.3, rate over the TLS memory ceiling's", all.ratio(ours, memory, rate), atLeast(0.85),
		all.rates(ours, memory)+"; "+all.cpus(ours, memory))
	return nil
}

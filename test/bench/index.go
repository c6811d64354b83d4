package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
)

const indexPath = "/" + folder + "helm/index.yaml"

// index measures the index of the classic Helm repository: what is asked for right after a push, how soon it has the push,
// and polls while nothing changes. helm takes the index as it is, and most others take it compressed.
func index(ctx context.Context, b *bench) error {
	s, err := b.serveStore(ctx, b.indexed)
	if err != nil {
		return err
	}
	ceiling, err := b.fileServer(ctx)
	if err != nil {
		return err
	}
	work := fmt.Sprintf("index.yaml of %d versions", b.indexed+len(b.charts))
	for _, as := range []struct{ encoding, name string }{{"identity", work}, {"gzip", work + ", gzipped"}} {
		if err := b.indexes(ctx, s, ceiling, as.encoding, as.name); err != nil {
			return err
		}
	}
	return b.indexHasPushes(ctx, s)
}

// fileServer is a file server without files: see put.
func (b *bench) fileServer(ctx context.Context) (*server, error) {
	s, err := b.fresh(ctx, files, b.memory)
	if err != nil {
		return nil, err
	}
	return s, os.MkdirAll(s.dir, 0o700)
}

// put lets a file server serve content at "/name".
func (s *server) put(name string, content []byte) error {
	return os.WriteFile(filepath.Join(s.dir, name), content, 0o600)
}

// ask makes one request that is not measured. The body is as it was sent.
func (s *server) ask(ctx context.Context, method, path string, header map[string]string) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+s.Address+path, nil)
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Authorization", s.Authorization)
	request.Header.Set("Accept-Encoding", "identity") // Or the client would ask for gzip and undo it.
	for name, value := range header {
		request.Header.Set(name, value)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer, body, err
}

// indexes measures the index in one encoding.
func (b *bench) indexes(ctx context.Context, s, ceiling *server, encoding, name string) error {
	answer, whole, err := s.ask(ctx, http.MethodGet, indexPath, map[string]string{"Accept-Encoding": encoding})
	if err != nil {
		return err
	}
	if versions, err := versionsIn(whole, answer.Header.Get("Content-Encoding") == "gzip"); err != nil || versions < b.indexed+len(b.charts) {
		return errors.Join(fmt.Errorf("the index has %d of %d versions", versions, b.indexed+len(b.charts)), err)
	}
	if err := ceiling.put(encoding, whole); err != nil {
		return err
	}
	heads := map[*server][]byte{
		s: s.Head(http.MethodGet, indexPath, -1, "Accept-Encoding: "+encoding), ceiling: ceiling.Head(http.MethodGet, "/"+encoding, -1),
	}
	first, last := map[*server][]float64{}, map[*server][]float64{}
	_, err = b.afterPushes(ctx, s, func(ctx context.Context, c *load.Conn, pushed time.Time) error {
		answer, err := c.Do(ctx, http.StatusOK, heads[s], nil)
		if err != nil {
			return err
		}
		first[s], last[s] = append(first[s], millis(answer.First.Sub(pushed))), append(last[s], millis(time.Since(pushed)))
		other := ceiling.Dial()
		defer other.Close()
		started := time.Now()
		answer, err = other.Do(ctx, http.StatusOK, heads[ceiling], nil)
		first[ceiling], last[ceiling] = append(first[ceiling], millis(answer.First.Sub(started))), append(last[ceiling], millis(time.Since(started)))
		return err
	})
	if err != nil {
		return err
	}
	work := name + ", first byte of the first request after a push"
	b.report.target(work+", the worst", slices.Max(first[s]), below(50, "ms"),
		fmt.Sprintf("median of %d %s ms, file server %s ms", len(first[s]), short(median(first[s])), short(median(first[ceiling]))))
	work = name + ", last byte of that request"
	figures := fmt.Sprintf("%s %s ms, %s %s ms, for %s MiB", ours, short(median(last[s])), files, short(median(last[ceiling])), short(float64(len(whole))/(1<<20)))
	if encoding == "gzip" {
		// It is kept like that, and so much like a file.
		b.report.target(work+", over the file server's", median(last[s])/median(last[ceiling]), atMost(4), figures)
	} else {
		b.report.target(work, median(last[s]), below(200, "ms"), figures)
	}
	return b.polls(ctx, s, ceiling, encoding, name)
}

// polls measures polls with the ETag that the index has.
func (b *bench) polls(ctx context.Context, s, ceiling *server, encoding, work string) error {
	time.Sleep(settle)
	answer, _, err := s.ask(ctx, http.MethodHead, indexPath, map[string]string{"Accept-Encoding": encoding})
	if err != nil {
		return err
	}
	heads := map[*server][]byte{
		s:       s.Head(http.MethodGet, indexPath, -1, "Accept-Encoding: "+encoding, "If-None-Match: "+answer.Header.Get("ETag")),
		ceiling: ceiling.Head(http.MethodGet, "/"+encoding, -1, `If-None-Match: "1"`),
	}
	all, err := b.interleave(ctx, work+", unchanged", []*server{s, ceiling}, func(ctx context.Context, s *server, _ int) (load.Result, error) {
		return load.Run(ctx, &s.Target, pullConnections, load.Bounds{Time: b.time}, func(ctx context.Context, c *load.Conn, _ int) error {
			_, err := c.Do(ctx, http.StatusNotModified, heads[s], nil)
			return err
		})
	})
	if err != nil {
		return err
	}
	b.report.target(work+", polls that nothing has changed for, rate over the file server's", all.ratio(ours, files, rate), atLeast(0.5),
		all.rates(ours, files)+"; "+all.cpus(ours, files))
	return nil
}

// indexHasPushes measures how long after a push the index has it.
func (b *bench) indexHasPushes(ctx context.Context, s *server) error {
	answer, _, err := s.ask(ctx, http.MethodHead, indexPath, nil)
	if err != nil {
		return err
	}
	etag := answer.Header.Get("ETag")
	took, err := b.afterPushes(ctx, s, func(ctx context.Context, _ *load.Conn, pushed time.Time) error {
		for {
			answer, _, err := s.ask(ctx, http.MethodHead, indexPath, map[string]string{"If-None-Match": etag})
			switch {
			case err != nil:
				return err
			case answer.StatusCode == http.StatusOK:
				etag = answer.Header.Get("ETag")
				return nil
			case time.Since(pushed) > startPatience:
				return errors.New("a push does not come to the index")
			}
		}
	})
	if err != nil {
		return err
	}
	b.report.target("push to index.yaml that has it, the worst", slices.Max(took), below(1000, "ms"), medianAnd(took))
	return nil
}

// medianAnd says the median of times in milliseconds, and of how many.
func medianAnd(took []float64) string {
	return fmt.Sprintf("median of %d %s ms", len(took), short(median(took)))
}

// afterPushes pushes versions one by one, as helm does, and calls then after each with a connection and when the push was
// answered. It returns how long each of the calls took, in milliseconds.
func (b *bench) afterPushes(ctx context.Context, s *server, then func(ctx context.Context, c *load.Conn, pushed time.Time) error) ([]float64, error) {
	b.pushed++
	charts, err := makeCharts(20*b.rounds, func(i int) (string, string) {
		return smallName("small", i), fmt.Sprintf("%d.%d.0", b.pushed, i)
	})
	if err != nil {
		return nil, err
	}
	var took []float64
	_, err = load.Run(ctx, &s.Target, 1, load.Bounds{Operations: len(charts), Time: forever}, func(ctx context.Context, c *load.Conn, i int) error {
		if err := s.Push(ctx, c, charts[i]); err != nil {
			return err
		}
		pushed := time.Now()
		err := then(ctx, c, pushed)
		took = append(took, millis(time.Since(pushed)))
		return err
	})
	return took, err
}

// versionsIn counts the versions in an index.
func versionsIn(index []byte, gzipped bool) (n int, err error) {
	var plain io.Reader = bytes.NewReader(index)
	if gzipped {
		if plain, err = gzip.NewReader(plain); err != nil {
			return 0, err
		}
	}
	var read struct {
		Entries map[string][]struct{} `json:"entries"`
	}
	err = json.NewDecoder(plain).Decode(&read)
	for _, chart := range read.Entries {
		n += len(chart)
	}
	return n, err
}

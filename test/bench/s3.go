package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
	"github.com/chartroom-dev/chartroom/test/s3server"
)

// counter stands before an S3 server and counts what it is asked for.
type counter struct {
	http.Server
	endpoint string

	mu     sync.Mutex
	counts map[string]int
	last   time.Time
}

// countBefore begins to count what comes for the S3 server at that address.
func countBefore(ctx context.Context, endpoint string) (*counter, error) {
	to, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &counter{endpoint: "http://" + listener.Addr().String(), counts: map[string]int{}}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // Which is signed.
	}}
	c.ReadHeaderTimeout = time.Minute
	c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.count(r)
		proxy.ServeHTTP(w, r)
	})
	go func() { _ = c.Serve(listener) }() // Until it is closed.
	return c, nil
}

func (c *counter) count(r *http.Request) {
	kind := r.Method
	switch query := r.URL.Query(); {
	case r.Method == http.MethodGet && (query.Has("list-type") || query.Has("prefix")):
		kind = "LIST"
	case r.Header.Get("X-Amz-Copy-Source") != "":
		kind = "COPY"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[kind]++
	c.last = time.Now()
}

// during counts what f causes. What a server does by itself has come to rest before.
func (c *counter) during(f func() error) (map[string]int, error) {
	const quiet = 300 * time.Millisecond
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(quiet / 3) {
		c.mu.Lock()
		rests := time.Since(c.last) > quiet
		c.mu.Unlock()
		if rests {
			break
		}
	}
	c.mu.Lock()
	c.counts = map[string]int{}
	c.mu.Unlock()
	err := f()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts, err
}

// inS3 counts the requests that pushes and pulls cost at an S3 server, and measures their rates there.
func inS3(ctx context.Context, b *bench) error {
	folder, err := os.MkdirTemp(b.memory, "s3-")
	if err != nil {
		return err
	}
	storage, err := s3server.Open(folder)
	if err != nil {
		return err
	}
	defer storage.Kill()
	count, err := countBefore(ctx, storage.Endpoint)
	if err != nil {
		return err
	}
	defer count.Close()
	fresh, err := b.oursInS3(ctx, storage, count, ours, "ours")
	if err != nil {
		return err
	}
	stale, err := b.oursInS3(ctx, storage, count, ours+", staleness 5m", "stale", "--staleness", "5m")
	if err != nil {
		return err
	}
	other, err := b.distributionInS3(ctx, storage, count)
	if err != nil {
		return err
	}
	servers := []*server{fresh, stale, other}
	for _, s := range servers {
		if err := b.countRequests(ctx, s, count); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return b.ratesInS3(ctx, []*server{fresh, other})
}

// oursInS3 starts our server on a bucket of its own.
func (b *bench) oursInS3(ctx context.Context, storage *s3server.Server, count *counter, name, bucket string, more ...string) (*server, error) {
	dir := filepath.Join(storage.Dir+".state", bucket, "data")
	credentials := filepath.Join(filepath.Dir(dir), "credentials")
	for _, folder := range []string{filepath.Join(storage.Dir, bucket), credentials} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
	}
	for file, content := range map[string]string{"accessKeyID": storage.AccessKey, "secretAccessKey": storage.SecretKey} {
		if err := os.WriteFile(filepath.Join(credentials, file), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	s, err := b.launch(ctx, ours, dir, func(address string) ([]string, error) {
		return append([]string{"serve", "--listen", address, "--s3-bucket", bucket, "--s3-endpoint", count.endpoint, "--s3-path-style",
			"--s3-credentials", credentials, "--access", dir + ".state/access.json", "--keys", dir + ".state/upload.keys"}, more...), nil
	})
	if err == nil {
		s.name = name
	}
	return s, err
}

// distributionInS3 starts distribution on a bucket of its own. It serves blobs itself, as ours does, where its default is
// to send clients to the bucket.
func (b *bench) distributionInS3(ctx context.Context, storage *s3server.Server, count *counter) (*server, error) {
	const bucket = "distribution"
	dir := filepath.Join(storage.Dir+".state", bucket, "data")
	if err := os.MkdirAll(filepath.Join(storage.Dir, bucket), 0o700); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("s3: {accesskey: %s, secretkey: %s, region: us-east-1, regionendpoint: %s, bucket: %s, forcepathstyle: true, secure: false}\n  redirect: {disable: true}",
		storage.AccessKey, storage.SecretKey, count.endpoint, bucket)
	return b.launch(ctx, distribution, dir, func(address string) ([]string, error) {
		return distributionArguments(address, dir, config, nil)
	})
}

// countRequests reports what a first push of a version costs in requests, and a pull of one that the server has served
// before.
func (b *bench) countRequests(ctx context.Context, s *server, count *counter) error {
	const times = 20
	charts, err := makeCharts(times+1, func(i int) (string, string) { return "counted", fmt.Sprintf("1.%d.0", i) })
	if err != nil {
		return err
	}
	c := s.Dial()
	defer c.Close()
	if err := s.Push(ctx, c, charts[times]); err != nil {
		return err
	}
	each := func(do func(load.Chart) error) func() error {
		return func() error {
			for _, chart := range charts[:times] {
				if err := do(chart); err != nil {
					return err
				}
			}
			return nil
		}
	}
	pull := each(func(chart load.Chart) error {
		p := s.Pull(chart)
		return p.Do(ctx, c)
	})
	pushed, err := count.during(each(func(chart load.Chart) error { return s.Push(ctx, c, chart) }))
	if err != nil {
		return err
	}
	first, err := count.during(pull)
	if err != nil {
		return err
	}
	pulled, err := count.during(pull)
	if err != nil {
		return err
	}
	b.report.note("S3 requests of one push", s.name, perOperation(pushed, times))
	b.report.note("S3 requests of a first pull from who took the push", s.name, perOperation(first, times))
	b.report.note("S3 requests of one warm pull", s.name, perOperation(pulled, times))
	if s.name == distribution {
		return nil
	}
	writes := pushed[http.MethodPut] + pushed[http.MethodPost] + pushed[http.MethodDelete] + pushed["COPY"]
	most := 1.0
	if s.name == ours {
		b.report.target("S3 requests that write, of one push (two blobs, manifest, tag)", float64(writes)/times, below(4, ""), perOperation(pushed, times))
	} else {
		most = 0
	}
	b.report.target("S3 requests of one warm pull, "+s.name, float64(total(pulled))/times, below(most, ""), perOperation(pulled, times))
	return nil
}

func total(counts map[string]int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// perOperation writes how many requests of each kind there were for one of so many operations.
func perOperation(counts map[string]int, times int) string {
	per := func(n int) string { return strings.TrimSuffix(fmt.Sprintf("%.2f", float64(n)/float64(times)), ".00") }
	var kinds []string
	for kind, n := range counts {
		kinds = append(kinds, per(n)+" "+kind)
	}
	slices.Sort(kinds)
	slices.Reverse(kinds)
	return per(total(counts)) + strings.TrimSuffix(" ("+strings.Join(kinds, ", ")+")", " ()")
}

// ratesInS3 measures pulls and pushes. The S3 server shares the cores with all others.
func (b *bench) ratesInS3(ctx context.Context, servers []*server) error {
	charts, err := makeCharts(200, func(i int) (string, string) { return smallName("s3", i%20), fmt.Sprintf("1.%d.0", i/20) })
	if err != nil {
		return err
	}
	for _, s := range servers {
		if err := seed(ctx, s, charts); err != nil {
			return err
		}
	}
	pulls, err := b.interleave(ctx, "pull from S3, 16 connections", servers, puller(b, servers, charts, b.time))
	if err != nil {
		return err
	}
	pushes, err := b.pushTo(ctx, "push to S3, 16 connections", servers, 16, 400)
	if err != nil {
		return err
	}
	b.report.target("pull from S3, rate over distribution's", pulls.ratio(ours, distribution, rate), atLeast(1), pulls.rates(ours, distribution))
	b.report.target("push to S3, rate over distribution's", pushes.ratio(ours, distribution, rate), atLeast(1), pushes.rates(ours, distribution))
	return nil
}

package registryserver_test

import (
	"context"
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/test/bench/load"
	"golang.org/x/sys/unix"
)

// BenchmarkPull is the path of a pull from the connection to the storage and back, for profiles:
//
//	go test ./registryserver -run - -bench Pull -cpuprofile cpu.out
func BenchmarkPull(b *testing.B) {
	target := serveForSpeed(b)
	maker, err := load.NewMaker(0)
	if err != nil {
		b.Fatal(err)
	}
	pulls := make([]load.Pull, 200)
	c := target.Dial()
	defer c.Close()
	for i := range pulls {
		chart, err := maker.Make("default/charts/", "chart-"+strconv.Itoa(i%20), strconv.Itoa(i/20)+".0.0", 50_000, 3900)
		if err != nil {
			b.Fatal(err)
		}
		if err := target.Seed(b.Context(), c, chart); err != nil {
			b.Fatal(err)
		}
		pulls[i] = target.Pull(chart)
	}
	atOnce(b, target, func(c *load.Conn, n int) error { return pulls[n%len(pulls)].Do(b.Context(), c) })
}

// BenchmarkManifest is the path that tools which look for new versions take: the manifest by tag.
func BenchmarkManifest(b *testing.B) {
	target := serveForSpeed(b)
	maker, err := load.NewMaker(0)
	if err != nil {
		b.Fatal(err)
	}
	heads := make([][]byte, 500)
	c := target.Dial()
	defer c.Close()
	for i := range heads {
		chart, err := maker.Make("default/charts/", "chart", strconv.Itoa(i)+".0.0", 8, 8)
		if err != nil {
			b.Fatal(err)
		}
		if err := target.Seed(b.Context(), c, chart); err != nil {
			b.Fatal(err)
		}
		heads[i] = target.Head(http.MethodGet, "/v2/"+chart.Repository+"/manifests/"+chart.Tag, -1, "Accept: "+load.ManifestType)
	}
	atOnce(b, target, func(c *load.Conn, n int) error {
		_, err := c.Do(b.Context(), http.StatusOK, heads[n%len(heads)], nil)
		return err
	})
}

// BenchmarkPush is a push of one more version as helm makes it, with its ten requests.
func BenchmarkPush(b *testing.B) {
	target := serveForSpeed(b)
	maker, err := load.NewMaker(0)
	if err != nil {
		b.Fatal(err)
	}
	charts := make([]load.Chart, b.N)
	for i := range charts {
		if charts[i], err = maker.Make("default/charts/", "chart-"+strconv.Itoa(i%20), strconv.Itoa(i/20)+".0.0", 50_000, 3900); err != nil {
			b.Fatal(err)
		}
	}
	atOnce(b, target, func(c *load.Conn, n int) error { return target.Push(b.Context(), c, charts[n]) })
}

// atOnce measures an operation over several connections at the same time; n counts from 0.
func atOnce(b *testing.B, target *load.Target, operation func(c *load.Conn, n int) error) {
	b.Helper()
	b.ReportAllocs()
	b.SetParallelism(8)
	var next atomic.Int64
	defer reportCPU(b)()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		c := target.Dial()
		defer c.Close()
		for p.Next() {
			if err := operation(c, int(next.Add(1)-1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// reportCPU reports the CPU time of one operation, the client's included, which other work on the machine disturbs less
// than it does the time that passes.
func reportCPU(b *testing.B) func() {
	b.Helper()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(time.Microsecond)/float64(b.N), "cpu-µs/op") }
}

// serveForSpeed serves a registry as the command does when it is told nothing, its log going to nowhere.
func serveForSpeed(b *testing.B) *load.Target {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "data")
	token := writeAccess(b, filepath.Join(dir+".state", "access.json"), 1)
	config := registryserver.Config{Listen: "127.0.0.1:0", Storage: registryserver.StorageConfig{Dir: dir}}
	server, err := registryserver.New(b.Context(), config, registryserver.Outputs{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Requests: io.Discard, Audit: io.Discard})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return &load.Target{
		Address:       server.Addresses()["public"].String(),
		Authorization: "Basic " + base64.StdEncoding.EncodeToString([]byte("chartroom:"+token)),
	}
}

// Command bench prints how fast the registry server starts on an empty directory and how much memory it then holds.
// It exits with 1 when either is over its target.
//
// Usage: go run ./test/bench [-binary bin/chartroom]. Without a binary it builds one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	starts      = 11
	startTarget = 100 * time.Millisecond
	rssTarget   = 30.0 // MiB
	// idle is how long the server is left alone before its memory is looked at.
	idle = 2 * time.Second
)

func main() {
	binary := flag.String("binary", "", "the program to measure; built when not given")
	flag.Parse()
	if err := bench(context.Background(), *binary); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, binary string) error {
	folder, err := os.MkdirTemp("", "chartroom-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if binary == "" {
		binary = filepath.Join(folder, "chartroom")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./cmd/chartroom")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("building the server: %w", err)
		}
	}
	var took []time.Duration
	var rss []float64
	for i := range starts {
		d, mib, err := startOnce(ctx, binary, filepath.Join(folder, strconv.Itoa(i)), i == starts-1)
		if err != nil {
			return err
		}
		took, rss = append(took, d), append(rss, mib)
	}
	slices.Sort(took)
	median, memory := took[len(took)/2], rss[len(rss)-1]
	fmt.Printf("start to ready  %6.1f ms   median of %d starts on an empty directory, worst %.1f ms (target: below %.0f ms)\n",
		ms(median), starts, ms(took[len(took)-1]), ms(startTarget))
	fmt.Printf("resident memory %6.1f MiB  idle for %s (target: below %.0f MiB)\n", memory, idle, rssTarget)
	if median >= startTarget || memory >= rssTarget {
		return errors.New("a target was missed")
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// startOnce starts the server on an empty directory, waits until it is ready, and measures its memory if asked to.
func startOnce(ctx context.Context, binary, folder string, measure bool) (took time.Duration, mib float64, err error) {
	health, err := freeAddress(ctx)
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// #nosec G204 -- the program is the one that the caller names.
	server := exec.CommandContext(ctx, binary, "serve", "--dir", filepath.Join(folder, "data"), "--listen", "127.0.0.1:0", "--metrics-listen", health)
	var log strings.Builder
	server.Stderr = &log
	started := time.Now()
	if err := server.Start(); err != nil {
		return 0, 0, fmt.Errorf("starting the server: %w", err)
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	for !ready(ctx, health) {
		if ctx.Err() != nil {
			return 0, 0, fmt.Errorf("the server did not become ready: %s", &log)
		}
		time.Sleep(time.Millisecond)
	}
	took = time.Since(started)
	if measure {
		time.Sleep(idle)
		mib, err = residentMemory(server.Process.Pid)
	}
	return took, mib, err
}

func freeAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

func ready(ctx context.Context, address string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// residentMemory reads VmRSS (proc_pid_status(5)) in MiB.
func residentMemory(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("memory can be measured on Linux alone: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmRSS:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("the kernel does not say how much memory is resident")
}

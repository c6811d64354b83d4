package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
)

// systemCalls counts what the kernel is asked for during a push and a pull, with strace.
func systemCalls(ctx context.Context, b *bench) error {
	if !has("strace") {
		b.report.note("system calls", ours, "not counted: there is no strace here")
		return nil
	}
	servers, err := b.freshAll(ctx, b.disk, ours, durable, distribution, crane)
	if err != nil {
		return err
	}
	const times = 50
	charts, err := makeCharts(times+1, func(i int) (string, string) { return "traced", fmt.Sprintf("1.%d.0", i) })
	if err != nil {
		return err
	}
	for _, s := range servers {
		c := s.Dial()
		if err := s.Push(ctx, c, charts[times]); err != nil {
			return err
		}
		c.Close()
		for _, w := range []struct {
			work string
			do   func(context.Context, *load.Conn, int) error
		}{
			{"push", func(ctx context.Context, c *load.Conn, i int) error { return s.Push(ctx, c, charts[i]) }},
			{"pull", func(ctx context.Context, c *load.Conn, i int) error {
				p := s.Pull(charts[i])
				return p.Do(ctx, c)
			}},
		} {
			calls, err := b.traced(ctx, s, func() error {
				_, err := load.Run(ctx, &s.Target, 1, load.Bounds{Operations: times, Time: forever}, w.do)
				return err
			})
			if err != nil {
				return err
			}
			total := 0
			for _, n := range calls {
				total += n
			}
			per := func(n int) string { return short(float64(n) / times) }
			b.report.note("system calls of one "+w.work, s.name, fmt.Sprintf("%s, of which fsync and fdatasync %s, rename and link %s, open %s, stat %s, futex %s",
				per(total), per(calls["fsync"]+calls["fdatasync"]+calls["sync_file_range"]+calls["syncfs"]),
				per(calls["rename"]+calls["renameat"]+calls["renameat2"]+calls["link"]+calls["linkat"]),
				per(calls["open"]+calls["openat"]+calls["openat2"]),
				per(calls["stat"]+calls["fstat"]+calls["newfstatat"]+calls["lstat"]+calls["statx"]), per(calls["futex"])))
		}
	}
	return nil
}

func has(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// traced counts the system calls of a server while f runs.
func (b *bench) traced(ctx context.Context, s *server, f func() error) (map[string]int, error) {
	out := filepath.Join(b.memory, "strace.txt")
	_ = os.Remove(out)
	// #nosec G204 -- the arguments are our own.
	trace := exec.CommandContext(ctx, "strace", "-f", "-c", "-U", "calls,name", "-o", out, "-p", strconv.Itoa(s.process.Process.Pid))
	if err := trace.Start(); err != nil {
		return nil, err
	}
	// strace says nothing to a program when it has attached to all threads; the kernel does.
	for !isTraced(s.process.Process.Pid) {
		time.Sleep(5 * time.Millisecond)
	}
	err := f()
	_ = trace.Process.Signal(os.Interrupt)
	_ = trace.Wait() // It ends by the signal.
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	calls := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[1] != "total" {
			if n, err := strconv.Atoi(fields[0]); err == nil {
				calls[fields[1]] = n
			}
		}
	}
	return calls, nil
}

// isTraced reports whether all threads of a process are traced.
func isTraced(pid int) bool {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		return false
	}
	for _, f := range files {
		status, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(status), "TracerPid:\t0\n") {
			return false
		}
	}
	return true
}

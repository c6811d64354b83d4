package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// record names one process for good: a number is given again to other processes, a number with its start time is not.
type record struct {
	pid   int
	start string // in clock ticks since the machine started
}

// processStart reads when a process started; ok is false when there is no such process, or it has ended and only waits
// for its parent to notice.
func processStart(pid int) (start string, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	return parseStat(string(data))
}

// parseStat reads /proc/PID/stat. The second field is the program's name in parentheses and may hold anything.
func parseStat(stat string) (start string, ok bool) {
	_, rest, found := cutLast(stat, ") ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", false
	}
	return fields[19], true
}

func cutLast(text, separator string) (before, after string, found bool) {
	at := strings.LastIndex(text, separator)
	if at < 0 {
		return text, "", false
	}
	return text[:at], text[at+len(separator):], true
}

// alive tells whether the very process that was recorded still runs.
func (r record) alive() bool {
	start, ok := processStart(r.pid)
	return ok && start == r.start
}

// records keeps one file per component.
type records struct{ folder string }

func (r records) path(component string) string { return filepath.Join(r.folder, component) }

// read gives the recorded process of a component; ok is false when none was recorded.
func (r records) read(component string) (record, bool) {
	data, err := os.ReadFile(r.path(component))
	if err != nil {
		return record{}, false
	}
	fields := strings.Fields(string(data))
	if len(fields) != 2 {
		return record{}, false
	}
	pid, err := strconv.Atoi(fields[0])
	return record{pid: pid, start: fields[1]}, err == nil && pid > 1
}

// running gives the component's process when it is alive.
func (r records) running(component string) (record, bool) {
	process, ok := r.read(component)
	return process, ok && process.alive()
}

// launch starts a program of its own session, which outlives this one, and records it.
func (r records) launch(component, program string, args, environment []string, log string) error {
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return err
	}
	if info, err := os.Stat(log); err == nil && info.Size() > 20<<20 {
		if err := os.Rename(log, log+".1"); err != nil {
			return err
		}
	}
	output, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	command := exec.Command(program, args...)
	command.Dir = "/"
	command.Env = environment
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", component, err)
	}
	start, ok := processStart(command.Process.Pid)
	go func() { _ = command.Wait() }()
	if !ok {
		return fmt.Errorf("%s ended at once", component)
	}
	return writeFile(r.path(component), fmt.Appendf(nil, "%d %s\n", command.Process.Pid, start))
}

// end asks the component's process to stop, waits, and kills it when it does not.
func (r records) end(ctx context.Context, component string, patience time.Duration) error {
	process, ok := r.running(component)
	if !ok {
		return r.forget(component)
	}
	if err := syscall.Kill(process.pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop %s: %w", component, err)
	}
	gone := func(context.Context) error {
		if process.alive() {
			return fmt.Errorf("%s (process %d) still runs", component, process.pid)
		}
		return nil
	}
	if poll(ctx, patience, gone) != nil {
		progress("%s does not stop within %s: killing it", component, patience)
		if process.alive() {
			_ = syscall.Kill(process.pid, syscall.SIGKILL)
		}
		if err := poll(ctx, 10*time.Second, gone); err != nil {
			return err
		}
	}
	return r.forget(component)
}

func (r records) forget(component string) error {
	if err := os.Remove(r.path(component)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// tail is the end of a log, for a person who has to see why a component failed.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Package leaktest finds goroutines and open files that the tests of a package leave behind.
package leaktest

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long what is ending may take to end.
const patience = 10 * time.Second

// Main is for a TestMain: it runs the tests, and fails where one has left something behind that they all together did
// not begin with.
func Main(m *testing.M) {
	before := map[string]bool{}
	for _, f := range files() {
		before[f] = true
	}
	code := m.Run()
	if code == 0 {
		if left := wait(before); left != "" {
			fmt.Fprintf(os.Stderr, "the tests left behind:\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

// wait returns what is still there when the patience is over.
func wait(before map[string]bool) string {
	// Connections that clients keep for later are no leak.
	http.DefaultClient.CloseIdleConnections()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		left := goroutines()
		for _, f := range files() {
			if !before[f] {
				left = append(left, "the open file "+f)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}

// goroutines are the stacks of all but this one and the runtime's own.
func goroutines() []string {
	buffer := make([]byte, 1<<20)
	stacks := strings.Split(strings.TrimSpace(string(buffer[:runtime.Stack(buffer, true)])), "\n\n")
	var others []string
	for _, s := range stacks[1:] {
		if strings.Contains(s, "os/signal.loop") || strings.Contains(s, "testing.(*F).Fuzz") || strings.Contains(s, "testing.runFuzz") {
			continue
		}
		others = append(others, s)
	}
	return others
}

// files are what the process has open, where the system tells, without directories: a bucket has its own open for as long
// as the process lives.
func files() []string {
	const folder = "/proc/self/fd"
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	var open []string
	for _, e := range entries {
		path := filepath.Join(folder, e.Name())
		target, err := os.Readlink(path)
		if err != nil || strings.HasPrefix(target, "anon_inode:") {
			continue // It is closed since, or is what the runtime polls with.
		}
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			continue
		}
		open = append(open, target)
	}
	return open
}

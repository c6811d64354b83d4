package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	rest := " 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1000"
	for _, c := range []struct {
		name, stat, start string
		ok                bool
	}{
		{"plain", "12 (etcd) S" + rest, "777", true},
		{"a name like a field", "12 (a) S 1 (b) R" + rest, "777", true},
		{"ended", "12 (etcd) Z" + rest, "", false},
		{"short", "12 (etcd) S 1 2", "", false},
		{"empty", "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			start, ok := parseStat(c.stat)
			if start != c.start || ok != c.ok {
				t.Errorf("got %q, %v; want %q, %v", start, ok, c.start, c.ok)
			}
		})
	}
}

func TestLaunchAndEnd(t *testing.T) {
	processes := records{t.TempDir()}
	log := filepath.Join(t.TempDir(), "part.log")
	// It ignores the request to stop, so it has to be killed.
	script := `trap "" TERM; echo started; while :; do sleep 0.05; done`
	if err := processes.launch("part", "/bin/sh", []string{"-c", script}, nil, log); err != nil {
		t.Fatal(err)
	}
	process, ok := processes.running("part")
	if !ok {
		t.Fatal("the process that was just started does not run")
	}
	if err := processes.end(t.Context(), "part", 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if process.alive() {
		t.Error("the process survived")
	}
	if _, recorded := processes.read("part"); recorded {
		t.Error("the process is still recorded")
	}
}

// A number that was given to another process must not get that process killed.
func TestReusedNumberIsNotOurProcess(t *testing.T) {
	processes := records{t.TempDir()}
	start, ok := processStart(os.Getppid())
	if !ok {
		t.Fatal("no parent process")
	}
	if !(record{os.Getppid(), start}).alive() {
		t.Fatal("the parent is not recognised")
	}
	if (record{os.Getppid(), start + "0"}).alive() {
		t.Error("a process with another start time is taken for ours")
	}
	if err := writeFile(processes.path("part"), []byte("1 1\n")); err != nil {
		t.Fatal(err)
	}
	if _, ok := processes.running("part"); ok {
		t.Error("process 1 is taken for ours")
	}
}

package dir_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
)

const (
	writerRoot  = "CHARTROOM_TEST_WRITER_ROOT"
	writerRound = "CHARTROOM_TEST_WRITER_ROUND"
	writerFirst = "CHARTROOM_TEST_WRITER_FIRST"

	// writersEach is how many write at the same time in each of the processes.
	writersEach = 4
	processes   = 2
)

func TestMain(m *testing.M) {
	if root := os.Getenv(writerRoot); root != "" {
		if err := writeUntilKilled(root, os.Getenv(writerRound), os.Getenv(writerFirst)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// contentOf derives an object's content from its key, so that any object can be checked for being whole.
func contentOf(key string) string {
	h := fnv.New64a()
	_, _ = io.WriteString(h, key)
	sum := h.Sum64()
	return strings.Repeat(fmt.Sprintf("%016x:%s\n", sum, key), 1+int(sum%3000))
}

// writeUntilKilled stores objects, and moves a pointer of its own per goroutine, and prints a line for each that was
// acknowledged.
func writeUntilKilled(root, round, first string) error {
	b, err := dir.New(root)
	if err != nil {
		return err
	}
	from, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	ctx := context.Background()
	failed := make(chan error)
	for writer := from; writer < from+writersEach; writer++ {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("objects/%s/%d/%d", round, writer, i)
				content := contentOf(key)
				if _, err := b.Put(ctx, key, strings.NewReader(content), -1, bucket.Condition{Absent: true}); err != nil {
					failed <- err
				}
				fmt.Println(key)
				pointer := fmt.Sprintf("pointers/%d", writer)
				if _, err := b.Put(ctx, pointer, strings.NewReader(key), int64(len(key)), bucket.Condition{}); err != nil {
					failed <- err
				}
				fmt.Println(pointer + " " + key)
				if i%5 == 4 {
					gone := fmt.Sprintf("objects/%s/%d/%d", round, writer, i-2)
					fmt.Println("deleting " + gone)
					if err := b.Delete(ctx, gone, bucket.Condition{}); err != nil {
						failed <- err
					}
					fmt.Println("deleted " + gone)
				}
			}
		}()
	}
	return <-failed
}

// ledger is what killed writers had been told.
type ledger struct {
	mu                      sync.Mutex
	stored, maybeGone, gone map[string]bool
	pointers                map[string]string
}

func (l *ledger) note(line string) {
	first, second, _ := strings.Cut(line, " ")
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case first == "deleting":
		l.maybeGone[second] = true
	case first == "deleted":
		l.gone[second] = true
	case strings.HasPrefix(first, "pointers/"):
		l.pointers[first] = second
	default:
		l.stored[first] = true
	}
}

// SIGKILL shows that nothing half-done becomes visible, neither afterwards nor to those who read meanwhile, and that
// nothing acknowledged was still in a process's hands. That it is on the disk as well is what the tests of crashes show.
func TestKilledInTheMiddleOfPuts(t *testing.T) {
	root := t.TempDir()
	l := &ledger{stored: map[string]bool{}, maybeGone: map[string]bool{}, gone: map[string]bool{}, pointers: map[string]string{}}
	b := open(t, root)
	for round := range 12 {
		var running sync.WaitGroup
		for process := range processes {
			running.Go(func() { runAndKill(t, root, round, process*writersEach, 20+rand.IntN(120), l) })
		}
		ended := make(chan struct{})
		var reading sync.WaitGroup
		reading.Go(func() { readUntil(t, b, ended) })
		running.Wait()
		close(ended)
		reading.Wait()
		if t.Failed() {
			return
		}
		checkLedger(t, open(t, root), l)
	}
	t.Logf("%d objects were acknowledged, %d deletes", len(l.stored), len(l.gone))
}

// readUntil reads what others are writing, replacing and deleting.
func readUntil(t *testing.T, b bucket.Bucket, ended <-chan struct{}) {
	t.Helper()
	for {
		p, err := b.List(t.Context(), bucket.ListOptions{Prefix: "objects/"})
		if err != nil {
			t.Error(err)
			return
		}
		for _, i := range p.Objects {
			select {
			case <-ended:
				return
			default:
			}
			body, info, err := b.Get(t.Context(), i.Key, nil)
			if errors.Is(err, bucket.ErrNotFound) {
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			content, err := io.ReadAll(body)
			body.Close()
			if err != nil || string(content) != contentOf(i.Key) || info.Size != int64(len(content)) {
				t.Errorf("%s is read with %d bytes, %v", i.Key, len(content), err)
			}
		}
		if len(p.Objects) == 0 {
			select {
			case <-ended:
				return
			default:
			}
		}
	}
}

func runAndKill(t *testing.T, root string, round, first, lines int, l *ledger) {
	t.Helper()
	writer := exec.CommandContext(t.Context(), os.Args[0])
	writer.Env = append(os.Environ(), writerRoot+"="+root, writerRound+"="+strconv.Itoa(round), writerFirst+"="+strconv.Itoa(first))
	writer.Stderr = os.Stderr
	stdout, err := writer.StdoutPipe()
	if err != nil {
		t.Error(err)
		return
	}
	if err := writer.Start(); err != nil {
		t.Error(err)
		return
	}
	reader := bufio.NewReader(stdout)
	for n := 0; ; n++ {
		if n == lines {
			if err := writer.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
		line, err := reader.ReadString('\n')
		if err != nil {
			if n < lines {
				t.Errorf("the writer ended by itself after %d lines", n)
			}
			break
		}
		l.note(strings.TrimSuffix(line, "\n"))
	}
	_ = writer.Wait() // It was killed.
}

func checkLedger(t *testing.T, b *dir.Bucket, l *ledger) {
	t.Helper()
	found := map[string]bool{}
	for after := ""; ; {
		p, err := b.List(t.Context(), bucket.ListOptions{Prefix: "objects/", StartAfter: after})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range p.Objects {
			found[i.Key] = true
			if got := read(t, b, i.Key); got != contentOf(i.Key) {
				t.Errorf("%s is not whole: it has %d bytes", i.Key, len(got))
			}
		}
		if after = p.Next; after == "" {
			break
		}
	}
	for key := range l.stored {
		if !found[key] && !l.maybeGone[key] {
			t.Errorf("%s was acknowledged and is lost", key)
		}
	}
	for key := range l.gone {
		if found[key] {
			t.Errorf("%s was deleted and is back", key)
		}
	}
	for pointer, key := range l.pointers {
		at := read(t, b, pointer)
		if !found[at] && !l.maybeGone[at] || number(t, at) < number(t, key) {
			t.Errorf("%s is at %q, which is not behind %s", pointer, at, key)
		}
	}
}

// number orders the objects of one writer over all rounds.
func number(t *testing.T, key string) int {
	t.Helper()
	var round, writer, i int
	if _, err := fmt.Sscanf(key, "objects/%d/%d/%d", &round, &writer, &i); err != nil {
		t.Fatalf("%q: %v", key, err)
	}
	return round*1_000_000 + i
}

func read(t *testing.T, b bucket.Bucket, key string) string {
	t.Helper()
	body, _, err := b.Get(t.Context(), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// Command bench measures the registry server beside others, in turn on one machine: distribution, go-containerregistry's
// registry, and two ceilings that do the least that can be done. It prints what is reached of each target and writes it
// to docs/benchmarks.md. It exits with 1 only when something failed, whatever the figures.
//
// Usage: go run ./test/bench [-quick] [-only WORK,...] [-rounds N] [-binary bin/chartroom] [-kubeconfig FILE] [-disk DIR] [-memory DIR] [-out FILE]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
	"golang.org/x/sys/unix"
)

// bench is one run.
type bench struct {
	sizes
	rounds int
	// disk and memory are folders of this run on a real file system and, for work that is not about the disk, in memory.
	disk, memory string
	programs     map[string]string
	report       *report
	// cluster is the kubeconfig of a cluster with the operator, if that exists.
	cluster string

	running []*server
	charts  []load.Chart
	stores  map[int]string
	// pushed counts what was pushed by afterPushes, so that it pushes other versions each time.
	pushed int
}

// sizes are those of the work.
type sizes struct {
	charts, tags, manyTags, versions int
	// indexed are the versions in an index, and listed the charts on pages.
	indexed, listed int
	blob            int64
	time            time.Duration
	// inMemory is what the stores take that are in memory, at most.
	inMemory int64
}

var (
	whole = sizes{charts: 2000, tags: 10_000, manyTags: 20_000, versions: 100_000, indexed: 20_000, listed: 10_000, blob: 1 << 30, time: 2 * time.Second, inMemory: 6 << 30}
	quick = sizes{charts: 500, tags: 2000, manyTags: 2000, versions: 10_000, indexed: 20_000, listed: 10_000, blob: 128 << 20, time: 500 * time.Millisecond, inMemory: 1 << 30}
)

// works are in the order of the report.
var works = []struct {
	name string
	do   func(context.Context, *bench) error
}{
	{"pull", pulls},
	{"manifest", manifests},
	{"list", lists},
	{"push", pushes},
	{"tags", lateTags},
	{"neighbours", neighbours},
	{"blob", largeBlobs},
	{"memory", memoryHeld},
	{"start", starts},
	{"tls", overTLS},
	{"growth", growth},
	{"index", index},
	{"pages", pages},
	{"webhook", webhook},
	{"told", told},
	{"calls", systemCalls},
	{"s3", inS3},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var names []string
	for _, w := range works {
		names = append(names, w.name)
	}
	short := flag.Bool("quick", false, "small sizes and one round: for trying a change, not for the record")
	only := flag.String("only", "", "`work` to do, separated by commas: "+strings.Join(names, " "))
	rounds := flag.Int("rounds", 0, "how many `times` each server does each work, in turn (default 3, quickly 1)")
	binary := flag.String("binary", "", "the `program` to measure; built when not given")
	cluster := flag.String("kubeconfig", ".cluster/kubeconfig", "`file` of a cluster with the operator, in which the e2e suite measures the status; nothing is where there is none")
	disk := flag.String("disk", os.TempDir(), "`folder` on the disk that pushes are made durable on")
	memory := flag.String("memory", "/dev/shm", "`folder` in memory, for stores whose disk is not what is measured")
	out := flag.String("out", "", "`file` for the report (default docs/benchmarks.md when all work is done, and not quickly)")
	flag.Parse()
	b := &bench{sizes: whole, rounds: 3, report: newReport(), stores: map[int]string{}, cluster: *cluster}
	if *short {
		b.sizes, b.rounds = quick, 1
	}
	if *rounds > 0 {
		b.rounds = *rounds
	}
	chosen := strings.FieldsFunc(*only, func(c rune) bool { return c == ',' })
	for _, name := range chosen {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-only: there is no work %q; there are %s", name, strings.Join(names, " "))
		}
	}
	if *out == "" && !*short && len(chosen) == 0 {
		*out = "docs/benchmarks.md"
	}
	if b.disk, err = os.MkdirTemp(*disk, "chartroom-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.disk)
	if room := roomIn(*memory); room < b.inMemory {
		// Figures are lower then, and the ratios of what is read stay much the same.
		b.report.remark("There was no room for %d GiB in %s, so all stores are on the disk.", b.inMemory>>30, *memory)
		*memory = *disk
	}
	if b.memory, err = os.MkdirTemp(*memory, "chartroom-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.memory)
	defer b.stop()
	b.programs = map[string]string{ours: *binary}
	// Before anything is measured: the time of a start, for one.
	if _, err := b.program(ctx, ours); err != nil {
		return err
	}
	var failed error
	for _, w := range works {
		if len(chosen) > 0 && !slices.Contains(chosen, w.name) {
			continue
		}
		started := time.Now()
		err := w.do(ctx, b)
		b.stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			// What else there is to measure is not lost.
			failed = errors.Join(failed, fmt.Errorf("%s: %w", w.name, err))
			b.report.remark("The work %s failed, so its figures are missing: %v", w.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: done in %.0f s\n", w.name, time.Since(started).Seconds())
	}
	text := b.report.String()
	fmt.Print(text)
	if *out == "" {
		return failed
	}
	return errors.Join(failed, os.WriteFile(filepath.Clean(*out), []byte(text), 0o644)) // #nosec G306 -- a document for everybody.
}

// roomIn is the room in a folder's file system, in bytes; 0 where there is no such folder.
func roomIn(folder string) int64 {
	var s unix.Statfs_t
	if unix.Statfs(folder, &s) != nil {
		return 0
	}
	return int64(s.Bavail) * s.Bsize
}

package main

import (
	_ "embed" // For the notes.
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// report collects what was measured and writes it as Markdown.
type report struct {
	started                           time.Time
	targets, figures, remarks, missed []string
	others                            []float64
	// ceiling is the CPU time, in microseconds, that the memory ceiling takes for a manifest.
	ceiling float64
}

func newReport() *report { return &report{started: time.Now()} }

// bound is a target for a ratio or a size.
type bound struct {
	least bool
	value float64
	unit  string
}

func atLeast(value float64) bound            { return bound{least: true, value: value, unit: " ×"} }
func atMost(value float64) bound             { return bound{value: value, unit: " ×"} }
func below(value float64, unit string) bound { return bound{value: value, unit: " " + unit} }

func (t bound) String() string {
	sign := "≤"
	if t.least {
		sign = "≥"
	}
	return fmt.Sprintf("%s %g%s", sign, t.value, t.unit)
}

func (t bound) met(value float64) bool {
	if t.least {
		return value >= t.value
	}
	return value <= t.value
}

// target reports what was reached of a target. figures say how it came about.
func (r *report) target(work string, value float64, t bound, figures string) {
	outcome := "met"
	if !t.met(value) {
		outcome = "**missed**"
		r.missed = append(r.missed, fmt.Sprintf("**%s**: %s%s, where %s was to be reached. %s", work, short(value), t.unit, t, noteOn(work)))
	}
	line := fmt.Sprintf("| %s | %s%s | %s | %s | %s |", work, short(value), t.unit, t, outcome, figures)
	r.targets = append(r.targets, line)
	fmt.Fprintln(os.Stderr, line)
}

// remark is a sentence for the head of the report.
func (r *report) remark(format string, args ...any) {
	r.remarks = append(r.remarks, fmt.Sprintf(format, args...))
	fmt.Fprintln(os.Stderr, r.remarks[len(r.remarks)-1])
}

// notes say what limits the works whose targets are missed, and what would reach them: people have written them, from
// profiles. Each is behind a heading with words that the name of the work has.
//
//go:embed notes.md
var notes string

// noteOn is the first note that is on a work.
func noteOn(work string) string {
	for _, n := range strings.Split(notes, "\n## ")[1:] {
		heading, text, _ := strings.Cut(n, "\n")
		if strings.Contains(work, heading) {
			return strings.TrimSpace(text)
		}
	}
	return "Nobody has said yet what limits it (test/bench/notes.md)."
}

func (r *report) figure(work, server string, all []sample) {
	low, high := all[0].rate, all[0].rate
	for _, s := range all {
		low, high = min(low, s.rate), max(high, s.rate)
		r.others = append(r.others, s.others)
	}
	r.figures = append(r.figures, fmt.Sprintf("| %s | %s | %s (%s–%s) | %s | %.3f | %.3f |", work, server,
		short(medianOf(all, rate)), short(low), short(high), short(medianOf(all, cpu)),
		medianOf(all, p50)/1e3, medianOf(all, func(s sample) float64 { return millis(s.p99) })))
}

// note reports a figure that is no rate.
func (r *report) note(work, server, figure string) {
	line := fmt.Sprintf("| %s | %s | %s | | | |", work, server, figure)
	r.figures = append(r.figures, line)
	fmt.Fprintln(os.Stderr, line)
}

// short writes three digits, and all those before the point.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

const explanation = `
All servers run on this machine, one at a time and in turn, and so does the load: the two share its cores. Rates are
therefore lower than with clients elsewhere, and the CPU time of the server per operation, read from /proc, is the figure
that carries over best. A ratio is the median over the rounds of one server's figure over the other's in the same round.

Our server runs with its default flags: private, every request with a token, its log to a file. The others and the
ceilings ask nobody who they are, unless the table says otherwise. The memory ceiling (test/bench/ceiling/memory) is a
net/http server of fewer than 60 lines: one look into a map, three headers, one Write. The durable ceiling
(test/bench/ceiling/durable) does for each chart four times: create, write, SHA-256, fsync, rename, fsync of the
directory. The file server (test/bench/ceiling/files) is that of net/http, with the bytes that our server makes for an
index or a page as a file. Where the disk is not what is measured, all stores are in memory (tmpfs). Charts are real ones, of 50 KB of
random bytes, with a configuration of 4 KB, each with content of its own; a push is the ten requests of helm, a pull its
three.
`

// String is the document.
func (r *report) String() string {
	var d strings.Builder
	d.WriteString("# Benchmarks\n\n`make bench` measured this; it writes this page anew. `go run ./test/bench -h` shows how to measure a part.\n")
	fmt.Fprintf(&d, "\n%s, %s. Other processes took %.0f %% of the machine (median of all runs).\n", r.started.UTC().Format("2006-01-02 15:04 UTC"), machine(), 100*median(r.others))
	for _, remark := range r.remarks {
		fmt.Fprintf(&d, "\n%s\n", remark)
	}
	d.WriteString(explanation)
	if r.ceiling > 0 {
		fmt.Fprintf(&d, "\nThe memory ceiling takes %s µs of CPU to answer a GET of a manifest on this machine.\n", short(r.ceiling))
	}
	d.WriteString("\n## Targets\n\n| work | reached | target | | figures |\n| --- | --- | --- | --- | --- |\n")
	d.WriteString(strings.Join(r.targets, "\n"))
	if len(r.missed) > 0 {
		fmt.Fprintf(&d, "\n\n## What was missed, and why\n\n%s", strings.Join(r.missed, "\n\n"))
	}
	d.WriteString("\n\n## Figures\n\nMedians of the rounds (lowest–highest).\n\n| work | server | operations/s | server's CPU µs/operation | p50 ms | p99 ms |\n| --- | --- | --- | --- | --- | --- |\n")
	d.WriteString(strings.Join(r.figures, "\n"))
	d.WriteString("\n")
	return d.String()
}

func machine() string {
	model := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d × %s, Linux %s, %s; chartroom %s, distribution %s, go-containerregistry %s, versitygw %s",
		runtime.NumCPU(), model, strings.TrimSpace(string(kernel)), runtime.Version(), revision(),
		versionIn("peers", "github.com/distribution/distribution/v3"), versionIn("crane", "github.com/google/go-containerregistry"),
		versionIn("s3", "github.com/versity/versitygw"))
}

func revision() string {
	if out, err := exec.Command("hack/version").Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// versionIn is the version of a module that a tool below hack/ is built from.
func versionIn(tool, module string) string {
	file, err := os.ReadFile("hack/" + tool + "/go.mod") // #nosec G304 -- one of ours.
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(file)) {
		if _, version, found := strings.Cut(line, module+" v"); found {
			return "v" + strings.Fields(version)[0]
		}
	}
	return "unknown"
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/transfer"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/registry/remote/auth"
)

const exportLong = `Write charts, with their signatures and whatever else refers to them, as an OCI image layout in one tar archive.

Without arguments all charts are exported; CHART takes all versions of one, CHART:VERSION one version. The archive
depends on nothing but the content, and ` + "`chartroom import`" + `, skopeo, oras and others read it: its index names each
version as CHART:VERSION. A server may go on serving the same storage meanwhile.

What is damaged is left out and listed at the end, with exit code 1. The file appears when it is complete.`

const exportExample = `  # All that a registry has
  chartroom export --dir ./data -o charts.tar

  # One version, and all versions of another chart
  chartroom export --dir ./data -o some.tar nginx:1.2.3 team/redis

  # From one machine to another
  chartroom export --dir ./data -o - | gzip | ssh backup.example.com 'cat > charts.tar.gz'`

func exportCommand() *cobra.Command {
	var storage *configFlags
	var file string
	c := &cobra.Command{
		Use:     "export -o FILE.tar [CHART[:VERSION]...]",
		Short:   "Write charts as an OCI image layout",
		Long:    exportLong,
		Example: exportExample,
		RunE: func(c *cobra.Command, args []string) error {
			store, err := storage.openExisting(c.Context())
			if err != nil {
				return err
			}
			l := newTransferLog(c, "exported", false)
			write := func(w io.Writer) error { return transfer.Export(c.Context(), store, w, selections(args), l.report) }
			if file == "-" {
				if isTerminal(c.OutOrStdout()) {
					return &usageError{errors.New("--output: an archive is not written to a terminal: name a file")}
				}
				l.out = c.ErrOrStderr()
				err = buffered(c.OutOrStdout(), write)
			} else {
				err = writeWhole(file, write)
			}
			return l.end(err)
		},
	}
	storage = newStorageFlags(c)
	c.Flags().StringVarP(&file, "output", "o", "", "`file` to write, - for standard output (required)")
	_ = c.MarkFlagRequired("output")
	return c
}

// selections reads arguments of the form CHART[:VERSION].
func selections(args []string) []transfer.Selection {
	var all []transfer.Selection
	for _, a := range args {
		chart, version, _ := strings.Cut(a, ":")
		all = append(all, transfer.Selection{Chart: chart, Version: version})
	}
	return all
}

func buffered(w io.Writer, write func(io.Writer) error) error {
	b := bufio.NewWriterSize(w, 1<<20)
	if err := write(b); err != nil {
		return err
	}
	return b.Flush()
}

// writeWhole makes a file, which nobody sees before it is complete and on disk.
func writeWhole(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(buffered(f, write), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// transferLog prints what becomes of versions, and remembers what the user must look after.
type transferLog struct {
	out     io.Writer
	bar     *progress
	verb    string
	quiet   bool
	counts  map[transfer.Outcome]int
	done    int
	bytes   int64
	results []transfer.Result
}

// newTransferLog returns one that prints lines that begin with verb; none when quiet.
func newTransferLog(c *cobra.Command, verb string, quiet bool) *transferLog {
	return &transferLog{out: c.OutOrStdout(), bar: newProgress(c.ErrOrStderr()), verb: verb, quiet: quiet, counts: map[transfer.Outcome]int{}}
}

func (l *transferLog) report(r transfer.Result) {
	if !l.quiet {
		r.Chart, r.Version, r.Reason = printable(r.Chart), printable(r.Version), printable(r.Reason)
	}
	l.done++
	l.bytes += r.Bytes
	l.counts[r.Outcome]++
	if l.quiet || r.Reason != "" {
		l.results = append(l.results, r)
	}
	if !l.quiet && (r.Outcome == transfer.Imported || r.Outcome == transfer.Missing) {
		l.bar.clear()
		verb := l.verb
		if r.Outcome == transfer.Missing {
			verb = "would be " + verb
		}
		fmt.Fprintf(l.out, "%s: %s %s\n", verb, r.Chart, r.Version)
	}
	l.bar.update(int64(l.done), int64(r.Total), fmt.Sprintf("%d of %s, %s, %s", l.done, counted(r.Total, "version"), inBytes(l.bytes), r.Chart))
}

// end prints the sum and returns the error of the command.
func (l *transferLog) end(err error) error {
	l.bar.clear()
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return errors.New("interrupted: the same command again goes on where this one ended")
		}
		if errors.Is(err, repository.ErrRepositoryUnknown) || errors.Is(err, repository.ErrManifestUnknown) {
			return fmt.Errorf("there is no such chart or version: %w", err)
		}
		if errors.Is(err, auth.ErrBasicCredentialNotFound) {
			return fmt.Errorf("%w: log in with `helm registry login`, or give --username and --password-stdin", err)
		}
		if errors.Is(err, http.ErrSchemeMismatch) {
			return fmt.Errorf("%w: give --plain-http if it has no TLS", err)
		}
		return err
	}
	if !l.quiet {
		for _, r := range l.results {
			fmt.Fprintf(l.out, "%s: %s %s: %s\n", r.Outcome, r.Chart, r.Version, r.Reason)
		}
		line := fmt.Sprintf("%s, %s: %d %s", counted(l.done, "version"), inBytes(l.bytes), l.counts[transfer.Imported], l.verb)
		for _, o := range []transfer.Outcome{transfer.Missing, transfer.Present, transfer.Ignored, transfer.Conflict, transfer.Failed} {
			if n := l.counts[o]; n > 0 {
				line += fmt.Sprintf(", %d %s", n, outcomeWords[o])
			}
		}
		fmt.Fprintln(l.out, line+".")
	}
	if n := l.counts[transfer.Conflict] + l.counts[transfer.Failed]; n > 0 {
		return fmt.Errorf("%s could not be %s", counted(n, "version"), l.verb)
	}
	return nil
}

// printable is s, or s in quotes where it has what a terminal would not print but do: it may be a stranger's.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	return strconv.Quote(s)
}

var outcomeWords = map[transfer.Outcome]string{
	transfer.Missing:  "missing",
	transfer.Present:  "there already",
	transfer.Ignored:  "ignored, since they are no charts",
	transfer.Conflict: "in conflict",
	transfer.Failed:   "failed",
}

// Command chartroom is the registry server: it serves Helm charts, and whatever else the OCI Distribution Specification
// knows, from a directory or from S3.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	root := rootCommand()
	// Whatever goes wrong before a command runs is an error in what was typed.
	typed := true
	onRun(root, func() { typed = false })
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "chartroom: %s\n", printable(oneLine(err.Error())))
	var usage *usageError
	if typed || errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// oneLine joins the lines of an error, such as those of several problems at once.
func oneLine(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		switch {
		case strings.HasSuffix(b.String(), ":"):
			b.WriteString(" ")
		case b.Len() > 0:
			b.WriteString("; ")
		}
		b.WriteString(line)
	}
	return b.String()
}

// usageError is an error in what was typed that a command found itself.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "chartroom",
		Short: "A registry for Helm charts",
		Long: "Chartroom is a registry for Helm charts: `helm push` and `helm pull` work against it, and so do docker, oras,\n" +
			"crane, Flux and Argo CD.",
		Example:       "  chartroom serve --dir ./data",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(explainFlag)
	root.AddCommand(serveCommand(), newTokenCommand(), policyCommand(), exportCommand(), importCommand(), verifyCommand(), gcCommand(), retentionCommand(), storageCommand(), versionCommand())
	return root
}

// explainFlag says of a flag that was not understood where to read about it.
func explainFlag(c *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) && invalid.GetFlag().Value.Type() == "duration" {
		err = fmt.Errorf("--%s: %q is not a duration such as 720h or 30m", invalid.GetFlag().Name, invalid.GetValue())
	}
	return fmt.Errorf("%w; see `%s --help`", err, c.CommandPath())
}

// onRun has f called when c, or a command below it, has been typed rightly and begins to run.
func onRun(c *cobra.Command, f func()) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			f()
			return run(c, args)
		}
	}
	for _, below := range c.Commands() {
		onRun(below, f)
	}
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/spf13/cobra"
)

const gcLong = `Delete what no version leads to any more: blobs and manifests of deleted or replaced versions, and uploads that were
given up.

A running server does this by itself. The command is for what should not wait, for storage that no server uses, and for
a look at what would be deleted. It may run beside servers and beside itself; pushes and pulls go on, and a push that
succeeds loses nothing, whatever is collected at the same moment.

Garbage goes in two steps. What no tag leads to, and what is older than --grace, is moved into the trash. What has been
there for --undo is deleted by the next run. In between it comes back when it is pushed or tagged again.

The exit code is 1 when a chart could not be looked through; the others have been.`

const gcExample = `  # Look, and change nothing
  chartroom gc --dir ./data --dry-run

  # Two charts only, for a script
  chartroom gc --dir ./data --output json nginx team/redis

  # Make room now: nobody is pushing, and nothing needs to be undone
  chartroom gc --dir ./data --grace 1m --undo 1ms
  chartroom gc --dir ./data --grace 1m --undo 1ms`

func gcCommand() *cobra.Command {
	var storage *configFlags
	var output *choice
	var dryRun bool
	c := &cobra.Command{
		Use:     "gc [CHART...]",
		Short:   "Delete what no version leads to any more",
		Long:    gcLong,
		Example: gcExample,
		RunE: func(c *cobra.Command, charts []string) error {
			store, err := storage.openExisting(c.Context())
			if err != nil {
				return err
			}
			config, err := storage.given()
			if err != nil {
				return err
			}
			undo := time.Duration(config.WithDefaults().GarbageCollection.Undo)
			g := &collection{command: c, store: store, o: repository.CollectorOptions{Undo: undo, DryRun: dryRun}, asJSON: output.asJSON()}
			return g.run(charts)
		},
	}
	storage = newStorageFlags(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and change nothing")
	storage.duration("grace", 24*time.Hour, "how old what no tag leads to must be", func(c *registryserver.Config) *registryserver.Duration { return &c.GarbageCollection.Grace })
	storage.duration("undo", time.Hour, "how long garbage stays in the trash", func(c *registryserver.Config) *registryserver.Duration { return &c.GarbageCollection.Undo })
	output = outputFlag(c)
	return c
}

// collection is one run of the command.
type collection struct {
	command *cobra.Command
	store   *repository.Store
	o       repository.CollectorOptions
	asJSON  bool
}

// collected is the result as JSON.
type collected struct {
	DryRun  bool                  `json:"dryRun"`
	Summary repository.Collection `json:"summary"`
	Garbage []repository.Garbage  `json:"garbage"`
}

func (g *collection) run(charts []string) error {
	ctx, out, bar := g.command.Context(), g.command.OutOrStdout(), newProgress(g.command.ErrOrStderr())
	result := collected{DryRun: g.o.DryRun, Garbage: []repository.Garbage{}}
	g.o.Found = func(found repository.Garbage) {
		if g.asJSON {
			result.Garbage = append(result.Garbage, found)
			return
		}
		bar.clear()
		printGarbage(out, found)
	}
	for _, name := range charts {
		r, err := g.store.Repository(name)
		if err != nil {
			return &usageError{err}
		}
		if err := r.CheckStored(ctx); err != nil {
			return err
		}
	}
	collector := g.store.NewCollector(g.o)
	total := len(charts)
	if total == 0 {
		names, _, err := g.store.Repositories(ctx, 0, "")
		if err != nil {
			return err
		}
		total = len(names)
	}
	done := 0
	var problems []error
	account := func(_ string, o repository.Collection, err error) error {
		done++
		result.Summary = result.Summary.Plus(o)
		bar.update(int64(done), int64(total), fmt.Sprintf("%d of %s", done, counted(total, "chart")))
		if err != nil {
			problems = append(problems, err)
		}
		return nil
	}
	var err error
	if len(charts) == 0 {
		err = collector.CollectAll(ctx, account)
	}
	for _, name := range charts {
		o, err := collector.Collect(ctx, name)
		_ = account(name, o, err)
	}
	bar.clear()
	if err := g.print(out, done, result); err != nil {
		return err
	}
	return errors.Join(append(problems, err)...)
}

func (g *collection) print(out io.Writer, charts int, result collected) (err error) {
	if g.asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(result)
	} else {
		s, would := result.Summary, ""
		if result.DryRun {
			would = "would be "
		}
		_, err = fmt.Fprintf(out, "%s: %s (%s) %scondemned, %s brought back, %s (%s) %sfreed; the trash has %s.\n", counted(charts, "chart"),
			counted(int(s.Condemned.Objects), "object"), inBytes(s.Condemned.Bytes), would, counted(int(s.Restored.Objects), "object"),
			counted(int(s.Freed.Objects), "object"), inBytes(s.Freed.Bytes), would, inBytes(s.Waiting.Bytes))
	}
	if err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

func printGarbage(w io.Writer, g repository.Garbage) {
	fmt.Fprintf(w, "%s: %s of %s: %s, %s: %s\n", g.Action, g.Kind, g.Repository, g.Name, inBytes(g.Bytes), g.Why)
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/spf13/cobra"
)

const verifyLong = `Read everything that a registry has stored, and say what is damaged, missing or foreign.

Every blob and manifest is read and its digest computed again; every tag must stand for a manifest, and every manifest
must have what it names. Nothing is changed, unless --repair is given. A server may go on serving the same storage
meanwhile.

With --repair, damaged objects are moved aside, to "quarantine" in the storage, so that a push of the same content
mends them: no bytes are deleted. What cannot be derived from what is there has to be pushed again, or restored.

The exit code is 1 when something is wrong that was not repaired. Leftovers that harm nobody do not count.`

const verifyExample = `  # Look, and change nothing
  chartroom verify --dir ./data

  # Two charts only, for a script
  chartroom verify --dir ./data --output json nginx team/redis

  # Make room for good content where damaged content is
  chartroom verify --dir ./data --repair`

func verifyCommand() *cobra.Command {
	var storage *configFlags
	var output *choice
	var o repository.VerifyOptions
	c := &cobra.Command{
		Use:     "verify [CHART...]",
		Short:   "Check all that is stored, and repair what can be repaired",
		Long:    verifyLong,
		Example: verifyExample,
		RunE: func(c *cobra.Command, charts []string) error {
			store, err := storage.openExisting(c.Context())
			if err != nil {
				return err
			}
			o.Repositories = charts
			return verify(c, store, o, output.asJSON())
		},
	}
	storage = newStorageFlags(c)
	c.Flags().BoolVar(&o.Repair, "repair", false, "move damaged objects aside and put right what can be put right")
	output = outputFlag(c)
	return c
}

func verify(c *cobra.Command, store *repository.Store, o repository.VerifyOptions, asJSON bool) error {
	out, bar := c.OutOrStdout(), newProgress(c.ErrOrStderr())
	o.Progress = func(p repository.Progress) {
		bar.update(p.Bytes, p.TotalBytes, fmt.Sprintf("%d of %d objects, %s of %s", p.Objects, p.TotalObjects, inBytes(p.Bytes), inBytes(p.TotalBytes)))
	}
	report := func(f repository.Finding) {
		bar.clear()
		printFinding(out, f)
	}
	findings := []repository.Finding{}
	if asJSON {
		report = func(f repository.Finding) { findings = append(findings, f) }
	}
	summary, err := store.Verify(c.Context(), o, report)
	bar.clear()
	if err != nil {
		return err
	}
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(struct {
			Summary  repository.Summary   `json:"summary"`
			Findings []repository.Finding `json:"findings"`
		}{summary, findings})
	} else {
		_, err = fmt.Fprintf(out, "%s in %s read: %s, %s.\n", counted(int(summary.Objects), "object"),
			counted(summary.Repositories, "chart"), inBytes(summary.Bytes), counted(summary.Problems, "problem"))
	}
	if err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	if left := summary.Problems - summary.Repaired; left > 0 {
		return fmt.Errorf("%s found, %d repaired: the rest has to be mended by hand", counted(summary.Problems, "problem"), summary.Repaired)
	}
	return nil
}

func printFinding(w io.Writer, f repository.Finding) {
	kind := "wrong"
	switch {
	case f.Harmless:
		kind = "note"
	case f.Repaired != "":
		kind = "repaired"
	}
	fmt.Fprintf(w, "%s: %s: %s\n", kind, printable(f.Key), printable(f.Problem))
	if f.Repaired != "" {
		fmt.Fprintf(w, "  done: %s\n", f.Repaired)
	}
	if f.Tags != nil {
		fmt.Fprintf(w, "  cannot be pulled: %s %s\n", f.Repository, strings.Join(f.Tags, ", "))
	}
	fmt.Fprintf(w, "  to do: %s\n", f.Advice)
}

// counted is a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

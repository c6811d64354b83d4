package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/check"
	"github.com/spf13/cobra"
)

const checkLong = `Try out what the storage of a registry can do, one operation after another, and say what does not work.

It writes a few small objects below "check/" and removes them again; what the registry has stored is not touched, and a
server may go on serving it. A check does not apply where storage of this kind has no such thing.

The exit code is 1 when a check fails.`

const checkExample = `  # A directory
  chartroom storage check --dir ./data

  # A bucket of an S3 server, with the credentials of the environment
  chartroom storage check --s3-bucket charts --s3-endpoint https://s3.example.com --s3-path-style

  # For a script
  chartroom storage check --s3-bucket charts --s3-region eu-central-1 --output json`

func storageCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "storage",
		Short:   "Look after the storage of a registry",
		Example: "  chartroom storage check --dir ./data",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(storageCheckCommand())
	return c
}

func storageCheckCommand() *cobra.Command {
	var storage *configFlags
	var output *choice
	c := &cobra.Command{
		Use:     "check",
		Short:   "Try out what the storage can do",
		Long:    checkLong,
		Example: checkExample,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := storage.config()
			if err != nil {
				return err
			}
			b, err := registryserver.OpenBucket(c.Context(), config)
			if err != nil {
				return err
			}
			var results []check.Result
			failed := 0
			check.Diagnose(c.Context(), b, func(r check.Result) {
				results = append(results, r)
				if r.Outcome == check.Failed {
					failed++
				}
				if !output.asJSON() {
					printResult(c.OutOrStdout(), r)
				}
			})
			if output.asJSON() {
				if err := encodeResults(c.OutOrStdout(), config.Storage.String(), results); err != nil {
					return fmt.Errorf("print the result: %w", err)
				}
			}
			if failed > 0 {
				return fmt.Errorf("%s of %d failed in %s", counted(failed, "check"), len(results), config.Storage)
			}
			return nil
		},
	}
	storage = newStorageFlags(c)
	output = outputFlag(c)
	return c
}

func encodeResults(w io.Writer, storage string, results []check.Result) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Storage string         `json:"storage"`
		Checks  []check.Result `json:"checks"`
	}{storage, results})
}

func printResult(w io.Writer, r check.Result) {
	fmt.Fprintf(w, "%-20s %s\n", r.Name, r.Outcome)
	if r.Error != "" {
		fmt.Fprintf(w, "  %s\n  to do: %s\n", r.Error, r.Hint)
	}
}

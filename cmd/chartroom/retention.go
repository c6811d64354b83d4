package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
	"github.com/spf13/cobra"
)

const retentionPlanLong = `Say which versions would go by a retention policy, and why. Nothing is deleted.

The policy is that of --config, or that in the file --policy, in YAML or JSON:

  keepPulledWithin: 720h
  rules:
  - {tags: ["*-dev"], olderThan: 336h}
  - {versions: ">=1.0.0", keepNewest: 20}

The first rule that selects a version decides on it; what none selects stays. A server that runs with the policy shows
the same, for a while, before it deletes anything. It may go on serving the same storage meanwhile.

What was pulled is known since a server runs with keepPulledWithin; what was pushed before counts as pulled until then.`

const retentionPlanExample = `  # What the server's own policy would do
  chartroom retention plan --config chartroom.yaml

  # Try another one, and show also what stays
  chartroom retention plan --dir ./data --policy policy.yaml --all`

// policyFlag is a policy that is written on the command line.
type policyFlag struct{ policy retention.Policy }

func (f *policyFlag) String() string { return "" }
func (f *policyFlag) Type() string   { return "policy" }
func (f *policyFlag) Set(text string) (err error) {
	f.policy, err = registryserver.ParseRetention([]byte(text))
	return err
}

func retentionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "retention",
		Short: "See what a retention policy does",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(retentionPlanCommand())
	return c
}

func retentionPlanCommand() *cobra.Command {
	var storage *configFlags
	var policy string
	var output *choice
	var all bool
	c := &cobra.Command{
		Use:     "plan",
		Short:   "Say which versions would go, and why",
		Long:    retentionPlanLong,
		Example: retentionPlanExample,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := storage.given()
			if err != nil {
				return err
			}
			if policy != "" {
				if config.Retention, err = readPolicy(policy); err != nil {
					return err
				}
			}
			if config.Retention.IsZero() {
				return &usageError{errors.New("there is no retention policy: name a file with --policy, or a configuration that has one with --config")}
			}
			if err := config.WithDefaults().Validate(); err != nil {
				return &usageError{err}
			}
			return planRetention(c, config, all, output.asJSON())
		},
	}
	storage = newStorageFlags(c)
	c.Flags().StringVar(&policy, "policy", "", "`file` of the policy in YAML or JSON, in place of the configuration's")
	c.Flags().BoolVar(&all, "all", false, "show also the versions that stay, with the reasons")
	output = outputFlag(c)
	return c
}

func readPolicy(file string) (retention.Policy, error) {
	data, err := os.ReadFile(file) //nolint:gosec // The file is the one that the person who runs the command names.
	if err != nil {
		return retention.Policy{}, fmt.Errorf("reading the retention policy: %w", err)
	}
	p, err := registryserver.ParseRetention(data)
	if err != nil {
		return p, &usageError{fmt.Errorf("%s: %w", file, err)}
	}
	return p, nil
}

// plannedVersion is a decision as it is printed.
type plannedVersion struct {
	Chart    string    `json:"chart"`
	Tag      string    `json:"tag"`
	Digest   string    `json:"digest"`
	PushedAt time.Time `json:"pushedAt"`
	Delete   bool      `json:"delete"`
	// Rule is the index of the rule that decided; left out where none did.
	Rule   *int   `json:"rule,omitempty"`
	Reason string `json:"reason"`
}

func planRetention(c *cobra.Command, config registryserver.Config, all, asJSON bool) error {
	versions, seen, going := []plannedVersion{}, 0, 0
	err := registryserver.PlanRetention(c.Context(), config, func(chart string, d retention.Decision) {
		seen++
		if d.Delete {
			going++
		}
		if !all && !d.Delete {
			return
		}
		v := plannedVersion{Chart: chart, Tag: d.Tag, Digest: d.Digest, PushedAt: d.Pushed, Delete: d.Delete, Reason: d.Reason}
		if d.Rule >= 0 {
			v.Rule = &d.Rule
		}
		versions = append(versions, v)
	})
	if err != nil {
		return err
	}
	if asJSON {
		encoder := json.NewEncoder(c.OutOrStdout())
		encoder.SetIndent("", "  ")
		err = encoder.Encode(struct {
			Seen     int              `json:"seen"`
			Going    int              `json:"going"`
			Versions []plannedVersion `json:"versions"`
		}{seen, going, versions})
	} else {
		err = printPlan(c, versions, seen, going)
	}
	if err != nil {
		return fmt.Errorf("print the plan: %w", err)
	}
	return nil
}

func printPlan(c *cobra.Command, versions []plannedVersion, seen, going int) error {
	if len(versions) > 0 {
		table := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "CHART\tTAG\tPUSHED\tRULE\tWOULD\tREASON")
		for _, v := range versions {
			rule, would := "-", "stay"
			if v.Rule != nil {
				rule = fmt.Sprint(*v.Rule)
			}
			if v.Delete {
				would = "go"
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", v.Chart, v.Tag, v.PushedAt.UTC().Format(time.RFC3339), rule, would, v.Reason)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%d of %s of the charts that the rules are about would go.\n", going, counted(seen, "version"))
	return err
}

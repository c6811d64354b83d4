package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// newTokenCommand returns "chartroom token", which edits access files.
func newTokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Create, list and revoke the tokens in an access file",
		Long: `Create, list and revoke the tokens in an access file.

A running server takes a changed access file by itself within about a second. Of each token the file has a hash
only: the token itself is shown once, when it is created.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenCreateCommand(), newTokenListCommand(), newTokenRevokeCommand())
	return cmd
}

// accessFlag adds the flag that all three commands need.
func accessFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "access", "", "access `file` of the server (required)")
	_ = cmd.MarkFlagRequired("access")
	_ = cmd.MarkFlagFilename("access")
}

func newTokenCreateCommand() *cobra.Command {
	var (
		file   string
		scopes []string
		ttl    time.Duration
		grant  wire.Token
	)
	cmd := &cobra.Command{
		Use:   "create --access FILE [flags]",
		Short: "Create a token and print it, alone, on standard output",
		Long: `Create a token and print it, alone, on standard output.

The access file is created when there is none. Scopes are independent of each other: a push needs both
read_packages and write_packages. Charts are globs over the chart's path below the registry, in which "*" is any run
of characters, "/" included, and "?" is any one.`,
		Example: `  # For a CI job that pushes every chart
  chartroom token create --access access.json --scopes read_packages,write_packages --name ci

  # For somebody who reads two teams' charts, for thirty days
  chartroom token create --access access.json --charts 'web/*,shop/*' --ttl 720h

  # Straight into helm
  chartroom token create --access access.json | helm registry login 127.0.0.1:5000 -u chartroom --password-stdin --plain-http`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range scopes {
				grant.Scopes = append(grant.Scopes, wire.Scope(s))
			}
			// The flags have the names of the fields.
			if err := access.ValidateGrant(grant); err != nil {
				return &usageError{fmt.Errorf("--%w", err)}
			}
			if cmd.Flags().Changed("ttl") {
				if ttl < time.Second {
					return &usageError{fmt.Errorf("--ttl: %v is too short; give a duration of at least 1s, for example 720h", ttl)}
				}
				expiry := time.Now().UTC().Add(ttl).Truncate(time.Second)
				grant.ExpiresAt = &expiry
			}
			_, missing := os.Stat(file)
			var token access.Token
			err := access.EditFile(file, func(a *wire.Access) (err error) {
				token, err = addToken(a, grant)
				return err
			})
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), token.Reveal()); err != nil {
				return fmt.Errorf("the token was created but could not be printed (%w); remove it with: chartroom token revoke --access %s %s", err, file, token.ID())
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "Created %v in %s. It is not shown again; revoke it with: chartroom token revoke --access %s %s\n", token, file, file, token.ID())
			if errors.Is(missing, fs.ErrNotExist) {
				fmt.Fprintf(cmd.ErrOrStderr(), "There was no such file before: the token is good at a server that is started with --access %s.\n", file)
			}
			return nil
		},
	}
	accessFlag(cmd, &file)
	flags := cmd.Flags()
	flags.StringSliceVar(&scopes, "scopes", []string{string(wire.ReadPackages)}, "what the token may do, `scopes` out of "+joinScopes(wire.Scopes(), ", "))
	flags.StringSliceVar(&grant.Charts, "charts", []string{"*"}, "`globs` of the charts it may do that to")
	flags.DurationVar(&ttl, "ttl", 0, "how long the token lives, a `duration`, for example 720h (default: it does not expire)")
	flags.StringVar(&grant.Name, "name", "", "whose token it is, for logs and lists")
	_ = cmd.RegisterFlagCompletionFunc("scopes", completeScopes)
	return cmd
}

// addToken mints a token, adds it to a with the name, scopes, charts and expiry of grant, and returns it.
func addToken(a *wire.Access, grant wire.Token) (token access.Token, err error) {
	for taken := true; taken; taken = slices.ContainsFunc(a.Tokens, hasID(token.ID())) {
		if token, err = access.Mint(rand.Reader); err != nil {
			return access.Token{}, err
		}
	}
	grant.ID, grant.SHA256 = token.ID(), token.SHA256()
	a.Tokens = append(a.Tokens, grant)
	return token, nil
}

func hasID(id string) func(wire.Token) bool {
	return func(t wire.Token) bool { return t.ID == id }
}

func newTokenListCommand() *cobra.Command {
	var file string
	var output *choice
	cmd := &cobra.Command{
		Use:   "list --access FILE",
		Short: "List the tokens in an access file",
		Example: `  chartroom token list --access access.json
  chartroom token list --access access.json -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := access.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no access file %s; make one with: chartroom token create --access %s", file, file)
			} else if err != nil {
				return err
			}
			if output.asJSON() {
				return listAsJSON(cmd.OutOrStdout(), a.Tokens)
			}
			return listAsTable(cmd.OutOrStdout(), a.Tokens, time.Now())
		},
	}
	accessFlag(cmd, &file)
	output = outputFlag(cmd)
	return cmd
}

func listAsTable(w io.Writer, tokens []wire.Token, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "ID\tNAME\tSCOPES\tCHARTS\tEXPIRES")
	for _, t := range tokens {
		name, expires := t.Name, "never"
		if name == "" {
			name = "-"
		}
		if t.ExpiresAt != nil {
			expires = t.ExpiresAt.UTC().Format(time.RFC3339)
			if !now.Before(*t.ExpiresAt) {
				expires += " (expired)"
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", t.ID, name, joinScopes(t.Scopes, ","), strings.Join(t.Charts, ","), expires)
	}
	return table.Flush()
}

// listedToken is a token as `token list -o json` shows it: everything but the hash.
type listedToken struct {
	ID        string       `json:"id"`
	Name      string       `json:"name,omitempty"`
	Scopes    []wire.Scope `json:"scopes"`
	Charts    []string     `json:"charts"`
	ExpiresAt *time.Time   `json:"expiresAt,omitempty"`
}

func listAsJSON(w io.Writer, tokens []wire.Token) error {
	listed := make([]listedToken, 0, len(tokens))
	for _, t := range tokens {
		listed = append(listed, listedToken{ID: t.ID, Name: t.Name, Scopes: t.Scopes, Charts: t.Charts, ExpiresAt: t.ExpiresAt})
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(listed)
}

func newTokenRevokeCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "revoke --access FILE ID",
		Short: "Remove a token from an access file",
		Long: `Remove a token from an access file: a running server refuses it within about a second.

ID is the second part of the token, as logs and "chartroom token list" show it. The whole token is taken too, but
other users of this machine may see it in the list of processes.`,
		Example: `  chartroom token revoke --access access.json 4fT09aZk`,
		// Not quoted: it may be a token.
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%d arguments: say which token: its id, as `chartroom token list` shows it", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := tokenID(args[0])
			if err != nil {
				return &usageError{err}
			}
			err = access.EditFile(file, func(a *wire.Access) error {
				before := len(a.Tokens)
				a.Tokens = slices.DeleteFunc(a.Tokens, hasID(id))
				if len(a.Tokens) == before {
					return fmt.Errorf("%s has no token with the id %s; see which it has with: chartroom token list --access %s", file, id, file)
				}
				return nil
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "Revoked crt_%s in %s.\n", id, file)
			return nil
		},
	}
	accessFlag(cmd, &file)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// tokenID reads an id, or a whole token. The error does not quote the argument, which may be a mistyped token.
func tokenID(argument string) (string, error) {
	if t, err := access.ParseToken(argument); err == nil {
		return t.ID(), nil
	}
	id := strings.TrimPrefix(argument, "crt_")
	if err := access.ValidateID(id); err != nil {
		return "", fmt.Errorf("the argument is neither a token nor the id of one: %w", err)
	}
	return id, nil
}

// completeScopes completes the last of the scopes that are separated by commas with those not named yet.
func completeScopes(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	named := ""
	if i := strings.LastIndex(toComplete, ","); i >= 0 {
		named = toComplete[:i+1]
	}
	var completions []string
	for _, s := range wire.Scopes() {
		if !slices.Contains(strings.Split(named, ","), string(s)) {
			completions = append(completions, named+string(s))
		}
	}
	return completions, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func joinScopes(scopes []wire.Scope, separator string) string {
	names := make([]string, 0, len(scopes))
	for _, s := range scopes {
		names = append(names, string(s))
	}
	return strings.Join(names, separator)
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chartroom-dev/chartroom/registryserver/access/oidc"
	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Try OIDC policies before they are in force",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(policyTestCommand())
	return cmd
}

const policyTestLong = `Say which statement of a policy admits the holder of some claims or of a token, or for each statement the first rule
that does not hold, and why.

The policy is a list of statements in YAML or JSON, or a whole OIDCPolicy object. With --claims, a file of claims in
JSON or YAML, the issuer and the rules are judged. With --token, the token's form, its times and its audience are judged
too; its signature is not verified, as nobody is asked for keys here.

What the policy may admit against its author's will is said on standard error. The exit code is 0 when a statement
matches, 1 when none does, and 2 when what was given cannot be read.`

const policyTestExample = `  # Which statement admits this job?
  chartroom policy test --policy policy.yaml --claims claims.json

  # In a job of GitHub Actions, with its own token
  curl -sH "Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN" "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$REGISTRY" |
    jq -r .value | chartroom policy test --policy policy.yaml --token - --audience "$REGISTRY"

  # For a script
  chartroom policy test --policy policy.yaml --claims claims.json --output json`

// policyTest is what the command was asked.
type policyTest struct {
	policy, claims, token string
	audience, kubernetes  string
	output                *choice
}

func policyTestCommand() *cobra.Command {
	var p policyTest
	cmd := &cobra.Command{
		Use:     "test --policy FILE {--claims FILE | --token TOKEN}",
		Short:   "Say which statement of a policy admits a token, or why none does",
		Long:    policyTestLong,
		Example: policyTestExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&p.policy, "policy", "", "`file` of the policy (required)")
	flags.StringVar(&p.claims, "claims", "", "`file` of the claims, or - for standard input")
	flags.StringVar(&p.token, "token", "", "the `token`, or - for standard input, which other users of this machine do not see")
	flags.StringVar(&p.audience, "audience", "", "the registry's `address`, https://HOST/ORGANIZATION/REGISTRY, which --token must be for (default: not judged)")
	flags.StringVar(&p.kubernetes, "kubernetes-issuer", "", "what \"iss: kubernetes\" stands for, an `address`")
	p.output = outputFlag(cmd)
	_ = cmd.MarkFlagRequired("policy")
	_ = cmd.MarkFlagFilename("policy")
	_ = cmd.MarkFlagFilename("claims")
	cmd.MarkFlagsOneRequired("claims", "token")
	cmd.MarkFlagsMutuallyExclusive("claims", "token")
	return cmd
}

// policyResult is what came of a test, as -o json shows it.
type policyResult struct {
	// Matched is the statement that matches; null where none does.
	Matched *int `json:"matched"`
	// Scopes and Charts are what it grants.
	Scopes []wire.Scope `json:"scopes,omitempty"`
	Charts []string     `json:"charts,omitempty"`
	// Problem is why a token is not good whatever the policy says.
	Problem string `json:"problem,omitempty"`
	// Statements are those that were looked at, up to the one that matches.
	Statements []policy.Verdict `json:"statements"`
	Warnings   []policy.Warning `json:"warnings"`
}

func (p policyTest) run(cmd *cobra.Command) error {
	text, err := readInput(cmd.InOrStdin(), p.policy, policy.MaxBytes)
	if err != nil {
		return err
	}
	parsed, err := policy.ParseObject(text)
	if err != nil {
		return &usageError{fmt.Errorf("%s: %w", p.policy, err)}
	}
	result := policyResult{Statements: []policy.Verdict{}, Warnings: append([]policy.Warning{}, parsed.Lint()...)}
	token, err := p.judged(cmd.InOrStdin())
	var bad *badTokenError
	switch {
	case errors.As(err, &bad):
		result.Problem = bad.Error()
	case err != nil:
		return err
	default:
		var matched *policy.Statement
		c := policy.Context{Audience: p.audience, KubernetesIssuer: p.kubernetes, ClaimsOnly: p.token == ""}
		if p.audience == "" {
			c.Audience = token.Audience
		}
		if matched, result.Statements = parsed.Judge(token, c); matched != nil {
			result.Matched = &result.Statements[len(result.Statements)-1].Statement
			result.Scopes, result.Charts = matched.Scopes, matched.Charts
		}
	}
	if err := p.print(cmd, result); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	switch {
	case result.Problem != "":
		return errors.New("the token is not good, whatever the policy says")
	case result.Matched == nil:
		return errors.New("no statement matches: the token would be refused")
	}
	return nil
}

// badTokenError is a token that no policy can admit.
type badTokenError struct{ err error }

func (e *badTokenError) Error() string { return e.err.Error() }

// judged reads the token, or the claims of one.
func (p policyTest) judged(in io.Reader) (policy.Token, error) {
	if p.token == "" {
		text, err := readInput(in, p.claims, policy.MaxBytes)
		if err != nil {
			return policy.Token{}, err
		}
		claims, err := policy.ParseClaims(text)
		if err != nil {
			return policy.Token{}, &usageError{fmt.Errorf("%s: %w", p.claims, err)}
		}
		issuer, _ := claims["iss"].(string)
		return policy.Token{Issuer: issuer, Claims: claims}, nil
	}
	compact := p.token
	if compact == "-" {
		text, err := readInput(in, "-", policy.MaxBytes)
		if err != nil {
			return policy.Token{}, err
		}
		compact = strings.TrimSpace(string(text))
	}
	t, err := oidc.Parse(compact, time.Now())
	if err != nil {
		return policy.Token{}, &badTokenError{err}
	}
	return policy.Token{Issuer: t.Issuer, Audience: t.Audience, Lifetime: t.Lifetime(), Claims: t.Claims}, nil
}

// readInput reads a file, or in where it is called -, of at most so many bytes and one more. That it cannot be read is an
// error in what was typed: scripts must not take it for a policy that does not match.
func readInput(in io.Reader, path string, most int64) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path) //nolint:gosec // The file is the one that the person who runs the command names.
		if err != nil {
			return nil, &usageError{err}
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return nil, &usageError{err}
	}
	return text, nil
}

func (p policyTest) print(cmd *cobra.Command, r policyResult) error {
	out := cmd.OutOrStdout()
	if p.output.asJSON() {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	var b strings.Builder
	if r.Problem != "" {
		fmt.Fprintf(&b, "not good: %s\n", printable(r.Problem))
	}
	for _, v := range r.Statements {
		if !v.Matches {
			fmt.Fprintf(&b, "statements[%d] does not match: %s\n", v.Statement, printable(v.Reason))
			continue
		}
		fmt.Fprintf(&b, "statements[%d] matches: %s on the charts %s\n", v.Statement, joinScopes(r.Scopes, ", "), strings.Join(r.Charts, ", "))
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: statements[%d]: %s\n", w.Statement, printable(w.Text))
	}
	if p.token != "" && r.Matched != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "The signature was not verified: the registry does that.")
		if p.audience == "" {
			fmt.Fprintln(cmd.ErrOrStderr(), "Neither was the audience: name the registry's address with --audience.")
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// between is the time between two looks at whether the token is in force.
	between = 100 * time.Millisecond
	// cleanup bounds the deletion of an object that came to nothing.
	cleanup = 5 * time.Second
)

// request is what somebody asks for.
type request struct {
	registry, name, description, host string
	scopes, charts                    []string
	ttl, patience                     time.Duration
	login                             bool
}

// tokenCommand returns "kubectl chartroom token".
func tokenCommand(connect func() (client.Client, string, error)) *cobra.Command {
	var r request
	cmd := &cobra.Command{
		Use:   "token REGISTRY [flags]",
		Short: "Make a short-lived token for yourself and print it, alone, on standard output",
		Long: `Make a short-lived token for yourself and print it, alone, on standard output.

The secret is made here and goes nowhere else: the cluster gets a RegistryToken with its hash. No Secret is published, so
all that you need is to be allowed to create, get and delete registrytokens in the namespace. The token is printed once
every pod of the registry enforces it.

REGISTRY is the name of a HelmRegistry, or NAMESPACE/NAME for one in another namespace, which must admit tokens of yours.
The token ends when its time is over, or when its RegistryToken is deleted.`,
		Example: `  # Read charts for eight hours
  kubectl chartroom token charts -n team-a

  # Push some of them, for an hour
  kubectl chartroom token charts --scopes read_packages,write_packages --charts 'web-*' --ttl 1h

  # Straight into helm
  kubectl chartroom token charts | helm registry login charts.example.com -u chartroom --password-stdin

  # The line to do so
  kubectl chartroom token charts --login`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.registry = args[0]
			c, namespace, err := connect()
			if err != nil {
				return err
			}
			return issue(cmd.Context(), c, namespace, r, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&r.scopes, "scopes", []string{string(wire.ReadPackages)}, "what the token may do, `scopes` out of "+strings.Join(scopeNames(), ", "))
	flags.StringSliceVar(&r.charts, "charts", nil, "`globs` of the charts it may do that to (default: all)")
	flags.DurationVar(&r.ttl, "ttl", 8*time.Hour, "how long the token lives, a `duration` of at least 1m")
	flags.StringVar(&r.name, "name", "", "`name` of the RegistryToken (default: one is made up)")
	flags.StringVar(&r.description, "description", "made by kubectl chartroom token", "`text` that says what it is for")
	flags.DurationVar(&r.patience, "timeout", time.Minute, "how long to wait until every pod enforces the token, a `duration`")
	flags.BoolVar(&r.login, "login", false, "print the helm command that logs in with the token instead of the token alone")
	flags.StringVar(&r.host, "host", "", "`host` of the registry for --login (default: what the HelmRegistry says, which you must be allowed to get)")
	_ = cmd.RegisterFlagCompletionFunc("scopes", completeScopes)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return registries(cmd.Context(), connect), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// issue makes the token, sees it into force, and prints it.
func issue(ctx context.Context, c client.Client, namespace string, r request, out, notes io.Writer) error {
	host, err := r.loginHost(ctx, c, namespace)
	if err != nil {
		return err
	}
	minted, err := access.Mint(rand.Reader)
	if err != nil {
		return err
	}
	token := r.object(namespace, minted)
	if err := c.Create(ctx, token); err != nil {
		return fmt.Errorf("creating a RegistryToken in the namespace %s: %w", namespace, err)
	}
	if err := inForce(ctx, c, token, r.patience); err != nil {
		return errors.Join(err, discard(ctx, c, token))
	}
	line := minted.Reveal()
	if r.login {
		line = fmt.Sprintf("echo %s | helm registry login %s --username chartroom --password-stdin", line, host)
	}
	if _, err := fmt.Fprintln(out, line); err != nil {
		return errors.Join(fmt.Errorf("the token could not be printed: %w", err), discard(ctx, c, token))
	}
	fmt.Fprintf(notes, "%v works until %s. End it before with: kubectl -n %s delete registrytoken %s\n",
		minted, token.Status.ExpiresAt.UTC().Format(time.RFC3339), namespace, token.Name)
	return nil
}

// key returns the registry's namespace and name.
func (r request) key(namespace string) client.ObjectKey {
	if before, after, found := strings.Cut(r.registry, "/"); found {
		return client.ObjectKey{Namespace: before, Name: after}
	}
	return client.ObjectKey{Namespace: namespace, Name: r.registry}
}

// object returns the RegistryToken of a token.
func (r request) object(namespace string, minted access.Token) *v1alpha1.RegistryToken {
	key := r.key(namespace)
	token := &v1alpha1.RegistryToken{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: r.name},
		Spec: v1alpha1.RegistryTokenSpec{
			RegistryRef:  v1alpha1.RegistryReference{Name: key.Name, Namespace: key.Namespace},
			Description:  r.description,
			Charts:       r.charts,
			TTL:          &metav1.Duration{Duration: r.ttl},
			SecretSHA256: minted.SHA256(),
		},
	}
	if r.name == "" {
		token.GenerateName = "personal-"
	}
	for _, scope := range r.scopes {
		token.Spec.Scopes = append(token.Spec.Scopes, v1alpha1.Scope(scope))
	}
	return token
}

// loginHost returns the host to log in to; empty when nobody needs it.
func (r request) loginHost(ctx context.Context, c client.Client, namespace string) (string, error) {
	if !r.login || r.host != "" {
		return r.host, nil
	}
	registry := &v1alpha1.HelmRegistry{}
	if err := c.Get(ctx, r.key(namespace), registry); err != nil {
		return "", fmt.Errorf("reading the host of the registry, which --host would say too: %w", err)
	}
	return registry.Host(), nil
}

// inForce waits until every pod enforces a token, or nothing more will come of it.
func inForce(ctx context.Context, c client.Client, token *v1alpha1.RegistryToken, patience time.Duration) error {
	var last string
	err := wait.PollUntilContextTimeout(ctx, between, patience, true, func(ctx context.Context) (bool, error) {
		if err := c.Get(ctx, client.ObjectKeyFromObject(token), token); err != nil {
			return false, fmt.Errorf("reading the RegistryToken %s: %w", token.Name, err)
		}
		if token.Status.ObservedGeneration != token.Generation {
			last = "The operator has not seen it yet; is it running?"
			return false, nil
		}
		if stalled := meta.FindStatusCondition(token.Status.Conditions, v1alpha1.ConditionStalled); stalled != nil && stalled.Status == metav1.ConditionTrue {
			return false, fmt.Errorf("the token cannot be used: %s", stalled.Message)
		}
		if ready := meta.FindStatusCondition(token.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
			last = ready.Message
		}
		return meta.IsStatusConditionTrue(token.Status.Conditions, v1alpha1.ConditionPropagated), nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the token is not in force after %v. %s", patience, last)
	}
	return err
}

// discard deletes the object of a token that nobody has, also when ctx has ended.
func discard(ctx context.Context, c client.Client, token *v1alpha1.RegistryToken) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
	defer cancel()
	if err := c.Delete(ctx, token); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("the RegistryToken %s is left behind, delete it: %w", token.Name, err)
	}
	return nil
}

func scopeNames() []string {
	var names []string
	for _, scope := range wire.Scopes() {
		names = append(names, string(scope))
	}
	return names
}

// completeScopes completes the last of the scopes that are separated by commas with those not named yet.
func completeScopes(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	named := toComplete[:strings.LastIndex(toComplete, ",")+1]
	var completions []string
	for _, scope := range scopeNames() {
		if !slices.Contains(strings.Split(named, ","), scope) {
			completions = append(completions, named+scope)
		}
	}
	return completions, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// registries are the names to complete; none when they cannot be read.
func registries(ctx context.Context, connect func() (client.Client, string, error)) []string {
	ctx, cancel := context.WithTimeout(ctx, cleanup)
	defer cancel()
	c, namespace, err := connect()
	if err != nil {
		return nil
	}
	list := &v1alpha1.HelmRegistryList{}
	if c.List(ctx, list, client.InNamespace(namespace)) != nil {
		return nil
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}

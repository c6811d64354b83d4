// Command kubectl-chartroom is a plugin of kubectl: "kubectl chartroom token" makes a token for a person, whose secret
// never leaves the machine that it is made on.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	if err := rootCommand(connect).ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "kubectl chartroom: %v\n", err)
		return 1
	}
	return 0
}

// cluster is what the flags that kubectl has too say.
type cluster struct{ kubeconfig, context, namespace string }

// connector returns a client for the cluster, and the namespace to work in.
type connector func(cluster) (client.Client, string, error)

func rootCommand(connect connector) *cobra.Command {
	var where cluster
	root := &cobra.Command{
		Use:           "kubectl-chartroom",
		Short:         "Work with Chartroom's registries",
		Long:          "Work with Chartroom's registries of Helm charts. Wherever this program is in the PATH, it is \"kubectl chartroom\".",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl chartroom"},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&where.kubeconfig, "kubeconfig", "", "`file` that says how to reach the cluster (default: as kubectl)")
	flags.StringVar(&where.context, "context", "", "`name` of the context in it (default: the current one)")
	flags.StringVarP(&where.namespace, "namespace", "n", "", "`namespace` to work in (default: the context's)")
	root.AddCommand(tokenCommand(func() (client.Client, string, error) { return connect(where) }))
	return root
}

// connect reads the configuration as kubectl does.
func connect(where cluster) (client.Client, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = where.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: where.context}
	overrides.Context.Namespace = where.namespace
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	namespace, _, err := config.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("reading the configuration of kubectl: %w", err)
	}
	rest, err := config.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("reading the configuration of kubectl: %w", err)
	}
	rest.QPS = -1 // One look after the other, with a pause of its own; the client's limit would fail the last before a deadline.
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, "", err
	}
	c, err := client.New(rest, client.Options{Scheme: scheme})
	if err != nil {
		return nil, "", errors.Join(errors.New("the cluster cannot be reached"), err)
	}
	return c, namespace, nil
}

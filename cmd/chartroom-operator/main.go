// Command chartroom-operator is the operator: it brings up the HelmRegistries of a cluster and issues their tokens.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers"
)

// version is set by the linker.
var version = "dev"

// leaseName is the name of the Lease that the leader holds.
const leaseName = "chartroom-operator"

// settings are what the command line says.
type settings struct {
	controllers.Options
	metricsAddress, probeAddress string
	leaderElect                  bool
	logLevel                     slog.Level
}

func main() {
	err := run(ctrl.SetupSignalHandler(), os.Args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "chartroom-operator: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	log := logr.FromSlogHandler(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: s.logLevel}))
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the API server: %w", err)
	}
	config.UserAgent = "chartroom-operator/" + version
	// The controllers' workers bound the requests under way, and the API server shares itself out. A limit here would let a
	// revocation wait behind the status of a thousand tokens.
	config.QPS = -1
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Logger:                        log,
		Cache:                         controllers.Cache(),
		Metrics:                       metricsserver.Options{BindAddress: s.metricsAddress},
		HealthProbeBindAddress:        s.probeAddress,
		LeaderElection:                s.leaderElect,
		LeaderElectionID:              leaseName,
		LeaderElectionNamespace:       s.Namespace,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return fmt.Errorf("preparing the controllers: %w", err)
	}
	if err := errors.Join(
		manager.AddHealthzCheck("ping", healthz.Ping),
		manager.AddReadyzCheck("caches", func(r *http.Request) error { return synced(r.Context(), manager) }),
	); err != nil {
		return err
	}
	s.Metrics = metrics.Registry
	if err := controllers.Add(ctx, manager, s.Options); err != nil {
		return err
	}
	log.Info("starting", "version", version, "namespace", s.Namespace, "registryImage", s.RegistryImage)
	return manager.Start(ctx)
}

// synced says whether the operator has read the cluster.
func synced(ctx context.Context, manager ctrl.Manager) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if !manager.GetCache().WaitForCacheSync(ctx) {
		return errors.New("the caches are still being filled")
	}
	return nil
}

// ownAddress is a port of the pod's address, which the environment variable POD_IP tells, or of the loopback interface.
func ownAddress(port string) string {
	return net.JoinHostPort(cmp.Or(os.Getenv("POD_IP"), "127.0.0.1"), port)
}

// parse reads the command line.
func parse(args []string) (settings, error) {
	var s settings
	var showVersion bool
	flags := pflag.NewFlagSet("chartroom-operator", pflag.ContinueOnError)
	flags.StringVar(&s.RegistryImage, "registry-image", "", "image that registries run; another one rolls all registries, a few at a time")
	flags.StringVar(&s.Namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace of the operator itself, where its certificate authorities are; by default what the environment variable POD_NAMESPACE says")
	flags.StringVar(&s.metricsAddress, "metrics-bind-address", ownAddress("8080"), "address of the metrics; 0 for none")
	flags.StringVar(&s.probeAddress, "health-probe-bind-address", ownAddress("8081"), "address of /healthz and /readyz; 0 for none")
	flags.BoolVar(&s.leaderElect, "leader-elect", false, "hold a Lease, so that of several operators one acts")
	flags.StringSliceVar(&s.AllowedHostSuffixes, "allowed-host-suffixes", nil, "domains in which the operator signs certificates for the exposure.host of registries, for example charts.example.com")
	flags.BoolVar(&s.AllowPodImages, "allow-pod-images", false, "let podTemplate name images, so that whoever may create a HelmRegistry chooses what runs")
	flags.StringSliceVar(&s.AllowEgressCIDRs, "allow-egress-cidrs", nil, "networks in which registries may ask issuers of OIDC tokens for their keys, and tell receivers of events, although they are not public, for example 10.0.0.0/8; another value rolls all registries")
	flags.TextVar(&s.logLevel, "log-level", slog.LevelInfo, "least level of the log: debug, info, warn or error")
	flags.BoolVar(&showVersion, "version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if showVersion {
		fmt.Println(version)
		return s, pflag.ErrHelp
	}
	switch {
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q; there are flags only, see --help", flags.Arg(0))
	case s.RegistryImage == "":
		return s, errors.New("--registry-image is missing: write the image that registries are to run, for example localhost/chartroom:v0.1.0")
	case s.Namespace == "":
		return s, errors.New("--namespace is missing, and POD_NAMESPACE is not set: write the operator's own namespace, for example chartroom-system")
	}
	for _, network := range s.AllowEgressCIDRs {
		if prefix, err := netip.ParsePrefix(network); err != nil || prefix != prefix.Masked() {
			return s, fmt.Errorf("--allow-egress-cidrs: %q is no network: write it as 10.0.0.0/8 or fd00::/8, with zeros behind the prefix", network)
		}
	}
	return s, nil
}

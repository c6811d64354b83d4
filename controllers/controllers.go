// Package controllers puts the operator's controllers together.
package controllers

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/accesssync"
	"github.com/chartroom-dev/chartroom/controllers/helmregistry"
	"github.com/chartroom-dev/chartroom/controllers/internal/clusterissuer"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/pki"
	"github.com/chartroom-dev/chartroom/controllers/internal/policies"
	"github.com/chartroom-dev/chartroom/controllers/internal/registryclient"
	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
	"github.com/chartroom-dev/chartroom/controllers/inventory"
	"github.com/chartroom-dev/chartroom/controllers/oidcpolicy"
	"github.com/chartroom-dev/chartroom/controllers/podreports"
	"github.com/chartroom-dev/chartroom/controllers/registrytoken"
)

// Options are what the controllers must be told.
type Options struct {
	// Namespace is the operator's own. The certificate authorities are kept there.
	Namespace string
	// RegistryImage is the image that registries run.
	RegistryImage string
	// AllowedHostSuffixes are domains in which the operator signs certificates for exposure.host.
	AllowedHostSuffixes []string
	// AllowPodImages lets pod templates name images.
	AllowPodImages bool
	// AllowEgressCIDRs are networks in which registries may ask issuers of OIDC tokens for their keys although they are not
	// public.
	AllowEgressCIDRs []string
	// Metrics is where the controllers register what they measure.
	Metrics prometheus.Registerer
	// DialPod opens a connection to the admin port of a pod, DialService one to a registry's Service; nil means the network.
	DialPod, DialService func(ctx context.Context, network, address string) (net.Conn, error)
}

// Cache returns what the manager's cache must be made with: managed fields of what is cached there are read by nobody.
func Cache() cache.Options {
	return cache.Options{DefaultTransform: cache.TransformStripManagedFields()}
}

// Add adds every controller to a manager.
func Add(ctx context.Context, manager ctrl.Manager, o Options) error {
	owned, err := newOwned(manager)
	if err != nil {
		return err
	}
	if err := manager.GetFieldIndexer().IndexField(ctx, &v1alpha1.RegistryToken{}, tokens.IndexRegistry, tokens.RegistryOf); err != nil {
		return fmt.Errorf("indexing RegistryTokens by registry: %w", err)
	}
	for index, of := range map[string]client.IndexerFunc{policies.IndexRegistry: policies.RegistriesOf, policies.IndexSecret: policies.SecretsOf} {
		if err := manager.GetFieldIndexer().IndexField(ctx, &v1alpha1.OIDCPolicy{}, index, of); err != nil {
			return fmt.Errorf("indexing OIDCPolicies by %s: %w", index, err)
		}
	}
	cluster, err := newClusterIssuer(manager)
	if err != nil {
		return err
	}
	secrets := &policies.Secrets{Cached: manager.GetClient(), Live: manager.GetAPIReader()}
	if o.DialService == nil {
		o.DialService = (&net.Dialer{}).DialContext
	}
	record, said, uses, inventories := ledger.New(), reports.New(), reports.NewUses(), reports.NewInventories()
	measured, err := accesssync.NewMetrics(o.Metrics, record)
	if err != nil {
		return err
	}
	authorities := &pki.Store{Reader: manager.GetAPIReader(), Writer: manager.GetClient(), Namespace: o.Namespace}
	pods := registryclient.New(authorities.ClientTLS, o.DialPod)
	reconcilers := []interface{ SetupWithManager(ctrl.Manager) error }{
		&helmregistry.Reconciler{
			Client:              manager.GetClient(),
			APIReader:           manager.GetAPIReader(),
			Events:              manager.GetEventRecorder(helmregistry.FieldManager),
			Ledger:              record,
			Reports:             said,
			Inventories:         inventories,
			Pods:                pods,
			Authorities:         authorities,
			RegistryImage:       o.RegistryImage,
			OperatorNamespace:   o.Namespace,
			AllowedHostSuffixes: o.AllowedHostSuffixes,
			AllowPodImages:      o.AllowPodImages,
			AllowEgressCIDRs:    o.AllowEgressCIDRs,
			DialService:         o.DialService,
			Now:                 time.Now,
		},
		&registrytoken.Reconciler{
			Client:   manager.GetClient(),
			Owned:    owned,
			Live:     manager.GetAPIReader(),
			Ledger:   record,
			Uses:     uses,
			Recorder: manager.GetEventRecorder(registrytoken.FieldManager),
			Random:   rand.Reader,
			Now:      time.Now,
		},
		&accesssync.Reconciler{
			Client:   manager.GetClient(),
			Owned:    owned,
			Live:     manager.GetAPIReader(),
			Pods:     pods,
			Secrets:  secrets,
			Cluster:  cluster,
			Ledger:   record,
			Recorder: manager.GetEventRecorder(accesssync.FieldManager),
			Metrics:  measured,
			Now:      time.Now,
		},
		&oidcpolicy.Reconciler{
			Client:   manager.GetClient(),
			Live:     manager.GetAPIReader(),
			Secrets:  secrets,
			Cluster:  cluster,
			Ledger:   record,
			Reports:  said,
			Recorder: manager.GetEventRecorder(oidcpolicy.FieldManager),
			Now:      time.Now,
		},
		&podreports.Reconciler{Client: manager.GetClient(), Owned: owned, Pods: pods, Reports: said, Uses: uses},
		&inventory.Reconciler{
			Client:      manager.GetClient(),
			Owned:       owned,
			Pods:        pods,
			Inventories: inventories,
			Recorder:    manager.GetEventRecorder(inventory.FieldManager),
		},
	}
	for _, r := range reconcilers {
		if err := r.SetupWithManager(manager); err != nil {
			return err
		}
	}
	return nil
}

// newClusterIssuer adds to a manager what reads who issues the tokens of the cluster's service accounts.
func newClusterIssuer(manager ctrl.Manager) (*clusterissuer.Reader, error) {
	server, err := rest.UnversionedRESTClientForConfigAndClient(dynamic.ConfigFor(manager.GetConfig()), manager.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("preparing to ask the API server for its issuer: %w", err)
	}
	reader := clusterissuer.New(func(ctx context.Context, path string) ([]byte, error) {
		// The keys come as application/jwk-set+json.
		return server.Get().AbsPath(path).SetHeader("Accept", "*/*").Do(ctx).Raw()
	}, time.Now)
	if err := manager.Add(reader); err != nil {
		return nil, fmt.Errorf("adding what reads the cluster's issuer: %w", err)
	}
	return reader, nil
}

// newOwned adds a second cache to a manager, for whole objects that bear the operator's label, and only those: the
// cluster's other Secrets never come into the operator's memory.
func newOwned(manager ctrl.Manager) (cache.Cache, error) {
	strip := cache.ByObject{Transform: cache.TransformStripManagedFields()}
	owned, err := cluster.New(manager.GetConfig(), func(o *cluster.Options) {
		o.Scheme = manager.GetScheme()
		o.HTTPClient = manager.GetHTTPClient()
		o.MapperProvider = func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return manager.GetRESTMapper(), nil }
		o.Cache = cache.Options{
			DefaultLabelSelector: labels.SelectorFromSet(labels.Set{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}),
			// Those of Secrets say what is to be applied again.
			ByObject: map[client.Object]cache.ByObject{&corev1.Pod{}: strip, &corev1.ConfigMap{}: strip},
		}
	})
	if err != nil {
		return nil, fmt.Errorf("making the cache of the operator's own objects: %w", err)
	}
	if err := manager.Add(owned); err != nil {
		return nil, fmt.Errorf("adding the cache of the operator's own objects: %w", err)
	}
	return owned.GetCache(), nil
}

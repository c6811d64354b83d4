// Package registryserver assembles a registry server from its parts: storage, access, the OCI API, the admin port of
// the operator, health and metrics.
package registryserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/admin"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/exchange"
	"github.com/chartroom-dev/chartroom/registryserver/garbage"
	"github.com/chartroom-dev/chartroom/registryserver/ociapi"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/tlsfiles"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 32 << 10
	// smallTimeout bounds whole requests on the admin and metrics listeners, whose bodies are small.
	smallTimeout = 15 * time.Second
)

// Server is a registry server. Make it with New.
type Server struct {
	config   Config
	log      *slog.Logger
	enforcer *access.Enforcer
	health   *health
	requests *accessLog
	audit    *audit.Log
	// auditFile is nil where the record is kept in none.
	auditFile io.Closer
	proxies   proxies
	metrics   *metrics
	external  *url.URL
	pushes    pushes
	// quota counts what is stored, where anything is limited.
	quota *quota.Tracker
	// retention is there where a policy is.
	retention *retentionWork
	// inventory is nil when the server only deletes.
	inventory *inventoryWork
	// notifier tells receivers of events, where there are any.
	notifier *events.Notifier
	// history keeps the last changes for people; nil when the server only deletes.
	history *events.History

	public      *endpoint
	connections *connections
	endpoints   []*endpoint

	// garbage is nil when the server only deletes.
	garbage *garbage.Collector
	// purger is there when the server only deletes.
	purger *purger
}

// endpoint is a listener and what it serves.
type endpoint struct {
	name     string
	listener net.Listener
	server   *http.Server
}

// Outputs are where a server writes what it does.
type Outputs struct {
	Log *slog.Logger
	// Requests gets a line for each request, a moment after its answer, in the form that Config.Log says.
	Requests io.Writer
	// Audit gets the record of decisions, a moment after each, in lines of JSON.
	Audit io.Writer
}

// New opens the storage, reads the access snapshot, the keys and the certificates, and opens the listeners; Run serves
// them. c needs no defaults filled in. An error says what to change.
func New(ctx context.Context, c Config, out Outputs) (_ *Server, err error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	log := slog.New(withRequestID{out.Log.Handler()})
	s := &Server{config: c, log: log, requests: newAccessLog(out.Requests, c.Log.Format), metrics: newMetrics(c.Version)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.proxies, err = networks(c.TrustedProxies); err != nil {
		return nil, err
	}
	if err := s.openAudit(out.Audit); err != nil {
		return nil, err
	}
	s.health = &health{purging: c.Purge}
	var store *repository.Store
	var keys *keyFile
	if c.Purge {
		s.purger = s.newPurger(ctx)
	} else {
		if store, err = s.openStorage(ctx); err != nil {
			return nil, err
		}
		if keys, err = openKeys(c.Keys, log); err != nil {
			return nil, err
		}
	}
	// Opened before there is anybody to serve: OIDC tokens must be for the address that it has.
	if err := s.listenPublic(ctx); err != nil {
		return nil, err
	}
	if s.enforcer, err = s.newEnforcer(keys); err != nil {
		return nil, err
	}
	s.health.access = s.enforcer
	s.metrics.issuers(s.enforcer.Issuers)
	s.servePublic(store, keys)
	if err := s.listenAdmin(ctx); err != nil {
		return nil, err
	}
	if err := s.listenMetrics(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) openAudit(to io.Writer) error {
	if c := s.config.Audit; c.File != "" {
		file, err := audit.OpenFile(audit.FileOptions{Path: c.File, MaxMiB: c.MaxFileMiB, Keep: c.KeepFiles}, s.log)
		if err != nil {
			return err
		}
		s.auditFile = file
		to = audit.Both(to, file)
	}
	s.audit = audit.New(to, s.config.owner(), s.config.Audit.Reads, s.metrics.decided)
	return nil
}

func (c Config) owner() string { return c.Organization + "/" + c.Registry }

// OpenStore opens the storage that a configuration names, for commands that work on it beside a server or without one.
// c needs no defaults filled in; what has nothing to do with the content is ignored. It makes the storage of
// a new registry where there is none. An error says what to change.
func OpenStore(ctx context.Context, c Config) (*repository.Store, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	store, _, err := c.openStore(ctx, c.owner())
	return store, err
}

// OpenExisting is OpenStore for commands that look after what is stored: storage that no registry is in is an error,
// and nothing is made. Where c names neither an organization nor a registry, it does not matter whose the storage is.
func OpenExisting(ctx context.Context, c Config) (*repository.Store, error) {
	store, _, err := openExisting(ctx, c)
	return store, err
}

func openExisting(ctx context.Context, c Config) (*repository.Store, bucket.Bucket, error) {
	owner := ""
	full := c.WithDefaults()
	if c.Organization != "" || c.Registry != "" {
		owner = full.owner()
	}
	if err := full.Validate(); err != nil {
		return nil, nil, err
	}
	if d := full.Storage.Dir; d != "" {
		// Before anything is made in a directory that was mistyped.
		if _, err := os.Stat(filepath.Join(d, "objects")); err != nil {
			return nil, nil, fmt.Errorf("opening the storage in %s: %w: %w", d, repository.ErrNoRegistry, err)
		}
	}
	return full.openStore(ctx, owner)
}

// openStore opens the storage of the owner, or of whoever owns it where that is empty. c is complete.
func (c Config) openStore(ctx context.Context, owner string) (*repository.Store, bucket.Bucket, error) {
	b, err := c.Storage.open(ctx, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, nil, err
	}
	store, err := c.openStoreIn(ctx, b, owner, nil)
	return store, b, err
}

func (s *Server) contentDamaged(repository string, d digest.Digest) {
	s.metrics.damaged.Inc()
	s.log.Error("stored content is damaged, and is not served: push it again to mend it; chartroom verify says more", "chart", repository, "digest", d.String())
}

// openStorage opens the store that the server serves, and begins to learn what its storage can do.
func (s *Server) openStorage(ctx context.Context) (*repository.Store, error) {
	c := s.config
	b, err := c.Storage.open(ctx, s.log, s.metrics.storage)
	if err != nil {
		return nil, err
	}
	if s.quota, err = c.Quota.tracker(b); err != nil {
		return nil, err
	}
	var store *repository.Store
	if s.notifier, err = s.newNotifier(b, func() *repository.Store { return store }); err != nil {
		return nil, err
	}
	s.history = events.NewHistory(events.HistoryOptions{Bucket: b, Actor: actor, Log: s.log})
	store, err = c.openStoreIn(ctx, b, c.owner(), func(o *repository.Options) {
		o.Changed = s.history.Changed
		o.Damaged, o.Quota = s.contentDamaged, s.quota
		if s.notifier != nil {
			o.Record = s.notifier.Record
		}
		// Nobody is served before there is a collector.
		o.Unlinked = func(repository string) { s.garbage.Queue(repository) }
		o.Tagged = func(repository, tag string) { s.inventory.Tagged(repository, tag) }
		o.Referred = func(repository string, subject digest.Digest) { s.inventory.Referred(repository, subject) }
	})
	if err != nil {
		return nil, err
	}
	if s.quota != nil {
		s.metrics.quota(s.quota)
	}
	if err := s.collectGarbage(b, store); err != nil {
		return nil, err
	}
	s.health.probe.store, s.health.probe.fresh = store, c.Storage.probeFresh()
	s.health.diagnosis = &diagnosis{kind: c.Storage.kind(), bucket: b, log: s.log}
	s.health.diagnosis.learn(ctx)
	if s.retention, err = s.newRetention(store, b); err != nil {
		return nil, err
	}
	if s.inventory, err = s.newInventory(store, b); err != nil {
		return nil, err
	}
	return store, nil
}

func (s *Server) newEnforcer(keys *keyFile) (*access.Enforcer, error) {
	visibility, err := s.config.visibility()
	if err != nil {
		return nil, err
	}
	allowed, err := networks(s.config.AllowEgressCIDRs)
	if err != nil {
		return nil, err
	}
	if state := s.config.Access.StateDir; state != "" {
		if err := os.MkdirAll(state, 0o700); err != nil {
			return nil, fmt.Errorf("making access.stateDir: %w", err)
		}
	}
	options := access.EnforcerOptions{
		Registry:        s.config.owner(),
		File:            s.config.Access.File,
		StateDir:        s.config.Access.StateDir,
		Visibility:      visibility,
		Audience:        s.audience(),
		AllowedNetworks: allowed,
		Log:             s.log,
		Changed:         s.accessChanged,
	}
	if keys != nil {
		options.SessionKeys = keys.Keys
	}
	return access.NewEnforcer(options), nil
}

// audience is the registry's own address, which tokens are for.
func (s *Server) audience() string {
	return strings.TrimRight(s.external.String(), "/") + "/" + s.config.owner()
}

func (s *Server) accessChanged(source string, state wire.AccessState, problem error) {
	s.metrics.access(state)
	record := audit.Record{
		Action: audit.Access, Result: audit.Done, Digest: state.Digest, Reason: fmt.Sprintf("revision %d is in force, by %s", state.Revision, source),
	}
	if problem != nil {
		record.Result = audit.Refused
		record.Reason = fmt.Sprintf("what came by %s was not taken, and revision %d stays in force: %s", source, state.Revision, problem)
		s.log.Warn("an access snapshot was not taken", "source", source, "problem", problem, "revision", state.Revision)
	} else {
		s.log.Info("access snapshot in force", "source", source, "revision", state.Revision, "digest", state.Digest)
	}
	s.audit.Add(record)
}

func (s *Server) listenPublic(ctx context.Context) error {
	var config *tls.Config
	if s.config.TLS.Cert != "" {
		pair, err := tlsfiles.Load(s.config.TLS.Cert, s.config.TLS.Key, s.log)
		if err != nil {
			return fmt.Errorf("tls: %w", err)
		}
		config = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.GetCertificate}
	}
	e, err := s.listen(ctx, "public", s.config.Listen, config)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.public = e
	s.connections = newConnections(s.config.Limits.Connections, s.config.Limits.ConnectionsPerClient, s.proxies)
	e.server.ConnState = s.connections.changed
	s.external = s.config.external(e.listener.Addr())
	return nil
}

// servePublic says what the public listener serves. store and keys are nil where that is nothing.
func (s *Server) servePublic(store *repository.Store, keys *keyFile) {
	handler := &recorded{
		log: s.log, requests: s.requests, audit: s.audit, proxies: s.proxies, metrics: s.metrics, pushes: &s.pushes, patience: time.Duration(s.config.Limits.ClientTimeout),
		draining: &s.health.draining, next: http.HandlerFunc(refuseAll),
	}
	s.public.server.Handler = handler
	if s.config.Purge {
		return
	}
	admission := newAdmission(s.config.Limits)
	exchanges := exchange.Handler(exchange.Options{
		Access: s.enforcer, Audience: s.audience(), Allow: admission.allowExchange, Observe: observe, Log: s.log,
	})
	api := ociapi.New(ociapi.Options{
		Store:        store,
		RedirectFrom: s.config.Storage.redirectFrom(),
		Access:       s.enforcer,
		Organization: s.config.Organization,
		Registry:     s.config.Registry,
		ExternalURL:  s.external,
		UploadKeys:   keys.Keys,
		Logger:       s.log,
		Observe:      observe,
		Pulled:       s.retention.pulled(),
		Downloaded:   s.inventory.downloads.Downloaded,
		Failed:       s.requestFailed,
		Admit:        admission.admit,
	})
	faces := append(s.faces(store, admission), s.pages(store, admission))
	// Not by a ServeMux, which would rewrite paths before the API could judge them.
	handler.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == exchange.Path {
			exchanges.ServeHTTP(w, r)
			return
		}
		for _, f := range faces {
			if f.Serves(r.URL.Path) {
				f.ServeHTTP(w, r)
				return
			}
		}
		api.ServeHTTP(w, r)
	})
}

func (s *Server) listenAdmin(ctx context.Context) error {
	a := s.config.Admin
	if a.Listen == "" {
		return nil
	}
	config, err := admin.TLSConfig(a.Cert, a.Key, a.ClientCA, s.log)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	e, err := s.listen(ctx, "admin", a.Listen, config)
	if err != nil {
		return fmt.Errorf("admin.listen: %w", err)
	}
	options := admin.Options{Program: s.config.Version, Registry: s.config.owner(), Enforcer: s.enforcer, Storage: s.health.storage, Log: s.log}
	options.Usage = func() *wire.UsageState { return usage(s.quota) }
	options.Retention = s.retention.state
	if s.garbage != nil {
		options.Garbage = s.garbageState
	}
	if s.purger != nil {
		options.Purge = s.purger
	}
	if s.inventory != nil {
		options.Inventory = s.inventory
	}
	e.server.Handler = admin.Handler(options)
	e.server.ReadTimeout, e.server.WriteTimeout = smallTimeout, smallTimeout
	return nil
}

func (s *Server) listenMetrics(ctx context.Context) error {
	if s.config.Metrics.Listen == "" {
		return nil
	}
	e, err := s.listen(ctx, "metrics", s.config.Metrics.Listen, nil)
	if err != nil {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", serveAlive)
	mux.HandleFunc("GET /readyz", s.health.serveReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	e.server.Handler = mux
	e.server.ReadTimeout, e.server.WriteTimeout = smallTimeout, smallTimeout
	return nil
}

func (s *Server) listen(ctx context.Context, name, address string, config *tls.Config) (*endpoint, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another program listens on %s: end it, or choose another address", address)
	}
	if err != nil {
		return nil, err
	}
	e := &endpoint{name: name, listener: listener, server: &http.Server{
		TLSConfig:         config,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}}
	s.endpoints = append(s.endpoints, e)
	return e, nil
}

func (e *endpoint) serve() error {
	serve := e.server.Serve
	if e.server.TLSConfig != nil {
		serve = func(l net.Listener) error { return e.server.ServeTLS(l, "", "") }
	}
	if err := serve(e.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the %s listener: %w", e.name, err)
	}
	return nil
}

// URL is the address at which clients reach the registry, with the port that was opened.
func (s *Server) URL() *url.URL { return s.external }

// Addresses are those that were opened, by the names public, admin and metrics.
func (s *Server) Addresses() map[string]net.Addr {
	addresses := map[string]net.Addr{}
	for _, e := range s.endpoints {
		addresses[e.name] = e.listener.Addr()
	}
	return addresses
}

// Run serves until ctx ends, then lets running pushes and requests finish, for at most the drain timeout. It returns nil
// after that, and an error when a listener failed or requests had to be broken off.
func (s *Server) Run(ctx context.Context) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	failed := make(chan error, len(s.endpoints)+1)
	var running sync.WaitGroup
	start := func(f func() error) {
		running.Go(func() {
			if err := f(); err != nil {
				failed <- err
			}
		})
	}
	for _, e := range s.endpoints {
		start(e.serve)
	}
	start(func() error { return s.enforcer.Watch(background) })
	running.Go(func() { s.requests.lines.Run(background) })
	running.Go(func() { s.audit.Run(background) })
	running.Go(func() { s.health.settle(background, s.config.Admin.Listen != "") })
	if s.garbage != nil {
		running.Go(func() { s.garbage.Run(background) })
	}
	if s.health.diagnosis != nil {
		running.Go(func() { s.health.diagnosis.watch(background, s.config.Metrics.Listen != "") })
	}
	if s.quota != nil {
		running.Go(func() { keepCount(background, s.quota, s.log) })
	}
	s.retention.start(background, &running)
	s.inventory.start(background, &running)
	if s.history != nil {
		running.Go(func() { s.history.Run(background) })
	}
	if s.notifier != nil {
		running.Go(func() { s.notifier.Run(background) })
	}
	for name, address := range s.Addresses() {
		s.log.Info("listening", "for", name, "address", address.String())
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	err = errors.Join(err, s.drain(background))
	s.close()
	stop()
	running.Wait()
	if s.auditFile != nil {
		err = errors.Join(err, s.auditFile.Close())
	}
	return err
}

func (s *Server) close() {
	if s.purger != nil {
		s.purger.stop()
	}
	for _, e := range s.endpoints {
		// All that can go wrong is that they are closed already.
		_ = e.server.Close()
		_ = e.listener.Close()
	}
}

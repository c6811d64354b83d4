// Package registryserver assembles a registry server from its parts: storage, access, the OCI API, the admin port of
// the operator, health and metrics.
package registryserver

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/admin"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/ociapi"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/tlsfiles"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
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
	metrics  *metrics
	external *url.URL
	pushes   pushes

	public    *endpoint
	endpoints []*endpoint
}

// endpoint is a listener and what it serves.
type endpoint struct {
	name     string
	listener net.Listener
	server   *http.Server
}

// New opens the storage, reads the access snapshot, the keys and the certificates, and opens the listeners; Run serves
// them. c needs no defaults filled in. An error says what to change.
func New(ctx context.Context, c Config, log *slog.Logger) (_ *Server, err error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	log = slog.New(withRequestID{log.Handler()})
	s := &Server{config: c, log: log, metrics: newMetrics(c.Version)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	store, err := openStore(ctx, c)
	if err != nil {
		return nil, err
	}
	keys, err := openKeys(c.Keys, log)
	if err != nil {
		return nil, err
	}
	if s.enforcer, err = s.newEnforcer(); err != nil {
		return nil, err
	}
	s.health = &health{access: s.enforcer, probe: probe{store: store}}
	if err := s.listenPublic(ctx, store, keys); err != nil {
		return nil, err
	}
	if err := s.listenAdmin(ctx); err != nil {
		return nil, err
	}
	if err := s.listenMetrics(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (c Config) owner() string { return c.Organization + "/" + c.Registry }

func openStore(ctx context.Context, c Config) (*repository.Store, error) {
	b, err := dir.New(c.Storage.Dir)
	if err != nil {
		return nil, err
	}
	store, err := repository.Open(ctx, b, c.owner(), repository.Options{MaxBlobBytes: c.Limits.BlobBytes})
	if err != nil {
		return nil, fmt.Errorf("opening the storage in %s: %w", c.Storage.Dir, err)
	}
	return store, nil
}

func (s *Server) newEnforcer() (*access.Enforcer, error) {
	visibility, err := s.config.visibility()
	if err != nil {
		return nil, err
	}
	if state := s.config.Access.StateDir; state != "" {
		if err := os.MkdirAll(state, 0o700); err != nil {
			return nil, fmt.Errorf("making access.stateDir: %w", err)
		}
	}
	return access.NewEnforcer(access.EnforcerOptions{
		Registry:   s.config.owner(),
		File:       s.config.Access.File,
		StateDir:   s.config.Access.StateDir,
		Visibility: visibility,
		Changed:    s.accessChanged,
	}), nil
}

func (s *Server) accessChanged(source string, state wire.AccessState, problem error) {
	s.metrics.access(state)
	if problem != nil {
		s.log.Warn("an access snapshot was not taken", "source", source, "problem", problem, "revision", state.Revision)
		return
	}
	s.log.Info("access snapshot in force", "source", source, "revision", state.Revision, "digest", state.Digest)
}

func (s *Server) listenPublic(ctx context.Context, store *repository.Store, keys *keyFile) error {
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
	limit := &connections{most: s.config.Limits.Connections, open: map[net.Conn]*list.Element{}}
	e.server.ConnState = limit.changed
	s.external = s.config.external(e.listener.Addr())
	e.server.Handler = &recorded{
		log: s.log, metrics: s.metrics, pushes: &s.pushes, patience: time.Duration(s.config.Limits.ClientTimeout),
		next: ociapi.New(ociapi.Options{
			Store:        store,
			Access:       s.enforcer,
			Organization: s.config.Organization,
			Registry:     s.config.Registry,
			ExternalURL:  s.external,
			UploadKeys:   keys.Keys,
			Logger:       s.log,
			Observe:      observe,
		}),
	}
	return nil
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
	e.server.Handler = admin.Handler(admin.Options{
		Program: s.config.Version, Registry: s.config.owner(), Enforcer: s.enforcer, Log: s.log,
	})
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
	running.Go(func() { s.health.settle(background, s.config.Admin.Listen != "") })
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
	return err
}

func (s *Server) close() {
	for _, e := range s.endpoints {
		// All that can go wrong is that they are closed already.
		_ = e.server.Close()
		_ = e.listener.Close()
	}
}

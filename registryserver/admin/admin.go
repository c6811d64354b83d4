// Package admin is the face that a registry pod shows to the operator and to nobody else: it says what the pod
// enforces and takes access snapshots, on a listener of its own that only the operator's certificate opens.
package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/tlsfiles"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Options are what the admin port serves.
type Options struct {
	// Program is the version of the registry server.
	Program string
	// Registry is organization/slug.
	Registry string
	// Enforcer takes the snapshots.
	Enforcer *access.Enforcer
	// Storage says how the server finds its storage; nil says nothing.
	Storage func(ctx context.Context) wire.StorageState
	// Usage says what is stored, nil where nobody counts it; a nil function says nothing.
	Usage func() *wire.UsageState
	// Retention says what became of the retention policy; nil says nothing.
	Retention func() *wire.RetentionState
	// Garbage says what garbage collection has done; nil says nothing.
	Garbage func() wire.GarbageState
	// Inventory says what the registry holds; nil says nothing.
	Inventory Inventory
	// Purge deletes everything; nil where the server serves.
	Purge Purger
	// Log is told of snapshots that did not arrive; of all others Enforcer tells.
	Log *slog.Logger
}

// Purger deletes everything that the registry stores, in the background.
type Purger interface {
	// Begin begins, or goes on with what failed; State tells how far it is.
	Begin() wire.PurgeState
	State() wire.PurgeState
}

// Handler serves [wire.PathAbout], [wire.PathAccess], [wire.PathUses], [wire.PathPurge] and, where there is one,
// [wire.PathInventory] as they are described there. It does
// not ask who is calling: the listener does, see [TLSConfig].
func Handler(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.PathAbout, func(w http.ResponseWriter, r *http.Request) {
		about := wire.About{
			Program:        o.Program,
			Registry:       o.Registry,
			AccessVersions: wire.AccessVersions(),
			Access:         o.Enforcer.State(),
			Uses:           o.Enforcer.UseCount(),
			Issuers:        o.Enforcer.Issuers(),
		}
		if o.Storage != nil {
			about.Storage = o.Storage(r.Context())
		}
		if o.Usage != nil {
			about.Usage = o.Usage()
		}
		if o.Retention != nil {
			about.Retention = o.Retention()
		}
		if o.Garbage != nil {
			about.Garbage = o.Garbage()
		}
		respond(w, http.StatusOK, about)
	})
	if o.Inventory != nil {
		mux.Handle("GET "+wire.PathInventory, &inventory{of: o.Inventory, wait: wire.InventoryWait})
	}
	mux.HandleFunc("PUT "+wire.PathAccess, o.putAccess)
	mux.HandleFunc("GET "+wire.PathUses, func(w http.ResponseWriter, _ *http.Request) { respond(w, http.StatusOK, o.Enforcer.Uses()) })
	mux.HandleFunc("GET "+wire.PathPurge, func(w http.ResponseWriter, _ *http.Request) { o.purge(w, Purger.State) })
	mux.HandleFunc("POST "+wire.PathPurge, func(w http.ResponseWriter, _ *http.Request) { o.purge(w, Purger.Begin) })
	return mux
}

func (o Options) purge(w http.ResponseWriter, do func(Purger) wire.PurgeState) {
	if o.Purge == nil {
		respond(w, http.StatusConflict, wire.PurgeState{Phase: wire.PurgeIdle, Problem: "this pod serves: only one that was started with --purge deletes"})
		return
	}
	respond(w, http.StatusOK, do(o.Purge))
}

func (o Options) putAccess(w http.ResponseWriter, r *http.Request) {
	// One byte more than allowed, so that a document which is too large is refused for being so.
	document, err := io.ReadAll(io.LimitReader(r.Body, wire.MaxAccessBytes+1))
	if err != nil {
		o.Log.Warn("an access snapshot did not arrive whole", "error", err)
		respond(w, http.StatusBadRequest, o.Enforcer.State())
		return
	}
	state, err := o.Enforcer.Push(document)
	status := http.StatusOK
	switch {
	case errors.Is(err, access.ErrOlder):
		status = http.StatusConflict
	case errors.Is(err, access.ErrRefused):
		status = http.StatusUnprocessableEntity
	case err != nil:
		status = http.StatusInternalServerError
	}
	respond(w, status, state)
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// The only error is a client that has gone.
	_ = json.NewEncoder(w).Encode(body)
}

// TLSConfig is for the admin listener: TLS 1.3 alone, and a client certificate that an authority in the file clientCA
// signed for client authentication, with [wire.OperatorURI] as its only URI. All three files are read again when they
// change; what cannot be used goes to log and the last good ones stay in use.
func TLSConfig(certFile, keyFile, clientCA string, log *slog.Logger) (*tls.Config, error) {
	pair, err := tlsfiles.Load(certFile, keyFile, log)
	if err != nil {
		return nil, err
	}
	authorities, err := tlsfiles.LoadPool(clientCA, log)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: pair.GetCertificate,
		// The certificate is verified below rather than by crypto/tls, which would go on using the authorities that it
		// was started with. VerifyConnection is called for resumed sessions too.
		ClientAuth:       tls.RequireAnyClientCert,
		VerifyConnection: func(c tls.ConnectionState) error { return verifyOperator(c.PeerCertificates, authorities.Current()) },
	}, nil
}

// verifyOperator judges the chain that a client presented, leaf first.
func verifyOperator(chain []*x509.Certificate, authorities *x509.CertPool) error {
	if len(chain) == 0 {
		return errors.New("the admin port needs a client certificate")
	}
	leaf, intermediates := chain[0], x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	// Verify lets a certificate pass that names no usage at all.
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return errors.New("the client certificate is not for client authentication")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots:         authorities,
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return err
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != wire.OperatorURI {
		return errors.New("the client certificate is not the operator's")
	}
	return nil
}

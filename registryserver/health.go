package registryserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// firstPush is how long a new server waits for the operator before it is ready with what it has on disk.
	firstPush = 3 * time.Second
	// probeFresh is how long the outcome of a look at the storage is used again, and probePatience how long it may take.
	probeFresh    = 2 * time.Second
	probePatience = 3 * time.Second
)

// health answers whether the server should get requests.
type health struct {
	access *access.Enforcer
	probe  probe
	// settled is set once the first push has come, or has been waited for.
	settled  atomic.Bool
	draining atomic.Bool
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready bool `json:"ready"`
	// Reasons say why the server is not ready.
	Reasons []string `json:"reasons,omitempty"`
	// Warnings say what does not work although the server is ready.
	Warnings []string         `json:"warnings,omitempty"`
	Access   wire.AccessState `json:"access"`
}

// settle waits for the operator's first push, if there is an operator.
func (h *health) settle(ctx context.Context, operated bool) {
	if operated {
		timer := time.NewTimer(firstPush)
		defer timer.Stop()
		select {
		case <-h.access.Pushed():
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	h.settled.Store(true)
}

func (h *health) readiness(ctx context.Context) readiness {
	r := readiness{Access: h.access.State()}
	if h.draining.Load() {
		r.Reasons = append(r.Reasons, "the server is shutting down")
	}
	if !h.settled.Load() {
		r.Reasons = append(r.Reasons, "waiting for the operator's first access snapshot")
	}
	switch {
	case r.Access.Digest == "":
		r.Reasons = append(r.Reasons, "no access snapshot is in force: "+r.Access.Problem)
	case r.Access.Problem != "":
		r.Warnings = append(r.Warnings, "the newest access snapshot was not taken: "+r.Access.Problem)
	}
	readable, writable := h.probe.look(ctx)
	switch {
	case readable != nil:
		r.Reasons = append(r.Reasons, "the storage cannot be read: "+readable.Error())
	case writable != nil:
		r.Warnings = append(r.Warnings, "the storage cannot be written to, so pushes fail: "+writable.Error())
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

func (h *health) serveReady(w http.ResponseWriter, r *http.Request) {
	answer := h.readiness(r.Context())
	w.Header().Set("Content-Type", "application/json")
	if !answer.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	// When the client is gone, nobody is left to tell.
	_ = encoder.Encode(answer)
}

func serveAlive(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

var errNoAnswer = errors.New("the storage does not answer")

// probe looks at the storage, at most one look at a time, so that a file system that hangs does not collect
// goroutines, and not more often than probeFresh, because a look writes.
type probe struct {
	store *repository.Store

	mu                 sync.Mutex
	running            chan struct{}
	at                 time.Time
	readable, writable error
}

func (p *probe) look(ctx context.Context) (readable, writable error) {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	p.mu.Lock()
	if p.running == nil && time.Since(p.at) >= probeFresh {
		p.running = make(chan struct{})
		// A look outlives who asked for it, so that the next one finds its outcome.
		go p.run(context.WithoutCancel(ctx), p.running)
	}
	running := p.running
	p.mu.Unlock()
	if running != nil {
		select {
		case <-running:
		case <-ctx.Done():
			return errNoAnswer, errNoAnswer
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.readable, p.writable
}

func (p *probe) run(ctx context.Context, done chan struct{}) {
	readable, writable := p.store.Check(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readable, p.writable, p.at, p.running = readable, writable, time.Now(), nil
	close(done)
}

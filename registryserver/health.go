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
	// probePatience is how long a look at the storage may take.
	probePatience = 3 * time.Second
	// probeStale is when an outcome says nothing any more, because looks hang or nobody asks for them.
	probeStale = 30 * time.Second
)

// health answers whether the server should get requests.
type health struct {
	access    *access.Enforcer
	probe     probe
	diagnosis *diagnosis
	// settled is set once the first push has come, or has been waited for.
	settled  atomic.Bool
	draining atomic.Bool
	// purging says that the server only deletes.
	purging bool
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready bool `json:"ready"`
	// Reasons say why the server is not ready.
	Reasons []string `json:"reasons,omitempty"`
	// Warnings say what does not work although the server is ready.
	Warnings []string         `json:"warnings,omitempty"`
	Access   wire.AccessState `json:"access"`
	Storage  storageReport    `json:"storage"`
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
	if h.purging {
		return readiness{Access: h.access.State(), Reasons: []string{"the registry is being deleted with its charts"}}
	}
	r := readiness{Access: h.access.State(), Storage: h.diagnosis.report()}
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
	if warning := h.diagnosis.warning(); warning != "" {
		r.Warnings = append(r.Warnings, warning)
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

// storage is what the operator is told.
func (h *health) storage(ctx context.Context) wire.StorageState {
	if h.purging {
		return wire.StorageState{}
	}
	state := wire.StorageState{Kind: h.diagnosis.kind, SingleWriter: h.diagnosis.warning() != ""}
	readable, writable := h.probe.last(ctx)
	switch {
	case readable != nil:
		state.Problem = "it cannot be read: " + readable.Error()
	case writable != nil:
		state.Problem = "it cannot be written to, so pushes fail: " + writable.Error()
	case state.Kind == wire.StorageS3 && !h.diagnosis.knows():
		state.Problem = "it could not be found out yet whether several pods may write to it"
	}
	return state
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
// goroutines, and not more often than fresh, because a look writes.
type probe struct {
	store *repository.Store
	fresh time.Duration

	mu                 sync.Mutex
	running            chan struct{}
	at                 time.Time
	readable, writable error
}

func (p *probe) look(ctx context.Context) (readable, writable error) {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	p.mu.Lock()
	if p.running == nil && time.Since(p.at) >= p.fresh {
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

// last is the outcome of the last look, as long as readiness keeps looking; who asks for it does not wait then.
func (p *probe) last(ctx context.Context) (readable, writable error) {
	p.mu.Lock()
	readable, writable, age := p.readable, p.writable, time.Since(p.at)
	p.mu.Unlock()
	if age < probeStale {
		return readable, writable
	}
	return p.look(ctx)
}

func (p *probe) run(ctx context.Context, done chan struct{}) {
	readable, writable := p.store.Check(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readable, p.writable, p.at, p.running = readable, writable, time.Now(), nil
	close(done)
}

package registryserver

import (
	"context"
	"log/slog"
	"net/http"
	"sync"

	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/ociapi"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// purger deletes everything that the registry stores, in the background, when it is told to.
type purger struct {
	// open opens the storage, without making it a registry's.
	open  func(ctx context.Context) (bucket.Bucket, error)
	owner string
	log   *slog.Logger
	// begun is called when a deletion begins, or goes on.
	begun func()
	// ctx is the time of what Begin starts; cancel ends it.
	ctx    context.Context //nolint:containedctx // What is begun outlives the request that begins it.
	cancel context.CancelFunc

	running sync.WaitGroup
	mu      sync.Mutex
	state   wire.PurgeState
}

func (s *Server) newPurger(ctx context.Context) *purger {
	p := &purger{
		owner: s.config.owner(), log: s.log, state: wire.PurgeState{Phase: wire.PurgeIdle},
		open: func(ctx context.Context) (bucket.Bucket, error) {
			return s.config.Storage.open(ctx, s.log, s.metrics.storage)
		},
		begun: func() {
			s.audit.Add(audit.Record{Action: audit.Delete, Result: audit.Done, Identity: "operator", Reason: "everything that the registry stores is being deleted, with the registry"})
		},
	}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return p
}

// stop breaks a deletion off; another server goes on with it.
func (p *purger) stop() {
	p.cancel()
	p.running.Wait()
}

// State says how far the deletion is.
func (p *purger) State() wire.PurgeState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Begin begins the deletion, or goes on with one that failed.
func (p *purger) Begin() wire.PurgeState {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.Phase == wire.PurgeIdle || p.state.Phase == wire.PurgeFailed {
		before := p.state.Deleted
		p.state.Phase, p.state.Problem = wire.PurgeRunning, ""
		p.begun()
		p.running.Go(func() { p.run(before) })
	}
	return p.state
}

func (p *purger) run(before int64) {
	p.log.Warn("deleting everything that the registry stores, as the operator says")
	b, err := p.open(p.ctx)
	if err == nil {
		err = repository.Purge(p.ctx, b, p.owner, func(deleted int64) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.state.Deleted = before + deleted
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.state.Phase, p.state.Problem = wire.PurgeFailed, err.Error()
		p.log.Error("deleting everything failed", "error", err, "deleted", p.state.Deleted)
		return
	}
	p.state.Phase = wire.PurgeDone
	p.log.Warn("everything is deleted", "objects", p.state.Deleted)
}

// refuseAll answers those who do not know yet that the registry is being deleted.
func refuseAll(w http.ResponseWriter, _ *http.Request) {
	ociapi.WriteError(w, http.StatusServiceUnavailable, "UNAVAILABLE", "the registry is being deleted with its charts")
}

package registryserver

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// pushGap is the longest time between two requests of one push: a round trip or two, and a TLS handshake.
	pushGap = 2 * time.Second
	// drainPoll is how often it is looked whether pushes have ended.
	drainPoll = 20 * time.Millisecond
)

// pushes knows whether somebody pushes. A push is a row of requests, often on several connections, and the server sees
// the requests only.
type pushes struct {
	mu      sync.Mutex
	running int
	// last is when a request of a push last succeeded.
	last time.Time
}

// begin counts a request; end is to be called with the status of its answer.
func (p *pushes) begin(method string) (end func(status int)) {
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
	default:
		return func(int) {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running++
	return func(status int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.running--
		if status < http.StatusMultipleChoices {
			p.last = time.Now()
		}
	}
}

func (p *pushes) quiet() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running == 0 && time.Since(p.last) >= pushGap
}

// wait returns when nobody pushes any more, or ctx ends.
func (p *pushes) wait(ctx context.Context) {
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for !p.quiet() {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// drain lets pushes finish, then refuses new connections and waits for running requests. Health and access go on
// meanwhile: a token that is revoked now ends what its holder is doing.
func (s *Server) drain(ctx context.Context) error {
	timeout := time.Duration(s.config.DrainTimeout)
	s.health.draining.Store(true)
	s.log.Info("shutting down: running pushes may finish", "within", timeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// Where pushes never end, the last ones get the rest of the time to.
	pushing, stop := context.WithTimeout(ctx, timeout-timeout/10)
	defer stop()
	s.pushes.wait(pushing)
	if err := s.public.server.Shutdown(ctx); err != nil {
		return fmt.Errorf("requests were broken off after %s: %w", timeout, err)
	}
	return nil
}

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

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// drain goes on as before until whoever leads clients here has learned that it is over, see waitForStragglers; then it
// lets pushes finish, new connections and waits for running requests. Health and access go on
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
	s.waitForStragglers(pushing)
	s.pushes.wait(pushing)
	if err := s.public.server.Shutdown(ctx); err != nil {
		return fmt.Errorf("requests were broken off after %s: %w", timeout, err)
	}
	return nil
}

// waitForStragglers returns once nobody has opened a connection for the drain delay, and not before the delay is over: who
// sends clients here may learn late that this server is ending, and what still comes shows it. It returns when ctx ends
// at the latest.
func (s *Server) waitForStragglers(ctx context.Context) {
	last := time.Now()
	for ctx.Err() == nil {
		rest := time.Until(last.Add(time.Duration(s.config.DrainDelay)))
		if rest <= 0 {
			return
		}
		sleep(ctx, rest)
		if opened := s.connections.lastOpened(); opened.After(last) {
			last = opened
		}
	}
}

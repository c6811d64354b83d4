// Package limits bounds what one client, and what all of them together, may have a server do. What is kept to know that
// is bounded too, whoever asks.
package limits

import (
	"context"
	"sync"
	"time"
)

// Gate bounds how many run at once: all of them, and each client's. What is over waits a little. Make it with NewGate.
type Gate struct {
	each     int
	patience time.Duration
	// all are the places that are taken.
	all chan struct{}

	mu sync.Mutex
	// clients has those with something that runs or waits, and no others.
	clients map[string]*client
}

// client are the places that one client has taken, and how many of its run or wait.
type client struct {
	taken chan struct{}
	users int
}

// NewGate lets in all at once, of which each client may have so many; one more waits for at most patience.
func NewGate(all, each int, patience time.Duration) *Gate {
	return &Gate{each: each, patience: patience, all: make(chan struct{}, all), clients: map[string]*client{}}
}

// Enter takes a place for a client, which leave gives back. ok is false when there was none in time, or ctx ended.
func (g *Gate) Enter(ctx context.Context, name string) (leave func(), ok bool) {
	own := g.join(name)
	until := time.Now().Add(g.patience)
	// One's own place first: whoever waits for it holds none that another client could use.
	if !take(ctx, own.taken, until) {
		g.part(name, own)
		return nil, false
	}
	if !take(ctx, g.all, until) {
		<-own.taken
		g.part(name, own)
		return nil, false
	}
	return func() {
		<-g.all
		<-own.taken
		g.part(name, own)
	}, true
}

func (g *Gate) join(name string) *client {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.clients[name]
	if c == nil {
		c = &client{taken: make(chan struct{}, g.each)}
		g.clients[name] = c
	}
	c.users++
	return c
}

func (g *Gate) part(name string, c *client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.users--; c.users == 0 {
		delete(g.clients, name)
	}
}

func take(ctx context.Context, places chan struct{}, until time.Time) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}

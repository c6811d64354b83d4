package limits

import (
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

// maxClients bounds the clients whose rate is known, at about 200 bytes each.
const maxClients = 10_000

// Rates bounds how often each client may do something. Make it with NewRates.
type Rates struct {
	perSecond rate.Limit
	burst     int

	mu      sync.Mutex
	clients map[string]*rate.Limiter
}

// NewRates allows each client so many a second in the long run, and a burst at once.
func NewRates(perSecond float64, burst int) *Rates {
	return &Rates{perSecond: rate.Limit(perSecond), burst: burst, clients: map[string]*rate.Limiter{}}
}

// Allow counts one for a client; false says that it is one too many.
func (r *Rates) Allow(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	limiter := r.clients[name]
	if limiter == nil {
		if len(r.clients) >= maxClients {
			r.forget()
		}
		limiter = rate.NewLimiter(r.perSecond, r.burst)
		r.clients[name] = limiter
	}
	return limiter.Allow()
}

// forget makes room for half as many: first those who have all of their burst, for whom nothing is lost, then anybody.
func (r *Rates) forget() {
	for name, limiter := range r.clients {
		if limiter.Tokens() >= float64(r.burst) {
			delete(r.clients, name)
		}
	}
	for name := range r.clients {
		if len(r.clients) <= maxClients/2 {
			break
		}
		delete(r.clients, name)
	}
}

// Address is the client behind a remote address (host:port): the IPv4 address, or the /64 network of an IPv6 one, of
// which each client has a whole one to itself.
func Address(remote string) string {
	address, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	ip := address.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	network, err := ip.Prefix(64)
	if err != nil {
		return ip.String()
	}
	return network.String()
}

package registryserver

import (
	"net/http"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/limits"
	"github.com/chartroom-dev/chartroom/registryserver/web"
)

const (
	// placePatience is how long a request waits for others of its kind to end before it is sent away.
	placePatience = 5 * time.Second
	// A client that is set up wrongly fails to log in a few times; one that tries secrets fails for as long as it is let.
	failedLoginsPerSecond, failedLoginsBurst = 10, 100
	// An exchange of tokens is made once in a push.
	exchangesPerSecond, exchangesBurst = 10, 100
	// A page with a text takes up to 4 MiB until a slow client has it.
	texts, textsPerClient = 16, 8
	// requestsBurst is how many seconds' worth of requests may come at once.
	requestsBurst = 2
)

// admission bounds what clients may have the server do: by identity, and by address where nobody has logged in.
type admission struct {
	logins, exchanges *limits.Rates
	requests, all     *limits.Rates // Nil where they are not bounded.
	uploads, listings *limits.Gate
	texts             *limits.Gate
}

func newAdmission(c LimitsConfig) *admission {
	a := &admission{
		logins:    limits.NewRates(failedLoginsPerSecond, failedLoginsBurst),
		exchanges: limits.NewRates(exchangesPerSecond, exchangesBurst),
		uploads:   limits.NewGate(c.Uploads, c.UploadsPerClient, placePatience),
		listings:  limits.NewGate(c.Listings, c.ListingsPerClient, placePatience),
		texts:     limits.NewGate(texts, textsPerClient, placePatience),
	}
	if c.RequestsPerSecond > 0 {
		a.requests = limits.NewRates(float64(c.RequestsPerSecond), requestsBurst*c.RequestsPerSecond)
	}
	if n := c.RegistryRequestsPerSecond; n > 0 {
		a.all = limits.NewRates(float64(n), requestsBurst*n)
	}
	return a
}

// admit is for face.Door.
func (a *admission) admit(r *http.Request, identity string, load face.Load) (leave func(), ok bool) {
	client := identity
	if client == "" {
		client = limits.Address(r.RemoteAddr)
	}
	if load == face.FailedLogin {
		return func() {}, a.logins.Allow(client)
	}
	if a.requests != nil && !a.requests.Allow(client) || a.all != nil && !a.all.Allow("") {
		return nil, false
	}
	switch load {
	case face.Upload:
		return a.uploads.Enter(r.Context(), client)
	case face.Listing:
		return a.listings.Enter(r.Context(), client)
	}
	return func() {}, true
}

// admitPage is for web.Options.
func (a *admission) admitPage(r *http.Request, identity string, l web.Load) (leave func(), ok bool) {
	switch l {
	case web.Listing:
		return a.admit(r, identity, face.Listing)
	case web.Text:
		if leave, ok = a.admit(r, identity, face.Light); !ok {
			return nil, false
		}
		leave()
		if identity == "" {
			identity = limits.Address(r.RemoteAddr)
		}
		return a.texts.Enter(r.Context(), identity)
	}
	return a.admit(r, identity, face.Light)
}

// allowExchange is for exchange.Options.
func (a *admission) allowExchange(r *http.Request) bool {
	return a.exchanges.Allow(limits.Address(r.RemoteAddr))
}

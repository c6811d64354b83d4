package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	// unknownKeyPause is how long after one look for keys the next is had because of a key that is not known: whoever
	// makes up ids of keys does not make us ask the issuer for each.
	unknownKeyPause = time.Minute
	// failurePause is how long after a failure the next attempt is made, where there are no keys at all.
	failurePause = 10 * time.Second
	// staleLimit is how long keys are used that should have been looked for again, while the issuer does not answer.
	staleLimit = 24 * time.Hour
	// lookInterval is how often Run looks which keys are due.
	lookInterval = 15 * time.Second
)

// Keys knows the keys of issuers, and looks for them. Make it with NewKeys. All methods may be called from many
// goroutines; who waits for one issuer does not wait for another.
type Keys struct {
	o Options

	mu   sync.Mutex
	sets map[string]*set // By Source.Fingerprint.
	used chan struct{}

	// lifetime is that of the requests to issuers, which are nobody's in particular.
	lifetime context.Context //nolint:containedctx // As above.
	end      context.CancelFunc
	// starting is held while a request begins, and while it is said that no more do.
	starting sync.Mutex
	running  sync.WaitGroup
}

// Options configure Keys.
type Options struct {
	// AllowedNetworks may be dialled although they are not public.
	AllowedNetworks []netip.Prefix
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log is told when an issuer cannot be asked, and when it can again; nil means nowhere.
	Log *slog.Logger
}

// set is what is known of one source.
type set struct {
	source Source
	client *http.Client

	mu   sync.Mutex
	keys map[string]key
	// fetched is when the keys came, due when they are to be looked for again, tried when somebody last did.
	fetched, due, tried time.Time
	problem             string
	// flight is closed when the look that is under way has ended; nil when none is.
	flight chan struct{}
}

// State is what is known of a source.
type State struct {
	// Source is its fingerprint.
	Source string
	Issuer string
	// Given says that the keys are part of the source, so that nobody is asked for them.
	Given bool
	// Keys is how many keys tokens are verified with now.
	Keys int
	// Refreshed is when they came; zero for those that are part of the source.
	Refreshed time.Time
	// Problem says why the issuer could not be asked the last time, in one sentence.
	Problem string
}

// NewKeys returns Keys that know no source yet.
func NewKeys(o Options) *Keys {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keys{o: o, sets: map[string]*set{}, used: make(chan struct{}, 1)}
	k.lifetime, k.end = context.WithCancel(context.Background())
	return k
}

// Use says which sources there are from now on. Others are forgotten; what is known of those that stay is kept.
func (k *Keys) Use(sources []Source) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := make(map[string]*set, len(sources))
	for _, source := range sources {
		id := source.Fingerprint()
		if next[id] = k.sets[id]; next[id] == nil {
			next[id] = k.newSet(source)
		}
	}
	k.sets = next
	select {
	case k.used <- struct{}{}:
	default:
	}
}

func (k *Keys) newSet(source Source) *set {
	s := &set{source: source}
	if source.JWKS == "" {
		s.client = source.client(k.o.AllowedNetworks)
		return s
	}
	var err error
	if s.keys, err = parseKeys([]byte(source.JWKS)); err != nil {
		s.problem = err.Error()
	}
	return s
}

// Run looks for keys before tokens need them, until ctx ends, and lets nothing run on after that. It returns nil.
func (k *Keys) Run(ctx context.Context) error {
	defer k.Close()
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		k.refresh()
		select {
		case <-ctx.Done():
			return nil
		case <-k.used:
		case <-ticker.C:
		}
	}
}

// refresh begins to look for all keys that are due.
func (k *Keys) refresh() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.sets {
		s.mu.Lock()
		if now := k.o.Now(); s.client != nil && !now.Before(s.due) {
			k.look(s, now)
		}
		s.mu.Unlock()
	}
}

// Close ends all requests to issuers. No more are made.
func (k *Keys) Close() {
	k.starting.Lock()
	k.end()
	k.starting.Unlock()
	k.running.Wait()
}

// States says what is known of the sources, in no order.
func (k *Keys) States() []State {
	k.mu.Lock()
	defer k.mu.Unlock()
	states := make([]State, 0, len(k.sets))
	for id, s := range k.sets {
		s.mu.Lock()
		state := State{Source: id, Issuer: s.source.Issuer, Given: s.client == nil, Refreshed: s.fetched, Problem: s.problem}
		if s.usable(k.o.Now()) {
			state.Keys = len(s.keys)
		}
		s.mu.Unlock()
		states = append(states, state)
	}
	return states
}

// Verify proves that a token was signed with a key of the source. It may ask the issuer, and then waits for at most 5
// seconds, or until ctx ends.
func (k *Keys) Verify(ctx context.Context, source Source, t *Token) error {
	k.mu.Lock()
	s := k.sets[source.Fingerprint()]
	k.mu.Unlock()
	if s == nil {
		return errors.New("the issuer is no longer in use")
	}
	// The issuer whose keys they are, whatever the caller looked the source up by.
	if s.source.Issuer != t.Issuer {
		return errors.New("the token is another issuer's")
	}
	found, err := k.find(ctx, s, t.keyID)
	if err != nil {
		return err
	}
	return t.verify(found)
}

// find returns the key of that id, and looks for it at the issuer's when it is not known.
func (k *Keys) find(ctx context.Context, s *set, id string) (key, error) {
	s.mu.Lock()
	found, known := s.lookUp(id, k.o.Now())
	var flight <-chan struct{}
	if !known && s.client != nil {
		flight = k.look(s, k.o.Now())
	}
	s.mu.Unlock()
	if known {
		return found, nil
	}
	if flight != nil {
		select {
		case <-flight:
		case <-ctx.Done():
			return key{}, fmt.Errorf("waiting for the issuer's keys: %w", ctx.Err())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, known = s.lookUp(id, k.o.Now()); known {
		return found, nil
	}
	if s.problem != "" {
		return key{}, fmt.Errorf("the issuer has no key %.80q that is known here, and could not be asked: %s", id, s.problem)
	}
	return key{}, fmt.Errorf("the issuer has no key %.80q; it was last asked at %s", id, s.tried.UTC().Format(time.RFC3339))
}

// lookUp finds a key. s is locked.
func (s *set) lookUp(id string, now time.Time) (key, bool) {
	if !s.usable(now) {
		return key{}, false
	}
	found, known := s.keys[id]
	return found, known
}

// usable reports whether there are keys that are not too old. s is locked.
func (s *set) usable(now time.Time) bool {
	return len(s.keys) > 0 && (s.client == nil || now.Before(s.due.Add(staleLimit)))
}

// look begins to look for keys, unless somebody is about it or did a moment ago. It returns what is closed when the look
// has ended, or nil. s is locked.
func (k *Keys) look(s *set, now time.Time) <-chan struct{} {
	if s.flight != nil {
		return s.flight
	}
	pause := unknownKeyPause
	if !s.usable(now) {
		pause = failurePause
	}
	k.starting.Lock()
	defer k.starting.Unlock()
	if !s.tried.IsZero() && now.Sub(s.tried) < pause || k.lifetime.Err() != nil {
		return nil
	}
	s.tried, s.flight = now, make(chan struct{})
	k.running.Go(func() { k.fetch(s) })
	return s.flight
}

func (k *Keys) fetch(s *set) {
	keys, maxAge, err := s.source.fetch(k.lifetime, s.client)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := k.o.Now()
	before := s.problem
	if err == nil {
		// All of them, so that what the issuer has dropped is dropped here.
		s.keys, s.fetched, s.due, s.problem = keys, now, now.Add(maxAge), ""
	} else {
		s.problem = err.Error()
	}
	close(s.flight)
	s.flight = nil
	switch {
	case k.lifetime.Err() != nil:
	case err != nil && before == "":
		k.o.Log.Warn("an issuer's keys could not be fetched", "issuer", s.source.Issuer, "problem", err, "keys", len(s.keys))
	case err == nil && before != "":
		k.o.Log.Info("an issuer's keys were fetched again", "issuer", s.source.Issuer, "keys", len(keys))
	}
}

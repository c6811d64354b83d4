// Package clusterissuer knows who issues the tokens of the cluster's service accounts, and with which keys: it reads both
// from the API server, so that registry pods need no access to it.
package clusterissuer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/chartroom-dev/chartroom/controllers/internal/board"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Paths at the API server.
const (
	pathDiscovery = "/.well-known/openid-configuration"
	pathKeys      = "/openid/v1/jwks"
)

const (
	// period is the time between two looks: how long a new key may be unknown.
	period = time.Minute
	// soon is the time until the next look when nothing is known yet.
	soon = 5 * time.Second
	// timeout bounds one look.
	timeout = 10 * time.Second
	// maxKeysBytes bounds the keys; a usual set has less than a kilobyte.
	maxKeysBytes = 32 << 10
	// noted is how often it is noted that the keys are still the same.
	noted = time.Hour
)

// State is what is known of the issuer.
type State struct {
	// Issuer is its address with its keys, sorted; empty when nothing is known.
	Issuer wire.Issuer
	// Keys is how many there are.
	Keys int
	// Refreshed is when they were read, give or take an hour where they stay the same.
	Refreshed time.Time
	// Problem says why they could not be read the last time; empty when they could.
	Problem string
}

// +kubebuilder:rbac:urls=/.well-known/openid-configuration;/openid/v1/jwks,verbs=get

// Reader keeps reading. Make it with New.
type Reader struct {
	get   func(ctx context.Context, path string) ([]byte, error)
	now   func() time.Time
	board *board.Board[State]
}

// New returns a Reader that knows nothing yet. get reads a path of the API server; now is the clock.
func New(get func(ctx context.Context, path string) ([]byte, error), now func() time.Time) *Reader {
	return &Reader{get: get, now: now, board: board.New[State]()}
}

// State returns what is known.
func (r *Reader) State() State {
	state, _ := r.board.State(types.NamespacedName{})
	return state
}

// Issuer returns the issuer; false when nothing is known of it yet.
func (r *Reader) Issuer() (wire.Issuer, bool) {
	issuer := r.State().Issuer
	return issuer, issuer.Issuer != ""
}

// Source wakes a controller whenever the state changes.
func (r *Reader) Source(requests func(ctx context.Context) []reconcile.Request) source.Source {
	return r.board.Source(func(ctx context.Context, _ types.NamespacedName) []reconcile.Request { return requests(ctx) })
}

// Start reads until ctx ends. It returns nil.
func (r *Reader) Start(ctx context.Context) error {
	for {
		r.Look(ctx)
		pause := period
		if _, known := r.Issuer(); !known {
			pause = soon
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// Look reads once. What could not be read stays as it was.
func (r *Reader) Look(ctx context.Context) {
	before := r.State()
	state, err := r.read(ctx)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		state = before
		state.Problem = fmt.Sprintf("the issuer of the cluster's service accounts could not be read from the API server: %.300v", err)
	case state.Issuer == before.Issuer && before.Problem == "" && state.Refreshed.Sub(before.Refreshed) < noted:
		return
	}
	r.board.Set(types.NamespacedName{}, state)
}

func (r *Reader) read(ctx context.Context) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	text, err := r.get(ctx, pathDiscovery)
	if err != nil {
		return State{}, err
	}
	var discovery struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(text, &discovery); err != nil || discovery.Issuer == "" {
		return State{}, fmt.Errorf("%s names no issuer", pathDiscovery)
	}
	if text, err = r.get(ctx, pathKeys); err != nil {
		return State{}, err
	}
	keys, err := canonical(text)
	if err != nil {
		return State{}, fmt.Errorf("%s: %w", pathKeys, err)
	}
	issuer := wire.Issuer{Issuer: discovery.Issuer, JWKS: keys}
	n, err := (oidc.Source{Issuer: issuer.Issuer, JWKS: issuer.JWKS}).Given()
	if err != nil {
		return State{}, fmt.Errorf("%s: %w", pathKeys, err)
	}
	return State{Issuer: issuer, Keys: n, Refreshed: r.now()}, nil
}

// canonical writes a set of keys so that the same keys have the same bytes, in whatever order they were.
func canonical(text []byte) (string, error) {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return "", fmt.Errorf("it is no set of keys: %w", err)
	}
	keys := make([]json.RawMessage, 0, len(set.Keys))
	for _, key := range set.Keys {
		encoded, err := json.Marshal(key) // The members are sorted.
		if err != nil {
			return "", err
		}
		keys = append(keys, encoded)
	}
	slices.SortFunc(keys, func(a, b json.RawMessage) int { return bytes.Compare(a, b) })
	out, err := json.Marshal(map[string]any{"keys": keys})
	if err == nil && len(out) > maxKeysBytes {
		err = errors.New("the set of keys is too large")
	}
	return string(out), err
}

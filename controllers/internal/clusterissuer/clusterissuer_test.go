package clusterissuer_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/controllers/internal/clusterissuer"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
)

const (
	discovery = "/.well-known/openid-configuration"
	keys      = "/openid/v1/jwks"
)

func TestLook(t *testing.T) {
	i := issuertest.New(t)
	one := i.JWKS()
	i.Publish(issuertest.JWK("second", issuertest.Key("second")), issuertest.JWK("first", issuertest.Key("first")))
	two := i.JWKS()
	i.Publish(issuertest.JWK("first", issuertest.Key("first")), issuertest.JWK("second", issuertest.Key("second")))
	sorted := i.JWKS()
	answers := map[string]string{}
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := start
	reader := clusterissuer.New(func(_ context.Context, path string) ([]byte, error) {
		if answers[path] == "" {
			return nil, errors.New("the server is down")
		}
		return []byte(answers[path]), nil
	}, func() time.Time { return at })
	var before string
	for _, step := range []struct {
		what            string
		after           time.Duration
		discovery, keys string
		issuer          string
		n               int
		refreshed       time.Duration
		same            bool // The keys are those of the step before.
		problem         string
	}{
		{"nothing answers", 0, "", "", "", 0, -1, true, "could not be read from the API server: the server is down"},
		{"found", time.Minute, `{"issuer":"https://a","jwks_uri":"https://10.0.0.1:6443/openid/v1/jwks"}`, one, "https://a", 1, time.Minute, false, ""},
		{"still the same", 2 * time.Minute, `{"issuer":"https://a"}`, one, "https://a", 1, time.Minute, true, ""},
		{"a second key", 3 * time.Minute, `{"issuer":"https://a"}`, two, "https://a", 2, 3 * time.Minute, false, ""},
		{"in another order", 4 * time.Minute, `{"issuer":"https://a"}`, sorted, "https://a", 2, 3 * time.Minute, true, ""},
		{"down", 5 * time.Minute, "", "", "https://a", 2, 3 * time.Minute, true, "down"},
		{"no issuer", 6 * time.Minute, `{}`, two, "https://a", 2, 3 * time.Minute, true, "names no issuer"},
		{"no keys", 7 * time.Minute, `{"issuer":"https://a"}`, `{"keys":[]}`, "https://a", 2, 3 * time.Minute, true, "has no key"},
		{"no JSON", 8 * time.Minute, `{"issuer":"https://a"}`, `<html>`, "https://a", 2, 3 * time.Minute, true, "no set of keys"},
		{"too much", 9 * time.Minute, `{"issuer":"https://a"}`, `{"keys":[{"x":"` + strings.Repeat("x", 40<<10) + `"}]}`, "https://a", 2, 3 * time.Minute, true, "too large"},
		{"back", 10 * time.Minute, `{"issuer":"https://a"}`, two, "https://a", 2, 10 * time.Minute, true, ""},
		{"an hour later", 71 * time.Minute, `{"issuer":"https://a"}`, two, "https://a", 2, 71 * time.Minute, true, ""},
		{"another issuer", 72 * time.Minute, `{"issuer":"https://b"}`, two, "https://b", 2, 72 * time.Minute, true, ""},
	} {
		at = start.Add(step.after)
		answers[discovery], answers[keys] = step.discovery, step.keys
		reader.Look(t.Context())
		state := reader.State()
		refreshed := start.Add(step.refreshed)
		if step.refreshed < 0 {
			refreshed = time.Time{}
		}
		if state.Issuer.Issuer != step.issuer || state.Keys != step.n || !state.Refreshed.Equal(refreshed) || (state.Issuer.JWKS == before) != step.same {
			t.Errorf("%s: %+v", step.what, state)
		}
		if (state.Problem == "") != (step.problem == "") || !strings.Contains(state.Problem, step.problem) {
			t.Errorf("%s: the problem is %q, want something with %q", step.what, state.Problem, step.problem)
		}
		if _, known := reader.Issuer(); known != (step.issuer != "") {
			t.Errorf("%s: known is %v", step.what, known)
		}
		before = state.Issuer.JWKS
	}
}

func TestStartEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	looked := make(chan struct{}, 1)
	reader := clusterissuer.New(func(context.Context, string) ([]byte, error) {
		looked <- struct{}{}
		return nil, errors.New("down")
	}, time.Now)
	ended := make(chan error)
	go func() { ended <- reader.Start(ctx) }()
	<-looked
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

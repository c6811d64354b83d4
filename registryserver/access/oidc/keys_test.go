package oidc_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	theiroidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/coreos/go-oidc/v3/oidc/oidctest"
	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/access/oidc"
	"github.com/chartroom-dev/chartroom/registryserver/access/oidc/issuertest"
)

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func clocked(t *testing.T, i *issuertest.Issuer) (*oidc.Keys, oidc.Source, *clock) {
	t.Helper()
	c := &clock{at: now()}
	k, source := oidc.NewKeys(oidc.Options{AllowedNetworks: issuertest.Loopback, Now: c.now}), oidc.Source{Issuer: i.URL, CA: i.CA()}
	t.Cleanup(k.Close)
	k.Use([]oidc.Source{source})
	return k, source, c
}

// signed proves a new token of the issuer that was signed with the key of that name, at the time of the clock.
func signed(t *testing.T, k *oidc.Keys, source oidc.Source, i *issuertest.Issuer, at time.Time, name string) error {
	t.Helper()
	header := `{"alg":"ES256","kid":"` + name + `"}`
	token, err := oidc.Parse(issuertest.Sign(header, string(mustJSON(t, i.Claims(audience, at, nil))), issuertest.Key(name)), at)
	if err != nil {
		t.Fatal(err)
	}
	return k.Verify(t.Context(), source, token)
}

func TestUnknownKeysDoNotFloodTheIssuer(t *testing.T) {
	i := issuertest.New(t)
	k, source, c := clocked(t, i)
	for n := range 50 {
		refused(t, "unknown", signed(t, k, source, i, c.now(), fmt.Sprintf("unknown-%d", n%3)), "it was last asked at")
	}
	if n := i.Requests(issuertest.KeysPath); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
	// A new key is found, a minute after the last look at the latest.
	i.Publish(issuertest.JWK("first", issuertest.Key("first")), issuertest.JWK("second", issuertest.Key("second")))
	c.pass(time.Minute - time.Second)
	refused(t, "too early", signed(t, k, source, i, c.now(), "second"), "has no key")
	c.pass(time.Second)
	if err := signed(t, k, source, i, c.now(), "second"); err != nil {
		t.Error(err)
	}
	if n := i.Requests(issuertest.KeysPath); n != 2 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

// Nobody is asked for a key that is known, as long as it is not due.
func TestKnownKeysAreNotAskedFor(t *testing.T) {
	i := issuertest.New(t)
	k, source, c := clocked(t, i)
	for range 3 {
		if err := signed(t, k, source, i, c.now(), "first"); err != nil {
			t.Error(err)
		}
		c.pass(2 * time.Minute)
	}
	k.RefreshAndWait() // Nothing is due; what a token began has ended.
	if n := i.Requests(issuertest.KeysPath); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

func TestManyWaitForOneRequest(t *testing.T) {
	i := issuertest.New(t)
	k, source := prover(t, i)
	token := i.Token(i.Claims(audience, now(), nil))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := prove(t, k, source, token); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := i.Requests(issuertest.KeysPath); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

func TestRemovedKeysAreDropped(t *testing.T) {
	i := issuertest.New(t)
	k, source, c := clocked(t, i)
	if err := signed(t, k, source, i, c.now(), "first"); err != nil {
		t.Fatal(err)
	}
	i.Publish(issuertest.JWK("second", issuertest.Key("second")))
	c.pass(time.Minute)
	if err := signed(t, k, source, i, c.now(), "second"); err != nil {
		t.Error(err)
	}
	refused(t, "a key that was removed", signed(t, k, source, i, c.now(), "first"), "has no key")
}

func TestKeysAreLookedForAgainInTheBackground(t *testing.T) {
	for header, after := range map[string]time.Duration{
		"":                                time.Hour,
		"public, max-age=600":             10 * time.Minute,
		"max-age=1":                       5 * time.Minute,
		"max-age=999999":                  24 * time.Hour,
		"no-store":                        time.Hour,
		"max-age=99999999999999999999":    time.Hour,
		`stale-if-error=1, Max-Age="900"`: 15 * time.Minute,
	} {
		i := issuertest.New(t)
		i.Handle(issuertest.KeysPath, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", header)
			_, _ = w.Write([]byte(i.JWKS()))
		})
		k, source, c := clocked(t, i)
		k.RefreshAndWait()
		c.pass(after - time.Second)
		k.RefreshAndWait()
		if err := signed(t, k, source, i, c.now(), "first"); err != nil {
			t.Error(err)
		}
		if n := i.Requests(issuertest.KeysPath); n != 1 {
			t.Errorf("%q: fetched again after less than %v", header, after)
		}
		c.pass(time.Second)
		k.RefreshAndWait()
		if n := i.Requests(issuertest.KeysPath); n != 2 {
			t.Errorf("%q: not fetched again after %v", header, after)
		}
	}
}

func TestRun(t *testing.T) {
	i := issuertest.New(t)
	k, source := prover(t, i)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- k.Run(ctx) }()
	for k.States()[0].Keys == 0 {
		time.Sleep(time.Millisecond)
	}
	second := issuertest.New(t)
	k.Use([]oidc.Source{source, {Issuer: second.URL, CA: second.CA()}})
	for second.Requests(issuertest.KeysPath) == 0 {
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// Nobody is asked from then on.
	third := issuertest.New(t)
	ofThird := oidc.Source{Issuer: third.URL, CA: third.CA()}
	k.Use([]oidc.Source{ofThird})
	refused(t, "after the end", prove(t, k, ofThird, third.Token(third.Claims(audience, now(), nil))), "has no key")
	if n, state := third.Requests(issuertest.DiscoveryPath), k.States()[0]; n != 0 || state.Problem != "" {
		t.Errorf("an issuer was asked %d times after the end: %+v", n, state)
	}
}

// After Close nothing runs on: what was asked is given up, and that is known.
func TestCloseGivesUpWhatWasAsked(t *testing.T) {
	i := issuertest.New(t)
	asked := make(chan struct{})
	i.Handle(issuertest.DiscoveryPath, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // Whoever returns answers.
	})
	var log bytes.Buffer
	k := oidc.NewKeys(oidc.Options{AllowedNetworks: issuertest.Loopback, Log: slog.New(slog.NewTextHandler(&log, nil))})
	source := oidc.Source{Issuer: i.URL, CA: i.CA()}
	k.Use([]oidc.Source{source})
	waited := make(chan error)
	go func() { waited <- prove(t, k, source, i.Token(i.Claims(audience, now(), nil))) }()
	<-asked
	k.Close()
	if state := k.States()[0]; !strings.Contains(state.Problem, "canceled") {
		t.Errorf("the state is %+v", state)
	}
	refused(t, "who waited", <-waited, "could not be asked")
	if log.Len() != 0 {
		t.Errorf("our own end is logged as the issuer's failure: %s", log.String())
	}
}

// An outage is one line, and its end another, however often the issuer is asked.
func TestOutagesAreLoggedOnce(t *testing.T) {
	i, c := issuertest.New(t), &clock{at: now()}
	var log bytes.Buffer
	k := oidc.NewKeys(oidc.Options{AllowedNetworks: issuertest.Loopback, Now: c.now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	defer k.Close()
	k.Use([]oidc.Source{{Issuer: i.URL, CA: i.CA()}})
	for _, step := range []struct{ status, lines int }{{200, 0}, {502, 1}, {503, 1}, {200, 2}, {200, 2}, {502, 3}} {
		i.Handle(issuertest.KeysPath, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(step.status)
			_, _ = w.Write([]byte(i.JWKS()))
		})
		before := i.Requests(issuertest.KeysPath)
		k.RefreshAndWait()
		c.pass(time.Hour)
		if n := strings.Count(log.String(), "\n"); n != step.lines || i.Requests(issuertest.KeysPath) != before+1 {
			t.Errorf("after an answer %d there are %d lines: %s", step.status, n, log.String())
		}
	}
	for _, want := range []string{"level=WARN", "answered 502", i.URL, "level=INFO", "fetched again"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log: %s", want, log.String())
		}
	}
}

func TestStates(t *testing.T) {
	i := issuertest.New(t)
	k, asked, c := clocked(t, i)
	given := oidc.Source{Issuer: "https://given.example", JWKS: i.JWKS()}
	k.Use([]oidc.Source{asked, given})
	states := func() map[string]oidc.State {
		by := map[string]oidc.State{}
		for _, state := range k.States() {
			by[state.Source] = state
		}
		return by
	}
	want := map[string]oidc.State{
		asked.Fingerprint(): {Source: asked.Fingerprint(), Issuer: i.URL},
		given.Fingerprint(): {Source: given.Fingerprint(), Issuer: given.Issuer, Given: true, Keys: 1},
	}
	if diff := cmp.Diff(want, states()); diff != "" {
		t.Error(diff)
	}
	k.RefreshAndWait()
	want[asked.Fingerprint()] = oidc.State{Source: asked.Fingerprint(), Issuer: i.URL, Keys: 1, Refreshed: c.now()}
	if diff := cmp.Diff(want, states()); diff != "" {
		t.Error(diff)
	}
}

func TestIssuerThatIsDown(t *testing.T) {
	i := issuertest.New(t)
	k, source, c := clocked(t, i)
	if err := signed(t, k, source, i, c.now(), "first"); err != nil {
		t.Fatal(err)
	}
	i.Handle(issuertest.KeysPath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	c.pass(25*time.Hour - time.Second)
	refused(t, "an unknown key", signed(t, k, source, i, c.now(), "second"), "answered 502")
	if err := signed(t, k, source, i, c.now(), "first"); err != nil {
		t.Errorf("a key is not used that could not be looked for again in the last 24 hours: %v", err)
	}
	if state := k.States()[0]; state.Keys != 1 || !strings.Contains(state.Problem, "502") {
		t.Errorf("the state is %+v", state)
	}
	c.pass(time.Second)
	refused(t, "a stale key", signed(t, k, source, i, c.now(), "first"), "could not be asked")
	if state := k.States()[0]; state.Keys != 0 {
		t.Errorf("the state is %+v", state)
	}
	before := i.Requests(issuertest.KeysPath)
	for range 10 {
		refused(t, "a stale key", signed(t, k, source, i, c.now(), "first"), "could not be asked")
	}
	if n := i.Requests(issuertest.KeysPath); n != before {
		t.Errorf("an issuer that is down was asked %d times", n-before)
	}
	// Once it is back, it is asked soon.
	i.Handle(issuertest.KeysPath, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(i.JWKS())) })
	c.pass(8 * time.Second) // The last attempt was a second before.
	refused(t, "too early", signed(t, k, source, i, c.now(), "first"), "could not be asked")
	c.pass(time.Second)
	if err := signed(t, k, source, i, c.now(), "first"); err != nil {
		t.Error(err)
	}
}

// The same id stands for one key at one issuer, and for another at another.
func TestKeysOfIssuersAreApart(t *testing.T) {
	a, b := issuertest.New(t), issuertest.New(t)
	b.Publish(issuertest.JWK("first", issuertest.Key("of b")))
	k := oidc.NewKeys(oidc.Options{AllowedNetworks: issuertest.Loopback})
	defer k.Close()
	ofA, ofB := oidc.Source{Issuer: a.URL, CA: a.CA()}, oidc.Source{Issuer: b.URL, CA: b.CA()}
	inline := oidc.Source{Issuer: a.URL, JWKS: string(mustJSON(t, map[string]any{"keys": []any{issuertest.JWK("first", issuertest.Key("inline"))}}))}
	k.Use([]oidc.Source{ofA, ofB, inline})
	sign := func(i *issuertest.Issuer, key string) string {
		return issuertest.Sign(goodHeader, string(mustJSON(t, i.Claims(audience, now(), nil))), issuertest.Key(key))
	}
	for name, c := range map[string]struct {
		source oidc.Source
		token  string
		why    string
	}{
		"a by a":                      {ofA, sign(a, "first"), ""},
		"b by b":                      {ofB, sign(b, "of b"), ""},
		"inline":                      {inline, sign(a, "inline"), ""},
		"a by b":                      {ofA, sign(a, "of b"), "signature is wrong"},
		"b by a":                      {ofB, sign(b, "first"), "signature is wrong"},
		"inline by published":         {inline, sign(a, "first"), "signature is wrong"},
		"published by inline":         {ofA, sign(a, "inline"), "signature is wrong"},
		"a's token held against b":    {ofB, sign(a, "of b"), "another issuer"},
		"a source that nobody trusts": {oidc.Source{Issuer: a.URL}, sign(a, "first"), "no longer in use"},
	} {
		err := prove(t, k, c.source, c.token)
		if c.why == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.why != "" {
			refused(t, name, err, c.why)
		}
	}
	k.Use([]oidc.Source{ofB})
	refused(t, "an issuer that is no longer named", prove(t, k, ofA, sign(a, "first")), "no longer in use")
}

// Another snapshot forgets no keys of issuers that it names too: they may be down, and are not asked each time.
func TestKeysOutliveSnapshots(t *testing.T) {
	i := issuertest.New(t)
	k, source := prover(t, i)
	token := i.Token(i.Claims(audience, now(), nil))
	if err := prove(t, k, source, token); err != nil {
		t.Fatal(err)
	}
	i.Handle(issuertest.KeysPath, http.NotFound)
	k.Use([]oidc.Source{{Issuer: "https://other.example"}, source})
	if err := prove(t, k, source, token); err != nil {
		t.Error(err)
	}
	if n := i.Requests(issuertest.KeysPath); n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}
}

// Given keys that cannot be read prove nothing, and it is said why.
func TestGivenKeysThatCannotBeRead(t *testing.T) {
	i := issuertest.New(t)
	k, source := oidc.NewKeys(oidc.Options{}), oidc.Source{Issuer: i.URL, JWKS: `{"keys": 1}`}
	defer k.Close()
	k.Use([]oidc.Source{source})
	refused(t, "unreadable", prove(t, k, source, i.Token(i.Claims(audience, now(), nil))), "no list of keys")
	k.RefreshAndWait() // Nobody is asked for keys that are given.
	if n := i.Requests(issuertest.DiscoveryPath); n != 0 {
		t.Errorf("the issuer was asked %d times", n)
	}
	if states := k.States(); len(states) != 1 || states[0].Keys != 0 || !strings.Contains(states[0].Problem, "no list of keys") {
		t.Errorf("the state is %+v", states)
	}
}

// Who waits for an issuer that does not answer holds up nobody else, and not for long.
func TestSlowIssuerHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	slow, good := issuertest.New(t), issuertest.New(t)
	asked, release := make(chan struct{}), make(chan struct{})
	slow.Handle(issuertest.DiscoveryPath, func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-release
	})
	defer close(release)
	k := oidc.NewKeys(oidc.Options{AllowedNetworks: issuertest.Loopback})
	defer k.Close()
	ofSlow, ofGood := oidc.Source{Issuer: slow.URL, CA: slow.CA()}, oidc.Source{Issuer: good.URL, CA: good.CA()}
	k.Use([]oidc.Source{ofSlow, ofGood})
	impatient, leave := context.WithCancel(t.Context())
	token, err := oidc.Parse(slow.Token(slow.Claims(audience, now(), nil)), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	waited, left := make(chan error), make(chan error)
	go func() { left <- k.Verify(impatient, ofSlow, token) }()
	go func() { waited <- prove(t, k, ofSlow, slow.Token(slow.Claims(audience, now(), nil))) }()
	<-asked
	if err := prove(t, k, ofGood, good.Token(good.Claims(audience, now(), nil))); err != nil {
		t.Error(err)
	}
	leave()
	refused(t, "a client that left", <-left, "canceled")
	refused(t, "slow", <-waited, "could not be asked")
}

func TestIssuersThatMisbehave(t *testing.T) {
	discovery := func(document func(i *issuertest.Issuer) any) func(*issuertest.Issuer) {
		return func(i *issuertest.Issuer) {
			i.Handle(issuertest.DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(document(i)) })
		}
	}
	keys := func(handler http.HandlerFunc) func(*issuertest.Issuer) {
		return func(i *issuertest.Issuer) { i.Handle(issuertest.KeysPath, handler) }
	}
	cutOff := func(i *issuertest.Issuer) {
		i.Handle(issuertest.KeysPath, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write([]byte(i.JWKS()))
		})
	}
	publish := func(keys ...any) func(*issuertest.Issuer) {
		return func(i *issuertest.Issuer) { i.Publish(keys...) }
	}
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		t.Error("a redirect was followed, or plain HTTP was spoken")
		w.WriteHeader(http.StatusOK)
	}))
	defer metadata.Close()
	with := func(id, key string, members map[string]any) map[string]any {
		jwk := issuertest.JWK(id, issuertest.Key(key))
		for name, value := range members {
			jwk[name] = value
		}
		return jwk
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	flood := make([]any, 10_000)
	for n := range flood {
		flood[n] = with(fmt.Sprint("first", n), "first", nil)
	}
	huge := issuertest.JWK("first", issuertest.RSAKey())
	huge["n"] = issuertest.Base64([]byte(strings.Repeat("\xff", 513)))
	exponent := issuertest.JWK("first", issuertest.RSAKey())
	exponent["e"] = issuertest.Base64([]byte{1, 0, 0, 1, 1})
	for name, c := range map[string]struct {
		prepare func(*issuertest.Issuer)
		why     string
	}{
		"no discovery": {func(i *issuertest.Issuer) { i.Handle(issuertest.DiscoveryPath, nil) }, "answered 404"},
		"discovery of another": {discovery(func(i *issuertest.Issuer) any {
			return map[string]any{"issuer": i.URL + "/", "jwks_uri": i.URL + "/keys"}
		}), "it is that of the issuer"},
		"discovery of nobody": {discovery(func(i *issuertest.Issuer) any { return map[string]any{"jwks_uri": i.URL + "/keys"} }), "it is that of the issuer"},
		"discovery is a list": {discovery(func(*issuertest.Issuer) any { return []any{} }), "it is that of the issuer"},
		"issuer twice": {func(i *issuertest.Issuer) {
			i.Handle(issuertest.DiscoveryPath, text(`{"issuer":"a","issuer":"`+i.URL+`"}`))
		}, "twice"},
		"keys on another host": {discovery(func(i *issuertest.Issuer) any {
			return map[string]any{"issuer": i.URL, "jwks_uri": "https://evil.example/keys"}
		}), "not an https address of the issuer's own host"},
		"keys on another port": {discovery(func(i *issuertest.Issuer) any {
			return map[string]any{"issuer": i.URL, "jwks_uri": "https://127.0.0.1:1/keys"}
		}), "own host"},
		"keys over plain HTTP": {discovery(func(i *issuertest.Issuer) any { return map[string]any{"issuer": i.URL, "jwks_uri": metadata.URL} }), "own host"},
		"the same over plain HTTP": {discovery(func(i *issuertest.Issuer) any {
			return map[string]any{"issuer": i.URL, "jwks_uri": strings.Replace(i.URL, "https://", "http://", 1) + "/keys"}
		}), "own host"},
		"keys at a user's": {discovery(func(i *issuertest.Issuer) any {
			return map[string]any{"issuer": i.URL, "jwks_uri": strings.Replace(i.URL, "https://", "https://u:p@", 1) + "/keys"}
		}), "own host"},
		"keys at a long address": {discovery(func(i *issuertest.Issuer) any {
			return map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/" + strings.Repeat("x", 1024-len(i.URL))}
		}), "own host"},
		"keys at the longest address": {discovery(func(i *issuertest.Issuer) any {
			return map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/" + strings.Repeat("x", 1023-len(i.URL))}
		}), "answered 404"},
		"keys at what is no address": {discovery(func(i *issuertest.Issuer) any { return map[string]any{"issuer": i.URL, "jwks_uri": "https://%zz/keys"} }), "own host"},
		"no address of keys":         {discovery(func(i *issuertest.Issuer) any { return map[string]any{"issuer": i.URL} }), "own host"},
		"discovery redirects": {func(i *issuertest.Issuer) {
			i.Handle(issuertest.DiscoveryPath, http.RedirectHandler(metadata.URL, http.StatusFound).ServeHTTP)
		}, "answered 302"},
		"keys redirect":             {keys(http.RedirectHandler(metadata.URL, http.StatusTemporaryRedirect).ServeHTTP), "answered 307"},
		"keys are not there":        {keys(http.NotFound), "answered 404"},
		"keys are no JSON":          {keys(text("<html>")), "not JSON"},
		"keys without end":          {keys(endless), "more than 262144 bytes"},
		"keys that are cut off":     {cutOff, "reading"},
		"keys are nested deeply":    {keys(text(strings.Repeat("[", 1000) + strings.Repeat("]", 1000))), "nested"},
		"keys twice":                {keys(text(`{"keys":[],"keys":[]}`)), "twice"},
		"no list of keys":           {keys(text(`{"keys":{}}`)), "no list of keys"},
		"no keys":                   {publish(), "no list of keys"},
		"an empty list":             {keys(text(`{"keys":[]}`)), "no key that a token may be signed with"},
		"10,000 keys":               {publish(flood...), ""},
		"33 keys":                   {publish(flood[:33]...), "33 keys; at most 32"},
		"a key without kid":         {publish(with("", "first", nil)), "no key that a token"},
		"a key for encryption":      {publish(with("first", "first", map[string]any{"use": "enc"})), "no key that a token"},
		"a key for another alg":     {publish(with("first", "first", map[string]any{"alg": "ES384"})), "no key that a token"},
		"a key for HMAC":            {publish(map[string]any{"kty": "oct", "kid": "first", "k": "AAAA"}), "no key that a token"},
		"a point off the curve":     {publish(with("first", "first", map[string]any{"x": issuertest.Base64(make([]byte, 32))})), "no key that a token"},
		"a curve that is not taken": {publish(issuertest.JWK("first", curve)), "no key that a token"},
		"1024 bits":                 {publish(issuertest.JWK("first", weak)), "no key that a token"},
		"4104 bits":                 {publish(huge), "no key that a token"},
		"a great exponent":          {publish(exponent), "no key that a token"},
		"the id twice":              {publish(with("first", "first", nil), with("first", "second", nil), with("first", "first", nil), with("x", "x", nil)), `has no key "first"`},
	} {
		i := issuertest.New(t)
		c.prepare(i)
		k, source := prover(t, i)
		refused(t, name, prove(t, k, source, i.Token(i.Claims(audience, now(), nil))), c.why)
	}
}

// As many bytes as are allowed are read, and not one more is taken.
func TestDocumentsAtTheirBound(t *testing.T) {
	for more, why := range []string{"", "more than 262144 bytes"} {
		i := issuertest.New(t)
		i.Handle(issuertest.KeysPath, func(w http.ResponseWriter, _ *http.Request) {
			keys := i.JWKS()
			_, _ = w.Write([]byte(keys + strings.Repeat(" ", 256<<10-len(keys)+more)))
		})
		k, source := prover(t, i)
		if err := prove(t, k, source, i.Token(i.Claims(audience, now(), nil))); why == "" && err != nil {
			t.Error(err)
		} else if why != "" {
			refused(t, "a byte more", err, why)
		}
	}
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
}

func endless(w http.ResponseWriter, _ *http.Request) {
	for {
		if _, err := w.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
}

// What is not a public address is not dialled, unless it is allowed, whatever name leads to it.
func TestAddressesThatAreNotDialled(t *testing.T) {
	i := issuertest.New(t)
	port := i.URL[strings.LastIndex(i.URL, ":"):]
	hosts := []string{
		"127.0.0.1", "localhost", "127.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
		"0.0.0.0", "[::]", "2130706433", "0x7f000001",
		"169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "[fe80::1]", "[fd00::1]", "[fe80::1%25lo]", "224.0.0.1", "255.255.255.255",
		"[2002:7f00:1::]", "[2001:db8::1]", "198.18.0.1", "240.0.0.1",
	}
	for _, host := range hosts {
		issuer := "https://" + host + port
		k, source := oidc.NewKeys(oidc.Options{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}), oidc.Source{Issuer: issuer, CA: i.CA()}
		k.Use([]oidc.Source{source})
		err := prove(t, k, source, i.Token(i.Claims(audience, now(), map[string]any{"iss": issuer})))
		k.Close()
		refused(t, host, err, "")
		// The rest are no addresses, or names that nobody has.
		if strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), "answered") || strings.Contains(err.Error(), "unreachable") {
			t.Errorf("%s was dialled: %v", host, err)
		}
	}
	if n := i.Requests(issuertest.DiscoveryPath); n != 0 {
		t.Errorf("the issuer got %d requests", n)
	}
}

// Some issuers' addresses end with a slash; the document is where it is without.
func TestIssuerWithASlash(t *testing.T) {
	i := issuertest.New(t)
	source := oidc.Source{Issuer: i.URL + "/", CA: i.CA()}
	i.Handle(issuertest.DiscoveryPath, text(string(mustJSON(t, map[string]any{"issuer": source.Issuer, "jwks_uri": i.URL + issuertest.KeysPath}))))
	k, _ := prover(t, i)
	k.Use([]oidc.Source{source})
	if err := prove(t, k, source, i.Token(i.Claims(audience, now(), map[string]any{"iss": source.Issuer}))); err != nil {
		t.Error(err)
	}
}

// Each request is whole in itself, and its answer is read within bounds, as it comes.
func TestWhatIsAskedOfAnIssuer(t *testing.T) {
	i := issuertest.New(t)
	k, source, c := clocked(t, i)
	i.Handle(issuertest.KeysPath, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.Header.Get("Accept") != "application/json" || r.Header.Get("Accept-Encoding") != "" || r.UserAgent() != "chartroom" || !r.Close {
			t.Errorf("asked by %s with %v, %v", r.Method, r.Header, r.Close)
		}
		w.Header().Set("X-Long", strings.Repeat("x", 70<<10))
		_, _ = w.Write([]byte(i.JWKS()))
	})
	refused(t, "a huge header", signed(t, k, source, i, c.now(), "first"), "response headers exceeded")
}

func TestPlainHTTPIsNotSpoken(t *testing.T) {
	i := issuertest.New(t)
	plain := httptest.NewServer(i)
	defer plain.Close()
	k, source := oidc.NewKeys(oidc.Options{AllowedNetworks: issuertest.Loopback}), oidc.Source{Issuer: plain.URL}
	defer k.Close()
	k.Use([]oidc.Source{source})
	refused(t, "plain", prove(t, k, source, i.Token(i.Claims(audience, now(), map[string]any{"iss": plain.URL}))), "https alone")
}

func TestWhatIsNoAddressIsNotAsked(t *testing.T) {
	i := issuertest.New(t)
	k, source := oidc.NewKeys(oidc.Options{}), oidc.Source{Issuer: "https://%zz"}
	defer k.Close()
	k.Use([]oidc.Source{source})
	refused(t, "no address", prove(t, k, source, i.Token(i.Claims(audience, now(), map[string]any{"iss": source.Issuer}))), "invalid URL")
}

func TestCertificatesAreVerified(t *testing.T) {
	i := issuertest.New(t)
	k := oidc.NewKeys(oidc.Options{AllowedNetworks: issuertest.Loopback})
	defer k.Close()
	unknown := oidc.Source{Issuer: i.URL}
	k.Use([]oidc.Source{unknown})
	refused(t, "an unknown authority", prove(t, k, unknown, i.Token(i.Claims(audience, now(), nil))), "certificate")
}

// A second opinion: an issuer and a signer that others wrote, and a verifier that must take what is taken here.
func TestSecondOpinion(t *testing.T) {
	wide, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for algorithm, signer := range map[string]crypto.Signer{
		"RS256": issuertest.RSAKey(), "RS384": issuertest.RSAKey(), "RS512": issuertest.RSAKey(),
		"PS256": issuertest.RSAKey(), "PS384": issuertest.RSAKey(), "PS512": issuertest.RSAKey(),
		"ES256": issuertest.Key("first"), "ES384": wide, "EdDSA": edwards,
	} {
		theirs := &oidctest.Server{PublicKeys: []oidctest.PublicKey{{PublicKey: signer.Public(), KeyID: "theirs", Algorithm: algorithm}}, Algorithms: []string{algorithm}}
		server := httptest.NewTLSServer(theirs)
		theirs.SetIssuer(server.URL)
		source := oidc.Source{Issuer: server.URL, CA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))}
		k := oidc.NewKeys(oidc.Options{AllowedNetworks: issuertest.Loopback})
		k.Use([]oidc.Source{source})
		claims := fmt.Sprintf(`{"iss":%q,"sub":"s","aud":%q,"iat":%d,"exp":%d}`, server.URL, audience, now().Unix(), now().Unix()+300)
		token := oidctest.SignIDToken(signer, "theirs", algorithm, claims)
		if err := prove(t, k, source, token); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
		ctx := theiroidc.ClientContext(t.Context(), server.Client())
		provider, err := theiroidc.NewProvider(ctx, server.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := provider.VerifierContext(ctx, &theiroidc.Config{ClientID: audience, SupportedSigningAlgs: []string{algorithm}}).Verify(ctx, token); err != nil {
			t.Errorf("%s: taken here, but not there: %v", algorithm, err)
		}
		k.Close()
		server.Close()
	}
}

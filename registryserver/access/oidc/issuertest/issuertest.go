// Package issuertest is an OpenID Connect issuer for tests that can be told to misbehave: it publishes whatever keys and
// documents it is given, and signs whatever bytes. It shares no code with what it is used to test.
package issuertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// Paths of what an issuer publishes.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/keys"
)

// Loopback is where all issuers of this package are.
var Loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// Issuer is an issuer on a port of its own. Make it with New.
type Issuer struct {
	*httptest.Server

	mu       sync.Mutex
	handlers map[string]http.HandlerFunc
	keys     []any
	requests map[string]int
}

// New starts an issuer with one key, Key("first").
func New(tb testing.TB) *Issuer {
	tb.Helper()
	i := &Issuer{handlers: map[string]http.HandlerFunc{}, requests: map[string]int{}}
	i.Server = httptest.NewTLSServer(i)
	tb.Cleanup(i.Close)
	i.Publish(JWK("first", Key("first")))
	i.Handle(DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + KeysPath})
	})
	i.Handle(KeysPath, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(i.JWKS())) })
	return i
}

// CA is the certificate of the issuer in PEM.
func (i *Issuer) CA() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}))
}

// ServeHTTP counts and answers requests.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.requests[r.URL.Path]++
	handler := i.handlers[r.URL.Path]
	i.mu.Unlock()
	if handler == nil {
		http.NotFound(w, r)
		return
	}
	handler(w, r)
}

// Handle says what is answered at a path.
func (i *Issuer) Handle(path string, handler http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.handlers[path] = handler
}

// Requests is how many there were for a path.
func (i *Issuer) Requests(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.requests[path]
}

// Publish replaces the keys.
func (i *Issuer) Publish(keys ...any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// JWKS is what is published.
func (i *Issuer) JWKS() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return encode(map[string]any{"keys": i.keys})
}

// Claims are those of a good token at an instant, changed by others; a nil takes one away.
func (i *Issuer) Claims(audience string, now time.Time, others map[string]any) map[string]any {
	claims := map[string]any{
		"iss": i.URL, "sub": "job", "aud": audience, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	for name, value := range others {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

// Token signs claims with the key "first".
func (i *Issuer) Token(claims any) string {
	return Sign(`{"alg":"ES256","typ":"JWT","kid":"first"}`, encode(claims), Key("first"))
}

var (
	keysMutex sync.Mutex
	keys      = map[string]*ecdsa.PrivateKey{}
)

// RSAKey is made once for all tests of a program, as that takes long.
var RSAKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })

// Key returns the P-256 key of that name, the same each time.
func Key(name string) *ecdsa.PrivateKey {
	keysMutex.Lock()
	defer keysMutex.Unlock()
	if keys[name] == nil {
		keys[name] = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	}
	return keys[name]
}

// JWK is the public part of a key as it is published.
func JWK(id string, key crypto.Signer) map[string]any {
	switch k := key.Public().(type) {
	case *rsa.PublicKey:
		return map[string]any{"kty": "RSA", "use": "sig", "kid": id, "n": Base64(k.N.Bytes()), "e": Base64(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PublicKey:
		point := must(k.Bytes())
		return map[string]any{"kty": "EC", "use": "sig", "kid": id, "crv": k.Curve.Params().Name, "x": Base64(point[1 : 1+len(point)/2]), "y": Base64(point[1+len(point)/2:])}
	}
	panic("no such key")
}

// Sign makes a compact JWS of a header and a payload, whatever they are, with RS256 or ES256 as the key has it.
func Sign(header, payload string, key crypto.Signer) string {
	signed := Base64([]byte(header)) + "." + Base64([]byte(payload))
	digest := sha256.Sum256([]byte(signed))
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
		if err != nil {
			panic(err)
		}
		return signed + "." + Base64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	}
	return signed + "." + Base64(must(key.Sign(rand.Reader, digest[:], crypto.SHA256)))
}

// Base64 is base64url without padding.
func Base64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func encode(value any) string { return string(must(json.Marshal(value))) }

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

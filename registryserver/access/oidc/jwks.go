package oidc

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/chartroom-dev/chartroom/registryserver/strictjson"
	"github.com/go-jose/go-jose/v4"
)

const (
	maxDocumentBytes = 256 << 10
	maxKeys          = 32
	minRSABits       = 2048
	maxRSABits       = 4096
	maxRSAExponent   = 65537
)

var documentBounds = strictjson.Bounds{Depth: 6, Members: 512}

// key is a public key of an issuer.
type key struct {
	public any
	// algorithms are those that it may be used with.
	algorithms []jose.SignatureAlgorithm
}

func (k key) takes(a jose.SignatureAlgorithm) bool { return slices.Contains(k.algorithms, a) }

// parseKeys reads a JWK Set (RFC 7517 section 5) into its keys by their ids. Keys that no token may be signed with here are
// left out; a set in which none is left is an error.
func parseKeys(document []byte) (map[string]key, error) {
	value, err := strictjson.Decode(document, documentBounds)
	if err != nil {
		return nil, fmt.Errorf("the key set: %w", err)
	}
	set, _ := value.(map[string]any)
	list, ok := set["keys"].([]any)
	if !ok {
		return nil, errors.New("the key set has no list of keys")
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("the key set has %d keys; at most %d are taken", len(list), maxKeys)
	}
	keys, seen := map[string]key{}, map[string]bool{}
	for _, element := range list {
		id, k, ok := parseKey(element)
		if !ok {
			continue
		}
		// Of two keys under one id, nobody could say which is meant.
		if seen[id] {
			delete(keys, id)
			continue
		}
		seen[id] = true
		keys[id] = k
	}
	if len(keys) == 0 {
		return nil, errors.New("the key set has no key that a token may be signed with: one with kid and of type RSA (2048 to 4096 bits), EC (P-256, P-384) or OKP (Ed25519)")
	}
	return keys, nil
}

// keyMembers are what is read of a key. Certificates are not: who hands out the set vouches for the keys.
var keyMembers = []string{"kty", "kid", "use", "alg", "n", "e", "crv", "x", "y"}

func parseKey(element any) (id string, k key, ok bool) {
	members, _ := element.(map[string]any)
	read := map[string]any{}
	for _, name := range keyMembers {
		if value, there := members[name]; there {
			read[name] = value
		}
	}
	text, err := json.Marshal(read)
	if err != nil {
		return "", key{}, false
	}
	var parsed jose.JSONWebKey
	if err := parsed.UnmarshalJSON(text); err != nil || !parsed.Valid() {
		return "", key{}, false
	}
	if parsed.KeyID == "" || len(parsed.KeyID) > maxKeyIDBytes || parsed.Use != "" && parsed.Use != "sig" {
		return "", key{}, false
	}
	k = key{public: parsed.Key, algorithms: algorithmsOf(parsed.Key)}
	if a := jose.SignatureAlgorithm(parsed.Algorithm); a != "" {
		if !k.takes(a) {
			return "", key{}, false
		}
		k.algorithms = []jose.SignatureAlgorithm{a}
	}
	return parsed.KeyID, k, len(k.algorithms) > 0
}

// algorithmsOf are those that a key may be used with at most; none where it is too weak, or so large that it would keep
// the server busy.
func algorithmsOf(public any) []jose.SignatureAlgorithm {
	switch p := public.(type) {
	case *rsa.PublicKey:
		if bits := p.N.BitLen(); bits < minRSABits || bits > maxRSABits || p.E < 3 || p.E > maxRSAExponent || p.E%2 == 0 {
			return nil
		}
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}
		}
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}
	}
	return nil
}

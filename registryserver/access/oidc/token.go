// Package oidc proves tokens of OpenID Connect issuers: it reads their form, finds the issuer's keys, and verifies
// signatures. What a token may do is not its business.
package oidc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/strictjson"
	"github.com/go-jose/go-jose/v4"
)

const (
	maxTokenBytes   = 16 << 10
	maxKeyIDBytes   = 256
	maxSubjectBytes = 1024
	// leeway is how far the issuer's clock may be ahead of ours. There is none for exp.
	leeway = 30 * time.Second
	// maxNumericDate is the last integer that all readers of JSON understand alike.
	maxNumericDate = 1 << 53
)

// Bounds of what a token consists of. The header has a few strings; lists of certificates, which some issuers add,
// are not read.
var (
	headerBounds = strictjson.Bounds{Depth: 3, Members: 16}
	claimsBounds = strictjson.Bounds{Depth: 8, Members: 64}
)

// algorithms are those with which a token may be signed; each is used with keys that are made for it alone. There is
// none in it whose key both sides know, and none without a key.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.EdDSA,
}

// Token is a JWT (RFC 7519) whose form and times are right. Nothing in it is proved until Keys.Verify says so.
type Token struct {
	// Issuer is iss, Subject sub, and Audience the only value of aud.
	Issuer, Subject, Audience string
	IssuedAt, ExpiresAt       time.Time
	// Claims are all of them, as encoding/json reads them with UseNumber.
	Claims map[string]any

	compact   string
	payload   []byte
	keyID     string
	algorithm jose.SignatureAlgorithm
}

// Lifetime is the time between iat and exp.
func (t *Token) Lifetime() time.Duration { return t.ExpiresAt.Sub(t.IssuedAt) }

// Parse reads a token at an instant. The error says what is wrong, and quotes nothing but short names.
func Parse(compact string, now time.Time) (*Token, error) {
	if len(compact) > maxTokenBytes {
		return nil, fmt.Errorf("the token has more than %d bytes", maxTokenBytes)
	}
	// Counted before anything is split: a megabyte of dots would make a million strings.
	if dots := strings.Count(compact, "."); dots != 2 {
		return nil, fmt.Errorf("a signed token has 3 parts, and this has %d", dots+1)
	}
	segments := strings.Split(compact, ".")
	header, err := decodeSegment(segments[0])
	if err != nil {
		return nil, fmt.Errorf("the token's header: %w", err)
	}
	payload, err := decodeSegment(segments[1])
	if err != nil {
		return nil, fmt.Errorf("the token's claims: %w", err)
	}
	if signature, err := decodeSegment(segments[2]); err != nil || len(signature) == 0 {
		return nil, errors.New("the token's signature is missing, or no base64url")
	}
	t := &Token{compact: compact, payload: payload}
	if err := t.readHeader(header); err != nil {
		return nil, fmt.Errorf("the token's header: %w", err)
	}
	if err := t.readClaims(payload, now); err != nil {
		return nil, fmt.Errorf("the token's claims: %w", err)
	}
	return t, nil
}

// decodeSegment reads base64url without padding (RFC 7515 section 2), in the one way in which bytes can be written.
func decodeSegment(segment string) ([]byte, error) {
	if strings.ContainsAny(segment, "\r\n") {
		return nil, errors.New("it has line breaks") // Which the decoder would skip.
	}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	if err != nil {
		return nil, errors.New("it is no base64url")
	}
	return decoded, nil
}

// readHeader reads alg, kid and typ (RFC 7515 section 4.1). Keys, and addresses of keys, that a token brings along are not
// looked at.
func (t *Token) readHeader(header []byte) error {
	value, err := strictjson.Decode(header, headerBounds)
	if err != nil {
		return err
	}
	fields, ok := value.(map[string]any)
	if !ok {
		return errors.New("it is no object")
	}
	for _, refused := range []string{"crit", "b64", "zip", "enc"} {
		if _, there := fields[refused]; there {
			return fmt.Errorf("it has %s, which is not supported", refused)
		}
	}
	algorithm, _ := fields["alg"].(string)
	for _, a := range algorithms {
		if string(a) == algorithm {
			t.algorithm = a
		}
	}
	if t.algorithm == "" {
		return fmt.Errorf("alg %.16q is not accepted", algorithm)
	}
	if t.keyID, ok = fields["kid"].(string); !ok || t.keyID == "" || len(t.keyID) > maxKeyIDBytes {
		return fmt.Errorf("kid must be a string of 1 to %d bytes", maxKeyIDBytes)
	}
	if typ, there := fields["typ"]; there {
		if text, _ := typ.(string); !strings.EqualFold(text, "JWT") {
			return errors.New("typ is there and not JWT")
		}
	}
	return nil
}

// readClaims reads what every token must have (RFC 7519 section 4.1).
func (t *Token) readClaims(payload []byte, now time.Time) error {
	value, err := strictjson.Decode(payload, claimsBounds)
	if err != nil {
		return err
	}
	var ok bool
	if t.Claims, ok = value.(map[string]any); !ok {
		return errors.New("they are no object")
	}
	if t.Issuer, ok = t.Claims["iss"].(string); !ok || t.Issuer == "" {
		return errors.New("iss must be a string")
	}
	if t.Subject, ok = t.Claims["sub"].(string); !ok || t.Subject == "" || len(t.Subject) > maxSubjectBytes {
		return fmt.Errorf("sub must be a string of 1 to %d bytes", maxSubjectBytes)
	}
	if t.Audience, ok = audience(t.Claims["aud"]); !ok {
		return errors.New("aud must be one string, or a list of one: a token for several audiences could be used by any of them")
	}
	return t.readTimes(now)
}

func audience(aud any) (string, bool) {
	if list, ok := aud.([]any); ok && len(list) == 1 {
		aud = list[0]
	}
	text, ok := aud.(string)
	return text, ok && text != ""
}

func (t *Token) readTimes(now time.Time) (err error) {
	if t.IssuedAt, err = t.instant("iat"); err != nil {
		return err
	}
	if t.ExpiresAt, err = t.instant("exp"); err != nil {
		return err
	}
	notBefore := t.IssuedAt
	if _, there := t.Claims["nbf"]; there {
		if notBefore, err = t.instant("nbf"); err != nil {
			return err
		}
	}
	switch latest := now.Add(leeway); {
	case t.IssuedAt.After(latest):
		return fmt.Errorf("iat is %v ahead of the clock here", t.IssuedAt.Sub(now).Round(time.Second))
	case notBefore.After(latest):
		return fmt.Errorf("nbf is %v ahead of the clock here", notBefore.Sub(now).Round(time.Second))
	case !t.ExpiresAt.After(now):
		return fmt.Errorf("the token expired %v ago", now.Sub(t.ExpiresAt).Round(time.Second))
	case !t.ExpiresAt.After(t.IssuedAt):
		return errors.New("exp is not after iat")
	}
	return nil
}

// instant reads seconds since 1970, which may have a fraction.
func (t *Token) instant(claim string) (time.Time, error) {
	number, ok := t.Claims[claim].(json.Number)
	if !ok {
		return time.Time{}, fmt.Errorf("%s must be a number", claim)
	}
	seconds, err := number.Float64()
	if err != nil || seconds < 0 || seconds > maxNumericDate {
		return time.Time{}, fmt.Errorf("%s must be seconds since 1970", claim)
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*float64(time.Second))), nil
}

// verify checks the signature with a key that fits.
func (t *Token) verify(k key) error {
	if !k.takes(t.algorithm) {
		return fmt.Errorf("the issuer's key %q is not for the algorithm %s", t.keyID, t.algorithm)
	}
	signed, err := jose.ParseSignedCompact(t.compact, []jose.SignatureAlgorithm{t.algorithm})
	if err != nil {
		return errors.New("the token is not a JWS as RFC 7515 has it")
	}
	verified, err := signed.Verify(k.public)
	if err != nil {
		return errors.New("the signature is wrong")
	}
	// What was read is what was signed.
	if !bytes.Equal(verified, t.payload) {
		return errors.New("the signature is that of other claims")
	}
	return nil
}

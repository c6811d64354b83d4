package access

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/big"
	"strings"
)

// The form of a registry token: crt_<id>_<secret>_<checksum>.
const (
	tokenPrefix    = "crt_"
	idLength       = 8
	secretLength   = 43 // Enough base62 digits for 32 bytes.
	checksumLength = 6  // Enough base62 digits for 32 bits.
	tokenLength    = len(tokenPrefix) + idLength + 1 + secretLength + 1 + checksumLength
)

// Token is a registry token, secret included: "crt_<id>_<secret>_<checksum>". The id has 8 characters and
// follows from the hash of the secret, the secret 43 (32 random bytes), the checksum 6 (CRC-32 IEEE of all before its underscore), all in base62.
//
// It never formats as its secret: String and LogValue give the id alone; Reveal gives the token.
type Token struct {
	id, secret string
}

// Mint makes a token from a source of randomness, crypto/rand.Reader outside of tests.
func Mint(random io.Reader) (Token, error) {
	var seed [32]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return Token{}, fmt.Errorf("minting a token: %w", err)
	}
	t := Token{secret: base62(new(big.Int).SetBytes(seed[:]), secretLength)}
	t.id = idOf(t.fingerprint())
	return t, nil
}

// IDOf returns the id of the token that Mint made, from the SHA-256 of its secret in hexadecimal: who knows the hash alone
// knows what to call the token by.
func IDOf(secretSHA256 string) (string, error) {
	sum, err := decodeSHA256(secretSHA256)
	if err != nil {
		return "", err
	}
	return idOf(sum), nil
}

// idOf takes eight bytes, which are 80,000 times as many values as there are ids, so that the remainder is all but
// uniform. What an id tells of the hash is of no use: behind that are 32 random bytes.
func idOf(sum [sha256.Size]byte) string {
	id := new(big.Int).SetBytes(sum[:8])
	return base62(id.Mod(id, new(big.Int).Exp(big.NewInt(62), big.NewInt(idLength), nil)), idLength)
}

// ParseToken reads a token. The error names what is wrong with the form and never quotes the input.
func ParseToken(s string) (Token, error) {
	rest, found := strings.CutPrefix(s, tokenPrefix)
	if !found {
		return Token{}, errors.New("a registry token starts with " + tokenPrefix)
	}
	if len(s) != tokenLength {
		return Token{}, fmt.Errorf("a registry token has %d characters, this one has %d", tokenLength, len(s))
	}
	id, secret, checksum := rest[:idLength], rest[idLength+1:idLength+1+secretLength], rest[idLength+secretLength+2:]
	if rest[idLength] != '_' || rest[idLength+1+secretLength] != '_' || !isBase62(id) || !isBase62(secret) || !isBase62(checksum) {
		return Token{}, errors.New("a registry token has the form crt_<id>_<secret>_<checksum>, each of letters and digits")
	}
	if checksumOf(s[:len(s)-checksumLength-1]) != [checksumLength]byte([]byte(checksum)) {
		return Token{}, errors.New("the registry token's checksum is wrong: a part of it was mistyped or lost")
	}
	return Token{id: id, secret: secret}, nil
}

// ID is the public part.
func (t Token) ID() string { return t.id }

// SHA256 is the SHA-256 of the secret part, as it is written in the token, in lower-case hexadecimal: the only form in
// which it leaves its holder.
func (t Token) SHA256() string {
	sum := t.fingerprint()
	return hex.EncodeToString(sum[:])
}

// Reveal returns the token itself, for the Secret or the terminal that it is made for.
func (t Token) Reveal() string { return t.body() + "_" + t.checksum() }

// String is "crt_<id>", safe for logs.
func (t Token) String() string { return tokenPrefix + t.id }

// Format writes String whatever the verb, so that "%#v" or "%d" in a message does not print the secret.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// LogValue is String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

func (t Token) body() string { return tokenPrefix + t.id + "_" + t.secret }

func (t Token) fingerprint() [sha256.Size]byte { return sha256.Sum256([]byte(t.secret)) }

func (t Token) checksum() string {
	sum := checksumOf(t.body())
	return string(sum[:])
}

// checksumOf is made without big numbers: each request with a token needs it.
func checksumOf(body string) (digits [checksumLength]byte) {
	sum := crc32.ChecksumIEEE([]byte(body))
	for i := range digits {
		digits[checksumLength-1-i] = base62Digits[sum%62]
		sum /= 62
	}
	return digits
}

const base62Digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// ValidateID says that id cannot be the id of a token. It does not quote it: somebody may have written the whole token.
func ValidateID(id string) error {
	if len(id) != idLength || !isBase62(id) {
		return fmt.Errorf("an id has %d letters and digits: it is the second part of the token, behind %s", idLength, tokenPrefix)
	}
	return nil
}

// base62 writes n with leading zeros; the digits are 0-9, a-z, A-Z.
func base62(n *big.Int, length int) string {
	digits := n.Text(62)
	return strings.Repeat("0", length-len(digits)) + digits
}

func isBase62(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

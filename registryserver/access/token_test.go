package access_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/chartroom-dev/chartroom/registryserver/access"
)

// A token of zeros, and the one that a source of zeros gives. Id and checksums were computed with another program.
const (
	mintedOfZeros = "crt_nqt0xOjz_0000000000000000000000000000000000000000000_2skhVg"

	zeroToken    = "crt_00000000_0000000000000000000000000000000000000000000_" + zeroChecksum
	zeroChecksum = "4dvgry"
)

func mint(t *testing.T) access.Token {
	t.Helper()
	token, err := access.Mint(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type ones struct{}

func (ones) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 0xff
	}
	return len(p), nil
}

func TestMint(t *testing.T) {
	form := regexp.MustCompile(`^crt_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}$`)
	for name, source := range map[string]io.Reader{"random": rand.Reader, "zeros": zeros{}, "ones": ones{}} {
		token, err := access.Mint(source)
		if err != nil {
			t.Fatal(err)
		}
		if !form.MatchString(token.Reveal()) {
			t.Errorf("%s: %s is not of the documented form", name, token.Reveal())
		}
		parsed, err := access.ParseToken(token.Reveal())
		if err != nil || parsed != token {
			t.Errorf("%s: a minted token is read as %v, %v", name, parsed, err)
		}
		secret := strings.Split(token.Reveal(), "_")[2]
		sum := sha256.Sum256([]byte(secret))
		if token.SHA256() != hex.EncodeToString(sum[:]) || token.ID() != strings.Split(token.Reveal(), "_")[1] {
			t.Errorf("%s: id %s and hash %s do not belong to %s", name, token.ID(), token.SHA256(), token.Reveal())
		}
	}
	if token, _ := access.Mint(zeros{}); token.Reveal() != mintedOfZeros {
		t.Errorf("zeros give %s, want %s", token.Reveal(), mintedOfZeros)
	}
	if one, two := mint(t), mint(t); one == two {
		t.Error("two tokens are the same")
	}
	if _, err := access.Mint(iotest.ErrReader(errors.New("broken"))); err == nil {
		t.Error("a token was made without randomness")
	}
	if _, err := access.Mint(io.LimitReader(rand.Reader, 20)); err == nil {
		t.Error("a token was made of too little randomness")
	}
}

func TestIDFollowsFromTheHash(t *testing.T) {
	token := mint(t)
	if id, err := access.IDOf(token.SHA256()); err != nil || id != token.ID() {
		t.Errorf("by its hash %v has the id %s, %v", token, id, err)
	}
	for _, hash := range []string{"", "00", strings.ToUpper(token.SHA256()), token.SHA256() + "00", strings.Repeat("x", 64)} {
		if id, err := access.IDOf(hash); err == nil {
			t.Errorf("%q is taken for a hash, of %s", hash, id)
		}
	}
}

// checksummed adds a checksum that is right to whatever stands before it.
func checksummed(body string) string {
	checksum := big.NewInt(int64(crc32.ChecksumIEEE([]byte(body)))).Text(62)
	return body + "_" + strings.Repeat("0", 6-len(checksum)) + checksum
}

// A checksum that is right makes no token of what has not its form.
func TestParseTokenRefusesSignsWithTheRightChecksum(t *testing.T) {
	body := zeroToken[:len(zeroToken)-7]
	if checksummed(body) != zeroToken {
		t.Fatalf("%s has the checksum of %s", zeroToken, checksummed(body))
	}
	refused := []string{
		checksummed(body[:12] + "-" + body[13:]),
		body + "-" + zeroChecksum,
	}
	for _, sign := range "/:@[`{-_ " { // The neighbours of digits and letters first.
		refused = append(refused, checksummed(body[:11]+string(sign)+body[12:]), checksummed(body[:len(body)-1]+string(sign)))
	}
	for _, s := range refused {
		if token, err := access.ParseToken(s); err == nil {
			t.Errorf("%s: was read as %v", s, token)
		}
		if err := access.ValidateID(s[4:12]); err == nil && s[4:12] != "00000000" {
			t.Errorf("%s is an id", s[4:12])
		}
	}
	for _, end := range "09azAZ" {
		if _, err := access.ParseToken(checksummed(body[:len(body)-1] + string(end))); err != nil {
			t.Errorf("%c: %v", end, err)
		}
		if err := access.ValidateID("0000000" + string(end)); err != nil {
			t.Errorf("%c: %v", end, err)
		}
	}
}

func TestParseTokenRefuses(t *testing.T) {
	if _, err := access.ParseToken("swordfish"); err == nil || !strings.Contains(err.Error(), "starts with crt_") {
		t.Errorf("a password: %v", err)
	}
	for name, s := range map[string]string{
		"nothing":            "",
		"a password":         "swordfish",
		"another prefix":     "crs_" + zeroToken[4:],
		"too short":          zeroToken[:len(zeroToken)-1],
		"too long":           zeroToken + "0",
		"a newline":          zeroToken + "\n",
		"a mistyped secret":  strings.Replace(zeroToken, "_0", "_1", 2),
		"a mistyped end":     zeroToken[:len(zeroToken)-1] + "~",
		"parts of other len": "crt_0000000_00000000000000000000000000000000000000000000_" + zeroChecksum,
		"four parts":         "crt_00000000_000000000000000000000_000000000000000000000_" + zeroChecksum,
		"not a digit":        "crt_00000000_00000000000000000000000000000000000000000é_" + zeroChecksum,
	} {
		token, err := access.ParseToken(s)
		if err == nil {
			t.Errorf("%s: was read as %v", name, token)
		} else if len(s) > 12 && strings.Contains(err.Error(), s[4:12]) {
			t.Errorf("%s: the error quotes the input: %v", name, err)
		}
	}
}

// Whatever a careless line of code does with a token, its secret is not written.
func TestTokensDoNotFormatAsTheirSecret(t *testing.T) {
	token := mint(t)
	secret := strings.Split(token.Reveal(), "_")[2]
	credentials := access.Credentials{Secret: token.Reveal(), Present: true}
	var out bytes.Buffer
	for _, log := range []*slog.Logger{slog.New(slog.NewJSONHandler(&out, nil)), slog.New(slog.NewTextHandler(&out, nil))} {
		log.Info("x", "token", token, "pointer", &token, "list", []access.Token{token}, "credentials", credentials)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%T"} {
		fmt.Fprintf(&out, verb+verb+verb+verb+"\n", token, &token, []access.Token{token}, credentials)
	}
	if err := json.NewEncoder(&out).Encode(map[string]any{"token": token, "pointer": &token, "credentials": credentials}); err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{secret, hex.EncodeToString([]byte(secret)), token.SHA256()} {
		if strings.Contains(strings.ToLower(out.String()), strings.ToLower(leak)) {
			t.Errorf("the secret was written:\n%s", out.String())
		}
	}
	if got := fmt.Sprintf("%#v", token); got != "crt_"+token.ID() {
		t.Errorf("a token is written as %s; logs need its id", got)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(zeroToken)
	f.Add(zeroToken[:40])
	f.Add("crt___")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := access.ParseToken(s)
		if err == nil && token.Reveal() != s {
			t.Errorf("%q was read as %q", s, token.Reveal())
		}
		if err == nil && access.ValidateID(token.ID()) != nil {
			t.Errorf("%q has the id %q", s, token.ID())
		}
	})
}

package ociapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// uploadLifetime is how long an upload may be continued.
const uploadLifetime = 24 * time.Hour

// signer makes and reads the last path element of an upload's address: "<id>.<issued>.<signature>". All that the next
// request needs is in it, so that beginning an upload writes nothing and any replica can go on with it. The id has 128
// random bits; issued is the Unix time in seconds. The signature covers the repository and the identity too: an
// address that leaks is of no use to somebody else, or for another repository.
type signer struct {
	keys   func() [][]byte
	now    func() time.Time
	random io.Reader
}

func (s signer) issue(name, identity string) (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(s.random, id[:]); err != nil {
		return "", fmt.Errorf("making an upload id: %w", err)
	}
	state := base64.RawURLEncoding.EncodeToString(id[:]) + "." + strconv.FormatInt(s.now().Unix(), 10)
	return state + "." + sign(s.keys()[0], name, identity, state), nil
}

// verify returns the id, or repository.ErrUploadUnknown whatever is wrong.
func (s signer) verify(segment, name, identity string) (string, error) {
	end := strings.LastIndexByte(segment, '.')
	if end < 0 {
		return "", repository.ErrUploadUnknown
	}
	state, signature := segment[:end], segment[end+1:]
	if !s.signed(state, signature, name, identity) {
		return "", repository.ErrUploadUnknown
	}
	id, issued, _ := strings.Cut(state, ".")
	seconds, err := strconv.ParseInt(issued, 10, 64)
	if err != nil || s.now().Sub(time.Unix(seconds, 0)) > uploadLifetime {
		return "", repository.ErrUploadUnknown
	}
	return id, nil
}

func (s signer) signed(state, signature, name, identity string) bool {
	for _, key := range s.keys() {
		if hmac.Equal([]byte(signature), []byte(sign(key, name, identity, state))) {
			return true
		}
	}
	return false
}

// sign begins with the purpose, because the same keys may sign other things.
func sign(key []byte, name, identity, state string) string {
	mac := hmac.New(sha256.New, key)
	// None of the parts can hold a NUL, so the parts cannot be shifted into each other.
	mac.Write([]byte(strings.Join([]string{"chartroom upload 1", name, identity, state}, "\x00")))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

package registryserver

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	keyBytes     = 32
	maxKeysBytes = 4 << 10
)

// keyFile holds the keys of a file and reads them again when the file changes. A file that cannot be read, or holds no
// keys, keeps the last good ones in force.
type keyFile struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	seen os.FileInfo
	keys [][]byte
}

// openKeys reads the file, which is made with a new key when it is missing.
func openKeys(path string, log *slog.Logger) (*keyFile, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := makeKeys(path); err != nil {
			return nil, fmt.Errorf("making the file of keys: %w", err)
		}
	}
	k := &keyFile{path: path, log: log}
	if err := k.read(); err != nil {
		return nil, err
	}
	return k, nil
}

// Keys returns the keys in force; the first signs.
func (k *keyFile) Keys() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, err := os.Stat(k.path)
	if err == nil && os.SameFile(now, k.seen) && now.ModTime().Equal(k.seen.ModTime()) && now.Size() == k.seen.Size() {
		return k.keys
	}
	if err := k.read(); err != nil {
		k.log.Warn("the changed file of keys was not taken; the keys read before stay in force", "error", err)
	}
	return k.keys
}

func (k *keyFile) read() error {
	f, err := os.Open(k.path)
	if err != nil {
		return fmt.Errorf("reading the keys: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reading the keys: %w", err)
	}
	// Whatever comes of it, this file is not read again until it changes.
	k.seen = info
	data, err := io.ReadAll(io.LimitReader(f, maxKeysBytes+1))
	if err != nil {
		return fmt.Errorf("reading the keys: %w", err)
	}
	keys, err := parseKeys(data)
	if err != nil {
		return fmt.Errorf("reading the keys in %s: %w", k.path, err)
	}
	k.keys = keys
	return nil
}

// parseKeys reads one key in each line, in base64 (RFC 4648 section 4). Its errors never quote the input.
func parseKeys(data []byte) ([][]byte, error) {
	if len(data) > maxKeysBytes {
		return nil, fmt.Errorf("there are more than %d bytes", maxKeysBytes)
	}
	var keys [][]byte
	for i, line := range strings.Split(string(bytes.TrimSpace(data)), "\n") {
		key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(line))
		if err != nil || len(key) != keyBytes {
			return nil, fmt.Errorf("line %d is not the base64 of %d bytes; `openssl rand -base64 %d` makes a key", i+1, keyBytes, keyBytes)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// makeKeys writes a new key. Of two servers that start at once, one's key is taken by both.
func makeKeys(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	var key [keyBytes]byte
	if _, err := rand.Read(key[:]); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".keys-*") // Made with mode 0600.
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key[:]) + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

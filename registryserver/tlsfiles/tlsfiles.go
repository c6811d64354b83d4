// Package tlsfiles serves TLS material from files that change while it is in use, as mounted Secrets and certificate
// managers change them: by a write, a rename, or a swap of symbolic links. Files are looked at when they are needed, so
// that there is nothing to start or stop. What cannot be used is logged, and the last good one stays in use.
package tlsfiles

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
)

// maxFileBytes bounds each file.
const maxFileBytes = 1 << 20

// KeyPair is a certificate chain and its key in two PEM files.
type KeyPair struct {
	files *files[*tls.Certificate]
}

// Load reads a certificate chain, leaf first, and its key. An error says what is wrong with which file; later on,
// problems go to log.
func Load(certFile, keyFile string, log *slog.Logger) (*KeyPair, error) {
	loaded, err := load(log, func(contents [][]byte) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		return &pair, err
	}, certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return &KeyPair{files: loaded}, nil
}

// GetCertificate returns the pair as the files have it now. It is made for tls.Config.GetCertificate and never fails.
func (p *KeyPair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return p.files.current(), nil
}

// Pool is a bundle of authorities in a PEM file.
type Pool struct {
	files *files[*x509.CertPool]
}

// LoadPool reads a bundle of at least one certificate. An error says what is wrong with the file; later on, problems go
// to log.
func LoadPool(file string, log *slog.Logger) (*Pool, error) {
	loaded, err := load(log, func(contents [][]byte) (*x509.CertPool, error) { return parsePool(contents[0]) }, file)
	if err != nil {
		return nil, err
	}
	return &Pool{files: loaded}, nil
}

// Current returns the bundle as the file has it now.
func (p *Pool) Current() *x509.CertPool { return p.files.current() }

func parsePool(data []byte) (*x509.CertPool, error) {
	pool, found := x509.NewCertPool(), false
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a bundle of authorities holds CERTIFICATE blocks, and this one has %q", block.Type)
		}
		authority, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(authority)
		found = true
	}
	if !found {
		return nil, errors.New("there is no PEM certificate in it")
	}
	return pool, nil
}

// files is a value parsed from files, parsed anew when their content has changed. The content is compared, rather than
// times and sizes: next to a handshake it costs nothing, and no quick succession of changes can be missed.
type files[T any] struct {
	paths []string
	parse func(contents [][]byte) (T, error)
	log   *slog.Logger

	mu    sync.Mutex
	value T
	// content is what value was parsed from.
	content [][]byte
	// problem is why the files as they are now cannot be used; empty when they are in use.
	problem string
}

func load[T any](log *slog.Logger, parse func([][]byte) (T, error), paths ...string) (*files[T], error) {
	f := &files[T]{paths: paths, parse: parse, log: log}
	_, err := f.refresh()
	return f, err
}

// current returns the value, parsed anew when a file has changed.
func (f *files[T]) current() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed, err := f.refresh()
	switch {
	case err != nil && f.problem != err.Error():
		f.problem = err.Error()
		f.log.Error("TLS files changed and cannot be used; the last good ones stay in use", "error", err)
	case err == nil && (changed || f.problem != ""):
		f.problem = ""
		f.log.Info("TLS files changed and are in use", "files", strings.Join(f.paths, ", "))
	}
	return f.value
}

// refresh reads the files and parses them, unless they are what value was parsed from.
func (f *files[T]) refresh() (changed bool, err error) {
	content := make([][]byte, 0, len(f.paths))
	for _, path := range f.paths {
		data, err := readBounded(path)
		if err != nil {
			return false, err
		}
		content = append(content, data)
	}
	if slices.EqualFunc(content, f.content, bytes.Equal) {
		return false, nil
	}
	value, err := f.parse(content)
	if err != nil {
		return false, fmt.Errorf("%s: %w", strings.Join(f.paths, ", "), err)
	}
	f.value, f.content = value, content
	return true, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path) //nolint:gosec // The path is the administrator's own.
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err == nil && len(data) > maxFileBytes {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFileBytes)
	}
	return data, err
}

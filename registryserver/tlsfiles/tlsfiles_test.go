package tlsfiles_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/tlsfiles"
)

// makePair returns a certificate of that name, which signs itself, and its key.
func makePair(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// secret is a mounted Secret: links to files in a folder that is swapped as a whole.
type secret struct {
	folder string
	swaps  int
}

func (s *secret) path(name string) string { return filepath.Join(s.folder, name) }

func (s *secret) swap(t *testing.T, files map[string][]byte) {
	t.Helper()
	s.swaps++
	content := fmt.Sprintf("..%d", s.swaps)
	errs := []error{os.Mkdir(s.path(content), 0o700)}
	for name, data := range files {
		errs = append(errs, os.WriteFile(filepath.Join(s.path(content), name), data, 0o600))
	}
	errs = append(errs, os.Symlink(content, s.path("..tmp")), os.Rename(s.path("..tmp"), s.path("..data")))
	if s.swaps > 1 {
		errs = append(errs, os.RemoveAll(s.path(fmt.Sprintf("..%d", s.swaps-1))))
	} else {
		for name := range files {
			errs = append(errs, os.Symlink(filepath.Join("..data", name), s.path(name)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func pairFiles(certificate, key []byte) map[string][]byte {
	return map[string][]byte{"tls.crt": certificate, "tls.key": key}
}

// nameOf is the name in the certificate that a handshake would get.
func nameOf(t *testing.T, pair *tlsfiles.KeyPair) string {
	t.Helper()
	certificate, err := pair.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return certificate.Leaf.Subject.CommonName
}

func TestKeyPairFollowsItsFiles(t *testing.T) {
	var log bytes.Buffer
	mount := &secret{folder: t.TempDir()}
	one, oneKey := makePair(t, "one")
	two, twoKey := makePair(t, "two")
	mount.swap(t, pairFiles(one, oneKey))
	pair, err := tlsfiles.Load(mount.path("tls.crt"), mount.path("tls.key"), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name   string
		change func()
		want   string
		logged string // Empty: nothing may be.
	}{
		{"nothing", func() {}, "one", ""},
		{"a new pair", func() { mount.swap(t, pairFiles(two, twoKey)) }, "two", "are in use"},
		{"nothing", func() {}, "two", ""},
		{"not a pair", func() { mount.swap(t, pairFiles(one, twoKey)) }, "two", "cannot be used"},
		{"still not a pair", func() {}, "two", ""},
		{"no key", func() { mount.swap(t, pairFiles(one, nil)) }, "two", "cannot be used"},
		{"no files", func() { mount.swap(t, nil) }, "two", "no such file"},
		{"still no files", func() {}, "two", ""},
		{"a large file", func() { mount.swap(t, pairFiles(bytes.Repeat([]byte("\n"), 2<<20), oneKey)) }, "two", "larger than"},
		{"the first pair", func() { mount.swap(t, pairFiles(one, oneKey)) }, "one", "are in use"},
		{"written in place", func() {
			for name, data := range pairFiles(two, twoKey) {
				if err := os.WriteFile(mount.path(name), append(data, '\n'), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, "two", "are in use"},
	} {
		log.Reset()
		step.change()
		if got := nameOf(t, pair); got != step.want {
			t.Errorf("%s: %s is in use, want %s", step.name, got, step.want)
		}
		if (log.Len() > 0) != (step.logged != "") || !strings.Contains(log.String(), step.logged) {
			t.Errorf("%s: the log is %q, want %q", step.name, log.String(), step.logged)
		}
		if strings.Contains(log.String(), "PRIVATE") || strings.Contains(log.String(), strings.Split(string(oneKey), "\n")[1]) {
			t.Errorf("%s: a key is in the log: %s", step.name, log.String())
		}
	}
}

func TestPoolFollowsItsFile(t *testing.T) {
	var log bytes.Buffer
	file := filepath.Join(t.TempDir(), "ca.crt")
	one, oneKey := makePair(t, "one")
	two, _ := makePair(t, "two")
	put := func(data []byte) {
		if err := errors.Join(os.WriteFile(file+".new", data, 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	put(one)
	pool, err := tlsfiles.LoadPool(file, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	of := func(bundle ...[]byte) *x509.CertPool {
		want := x509.NewCertPool()
		want.AppendCertsFromPEM(bytes.Join(bundle, nil))
		return want
	}
	damaged := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	for _, step := range []struct {
		name string
		data []byte
		want *x509.CertPool
	}{
		{"another", two, of(two)},
		{"both", append(bytes.Clone(one), two...), of(one, two)},
		{"none", nil, of(one, two)},
		{"no PEM", []byte("x"), of(one, two)},
		{"one and a damaged one", append(bytes.Clone(one), damaged...), of(one, two)},
		{"one and a key", append(bytes.Clone(one), oneKey...), of(one, two)},
		{"one again", one, of(one)},
	} {
		put(step.data)
		if !pool.Current().Equal(step.want) {
			t.Errorf("%s: other authorities are in use; the log: %s", step.name, log.String())
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	folder := t.TempDir()
	certificate, key := makePair(t, "one")
	_, otherKey := makePair(t, "two")
	paths := map[string]string{"missing": filepath.Join(folder, "missing"), "folder": folder}
	for name, data := range map[string][]byte{"cert": certificate, "key": key, "other key": otherKey, "empty": nil} {
		paths[name] = filepath.Join(folder, name)
		if err := os.WriteFile(paths[name], data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	for _, c := range [][2]string{{"missing", "key"}, {"cert", "missing"}, {"folder", "key"}, {"cert", "other key"}, {"empty", "key"}, {"key", "cert"}} {
		pair, err := tlsfiles.Load(paths[c[0]], paths[c[1]], log)
		if pair != nil || err == nil || !strings.Contains(err.Error(), folder) {
			t.Errorf("%v: %v", c, err)
		}
	}
	for _, name := range []string{"missing", "folder", "key", "empty"} {
		pool, err := tlsfiles.LoadPool(paths[name], log)
		if pool != nil || err == nil || !strings.Contains(err.Error(), folder) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Handshakes come at once, in the middle of swaps: each gets a whole pair.
func TestHandshakesDuringSwaps(t *testing.T) {
	mount := &secret{folder: t.TempDir()}
	one, oneKey := makePair(t, "one")
	two, twoKey := makePair(t, "two")
	mount.swap(t, pairFiles(one, oneKey))
	pair, err := tlsfiles.Load(mount.path("tls.crt"), mount.path("tls.key"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var handshakes sync.WaitGroup
	for range 4 {
		handshakes.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				certificate, err := pair.GetCertificate(nil)
				if err != nil || !certificate.PrivateKey.(*ecdsa.PrivateKey).PublicKey.Equal(certificate.Leaf.PublicKey) {
					t.Errorf("not a pair: %v", err)
					return
				}
			}
		})
	}
	for range 20 {
		mount.swap(t, pairFiles(two, twoKey))
		mount.swap(t, pairFiles(one, oneKey))
	}
	close(stop)
	handshakes.Wait()
	if got := nameOf(t, pair); got != "one" {
		t.Errorf("%s is in use at the end", got)
	}
}

package admin_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/admin"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const registry = "team-a/charts"

var serverName = wire.AdminServerName("team-a", "charts")

// authority signs certificates for tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate: certificate, key: key}
}

// sign returns a certificate for a new key, and both as PEM.
func (a *authority) sign(t *testing.T, template *x509.Certificate) (pair tls.Certificate, pemPair [2][]byte) {
	t.Helper()
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pemPair = [2][]byte{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
	if pair, err = tls.X509KeyPair(pemPair[0], pemPair[1]); err != nil {
		t.Fatal(err)
	}
	return pair, pemPair
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

func leaf(change ...func(*x509.Certificate)) *x509.Certificate {
	operator, err := url.Parse(wire.OperatorURI)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "x"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{operator},
	}
	for _, c := range change {
		c(template)
	}
	return template
}

func serverLeaf(name string) *x509.Certificate {
	return leaf(func(c *x509.Certificate) {
		c.URIs, c.DNSNames, c.ExtKeyUsage = nil, []string{name}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
}

// buffer is a log that a test may read while it is written.
type buffer struct {
	mu  sync.Mutex
	log bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

// port is an admin port that serves.
type port struct {
	address                       string
	cert, key, clientCA, stateDir string
	servers, clients              *authority
	operator                      tls.Certificate
	log                           *buffer
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	// Replaced like a mounted Secret: another file under the same name.
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func newPort(t *testing.T) *port {
	t.Helper()
	folder := t.TempDir()
	p := &port{
		cert: filepath.Join(folder, "tls.crt"), key: filepath.Join(folder, "tls.key"), clientCA: filepath.Join(folder, "ca.crt"),
		servers: newAuthority(t, "servers"), clients: newAuthority(t, "clients"), log: &buffer{}, stateDir: t.TempDir(),
	}
	p.operator, _ = p.clients.sign(t, leaf())
	_, pair := p.servers.sign(t, serverLeaf(serverName))
	write(t, p.cert, pair[0])
	write(t, p.key, pair[1])
	write(t, p.clientCA, p.clients.pem())
	log := slog.New(slog.NewTextHandler(p.log, nil))
	config, err := admin.TLSConfig(p.cert, p.key, p.clientCA, log)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	p.address = listener.Addr().String()
	enforcer := access.NewEnforcer(access.EnforcerOptions{Registry: registry, StateDir: p.stateDir})
	server := &http.Server{
		Handler:  admin.Handler(admin.Options{Program: "v1.2.3", Registry: registry, Enforcer: enforcer, Log: log, Storage: storage, Usage: usage}),
		ErrorLog: slog.NewLogLogger(slog.NewTextHandler(p.log, nil), slog.LevelError),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return p
}

func usage() *wire.UsageState { return &wire.UsageState{SizeBytes: 1, Charts: 2, Versions: 3} }

func storage(context.Context) wire.StorageState {
	return wire.StorageState{Kind: wire.StorageS3, SingleWriter: true, Problem: "the storage cannot be read: it is gone"}
}

// client is one that the operator would use, with another certificate or another idea of TLS. Each has connections of its own.
func (p *port) client(t *testing.T, certificate *tls.Certificate, change ...func(*tls.Config)) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(p.servers.certificate)
	config := &tls.Config{RootCAs: roots, ServerName: serverName}
	if certificate != nil {
		// Unlike Certificates, this presents the certificate even where the server would not take it.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	for _, c := range change {
		c(config)
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// do returns the answer and its body, or why there was none.
func (p *port) do(ctx context.Context, client *http.Client, method, path string, body []byte) (*http.Response, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, "https://"+p.address+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	response, err := client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response, data, err
}

func revision(n uint64) wire.Access {
	return wire.Access{Revision: n, Registry: registry, Tokens: []wire.Token{{
		ID: "aaaaaaaa", SHA256: strings.Repeat("5", 64), Scopes: wire.Scopes(), Charts: []string{"*"},
	}}}
}

func TestWhoIsAdmitted(t *testing.T) {
	p := newPort(t)
	stranger := newAuthority(t, "clients") // Of the same name, with another key.
	sign := func(a *authority, change ...func(*x509.Certificate)) *tls.Certificate {
		pair, _ := a.sign(t, leaf(change...))
		return &pair
	}
	uris := func(list ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, s := range list {
				u, err := url.Parse(s)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
		}
	}
	usage := func(list ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = list }
	}
	// A chain over an intermediate authority that may sign for that usage.
	through := func(usages ...x509.ExtKeyUsage) *tls.Certificate {
		intermediate := newAuthority(t, "intermediate")
		template := *intermediate.certificate
		template.ExtKeyUsage = usages
		der, err := x509.CreateCertificate(rand.Reader, &template, p.clients.certificate, intermediate.key.Public(), p.clients.key)
		if err != nil {
			t.Fatal(err)
		}
		pair, _ := intermediate.sign(t, leaf())
		pair.Certificate = append(pair.Certificate, der)
		return &pair
	}
	own, _ := newAuthority(t, "self").sign(t, leaf())
	tls12 := func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }
	for name, c := range map[string]struct {
		certificate *tls.Certificate
		change      []func(*tls.Config)
		admitted    bool
	}{
		"the operator":                {certificate: &p.operator, admitted: true},
		"by an intermediate":          {certificate: through(), admitted: true},
		"by one for servers":          {certificate: through(x509.ExtKeyUsageServerAuth)},
		"no certificate":              {},
		"an unknown authority":        {certificate: &own},
		"another key, the same name":  {certificate: sign(stranger)},
		"the servers' authority":      {certificate: sign(p.servers)},
		"another URI":                 {certificate: sign(p.clients, uris("spiffe://chartroom.dev/other"))},
		"a longer URI":                {certificate: sign(p.clients, uris(wire.OperatorURI+"/x"))},
		"the URI in upper case":       {certificate: sign(p.clients, uris("spiffe://CHARTROOM.DEV/operator"))},
		"one more URI":                {certificate: sign(p.clients, uris(wire.OperatorURI, "spiffe://chartroom.dev/other"))},
		"no URI":                      {certificate: sign(p.clients, uris())},
		"the URI as the name":         {certificate: sign(p.clients, uris(), func(c *x509.Certificate) { c.Subject.CommonName = wire.OperatorURI })},
		"for servers":                 {certificate: sign(p.clients, usage(x509.ExtKeyUsageServerAuth))},
		"for nothing in particular":   {certificate: sign(p.clients, usage())},
		"for anything":                {certificate: sign(p.clients, usage(x509.ExtKeyUsageAny))},
		"expired":                     {certificate: sign(p.clients, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })},
		"not valid yet":               {certificate: sign(p.clients, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })},
		"the operator, with TLS 1.2":  {certificate: &p.operator, change: []func(*tls.Config){tls12}},
		"no certificate, and TLS 1.2": {change: []func(*tls.Config){tls12}},
	} {
		for _, path := range []string{wire.PathAbout, "/"} {
			response, _, err := p.do(t.Context(), p.client(t, c.certificate, c.change...), http.MethodGet, path, nil)
			if (err == nil) != c.admitted {
				t.Errorf("%s: %s: answered %v, error %v", name, path, response, err)
			}
		}
	}
	if _, _, err := (&port{address: p.address}).do(t.Context(), http.DefaultClient, http.MethodGet, wire.PathAbout, nil); err == nil {
		t.Error("who does not know the server's authority took its certificate")
	}
}

func TestPlainHTTPIsNotAnswered(t *testing.T) {
	p := newPort(t)
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if _, err := io.WriteString(connection, "GET "+wire.PathAbout+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(connection)
	if strings.Contains(string(answer), registry) {
		t.Errorf("%q", answer)
	}
}

func TestAboutAndAccess(t *testing.T) {
	p := newPort(t)
	client := p.client(t, &p.operator)
	other := revision(2)
	other.Visibility = wire.Public
	digest := revision(1).ContentDigest()
	for _, step := range []struct {
		name     string
		document []byte
		status   int
		revision uint64
		problem  string
	}{
		{"rubbish first", []byte("{"), 422, 0, "not JSON"},
		{"the first", revision(1).Encode(), 200, 1, ""},
		{"a later one", revision(2).Encode(), 200, 2, ""},
		{"the same again", revision(2).Encode(), 200, 2, ""},
		{"an older one", revision(1).Encode(), 409, 2, ""},
		{"another of the same revision", other.Encode(), 409, 2, ""},
		{"a later version", []byte(`{"version":3}`), 422, 2, "version 3"},
		{"too many bytes", append(revision(3).Encode(), bytes.Repeat([]byte(" "), wire.MaxAccessBytes)...), 422, 2, "more than the"},
		{"the same after a bad one", revision(2).Encode(), 200, 2, ""},
	} {
		response, body, err := p.do(t.Context(), client, http.MethodPut, wire.PathAccess, step.document)
		if err != nil {
			t.Errorf("%s: %v", step.name, err)
			continue
		}
		var state wire.AccessState
		if err := json.Unmarshal(body, &state); err != nil {
			t.Errorf("%s: %v: %s", step.name, err, body)
		}
		if response.StatusCode != step.status || state.Revision != step.revision || (state.Problem == "") != (step.problem == "") || !strings.Contains(state.Problem, step.problem) {
			t.Errorf("%s: %d %+v", step.name, response.StatusCode, state)
		}
		if step.revision > 0 && state.Digest != digest {
			t.Errorf("%s: digest %s, want %s", step.name, state.Digest, digest)
		}

		response, body, err = p.do(t.Context(), client, http.MethodGet, wire.PathAbout, nil)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s: about: %v, %v", step.name, response, err)
		}
		var about wire.About
		if err := json.Unmarshal(body, &about); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wire.About{Program: "v1.2.3", Registry: registry, AccessVersions: []int{1, 2}, Access: state, Storage: storage(t.Context()), Usage: usage()}, about); diff != "" {
			t.Errorf("%s: about: %s", step.name, diff)
		}
		if got := response.Header; got.Get("Content-Type") != "application/json" || got.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", step.name, got)
		}
	}
}

func TestASnapshotThatCannotBeKeptIsTheServersFault(t *testing.T) {
	p := newPort(t)
	if err := os.RemoveAll(p.stateDir); err != nil {
		t.Fatal(err)
	}
	response, body, err := p.do(t.Context(), p.client(t, &p.operator), http.MethodPut, wire.PathAccess, revision(1).Encode())
	if err != nil || response.StatusCode != http.StatusInternalServerError || !strings.Contains(string(body), `"revision":0`) {
		t.Errorf("%v, %s, %v", response, body, err)
	}
}

func TestNothingElseIsServed(t *testing.T) {
	p := newPort(t)
	client := p.client(t, &p.operator)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{http.MethodPost, wire.PathAccess, http.StatusMethodNotAllowed},
		{http.MethodGet, wire.PathAccess, http.StatusMethodNotAllowed},
		{http.MethodPut, wire.PathAbout, http.StatusMethodNotAllowed},
		{http.MethodGet, "/", http.StatusNotFound},
		{http.MethodGet, "/v2/", http.StatusNotFound},
	} {
		response, _, err := p.do(t.Context(), client, c.method, c.path, nil)
		if err != nil || response.StatusCode != c.status {
			t.Errorf("%s %s: %v, %v", c.method, c.path, response, err)
		}
	}
}

// All three files change while the port serves, each time for the next connection, and what is wrong does no harm.
func TestFilesChangeWhileServing(t *testing.T) {
	p := newPort(t)
	session := tls.NewLRUClientSessionCache(8)
	old := p.client(t, &p.operator, func(c *tls.Config) { c.ClientSessionCache = session })
	about := func(client *http.Client) (issuer string, err error) {
		response, _, err := p.do(t.Context(), client, http.MethodGet, wire.PathAbout, nil)
		if err != nil {
			return "", err
		}
		return response.TLS.PeerCertificates[0].Issuer.CommonName, nil
	}
	if issuer, err := about(old); err != nil || issuer != "servers" {
		t.Fatalf("%s, %v", issuer, err)
	}

	// A new authority for clients: the operator of before is a stranger now, resumed session or not.
	clients := newAuthority(t, "new clients")
	operator, _ := clients.sign(t, leaf())
	write(t, p.clientCA, clients.pem())
	if _, err := about(old); err == nil {
		t.Error("a certificate of the authority of before is still admitted")
	}
	p.operator = operator
	if _, err := about(p.client(t, &p.operator)); err != nil {
		t.Errorf("a certificate of the new authority: %v", err)
	}

	// A bundle that cannot be read admits whom the last good one admitted.
	write(t, p.clientCA, []byte("rubbish"))
	for range 2 {
		if _, err := about(p.client(t, &p.operator)); err != nil {
			t.Errorf("with a broken bundle: %v", err)
		}
	}
	if n := strings.Count(p.log.String(), "cannot be used"); n != 1 {
		t.Errorf("the broken bundle is in the log %d times", n)
	}

	// A certificate whose key has not arrived yet, then the key.
	servers := newAuthority(t, "new servers")
	_, pair := servers.sign(t, serverLeaf(serverName))
	write(t, p.cert, pair[0])
	if issuer, err := about(p.client(t, &p.operator)); err != nil || issuer != "servers" {
		t.Errorf("with half of a new pair: %s, %v", issuer, err)
	}
	write(t, p.key, pair[1])
	p.servers = servers
	if issuer, err := about(p.client(t, &p.operator)); err != nil || issuer != "new servers" {
		t.Errorf("with a new pair: %s, %v", issuer, err)
	}
}

func TestTLSConfigNeedsItsFiles(t *testing.T) {
	p := newPort(t)
	missing := filepath.Join(t.TempDir(), "missing")
	for _, files := range [][3]string{{missing, p.key, p.clientCA}, {p.cert, missing, p.clientCA}, {p.cert, p.key, missing}, {p.cert, p.key, p.key}, {p.key, p.cert, p.clientCA}} {
		if _, err := admin.TLSConfig(files[0], files[1], files[2], slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%v were taken", files)
		}
	}
}

package registryserver_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// issue makes a certificate for the admin port, signed by parent or by itself, and writes both files.
func issue(t *testing.T, folder, name string, template *x509.Certificate, parent *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	signer, signerKey := template, any(key)
	if parent != nil {
		signer, signerKey = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, &key.PublicKey, signerKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for file, content := range map[string][]byte{name + ".crt": certPEM, name + ".key": keyPEM} {
		if err := os.WriteFile(filepath.Join(folder, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// startOperated starts a server with an admin port, and returns a client that the operator could be.
func startOperated(t *testing.T, change ...func(*registryserver.Config)) (*running, *http.Client) {
	t.Helper()
	folder := t.TempDir()
	authority := issue(t, folder, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	serverName := wire.AdminServerName("team", "charts")
	issue(t, folder, "admin", &x509.Certificate{DNSNames: []string{serverName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, &authority)
	uri, err := url.Parse(wire.OperatorURI)
	if err != nil {
		t.Fatal(err)
	}
	operator := issue(t, folder, "operator", &x509.Certificate{URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, &authority)
	r := start(t, func(c *registryserver.Config) {
		c.Admin = registryserver.AdminConfig{
			Listen: "127.0.0.1:0", Cert: filepath.Join(folder, "admin.crt"), Key: filepath.Join(folder, "admin.key"), ClientCA: filepath.Join(folder, "ca.crt"),
		}
		c.Access.StateDir = filepath.Join(folder, "state")
		for _, f := range change {
			f(c)
		}
	})
	pool := x509.NewCertPool()
	pool.AddCert(authority.Leaf)
	return r, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: pool, ServerName: serverName, Certificates: []tls.Certificate{operator}, MinVersion: tls.VersionTLS13,
	}}}
}

func (r *running) push(client *http.Client, document []byte) (status int, state wire.AccessState) {
	r.t.Helper()
	status = r.admin(client, http.MethodPut, wire.PathAccess, document, &state)
	return status, state
}

// admin makes a request to the admin port, and decodes the answer.
func (r *running) admin(client *http.Client, method, path string, document []byte, into any) (status int) {
	r.t.Helper()
	address := "https://" + r.server.Addresses()["admin"].String() + path
	request, err := http.NewRequestWithContext(r.t.Context(), method, address, bytes.NewReader(document))
	if err != nil {
		r.t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		r.t.Fatal(err)
	}
	return answer.StatusCode
}

// A new pod must not be sent requests with what a Secret said some time ago while the operator has something newer.
func TestReadinessWaitsForThePush(t *testing.T) {
	t.Parallel()
	r, operator := startOperated(t)
	if ok, body := r.ready(); ok || !strings.Contains(body, "waiting for the operator") {
		t.Errorf("ready before the push: %s", body)
	}
	minted, err := access.Mint(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if status, state := r.push(operator, snapshot(minted, 5)); status != http.StatusOK || state.Revision != 5 {
		t.Fatalf("the push is answered %d %+v", status, state)
	}
	r.untilReady()
	if answer := r.request("GET", r.public+"/v2/", nil, nil); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("the token that the push took away: %d", answer.StatusCode)
	}
	r.token = minted.Reveal()
	if answer := r.request("GET", r.public+"/v2/", nil, nil); answer.StatusCode != http.StatusOK {
		t.Errorf("the token that the push brought: %d", answer.StatusCode)
	}
	if status, state := r.push(operator, snapshot(minted, 4)); status != http.StatusConflict || state.Revision != 5 {
		t.Errorf("an older push is answered %d %+v", status, state)
	}
	var told []string
	for line := range strings.Lines(r.log.String()) {
		if strings.Contains(line, "snapshot") && !strings.Contains(line, "source=file") {
			told = append(told, line)
		}
	}
	if len(told) != 2 || !strings.Contains(told[0], "in force") || !strings.Contains(told[1], "not taken") || !strings.Contains(told[1], "revision 5, and this is 4") {
		t.Errorf("of two pushes the log says: %q", told)
	}
}

// Without an operator a pod serves what it has on disk.
func TestWithoutPushTheFloorServes(t *testing.T) {
	t.Parallel()
	r, _ := startOperated(t)
	r.untilReady()
	if answer := r.request("GET", r.public+"/v2/", nil, nil); answer.StatusCode != http.StatusOK {
		t.Errorf("the token in the file: %d", answer.StatusCode)
	}
}

// A container that is started again while the mounted Secret is older than what was pushed before, and with no operator to
// ask, refuses what was revoked since.
func TestOldMountRevivesNothing(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "access.json")
	revoked := writeAccess(t, file, 3)
	in := func(c *registryserver.Config) {
		c.Access.File, c.Access.StateDir = file, filepath.Join(folder, "state")
	}
	before, operator := startOperated(t, in)
	if before.token = revoked; before.request("GET", before.public+"/v2/", nil, nil).StatusCode != http.StatusOK {
		t.Fatal("the token in the mounted Secret is refused before anything was pushed")
	}
	minted, err := access.Mint(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if status, state := before.push(operator, snapshot(minted, 5)); status != http.StatusOK || state.Revision != 5 {
		t.Fatalf("the push is answered %d %+v", status, state)
	}
	before.stop()

	after, _ := startOperated(t, in)
	after.untilReady()
	for token, want := range map[string]int{revoked: http.StatusUnauthorized, minted.Reveal(): http.StatusOK} {
		after.token = token
		if answer := after.request("GET", after.public+"/v2/", nil, nil); answer.StatusCode != want {
			t.Errorf("%.12s is answered %d, want %d", token, answer.StatusCode, want)
		}
	}
}

// A registry that becomes private again is private, on connections that were open too, and tokens are what they were.
func TestVisibilityIsFlipped(t *testing.T) {
	t.Parallel()
	r, operator := startOperated(t)
	r.untilReady()
	address := r.pushBlob("content")
	token, err := access.ParseToken(r.token)
	if err != nil {
		t.Fatal(err)
	}
	for i, visibility := range []wire.Visibility{wire.Private, wire.Public, wire.Private, wire.Public, ""} {
		document := wire.Access{Revision: uint64(i + 2), Visibility: visibility, Tokens: []wire.Token{{ID: token.ID(), SHA256: token.SHA256(), Scopes: wire.Scopes(), Charts: []string{"*"}}}}
		if status, state := r.push(operator, document.Encode()); status != http.StatusOK || state.Revision != document.Revision {
			t.Fatalf("%d %+v", status, state)
		}
		want := http.StatusUnauthorized
		if visibility == wire.Public {
			want = http.StatusOK
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if body := text(t, answer); answer.StatusCode != want || (body == "content") != (want == http.StatusOK) {
			t.Errorf("%q: anybody is answered %d %s", visibility, answer.StatusCode, body)
		}
		if answer := r.request("GET", address, nil, nil); answer.StatusCode != http.StatusOK {
			t.Errorf("%q: the token is answered %d", visibility, answer.StatusCode)
		}
	}
}

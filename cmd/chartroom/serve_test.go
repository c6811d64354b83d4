package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/access"
)

// The record on standard output has readers that stall, and such as go away.
func TestOutputThatNobodyReads(t *testing.T) {
	for name, leave := range map[string]func(*process) error{
		"stalls":    func(*process) error { return nil },
		"went away": func(p *process) error { return p.out.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serveDir(t, t.TempDir())
			if err := leave(p); err != nil {
				t.Fatal(err)
			}
			token := p.token
			p.token = "wrong"
			for range 500 { // Which make more lines than a pipe holds.
				if status := p.status(); status == http.StatusOK {
					t.Fatal("a wrong token was admitted")
				}
			}
			p.token = token
			if status := p.status(); status != http.StatusOK {
				t.Errorf("a valid token is answered %d", status)
			}
			if err := p.end(syscall.SIGTERM); err != nil {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

func TestFirstStart(t *testing.T) {
	folder := t.TempDir()
	p := serveDir(t, folder)
	if p.status() != http.StatusOK {
		t.Error("the first token is not valid")
	}
	if err := p.push("web", "1.0.0", 100); err != nil {
		t.Error(err)
	}
	for _, file := range []string{"access.token", "access.json", "upload.keys"} {
		if info, err := os.Stat(filepath.Join(folder, "data.state", file)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v %v", file, info.Mode(), err)
		}
	}
	host := strings.TrimPrefix(p.base, "http://")
	for _, line := range []string{
		"  helm registry login " + host + " --username chartroom --password-stdin --plain-http < data.state/access.token\n",
		"  helm push mychart-0.1.0.tgz oci://" + host + "/default/charts --plain-http\n",
		"  helm pull oci://" + host + "/default/charts/mychart --version 0.1.0 --plain-http\n",
	} {
		if !strings.Contains(p.stdout, line) {
			t.Errorf("standard output lacks %q:\n%s", line, p.stdout)
		}
	}
	if strings.Contains(p.stdout+p.stderr.String(), p.token) {
		t.Error("the token is shown where there is no terminal")
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM ended the server with %v", err)
	}
	again := serveDir(t, folder)
	if again.token != p.token || again.status() != http.StatusOK {
		t.Error("the second start made another token")
	}
}

func TestGreetingShowsTheTokenOnATerminal(t *testing.T) {
	token, err := access.Mint(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	address := &url.URL{Scheme: "https", Host: "charts.example.com"}
	greet(&out, true, registryserver.Config{}.WithDefaults(), address, firstToken{file: "my state/access.token", token: token, made: true})
	for _, wanted := range []string{token.Reveal(), "oci://charts.example.com/default/charts", `--password-stdin < "my state/access.token"`} {
		if !strings.Contains(out.String(), wanted) {
			t.Errorf("the greeting lacks %q:\n%s", wanted, &out)
		}
	}
	if strings.Contains(out.String(), "--plain-http") {
		t.Errorf("the greeting of a registry with TLS has --plain-http:\n%s", &out)
	}
}

func TestGreetingOfALaptop(t *testing.T) {
	var out bytes.Buffer
	greet(&out, false, registryserver.Config{}.WithDefaults(), &url.URL{Scheme: "http", Host: "127.0.0.1:5000"}, firstToken{file: "access.token"})
	for _, wanted := range []string{"Helm up to 3.17 has no --plain-http at login", "In a browser: http://127.0.0.1:5000/default/charts\n"} {
		if !strings.Contains(out.String(), wanted) {
			t.Errorf("the greeting lacks %q:\n%s", wanted, &out)
		}
	}
}

// The lines to paste must not name a token that is no longer valid.
func TestGreetingAfterTheFirstTokenWasRevoked(t *testing.T) {
	folder := t.TempDir()
	p := serveDir(t, folder)
	_ = p.end(syscall.SIGKILL)
	file := filepath.Join(folder, "data.state", "access.json")
	if out, err := exec.Command(binary, "token", "revoke", "--access", file, strings.Split(p.token, "_")[1]).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	again := serveDir(t, folder)
	if strings.Contains(again.stdout, "access.token") || !strings.Contains(again.stdout, "< TOKEN-FILE\n") ||
		!strings.Contains(again.stdout, "chartroom token create --access data.state/access.json --scopes read_packages,write_packages > TOKEN-FILE") {
		t.Errorf("the greeting is:\n%s", again.stdout)
	}
}

func TestUsageErrors(t *testing.T) {
	folder := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := os.WriteFile(filepath.Join(folder, "bad.yaml"), []byte("lissten: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args  string
		code  int
		words string
	}{
		{"version", 0, "chartroom v1.2.3 "},
		{"", 0, "Usage:"},
		{"serve --help", 0, "--external-url"},
		{"serv", 2, `unknown command "serv"`},
		{"serve --lissten x", 2, "unknown flag: --lissten; see `chartroom serve --help`"},
		{"serve extra", 2, "extra"},
		{"serve --visibility open", 2, "access.visibility"},
		{"serve --organization A --registry B", 2, "; registry:"},
		{"serve --drain-timeout soon", 2, "soon"},
		{"serve --tls-cert x", 2, "tls"},
		{"serve --quota-size big", 2, "is not a size such as 10Gi"},
		{"serve --quota-charts=-1", 2, "quota.charts: is negative"},
		{"serve --config none.yaml", 1, "none.yaml"},
		{"serve --config bad.yaml", 1, "lissten"},
		{"serve --listen 192.0.2.1:1", 1, "listen"},
		{"serve --listen " + taken.Addr().String(), 1, "listen: another program listens on " + taken.Addr().String()},
		{"token create", 2, "access"},
		{"token create --access a.json --scopes=", 2, "--scopes: "},
		{"token create --access a.json --charts Foo", 2, "--charts: "},
		{"token create --access a.json --ttl 0", 2, "--ttl: "},
		{"token create --access a.json --ttl 30d", 2, `--ttl: "30d" is not a duration such as 720h or 30m; see `},
		{"token revoke --access a.json", 2, "say which token: its id"},
		{"token revoke --access a.json a b", 2, "say which token: its id"},
	} {
		command := exec.Command(binary, strings.Fields(c.args)...)
		command.Dir = folder
		out, err := command.CombinedOutput()
		code := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		}
		if code != c.code || !strings.Contains(string(out), c.words) {
			t.Errorf("chartroom %s: exit code %d, want %d, with %q:\n%s", c.args, code, c.code, c.words, out)
		}
		if c.code != 0 && !strings.Contains(c.args, "192") && strings.Count(string(out), "\n") != 1 {
			t.Errorf("chartroom %s: the error is not one line:\n%s", c.args, out)
		}
	}
}

func TestFlagsOverrideTheFile(t *testing.T) {
	folder := t.TempDir()
	config := "organization: fromfile\nregistry: kept\naccess: {visibility: private}\n"
	if err := os.WriteFile(filepath.Join(folder, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serveDir(t, folder, "--config", "config.yaml", "--organization", "acme", "--visibility", "Public")
	if !strings.Contains(p.stdout, "/acme/kept from data") {
		t.Errorf("the server says %s", p.stdout)
	}
	p.token = ""
	status, _, _, err := p.send("GET", "/v2/acme/kept/web/tags/list", nil, "Authorization", "")
	if err != nil || status != http.StatusUnauthorized {
		t.Errorf("an empty Authorization header: %d, %v", status, err)
	}
	answer, err := http.Get(p.base + "/v2/acme/kept/web/tags/list")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusNotFound {
		t.Errorf("an anonymous read: %d, want 404", answer.StatusCode)
	}
}

func TestAccessFileIsReadAgain(t *testing.T) {
	folder := t.TempDir()
	p := serveDir(t, folder)
	token := func(args ...string) string {
		command := exec.Command(binary, append([]string{"token"}, args...)...)
		command.Dir = folder
		out, err := command.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	p.token = token("create", "--access", "data.state/access.json")
	eventually(t, "the new token was taken", func() bool { return p.status() == http.StatusOK })
	if err := p.push("web", "1.0.0", 10); err == nil || !strings.Contains(err.Error(), "write_packages") {
		t.Errorf("a push with a token that reads: %v", err)
	}
	token("revoke", "--access", "data.state/access.json", p.token[4:12])
	eventually(t, "the revoked token was refused", func() bool { return p.status() == http.StatusUnauthorized })
}

// ledger is what the server acknowledged.
type ledger struct {
	mu   sync.Mutex
	acks map[string]int // "chart version" to the size of the layer
}

func (l *ledger) add(chart, version string, size int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks[chart+" "+version] = size
	return len(l.acks)
}

// Whenever the process is killed, what it had acknowledged is there whole at the next start, and whatever can be seen
// is whole too.
func TestKilledDuringPushes(t *testing.T) {
	const rounds, pushers = 24, 4
	folder := t.TempDir()
	acknowledged := &ledger{acks: map[string]int{}}
	for round := range rounds {
		p := serveDir(t, folder)
		p.verify(acknowledged)
		before := len(acknowledged.acks)
		enough := make(chan struct{})
		var once sync.Once
		var work sync.WaitGroup
		// The moment of the kill is anywhere within a push: the pushers are never in step.
		wanted := before + mathrand.IntN(8)
		delay := time.Duration(mathrand.IntN(4000)) * time.Microsecond
		for pusher := range pushers {
			work.Go(func() {
				for n := 0; ; n++ {
					chart, version := fmt.Sprintf("chart%d", pusher), fmt.Sprintf("%d.%d.0", round, n)
					size := 1 << mathrand.IntN(18)
					err := p.push(chart, version, size)
					var no *refused
					if errors.As(err, &no) {
						t.Errorf("round %d: a push was refused: %v", round, err)
					}
					if err != nil {
						return
					}
					if acknowledged.add(chart, version, size) > wanted {
						once.Do(func() { close(enough) })
					}
				}
			})
		}
		<-enough
		<-time.After(delay)
		_ = p.end(syscall.SIGKILL)
		work.Wait()
	}
	p := serveDir(t, folder)
	p.verify(acknowledged)
	t.Logf("%d pushes were acknowledged in %d rounds", len(acknowledged.acks), rounds)
}

// verify checks that every acknowledged push is there, and that every tag leads to a manifest with all its blobs.
func (p *process) verify(l *ledger) {
	p.t.Helper()
	charts := map[string][]string{}
	for ack, size := range l.acks {
		chart, version, _ := strings.Cut(ack, " ")
		_, _, manifest := chartOf(chart+"-"+version, size)
		if got := p.get("/v2/default/charts/" + chart + "/manifests/" + version); !bytes.Equal(got, manifest) {
			p.t.Errorf("%s is another one than was acknowledged", ack)
		}
		charts[chart] = append(charts[chart], version)
	}
	for chart, versions := range charts {
		var list struct{ Tags []string }
		if err := json.Unmarshal(p.get("/v2/default/charts/"+chart+"/tags/list"), &list); err != nil {
			p.t.Fatal(err)
		}
		for _, v := range versions {
			if !slices.Contains(list.Tags, v) {
				p.t.Errorf("%s %s was acknowledged and is not listed", chart, v)
			}
		}
		for _, tag := range list.Tags {
			p.verifyWhole(chart, tag)
		}
	}
}

func (p *process) verifyWhole(chart, tag string) {
	p.t.Helper()
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if err := json.Unmarshal(p.get("/v2/default/charts/"+chart+"/manifests/"+tag), &manifest); err != nil {
		p.t.Errorf("%s %s: %v", chart, tag, err)
		return
	}
	for _, d := range []string{manifest.Config.Digest, manifest.Layers[0].Digest} {
		if got := digestOf(p.get("/v2/default/charts/" + chart + "/blobs/" + d)); got != d {
			p.t.Errorf("%s %s: the blob %s has the digest %s", chart, tag, d, got)
		}
	}
}

func TestSIGTERMLetsAPushFinish(t *testing.T) {
	folder := t.TempDir()
	p := serveDir(t, folder)
	content := bytes.Repeat([]byte("slow "), 1000)
	host := strings.TrimPrefix(p.base, "http://")
	connection, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	request, err := http.NewRequest(http.MethodPost, p.base, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("x", p.token)
	fmt.Fprintf(connection, "POST /v2/default/charts/web/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		digestOf(content), request.Header.Get("Authorization"), len(content))
	reader := bufio.NewReader(connection)
	// The server asks for the body once the push has begun.
	if line, err := reader.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := reader.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := connection.Write(content[:10]); err != nil {
		t.Fatal(err)
	}
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server began to shut down", func() bool { return strings.Contains(p.stderr.String(), "shutting down") })
	if _, err := connection.Write(content[10:]); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(reader, nil)
	if err != nil || answer.StatusCode != http.StatusCreated {
		t.Fatalf("the push was answered %v, %v", answer, err)
	}
	// The rest of the push comes in requests of its own, on other connections.
	if err := p.push("web", "1.0.0", 1000); err != nil {
		t.Fatalf("a push that had begun could not go on: %v", err)
	}
	eventually(t, "new connections were refused", func() bool {
		c, err := net.Dial("tcp", host)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	p.ended = true
	if err := p.command.Wait(); err != nil {
		t.Errorf("the server ended with %v: %s", err, p.stderr)
	}
	again := serveDir(t, folder)
	if got := again.get("/v2/default/charts/web/blobs/" + digestOf(content)); !bytes.Equal(got, content) {
		t.Error("the content is another")
	}
}

// writeCertificate makes a self-signed certificate for 127.0.0.1 and puts both files in place.
func writeCertificate(t *testing.T, folder string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"tls.key": {Type: "PRIVATE KEY", Bytes: keyDER}, "tls.crt": {Type: "CERTIFICATE", Bytes: der}} {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCertificateIsReadAgain(t *testing.T) {
	folder := t.TempDir()
	writeCertificate(t, folder, 1)
	p := serveDir(t, folder, "--tls-cert", "tls.crt", "--tls-key", "tls.key")
	host := strings.TrimPrefix(p.base, "http://")
	serial := func() int64 {
		connection, err := tls.Dial("tcp", host, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		return connection.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("the certificate has the serial number %d", got)
	}
	writeCertificate(t, folder, 2)
	eventually(t, "the new certificate was served", func() bool { return serial() == 2 })
	old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if connection, err := tls.Dial("tcp", host, old); err == nil {
		connection.Close()
		t.Error("TLS 1.1 is spoken")
	}
	if strings.Contains(p.stdout, "--plain-http") {
		t.Errorf("the lines to paste have --plain-http: %s", p.stdout)
	}
}

func TestQuotaFlags(t *testing.T) {
	p := serveDir(t, t.TempDir(), "--quota-size", "1Mi", "--quota-charts", "1", "--quota-versions", "1", "--quota-chart-size", "2k")
	if err := p.push("web", "1.0.0", 10); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, version string
		size          int
		words         string
	}{
		{"web", "1.0.1", 10, "quota of 1 version (used: 1 version, wanted: 1 version more)"},
		{"api", "1.0.0", 10, "quota of 1 chart (used: 1 chart, wanted: 1 chart more)"},
		{"web", "1.0.2", 5000, "a chart may have 2.0 KiB at most in this registry"},
	} {
		if err := p.push(c.name, c.version, c.size); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s %s: %v, want %q", c.name, c.version, err, c.words)
		}
	}
}

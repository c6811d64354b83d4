package registryclient

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/controllers/internal/pki"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/admin"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

var charts = types.NamespacedName{Namespace: "team-a", Name: "charts"}

// authority returns a new certificate authority.
func authority(t *testing.T) pki.Authority {
	t.Helper()
	a, _, err := pki.NewAuthority("test", pki.Durations{}).Advance(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a pki.Authority, r pki.Request) pki.Leaf {
	t.Helper()
	leaf, err := a.Issue(r, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// operatorTLS is the operator's side: a certificate from one authority, trusting another.
func operatorTLS(t *testing.T, from, trusted pki.Authority) *tls.Config {
	t.Helper()
	id, err := url.Parse(wire.OperatorURI)
	if err != nil {
		t.Fatal(err)
	}
	leaf := issue(t, from, pki.Request{URIs: []*url.URL{id}, Usage: x509.ExtKeyUsageClientAuth})
	pair, err := tls.X509KeyPair(leaf.Certificate, leaf.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted.Bundle())
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
}

// pod is the admin port of a registry pod.
type pod struct {
	address     string
	enforcer    *access.Enforcer
	connections atomic.Int32
}

// startPod serves the admin port of a registry with a certificate from an authority. handler nil is the real one.
func startPod(t *testing.T, a pki.Authority, registry types.NamespacedName, handler http.Handler) *pod {
	t.Helper()
	folder := t.TempDir()
	leaf := issue(t, a, pki.Request{Names: []string{wire.AdminServerName(registry.Namespace, registry.Name)}, Usage: x509.ExtKeyUsageServerAuth})
	for name, content := range map[string][]byte{"tls.crt": leaf.Certificate, "tls.key": leaf.Key, "ca.crt": a.Bundle()} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	config, err := admin.TLSConfig(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"), filepath.Join(folder, "ca.crt"), log)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{address: listener.Addr().String()}
	p.enforcer = access.NewEnforcer(access.EnforcerOptions{Registry: "team-a/charts", StateDir: t.TempDir()})
	if handler == nil {
		handler = admin.Handler(admin.Options{Program: "test", Registry: "team-a/charts", Enforcer: p.enforcer, Log: log})
	}
	server := &http.Server{
		Handler:   handler,
		TLSConfig: config,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				p.connections.Add(1)
			}
		},
	}
	go server.ServeTLS(listener, "", "")
	t.Cleanup(func() { server.Close() })
	return p
}

// clientOf dials the pod whatever the address.
func clientOf(p *pod, config *tls.Config) *Client {
	return New(
		func(context.Context, string) (*tls.Config, error) { return config, nil },
		func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, p.address)
		})
}

func snapshot(revision uint64) []byte {
	return wire.Access{Revision: revision, Registry: "team-a/charts"}.Encode()
}

func TestPushAccess(t *testing.T) {
	a := authority(t)
	p := startPod(t, a, charts, nil)
	c := clientOf(p, operatorTLS(t, a, a))
	for _, step := range []struct {
		name     string
		document []byte
		revision uint64
		want     error
	}{
		{"first", snapshot(5), 5, nil},
		{"again", snapshot(5), 5, nil},
		{"older", snapshot(4), 5, ErrNewer},
		{"damaged", []byte("{"), 5, ErrRefused},
		{"newer", snapshot(6), 6, nil},
	} {
		state, err := c.PushAccess(t.Context(), charts, "10.0.0.1", step.document)
		if !errors.Is(err, step.want) || state.Revision != step.revision {
			t.Fatalf("%s: got revision %d and %v, want %d and %v", step.name, state.Revision, err, step.revision, step.want)
		}
	}
	about, err := c.About(t.Context(), charts, "10.0.0.1")
	if err != nil || about.Registry != "team-a/charts" || about.Access != p.enforcer.State() || about.Access.Revision != 6 {
		t.Errorf("got %+v and %v", about, err)
	}
	if n := p.connections.Load(); n != 1 {
		t.Errorf("%d connections were opened, want one for all requests", n)
	}
}

func TestPeersAreVerified(t *testing.T) {
	a, stranger := authority(t), authority(t)
	p := startPod(t, a, charts, nil)
	for name, c := range map[string]struct {
		config   *tls.Config
		registry types.NamespacedName
		want     string
	}{
		"pod of another registry":        {operatorTLS(t, a, a), types.NamespacedName{Namespace: "team-b", Name: "charts"}, "charts.team-a.admin"},
		"pod of another authority":       {operatorTLS(t, a, stranger), charts, "unknown authority"},
		"operator of another authority":  {operatorTLS(t, stranger, a), charts, "bad certificate"},
		"operator without a certificate": {&tls.Config{RootCAs: operatorTLS(t, a, a).RootCAs}, charts, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := clientOf(p, c.config).PushAccess(t.Context(), c.registry, "10.0.0.1", snapshot(9))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			if p.enforcer.State().Revision != 0 {
				t.Error("the snapshot was taken")
			}
		})
	}
}

func TestAnswersAreBounded(t *testing.T) {
	a := authority(t)
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"hanging":      {hang, "deadline"},
		"endless":      {func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, zeros{}) }, "more than"},
		"trickling":    {func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); hang(w, r) }, "deadline"},
		"not JSON":     {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }, "not the document expected"},
		"other status": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, "418"},
	} {
		t.Run(name, func(t *testing.T) {
			client := clientOf(startPod(t, a, charts, c.handler), operatorTLS(t, a, a))
			_, err := client.About(t.Context(), charts, "10.0.0.1")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			if _, err = client.PushAccess(t.Context(), charts, "10.0.0.1", snapshot(1)); err == nil || errors.Is(err, ErrNewer) || errors.Is(err, ErrRefused) {
				t.Errorf("PushAccess: got %v, want that the pod did not answer", err)
			}
		})
	}
}

func TestInventory(t *testing.T) {
	a := authority(t)
	full := wire.Inventory{Totals: wire.InventoryTotals{Charts: wire.MaxInventoryCharts}}
	for n := range wire.MaxInventoryCharts {
		full.Charts = append(full.Charts, wire.InventoryChart{
			Name: fmt.Sprintf("%0255d", n), LatestVersion: strings.Repeat("1", 128), AppVersion: strings.Repeat("<", 256), Digest: "sha512:" + strings.Repeat("a", 128),
		})
	}
	answer := func(status int, etag, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", etag)
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	document, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	late := func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(timeout + 200*time.Millisecond) // Longer than other requests may take.
		answer(http.StatusOK, `"2"`, "{}")(w, r)
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		etag    string
		want    *wire.Inventory
		newer   string
		err     string
	}{
		"as large as can be": {answer(http.StatusOK, `"1"`, string(document)), "", &full, `"1"`, ""},
		"nothing new":        {answer(http.StatusNotModified, `"1"`, ""), `"1"`, nil, `"1"`, ""},
		"late":               {late, `"1"`, &wire.Inventory{}, `"2"`, ""},
		"of an old program":  {answer(http.StatusNotFound, "", "404"), "", nil, "", ErrNoInventory.Error()},
		"unasked for":        {answer(http.StatusNotModified, `"1"`, ""), "", nil, "", "304"},
		"in trouble":         {answer(http.StatusServiceUnavailable, "", "{}"), "", nil, "", "503"},
		"a long ETag":        {answer(http.StatusOK, strings.Repeat("x", 257), "{}"), "", nil, "", "ETag"},
		"not JSON":           {answer(http.StatusOK, `"1"`, "<html>"), "", nil, "", "not the document"},
		"endless":            {func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, zeros{}) }, "", nil, "", "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked, path string
			client := clientOf(startPod(t, a, charts, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked, path = r.Header.Get("If-None-Match"), r.Method+" "+r.URL.Path
				c.handler(w, r)
			})), operatorTLS(t, a, a))
			got, newer, err := client.Inventory(t.Context(), charts, "10.0.0.1", c.etag)
			if diff := cmp.Diff(c.want, got); diff != "" || newer != c.newer || asked != c.etag || path != "GET "+wire.PathInventory {
				t.Errorf("%s with the ETag %q gave %q: %s", path, asked, newer, diff)
			}
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("the error is %v, want %q", err, c.err)
			}
		})
	}
}

// Who stops waiting need not wait for the pod.
func TestAQuestionEndsWhenNobodyWaitsForIt(t *testing.T) {
	a := authority(t)
	began := make(chan struct{})
	client := clientOf(startPod(t, a, charts, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
	})), operatorTLS(t, a, a))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	if _, _, err := client.Inventory(ctx, charts, "10.0.0.1", `"1"`); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestRenewedCertificatesAreTakenUp(t *testing.T) {
	before, after := authority(t), authority(t)
	config := operatorTLS(t, before, before)
	p := startPod(t, before, charts, nil)
	c := New(
		func(context.Context, string) (*tls.Config, error) { return config, nil },
		func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, p.address)
		})
	if _, err := c.About(t.Context(), charts, "10.0.0.1"); err != nil {
		t.Fatal(err)
	}
	// The next pod has a certificate of the next authority; the first attempt finds out, the second succeeds.
	p, config = startPod(t, after, charts, nil), operatorTLS(t, after, after)
	c.Forget(types.NamespacedName{Namespace: "other", Name: "registry"})
	c.transports[charts].CloseIdleConnections()
	if _, err := c.About(t.Context(), charts, "10.0.0.1"); err == nil {
		t.Fatal("a pod of an authority that is not trusted was believed")
	}
	if _, err := c.About(t.Context(), charts, "10.0.0.1"); err != nil {
		t.Errorf("the renewed certificates were not taken up: %v", err)
	}
	c.Forget(charts)
	if len(c.transports) != 0 {
		t.Error("the connections of a registry that is gone are kept")
	}
}

// Of as many tokens as there can be, the answer still fits.
func TestUses(t *testing.T) {
	a := authority(t)
	p := startPod(t, a, charts, nil)
	c := clientOf(p, operatorTLS(t, a, a))
	document := wire.Access{Revision: 1, Registry: "team-a/charts"}
	var tokens []access.Token
	for range access.MaxTokens {
		token, err := access.Mint(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
		document.Tokens = append(document.Tokens, wire.Token{ID: token.ID(), SHA256: token.SHA256(), Scopes: wire.Scopes(), Charts: []string{"*"}})
	}
	if _, err := p.enforcer.Push(document.Encode()); err != nil {
		t.Fatal(err)
	}
	uses, err := c.Uses(t.Context(), charts, "10.0.0.1")
	if err != nil || uses.Count != 0 || len(uses.Tokens) != 0 {
		t.Errorf("before any use: %+v, %v", uses, err)
	}
	for _, token := range tokens {
		if _, err := p.enforcer.Authenticate(t.Context(), access.Credentials{Secret: token.Reveal(), Present: true}); err != nil {
			t.Fatal(err)
		}
	}
	uses, err = c.Uses(t.Context(), charts, "10.0.0.1")
	if err != nil || uses.Count < access.MaxTokens || len(uses.Tokens) != access.MaxTokens {
		t.Errorf("after the use of all: %d tokens, count %d, %v", len(uses.Tokens), uses.Count, err)
	}
	about, err := c.About(t.Context(), charts, "10.0.0.1")
	if err != nil || about.Uses != uses.Count {
		t.Errorf("the pod says of itself %d, %v, want %d", about.Uses, err, uses.Count)
	}
}

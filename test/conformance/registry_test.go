package conformance

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/chartroom-dev/chartroom/test/s3server"
)

// registry is a private registry acme/charts that serves plain HTTP on the loopback interface.
type registry struct {
	// host is its address, without a scheme.
	host string
	// token may do everything in it; reader may only read.
	token, reader string
}

// name is the whole name of a repository, with the host.
func (r registry) name(chart string) string { return r.host + "/acme/charts/" + chart }

// stores are the kinds of storage that everything runs on. Each is empty.
var stores = map[string]func(t *testing.T) registryserver.StorageConfig{
	"directory": func(t *testing.T) registryserver.StorageConfig {
		t.Helper()
		return registryserver.StorageConfig{Dir: filepath.Join(t.TempDir(), "data")}
	},
	"s3": func(t *testing.T) registryserver.StorageConfig {
		t.Helper()
		server := s3server.Start(t)
		server.NewBucket(t, "charts")
		credentials := t.TempDir()
		write(t, filepath.Join(credentials, "accessKeyID"), server.AccessKey)
		write(t, filepath.Join(credentials, "secretAccessKey"), server.SecretKey)
		return registryserver.StorageConfig{S3: registryserver.S3Config{
			Bucket: "charts", Endpoint: server.Endpoint, PathStyle: true, CredentialsDir: credentials,
		}}
	},
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// start serves a registry until the test ends. change may be about anything in its configuration.
func start(t *testing.T, storage registryserver.StorageConfig, change ...func(*registryserver.Config)) registry {
	t.Helper()
	snapshot := wire.Access{Revision: 1, Visibility: wire.Private}
	token := func(scopes ...wire.Scope) string {
		token, err := access.Mint(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		snapshot.Tokens = append(snapshot.Tokens, wire.Token{ID: token.ID(), SHA256: token.SHA256(), Scopes: scopes, Charts: []string{"*"}})
		return token.Reveal()
	}
	r := registry{token: token(wire.Scopes()...), reader: token(wire.ReadPackages)}
	folder := t.TempDir()
	file := filepath.Join(folder, "access.json")
	write(t, file, string(snapshot.Encode()))
	config := registryserver.Config{
		Listen: "127.0.0.1:0", Organization: "acme", Registry: "charts", Version: "v0", Storage: storage,
		Access: registryserver.AccessConfig{File: file}, Keys: filepath.Join(folder, "upload.keys"),
	}
	for _, c := range change {
		c(&config)
	}
	server, err := registryserver.New(t.Context(), config, registryserver.Outputs{Log: slog.New(slog.DiscardHandler), Requests: io.Discard, Audit: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	r.host = server.Addresses()["public"].String()
	return r
}

// byBearer passes requests on, with what came as Basic credentials, the only ones that the registry asks for, as a
// Bearer token.
func byBearer(t *testing.T, r registry) registry {
	t.Helper()
	behind := r.host
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.Out.URL.Scheme, p.Out.URL.Host = "http", behind
		if _, token, ok := p.In.BasicAuth(); ok {
			p.Out.Header.Set("Authorization", "Bearer "+token)
		}
	}, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), Transport: new(http.Transport)})
	t.Cleanup(proxy.Close)
	r.host = strings.TrimPrefix(proxy.URL, "http://")
	return r
}

// tool is the path of a program that hack/tool builds.
func tool(t *testing.T, name string) string {
	t.Helper()
	command := exec.Command("../../hack/tool", name)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("hack/tool %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

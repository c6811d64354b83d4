package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
)

// The servers, as the report names them.
const (
	ours         = "chartroom"
	memory       = "memory ceiling"
	durable      = "durable ceiling"
	files        = "file server"
	distribution = "distribution"
	crane        = "go-containerregistry"
)

// folder is where all charts are, below the registry that our server has when it is told nothing.
const folder = "default/charts/"

const startPatience = 30 * time.Second

// server is a process that is measured.
type server struct {
	load.Target
	name string
	// dir is where it keeps its content.
	dir     string
	process *exec.Cmd
	// ended is closed once the process has ended.
	ended chan struct{}
}

// packages are what the programs of servers are built from, and tools those that hack/tool builds.
var (
	packages = map[string]string{
		ours: "./cmd/chartroom", memory: "./test/bench/ceiling/memory", durable: "./test/bench/ceiling/durable", files: "./test/bench/ceiling/files",
	}
	tools = map[string]string{distribution: "distribution", crane: "crane"}
)

// program is the path of a server's program, which is built when it is first asked for.
func (b *bench) program(ctx context.Context, name string) (string, error) {
	if b.programs[name] != "" {
		return b.programs[name], nil
	}
	var path string
	if tool := tools[name]; tool != "" {
		build := exec.CommandContext(ctx, "hack/tool", tool) // #nosec G204 -- the tools are those above.
		build.Stderr = os.Stderr
		out, err := build.Output()
		if err != nil {
			return "", fmt.Errorf("building %s: %w", tool, err)
		}
		path = strings.TrimSpace(string(out))
	} else {
		path = filepath.Join(b.memory, filepath.Base(packages[name]))
		// #nosec G204 -- the packages are those above.
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, packages[name])
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return "", fmt.Errorf("building %s: %w", packages[name], err)
		}
	}
	b.programs[name] = path
	return path, nil
}

// start starts a server whose content is in dir, and waits until it answers. more are further arguments.
func (b *bench) start(ctx context.Context, name, dir string, more ...string) (*server, error) {
	return b.launch(ctx, name, dir, func(address string) ([]string, error) {
		switch name {
		case ours:
			return append([]string{"serve", "--dir", dir, "--listen", address}, more...), nil
		case memory:
			return append([]string{"-listen", address}, more...), nil
		case durable, files:
			return []string{"-listen", address, "-dir", dir}, nil
		case crane:
			return []string{"registry", "serve", "--address", address, "--disk", dir}, os.MkdirAll(dir, 0o700)
		default:
			return distributionArguments(address, dir, "filesystem: {rootdirectory: "+dir+"}", more)
		}
	})
}

// errEnded is of a server that ended at once, perhaps because another program has taken its port meanwhile.
var errEnded = errors.New("it ended at once")

// launch starts the program of a server with the arguments for an address, and waits until it answers.
func (b *bench) launch(ctx context.Context, name, dir string, arguments func(address string) ([]string, error)) (s *server, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, err
	}
	for range 5 {
		address, err := freeAddress(ctx)
		if err != nil {
			return nil, err
		}
		given, err := arguments(address)
		if err != nil {
			return nil, err
		}
		if s, err = b.launchAt(ctx, name, dir, address, given); !errors.Is(err, errEnded) {
			return s, err
		}
	}
	return s, fmt.Errorf("%s: %w; its log: %s", name, errEnded, said(dir))
}

func (b *bench) launchAt(ctx context.Context, name, dir, address string, arguments []string) (*server, error) {
	program, err := b.program(ctx, name)
	if err != nil {
		return nil, err
	}
	s := &server{name: name, dir: dir, Target: load.Target{Address: address}, ended: make(chan struct{})}
	s.process = exec.CommandContext(ctx, program, arguments...) // #nosec G204 -- our own programs.
	s.process.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	log, err := os.Create(dir + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.process.Stdout, s.process.Stderr = log, log
	started := time.Now()
	if err := s.process.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = s.process.Wait() // However it ended.
		close(s.ended)
	}()
	b.running = append(b.running, s)
	for ctx.Err() == nil && !answers(ctx, address) {
		if time.Since(started) > startPatience {
			return nil, fmt.Errorf("%s does not answer; its log: %s", name, said(dir))
		}
		time.Sleep(time.Millisecond)
	}
	select {
	case <-s.ended:
		return nil, errEnded
	default:
	}
	if name == ours {
		token, err := os.ReadFile(dir + ".state/access.token")
		if err != nil {
			return nil, err
		}
		s.Authorization = basic("chartroom", strings.TrimSpace(string(token)))
	}
	if _, err := os.Stat(dir + ".htpasswd"); err == nil && name == distribution {
		s.Authorization = basic("bench", htpasswdPassword)
	}
	return s, ctx.Err()
}

// said is the beginning of a server's log.
func said(dir string) string {
	log, _ := os.ReadFile(dir + ".log")
	return string(log[:min(len(log), 2000)])
}

// fresh starts a server on an empty store below folder.
func (b *bench) fresh(ctx context.Context, name, folder string, more ...string) (*server, error) {
	dir, err := os.MkdirTemp(folder, strings.ReplaceAll(name, " ", "-")+"-")
	if err != nil {
		return nil, err
	}
	return b.start(ctx, name, filepath.Join(dir, "data"), more...)
}

func (b *bench) freshAll(ctx context.Context, folder string, names ...string) ([]*server, error) {
	var all []*server
	for _, name := range names {
		s, err := b.fresh(ctx, name, folder)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (s *server) stop() {
	_ = s.process.Process.Kill() // All that can go wrong is that it has ended already.
	<-s.ended
}

// stop ends all servers. What they stored on the disk stays until the end of the run: deleting many files makes later
// writes dearer. In memory it is in the way.
func (b *bench) stop() {
	for _, s := range b.running {
		s.stop()
		if strings.HasPrefix(s.dir, b.memory) && !b.isStore(s.dir) {
			_ = os.RemoveAll(filepath.Dir(s.dir))
		}
	}
	b.running = nil
}

func (b *bench) isStore(dir string) bool {
	for _, store := range b.stores {
		if store == dir {
			return true
		}
	}
	return false
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func freeAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// answers reports whether a server takes connections. Ours and the others open their port once they can serve.
func answers(ctx context.Context, address string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// isReady reports what /readyz says.
func isReady(ctx context.Context, address string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// The password of the htpasswd file and its hash by bcrypt at cost 10.
const (
	htpasswdPassword = "benchmark"
	htpasswdHash     = "$2a$10$p3Vkmp2EDOClooJwsSAQgeOSPhD5sWdmo2N6gIofGzGJ5Q8pOJPd6"
)

// distributionArguments write a configuration beside dir, with storage as it is given, no access log, and a password file if
// passwords is not empty.
func distributionArguments(address, dir, storage string, passwords []string) ([]string, error) {
	var c bytes.Buffer
	fmt.Fprintf(&c, `version: 0.1
log: {accesslog: {disabled: true}, level: error}
storage:
  %s
  cache: {blobdescriptor: inmemory}
  tag: {concurrencylimit: 8}
http: {addr: %s, secret: benchmark}
`, storage, address)
	if len(passwords) > 0 {
		if err := os.WriteFile(dir+".htpasswd", []byte("bench:"+htpasswdHash+"\n"), 0o600); err != nil {
			return nil, err
		}
		fmt.Fprintf(&c, "auth: {htpasswd: {realm: bench, path: %s}}\n", dir+".htpasswd")
	}
	return []string{"serve", dir + ".yaml"}, os.WriteFile(dir+".yaml", c.Bytes(), 0o600)
}

// tlsConfig is that of a client which trusts anybody: it measures itself.
func tlsConfig() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
}

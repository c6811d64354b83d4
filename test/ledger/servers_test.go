// Package ledger_test pushes to real server processes while they, or their storage, are killed, and keeps a ledger of
// what was acknowledged outside of them: all of it must be there in the end, byte for byte, and nothing by halves.
package ledger_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/chartroom-dev/chartroom/test/s3server"
)

// binary is the program, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		folder, err := os.MkdirTemp("", "chartroom-ledger-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(folder)
		binary = filepath.Join(folder, "chartroom")
		build := exec.Command("go", "build", "-o", binary, "github.com/chartroom-dev/chartroom/cmd/chartroom")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			panic(fmt.Sprintf("building the program: %v", err))
		}
		return m.Run()
	}())
}

// storage is where the servers of one test keep their content.
type storage struct {
	folder string
	flags  []string
	// s3 is nil for a directory.
	s3 *s3server.Server
}

func onDirectory(t *testing.T) *storage {
	t.Helper()
	return newStorage(t, nil, "--dir", "data")
}

func onS3(t *testing.T) *storage {
	t.Helper()
	s3 := s3server.Start(t)
	s3.NewBucket(t, "charts")
	s := newStorage(t, s3, "--s3-bucket", "charts", "--s3-region", "us-east-1", "--s3-endpoint", s3.Endpoint, "--s3-path-style", "--s3-credentials", "credentials")
	for name, content := range map[string]string{"accessKeyID": s3.AccessKey, "secretAccessKey": s3.SecretKey} {
		if err := os.WriteFile(filepath.Join(s.folder, "credentials", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func newStorage(t *testing.T, s3 *s3server.Server, flags ...string) *storage {
	t.Helper()
	s := &storage{folder: t.TempDir(), s3: s3, flags: flags}
	if err := os.Mkdir(filepath.Join(s.folder, "credentials"), 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

// server is a running `chartroom serve`.
type server struct {
	process *exec.Cmd
	log     *log
	// base is the address of the registry, token may do everything.
	base, token string
	ended       bool
}

// log is what a server said.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// end is the end of the log, with which a failure is explained.
func (l *log) end() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.b.Bytes()
	return string(text[max(0, len(text)-4000):])
}

var served = regexp.MustCompile(`serves oci://([^/]+)/`)

// serve runs a server over the storage until it is killed, or the test ends, and returns when it listens.
func (s *storage) serve(t *testing.T, flags ...string) *server {
	t.Helper()
	r := &server{log: new(log)}
	args := append([]string{"serve", "--listen", "127.0.0.1:0", "--access", "access.json", "--keys", "upload.keys"}, s.flags...)
	r.process = exec.Command(binary, append(args, flags...)...)
	r.process.Dir = s.folder
	r.process.Stderr = r.log
	out, err := r.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.kill)
	said := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said += lines.Text() + "\n"
		if strings.Contains(lines.Text(), "helm pull") {
			break
		}
	}
	found := served.FindStringSubmatch(said)
	if found == nil {
		t.Fatalf("the server did not say where it serves: %s%s", said, r.log.end())
	}
	r.base = "http://" + found[1]
	token, err := os.ReadFile(filepath.Join(s.folder, "access.token"))
	if err != nil {
		t.Fatal(err)
	}
	r.token = strings.TrimSpace(string(token))
	return r
}

// kill ends a server as a power cut would end the program.
func (r *server) kill() {
	if r.ended {
		return
	}
	r.ended = true
	_ = r.process.Process.Kill() // The only error is that it has ended already.
	_ = r.process.Wait()
}

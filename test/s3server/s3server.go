// Package s3server runs a real S3 server, versitygw, for tests and benchmarks: on the loopback interface, over a
// folder, for as long as a test takes.
package s3server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long the server may take to answer; it takes about 0.2 s.
const patience = 30 * time.Second

// Server is an S3 server that speaks plain HTTP with path-style addresses in the region us-east-1. It keeps objects as
// files, so that a key cannot be a prefix of another at a slash.
type Server struct {
	// Endpoint is its address, for example http://127.0.0.1:34567. It stays the same over restarts.
	Endpoint string
	// AccessKey and SecretKey may do everything.
	AccessKey, SecretKey string
	// Dir is the folder; each folder in it is a bucket.
	Dir string

	program string
	mu      sync.Mutex
	process *exec.Cmd
	// ended is closed once the process has ended; output is complete then.
	ended  chan struct{}
	output *bytes.Buffer
}

// Start runs a server with an empty folder until the test ends.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s, err := Open(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Kill)
	return s
}

// Open runs a server over a folder until Kill, for programs that are no tests. It returns when the server answers.
func Open(dir string) (*Server, error) {
	program, err := tool("versitygw")
	if err != nil {
		return nil, err
	}
	s := &Server{AccessKey: "test", SecretKey: "testsecret", Dir: dir, program: program}
	// Between this moment and the start of the server, another program may take the port.
	for range 5 {
		if s.Endpoint, err = freeEndpoint(); err != nil {
			return nil, err
		}
		if err = s.Restart(); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// NewBucket makes a bucket of this name.
func (s *Server) NewBucket(tb testing.TB, name string) {
	tb.Helper()
	if err := os.Mkdir(filepath.Join(s.Dir, name), 0o700); err != nil {
		tb.Fatal(err)
	}
}

// Kill ends the server as a power cut would. What it had answered is still there after Restart.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
}

func (s *Server) kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill() // The only error is that it has ended already.
	<-s.ended
	s.process = nil
}

// PID is the server's process, 0 while it is killed: for who measures it.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return 0
	}
	return s.process.Process.Pid
}

// Restart runs the server again under the same address, and returns when it answers.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
	s.output = new(bytes.Buffer)
	s.process = exec.Command(s.program, "--port", strings.TrimPrefix(s.Endpoint, "http://"),
		"--health", "/healthz", "--keep-alive", "--quiet", "posix", s.Dir)
	s.process.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+s.AccessKey, "ROOT_SECRET_ACCESS_KEY="+s.SecretKey)
	s.process.Stdout, s.process.Stderr = s.output, s.output
	if err := s.process.Start(); err != nil {
		s.process = nil
		return fmt.Errorf("starting the S3 server: %w", err)
	}
	process, ended := s.process, make(chan struct{})
	s.ended = ended
	go func() {
		_ = process.Wait() // However it ended, it was not to.
		close(ended)
	}()
	if err := s.await(); err != nil {
		s.kill()
		return fmt.Errorf("starting the S3 server: %w: it said %q", err, s.output)
	}
	return nil
}

// await returns when the server answers.
func (s *Server) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/healthz", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(answer.Status)
		}
		select {
		case <-s.ended:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func freeEndpoint() (string, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return "http://" + listener.Addr().String(), listener.Close()
}

// tool asks hack/tool, which is found beside this file, for a program.
func tool(name string) (string, error) {
	_, file, _, _ := runtime.Caller(0)
	command := exec.Command(filepath.Join(filepath.Dir(file), "..", "..", "hack", "tool"), name)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("hack/tool %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

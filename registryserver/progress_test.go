package registryserver

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const sentBytes = 32 << 20

// fileServer sends a file, all but its first byte, and says when it is through with a request.
func fileServer(t *testing.T, patience time.Duration) (server *recordingServer, content []byte, ended chan error) {
	t.Helper()
	content = make([]byte, sentBytes+1)
	_, _ = rand.Read(content)
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 1)
	server, _ = recordedWith(patience, func(w http.ResponseWriter, _ *http.Request) {
		f, err := os.Open(name)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Length", "33554432")
		if _, err := f.Seek(1, io.SeekStart); err != nil {
			t.Error(err)
		}
		_, err = io.Copy(w, io.LimitReader(f, sentBytes))
		ended <- err
	})
	t.Cleanup(server.Close)
	return server, content[1:], ended
}

// ask sends a request over a connection that takes little in advance.
func ask(t *testing.T, server *recordingServer) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	connection, _ := c.(*net.TCPConn)
	if err := connection.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(connection, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return connection
}

func TestFileIsSentWhole(t *testing.T) {
	server, content, ended := fileServer(t, time.Minute)
	got, _ := io.ReadAll(ask(t, server))
	if err := <-ended; err != nil {
		t.Error(err)
	}
	_, body, _ := bytes.Cut(got, []byte("\r\n\r\n"))
	if !bytes.Equal(body, content) {
		t.Errorf("%d bytes came, other than the %d sent", len(body), len(content))
	}
}

func TestFileForAClientThatTakesNothing(t *testing.T) {
	server, _, ended := fileServer(t, 100*time.Millisecond)
	ask(t, server)
	if err := <-ended; err == nil {
		t.Error("a file was sent that nobody took")
	}
}

// What is sent must reach net/http as a part of a file: nothing else is handed to the kernel. A client that has taken
// something within its patience gets more of it.
func TestFilesAreHandedOn(t *testing.T) {
	const size = 10 * progressStep
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ takes, want int64 }{
		{size, size},
		{progressStep, size},
		{3*progressStep + 1, size},
		{progressStep - 1, progressStep - 1},
		{0, 0},
	} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		to := &taker{ResponseWriter: httptest.NewRecorder(), takes: c.takes}
		w := new(response)
		w.begin(to, httptest.NewRequest(http.MethodGet, "/", nil), time.Minute)
		n, err := io.Copy(w, &io.LimitedReader{R: f, N: 2 * size})
		f.Close()
		if n != c.want || w.bytes != n || w.status != http.StatusOK || to.others != 0 {
			t.Errorf("of a client that takes %d at a time: %d bytes, status %d", c.takes, n, w.status)
		}
		if whole := c.want == size; whole != (err == nil) || !whole && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("of a client that takes %d at a time: %v", c.takes, err)
		}
	}
}

// taker takes so many bytes of a file before its patience ends.
type taker struct {
	http.ResponseWriter
	takes  int64
	others int
}

func (t *taker) ReadFrom(from io.Reader) (int64, error) {
	part, _ := from.(*io.LimitedReader)
	if _, isFile := part.R.(*os.File); !isFile {
		t.others++
	}
	n, err := io.CopyN(io.Discard, from, t.takes)
	if errors.Is(err, io.EOF) {
		return n, nil
	}
	if err == nil {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

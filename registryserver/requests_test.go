package registryserver

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/audit"
)

func recordedBy(next http.HandlerFunc) (*recordingServer, *bytes.Buffer) {
	return recordedWith(time.Minute, next)
}

// recordingServer writes all lines when it is closed.
type recordingServer struct {
	*httptest.Server
	requests *accessLog
}

func (s *recordingServer) Close() {
	s.Server.Close()
	s.requests.lines.Flush()
}

func recordedWith(patience time.Duration, next http.HandlerFunc) (*recordingServer, *bytes.Buffer) {
	log := new(bytes.Buffer)
	requests := newAccessLog(log, "text")
	return &recordingServer{requests: requests, Server: httptest.NewServer(&recorded{
		draining: new(atomic.Bool), next: next, pushes: new(pushes), log: slog.New(withRequestID{slog.NewTextHandler(log, nil)}), requests: requests,
		audit: audit.New(io.Discard, "acme/charts", false, nil), metrics: newMetrics("v0"), patience: patience,
	})}, log
}

// The client's patience must not run out while the server itself takes its time: between two reads, after the last one,
// or between two requests on one connection.
func TestSlowServerIsNotTheClientsFault(t *testing.T) {
	const patience = 50 * time.Millisecond
	server, _ := recordedWith(patience, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadFull(r.Body, make([]byte, 5)); err != nil {
			t.Errorf("the first read: %v", err)
		}
		time.Sleep(3 * patience)
		if rest, err := io.ReadAll(r.Body); err != nil || string(rest) != "world" {
			t.Errorf("the second read: %q, %v", rest, err)
		}
		select {
		case <-r.Context().Done():
			t.Error("the request was given up")
		case <-time.After(3 * patience):
		}
		w.WriteHeader(http.StatusCreated)
	})
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	defer client.CloseIdleConnections()
	for range 2 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("helloworld"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Expect", "100-continue")
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusCreated {
			t.Errorf("status %d", answer.StatusCode)
		}
		time.Sleep(3 * patience)
	}
}

func TestPanicIsAnswered(t *testing.T) {
	server, log := recordedBy(func(http.ResponseWriter, *http.Request) { panic("surprise") })
	answer, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(answer.Body); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if answer.StatusCode != http.StatusInternalServerError || !strings.Contains(body.String(), `"UNKNOWN"`) || strings.Contains(body.String(), "surprise") {
		t.Errorf("status %d: %s", answer.StatusCode, &body)
	}
	id := answer.Header.Get("X-Request-Id")
	if strings.Count(log.String(), id) != 2 || !strings.Contains(log.String(), "surprise") || !strings.Contains(log.String(), "status=500") {
		t.Errorf("the log lacks the panic, or the request %s: %s", id, log)
	}
}

// Once a part is sent, an error must not look like the end of the content.
func TestPanicInTheMiddleBreaksOff(t *testing.T) {
	server, log := recordedBy(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = w.Write([]byte("part"))
		_ = http.NewResponseController(w).Flush()
		panic("surprise")
	})
	answer, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(answer.Body); err == nil {
		t.Errorf("the answer ended well: %s", &body)
	}
	server.Close()
	if !strings.Contains(log.String(), "brokenOff=true") {
		t.Errorf("the log has %s", log)
	}
}

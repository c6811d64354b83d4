package registryserver

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func recordedBy(next http.HandlerFunc) (*httptest.Server, *bytes.Buffer) {
	log := new(bytes.Buffer)
	return httptest.NewServer(&recorded{
		next: next, log: slog.New(withRequestID{slog.NewTextHandler(log, nil)}), metrics: newMetrics("v0"), patience: time.Minute,
	}), log
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

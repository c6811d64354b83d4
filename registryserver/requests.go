package registryserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/ociapi"
)

// maxLoggedPath bounds the path in a log line.
const maxLoggedPath = 512

// requestInfo is what the log and the metrics say of a request beside what HTTP says.
type requestInfo struct {
	id, route, identity string
}

type requestInfoKey struct{}

// observe takes what the API found out about the request of ctx.
func observe(ctx context.Context, route, identity string) {
	if info, ok := ctx.Value(requestInfoKey{}).(*requestInfo); ok {
		info.route, info.identity = route, identity
	}
}

// withRequestID adds the request's id to whatever is logged on its behalf.
type withRequestID struct{ slog.Handler }

func (h withRequestID) Handle(ctx context.Context, r slog.Record) error {
	if info, ok := ctx.Value(requestInfoKey{}).(*requestInfo); ok {
		r.AddAttrs(slog.String("request", info.id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h withRequestID) WithAttrs(attrs []slog.Attr) slog.Handler {
	return withRequestID{h.Handler.WithAttrs(attrs)}
}

func (h withRequestID) WithGroup(name string) slog.Handler {
	return withRequestID{h.Handler.WithGroup(name)}
}

// recorded serves requests through next: each gets an id, deadlines that move with its progress, one line in the log and
// its place in the metrics. A panic becomes an answer.
type recorded struct {
	next    http.Handler
	log     *slog.Logger
	metrics *metrics
	pushes  *pushes
	// patience is how long a client may take for each progressStep of a body.
	patience time.Duration
}

func (s *recorded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	info := &requestInfo{id: requestID(r.Header.Values("X-Request-Id")), route: "other"}
	r = r.WithContext(context.WithValue(r.Context(), requestInfoKey{}, info))
	answer := newResponse(w, r, s.patience)
	answer.Header().Set("X-Request-Id", info.id)
	s.metrics.running.Inc()
	pushEnded := s.pushes.begin(r.Method)
	defer func() {
		problem := recover()
		abort, _ := problem.(error)
		if problem != nil && !errors.Is(abort, http.ErrAbortHandler) {
			s.log.ErrorContext(r.Context(), "a request panicked", "panic", fmt.Sprint(problem), "stack", string(debug.Stack()))
			if answer.status == 0 {
				ociapi.WriteError(answer, http.StatusInternalServerError, "UNKNOWN", "the registry failed; its log says why, under the X-Request-Id of this answer")
				problem = nil
			}
		}
		s.metrics.running.Dec()
		pushEnded(answer.status)
		s.record(r, info, answer, time.Since(started), problem != nil)
		if problem != nil {
			// Part of the answer is sent: breaking off is the only way to tell the client that it is not whole.
			panic(http.ErrAbortHandler)
		}
	}()
	s.next.ServeHTTP(answer, r)
}

func (s *recorded) record(r *http.Request, info *requestInfo, answer *response, took time.Duration, broken bool) {
	if answer.status == 0 {
		answer.status = http.StatusOK
	}
	s.metrics.observe(info.route, r.Method, answer.status, took)
	level := slog.LevelInfo
	if answer.status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	attrs := []slog.Attr{
		slog.String("method", clip(r.Method, 16)),
		slog.String("path", loggedPath(r.URL.Path)),
		slog.Int("status", answer.status),
		slog.Int64("bytes", answer.bytes),
		slog.Duration("duration", took),
		slog.String("identity", info.identity),
		slog.String("remote", r.RemoteAddr),
	}
	if broken {
		attrs = append(attrs, slog.Bool("brokenOff", true))
	}
	s.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// loggedPath leaves the signature of an upload's address out of the log. The query is never logged: clients have been
// seen to put tokens there.
func loggedPath(path string) string {
	const mark = "/blobs/uploads/"
	if i := strings.LastIndex(path, mark); i >= 0 {
		id, _, _ := strings.Cut(path[i+len(mark):], ".")
		path = path[:i+len(mark)] + id
	}
	return clip(path, maxLoggedPath)
}

func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

// requestID takes the client's id when it is short and plain, so that a log line cannot be forged through it, and makes
// one otherwise.
func requestID(values []string) string {
	if len(values) == 1 && len(values[0]) <= 64 && values[0] != "" && strings.IndexFunc(values[0], unsafeInID) < 0 {
		return values[0]
	}
	return rand.Text()
}

func unsafeInID(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		return false
	}
	return true
}

package registryserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/ociapi"
)

// maxLoggedPath bounds the path in a log line.
const maxLoggedPath = 512

// requestInfo is what the log, the audit record and the metrics say of a request beside what HTTP says.
type requestInfo struct {
	audit.Observation
	id string
}

type requestInfoKey struct{}

// observe is the place for what is found out about the request of ctx.
func observe(ctx context.Context) *audit.Observation {
	if info, ok := ctx.Value(requestInfoKey{}).(*requestInfo); ok {
		return &info.Observation
	}
	return &audit.Observation{}
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

// recorded serves requests through next: each gets an id, the address that it came from, deadlines that move with its
// progress, one line in the log, one in the audit record if it belongs there, and its place in the metrics. A panic becomes
// an answer.
type recorded struct {
	next     http.Handler
	log      *slog.Logger
	requests *accessLog
	audit    *audit.Log
	metrics  *metrics
	pushes   *pushes
	// proxies may say for whom they speak.
	proxies proxies
	// draining is set once the server has been told to stop.
	draining *atomic.Bool
	// patience is how long a client may take for each progressStep of a body.
	patience time.Duration
}

func (s *recorded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	answer := &response{requestInfo: requestInfo{id: requestID(r.Header["X-Request-Id"]), Observation: audit.Observation{Route: "other", Action: audit.Other}}}
	info := &answer.requestInfo
	r = r.WithContext(context.WithValue(r.Context(), requestInfoKey{}, info))
	r.RemoteAddr = s.proxies.client(r)
	answer.begin(w, r, s.patience)
	answer.Header()["X-Request-Id"] = []string{info.id}
	if s.draining.Load() {
		// The client's next request goes to a server that stays.
		answer.Header().Set("Connection", "close")
	}
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
		answer.end()
		s.metrics.running.Dec()
		pushEnded(answer.status)
		s.record(r, info, answer, started, problem != nil)
		if problem != nil {
			// Part of the answer is sent: breaking off is the only way to tell the client that it is not whole.
			panic(http.ErrAbortHandler)
		}
	}()
	s.next.ServeHTTP(answer, r)
}

func (s *recorded) record(r *http.Request, info *requestInfo, answer *response, started time.Time, broken bool) {
	took := time.Since(started)
	s.metrics.observe(info.Route, r.Method, answer.status, took)
	s.audit.Answered(&info.Observation, r.RemoteAddr, info.id, answer.status, started.Add(took))
	level := slog.LevelInfo
	if answer.status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	s.requests.add(&requestLine{
		at: started.Add(took), level: level, id: info.id,
		method: clip(r.Method, 16), path: loggedPath(r.URL.Path), identity: info.Identity.ID, remote: r.RemoteAddr,
		session: info.Identity.Session, policies: strings.Join(info.Identity.Policies, ","),
		status: answer.status, bytes: answer.bytes, took: took, brokenOff: broken,
	})
}

// loggedPath leaves the signature of an upload's address out of the log. The query is never logged: clients have been
// seen to put tokens there.
func loggedPath(path string) string {
	const mark = "/blobs/uploads/"
	if i := strings.LastIndex(path, mark); i >= 0 {
		id, _, _ := strings.Cut(path[i+len(mark):], ".")
		path = path[:i+len(mark)] + id
	}
	return clip(access.Masked(path), maxLoggedPath)
}

func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

// requestID takes the client's id when it is short and plain, so that a log line cannot be forged through it, and is no
// token. It makes one otherwise.
func requestID(values []string) string {
	if len(values) == 1 && len(values[0]) <= 64 && values[0] != "" && strings.IndexFunc(values[0], unsafeInID) < 0 && access.Masked(values[0]) == values[0] {
		return values[0]
	}
	return newID()
}

const idDigits = "abcdefghijklmnopqrstuvwxyz234567"

// newID makes an id that no other request has, here or on another replica. It is no secret.
func newID() string {
	var id [20]byte // 100 bits.
	for i := 0; i < len(id); {
		for bits, n := rand.Uint64(), 0; n < 10; n++ { //nolint:gosec // It is no secret.
			id[i] = idDigits[bits&31]
			bits >>= 5
			i++
		}
	}
	return string(id[:])
}

func unsafeInID(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		return false
	}
	return true
}

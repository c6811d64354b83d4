package registryserver

import (
	"encoding/json"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/gather"
)

// requestLine is what the log says of one request.
type requestLine struct {
	at                                 time.Time
	level                              slog.Level
	id, method, path, identity, remote string
	// session and policies are there where a session token came with the request, and where policies admitted it.
	session, policies string
	status            int
	bytes             int64
	took              time.Duration
	brokenOff         bool
}

// accessLog writes one line for each request, in the form of slog's handlers.
type accessLog struct {
	json  bool
	lines *gather.Lines
}

func newAccessLog(out io.Writer, form string) *accessLog {
	a := &accessLog{json: form == "json"}
	a.lines = gather.New(out, a.formatLost)
	return a
}

func (a *accessLog) add(l *requestLine) {
	a.lines.Add(func(b []byte) []byte { return a.format(b, l) })
}

func (a *accessLog) format(b []byte, l *requestLine) []byte {
	w := lineWriter{json: a.json, b: b}
	w.begin(l.at, l.level, "request")
	w.text("method", l.method)
	w.text("path", l.path)
	w.number("status", int64(l.status))
	w.number("bytes", l.bytes)
	w.duration("duration", l.took)
	w.text("identity", l.identity)
	if l.session != "" {
		w.text("session", l.session)
	}
	if l.policies != "" {
		w.text("policies", l.policies)
	}
	w.text("remote", l.remote)
	if l.brokenOff {
		w.name("brokenOff")
		w.b = append(w.b, "true"...)
	}
	w.text("request", l.id)
	return w.end()
}

func (a *accessLog) formatLost(b []byte, lost int) []byte {
	w := lineWriter{json: a.json, b: b}
	w.begin(time.Now(), slog.LevelWarn, "requests are missing in this log, because it was not taken fast enough")
	w.number("requests", int64(lost))
	return w.end()
}

// lineWriter writes a line as slog's TextHandler and JSONHandler do.
type lineWriter struct {
	json bool
	b    []byte
}

func (w *lineWriter) begin(at time.Time, level slog.Level, message string) {
	if w.json {
		w.b = append(w.b, `{"time":"`...)
		w.b = append(at.AppendFormat(w.b, time.RFC3339Nano), '"')
	} else {
		w.b = at.AppendFormat(append(w.b, "time="...), time.RFC3339Nano)
	}
	w.text("level", level.String())
	w.text("msg", message)
}

func (w *lineWriter) end() []byte {
	if w.json {
		w.b = append(w.b, '}')
	}
	return append(w.b, '\n')
}

func (w *lineWriter) name(name string) {
	if w.json {
		w.b = append(append(append(w.b, `,"`...), name...), `":`...)
		return
	}
	w.b = append(append(append(w.b, ' '), name...), '=')
}

func (w *lineWriter) number(name string, n int64) {
	w.name(name)
	w.b = strconv.AppendInt(w.b, n, 10)
}

func (w *lineWriter) duration(name string, d time.Duration) {
	if w.json {
		w.number(name, int64(d))
		return
	}
	w.name(name)
	w.b = append(w.b, d.String()...)
}

func (w *lineWriter) text(name, value string) {
	w.name(name)
	switch {
	case w.json && isPlain(value):
		w.b = append(append(append(w.b, '"'), value...), '"')
	case w.json:
		quoted, _ := json.Marshal(value) // A string always has a form in JSON.
		w.b = append(w.b, quoted...)
	case value != "" && isPlain(value):
		w.b = append(w.b, value...)
	default:
		w.b = strconv.AppendQuote(w.b, value)
	}
}

// isPlain reports whether neither form has to quote what is in s.
func isPlain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ', c >= 0x7f, c == '"', c == '=', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}

// Package facetest has what the tests of faces share: a registry in a real directory with real credentials, and requests to it.
package facetest

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/access/accesstest"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Address is where clients reach the registry.
const Address = "https://charts.example.com"

// Registry is the registry acme/charts behind one face.
type Registry struct {
	*accesstest.Credentials
	T     *testing.T
	Store *repository.Store
	// Door lets in what Admit does, which is everything where the test sets nothing else.
	Door  *face.Door
	Admit func(l face.Load) bool
	// Handler is the face, which the test sets, and Prefix what its addresses begin with.
	Handler http.Handler
	Prefix  string
	// Observed has one for each request.
	Observed []*audit.Observation
}

// New makes a registry without a face. Of options, Check is set.
func New(t *testing.T, visibility wire.Visibility, prefix string, options repository.Options) *Registry {
	t.Helper()
	r := &Registry{T: t, Prefix: prefix, Admit: func(face.Load) bool { return true }}
	r.Credentials = accesstest.New(t, Address+"/acme/charts", visibility, func() [][]byte { return [][]byte{bytes.Repeat([]byte{1}, 32)} })
	b, err := dir.New(filepath.Join(t.TempDir(), "data"))
	OK(t, err)
	options.Check = chart.NewRules(chart.Any).Check
	r.Store, err = repository.Open(t.Context(), b, "acme/charts", options)
	OK(t, err)
	r.Door = &face.Door{
		Access: r.Enforcer, Registry: "acme/charts", Command: "`log in`", Logger: slog.New(slog.DiscardHandler),
		Admit: func(_ *http.Request, _ string, l face.Load) (func(), bool) { return func() {}, r.Admit(l) },
	}
	return r
}

// Observe returns the place for what is found out about one more request.
func (r *Registry) Observe(context.Context) *audit.Observation {
	r.Observed = append(r.Observed, &audit.Observation{})
	return r.Observed[len(r.Observed)-1]
}

// Call is one request. The path is below Prefix where it does not begin as that does.
type Call struct {
	Method, Path string
	// Token names one of the credentials, "none" none, and "" the one that may do everything.
	Token  string
	Bearer bool
	Header map[string]string
	Body   io.Reader
	Ctx    context.Context //nolint:containedctx // For those that end it.
}

// Do makes a request. One that is broken off has the answer so far.
func (r *Registry) Do(c Call) (recorder *httptest.ResponseRecorder) {
	r.T.Helper()
	if root, _, _ := strings.Cut(r.Prefix[1:], "/"); !strings.HasPrefix(c.Path, "/"+root+"/") {
		c.Path = r.Prefix + c.Path
	}
	if c.Ctx == nil {
		c.Ctx = r.T.Context()
	}
	request, err := http.NewRequestWithContext(c.Ctx, cmp.Or(c.Method, http.MethodGet), "http://attacker.example"+c.Path, c.Body)
	OK(r.T, err)
	switch token, known := r.Tokens[cmp.Or(c.Token, "all")]; {
	case known && c.Bearer:
		request.Header.Set("Authorization", "Bearer "+token)
	case known:
		request.SetBasicAuth("anybody", token)
	}
	for k, v := range c.Header {
		request.Header.Set(k, v)
	}
	recorder = httptest.NewRecorder()
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // It is not wrapped.
			panic(p)
		}
	}()
	r.Handler.ServeHTTP(recorder, request)
	return recorder
}

// Want is Do, and fails the test where the status is another.
func (r *Registry) Want(status int, c Call) *httptest.ResponseRecorder {
	r.T.Helper()
	answer := r.Do(c)
	if answer.Code != status {
		r.T.Fatalf("%s %s: %d %s, want %d", c.Method, c.Path, answer.Code, answer.Body, status)
	}
	return answer
}

// OK fails the test where there is an error.
func OK(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

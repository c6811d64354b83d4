package events_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/leaktest"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

const (
	imageType = "application/vnd.oci.image.manifest.v1+json"
	secret    = "hunter2-the-secret"
)

// got is a request that a receiver got.
type got struct {
	header http.Header
	body   []byte
	// event is the body, where it is one of the format cloudevents.
	event cloudEvent
}

type cloudEvent struct {
	ID, Type, Subject, Source string
	Time                      time.Time
	Data                      struct {
		Chart, Version, Tag, Digest, PreviousDigest, Actor, CopiedFrom, Message string
	}
}

// listener is a receiver that remembers what it gets.
type listener struct {
	*httptest.Server
	mu   sync.Mutex
	all  []got
	then func(w http.ResponseWriter, r *http.Request, g got)
}

// listen starts a receiver that answers as then does; 200 where it is nil.
func listen(t *testing.T, then func(w http.ResponseWriter, r *http.Request, g got)) *listener {
	t.Helper()
	l := &listener{then: then}
	l.Server = httptest.NewServer(l)
	t.Cleanup(l.Close)
	return l
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	g := got{header: r.Header.Clone(), body: body}
	_ = json.Unmarshal(body, &g.event)
	l.mu.Lock()
	l.all = append(l.all, g)
	then := l.then
	l.mu.Unlock()
	if then != nil {
		then(w, r, g)
	}
}

func (l *listener) answer(then func(w http.ResponseWriter, r *http.Request, g got)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.then = then
}

func (l *listener) got() []got {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// lines are "type chart:tag" of all that came.
func (l *listener) lines() []string {
	var lines []string
	for _, g := range l.got() {
		lines = append(lines, strings.TrimPrefix(g.event.Type, "dev.chartroom.")+" "+g.event.Subject)
	}
	return lines
}

func status(code int) func(http.ResponseWriter, *http.Request, got) {
	return func(w http.ResponseWriter, _ *http.Request, _ got) { w.WriteHeader(code) }
}

// told is a receiver of CloudEvents.
func told(name string, l *listener) receivers.Receiver {
	return receivers.Receiver{Name: name, URL: l.URL + "/hook", Format: receivers.CloudEvents}
}

func secretFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// outcomes counts what was observed.
type outcomes struct {
	mu    sync.Mutex
	count map[string]int
}

func (o *outcomes) observe(receiver string, what events.Outcome, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count == nil {
		o.count = map[string]int{}
	}
	o.count[receiver+" "+string(what)]++
}

func (o *outcomes) of(receiver string, what events.Outcome) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count[receiver+" "+string(what)]
}

// locked is a log that is read while it is written.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// replica is one server's part.
type replica struct {
	*events.Notifier
	t     *testing.T
	b     bucket.Bucket
	store *repository.Store
	seen  outcomes
	log   locked
	stop  func()
}

func newBucket(t *testing.T) bucket.Bucket {
	t.Helper()
	b, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newReplica has short pauses.
func newReplica(t *testing.T, b bucket.Bucket, change func(*events.Options), who ...receivers.Receiver) *replica {
	t.Helper()
	if problems := receivers.Validate(who); problems != nil {
		t.Fatal(problems)
	}
	r := &replica{t: t, b: b, stop: func() {}}
	o := events.Options{
		Bucket: b, Receivers: who, Allowed: loopback, Observe: r.seen.observe, UserAgent: "chartroom/test", Log: slog.New(slog.NewTextHandler(&r.log, nil)),
		Registry: func() events.Registry {
			return events.Registry{Organization: "acme", Registry: "charts", URL: &url.URL{Scheme: "https", Host: "charts.example.com"}}
		},
		Standing: func(ctx context.Context, chart, tag string) (digest.Digest, string, error) {
			repo, err := r.store.Repository(chart)
			if err != nil {
				return "", "", err
			}
			return repo.Standing(ctx, tag)
		},
		Actor: func(context.Context) string { return "somebody" },
		Poll:  20 * time.Millisecond, LeaseTTL: 15 * time.Second, FirstPause: 10 * time.Millisecond, LongestPause: 50 * time.Millisecond, Timeout: 2 * time.Second,
	}
	if change != nil {
		change(&o)
	}
	var err error
	if r.Notifier, err = events.New(o); err != nil {
		t.Fatal(err)
	}
	r.store, err = repository.Open(t.Context(), b, "acme/charts", repository.Options{
		TagMutable: func(tag string) bool { return strings.HasSuffix(tag, "-dev") },
		Sparse:     func(repository.Manifest) bool { return true },
		Record:     r.Record,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run delivers until the test ends, or stop is called.
func (r *replica) run() *replica {
	ctx, cancel := context.WithCancel(r.t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	r.stop = func() {
		cancel()
		running.Wait()
	}
	r.t.Cleanup(r.stop)
	return r
}

func (r *replica) chart(name string) *repository.Repository {
	r.t.Helper()
	repo, err := r.store.Repository(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return repo
}

// manifest is one that names a config that nobody has.
func manifest(content string) []byte {
	config := digest.FromString(content)
	return fmt.Appendf(nil, `{"schemaVersion":2,"config":{"mediaType":"application/x","digest":%q,"size":%d},"layers":[]}`, config, len(content))
}

func push(ctx context.Context, repo *repository.Repository, tag, content string) error {
	_, err := repo.PutManifest(ctx, tag, imageType, manifest(content), "ci")
	return err
}

func (r *replica) push(chart, tag, content string) {
	r.t.Helper()
	if err := push(r.t.Context(), r.chart(chart), tag, content); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replica) delete(chart, reference string) {
	r.t.Helper()
	if err := r.chart(chart).DeleteManifest(r.t.Context(), reference); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replica) state(receiver string) events.State {
	r.t.Helper()
	s, err := r.State(r.t.Context(), receiver)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen that %s", what)
		}
	}
}

// keys are those below a prefix.
func keys(t *testing.T, b bucket.Bucket, prefix string) []string {
	t.Helper()
	var all []string
	for after := ""; ; {
		p, err := b.List(t.Context(), bucket.ListOptions{Prefix: prefix, StartAfter: after})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range p.Objects {
			all = append(all, i.Key)
		}
		if p.Next == "" {
			return all
		}
		after = p.Next
	}
}

package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/s3"
	"github.com/chartroom-dev/chartroom/test/s3server"
)

// fault is what becomes of one request on its way to the server.
type fault int

const (
	none fault = iota
	// Answers in place of the server's, which does not get the request.
	internalError
	slowDown
	conflict
	quota
	denied
	// reset breaks the connection before the server gets the request.
	reset
	// silent never answers.
	silent
	// lost and lostInternal break the connection, or answer with an error, after the server has done what was asked.
	lost
	lostInternal
	// truncated breaks off in the middle of the answer's body.
	truncated
)

// proxy is between a bucket and its server.
type proxy struct {
	*httptest.Server
	forward *httputil.ReverseProxy

	mu sync.Mutex
	// plan says what becomes of the n-th request, from 0 on, of those that it picks out.
	plan func(r *http.Request) bool
	fate func(n int) fault
	seen int
}

// between starts a proxy and opens a bucket through it.
func between(t *testing.T, server *s3server.Server, name string) (*proxy, *s3.Bucket, s3.Options) {
	t.Helper()
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{}
	p.forward = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // The signature names it.
	}}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	o := options(t, server, name)
	o.Endpoint = p.URL
	b := open(t, o)
	b.SetMaxBackoff(20 * time.Millisecond)
	return p, b, o
}

// breaking lets the requests that pick picks out meet these faults, one after the other, and the last one for ever.
func (p *proxy) breaking(pick func(*http.Request) bool, faults ...fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan, p.seen = pick, 0
	p.fate = func(n int) fault { return faults[min(n, len(faults)-1)] }
}

func method(name string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == name && !strings.Contains(r.URL.RawQuery, "list-type") }
}

// completing picks out what makes a multipart upload visible.
func completing(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

func (p *proxy) next(r *http.Request) fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.plan == nil || !p.plan(r) {
		return none
	}
	p.seen++
	return p.fate(p.seen - 1)
}

func (p *proxy) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, code string) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>as planned</Message></Error>", code)
	}
	switch f := p.next(r); f {
	case none:
		p.forward.ServeHTTP(w, r)
	case internalError:
		answer(http.StatusInternalServerError, "InternalError")
	case slowDown:
		answer(http.StatusServiceUnavailable, "SlowDown")
	case conflict:
		answer(http.StatusConflict, "ConditionalRequestConflict")
	case quota:
		answer(http.StatusForbidden, "QuotaExceeded")
	case denied:
		answer(http.StatusForbidden, "AccessDenied")
	case reset:
		panic(http.ErrAbortHandler)
	case silent:
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	case lost, lostInternal, truncated:
		recorded := httptest.NewRecorder()
		p.forward.ServeHTTP(recorded, r)
		switch f {
		case lostInternal:
			answer(http.StatusInternalServerError, "InternalError")
		case lost:
			panic(http.ErrAbortHandler)
		default:
			for name, values := range recorded.Header() {
				w.Header()[name] = values
			}
			w.WriteHeader(recorded.Code)
			_, _ = w.Write(recorded.Body.Bytes()[:recorded.Body.Len()/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}
}

// raw is a client of the server itself.
func raw(server *s3server.Server) *sdk.Client {
	return sdk.New(sdk.Options{
		Region: "us-east-1", BaseEndpoint: &server.Endpoint, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, ""),
	})
}

func wantNoUploads(t *testing.T, server *s3server.Server, name string) {
	t.Helper()
	out, err := raw(server).ListMultipartUploads(t.Context(), &sdk.ListMultipartUploadsInput{Bucket: &name})
	if err != nil || len(out.Uploads) > 0 {
		t.Errorf("uploads are left: %v, %v", out, err)
	}
}

func put(ctx context.Context, b bucket.Bucket, key, content string, c bucket.Condition) (bucket.Info, error) {
	return b.Put(ctx, key, strings.NewReader(content), int64(len(content)), c)
}

func wantContent(t *testing.T, b bucket.Bucket, key, want string) {
	t.Helper()
	body, info, err := b.Get(t.Context(), key, nil)
	if err != nil {
		t.Error(err)
		return
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if err != nil || string(got) != want || info.Size != int64(len(want)) {
		t.Errorf("%s has %.40q (%d bytes), %v; want %.40q (%d bytes)", key, got, len(got), err, want, len(want))
	}
}

func wantAbsent(t *testing.T, b bucket.Bucket, key string) {
	t.Helper()
	if _, err := b.Head(t.Context(), key); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("%s: %v", key, err)
	}
}

// bytesOf are so many that do not repeat.
func bytesOf(n int) string {
	content := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	return string(content)
}

// A put or delete whose answer is lost is sent again, and what the second answer says of the first one's doing is not
// taken for somebody else's.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	for name, f := range map[string]fault{"lost": lost, "lost-internal": lostInternal, "reset": reset, "internal": internalError, "slow-down": slowDown, "conflict": conflict} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, b, _ := between(t, server, name)
			p.breaking(method(http.MethodPut), f, none)
			created, err := put(t.Context(), b, "k", "created", bucket.Condition{Absent: true})
			if err != nil || p.requests() != 2 {
				t.Fatalf("create: %v after %d requests", err, p.requests())
			}
			if head, err := b.Head(t.Context(), "k"); err != nil || head.ETag != created.ETag || head.Size != created.Size {
				t.Errorf("Put says %+v, Head says %+v, %v", created, head, err)
			}
			p.breaking(method(http.MethodPut), f, none)
			if _, err := put(t.Context(), b, "k", "again", bucket.Condition{Absent: true}); !errors.Is(err, bucket.ErrExists) {
				t.Errorf("another create: %v", err)
			}
			// The same bytes from somebody else are somebody else's all the same.
			p.breaking(method(http.MethodPut), f, none)
			if _, err := put(t.Context(), b, "k", "created", bucket.Condition{Absent: true}); !errors.Is(err, bucket.ErrExists) {
				t.Errorf("another create of the same bytes: %v", err)
			}
			p.breaking(method(http.MethodPut), f, none)
			replaced, err := put(t.Context(), b, "k", "replaced", bucket.Condition{ETag: created.ETag})
			if err != nil {
				t.Errorf("replace: %v", err)
			}
			p.breaking(method(http.MethodPut), f, none)
			if _, err := put(t.Context(), b, "k", "x", bucket.Condition{ETag: created.ETag}); !errors.Is(err, bucket.ErrChanged) {
				t.Errorf("replace what was replaced: %v", err)
			}
			wantContent(t, b, "k", "replaced")
			p.breaking(method(http.MethodDelete), f, none)
			if err := b.Delete(t.Context(), "k", bucket.Condition{ETag: created.ETag}); !errors.Is(err, bucket.ErrChanged) {
				t.Errorf("delete what was replaced: %v", err)
			}
			p.breaking(method(http.MethodDelete), f, none)
			if err := b.Delete(t.Context(), "k", bucket.Condition{ETag: replaced.ETag}); err != nil {
				t.Errorf("delete: %v", err)
			}
			wantAbsent(t, b, "k")
		})
	}
}

func TestFaultsOfLargePuts(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	large := bytesOf(20 << 20)
	for name, c := range map[string]struct {
		pick   func(*http.Request) bool
		faults []fault
	}{
		"part-fails-once":    {method(http.MethodPut), []fault{none, internalError, reset, none}},
		"part-is-lost":       {method(http.MethodPut), []fault{lost, none}},
		"complete-fails":     {completing, []fault{slowDown, none}},
		"complete-is-lost":   {completing, []fault{lost, none}},
		"complete-conflicts": {completing, []fault{conflict, none}},
	} {
		for _, condition := range []bucket.Condition{{}, {Absent: true}} {
			t.Run(fmt.Sprintf("%s-%t", name, condition.Absent), func(t *testing.T) {
				t.Parallel()
				p, b, o := between(t, server, fmt.Sprintf("%s-%t", name, condition.Absent))
				p.breaking(c.pick, c.faults...)
				info, err := put(t.Context(), b, "k", large, condition)
				if err != nil || info.Size != int64(len(large)) {
					t.Fatalf("%+v, %v", info, err)
				}
				wantContent(t, b, "k", large)
				wantNoUploads(t, server, o.Bucket)
			})
		}
	}
}

// Whatever ends a large put, nothing of it is visible and nothing of it stays.
func TestLargePutsThatFailLeaveNothing(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	large := bytesOf(20 << 20)
	broken := errors.New("the body broke off")
	for name, c := range map[string]struct {
		pick func(*http.Request) bool
		f    fault
		body func(cancel func()) io.Reader
		size int64
		want error
	}{
		"parts-fail":      {method(http.MethodPut), internalError, nil, -1, bucket.ErrUnavailable},
		"no-room":         {method(http.MethodPut), quota, nil, -1, bucket.ErrFull},
		"read-only":       {method(http.MethodPost), denied, nil, -1, bucket.ErrReadOnly},
		"complete-denied": {completing, denied, nil, -1, bucket.ErrReadOnly},
		"body-error": {func(*http.Request) bool { return false }, none, func(func()) io.Reader {
			return io.MultiReader(strings.NewReader(large), failing{broken})
		}, -1, broken},
		"short-body": {func(*http.Request) bool { return false }, none, nil, 21 << 20, io.ErrUnexpectedEOF},
		"cancelled": {func(*http.Request) bool { return false }, none, func(cancel func()) io.Reader {
			return io.MultiReader(strings.NewReader(large), calling{cancel})
		}, -1, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, b, o := between(t, server, name)
			p.breaking(c.pick, c.f)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			body := io.Reader(strings.NewReader(large))
			if c.body != nil {
				body = c.body(cancel)
			}
			if _, err := b.Put(ctx, "k", body, c.size, bucket.Condition{}); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			wantAbsent(t, b, "k")
			wantNoUploads(t, server, o.Bucket)
			if n := b.BuffersLent(); n != 0 {
				t.Errorf("%d buffers were not given back", n)
			}
		})
	}
	t.Run("exists", func(t *testing.T) {
		t.Parallel()
		_, b, o := between(t, server, "exists")
		if _, err := put(t.Context(), b, "k", "first", bucket.Condition{}); err != nil {
			t.Fatal(err)
		}
		if _, err := put(t.Context(), b, "k", large, bucket.Condition{Absent: true}); !errors.Is(err, bucket.ErrExists) {
			t.Error(err)
		}
		if _, err := put(t.Context(), b, "k", large, bucket.Condition{ETag: "other"}); !errors.Is(err, bucket.ErrChanged) {
			t.Error(err)
		}
		wantContent(t, b, "k", "first")
		wantNoUploads(t, server, o.Bucket)
	})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// calling calls f in place of a first byte, and then goes on for ever.
type calling struct{ f func() }

func (c calling) Read(p []byte) (int, error) {
	c.f()
	return len(p), nil
}

// What the server answers to everything, and for ever, in the bucket's own words.
func TestLastingFaults(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	for name, c := range map[string]struct {
		f             fault
		read, written error
	}{
		"internal":  {internalError, bucket.ErrUnavailable, bucket.ErrUnavailable},
		"slow-down": {slowDown, bucket.ErrUnavailable, bucket.ErrUnavailable},
		"reset":     {reset, bucket.ErrUnavailable, bucket.ErrUnavailable},
		"conflict":  {conflict, bucket.ErrUnavailable, bucket.ErrUnavailable},
		"denied":    {denied, bucket.ErrUnavailable, bucket.ErrReadOnly},
		"quota":     {quota, bucket.ErrFull, bucket.ErrFull},
		"silent":    {silent, bucket.ErrUnavailable, bucket.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, b, _ := between(t, server, name)
			if c.f == silent {
				b.SetPatience(50 * time.Millisecond)
			}
			p.breaking(func(*http.Request) bool { return true }, c.f)
			var wait sync.WaitGroup
			try := func(what string, want error, f func() error) {
				wait.Go(func() {
					if err := f(); !errors.Is(err, want) || strings.Contains(err.Error(), server.SecretKey) {
						t.Errorf("%s: %v, want %v", what, err, want)
					}
				})
			}
			try("get", c.read, func() error { _, _, err := b.Get(t.Context(), "k", nil); return err })
			try("list", c.read, func() error { _, err := b.List(t.Context(), bucket.ListOptions{}); return err })
			try("put", c.written, func() error { _, err := put(t.Context(), b, "k", "x", bucket.Condition{}); return err })
			try("create", c.written, func() error { _, err := put(t.Context(), b, "k", "x", bucket.Condition{Absent: true}); return err })
			try("delete", c.written, func() error { return b.Delete(t.Context(), "k", bucket.Condition{}) })
			wait.Wait()
		})
	}
}

// A body that is cut short must never look whole, whatever the reader asks for.
func TestTruncatedReads(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	p, b, _ := between(t, server, "truncated")
	content := bytesOf(300 << 10)
	if _, err := put(t.Context(), b, "k", content, bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	p.breaking(method(http.MethodGet), truncated)
	for _, r := range []*bucket.Range{nil, {Offset: 1000, Length: 200 << 10}, {Offset: 1000, Length: -1}} {
		body, _, err := b.Get(t.Context(), "k", r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		_ = body.Close()
		if !errors.Is(err, bucket.ErrUnavailable) || len(got) == 0 {
			t.Errorf("%+v: %d bytes, %v", r, len(got), err)
		}
	}
}

// A server that ignores ranges, or does not say how much comes, must not be believed.
func TestAnswersThatCannotBeTrusted(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"x"`)
		if strings.HasSuffix(r.URL.Path, "/whole") {
			w.Header().Set("Content-Length", "10")
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write([]byte("0123456789"))
	}))
	t.Cleanup(server.Close)
	b := open(t, s3.Options{Bucket: "charts", Region: "us-east-1", Endpoint: server.URL, PathStyle: true, CredentialsDir: credentialFiles(t, "id", "secret")})
	if _, _, err := b.Get(t.Context(), "whole", &bucket.Range{Offset: 5, Length: 5}); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("a range that was ignored: %v", err)
	}
	if _, _, err := b.Get(t.Context(), "endless", nil); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("no length: %v", err)
	}
}

// A server that stops in the middle of a body is given up; a reader that takes its time is not.
func TestStalledBody(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("01234"))
		_ = http.NewResponseController(w).Flush()
		<-stop
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(stop) })
	b := open(t, s3.Options{Bucket: "charts", Region: "us-east-1", Endpoint: server.URL, PathStyle: true, CredentialsDir: credentialFiles(t, "id", "secret")})
	b.SetPatience(200 * time.Millisecond)
	body, _, err := b.Get(t.Context(), "k", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if !errors.Is(err, bucket.ErrUnavailable) || !strings.Contains(err.Error(), "in time") || string(got) != "01234" {
		t.Errorf("%q, %v", got, err)
	}
}

// Many large puts at once share a bounded number of buffers, and all succeed.
func TestManyLargePuts(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	b := open(t, options(t, server, "many"))
	content := bytesOf(1 << 20)
	var wait sync.WaitGroup
	for i := range 40 {
		wait.Go(func() {
			if _, err := put(t.Context(), b, strconv.Itoa(i), content, bucket.Condition{}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n := b.BuffersLent(); n != 0 {
		t.Errorf("%d buffers were not given back", n)
	}
	wantContent(t, b, "7", content)
}

func TestCopyInParts(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	p, b, o := between(t, server, "copies")
	b.SetCopySizes(6<<20, 5<<20)
	content := bytesOf(12 << 20)
	if _, err := put(t.Context(), b, "from/a+b%c", content, bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	info, err := b.Copy(t.Context(), "from/a+b%c", "to")
	if err != nil || info.Size != int64(len(content)) {
		t.Fatalf("%+v, %v", info, err)
	}
	if head, err := b.Head(t.Context(), "to"); err != nil || head.ETag != info.ETag {
		t.Errorf("Copy says %+v, Head says %+v, %v", info, head, err)
	}
	wantContent(t, b, "to", content)
	p.breaking(func(r *http.Request) bool { return r.Header.Get("X-Amz-Copy-Source-Range") != "" }, none, internalError)
	if _, err := b.Copy(t.Context(), "from/a+b%c", "failed"); !errors.Is(err, bucket.ErrUnavailable) {
		t.Error(err)
	}
	wantAbsent(t, b, "failed")
	wantNoUploads(t, server, o.Bucket)
}

// What killed servers left behind is cleared away when it is a day old, and only below the prefix.
func TestAbortStale(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	o := options(t, server, "stale")
	o.Prefix = "a"
	b, client := open(t, o), raw(server)
	for _, key := range []string{"a/k", "ab/k"} {
		if _, err := client.CreateMultipartUpload(t.Context(), &sdk.CreateMultipartUploadInput{Bucket: &o.Bucket, Key: &key}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		now  time.Time
		left string
	}{{time.Now(), "a/k ab/k"}, {time.Now().Add(25 * time.Hour), "ab/k"}} {
		if err := b.AbortStale(t.Context(), c.now); err != nil {
			t.Fatal(err)
		}
		out, err := client.ListMultipartUploads(t.Context(), &sdk.ListMultipartUploadsInput{Bucket: &o.Bucket})
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, u := range out.Uploads {
			left = append(left, aws.ToString(u.Key))
		}
		if strings.Join(left, " ") != c.left {
			t.Errorf("left are %v, want %s", left, c.left)
		}
	}
}

// A tag's put, whose body is in memory, is sent from where its reader stands.
func TestBodyInMemory(t *testing.T) {
	t.Parallel()
	server := s3server.Start(t)
	b := open(t, options(t, server, "memory"))
	r := bytes.NewReader([]byte("skipped:content"))
	if _, err := r.Seek(8, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "k", r, 7, bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "k", "content")
}

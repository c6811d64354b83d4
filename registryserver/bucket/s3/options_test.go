package s3_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/s3"
	"github.com/chartroom-dev/chartroom/test/s3server"
)

// Credentials that are replaced in their files are in use soon, without a restart; files that cannot be read any more
// change nothing.
func TestCredentialsAreReadAgain(t *testing.T) {
	server := s3server.Start(t)
	o := options(t, server, "rotation")
	o.CredentialsDir = credentialFiles(t, server.AccessKey, "wrong-secret")
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	b := open(t, o)
	if _, err := b.List(t.Context(), bucket.ListOptions{}); !errors.Is(err, bucket.ErrUnavailable) || !strings.Contains(err.Error(), "credentials") || strings.Contains(err.Error(), "wrong-secret") {
		t.Fatalf("wrong credentials: %v", err)
	}
	if err := os.WriteFile(filepath.Join(o.CredentialsDir, "secretAccessKey"), []byte(server.SecretKey), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new credentials are in use", func() bool { _, err := b.List(t.Context(), bucket.ListOptions{}); return err == nil })
	if err := os.RemoveAll(o.CredentialsDir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log tells", func() bool {
		if _, err := b.List(t.Context(), bucket.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(log.String(), "cannot be read again")
	})
	if strings.Contains(log.String(), "secret\n") || strings.Contains(log.String(), server.SecretKey+" ") {
		t.Errorf("the log has a secret: %s", &log)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

func TestNewRefusesCredentialsThatAreNotThere(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"no directory": os.RemoveAll,
		"no secret":    func(dir string) error { return os.Remove(filepath.Join(dir, "secretAccessKey")) },
		"empty":        func(dir string) error { return os.WriteFile(filepath.Join(dir, "accessKeyID"), []byte("\n"), 0o600) },
		"too large": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "sessionToken"), make([]byte, 1<<20), 0o600)
		},
		"not a file": func(dir string) error { return os.Mkdir(filepath.Join(dir, "sessionToken"), 0o700) },
	} {
		dir := credentialFiles(t, "id", "hidden-secret")
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		_, err := s3.New(t.Context(), s3.Options{Bucket: "charts", Region: "us-east-1", CredentialsDir: dir})
		if err == nil || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "hidden-secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is signed is what the files have, the session's token too, and nobody else is asked for credentials.
func TestCredentialsOfASession(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "environment")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "environment")
	var asked atomic.Pointer[http.Request]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r)
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(server.Close)
	dir := credentialFiles(t, "files", "secret")
	if err := os.WriteFile(filepath.Join(dir, "sessionToken"), []byte("session\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := open(t, s3.Options{Bucket: "charts", Region: "eu-central-1", Endpoint: server.URL, PathStyle: true, CredentialsDir: dir})
	if _, err := b.Head(t.Context(), "k"); !errors.Is(err, bucket.ErrNotFound) {
		t.Fatal(err)
	}
	r := asked.Load()
	if r.Header.Get("X-Amz-Security-Token") != "session" || !strings.Contains(r.Header.Get("Authorization"), "Credential=files/") ||
		!strings.Contains(r.Header.Get("Authorization"), "/eu-central-1/s3/") || r.URL.Path != "/charts/k" {
		t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
	}
}

// Where the service that gives out credentials answers 404, no object is missing.
func TestMissingCredentialsAreNoMissingObject(t *testing.T) {
	service := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(service.Close)
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_PROFILE": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_CONFIG_FILE": os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONTAINER_CREDENTIALS_FULL_URI": service.URL,
	} {
		t.Setenv(name, value)
	}
	b := open(t, s3.Options{Bucket: "charts", Region: "us-east-1", Endpoint: service.URL, PathStyle: true})
	_, err := b.Head(t.Context(), "k")
	if !errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, bucket.ErrNotFound) || !strings.Contains(err.Error(), "no credentials") {
		t.Error(err)
	}
}

// The authority of the server's certificate is replaced while connections are open.
func TestAuthoritiesAreReadAgain(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	good := x509.NewCertPool()
	good.AddCert(server.Certificate())
	var pool atomic.Pointer[x509.CertPool]
	pool.Store(x509.NewCertPool())
	b := open(t, s3.Options{
		Bucket: "charts", Region: "us-east-1", Endpoint: server.URL, PathStyle: true, CredentialsDir: credentialFiles(t, "id", "secret"), RootCAs: pool.Load,
	})
	b.SetMaxBackoff(time.Millisecond)
	for _, c := range []struct {
		pool *x509.CertPool
		want error
	}{{x509.NewCertPool(), bucket.ErrUnavailable}, {good, bucket.ErrNotFound}, {x509.NewCertPool(), bucket.ErrUnavailable}} {
		pool.Store(c.pool)
		if _, err := b.Head(t.Context(), "k"); !errors.Is(err, c.want) || errors.Is(err, bucket.ErrUnavailable) && !strings.Contains(err.Error(), "not trusted") {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
}

// Each request that is sent is told, with retries, once.
func TestObserve(t *testing.T) {
	server := s3server.Start(t)
	p, _, o := between(t, server, "observed")
	var mu sync.Mutex
	counts := map[string]int{}
	o.Observe = func(operation, outcome string, took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		counts[operation+" "+outcome]++
		if took <= 0 {
			t.Error("no time passed")
		}
	}
	b := open(t, o)
	b.SetMaxBackoff(time.Millisecond)
	p.breaking(method(http.MethodPut), slowDown, internalError, reset, none)
	info, err := put(t.Context(), b, "k", "x", bucket.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "k", "x")
	wantAbsent(t, b, "no")
	p.breaking(nil)
	if _, err := put(t.Context(), b, "k", "x", bucket.Condition{Absent: true}); !errors.Is(err, bucket.ErrExists) {
		t.Error(err)
	}
	if err := b.Delete(t.Context(), "k", bucket.Condition{ETag: info.ETag}); err != nil {
		t.Error(err)
	}
	want := map[string]int{
		"PutObject throttled": 1, "PutObject server_error": 1, "PutObject no_answer": 1, "PutObject ok": 1, "PutObject precondition_failed": 1,
		"GetObject ok": 1, "HeadObject not_found": 1, "DeleteObject ok": 1,
	}
	mu.Lock()
	defer mu.Unlock()
	for name, n := range want {
		if counts[name] != n {
			t.Errorf("%s: %d, want %d", name, counts[name], n)
		}
	}
	if len(counts) != len(want) {
		t.Errorf("%v", counts)
	}
}

func TestPresign(t *testing.T) {
	server := s3server.Start(t)
	b := open(t, options(t, server, "presigned"))
	if _, err := put(t.Context(), b, "a/b+c", "content", bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	address, err := b.Presign(t.Context(), "a/b+c", "application/x-pinned", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(address, server.SecretKey) || !strings.Contains(address, "X-Amz-Expires=60") {
		t.Error(address)
	}
	for _, c := range []struct {
		address string
		status  int
	}{{address, http.StatusOK}, {strings.Replace(address, "x-pinned", "x-other", 1), http.StatusForbidden}, {strings.Replace(address, "/a/", "/z/", 1), http.StatusForbidden}} {
		answer, err := b.Client().Get(c.address)
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode != c.status || c.status == http.StatusOK && (string(content) != "content" || answer.Header.Get("Content-Type") != "application/x-pinned") {
			t.Errorf("%d %q %v", answer.StatusCode, content, answer.Header)
		}
	}
	// It is for reading alone.
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodDelete} {
		request, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader("other"))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := b.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode < 400 {
			t.Errorf("%s is answered %d", method, answer.StatusCode)
		}
	}
	if _, err := b.Presign(t.Context(), "../x", "a/b", time.Minute); !errors.Is(err, bucket.ErrKey) {
		t.Error(err)
	}
}

// Errors say what to change.
func TestErrorsSayWhatToDo(t *testing.T) {
	server := s3server.Start(t)
	right := options(t, server, "charts")
	for name, c := range map[string]struct {
		change func(*s3.Options)
		words  string
	}{
		"another bucket":   {func(o *s3.Options) { o.Bucket = "nosuch" }, "there is no bucket nosuch"},
		"another region":   {func(o *s3.Options) { o.Region = "eu-central-1" }, "not in the region eu-central-1"},
		"unknown key":      {func(o *s3.Options) { o.CredentialsDir = credentialFiles(t, "nobody", "hidden") }, "does not accept the credentials"},
		"wrong secret":     {func(o *s3.Options) { o.CredentialsDir = credentialFiles(t, server.AccessKey, "hidden") }, "does not accept the credentials"},
		"nobody listens":   {func(o *s3.Options) { o.Endpoint = "http://127.0.0.1:1" }, "cannot be reached"},
		"TLS at a plain":   {func(o *s3.Options) { o.Endpoint = strings.Replace(o.Endpoint, "http:", "https:", 1) }, "cannot be reached"},
		"not an S3 server": {func(o *s3.Options) { o.Endpoint = elsewhere(t) }, "sends this request elsewhere"},
	} {
		o := right
		c.change(&o)
		b := open(t, o)
		b.SetMaxBackoff(time.Millisecond)
		_, _, err := b.Get(t.Context(), "k", nil)
		if !errors.Is(err, bucket.ErrUnavailable) || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "hidden") || len(err.Error()) > 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func elsewhere(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound))
	t.Cleanup(server.Close)
	return server.URL
}

package registryserver_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Who sends a head a byte now and then, or none at all, is let go.
func TestSlowHeadsAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	silent, slow := r.dial(), r.dial()
	if _, err := io.WriteString(slow, "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
		t.Fatal(err)
	}
	go func() {
		for _, err := slow.Write([]byte("x")); err == nil; _, err = slow.Write([]byte("x")) {
			time.Sleep(100 * time.Millisecond)
		}
	}()
	for what, c := range map[string]io.Reader{"a head that never ends": slow, "no head": silent} {
		// The connection's own deadline, of half a minute, would be an error.
		if answer, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") || bytes.Contains(answer, []byte(" 200 ")) {
			t.Errorf("%s: %q, %v", what, answer, err)
		}
	}
}

// A hundred thousand parameters are read by nobody.
func TestManyQueryParametersAreRefused(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.pushBlob("x")
	for _, path := range []string{"/tags/list?", "/blobs/uploads/?digest=sha256:x&"} {
		method := "GET"
		if strings.Contains(path, "uploads") {
			method = "POST"
		}
		status, body := r.raw(r.line(method, repositoryPath+path+strings.Repeat("a&", 12_000)))
		wantError(t, method+" "+path, status, body, http.StatusBadRequest)
	}
	if status, _ := r.raw(r.line("GET", repositoryPath+"/tags/list?"+strings.Repeat("a&", 50_000))); status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a hundred thousand: %d", status)
	}
}

// A body that one reader takes for two requests must not be two here.
func TestRequestsAreNotSmuggled(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	const smuggled = "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n"
	for what, head := range map[string]string{
		"a line feed alone":          "Transfer-Encoding: chunked\r\n\r\n0\n\r\n",
		"a line feed in a chunk":     "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n",
		"two lengths":                "Content-Length: 0\r\nContent-Length: 55\r\n\r\n",
		"lengths in a list":          "Content-Length: 0, 55\r\n\r\n",
		"chunks of an old kind":      "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
		"chunks by another name":     "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"a space before the colon":   "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"a line that is continued":   "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length : 0\r\n\r\n",
		"a carriage return alone":    "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a length with a sign":       "Content-Length: +0\r\n\r\n",
		"a length in hexadecimal":    "Content-Length: 0x0\r\n\r\n",
		"a chunk with a sign":        "Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n",
		"a chunk in another base":    "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
		"a trailer that is a length": "Trailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 55\r\n\n\r\n",
	} {
		c := r.dial()
		fmt.Fprintf(c, "GET /v2/ HTTP/1.1\r\nHost: x\r\n%s%s", head, smuggled)
		answers, err := io.ReadAll(bufio.NewReader(io.LimitReader(c, 64<<10)))
		if bytes.Contains(answers, []byte("smuggled")) || !bytes.HasPrefix(answers, []byte("HTTP/1.1 4")) && !bytes.HasPrefix(answers, []byte("HTTP/1.1 501")) {
			t.Errorf("%s: %s, %v", what, answers, err)
		}
	}
}

// dialHTTP2 opens a connection by hand, and says what every client says first.
func dialHTTP2(t *testing.T, r *running, roots *x509.CertPool) (*tls.Conn, *http2.Framer) {
	t.Helper()
	c, err := tls.Dial("tcp", r.server.Addresses()["public"].String(), &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(c, c)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c, framer
}

// head is that of a request for a path, compressed.
func (r *running) head(path string) []byte {
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", path}, {":authority", "x"}, {"authorization", "Bearer " + r.token}} {
		if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			r.t.Fatal(err)
		}
	}
	return head.Bytes()
}

// untilEnded reads what the server says until it ends the connection.
func untilEnded(t *testing.T, framer *http2.Framer) {
	t.Helper()
	for {
		_, err := framer.ReadFrame()
		if err != nil && strings.Contains(err.Error(), "timeout") {
			t.Error("the connection is not ended")
		}
		if err != nil {
			return
		}
	}
}

// What HTTP/2 lets clients do cheaply must not cost the server much, and others nothing.
func TestFloodsOfHTTP2(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	certificate := issue(t, folder, "serving", &x509.Certificate{DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true}, nil)
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Leaf)
	r := start(t, func(c *registryserver.Config) {
		c.TLS = registryserver.TLSConfig{Cert: filepath.Join(folder, "serving.crt"), Key: filepath.Join(folder, "serving.key")}
	})
	for what, flood := range map[string]func(*http2.Framer) error{
		"requests that are taken back": func(f *http2.Framer) error {
			head := r.head("/v2/acme/charts/web/tags/list")
			for n := range uint32(20_000) {
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 1, BlockFragment: head, EndStream: true, EndHeaders: true}); err != nil {
					return err
				}
				if err := f.WriteRSTStream(2*n+1, http2.ErrCodeCancel); err != nil {
					return err
				}
			}
			// Those that were not too many are answered; that is an end too.
			return f.WriteGoAway(0, http2.ErrCodeNo, nil)
		},
		"a head without end": func(f *http2.Framer) error {
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.head("/v2/")}); err != nil {
				return err
			}
			var field bytes.Buffer
			encoder := hpack.NewEncoder(&field)
			encoder.SetMaxDynamicTableSize(0)
			if err := encoder.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("x", 8<<10)}); err != nil {
				return err
			}
			for range 10_000 {
				if err := f.WriteContinuation(1, false, field.Bytes()); err != nil {
					return err
				}
			}
			return nil
		},
		"pings and settings": func(f *http2.Framer) error {
			for range 50_000 {
				if err := f.WritePing(false, [8]byte{}); err != nil {
					return err
				}
				if err := f.WriteSettings(); err != nil {
					return err
				}
			}
			return f.WriteGoAway(0, http2.ErrCodeNo, nil)
		},
	} {
		c, framer := dialHTTP2(t, r, roots)
		sent := make(chan error, 1)
		go func() { sent <- flood(framer) }()
		if what != "pings and settings" { // Whose answers nobody takes.
			go func() { untilEnded(t, framer) }()
		}
		other := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}}}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.server.Addresses()["public"].String()+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth("x", r.token)
		answer, err := other.Do(request)
		if err != nil || answer.StatusCode != http.StatusOK || answer.ProtoMajor != 2 {
			t.Errorf("%s: somebody else is answered %v, %v", what, answer, err)
		}
		other.CloseIdleConnections()
		<-sent
		c.Close()
		eventually(t, "nothing runs any more after "+what, func() bool {
			return strings.Contains(text(t, r.request("GET", r.metrics+"/metrics", nil, nil)), "chartroom_http_requests_running 0\n")
		})
	}
}

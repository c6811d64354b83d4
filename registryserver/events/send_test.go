package events_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Every event in every format, byte for byte but for ids and times.
func TestFormats(t *testing.T) {
	t.Parallel()
	for _, format := range []receivers.Format{receivers.Buildkite, receivers.Harbor, receivers.Flux, receivers.CloudEvents} {
		l := listen(t, nil)
		who := receivers.Receiver{Name: "hook", URL: l.URL, Format: format}
		if format != receivers.Harbor {
			who.Events = receivers.All()
		}
		at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		r := newReplica(t, newBucket(t), func(o *events.Options) { o.Now = func() time.Time { return at } }, who).run()
		r.push("team/web", "1.0.0_build.1", "one")
		r.push("team/web", "x-dev", "one")
		r.push("team/web", "x-dev", "two")
		r.delete("team/web", "x-dev")
		eventually(t, "all is told", func() bool { return len(l.got()) == 4 })
		if _, err := r.Ping(t.Context(), "hook"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the ping came", func() bool { return len(l.got()) == 5 })
		if format != receivers.Harbor {
			r.Trouble(receivers.QuotaReached, "it is full")
			eventually(t, "the trouble came", func() bool { return len(l.got()) == 6 })
		}
		r.stop()
		var out bytes.Buffer
		for _, g := range l.got() {
			fmt.Fprintln(&out, g.header.Get("Content-Type"), g.header.Get("X-Chartroom-Event"), g.header.Get("X-Buildkite-Event"), g.header.Get("User-Agent"))
			if err := json.Indent(&out, bytes.ReplaceAll(g.body, []byte(g.header.Get("X-Chartroom-Delivery")), []byte("ID")), "", "  "); err != nil {
				t.Errorf("%s is no JSON: %v", g.body, err)
			}
			out.WriteString("\n")
		}
		golden := filepath.Join("testdata", string(format)+".golden")
		if *update {
			if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", format, diff)
		}
	}
}

// verifyBuildkite does what Buildkite's documentation tells receivers to do with X-Buildkite-Signature: split at commas
// and at the first equals sign, compute HMAC-SHA256 over "timestamp.body", compare in constant time, and judge the age.
func verifyBuildkite(value, key string, body []byte, now time.Time) error {
	parts := map[string]string{}
	for _, pair := range strings.Split(value, ",") {
		name, content, _ := strings.Cut(strings.TrimSpace(pair), "=")
		parts[name] = content
	}
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "%s.%s", parts["timestamp"], body)
	if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(mac.Sum(nil))), []byte(parts["signature"])) != 1 {
		return errors.New("the signature is wrong")
	}
	seconds, err := strconv.ParseInt(parts["timestamp"], 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
		return fmt.Errorf("the timestamp %q is too old", parts["timestamp"])
	}
	return nil
}

// verifySHA256 does what GitHub's and Flux's documentation tell receivers to do with "sha256=<hex>".
func verifySHA256(value, key string, body []byte) error {
	sent, found := strings.CutPrefix(value, "sha256=")
	raw, err := hex.DecodeString(sent)
	if !found || err != nil {
		return fmt.Errorf("%q is no signature", value)
	}
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	if !hmac.Equal(mac.Sum(nil), raw) {
		return errors.New("the signature is wrong")
	}
	return nil
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(r *receivers.Receiver, file string)
		verify func(g got, key string) error
	}{
		"the format buildkite": {
			func(r *receivers.Receiver, file string) {
				r.Format, r.Auth.HMAC = receivers.Buildkite, &receivers.HMAC{SecretFile: file}
			},
			func(g got, key string) error {
				if e := g.header.Get("X-Buildkite-Event"); e != "package.created" {
					return fmt.Errorf("the event is %q", e)
				}
				return verifyBuildkite(g.header.Get("X-Buildkite-Signature"), key, g.body, time.Now())
			},
		},
		"another prefix": {
			func(r *receivers.Receiver, file string) {
				r.Format, r.HeaderPrefix, r.Auth.HMAC = receivers.Buildkite, "Acme", &receivers.HMAC{SecretFile: file}
			},
			func(g got, key string) error {
				return verifyBuildkite(g.header.Get("X-Acme-Signature"), key, g.body, time.Now())
			},
		},
		"the format flux": {
			func(r *receivers.Receiver, file string) {
				r.Format, r.Auth.HMAC = receivers.Flux, &receivers.HMAC{SecretFile: file}
			},
			func(g got, key string) error { return verifySHA256(g.header.Get("X-Signature"), key, g.body) },
		},
		"GitHub's dialect": {
			func(r *receivers.Receiver, file string) {
				r.Auth.HMAC = &receivers.HMAC{SecretFile: file, Dialect: receivers.DialectGitHub}
			},
			func(g got, key string) error { return verifySHA256(g.header.Get("X-Hub-Signature-256"), key, g.body) },
		},
		"Harbor's header": {
			func(r *receivers.Receiver, file string) {
				r.Format, r.Auth.Header = receivers.Harbor, &receivers.Header{SecretFile: file}
			},
			func(g got, key string) error {
				if g.header.Get("Authorization") != key {
					return errors.New("the header is wrong")
				}
				return nil
			},
		},
		"Buildkite's plain token": {
			func(r *receivers.Receiver, file string) {
				r.Format, r.Auth.Header = receivers.Buildkite, &receivers.Header{Name: "x-buildkite-token", SecretFile: file}
			},
			func(g got, key string) error {
				if g.header.Get("X-Buildkite-Token") != key {
					return errors.New("the header is wrong")
				}
				return nil
			},
		},
		"a token of Kubernetes": {
			func(r *receivers.Receiver, file string) {
				r.Format, r.Auth.ServiceAccountToken = receivers.Flux, &receivers.Token{File: file}
			},
			func(g got, key string) error {
				if g.header.Get("Authorization") != "Bearer "+key {
					return errors.New("the header is wrong")
				}
				return nil
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// It tells what it was told, as such receivers do that are for trying things out.
			l := listen(t, func(w http.ResponseWriter, _ *http.Request, g got) {
				for name := range g.header {
					w.Header().Set("X-Echo-"+name, g.header.Get(name))
					_, credentials, _ := strings.Cut(g.header.Get(name), " ")
					w.Header().Set("X-Echo-Part-"+name, credentials)
				}
				_, _ = fmt.Fprintf(w, "%s%v", strings.Repeat(" ", 4<<10-20), g.header)
			})
			who := receivers.Receiver{Name: "hook", URL: l.URL, Format: receivers.CloudEvents}
			file := secretFile(t, secret+"\n")
			c.change(&who, file)
			b := newBucket(t)
			r := newReplica(t, b, nil, who).run()
			r.push("web", "1.0.0", "x")
			eventually(t, "it is told", func() bool { return len(l.got()) == 1 })
			if err := c.verify(l.got()[0], secret); err != nil {
				t.Error(err)
			}
			if c.verify(l.got()[0], "another") == nil {
				t.Error("any secret would do")
			}
			// It is read anew for each event.
			if err := os.WriteFile(file, []byte("rotated"), 0o600); err != nil {
				t.Fatal(err)
			}
			r.push("web", "1.0.1", "x")
			eventually(t, "the next is told", func() bool { return len(l.got()) == 2 })
			if err := c.verify(l.got()[1], "rotated"); err != nil {
				t.Error(err)
			}
			// Without it, and with one that would add headers, nothing is sent.
			for _, content := range []string{"", "a\r\nX-Injected: yes", strings.Repeat("x", 17<<10)} {
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				before := r.seen.of("hook", events.Failed)
				r.push("web", "1.1."+strconv.Itoa(len(content)), "x")
				eventually(t, "it fails", func() bool { return r.seen.of("hook", events.Failed) > before+1 })
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the file is missed", func() bool { return strings.Contains(r.state("hook").Problem, "no such file") })
			if len(l.got()) != 2 {
				t.Errorf("it was told without the secret: %v", l.got()[2].header)
			}
			r.stop()
			// And it is nowhere.
			for _, key := range keys(t, b, "events/") {
				content, _, err := b.Get(t.Context(), key, nil)
				if err != nil {
					t.Fatal(err)
				}
				var text bytes.Buffer
				if _, err := text.ReadFrom(content); err != nil {
					t.Fatal(err)
				}
				content.Close()
				noSecret(t, key, text.String())
				if strings.Contains(text.String(), "signature=") || strings.Contains(text.String(), "sha256=") {
					t.Errorf("%s has a signature", key)
				}
			}
			noSecret(t, "the log", r.log.String())
		})
	}
}

func noSecret(t *testing.T, where, text string) {
	t.Helper()
	for _, s := range []string{secret, "rotated", "X-Injected"} {
		if strings.Contains(text, s) {
			t.Errorf("%s has the secret: %s", where, text)
		}
	}
}

// What an address leads to is judged when it is dialled.
func TestAddressesThatAreNotAllowed(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	tls := httptest.NewTLSServer(l)
	defer tls.Close()
	port := l.URL[strings.LastIndex(l.URL, ":"):]
	for _, address := range []string{
		l.URL, "http://localhost" + port, "http://[::ffff:127.0.0.1]" + port, "http://[::1]" + port, "http://2130706433" + port, "http://0x7f.1" + port,
		"http://0.0.0.0" + port, "https://127.0.0.1" + tls.URL[strings.LastIndex(tls.URL, ":"):], "http://169.254.169.254/latest/meta-data", "http://8.8.8.8/",
	} {
		r := newReplica(t, newBucket(t), func(o *events.Options) {
			o.Allowed, o.Timeout = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, time.Second
		}, receivers.Receiver{Name: "hook", URL: address, Format: receivers.CloudEvents, TLS: receivers.TLS{InsecureSkipVerify: strings.HasPrefix(address, "https")}}).run()
		r.push("web", "1.0.0", "x")
		eventually(t, address+" is refused", func() bool { return r.state("hook").Problem != "" })
		p := r.state("hook").Problem
		// The rest are names that nobody has.
		if !strings.Contains(p, "the administrator allowed") && !strings.Contains(p, "no such host") && !strings.Contains(p, "lookup ") && !strings.Contains(p, "in time") {
			t.Errorf("%s: %s", address, p)
		}
		r.stop()
	}
	if len(l.got()) > 0 {
		t.Error("a receiver was reached")
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	tls := httptest.NewTLSServer(http.HandlerFunc(l.ServeHTTP))
	defer tls.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw})
	if err := os.WriteFile(ca, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	who := func(name string, t receivers.TLS) receivers.Receiver {
		return receivers.Receiver{Name: name, URL: tls.URL, Format: receivers.CloudEvents, TLS: t}
	}
	r := newReplica(t, newBucket(t), nil,
		who("unknown", receivers.TLS{}), who("known", receivers.TLS{CAFile: ca}), who("any", receivers.TLS{InsecureSkipVerify: true}), who("none", receivers.TLS{CAFile: secretFile(t, "x")}),
	).run()
	r.push("web", "1.0.0", "x")
	eventually(t, "two are told", func() bool {
		return r.seen.of("known", events.Delivered) == 1 && r.seen.of("any", events.Delivered) == 1
	})
	eventually(t, "two are not", func() bool {
		return strings.Contains(r.state("unknown").Problem, "certificate") && strings.Contains(r.state("none").Problem, "no certificate in PEM")
	})
	if len(l.got()) != 2 {
		t.Errorf("%d were told", len(l.got()))
	}
}

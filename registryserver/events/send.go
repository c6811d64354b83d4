package events

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/egress"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

const (
	// maxResponseBytes is how much of an answer is read and kept.
	maxResponseBytes = 4 << 10
	// maxShownHeader bounds how much of an answer's header is kept.
	maxShownHeader = 2 << 10
	// maxSecretBytes bounds secrets and tokens, maxCABytes bundles of authorities.
	maxSecretBytes = 16 << 10
	maxCABytes     = 1 << 20
	masked         = "(not shown)"
)

// Request is what was sent.
type Request struct {
	URL string `json:"url"`
	// Header has what is secret replaced.
	Header map[string]string `json:"header,omitempty"`
	Body   string            `json:"body,omitempty"`
}

// Response is what came back; the zero value where nothing did.
type Response struct {
	Status int               `json:"status,omitempty"`
	Header map[string]string `json:"header,omitempty"`
	// Body is the beginning, 4 KiB at most.
	Body string `json:"body,omitempty"`
}

// gone reports that the receiver wants nothing more.
func (d Delivery) gone() bool { return d.Response.Status == http.StatusGone }

// about reports a failure that is about this event, so that others may fare better.
func (d Delivery) about() bool {
	switch d.Response.Status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// send makes one attempt. Outcome is Delivered or Failed.
func (n *Notifier) send(ctx context.Context, r receivers.Receiver, e Event, attempt int) Delivery {
	ctx, cancel := context.WithTimeout(ctx, n.o.Timeout)
	defer cancel()
	began := time.Now()
	d := Delivery{Event: e, Attempt: attempt, At: n.o.Now().UTC(), Outcome: Delivered, Request: Request{URL: r.URL}}
	if err := n.post(ctx, r, &d); err != nil {
		d.Outcome, d.Problem = Failed, clip(reason(err))
	}
	d.Took = time.Since(began)
	return d
}

// reason is an error without the address, which may have what nobody should see in a log.
func reason(err error) string {
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		if wrapped.Timeout() {
			return "it did not answer in time: " + wrapped.Err.Error()
		}
		return wrapped.Err.Error()
	}
	return err.Error()
}

func (n *Notifier) post(ctx context.Context, r receivers.Receiver, d *Delivery) error {
	m, err := write(r.Format, d.Event, n.o.Registry())
	if err != nil {
		return err
	}
	d.Request.Body = string(m.body)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(m.body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", m.contentType)
	request.Header.Set("User-Agent", n.o.UserAgent)
	request.Header.Set("X-Chartroom-Event", string(d.Event.Type))
	request.Header.Set("X-Chartroom-Delivery", d.Event.ID)
	if r.Format == receivers.Buildkite {
		request.Header.Set("X-"+r.Prefix()+"-Event", string(d.Event.Type))
	}
	secret, err := authenticate(request.Header, r, m.body, n.o.Now())
	d.Request.Header = withSecretsMasked(request.Header, secret)
	if err != nil {
		return err
	}
	client, err := n.client(r)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	// What follows the head need not be there, nor come to its end.
	body, _ := io.ReadAll(io.LimitReader(answer.Body, maxResponseBytes+maxSecretBytes))
	hide := withoutEcho(request.Header.Get(secret))
	text := hide(string(body))
	d.Response = Response{Status: answer.StatusCode, Header: shownHeader(answer.Header, hide), Body: strings.ToValidUTF8(text[:min(len(text), maxResponseBytes)], "�")}
	switch answer.StatusCode / 100 {
	case 2:
		return nil
	case 3:
		return fmt.Errorf("it answered %d, a redirect, and none is followed: write the address that it leads to", answer.StatusCode)
	}
	return fmt.Errorf("it answered %d; a status of 2xx is wanted", answer.StatusCode)
}

// client makes what talks to a receiver, with its authorities as the file has them now.
func (n *Notifier) client(r receivers.Receiver) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: r.TLS.InsecureSkipVerify} //nolint:gosec // The administrator asks for it by that name.
	if file := r.TLS.CAFile; file != "" {
		bundle, err := readFile(file, maxCABytes)
		if err != nil {
			return nil, fmt.Errorf("reading the authorities of the receiver: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(bundle) {
			return nil, fmt.Errorf("there is no certificate in PEM in the file of authorities, %s", file)
		}
	}
	return egress.Client(egress.Options{Allowed: n.o.Allowed, AllowedOnly: !r.Secured(), Timeout: n.o.Timeout, TLS: config}), nil
}

// authenticate adds what proves who sends, and returns the name of the header that it is in; empty where there is none.
func authenticate(header http.Header, r receivers.Receiver, body []byte, now time.Time) (name string, err error) {
	switch a := r.Auth; {
	case a.Header != nil:
		name = http.CanonicalHeaderKey(a.Header.Name)
		if name == "" {
			name = "Authorization"
		}
		value, err := readSecret(a.Header.SecretFile)
		if err != nil {
			return name, err
		}
		header.Set(name, value)
	case a.HMAC != nil:
		key, err := readSecret(a.HMAC.SecretFile)
		if err != nil {
			return "", err
		}
		var value string
		name, value = signature(r.SignedIn(), r.Prefix(), key, body, now)
		header.Set(name, value)
	case a.ServiceAccountToken != nil:
		name = "Authorization"
		token, err := readSecret(a.ServiceAccountToken.File)
		if err != nil {
			return name, err
		}
		header.Set(name, "Bearer "+token)
	}
	return name, nil
}

// signature is a header in one of the dialects.
func signature(dialect receivers.Dialect, prefix, key string, body []byte, now time.Time) (name, value string) {
	sum := func(parts ...[]byte) string {
		h := hmac.New(sha256.New, []byte(key))
		for _, p := range parts {
			h.Write(p)
		}
		return hex.EncodeToString(h.Sum(nil))
	}
	switch dialect {
	case receivers.DialectBuildkite:
		at := strconv.FormatInt(now.Unix(), 10)
		return http.CanonicalHeaderKey("X-" + prefix + "-Signature"), "timestamp=" + at + ",signature=" + sum([]byte(at+"."), body)
	case receivers.DialectGitHub:
		return "X-Hub-Signature-256", "sha256=" + sum(body)
	}
	return "X-Signature", "sha256=" + sum(body)
}

// readSecret reads a secret that is one line. No error has any of it.
func readSecret(file string) (string, error) {
	content, err := readFile(file, maxSecretBytes)
	if err != nil {
		return "", fmt.Errorf("reading the receiver's secret: %w", err)
	}
	secret := strings.TrimRight(string(content), "\r\n")
	switch {
	case secret == "":
		return "", fmt.Errorf("the file of the receiver's secret, %s, is empty", file)
	case strings.ContainsFunc(secret, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }):
		return "", fmt.Errorf("the file of the receiver's secret, %s, has more than one line in it, or characters that are no text", file)
	}
	return secret, nil
}

func readFile(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := os.Open(name) //nolint:gosec // The administrator names it.
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return content, err
}

// withoutEcho returns what takes the value of a header, and what is behind its scheme (RFC 9110 section 11.4), out of a text:
// some receivers answer with what they were sent.
func withoutEcho(value string) func(text string) string {
	if value == "" {
		return func(text string) string { return text }
	}
	pairs := []string{value, masked}
	if _, credentials, found := strings.Cut(value, " "); found && credentials != "" {
		pairs = append(pairs, credentials, masked)
	}
	return strings.NewReplacer(pairs...).Replace
}

// shownHeader is the beginning of an answer's header, without what sets secrets, and what hide takes out.
func shownHeader(header http.Header, hide func(string) string) map[string]string {
	header = header.Clone()
	header.Del("Set-Cookie")
	shown, size := map[string]string{}, 0
	for name, value := range withSecretsMasked(header, "") {
		value = hide(value)
		if size += len(name) + len(value); size > maxShownHeader {
			break
		}
		shown[name] = strings.ToValidUTF8(value, "�")
	}
	return shown
}

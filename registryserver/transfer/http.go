package transfer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"
)

const (
	maxRedirects = 5
	// patience is how long a server may take to connect, to begin an answer, and between two pieces of one.
	patience = 60 * time.Second
)

// Remote says how another registry is spoken to.
type Remote struct {
	// URL is oci://host/path, or the https:// or http:// address of a folder with an index.yaml.
	URL *url.URL
	// Username and Password are sent to the host of URL and to nobody else. Without them Credential is asked.
	Username, Password string
	// Credential returns what is stored for a host, empty for none; nil stands for nothing stored.
	Credential func(ctx context.Context, host string) (username, password string, err error)
	// PlainHTTP speaks HTTP without TLS to an oci:// address.
	PlainHTTP bool
	// Authorities are trusted in place of the system's; nil means the system's.
	Authorities *x509.CertPool
	// SkipVerify takes any certificate.
	SkipVerify bool
}

// client returns an HTTP client that tries again what fails for the moment, and that follows a few redirects within
// HTTP. Where the remote is on the internet it connects to no private address, whatever an index or a redirect names:
// what answers there was not meant to be asked from outside.
func (r Remote) client(ctx context.Context) *http.Client {
	base := http.DefaultTransport.(*http.Transport).Clone()                                                                    //nolint:forcetypeassert // It is one, by its documentation.
	base.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: r.Authorities, InsecureSkipVerify: r.SkipVerify} //nolint:gosec // As asked for.
	base.ResponseHeaderTimeout = patience
	dialer := &net.Dialer{Timeout: patience}
	if !r.reachesPrivate(ctx, base) {
		dialer.Control = refusePrivate
	}
	base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return impatient{c}, nil
	}
	return &http.Client{Transport: retry.NewTransport(base), CheckRedirect: func(next *http.Request, via []*http.Request) error {
		switch first := via[0].URL; {
		case len(via) > maxRedirects:
			return fmt.Errorf("more than %d redirects", maxRedirects)
		case next.URL.Scheme != "https" && next.URL.Scheme != "http":
			return fmt.Errorf("a redirect to %s, which is not HTTP", next.URL.Scheme)
		case first.Scheme == "https" && next.URL.Scheme == "http":
			return errors.New("a redirect from https to http")
		case next.URL.Host != first.Host || next.URL.Scheme != first.Scheme:
			next.Header.Del("Authorization")
		}
		return nil
	}}
}

// reachesPrivate is true when the remote itself is at a private address, or behind a proxy, which may be.
func (r Remote) reachesPrivate(ctx context.Context, t *http.Transport) bool {
	scheme := "https"
	if r.PlainHTTP || r.URL.Scheme == "http" {
		scheme = "http"
	}
	if proxy, err := t.Proxy(&http.Request{URL: &url.URL{Scheme: scheme, Host: r.URL.Host}}); err != nil || proxy != nil {
		return true
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", r.URL.Hostname())
	if err != nil {
		return false
	}
	for _, a := range addresses {
		if isPrivate(a) {
			return true
		}
	}
	return false
}

func refusePrivate(_, address string, _ syscall.RawConn) error {
	host, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if isPrivate(host.Addr()) {
		return fmt.Errorf("%s is a private address, and the source is not at one", host.Addr())
	}
	return nil
}

func isPrivate(a netip.Addr) bool {
	a = a.Unmap()
	return !a.IsGlobalUnicast() || a.IsPrivate()
}

// impatient is a connection on which nothing may take longer than patience. One that waits for the next request is
// closed then, too.
type impatient struct{ net.Conn }

func (c impatient) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	return c.Conn.Read(p)
}

func (c impatient) Write(p []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(patience))
	return c.Conn.Write(p)
}

// credential returns what to show to a host.
func (r Remote) credential(ctx context.Context, host string) (username, password string, err error) {
	if r.Password != "" || r.Username != "" {
		if host == r.URL.Host {
			return r.Username, r.Password, nil
		}
		return "", "", nil
	}
	if r.Credential == nil {
		return "", "", nil
	}
	return r.Credential(ctx, host)
}

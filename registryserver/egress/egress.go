// Package egress makes HTTP clients for addresses that others have chosen: those of issuers, and of receivers of events.
// They lead to no place behind the firewall that the administrator has not allowed, whatever a name resolves to.
package egress

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// maxHeaderBytes bounds the head of an answer.
const maxHeaderBytes = 64 << 10

// Options say what a client may do.
type Options struct {
	// Allowed are networks that may be dialled although they are not public.
	Allowed []netip.Prefix
	// AllowedOnly lets nothing else be dialled, for what is sent in the clear.
	AllowedOnly bool
	// Timeout bounds how long a connection may take to come about.
	Timeout time.Duration
	// TLS is how the other side proves who it is; nil for the authorities of the system. The client changes it.
	TLS *tls.Config
}

// Client returns a client that uses no proxy, follows no redirect, keeps no connection, asks for no compression and
// dials no address that o refuses, which is judged after the name was resolved. The caller bounds the time of requests and
// the bodies of answers.
func Client(o Options) *http.Client {
	dialer := &net.Dialer{Timeout: o.Timeout, Control: func(network, address string, _ syscall.RawConn) error {
		return o.refuse(network, address)
	}}
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	o.TLS.MinVersion = max(o.TLS.MinVersion, tls.VersionTLS12)
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        o.TLS,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// refuse judges an address that a name led to, immediately before it is dialled: whoever answers for the name must not
// choose what is behind our firewall.
func (o Options) refuse(network, address string) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("%s %q is not dialled", network, address)
	}
	ip := target.Addr().WithZone("").Unmap()
	for _, prefix := range o.Allowed {
		if prefix.Contains(ip) {
			return nil
		}
	}
	switch {
	case o.AllowedOnly:
		return fmt.Errorf("the address %s is not in a network that the administrator allowed, and nothing is sent elsewhere without TLS", ip)
	case isPublic(ip):
		return nil
	}
	return fmt.Errorf("the address %s is not a public one, and not in a network that the administrator allowed", ip)
}

// notPublic are networks that are not part of the public Internet, beside those that netip knows (IANA's registries of
// special-purpose addresses). What translates to IPv4 is refused whole: it could lead to any of the others.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("3fff::/20"), netip.MustParsePrefix("5f00::/16"), netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("fec0::/10"),
}

func isPublic(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, prefix := range notPublic {
		if prefix.Contains(ip) {
			return false
		}
	}
	return true
}

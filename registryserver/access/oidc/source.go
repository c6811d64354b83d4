package oidc

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/strictjson"
)

const (
	fetchTimeout      = 5 * time.Second
	discoveryPath     = "/.well-known/openid-configuration"
	defaultMaxAge     = time.Hour
	minMaxAge         = 5 * time.Minute
	maxMaxAge         = 24 * time.Hour
	maxResponseHeader = 64 << 10
	maxAddressBytes   = 1024
)

// Source is where the keys of an issuer come from. Keys of one source prove nothing to who trusts another, even for the
// same issuer.
type Source struct {
	// Issuer is the address as in the claim iss.
	Issuer string
	// JWKS are the keys themselves (RFC 7517 section 5). Where it is empty, the issuer is asked by OpenID Connect
	// Discovery 1.0.
	JWKS string
	// CA has the authorities, in PEM, of which one signed the issuer's certificate; empty for the system's.
	CA string
}

// Given returns the number of keys that are part of the source, or says what is wrong with them; 0 where the issuer is
// asked.
func (s Source) Given() (int, error) {
	if s.JWKS == "" {
		return 0, nil
	}
	keys, err := parseKeys([]byte(s.JWKS))
	return len(keys), err
}

// Fingerprint tells sources apart, in 22 letters, digits, dashes and underscores.
func (s Source) Fingerprint() string {
	h := sha256.New()
	for _, part := range []string{s.Issuer, s.JWKS, s.CA} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

// client makes what asks the issuer: over TLS alone, without a proxy, without following redirects, and at no address
// that dial refuses.
func (s Source) client(allowed []netip.Prefix) *http.Client {
	dialer := &net.Dialer{Timeout: fetchTimeout, Control: func(network, address string, _ syscall.RawConn) error {
		return refuseAddress(network, address, allowed)
	}}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM([]byte(s.CA))
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        config,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxResponseHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// refuseAddress judges an address that a name led to, immediately before it is dialled: whoever answers for the name
// must not choose what is behind our firewall.
func refuseAddress(network, address string, allowed []netip.Prefix) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("%s %q is not dialled", network, address)
	}
	ip := target.Addr().WithZone("").Unmap()
	for _, prefix := range allowed {
		if prefix.Contains(ip) {
			return nil
		}
	}
	if isPublic(ip) {
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

// fetch asks the issuer for its keys, and for how long they are good.
func (s Source) fetch(ctx context.Context, client *http.Client) (map[string]key, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	document, _, err := get(ctx, client, strings.TrimSuffix(s.Issuer, "/")+discoveryPath)
	if err != nil {
		return nil, 0, err
	}
	address, err := s.readDiscovery(document)
	if err != nil {
		return nil, 0, fmt.Errorf("the issuer's discovery document: %w", err)
	}
	document, maxAge, err := get(ctx, client, address)
	if err != nil {
		return nil, 0, err
	}
	keys, err := parseKeys(document)
	return keys, maxAge, err
}

// readDiscovery returns the address of the keys.
func (s Source) readDiscovery(document []byte) (string, error) {
	value, err := strictjson.Decode(document, documentBounds)
	if err != nil {
		return "", err
	}
	fields, _ := value.(map[string]any)
	if issuer, _ := fields["issuer"].(string); issuer != s.Issuer {
		return "", fmt.Errorf("it is that of the issuer %.200q", issuer)
	}
	address, _ := fields["jwks_uri"].(string)
	ours, err := url.Parse(s.Issuer)
	if err != nil {
		return "", err
	}
	theirs, err := url.Parse(address)
	if err != nil || theirs.Scheme != "https" || theirs.Host != ours.Host || theirs.User != nil || len(address) > maxAddressBytes {
		return "", fmt.Errorf("its jwks_uri %.200q is not an https address of the issuer's own host; write the keys into the policy instead", address)
	}
	return address, nil
}

func get(ctx context.Context, client *http.Client, address string) (body []byte, maxAge time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, err
	}
	if request.URL.Scheme != "https" {
		return nil, 0, errors.New("the issuer is asked over https alone")
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "chartroom")
	response, err := client.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("%s answered %d; 200 is wanted, and redirects are not followed", address, response.StatusCode)
	}
	body, err = io.ReadAll(io.LimitReader(response.Body, maxDocumentBytes+1))
	if err != nil {
		return nil, 0, fmt.Errorf("reading %s: %w", address, err)
	}
	if len(body) > maxDocumentBytes {
		return nil, 0, fmt.Errorf("%s has more than %d bytes", address, maxDocumentBytes)
	}
	return body, maxAgeOf(response.Header.Get("Cache-Control")), nil
}

// maxAgeOf reads max-age (RFC 9111 section 5.2.2.1), within what is sensible for keys.
func maxAgeOf(header string) time.Duration {
	for directive := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
		if strings.EqualFold(name, "max-age") && err == nil {
			return min(max(time.Duration(seconds)*time.Second, minMaxAge), maxMaxAge)
		}
	}
	return defaultMaxAge
}

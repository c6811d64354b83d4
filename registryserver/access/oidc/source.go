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
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/egress"
	"github.com/chartroom-dev/chartroom/registryserver/strictjson"
)

const (
	fetchTimeout    = 5 * time.Second
	discoveryPath   = "/.well-known/openid-configuration"
	defaultMaxAge   = time.Hour
	minMaxAge       = 5 * time.Minute
	maxMaxAge       = 24 * time.Hour
	maxAddressBytes = 1024
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

// client makes what asks the issuer.
func (s Source) client(allowed []netip.Prefix) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM([]byte(s.CA))
	}
	return egress.Client(egress.Options{Allowed: allowed, Timeout: fetchTimeout, TLS: config})
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

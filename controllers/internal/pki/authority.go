// Package pki holds the operator's two certificate authorities: one signs what registries serve with, the other what the
// operator and the admin ports of pods recognise each other by. What is to be done is decided by pure functions of a
// time; [Store] keeps the result in Secrets.
package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Durations say how long certificates live. The zero value of a field means its default.
type Durations struct {
	// Authority is how long an authority's certificate is valid; 10 years by default.
	Authority time.Duration
	// Overlap is how long the next authority is published before it signs; 30 days by default.
	Overlap time.Duration
	// Leaf is how long all other certificates are valid; 90 days by default. They are renewed when 2/3 have passed.
	Leaf time.Duration
}

// withDefaults fills in what was left out.
func (d Durations) withDefaults() Durations {
	const day = 24 * time.Hour
	if d.Authority == 0 {
		d.Authority = 10 * 365 * day
	}
	if d.Overlap == 0 {
		d.Overlap = 30 * day
	}
	if d.Leaf == 0 {
		d.Leaf = 90 * day
	}
	return d
}

// skew is how far into the past certificates reach, for peers whose clocks are behind.
const skew = 5 * time.Minute

// pair is a certificate with its key.
type pair struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// Authority is a certificate authority in the midst of its life: one certificate signs; the next may be published
// already, and earlier ones stay published until they expire, so that a change of authority never breaks a peer that
// has not heard of it yet.
type Authority struct {
	name      string
	durations Durations
	current   *pair
	next      *pair
	old       []*x509.Certificate
}

// Entries of the Secret of an authority.
const (
	entryBundle      = "ca.crt"
	entryCertificate = "tls.crt"
	entryKey         = "tls.key"
	entryNextCert    = "next.crt"
	entryNextKey     = "next.key"
	entryOld         = "old.crt"
)

// NewAuthority returns an authority that has no certificate yet: Advance makes the first.
func NewAuthority(name string, durations Durations) Authority {
	return Authority{name: name, durations: durations.withDefaults()}
}

// Decode reads what Encode wrote.
func (a Authority) Decode(data map[string][]byte) (Authority, error) {
	var err error
	if a.current, err = decodePair(data[entryCertificate], data[entryKey]); err != nil {
		return a, fmt.Errorf("%s and %s: %w", entryCertificate, entryKey, err)
	}
	if len(data[entryNextCert]) > 0 {
		if a.next, err = decodePair(data[entryNextCert], data[entryNextKey]); err != nil {
			return a, fmt.Errorf("%s and %s: %w", entryNextCert, entryNextKey, err)
		}
	}
	if a.old, err = decodeCertificates(data[entryOld]); err != nil {
		return a, fmt.Errorf("%s: %w", entryOld, err)
	}
	return a, nil
}

// Encode returns the authority as the entries of a Secret.
func (a Authority) Encode() (map[string][]byte, error) {
	key, err := encodeKey(a.current.key)
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{
		entryBundle:      a.Bundle(),
		entryCertificate: encodeCertificates(a.current.certificate),
		entryKey:         key,
	}
	if a.next != nil {
		data[entryNextCert] = encodeCertificates(a.next.certificate)
		if data[entryNextKey], err = encodeKey(a.next.key); err != nil {
			return nil, err
		}
	}
	if len(a.old) > 0 {
		data[entryOld] = encodeCertificates(a.old...)
	}
	return data, nil
}

// Bundle returns every certificate that peers must trust now, in PEM.
func (a Authority) Bundle() []byte {
	all := []*x509.Certificate{a.current.certificate}
	if a.next != nil {
		all = append(all, a.next.certificate)
	}
	return encodeCertificates(append(all, a.old...)...)
}

// Advance brings the authority to where it should be now: it makes the first certificate, publishes the next when 2/3
// of the current one's life have passed, signs with it when it was published for the overlap, and forgets expired
// ones. It reports whether anything changed.
func (a Authority) Advance(now time.Time) (Authority, bool, error) {
	if a.current == nil {
		first, err := a.newPair(now)
		a.current = first
		return a, true, err
	}
	changed := false
	// An authority that slept through the overlap publishes and signs at once: its old certificate is no use any more.
	if a.next == nil && !now.Before(renewAt(a.current.certificate)) {
		next, err := a.newPair(now)
		if err != nil {
			return a, false, err
		}
		a.next, changed = next, true
	}
	if a.next != nil && (!now.Before(a.next.certificate.NotBefore.Add(skew+a.durations.Overlap)) || now.After(a.current.certificate.NotAfter)) {
		a.old = append([]*x509.Certificate{a.current.certificate}, a.old...)
		a.current, a.next, changed = a.next, nil, true
	}
	var kept []*x509.Certificate
	for _, c := range a.old {
		if now.After(c.NotAfter) {
			changed = true
			continue
		}
		kept = append(kept, c)
	}
	a.old = kept
	return a, changed, nil
}

// NextChange returns when Advance will next have something to do.
func (a Authority) NextChange() time.Time {
	next := renewAt(a.current.certificate)
	if a.next != nil {
		next = a.next.certificate.NotBefore.Add(skew + a.durations.Overlap)
	}
	for _, c := range a.old {
		if c.NotAfter.Before(next) {
			next = c.NotAfter
		}
	}
	return next
}

func (a Authority) newPair(now time.Time) (*pair, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: a.name},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(a.durations.Authority),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	certificate, err := sign(template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of authority %s: %w", a.name, err)
	}
	return &pair{certificate, key}, nil
}

// Request says what a certificate is for.
type Request struct {
	// Names (of DNS), Addresses (of IP) and URIs are what the certificate is valid for.
	Names     []string
	Addresses []net.IP
	URIs      []*url.URL
	// Usage is what the certificate may be used for.
	Usage x509.ExtKeyUsage
}

// Leaf is a certificate with its key, both in PEM.
type Leaf struct {
	Certificate, Key []byte
	// RenewAt is when it should be replaced.
	RenewAt time.Time
}

// Issue signs a new certificate with a new key.
func (a Authority) Issue(r Request, now time.Time) (Leaf, error) {
	notAfter := now.Add(a.durations.Leaf)
	if limit := a.current.certificate.NotAfter; notAfter.After(limit) {
		notAfter = limit
	}
	template := &x509.Certificate{
		NotBefore:   now.Add(-skew),
		NotAfter:    notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{r.Usage},
		DNSNames:    r.Names,
		IPAddresses: r.Addresses,
		URIs:        r.URIs,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Leaf{}, err
	}
	certificate, err := sign(template, a.current.certificate, key, a.current.key)
	if err != nil {
		return Leaf{}, fmt.Errorf("signing a certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	return Leaf{encodeCertificates(certificate), keyPEM, renewAt(certificate)}, err
}

// Check reports when a certificate that was issued before should be replaced, or, as an error, why it must be
// replaced at once: it cannot be read, is due, is for other names, or is not signed by this authority.
func (a Authority) Check(certificate, key []byte, r Request, now time.Time) (time.Time, error) {
	p, err := decodePair(certificate, key)
	if err != nil {
		return time.Time{}, err
	}
	c := p.certificate
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.Bundle())
	_, err = c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{r.Usage}})
	due := renewAt(c)
	switch {
	case err != nil:
		return due, fmt.Errorf("the certificate is not valid: %w", err)
	case !now.Before(due):
		return due, errors.New("the certificate is due for renewal")
	case !sameNames(c, r):
		return due, errors.New("the certificate is for other names")
	}
	return due, nil
}

func sameNames(c *x509.Certificate, r Request) bool {
	var have, want []string
	for _, ip := range c.IPAddresses {
		have = append(have, ip.String())
	}
	for _, u := range c.URIs {
		have = append(have, u.String())
	}
	for _, ip := range r.Addresses {
		want = append(want, ip.String())
	}
	for _, u := range r.URIs {
		want = append(want, u.String())
	}
	return fmt.Sprintf("%q%q", c.DNSNames, have) == fmt.Sprintf("%q%q", r.Names, want)
}

// renewAt is the instant at which 2/3 of a certificate's life have passed.
func renewAt(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2)
}

func sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encodeCertificates(certificates ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certificates {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out.Bytes()
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func decodeCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("not a list of certificates in PEM")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading a certificate: %w", err)
		}
		out, text = append(out, c), rest
	}
	return out, nil
}

func decodePair(certificate, key []byte) (*pair, error) {
	certificates, err := decodeCertificates(certificate)
	if err != nil {
		return nil, err
	}
	if len(certificates) == 0 {
		return nil, errors.New("there is no certificate")
	}
	block, _ := pem.Decode(key)
	if block == nil {
		return nil, errors.New("there is no private key in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the private key cannot be read")
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(certificates[0].PublicKey) {
		return nil, errors.New("the private key does not belong to the certificate")
	}
	return &pair{certificates[0], private}, nil
}

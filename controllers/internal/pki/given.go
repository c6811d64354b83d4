package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"time"
)

// CheckGiven says what is wrong with a certificate chain and key that a user gave, in PEM, for serving under a host; nil
// when nothing is. The error tells no secret. It returns when the certificate expires.
func CheckGiven(certificate, key []byte, host string, now time.Time) (time.Time, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return time.Time{}, fmt.Errorf("tls.crt and tls.key do not fit together: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
	leaf := pair.Leaf
	if leaf == nil {
		if leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return time.Time{}, fmt.Errorf("tls.crt cannot be read: %w", err)
		}
	}
	switch {
	case now.After(leaf.NotAfter):
		return leaf.NotAfter, fmt.Errorf("the certificate expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return leaf.NotAfter, fmt.Errorf("the certificate is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if err := leaf.VerifyHostname(host); err != nil {
		return leaf.NotAfter, fmt.Errorf("the certificate is not for the host %s", host)
	}
	return leaf.NotAfter, nil
}

// CheckBundle says what is wrong with a bundle of authorities in PEM; nil when nothing is.
func CheckBundle(bundle []byte) error {
	certificates, err := decodeCertificates(bundle)
	if err == nil && len(certificates) == 0 {
		err = fmt.Errorf("there is no certificate")
	}
	return err
}

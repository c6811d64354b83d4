package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const day = 24 * time.Hour

var (
	start   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	service = Request{Names: []string{"charts.team-a.svc", "localhost"}, Addresses: []net.IP{net.IPv4(127, 0, 0, 1).To4()}, Usage: x509.ExtKeyUsageServerAuth}
)

func advance(t *testing.T, a Authority, now time.Time) Authority {
	t.Helper()
	next, changed, err := a.Advance(now)
	if err != nil {
		t.Fatal(err)
	}
	if _, again, err := next.Advance(now); err != nil || again {
		t.Fatalf("at %s there is something to do twice: %v", now, err)
	}
	if !changed {
		return next
	}
	// Whatever it comes to, it survives being stored.
	data, err := next.Encode()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := NewAuthority(a.name, a.durations).Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func issue(t *testing.T, a Authority, now time.Time) Leaf {
	t.Helper()
	leaf, err := a.Issue(service, now)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func trusts(t *testing.T, bundle []byte, leaf Leaf, now time.Time) error {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	pair, err := tls.X509KeyPair(leaf.Certificate, leaf.Key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{DNSName: "charts.team-a.svc", Roots: roots, CurrentTime: now})
	return err
}

// Day by day over three generations of an authority: a peer that read the bundle at most an overlap ago trusts every
// certificate that is in use, however old.
func TestRotationNeverBreaksTrust(t *testing.T) {
	durations := Durations{Authority: 300 * day, Overlap: 20 * day, Leaf: 60 * day}
	a := NewAuthority("test", durations)
	type dated struct {
		at   time.Time
		leaf Leaf
	}
	var (
		leaves  []dated
		bundles []struct {
			at     time.Time
			bundle []byte
		}
		signers = map[string]bool{}
	)
	for now := start; now.Before(start.Add(700 * day)); now = now.Add(5 * day) {
		a = advance(t, a, now)
		signers[string(a.current.certificate.Raw)] = true
		leaves = append(leaves, dated{now, issue(t, a, now)})
		bundles = append(bundles, struct {
			at     time.Time
			bundle []byte
		}{now, a.Bundle()})
		for _, leaf := range leaves {
			if now.After(leaf.leaf.RenewAt) {
				continue
			}
			for _, b := range bundles {
				if now.Sub(b.at) > durations.Overlap-day {
					continue
				}
				if err := trusts(t, b.bundle, leaf.leaf, now); err != nil {
					t.Fatalf("on %s a peer with the bundle of %s does not trust the certificate of %s: %v", now, b.at, leaf.at, err)
				}
			}
		}
	}
	if len(signers) != 4 {
		t.Errorf("%d authorities signed within 700 days, want 4", len(signers))
	}
	if n := strings.Count(string(a.Bundle()), "BEGIN CERTIFICATE"); n > 3 {
		t.Errorf("the bundle holds %d certificates: expired ones are not forgotten", n)
	}
}

func TestAuthorityThatSleptPastItsEnd(t *testing.T) {
	a := advance(t, NewAuthority("test", Durations{}), start)
	late := start.Add(20 * 365 * day)
	a = advance(t, a, late)
	if err := trusts(t, a.Bundle(), issue(t, a, late), late); err != nil {
		t.Error(err)
	}
}

func TestNextChangeIsWhenSomethingChanges(t *testing.T) {
	a := advance(t, NewAuthority("test", Durations{}), start)
	for range 5 {
		at := a.NextChange()
		if _, changed, err := a.Advance(at.Add(-time.Second)); err != nil || changed {
			t.Fatalf("something changes before %s: %v", at, err)
		}
		next, changed, err := a.Advance(at.Add(time.Second))
		if err != nil || !changed {
			t.Fatalf("nothing changes at %s: %v", at, err)
		}
		a = next
	}
}

func TestCheck(t *testing.T) {
	a := advance(t, NewAuthority("test", Durations{}), start)
	other := advance(t, NewAuthority("other", Durations{}), start)
	leaf, foreign := issue(t, a, start), issue(t, other, start)
	if got := leaf.RenewAt.Sub(start); got < 59*day || got > 61*day {
		t.Errorf("a certificate of 90 days is renewed after %s, want 60 days", got)
	}
	more := service
	more.Names = append([]string{"x"}, service.Names...)
	client := service
	client.Usage = x509.ExtKeyUsageClientAuth
	tests := map[string]struct {
		certificate, key []byte
		request          Request
		now              time.Time
		problem          string
	}{
		"good":                 {leaf.Certificate, leaf.Key, service, start.Add(59 * day), ""},
		"due":                  {leaf.Certificate, leaf.Key, service, start.Add(60 * day), "due for renewal"},
		"expired":              {leaf.Certificate, leaf.Key, service, start.Add(91 * day), "not valid"},
		"not yet valid":        {leaf.Certificate, leaf.Key, service, start.Add(-day), "not valid"},
		"other names":          {leaf.Certificate, leaf.Key, more, start, "other names"},
		"other usage":          {leaf.Certificate, leaf.Key, client, start, "not valid"},
		"foreign":              {foreign.Certificate, foreign.Key, service, start, "not valid"},
		"another's key":        {leaf.Certificate, foreign.Key, service, start, "does not belong"},
		"no certificate":       {nil, leaf.Key, service, start, "no certificate"},
		"no key":               {leaf.Certificate, nil, service, start, "no private key"},
		"nonsense":             {[]byte("x"), leaf.Key, service, start, "not a list of certificates"},
		"nonsense for the key": {leaf.Certificate, []byte("-----BEGIN PRIVATE KEY-----\neA==\n-----END PRIVATE KEY-----\n"), service, start, "cannot be read"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := a.Check(test.certificate, test.key, test.request, test.now)
			if (err == nil) != (test.problem == "") || (err != nil && !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("got %v, want %q", err, test.problem)
			}
		})
	}
}

func TestCheckGiven(t *testing.T) {
	a := advance(t, NewAuthority("test", Durations{}), start)
	leaf, other := issue(t, a, start), issue(t, a, start)
	tests := map[string]struct {
		key     []byte
		host    string
		now     time.Time
		problem string
	}{
		"good":          {leaf.Key, "charts.team-a.svc", start, ""},
		"another's key": {other.Key, "charts.team-a.svc", start, "do not fit together"},
		"no key":        {nil, "charts.team-a.svc", start, "do not fit together"},
		"other host":    {leaf.Key, "x.test", start, "not for the host x.test"},
		"expired":       {leaf.Key, "charts.team-a.svc", start.Add(91 * day), "expired at"},
		"too early":     {leaf.Key, "charts.team-a.svc", start.Add(-day), "not valid before"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := CheckGiven(leaf.Certificate, test.key, test.host, test.now)
			if (err == nil) != (test.problem == "") || (err != nil && !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("got %v, want %q", err, test.problem)
			}
		})
	}
	if CheckBundle(a.Bundle()) != nil || CheckBundle(nil) == nil || CheckBundle([]byte("x")) == nil {
		t.Error("CheckBundle does not tell bundles from others")
	}
}

func store(t *testing.T, objects ...client.Object) *Store {
	t.Helper()
	c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(objects...).Build()
	return &Store{Reader: c, Writer: c, Namespace: "chartroom-system", Now: func() time.Time { return start }}
}

func TestOneAuthorityHoweverManyMakeIt(t *testing.T) {
	s := store(t)
	bundles := make([]string, 8)
	var all sync.WaitGroup
	for i := range bundles {
		all.Go(func() {
			a, err := s.Serving(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			bundles[i] = string(a.Bundle())
		})
	}
	all.Wait()
	for _, b := range bundles {
		if b != bundles[0] {
			t.Fatal("there are several authorities")
		}
	}
}

func TestDamagedAuthorityIsNotReplaced(t *testing.T) {
	secret := &corev1.Secret{Data: map[string][]byte{"tls.crt": []byte("x")}}
	secret.Namespace, secret.Name = "chartroom-system", AdminSecret
	_, err := store(t, secret).Admin(t.Context())
	if err == nil || !strings.Contains(err.Error(), "restore it, or delete it") {
		t.Errorf("got %v", err)
	}
}

// The two sides of the admin port, as operator and pod set them up.
func TestAdminHandshake(t *testing.T) {
	s := store(t)
	s.Now = nil
	authority, err := s.Admin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	name := wire.AdminServerName("team-a", "charts")
	leaf, err := authority.Issue(Request{Names: []string{name}, Usage: x509.ExtKeyUsageServerAuth}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(leaf.Certificate, leaf.Key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.Bundle())
	server := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	for dialled, want := range map[string]bool{name: true, wire.AdminServerName("team-a", "other"): false} {
		config, err := s.ClientTLS(t.Context(), dialled)
		if err != nil {
			t.Fatal(err)
		}
		state, err := handshake(t, server, config)
		if (err == nil) != want {
			t.Errorf("dialling %s: %v", dialled, err)
		}
		if err != nil {
			continue
		}
		identity, _ := url.Parse(wire.OperatorURI)
		if uris := state.PeerCertificates[0].URIs; len(uris) != 1 || *uris[0] != *identity {
			t.Errorf("the operator's certificate is for %v", uris)
		}
	}
}

func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	accepted := tls.Server(there, server)
	done := make(chan error, 1)
	go func() { done <- accepted.HandshakeContext(ctx) }()
	if err := tls.Client(here, client).HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	return accepted.ConnectionState(), <-done
}

func FuzzDecode(f *testing.F) {
	a, _, err := NewAuthority("test", Durations{}).Advance(start)
	if err != nil {
		f.Fatal(err)
	}
	data, err := a.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[entryCertificate], data[entryKey], data[entryCertificate])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\neA==\n-----END CERTIFICATE-----\n"), []byte("x"), []byte(nil))
	f.Fuzz(func(t *testing.T, certificate, key, old []byte) {
		a, err := NewAuthority("test", Durations{}).Decode(map[string][]byte{entryCertificate: certificate, entryKey: key, entryOld: old})
		if err != nil {
			return
		}
		if _, err := a.Encode(); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}

package egress_test

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/egress"
)

func TestRefuseAddress(t *testing.T) {
	o := egress.Options{Allowed: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd01::/16")}}
	for address, network := range map[string]string{"8.8.8.8:443": "tcp4", "10.1.2.3:443": "tcp4", "[::ffff:10.1.2.3]:443": "tcp6", "[2606:4700::1]:8443": "tcp6", "[fd01::1]:443": "tcp6"} {
		if err := o.Refuse(network, address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for address, network := range map[string]string{
		"10.2.0.1:443": "tcp4", "[::ffff:127.0.0.1]:443": "tcp6", "[::ffff:169.254.169.254]:443": "tcp6", "[fd02::1]:443": "tcp6", "[fe80::1%eth0]:443": "tcp6",
		"[64:ff9b::a00:1]:443": "tcp6", "[::1]:443": "tcp6", "8.8.8.8:53": "udp4", "issuer.example:443": "tcp4", "/run/docker.sock": "unix",
	} {
		if err := o.Refuse(network, address); err == nil {
			t.Errorf("%s would be dialled", address)
		}
	}
	// The first and last addresses of the networks that are not part of the public Internet.
	for _, ends := range [][2]string{
		{"0.0.0.0", "0.255.255.255"}, {"10.0.0.0", "10.0.255.255"}, {"10.2.0.0", "10.255.255.255"}, {"100.64.0.0", "100.127.255.255"},
		{"127.0.0.0", "127.255.255.255"}, {"169.254.0.0", "169.254.255.255"}, {"172.16.0.0", "172.31.255.255"}, {"192.0.0.0", "192.0.0.255"},
		{"192.0.2.0", "192.0.2.255"}, {"192.88.99.0", "192.88.99.255"}, {"192.168.0.0", "192.168.255.255"}, {"198.18.0.0", "198.19.255.255"},
		{"198.51.100.0", "198.51.100.255"}, {"203.0.113.0", "203.0.113.255"}, {"224.0.0.0", "239.255.255.255"}, {"240.0.0.0", "255.255.255.255"},
		{"::", "::ffff:ffff"}, {"64:ff9b::", "64:ff9b::ffff:ffff"}, {"64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"},
		{"100::", "100::ffff:ffff:ffff:ffff"}, {"2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"}, {"2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"}, {"5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"fc00::", "fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}, {"fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}, {"ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		for _, address := range ends {
			if err := o.Refuse("tcp6", net.JoinHostPort(address, "443")); err == nil {
				t.Errorf("%s would be dialled", address)
			}
		}
	}
}

// What is sent in the clear stays in networks that were allowed.
func TestAllowedOnly(t *testing.T) {
	o := egress.Options{AllowedOnly: true, Allowed: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	if err := o.Refuse("tcp4", "10.1.2.3:80"); err != nil {
		t.Error(err)
	}
	for _, address := range []string{"8.8.8.8:80", "10.2.0.1:80", "127.0.0.1:80"} {
		if err := o.Refuse("tcp4", address); err == nil {
			t.Errorf("%s would be dialled", address)
		}
	}
}

func get(t *testing.T, o egress.Options, url string) (*http.Response, error) {
	t.Helper()
	o.Timeout = 5 * time.Second
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := egress.Client(o).Do(request)
	if err == nil {
		t.Cleanup(func() { answer.Body.Close() })
	}
	return answer, err
}

func TestClient(t *testing.T) {
	// A proxy of the environment is not asked.
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.URL.Path == "/huge" {
			w.Header().Set("X-Long", strings.Repeat("x", 70<<10))
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer server.Close()
	answer, err := get(t, egress.Options{Allowed: loopback, AllowedOnly: true}, server.URL)
	if err != nil || answer.StatusCode != http.StatusFound || asked != 1 {
		t.Errorf("got %v, %v after %d requests", answer, err, asked)
	}
	if _, err := get(t, egress.Options{Allowed: loopback}, server.URL+"/huge"); err == nil || !strings.Contains(err.Error(), "headers exceeded") {
		t.Errorf("a huge header: %v", err)
	}
	before := asked
	for _, o := range []egress.Options{{}, {AllowedOnly: true}, {Allowed: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}} {
		if _, err := get(t, o, server.URL); err == nil || !strings.Contains(err.Error(), "the administrator allowed") {
			t.Errorf("%+v: %v", o, err)
		}
		// The name is judged by what it leads to.
		if _, err := get(t, o, strings.Replace(server.URL, "127.0.0.1", "localhost", 1)); err == nil {
			t.Errorf("%+v: localhost was dialled", o)
		}
	}
	if asked != before {
		t.Error("the server was asked all the same")
	}
}

func TestCertificatesAreVerified(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	_, err := get(t, egress.Options{Allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, server.URL)
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
}

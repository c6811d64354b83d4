package registryserver

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestClientBehindProxies(t *testing.T) {
	ours := proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct {
		name, remote string
		forwarded    []string
		want         string
	}{
		{"straight", "203.0.113.7:1234", nil, "203.0.113.7:1234"},
		{"straight, and lying", "203.0.113.7:1234", []string{"192.0.2.1"}, "203.0.113.7:1234"},
		{"a proxy that says nothing", "10.0.0.1:80", nil, "10.0.0.1:80"},
		{"one proxy", "10.0.0.1:80", []string{"203.0.113.7"}, "203.0.113.7:0"},
		{"one proxy, as IPv6", "[::ffff:10.0.0.1]:80", []string{"203.0.113.7"}, "203.0.113.7:0"},
		{"two proxies", "10.0.0.1:80", []string{"203.0.113.7, 10.0.0.2"}, "203.0.113.7:0"},
		{"two proxies, a header each", "10.0.0.1:80", []string{"203.0.113.7", "fd00::2"}, "203.0.113.7:0"},
		{"a client that lies", "10.0.0.1:80", []string{"10.9.9.9, 198.51.100.1, 203.0.113.7"}, "203.0.113.7:0"},
		{"a client that writes nonsense", "10.0.0.1:80", []string{"<script>, 203.0.113.7"}, "203.0.113.7:0"},
		{"nonsense at the end", "10.0.0.1:80", []string{"203.0.113.7, unknown"}, "10.0.0.1:80"},
		{"with a port", "10.0.0.1:80", []string{"203.0.113.7:5555"}, "203.0.113.7:0"},
		{"IPv6 with a port", "10.0.0.1:80", []string{"[2001:db8::1]:5555"}, "[2001:db8::1]:0"},
		{"IPv6 in brackets", "10.0.0.1:80", []string{"[2001:db8::1]"}, "[2001:db8::1]:0"},
		{"from within", "10.0.0.1:80", []string{"10.0.0.3"}, "10.0.0.3:0"},
		{"too many", "10.0.0.1:80", []string{"203.0.113.7" + strings.Repeat(", 10.0.0.2", 100)}, "10.0.0.2:0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/", nil)
			r.RemoteAddr = c.remote
			r.Header["X-Forwarded-For"] = c.forwarded
			if got := ours.client(r); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if got := proxies(nil).client(r); got != c.remote {
				t.Errorf("without proxies it is %s", got)
			}
		})
	}
}

func FuzzClientBehindProxies(f *testing.F) {
	f.Add("203.0.113.7, 10.0.0.2")
	f.Add("[2001:db8::1%eth0]:1, ,::ffff:10.0.0.1")
	ours := proxies{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, forwarded string) {
		r := &http.Request{RemoteAddr: "10.0.0.1:80", Header: http.Header{"X-Forwarded-For": {forwarded}}}
		if _, err := netip.ParseAddrPort(ours.client(r)); err != nil {
			t.Errorf("%q became %v", forwarded, err)
		}
	})
}

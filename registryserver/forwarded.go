package registryserver

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// proxies are the networks of those who may say whom they speak for.
type proxies []netip.Prefix

func (p proxies) has(address netip.Addr) bool {
	return slices.ContainsFunc(p, func(n netip.Prefix) bool { return n.Contains(address.Unmap().WithZone("")) })
}

// hasRemote is has for an address with a port.
func (p proxies) hasRemote(remote string) bool {
	if len(p) == 0 {
		return false
	}
	address, err := netip.ParseAddrPort(remote)
	return err == nil && p.has(address.Addr())
}

// maxForwarded bounds the proxies that a request came through.
const maxForwarded = 32

// client is the address that a request came from: that of the connection, or, where a proxy of ours is at its other
// end, what X-Forwarded-For says. Each proxy appends whom it heard it from, so the list is read from its end, and only as
// far as those who wrote it are ours: what is before that, anybody may have written. The port, which the header does not
// have, is 0.
func (p proxies) client(r *http.Request) string {
	if !p.hasRemote(r.RemoteAddr) {
		return r.RemoteAddr
	}
	entries := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	slices.Reverse(entries)
	client := r.RemoteAddr
	for i, entry := range entries {
		address, err := parseForwarded(strings.TrimSpace(entry))
		if err != nil || i == maxForwarded {
			return client
		}
		client = net.JoinHostPort(address.String(), "0")
		if !p.has(address) {
			return client
		}
	}
	return client
}

// parseForwarded reads an address, which some proxies write with a port.
func parseForwarded(entry string) (netip.Addr, error) {
	if withPort, err := netip.ParseAddrPort(entry); err == nil {
		return withPort.Addr().Unmap().WithZone(""), nil
	}
	address, err := netip.ParseAddr(strings.Trim(entry, "[]"))
	return address.Unmap().WithZone(""), err
}

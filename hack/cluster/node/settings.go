package main

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
)

// bridgeName is the network device that pods are attached to; its address is the node's.
const bridgeName = "chartroom0"

// nodeName is the node's name in the cluster.
const nodeName = "chartroom-node"

// settings are the addresses of one node, chosen once and kept until `down`.
type settings struct {
	Pods      string         `json:"pods"`      // range of the pods' addresses; the bridge has the first
	Services  string         `json:"services"`  // range of the Services' addresses
	Address   string         `json:"address"`   // of the node, on the bridge
	APIServer string         `json:"apiServer"` // the kubernetes Service's address
	Ports     map[string]int `json:"ports"`
}

// wantedPorts are tried first; a taken one is replaced by the next free one. They are below the range that the kernel
// gives to outgoing connections, so that a stopped component finds its port free again.
var wantedPorts = []struct {
	name     string
	loopback bool
	port     int
}{
	{"api", false, 6443},
	{"kubelet", false, 10250},
	{"dns", false, 53},
	{"etcd", true, 22379},
	{"etcd-peer", true, 22380},
	{"kubelet-health", true, 20248},
	{"controller-manager", true, 20257},
	{"scheduler", true, 20259},
	{"proxy-metrics", true, 20249},
	{"proxy-health", true, 20256},
	{"dns-health", true, 20253},
	{"dns-ready", true, 20254},
}

// readSettings gives nil when no node was set up here.
func readSettings(path string) (*settings, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var chosen settings
	if err := json.Unmarshal(data, &chosen); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &chosen, nil
}

func (s *settings) write(path string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, data)
}

// chooseRange finds a /16 that overlaps no network that this machine knows.
func chooseRange(known []netip.Prefix) (*settings, error) {
	for second := 213; second < 254; second++ {
		candidate := netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", second))
		free := true
		for _, network := range known {
			free = free && !network.Overlaps(candidate)
		}
		if free {
			return &settings{
				Pods:      fmt.Sprintf("10.%d.0.0/24", second),
				Services:  fmt.Sprintf("10.%d.128.0/20", second),
				Address:   fmt.Sprintf("10.%d.0.1", second),
				APIServer: fmt.Sprintf("10.%d.128.1", second),
				Ports:     map[string]int{},
			}, nil
		}
	}
	return nil, impossibleError("every range of addresses from 10.213.0.0/16 on is in use on this machine")
}

// choosePorts fills in a free port for every listener. The node's address must exist already.
func (s *settings) choosePorts() error {
	taken := map[int]bool{}
	for _, wanted := range wantedPorts {
		host := s.Address
		if wanted.loopback {
			host = "127.0.0.1"
		}
		port := wanted.port
		for taken[port] || !portIsFree(host, port) {
			if wanted.name == "dns" || port >= wanted.port+100 {
				return impossibleError(fmt.Sprintf("port %d of %s, needed for %s, is taken by another program", wanted.port, host, wanted.name))
			}
			port++
		}
		taken[port] = true
		s.Ports[wanted.name] = port
	}
	return nil
}

func portIsFree(host string, port int) bool {
	address := net.JoinHostPort(host, fmt.Sprint(port))
	streams, err := net.Listen("tcp4", address)
	if err != nil {
		return false
	}
	defer streams.Close()
	packets, err := net.ListenPacket("udp4", address)
	if err != nil {
		return false
	}
	return packets.Close() == nil
}

// knownNetworks are the networks of this machine's devices, routes and name servers, those of our own bridge excepted.
func knownNetworks() ([]netip.Prefix, error) {
	var known []netip.Prefix
	devices, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the network devices: %w", err)
	}
	for _, device := range devices {
		addresses, err := device.Addrs()
		if err != nil || device.Name == bridgeName {
			continue
		}
		for _, address := range addresses {
			if prefix, err := netip.ParsePrefix(address.String()); err == nil {
				known = append(known, prefix.Masked())
			}
		}
	}
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	known = append(known, parseRoutes(string(routes))...)
	resolver, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, server := range nameServers(string(resolver)) {
		known = append(known, netip.PrefixFrom(server, server.BitLen()))
	}
	return known, nil
}

// parseRoutes reads the kernel's table of IPv4 routes, whose numbers are in the machine's byte order.
func parseRoutes(table string) []netip.Prefix {
	var routes []netip.Prefix
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 8 || fields[0] == bridgeName {
			continue
		}
		destination, err1 := hex.DecodeString(fields[1])
		mask, err2 := hex.DecodeString(fields[7])
		if err1 != nil || err2 != nil || len(destination) != 4 || len(mask) != 4 {
			continue
		}
		var address, ones [4]byte
		binary.NativeEndian.PutUint32(address[:], binary.BigEndian.Uint32(destination))
		binary.NativeEndian.PutUint32(ones[:], binary.BigEndian.Uint32(mask))
		bits, _ := net.IPMask(ones[:]).Size()
		if bits > 0 {
			routes = append(routes, netip.PrefixFrom(netip.AddrFrom4(address), bits))
		}
	}
	return routes
}

// nameServers are the addresses of the servers in a resolver configuration.
func nameServers(resolver string) []netip.Addr {
	var servers []netip.Addr
	for line := range strings.Lines(resolver) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if server, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, server.WithZone(""))
		}
	}
	return servers
}

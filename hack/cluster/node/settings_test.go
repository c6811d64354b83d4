package main

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChooseRangeAvoidsWhatIsKnown(t *testing.T) {
	for _, c := range []struct {
		name  string
		known []string
		want  string
	}{
		{"nothing known", nil, "10.213.0.1"},
		{"a network within", []string{"10.213.200.0/24"}, "10.214.0.1"},
		{"a network around", []string{"10.208.0.0/13"}, "10.216.0.1"},
		{"a name server within", []string{"10.213.9.9/32", "192.0.2.0/24"}, "10.214.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var known []netip.Prefix
			for _, network := range c.known {
				known = append(known, netip.MustParsePrefix(network))
			}
			chosen, err := chooseRange(known)
			if err != nil {
				t.Fatal(err)
			}
			if chosen.Address != c.want {
				t.Errorf("the node's address is %s; want %s", chosen.Address, c.want)
			}
		})
	}
	if _, err := chooseRange([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); err == nil {
		t.Error("a range was found where all are taken")
	}
}

func TestParseRoutes(t *testing.T) {
	table := "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n" +
		bridgeName + "\t0000D50A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
	got := parseRoutes(table)
	if len(got) != 1 || got[0].String() != "192.0.2.0/24" {
		t.Errorf("got %v; want 192.0.2.0/24 alone: no default route, none of our own", got)
	}
}

func TestChoosePortsPassesTakenOnes(t *testing.T) {
	chosen := &settings{Address: "127.0.0.1", Ports: map[string]int{}}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	taken := listener.Addr().(*net.TCPAddr).Port
	if portIsFree("127.0.0.1", taken) {
		t.Error("a port that is listened on counts as free")
	}
	before := wantedPorts
	t.Cleanup(func() { wantedPorts = before })
	wantedPorts = wantedPorts[:0:0]
	wantedPorts = append(wantedPorts, before[0], before[1])
	wantedPorts[0].port, wantedPorts[1].port = taken, taken
	if err := chosen.choosePorts(); err != nil {
		t.Fatal(err)
	}
	if first, second := chosen.Ports["api"], chosen.Ports["kubelet"]; first == taken || second == taken || first == second {
		t.Errorf("chose %d and %d where %d is taken", first, second, taken)
	}
}

func TestMountsBelow(t *testing.T) {
	table := "/dev/vda / ext4 rw 0 0\n" +
		"/dev/vda /w/.cluster/kubelet ext4 rw 0 0\n" +
		"tmpfs /w/.cluster/kubelet/pods/a\\040b tmpfs rw 0 0\n" +
		"tmpfs /w/.cluster-of-another/x tmpfs rw 0 0\n"
	want := []string{"/w/.cluster/kubelet/pods/a b", "/w/.cluster/kubelet"}
	if diff := cmp.Diff(want, mountsBelow(table, "/w/.cluster")); diff != "" {
		t.Errorf("inner mounts first, and no neighbours (-want +got):\n%s", diff)
	}
}

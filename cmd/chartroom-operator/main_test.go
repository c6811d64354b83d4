package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "chartroom-system")
	s, err := parse([]string{
		"--registry-image=localhost/chartroom:v1", "--allowed-host-suffixes=example.com,example.org", "--allow-pod-images", "--allow-egress-cidrs=10.0.0.0/8,fd00::/8",
		"--leader-elect", "--log-level=debug", "--metrics-bind-address=10.0.0.1:8080", "--health-probe-bind-address=10.0.0.1:8081"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Namespace != "chartroom-system" || s.RegistryImage != "localhost/chartroom:v1" || !s.AllowPodImages || !s.leaderElect ||
		s.logLevel != slog.LevelDebug || s.metricsAddress != "10.0.0.1:8080" || s.probeAddress != "10.0.0.1:8081" {
		t.Errorf("read %+v", s)
	}
	if diff := cmp.Diff([]string{"example.com", "example.org"}, s.AllowedHostSuffixes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"10.0.0.0/8", "fd00::/8"}, s.AllowEgressCIDRs); diff != "" {
		t.Error(diff)
	}
	if s, err := parse([]string{"--registry-image=x"}); err != nil || !strings.HasPrefix(s.metricsAddress, "127.0.0.1:") || !strings.HasPrefix(s.probeAddress, "127.0.0.1:") {
		t.Errorf("by default it listens on %s and %s (%v), want the loopback interface alone", s.metricsAddress, s.probeAddress, err)
	}
}

func TestListensOnThePodsAddress(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "chartroom-system")
	for ip, want := range map[string]string{"": "127.0.0.1:8080", "10.0.0.1": "10.0.0.1:8080", "fd00::1": "[fd00::1]:8080"} {
		t.Setenv("POD_IP", ip)
		if s, err := parse([]string{"--registry-image=x"}); err != nil || s.metricsAddress != want {
			t.Errorf("with POD_IP=%q it listens on %s (%v), want %s", ip, s.metricsAddress, err, want)
		}
	}
}

func TestParseSaysWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct {
		namespace string
		args      []string
		want      string
	}{
		"image":     {"chartroom-system", nil, "--registry-image"},
		"namespace": {"", []string{"--registry-image=x"}, "--namespace"},
		"argument":  {"chartroom-system", []string{"--registry-image=x", "serve"}, `"serve"`},
		"network":   {"chartroom-system", []string{"--registry-image=x", "--allow-egress-cidrs=10.0.0.1/8"}, "10.0.0.1/8"},
		"flag":      {"chartroom-system", []string{"--nope"}, "nope"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("POD_NAMESPACE", c.namespace)
			if _, err := parse(c.args); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

package main

import (
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// testNode is a layout with keys and configuration, and no process.
func testNode(t *testing.T) (layout, *settings) {
	t.Helper()
	place := layoutOf(t.TempDir())
	place.run = t.TempDir()
	chosen, err := chooseRange([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	for _, wanted := range wantedPorts {
		chosen.Ports[wanted.name] = wanted.port
	}
	if err := makeCertificates(place.in("pki"), chosen); err != nil {
		t.Fatal(err)
	}
	if err := writeConfiguration(place, chosen); err != nil {
		t.Fatal(err)
	}
	return place, chosen
}

func TestConfigurationIsWellFormed(t *testing.T) {
	place, chosen := testNode(t)
	files, err := filepath.Glob(place.in("config", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no configuration: %v", err)
	}
	files = append(files, place.in("config", "cni", "10-chartroom.conflist"), place.kubeconfig())
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range strings.Split(string(content), "\n---\n") {
			var parsed map[string]any
			if err := yaml.UnmarshalStrict([]byte(document), &parsed); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	info, err := os.Stat(place.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the administrator's kubeconfig has mode %v", info.Mode())
	}
	resolver, err := os.ReadFile(place.in("resolv.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if servers := nameServers(string(resolver)); len(servers) != 1 || servers[0].String() != chosen.Address {
		t.Errorf("the resolver asks %v; want the node's own %s", servers, chosen.Address)
	}
}

// Every component says where it listens; a program's own default is often every address of the machine.
func TestEveryListenerHasAnExplicitAddress(t *testing.T) {
	place, chosen := testNode(t)
	var written strings.Builder
	for _, part := range components(place, chosen, programs{}) {
		written.WriteString(strings.Join(part.args, "\n") + "\n")
	}
	for _, name := range []string{"kubelet.yaml", "kube-proxy.yaml", "Corefile", "containerd.toml"} {
		content, err := os.ReadFile(place.in("config", name))
		if err != nil {
			t.Fatal(err)
		}
		written.Write(content)
	}
	if strings.Contains(written.String(), "0.0.0.0") {
		t.Error("something listens on every address")
	}
	for _, want := range []string{
		"--bind-address=" + chosen.Address, "--bind-address=127.0.0.1", "address: " + chosen.Address,
		"healthzBindAddress: 127.0.0.1", "metricsBindAddress: 127.0.0.1", "bind " + chosen.Address, "--listen-peer-urls=https://127.0.0.1",
	} {
		if !strings.Contains(written.String(), want) {
			t.Errorf("nothing says %q", want)
		}
	}
}

func TestCertificates(t *testing.T) {
	place, chosen := testNode(t)
	server := readCertificate(t, place.in("pki", "api-server.crt"))
	for _, host := range []string{chosen.Address, chosen.APIServer, "kubernetes.default.svc"} {
		options := x509.VerifyOptions{Roots: pool(t, place.in("pki", "ca.crt")), DNSName: host}
		if _, err := server.Verify(options); err != nil {
			t.Errorf("the API server as %s: %v", host, err)
		}
	}
	clients := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	admin := readCertificate(t, place.in("pki", "admin.crt"))
	if _, err := admin.Verify(x509.VerifyOptions{Roots: pool(t, place.in("pki", "ca.crt")), KeyUsages: clients}); err != nil {
		t.Errorf("the administrator at the API server: %v", err)
	}
	if _, err := admin.Verify(x509.VerifyOptions{Roots: pool(t, place.in("pki", "etcd-ca.crt")), KeyUsages: clients}); err == nil {
		t.Error("etcd would let in whoever may speak to the API server")
	}
}

func readCertificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func pool(t *testing.T, path string) *x509.CertPool {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(readCertificate(t, path))
	return roots
}

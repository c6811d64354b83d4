package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// component is one program of the node.
type component struct {
	name     string
	program  string
	args     []string
	address  string // where it listens
	version  []string
	patience time.Duration // that it gets to stop
	ready    func(context.Context) error
}

// startOrder is also the order of `status`. Workloads end before the kubelet, and the API server before etcd: one
// without etcd hangs on to its port for long.
var (
	startOrder = []string{
		"containerd", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns", "kube-proxy", "kubelet", "provisioner",
	}
	stopOrder = []string{
		"kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager", "provisioner", "kube-apiserver", "etcd", "coredns", "containerd",
	}
)

// programs maps the name of each program to its path.
type programs map[string]string

// findPrograms asks hack/tool for the programs, which builds those that are not in its cache.
func findPrograms(ctx context.Context, place layout) (programs, error) {
	names := []string{
		"etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet",
		"containerd", "containerd-shim-runc-v2", "ctr", "coredns", "image",
	}
	tool := exec.CommandContext(ctx, filepath.Join(place.root, "hack", "tool"), names...)
	tool.Stderr = os.Stderr
	output, err := tool.Output()
	if err != nil {
		return nil, fmt.Errorf("build the node's programs: %w", err)
	}
	paths := strings.Fields(string(output))
	if len(paths) != len(names) {
		return nil, fmt.Errorf("hack/tool printed %d paths for %d programs", len(paths), len(names))
	}
	found := programs{"provisioner": place.in("bin", "provisioner")}
	for index, name := range names {
		found[name] = paths[index]
	}
	return found, nil
}

// buildOwn builds the two programs of this repository that the node runs. A running one keeps its file.
func buildOwn(ctx context.Context, place layout) error {
	for _, name := range []string{"pause", "provisioner"} {
		target := place.in("bin", name)
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", target+".new", "./hack/cluster/"+name)
		build.Dir = place.root
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
		if err := os.Rename(target+".new", target); err != nil {
			return err
		}
	}
	return nil
}

// environment is what components see of ours: no proxies, which are for the world outside. The shim must be first.
func environment(found programs) []string {
	folders := []string{filepath.Dir(found["containerd-shim-runc-v2"]), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	return []string{"PATH=" + strings.Join(folders, ":"), "HOME=/root", "TMPDIR=" + os.TempDir()}
}

// components describes all parts of the node by name.
func components(place layout, chosen *settings, found programs) map[string]component {
	config := func(name string) string { return place.in("config", name) }
	user := func(name string) string { return "--kubeconfig=" + place.in("kubeconfigs", name) }
	loopback := func(port string) string { return fmt.Sprintf("127.0.0.1:%d", chosen.Ports[port]) }
	onBridge := func(port string) string { return fmt.Sprintf("%s:%d", chosen.Address, chosen.Ports[port]) }
	list := []component{
		{
			name: "containerd", args: []string{"--config", config("containerd.toml")}, address: "unix://" + place.socket(),
			version: []string{"--version"}, ready: answersUnix(place.socket()),
		},
		{
			name: "etcd", args: etcdArgs(place, chosen), address: loopback("etcd"),
			version: []string{"--version"}, ready: answersTLS(place, "etcd-ca", "etcd-client", "https://"+loopback("etcd")+"/health"),
		},
		{
			name: "kube-apiserver", args: apiServerArgs(place, chosen), address: onBridge("api"), patience: 70 * time.Second,
			version: []string{"--version"}, ready: answersTLS(place, "ca", "admin", "https://"+onBridge("api")+"/readyz"),
		},
		{
			name: "kube-controller-manager", args: append(controlArgs(place, chosen, "kube-controller-manager", "controller-manager"),
				"--use-service-account-credentials=true",
				"--service-account-private-key-file="+place.in("pki", "service-accounts.key"),
				"--root-ca-file="+place.in("pki", "ca.crt"),
				"--cluster-signing-cert-file="+place.in("pki", "ca.crt"),
				"--cluster-signing-key-file="+place.in("pki", "ca.key"),
				// With the API server stopped for a while, the only node is not given up for dead.
				"--node-monitor-grace-period=10m"),
			address: loopback("controller-manager"), version: []string{"--version"},
			ready: answersTLS(place, "ca", "admin", "https://"+loopback("controller-manager")+"/healthz"),
		},
		{
			name: "kube-scheduler", args: controlArgs(place, chosen, "kube-scheduler", "scheduler"), address: loopback("scheduler"),
			version: []string{"--version"}, ready: answersTLS(place, "ca", "admin", "https://"+loopback("scheduler")+"/healthz"),
		},
		{
			name: "coredns", args: []string{"-conf", config("Corefile")}, address: onBridge("dns"),
			version: []string{"-version"}, ready: answers("http://" + loopback("dns-ready") + "/ready"),
		},
		{
			name: "kube-proxy", args: []string{"--config=" + config("kube-proxy.yaml")}, address: loopback("proxy-health"),
			version: []string{"--version"}, ready: answers("http://" + loopback("proxy-health") + "/healthz"),
		},
		{
			name: "kubelet", args: []string{
				"--config=" + config("kubelet.yaml"), user("kubelet"), "--hostname-override=" + nodeName,
				"--node-ip=" + chosen.Address, "--root-dir=" + place.kubelet(), "--cert-dir=" + place.in("kubelet-pki"),
			},
			address: onBridge("kubelet"), version: []string{"--version"}, ready: answers("http://" + loopback("kubelet-health") + "/healthz"),
		},
		{
			name: "provisioner", args: []string{user("provisioner"), "--folder=" + place.volumes(), "--node=" + nodeName},
			address: "none", ready: func(context.Context) error { return nil },
		},
	}
	named := map[string]component{}
	for _, part := range list {
		part.program = found[part.name]
		if part.patience == 0 {
			part.patience = 20 * time.Second
		}
		named[part.name] = part
	}
	return named
}

func etcdArgs(place layout, chosen *settings) []string {
	client := fmt.Sprintf("https://127.0.0.1:%d", chosen.Ports["etcd"])
	peer := fmt.Sprintf("https://127.0.0.1:%d", chosen.Ports["etcd-peer"])
	pki := func(name string) string { return place.in("pki", name) }
	return []string{
		"--name=node", "--data-dir=" + place.in("etcd"), "--log-level=warn",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=node=" + peer,
		"--client-cert-auth=true", "--trusted-ca-file=" + pki("etcd-ca.crt"),
		"--cert-file=" + pki("etcd.crt"), "--key-file=" + pki("etcd.key"),
		"--peer-client-cert-auth=true", "--peer-trusted-ca-file=" + pki("etcd-ca.crt"),
		"--peer-cert-file=" + pki("etcd.crt"), "--peer-key-file=" + pki("etcd.key"),
		// A node of tests may lose its state when the power fails, and is several times faster on a busy disk.
		"--unsafe-no-fsync=true",
	}
}

func apiServerArgs(place layout, chosen *settings) []string {
	pki := func(name string) string { return place.in("pki", name) }
	return []string{
		"--bind-address=" + chosen.Address, "--advertise-address=" + chosen.Address,
		fmt.Sprintf("--secure-port=%d", chosen.Ports["api"]),
		"--tls-cert-file=" + pki("api-server.crt"), "--tls-private-key-file=" + pki("api-server.key"),
		"--client-ca-file=" + pki("ca.crt"),
		fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", chosen.Ports["etcd"]),
		"--etcd-cafile=" + pki("etcd-ca.crt"), "--etcd-certfile=" + pki("etcd-client.crt"), "--etcd-keyfile=" + pki("etcd-client.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("api-server-kubelet-client.crt"),
		"--kubelet-client-key=" + pki("api-server-kubelet-client.key"),
		// The node's name is in no DNS, so kubectl logs and exec go by its address.
		"--kubelet-preferred-address-types=InternalIP",
		"--service-cluster-ip-range=" + chosen.Services,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("service-accounts.key"),
		"--service-account-signing-key-file=" + pki("service-accounts.key"),
		"--audit-policy-file=" + place.in("config", "audit-policy.yaml"),
		"--audit-log-path=" + place.in("audit.log"),
		"--audit-log-maxsize=100", "--audit-log-maxbackup=1",
		// Watches would keep a stopping server for a minute.
		"--shutdown-watch-termination-grace-period=2s",
		"--profiling=false",
	}
}

// controlArgs are what controller manager and scheduler share.
func controlArgs(place layout, chosen *settings, name, port string) []string {
	return []string{
		"--kubeconfig=" + place.in("kubeconfigs", name),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", chosen.Ports[port]),
		"--tls-cert-file=" + place.in("pki", name+"-server.crt"), "--tls-private-key-file=" + place.in("pki", name+"-server.key"),
		"--leader-elect=false", "--profiling=false",
	}
}

// start launches a component that does not run, and waits until it serves.
func (c component) start(ctx context.Context, place layout, found programs) error {
	if err := c.launch(place, found); err != nil {
		return err
	}
	return c.await(ctx, place)
}

// launch starts the process unless it runs.
func (c component) launch(place layout, found programs) error {
	if _, ok := place.records().running(c.name); ok {
		return nil
	}
	progress("starting %s", c.name)
	return place.records().launch(c.name, c.program, c.args, environment(found), place.log(c.name))
}

// await waits until the component serves. One that ended meanwhile is not waited for.
func (c component) await(ctx context.Context, place layout) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := poll(ctx, 2*time.Minute, func(ctx context.Context) error {
		if _, ok := place.records().running(c.name); !ok {
			ended := errors.New("it ended")
			cancel(ended)
			return ended
		}
		return c.ready(ctx)
	})
	if err != nil {
		return fmt.Errorf("%s does not serve: %w\n--- the end of %s:\n%s", c.name, err, place.log(c.name), tail(place.log(c.name), 25))
	}
	return nil
}

var versionPattern = regexp.MustCompile(`\d+\.\d+\.\d+`)

// versionOf asks the program itself.
func (c component) versionOf(ctx context.Context) string {
	if c.version == nil {
		return "of this work tree"
	}
	output, err := exec.CommandContext(ctx, c.program, c.version...).Output()
	if err != nil {
		return "unknown"
	}
	return "v" + versionPattern.FindString(string(output))
}

func answersUnix(socket string) func(context.Context) error {
	return func(ctx context.Context) error {
		connection, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return err
		}
		return connection.Close()
	}
}

// answers asks a health page without encryption, on the loopback device.
func answers(url string) func(context.Context) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) error { return fetch(ctx, client, url) }
}

func answersTLS(place layout, authority, certificate, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		client, err := newHTTPClient(place.in("pki", authority+".crt"), place.in("pki", certificate))
		if err != nil {
			return err
		}
		defer client.CloseIdleConnections()
		return fetch(ctx, client, url)
	}
}

func fetch(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

package main

import (
	"bytes"
	"embed"
	"encoding/base64"
	"fmt"
	"os"
	"syscall"
	"text/template"
)

//go:embed config
var configurations embed.FS

// pauseImage holds a pod's network namespace open; built from ../pause.
const pauseImage = "localhost/chartroom-pause:v1"

// kubeconfigs names the users that get one, by the file of their certificate.
var kubeconfigs = []string{"kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns", "provisioner"}

// parameters are what the templates in config/ use.
type parameters struct {
	settings
	State, Run, Kubelet, Socket, Bridge, Node, Plugins, PauseImage, Snapshotter string
	Upstream                                                                    bool // the machine itself has a name server
	User, Authority, Certificate, Key                                           string
}

// writeConfiguration writes every component's configuration anew; only keys and addresses are kept from one start to
// the next.
func writeConfiguration(place layout, chosen *settings) error {
	resolver, _ := os.ReadFile("/etc/resolv.conf")
	values := parameters{
		settings: *chosen, State: place.state, Run: place.run, Kubelet: place.kubelet(), Socket: place.socket(), Bridge: bridgeName, Node: nodeName,
		Plugins: pluginFolder(), PauseImage: pauseImage, Snapshotter: snapshotter(place.state),
		Upstream: len(nameServers(string(resolver))) > 0,
	}
	for name, path := range map[string]string{
		"audit-policy.yaml": place.in("config", "audit-policy.yaml"),
		"kubelet.yaml":      place.in("config", "kubelet.yaml"),
		"kube-proxy.yaml":   place.in("config", "kube-proxy.yaml"),
		"cni.conflist":      place.in("config", "cni", "10-chartroom.conflist"),
		"containerd.toml":   place.in("config", "containerd.toml"),
		"Corefile":          place.in("config", "Corefile"),
		"manifests.yaml":    place.in("config", "manifests.yaml"),
		"resolv.conf":       place.in("resolv.conf"),
	} {
		if err := render(name, path, values); err != nil {
			return err
		}
	}
	// Helm and kubectl of any user read the resolver's configuration; it holds no secret.
	if err := os.Chmod(place.in("resolv.conf"), 0o644); err != nil {
		return err
	}
	for _, user := range kubeconfigs {
		if err := writeKubeconfig(place, values, user, place.in("kubeconfigs", user)); err != nil {
			return err
		}
	}
	return writeKubeconfig(place, values, "admin", place.kubeconfig())
}

func writeKubeconfig(place layout, values parameters, user, path string) error {
	values.User = user
	for file, value := range map[string]*string{"ca.crt": &values.Authority, user + ".crt": &values.Certificate, user + ".key": &values.Key} {
		content, err := os.ReadFile(place.in("pki", file))
		if err != nil {
			return err
		}
		*value = base64.StdEncoding.EncodeToString(content)
	}
	return render("kubeconfig.yaml", path, values)
}

func render(name, path string, values parameters) error {
	text, err := configurations.ReadFile("config/" + name)
	if err != nil {
		return err
	}
	parsed, err := template.New(name).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return err
	}
	var content bytes.Buffer
	if err := parsed.Execute(&content, values); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, content.Bytes())
}

// snapshotter is how containerd keeps images: an overlay on an overlay does not work.
func snapshotter(folder string) string {
	const overlay = 0x794c7630
	var system syscall.Statfs_t
	if syscall.Statfs(folder, &system) == nil && system.Type == overlay {
		return "native"
	}
	return "overlayfs"
}

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// pluginFolders are where distributions put the network plugins.
var pluginFolders = []string{"/usr/lib/cni", "/opt/cni/bin"}

func checkRoot() error {
	if os.Geteuid() != 0 {
		return impossibleError("a Kubernetes node needs root; run this as root, start Docker, or name a cluster in CHARTROOM_KUBECONFIG")
	}
	return nil
}

// checkMachine says at once what cannot work here.
func checkMachine() error {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return impossibleError("a Kubernetes node needs Linux with /proc mounted: " + err.Error())
	}
	memory := false
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		memory = memory || fields[2] == "cgroup2" && fields[1] == "/sys/fs/cgroup" ||
			fields[2] == "cgroup" && strings.Contains(","+fields[3]+",", ",memory,")
	}
	if !memory {
		return impossibleError("no control group hierarchy with the memory controller is mounted below /sys/fs/cgroup, and a kubelet needs one")
	}
	return nil
}

// checkNoOtherKubelet refuses to share the machine: two kubelets would remove each other's pods.
func checkNoOtherKubelet() error {
	for _, root := range podCgroups() {
		busy := false
		_ = filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				processes, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
				busy = busy || len(processes) > 0
			}
			return nil
		})
		if busy {
			return impossibleError("pods of another kubelet run on this machine (" + root + "); name its cluster in CHARTROOM_KUBECONFIG")
		}
	}
	return nil
}

// podCgroups are the control groups that a kubelet puts pods into, one per hierarchy.
func podCgroups() []string {
	var roots []string
	for _, pattern := range []string{"/sys/fs/cgroup/kubepods", "/sys/fs/cgroup/*/kubepods"} {
		found, _ := filepath.Glob(pattern)
		roots = append(roots, found...)
	}
	return roots
}

// pluginFolder is where the bridge plugin is; empty when it is not installed.
func pluginFolder() string {
	for _, folder := range pluginFolders {
		if _, err := os.Stat(filepath.Join(folder, "bridge")); err == nil {
			return folder
		}
	}
	return ""
}

// missingPackages are the Debian packages whose programs are not here.
func missingPackages() []string {
	var missing []string
	for _, need := range []struct{ program, debian string }{
		{"runc", "runc"}, {"ip", "iproute2"}, {"iptables", "iptables"}, {"nft", "nftables"}, {"conntrack", "conntrack"},
	} {
		if _, err := exec.LookPath(need.program); err != nil {
			missing = append(missing, need.debian)
		}
	}
	if pluginFolder() == "" {
		missing = append(missing, "containernetworking-plugins")
	}
	return missing
}

// installPackages gets what is missing with apt-get, and touches nothing when nothing is.
func installPackages(ctx context.Context) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return impossibleError("these are not installed and there is no apt-get to install them: " + strings.Join(missing, " "))
	}
	progress("installing %s", strings.Join(missing, " "))
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"update", "-qq"},
		append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...),
	} {
		command := exec.CommandContext(ctx, "apt-get", args...)
		command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		command.Stdout, command.Stderr = os.Stderr, os.Stderr
		if err := command.Run(); err != nil {
			return impossibleError(fmt.Sprintf("apt-get %s failed (%v), so %s cannot be installed", args[0], err, strings.Join(missing, " ")))
		}
	}
	if still := missingPackages(); len(still) > 0 {
		return impossibleError("these were installed and their programs are still not found: " + strings.Join(still, " "))
	}
	return nil
}

// checkPrivileges finds out whether root here may do what a node does.
func checkPrivileges(ctx context.Context) error {
	if output, err := exec.CommandContext(ctx, "nft", "list", "tables").CombinedOutput(); err != nil {
		return impossibleError("nft does not work here: " + firstLine(output, err))
	}
	if output, err := exec.CommandContext(ctx, "unshare", "--mount", "--net", "true").CombinedOutput(); err != nil {
		return impossibleError("namespaces cannot be made here: " + firstLine(output, err))
	}
	return nil
}

func firstLine(output []byte, err error) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(output)), "\n")
	if line == "" {
		return err.Error()
	}
	return line
}

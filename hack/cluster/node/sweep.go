package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sweep removes all that the node of this layout has on the machine, whatever state it is in: processes, containers,
// mounts, network, control groups, and the folder below /run. The work tree's own state stays.
func sweep(ctx context.Context, place layout) error {
	for _, name := range stopOrder {
		if err := place.records().end(ctx, name, 20*time.Second); err != nil {
			return err
		}
	}
	if err := endContainers(ctx, place); err != nil {
		return err
	}
	var failures []error
	failures = append(failures, unmountBelow(place.kubelet()), unmountBelow(place.state), unmountBelow(place.run))
	failures = append(failures, removeNetwork(ctx))
	removeCgroups()
	removeTraces(place)
	failures = append(failures, restoreMachine(place))
	if err := errors.Join(failures...); err != nil {
		return err
	}
	return errors.Join(removeTree(place.kubelet()), removeTree(place.run))
}

// endContainers kills shims and what runs in containers. Both are found by containerd's own folders: a shim works in
// the folder of its sandbox, and a container's control group has the container's name.
func endContainers(ctx context.Context, place layout) error {
	containers := map[string]bool{}
	bundles, _ := filepath.Glob(filepath.Join(place.containerd(), "io.containerd.runtime.v2.task", "*", "*"))
	for _, bundle := range bundles {
		containers[filepath.Base(bundle)] = true
	}
	return poll(ctx, 20*time.Second, func(context.Context) error {
		left := processesIn(containers)
		left = append(left, processesWorkingBelow(place.containerd())...)
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(left) > 0 {
			return fmt.Errorf("processes of containers still run: %v", left)
		}
		return nil
	})
}

// processesIn lists the processes in the control groups of these containers.
func processesIn(containers map[string]bool) []int {
	var found []int
	for _, root := range podCgroups() {
		_ = filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() && containers[entry.Name()] {
				found = append(found, members(path)...)
			}
			return nil
		})
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// members lists the living processes of one control group.
func members(group string) []int {
	var found []int
	data, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	for _, field := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(field)
		if _, ok := processStart(pid); err == nil && ok && pid > 1 {
			found = append(found, pid)
		}
	}
	return found
}

// processesWorkingBelow lists the processes whose working folder is below this one.
func processesWorkingBelow(folder string) []int {
	var found []int
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(target, folder+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if _, ok := processStart(pid); err == nil && ok && pid > 1 {
			found = append(found, pid)
		}
	}
	return found
}

// mountsBelow lists the mount points at or below a folder, the last mounted first.
func mountsBelow(table, folder string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var points []string
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if point := unescape.Replace(fields[1]); point == folder || strings.HasPrefix(point, folder+"/") {
			points = append(points, point)
		}
	}
	slices.Reverse(points)
	return points
}

func unmountBelow(folder string) error {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var failures []error
	for _, point := range mountsBelow(string(table), folder) {
		if syscall.Unmount(point, 0) == nil {
			continue
		}
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			failures = append(failures, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(failures...)
}

// removeTree deletes a folder, but never what is mounted below it: that may be anybody's.
func removeTree(folder string) error {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	if left := mountsBelow(string(table), folder); len(left) > 0 {
		return fmt.Errorf("%s stays, because this is still mounted below it: %s", folder, strings.Join(left, " "))
	}
	return os.RemoveAll(folder)
}

// removeCgroups removes the pods' control groups. The kernel refuses to remove one that has processes.
func removeCgroups() {
	for _, root := range podCgroups() {
		var groups []string
		_ = filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		slices.Reverse(groups)
		for _, group := range groups {
			_ = syscall.Rmdir(group)
		}
	}
}

// removeTraces removes the few files that kubelet and network plugins put into folders of the system, and those of the
// folders that nobody else uses. What is not there is no failure.
func removeTraces(place layout) {
	results, _ := filepath.Glob("/var/lib/cni/results/chartroom-*")
	for _, result := range results {
		_ = os.Remove(result)
	}
	links, _ := filepath.Glob("/var/log/containers/*.log")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, place.state+"/") {
			_ = os.Remove(link)
		}
	}
	// The kubelet makes this socket there whatever its own folder is.
	_ = os.Remove("/var/lib/kubelet/device-plugins/kubelet.sock")
	for _, folder := range []string{
		"/var/lib/cni/results", "/var/lib/cni", "/var/log/containers", "/var/lib/kubelet/device-plugins", "/var/lib/kubelet",
	} {
		_ = syscall.Rmdir(folder)
	}
}

// restoreMachine puts back what recordMachine wrote down.
func restoreMachine(place layout) error {
	data, err := os.ReadFile(filepath.Join(place.run, "machine.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var before machineRecord
	if err := json.Unmarshal(data, &before); err != nil {
		return fmt.Errorf("read how the machine was: %w", err)
	}
	var failures []error
	for key, value := range before.Sysctls {
		failures = append(failures, os.WriteFile("/proc/sys/"+key, []byte(value), 0o600))
	}
	return errors.Join(failures...)
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// natTable holds our one rule; kube-proxy has a table of its own.
const natTable = "chartroom"

// touched are the kernel settings that we or the kubelet change, and that `down` puts back.
var touched = []string{
	"net/ipv4/ip_forward", "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// machineRecord is how the machine was before the node came.
type machineRecord struct {
	Sysctls map[string]string `json:"sysctls"`
}

// recordMachine writes down once what `down` has to restore.
func recordMachine(place layout) error {
	path := filepath.Join(place.run, "machine.json")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	before := machineRecord{Sysctls: map[string]string{}}
	for _, key := range touched {
		if value, err := os.ReadFile("/proc/sys/" + key); err == nil {
			before.Sysctls[key] = strings.TrimSpace(string(value))
		}
	}
	data, err := json.Marshal(before)
	if err != nil {
		return err
	}
	return writeFile(path, data)
}

// makeNetwork makes the bridge with the node's address, the way to the Services' addresses, and the rule by which pods
// reach the world outside. All of it may be there already.
func makeNetwork(ctx context.Context, chosen *settings) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600); err != nil {
		return fmt.Errorf("let the kernel forward packets: %w", err)
	}
	if _, err := os.Stat("/sys/class/net/" + bridgeName); err != nil {
		if err := command(ctx, "ip", "link", "add", bridgeName, "type", "bridge"); err != nil {
			return err
		}
	}
	bits := chosen.Pods[strings.IndexByte(chosen.Pods, '/'):]
	for _, args := range [][]string{
		{"addr", "replace", chosen.Address + bits, "dev", bridgeName},
		{"link", "set", bridgeName, "up"},
		// kube-proxy rewrites the packets to Services before they leave. Without this route they would start with the
		// address of another device, and could not start at all on a machine without a default route.
		{"route", "replace", chosen.Services, "dev", bridgeName, "src", chosen.Address},
	} {
		if err := command(ctx, "ip", args...); err != nil {
			return err
		}
	}
	rules := fmt.Sprintf(`add table ip %[1]s
flush table ip %[1]s
table ip %[1]s {
  chain postrouting {
    type nat hook postrouting priority srcnat
    ip saddr %[2]s oifname != %[3]q masquerade
  }
}
`, natTable, chosen.Pods, bridgeName)
	nft := exec.CommandContext(ctx, "nft", "-f", "-")
	nft.Stdin = strings.NewReader(rules)
	if output, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %s: %w", bytes.TrimSpace(output), err)
	}
	return nil
}

// removeNetwork removes the bridge with all that hangs on it, and the tables of kube-proxy and of our own.
func removeNetwork(ctx context.Context) error {
	var failures []error
	ends, _ := filepath.Glob("/sys/class/net/" + bridgeName + "/brif/*")
	for _, end := range ends {
		failures = append(failures, command(ctx, "ip", "link", "delete", filepath.Base(end)))
	}
	if _, err := os.Stat("/sys/class/net/" + bridgeName); err == nil {
		failures = append(failures, command(ctx, "ip", "link", "delete", bridgeName))
	}
	tables, err := exec.CommandContext(ctx, "nft", "list", "tables").Output()
	if err != nil {
		return errors.Join(append(failures, fmt.Errorf("list the nft tables: %w", err))...)
	}
	for line := range strings.Lines(string(tables)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && (fields[2] == "kube-proxy" || fields[2] == natTable) {
			failures = append(failures, command(ctx, "nft", "delete", "table", fields[1], fields[2]))
		}
	}
	return errors.Join(failures...)
}

// command runs a short program and gives what it said when it failed.
func command(ctx context.Context, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %s: %w", program, strings.Join(args, " "), bytes.TrimSpace(output), err)
	}
	return nil
}

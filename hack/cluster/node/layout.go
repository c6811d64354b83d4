package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// layout says where everything is. What must outlive a kill of the whole node is in the work tree; what describes
// running processes is below /run, where it survives the work tree's deletion and ends with the machine. Both that and
// the kubelet's folder hold sockets, whose paths the kernel bounds: the work tree's may be of any length.
type layout struct {
	root  string // the work tree
	state string // configuration, keys, logs, etcd's data, images, volumes
	run   string // process records, sockets, containerd's state; one node per machine
}

func layoutOf(root string) layout {
	return layout{root: root, state: filepath.Join(root, ".cluster"), run: "/run/chartroom-node"}
}

func (l layout) lockFile() string   { return l.run + ".lock" }
func (l layout) ownerFile() string  { return filepath.Join(l.run, "owner") }
func (l layout) kubeconfig() string { return l.in("kubeconfig") }
func (l layout) socket() string     { return filepath.Join(l.run, "containerd.sock") }
func (l layout) containerd() string { return filepath.Join(l.run, "containerd") }
func (l layout) kubelet() string    { return "/var/lib/chartroom-node" }
func (l layout) volumes() string    { return l.in("volumes") }
func (l layout) log(component string) string {
	return l.in("logs", component+".log")
}

// in is a path below the state folder.
func (l layout) in(elements ...string) string {
	return filepath.Join(append([]string{l.state}, elements...)...)
}

// owner is the work tree whose node is recorded on this machine; empty when there is none.
func (l layout) owner() (string, error) {
	data, err := os.ReadFile(l.ownerFile())
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(data)), err
}

// lock waits until no other command works on this machine's node.
func lock(ctx context.Context, path string) (func(), error) {
	var file *os.File
	waiting := false
	err := poll(ctx, 15*time.Minute, func(context.Context) error {
		var err error
		file, err = tryLock(path)
		if err != nil && !waiting {
			waiting = true
			progress("waiting for another command that works on the node")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}

// tryLock takes the lock unless another holds it. `down` removes the file, so it is looked at once more afterwards.
func tryLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, err
	}
	locked, err1 := file.Stat()
	named, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(locked, named) {
		file.Close()
		return nil, errors.New("the lock was removed meanwhile")
	}
	return file, nil
}

// poll calls check until it returns nil, and gives its last error when the time is over.
func poll(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// writeFile writes a file that only root reads, with its folder.
func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	unfinished := path + ".unfinished"
	if err := os.WriteFile(unfinished, content, 0o600); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}

func (l layout) records() records { return records{filepath.Join(l.run, "pids")} }

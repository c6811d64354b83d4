package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Full or read-only storage refuses pushes with words, and everything else goes on.
func TestStorageThatIsFullOrReadOnly(t *testing.T) {
	folder := t.TempDir()
	data := filepath.Join(folder, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=2m"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mount a small file system: %v", err)
		}
		t.Skipf("NOT RUN: mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(data, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	p := serveDir(t, folder)
	if err := p.push("web", "1.0.0", 1000); err != nil {
		t.Fatal(err)
	}
	refusedWith := func(p *process, status int, version, words string) {
		t.Helper()
		err := p.push("web", version, 4<<20)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("status %d:", status)) || !strings.Contains(err.Error(), words) {
			t.Errorf("the push is answered %v, want %d with %q", err, status, words)
		}
		if strings.Contains(fmt.Sprint(err), data) {
			t.Errorf("the answer names a path of the server: %v", err)
		}
		p.verifyWhole("web", "1.0.0")
	}
	refusedWith(p, http.StatusInsufficientStorage, "2.0.0", "storage is full")
	if err := p.push("web", "3.0.0", 1000); err != nil {
		t.Errorf("after a push that was too large, a small one fails: %v", err)
	}
	if err := syscall.Mount("", data, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	refusedWith(p, http.StatusServiceUnavailable, "4.0.0", "cannot be written to")
	_ = p.end(syscall.SIGKILL)
	refusedWith(serveDir(t, folder), http.StatusServiceUnavailable, "5.0.0", "cannot be written to")
}

package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"golang.org/x/sys/unix"
)

// mount makes a file system of the size, in memory. Where that needs more rights than the test has, it is not run,
// which fails a CI run.
func mount(t *testing.T, options string) string {
	t.Helper()
	root := t.TempDir()
	if err := unix.Mount("chartroom-test", root, "tmpfs", 0, options); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mount a small file system: %v", err)
		}
		t.Skipf("NOT RUN: mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return root
}

// asUser calls f with the rights of a user who is not root.
func asUser(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	const nobody = 65534
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := unix.SetfsuidRetUid(nobody); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.SetfsuidRetUid(0) }()
	f()
}

func TestFullDisk(t *testing.T) {
	root := mount(t, "size=512k")
	b := open(t, root)
	if err := put(t, b, "a/kept", strings.Repeat("k", 10_000)); err != nil {
		t.Fatal(err)
	}
	want(t, put(t, b, "a/large", strings.Repeat("x", 1<<20)), bucket.ErrFull)
	leftovers, err := filepath.Glob(filepath.Join(root, ".tmp", "*"))
	if err != nil || len(leftovers) != 0 {
		t.Fatalf("a put that failed left %v, %v", leftovers, err)
	}

	var filled []string
	for err = nil; err == nil; {
		key := "fill/" + time.Now().Format("150405.000000000")
		if err = put(t, b, key, strings.Repeat("f", 8000)); err == nil {
			filled = append(filled, key)
		}
	}
	want(t, err, bucket.ErrFull)
	if strings.Contains(err.Error(), root) {
		t.Errorf("the error tells clients a path of the host: %v", err)
	}

	// A restart on the full disk succeeds, reading and deleting go on, and then writing does.
	b = open(t, root)
	if info, err := b.Head(t.Context(), "a/kept"); err != nil || info.Size != 10_000 {
		t.Fatalf("%+v, %v", info, err)
	}
	p, err := b.List(t.Context(), bucket.ListOptions{})
	if err != nil || len(p.Objects) != len(filled)+1 {
		t.Fatalf("%d objects are listed, %d were stored; %v", len(p.Objects), len(filled)+1, err)
	}
	for _, key := range filled[:2] {
		if err := b.Delete(t.Context(), key, bucket.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(t, b, "a/next", strings.Repeat("n", 8000)); err != nil {
		t.Fatal(err)
	}
}

func TestReadOnlyFileSystem(t *testing.T) {
	root := mount(t, "size=1m")
	b := open(t, root)
	if err := put(t, b, "a/k", "x"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, b := range []bucket.Bucket{b, open(t, root)} {
		want(t, put(t, b, "a/new", "x"), bucket.ErrReadOnly)
		want(t, b.Delete(t.Context(), "a/k", bucket.Condition{}), bucket.ErrReadOnly)
		if info, err := b.Head(t.Context(), "a/k"); err != nil || info.Size != 1 {
			t.Fatalf("%+v, %v", info, err)
		}
	}

	empty := mount(t, "ro")
	_, err := dir.New(empty)
	want(t, err, bucket.ErrReadOnly)
	_, err = dir.New(filepath.Join(empty, "missing"))
	want(t, err, bucket.ErrReadOnly)
}

func TestPermissions(t *testing.T) {
	root := filepath.Join(t.TempDir(), "data")
	b := open(t, root)
	if err := put(t, b, "a/k", "x"); err != nil {
		t.Fatal(err)
	}
	// Everything above must be open to the other user, whom the test's own folders keep out.
	for parent := filepath.Dir(root); parent != os.TempDir() && parent != "/"; parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := os.Chmod(root, 0o700); err != nil {
			t.Fatal(err)
		}
		chmod(t, root, 0o700)
	})

	chmod(t, root, 0o555)
	asUser(t, func() {
		b, err := dir.New(root)
		if err != nil {
			t.Error(err)
			return
		}
		if err := put(t, b, "a/new", "x"); !errors.Is(err, bucket.ErrReadOnly) {
			t.Errorf("put: %v", err)
		}
		if err := b.Delete(t.Context(), "a/k", bucket.Condition{}); !errors.Is(err, bucket.ErrReadOnly) {
			t.Errorf("delete: %v", err)
		}
		if _, err := b.Head(t.Context(), "a/k"); err != nil {
			t.Errorf("head: %v", err)
		}
		if _, err := dir.New(filepath.Join(root, "new")); !errors.Is(err, bucket.ErrReadOnly) {
			t.Errorf("open a directory that cannot be made: %v", err)
		}
	})
	if err := os.Chmod(root, 0); err != nil {
		t.Fatal(err)
	}
	asUser(t, func() {
		_, err := dir.New(root)
		if err == nil || !strings.Contains(err.Error(), root) || !strings.Contains(err.Error(), "must be allowed to read, write and search") {
			t.Errorf("open a directory that cannot be read: %v", err)
		}
	})
}

// chmod gives a mode to all directories below root; files may always be read.
func chmod(t *testing.T, root string, mode os.FileMode) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(name, mode)
		}
		return os.Chmod(name, 0o444)
	})
	if err != nil {
		t.Fatal(err)
	}
}

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

func put(t *testing.T, b bucket.Bucket, key, content string) error {
	t.Helper()
	_, err := b.Put(t.Context(), key, strings.NewReader(content), int64(len(content)), bucket.Condition{Absent: true})
	return err
}

func want(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

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

func TestRootThatIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{file, filepath.Join(file, "below")} {
		_, err := dir.New(root)
		want(t, err, bucket.ErrUnavailable)
		if !strings.Contains(err.Error(), "not a directory") || !strings.Contains(err.Error(), root) {
			t.Errorf("the error does not help: %v", err)
		}
	}
}

func TestRootIsMade(t *testing.T) {
	root := filepath.Join(t.TempDir(), "several", "levels")
	if err := put(t, open(t, root), "k", "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, root).Head(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
}

func TestLeftoversOfKilledProcesses(t *testing.T) {
	root := t.TempDir()
	b := open(t, root)
	if err := put(t, b, "k", "x"); err != nil {
		t.Fatal(err)
	}
	old, young := filepath.Join(root, ".tmp", "OLD"), filepath.Join(root, ".tmp", "YOUNG")
	for _, name := range []string{old, young} {
		if err := os.WriteFile(name, []byte("half an obj"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yesterday := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(old, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	b = open(t, root)
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old temporary file is still there: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("a temporary file that a living process may be writing is gone: %v", err)
	}
	p, err := b.List(t.Context(), bucket.ListOptions{})
	if err != nil || len(p.Objects) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

// A key cannot lead out of the directory, whatever somebody puts into it.
func TestSymbolicLinks(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	b := open(t, root)
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "objects", "d")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(root, "objects", "f")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"d/secret", "f"} {
		if body, _, err := b.Get(t.Context(), key, nil); err == nil {
			body.Close()
			t.Errorf("%s was read", key)
		}
		if info, err := b.Head(t.Context(), key); err == nil {
			t.Errorf("%s is seen: %+v", key, info)
		}
	}
	if err := put(t, b, "d/new", "x"); err == nil {
		t.Error("a put left the directory")
	}
	if err := b.Delete(t.Context(), "d/secret", bucket.Condition{}); err == nil {
		t.Error("a delete left the directory")
	}
	if p, err := b.List(t.Context(), bucket.ListOptions{}); err != nil || len(p.Objects) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("the other directory has %v, %v", entries, err)
	}
}

// The package bucket promises that "a" and "a/b" are never both there.
func TestKeysThatArePrefixes(t *testing.T) {
	b := open(t, t.TempDir())
	if err := put(t, b, "a/b", "x"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "a/b/c"} {
		for _, c := range []bucket.Condition{{}, {Absent: true}} {
			_, err := b.Put(t.Context(), key, strings.NewReader("x"), 1, c)
			want(t, err, bucket.ErrKey)
		}
	}
	if p, err := b.List(t.Context(), bucket.ListOptions{}); err != nil || len(p.Objects) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

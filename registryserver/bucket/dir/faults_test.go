package dir_test

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
)

func put(tb testing.TB, b bucket.Bucket, key, content string) error {
	tb.Helper()
	_, err := b.Put(tb.Context(), key, strings.NewReader(content), int64(len(content)), bucket.Condition{Absent: true})
	return err
}

func want(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
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

// A key cannot lead out of the directory, or to anything but a file, whatever somebody puts into it.
func TestWhatIsNoFile(t *testing.T) {
	t.Run("as usual", func(t *testing.T) {
		root := t.TempDir()
		whatIsNoFile(t, root, open(t, root))
	})
	t.Run("without special calls", func(t *testing.T) {
		root := t.TempDir()
		b := open(t, root)
		b.Plain()
		whatIsNoFile(t, root, b)
	})
}

func whatIsNoFile(t *testing.T, root string, b bucket.Bucket) {
	t.Helper()
	outside := t.TempDir()
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
	// Opening a named pipe must not wait for a writer.
	if err := syscall.Mkfifo(filepath.Join(root, "objects", "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"d/secret", "f", "pipe"} {
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
	if err := b.Delete(t.Context(), "d/secret", bucket.Condition{}); err != nil {
		t.Errorf("delete what is no object: %v", err)
	}
	if _, err := b.Copy(t.Context(), "d/secret", "copied"); err == nil {
		t.Error("a copy left the directory")
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

// full is a System of a disk that has no room from some call on.
type full struct {
	dir.System
	// left are the calls that there is still room for; negative is for all.
	left int
}

func (f *full) take() error {
	switch f.left {
	case 0:
		return syscall.ENOSPC
	default:
		f.left--
		return nil
	}
}

func (f *full) Create(fd int, name string) (int, error) {
	if err := f.take(); err != nil {
		return -1, err
	}
	return f.System.Create(fd, name)
}

func (f *full) CreateUnnamed(fd int, name string) (int, error) {
	if err := f.take(); err != nil {
		return -1, err
	}
	return f.System.CreateUnnamed(fd, name)
}

// Write writes the half of what does not fit.
func (f *full) Write(fd int, p []byte) (int, error) {
	if f.take() != nil {
		if len(p) > 1 {
			return f.System.Write(fd, p[:len(p)/2])
		}
		return 0, syscall.ENOSPC
	}
	return f.System.Write(fd, p)
}

// Sync fails for content only: names need no room beyond what making them took.
func (f *full) Sync(fd int) error {
	var s syscall.Stat_t
	if err := syscall.Fstat(fd, &s); err != nil {
		return err
	}
	if s.Mode&syscall.S_IFMT == syscall.S_IFREG {
		if err := f.take(); err != nil {
			return err
		}
	}
	return f.System.Sync(fd)
}

func (f *full) Mkdir(fd int, name string) error {
	if err := f.take(); err != nil {
		return err
	}
	return f.System.Mkdir(fd, name)
}

func (f *full) Link(fd, fromDir int, from string, toDir int, to string) error {
	if err := f.take(); err != nil {
		return err
	}
	return f.System.Link(fd, fromDir, from, toDir, to)
}

func (f *full) Rename(fromDir int, from string, toDir int, to string) error {
	if err := f.take(); err != nil {
		return err
	}
	return f.System.Rename(fromDir, from, toDir, to)
}

// Whichever step of a put there is no room for, nothing is left of it, what was there stays, deleting works, and once
// there is room, so does writing.
func TestNoRoomForAnyStep(t *testing.T) {
	for name, plain := range map[string]bool{"unnamed files": false, "named files": true} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			disk := &full{System: dir.Kernel, left: -1}
			b, err := dir.NewOn(root, disk)
			if err != nil {
				t.Fatal(err)
			}
			if plain {
				b.Plain()
			}
			for step := 0; ; step++ {
				disk.left = -1
				old := filepath.Join("old", rand.Text())
				for _, key := range []string{old, old + "-goes"} {
					if err := put(t, b, key, "old"); err != nil {
						t.Fatal(err)
					}
				}
				before := tree(t, root)
				key := rand.Text() + "/a/b"
				disk.left = step
				err := put(t, b, key, "new")
				if err == nil {
					err = replace(t, b, old, "new")
				}
				if err == nil {
					_, err = b.Copy(t.Context(), key, old)
				}
				if err == nil {
					t.Logf("%d steps", step)
					if step < 8 {
						t.Error("that is fewer than there must be")
					}
					return
				}
				want(t, err, bucket.ErrFull)
				if after := tree(t, root); !slices.Equal(before, withoutKey(after, key)) {
					t.Fatalf("at step %d %q became %q", step, before, after)
				}
				disk.left = 0
				if err := b.Delete(t.Context(), old+"-goes", bucket.Condition{}); err != nil {
					t.Fatalf("a delete on a full disk: %v", err)
				}
				disk.left = -1
				if err := replace(t, b, key, "new"); err != nil {
					t.Fatalf("a put when there is room again: %v", err)
				}
				if err := b.Delete(t.Context(), key, bucket.Condition{}); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// tree lists the files below a directory.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(name, "/.locks/") {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// withoutKey leaves out the object that was complete before the step that failed.
func withoutKey(files []string, key string) []string {
	return slices.DeleteFunc(slices.Clone(files), func(name string) bool { return strings.HasSuffix(name, "/objects/"+key) })
}

package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
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

package dir_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// settle has the directory of a prefix look as if its last change were long ago: the clock, which cannot be set back,
// is waited for.
func settle(t *testing.T, b bucket.Versioner, prefix string) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		v, err := b.Version(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		if v != "" {
			return v
		}
	}
	t.Fatal("there is no version a minute after the last change")
	return ""
}

func TestVersion(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	b, other := open(t, root), open(t, root)
	if err := put(t, b, "tags/1.0.0", "x"); err != nil {
		t.Fatal(err)
	}
	first := settle(t, b, "tags/")
	if again := settle(t, other, "tags/"); again != first {
		t.Errorf("two processes see %q and %q", first, again)
	}
	// What is elsewhere, or further below, does not count.
	if err := put(t, b, "blobs/x", "x"); err != nil {
		t.Fatal(err)
	}
	if v := settle(t, b, "tags/"); v != first {
		t.Errorf("it was %q and is %q without a change", first, v)
	}
	for name, change := range map[string]func() error{
		"put":     func() error { return put(t, other, "tags/1.0.1", "x") },
		"replace": func() error { return replace(t, other, "tags/1.0.0", "y") },
		"delete":  func() error { return other.Delete(t.Context(), "tags/1.0.0", bucket.Condition{}) },
	} {
		if err := change(); err != nil {
			t.Fatal(name, err)
		}
		if v, err := b.Version(t.Context(), "tags/"); err != nil || v == first {
			t.Errorf("after %s by another process: %q, %v", name, v, err)
		}
	}
	second := settle(t, b, "tags/")
	if second == first {
		t.Errorf("after all changes the version is %q again", first)
	}
}

func replace(t *testing.T, b bucket.Bucket, key, content string) error {
	t.Helper()
	_, err := b.Put(t.Context(), key, strings.NewReader(content), int64(len(content)), bucket.Condition{})
	return err
}

// While a directory has changed so lately that the next change may bear the same stamp, or in the future, there is none.
func TestVersionOfWhatMayChangeUnseen(t *testing.T) {
	root := t.TempDir()
	b := open(t, root)
	for range 20 {
		started := time.Now()
		if err := replace(t, b, "tags/1.0.0", "x"); err != nil {
			t.Fatal(err)
		}
		if v, err := b.Version(t.Context(), "tags/"); err != nil || v != "" && time.Since(started) < time.Second {
			t.Fatalf("%q, %v right after a change", v, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "objects", "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	if v, err := b.Version(t.Context(), "empty/"); err != nil || v != "" {
		t.Errorf("an empty directory: %q, %v", v, err)
	}
}

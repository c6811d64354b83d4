package leaktest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLeftBehind(t *testing.T) {
	before := len(goroutines())
	stop := make(chan struct{})
	go func() { <-stop }()
	if got := goroutines(); len(got) != before+1 || !strings.Contains(strings.Join(got, ""), "TestLeftBehind") {
		t.Errorf("the goroutine is not among %q", got)
	}
	close(stop)
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := files(); !slices.Contains(got, path) {
		t.Errorf("the file is not among %q", got)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := files(); slices.Contains(got, path) {
		t.Errorf("the closed file is among %q", got)
	}
}

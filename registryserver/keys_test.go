package registryserver

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func keyLine(b byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, keyBytes)) + "\n"
}

func TestKeysAreMadeOnceAndPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "upload.keys")
	first, err := openKeys(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	second, err := openKeys(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Keys()[0], second.Keys()[0]) || bytes.Equal(first.Keys()[0], make([]byte, keyBytes)) {
		t.Error("the second start has another key, or the key is zero")
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestKeysAreReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	replace := func(content string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	replace(keyLine(1))
	var log bytes.Buffer
	keys, err := openKeys(path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	replace(keyLine(2) + keyLine(1))
	if got := keys.Keys(); len(got) != 2 || got[0][0] != 2 || got[1][0] != 1 {
		t.Errorf("after the change: %v", got)
	}
	replace("broken secret\n")
	for range 2 {
		if got := keys.Keys(); len(got) != 2 {
			t.Errorf("after a broken change: %v", got)
		}
	}
	if strings.Count(log.String(), "not taken") != 1 || strings.Contains(log.String(), "secret") {
		t.Errorf("the log has: %s", &log)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := keys.Keys(); len(got) != 2 {
		t.Errorf("after the file is gone: %v", got)
	}
	replace(keyLine(3))
	if got := keys.Keys(); len(got) != 1 || got[0][0] != 3 {
		t.Errorf("after the mended change: %v", got)
	}
}

func FuzzParseKeys(f *testing.F) {
	for _, seed := range []string{"", keyLine(1), keyLine(1) + keyLine(2), "\n\n", "AAAA", keyLine(1) + "x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeys(data)
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys and the error %v", len(keys), err)
		}
		for _, k := range keys {
			if len(k) != keyBytes {
				t.Errorf("a key has %d bytes", len(k))
			}
		}
	})
}

package bucket_test

import (
	"path"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

func FuzzCheckKey(f *testing.F) {
	for _, key := range []string{"a", "a/b.c", "charts/x+y/tags/1.0.0", "", "/", "a/", "..", "a/../b", "a//b", "%2e", "a\x00b", "é", strings.Repeat("k", 256), strings.Repeat("k/", 600)} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if bucket.CheckKey(key) != nil {
			return
		}
		// What is accepted stays where it is put, below any directory.
		if joined := path.Join("/root", key); joined != "/root/"+key || !path.IsAbs(joined) {
			t.Errorf("%q becomes %q", key, joined)
		}
		if len(key) == 0 || len(key) > 1024 || strings.ContainsAny(key, "\\\x00 ~:*?\"<>|") {
			t.Errorf("%q is accepted", key)
		}
	})
}

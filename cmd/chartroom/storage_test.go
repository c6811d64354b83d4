package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket/check"
	"github.com/chartroom-dev/chartroom/test/s3server"
)

func TestStorageCheck(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	code, out, stderr := chartroom(t, folder, "storage", "check", "--dir", "data")
	if code != 0 || stderr != "" || !strings.Contains(out, "conditional put      ok\n") || !strings.Contains(out, "presign              not applicable\n") {
		t.Errorf("a directory: exit code %d: %s%s", code, out, stderr)
	}

	server := s3server.Start(t)
	server.NewBucket(t, "charts")
	if err := os.Mkdir(filepath.Join(folder, "credentials"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, "credentials", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("accessKeyID", server.AccessKey)
	write("secretAccessKey", server.SecretKey)
	flags := []string{"storage", "check", "--s3-bucket", "charts", "--s3-prefix", "a/b", "--s3-endpoint", server.Endpoint, "--s3-path-style", "--s3-credentials", "credentials"}
	results := func(out string) map[string]check.Result {
		t.Helper()
		var said struct {
			Storage string
			Checks  []check.Result
		}
		if err := json.Unmarshal([]byte(out), &said); err != nil || said.Storage != "s3://charts/a/b" {
			t.Fatalf("%v: %s", err, out)
		}
		byName := map[string]check.Result{}
		for _, r := range said.Checks {
			byName[r.Name] = r
		}
		return byName
	}
	code, out, stderr = chartroom(t, folder, append(flags, "--output", "json")...)
	if got := results(out); code != 0 || stderr != "" || len(got) != 8 || got["presign"].Outcome != check.OK || got["tag"].Outcome != check.OK {
		t.Errorf("S3: exit code %d: %s%s", code, out, stderr)
	}
	if left, err := filepath.Glob(filepath.Join(server.Dir, "charts", "a", "b", "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	write("secretAccessKey", "hidden")
	code, out, stderr = chartroom(t, folder, append(flags, "--output", "json")...)
	if got := results(out); code != exitFailed || got["put"].Outcome != check.Failed || got["put"].Error == "" || got["put"].Hint == "" ||
		!strings.Contains(stderr, "8 checks of 8 failed in s3://charts/a/b") || strings.Contains(out+stderr, "hidden") {
		t.Errorf("wrong credentials: exit code %d: %s%s", code, out, stderr)
	}
	code, out, _ = chartroom(t, folder, flags...)
	if code != exitFailed || !strings.Contains(out, "does not accept the credentials") || !strings.Contains(out, "to do: ") {
		t.Errorf("wrong credentials: exit code %d: %s", code, out)
	}

	for name, args := range map[string][]string{
		"both":         append(flags, "--dir", "data"),
		"no bucket":    {"storage", "check", "--s3-endpoint", server.Endpoint},
		"another form": append(flags, "--output", "yaml"),
	} {
		if code, _, stderr := chartroom(t, folder, args...); code != exitUsage || stderr == "" {
			t.Errorf("%s: exit code %d: %s", name, code, stderr)
		}
	}
}

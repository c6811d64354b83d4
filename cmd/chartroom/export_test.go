package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExportAndImportBesideTheServer(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := serveDir(t, folder)
	for _, chart := range []string{"web", "shop"} {
		if err := p.push(chart, "1.0.0", 5000); err != nil {
			t.Fatal(err)
		}
	}
	if code, out, stderr := chartroom(t, folder, "export", "-o", "all.tar"); code != 0 || !strings.Contains(out, "2 exported") {
		t.Fatalf("export: exit code %d: %s%s", code, out, stderr)
	}
	code, archive, stderr := chartroom(t, folder, "export", "-o", "-")
	if whole, err := os.ReadFile(filepath.Join(folder, "all.tar")); err != nil || code != 0 || archive != string(whole) {
		t.Errorf("to standard output: exit code %d, %d bytes, %v: %s", code, len(archive), err, stderr)
	}
	if code, out, stderr := chartroom(t, folder, "import", "--dir", "new", "--dry-run", "all.tar"); code != 0 || !strings.Contains(out, "2 missing") {
		t.Errorf("dry run: exit code %d: %s%s", code, out, stderr)
	}
	if _, err := os.Stat(filepath.Join(folder, "new")); err == nil {
		t.Error("a dry run has made storage")
	}
	for _, want := range []string{"imported: web 1.0.0", "2 there already"} {
		if code, out, stderr := chartroom(t, folder, "import", "--dir", "new", "all.tar"); code != 0 || !strings.Contains(out, want) {
			t.Errorf("import: exit code %d: %s%s", code, out, stderr)
		}
	}
	if code, out, stderr := chartroom(t, folder, "import", "--dir", "some", "--output", "json", "all.tar", "web"); code != 0 || strings.Contains(out, "shop") || !strings.Contains(out, `"imported"`) {
		t.Errorf("import of one chart: exit code %d: %s%s", code, out, stderr)
	}
	left, err := filepath.Glob(filepath.Join(folder, ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestExportOfWhatIsNotThereLeavesNoFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	serveDir(t, folder)
	if code, _, stderr := chartroom(t, folder, "export", "-o", "out.tar", "nginx"); code != 1 || !strings.Contains(stderr, "no such chart") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if left, err := filepath.Glob(filepath.Join(folder, "*out.tar*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestImportOfWhatIsNotTypedRightly(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{}, {"--from", "ftp://a/b"}, {"--from", "https://user:secret@example.com/"}, {"--from", "oci://"},
		{"--to", "https://example.com", "a.tar"}, {"--version", ">>1", "a.tar"}, {"--artifacts", "x", "a.tar"},
		{"--parallel", "0", "a.tar"}, {"--username", "me", "--from", "oci://a/b"}, {"--password-stdin", "a.tar"},
	} {
		code, _, stderr := chartroom(t, t.TempDir(), append([]string{"import"}, args...)...)
		if code != 2 || strings.Contains(stderr, "secret") {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	}
}

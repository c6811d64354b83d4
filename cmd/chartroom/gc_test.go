package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/google/go-cmp/cmp"
)

// files are the paths of all objects of the storage in folder/data.
func files(t *testing.T, folder string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(objectFile(folder), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, "/leases/") {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestGCBesideTheServer(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := serveDir(t, folder)
	for _, version := range []string{"1.0.0", "2.0.0"} {
		if err := p.push("web", version, 5000); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(objectFile(folder, "charts", "web", "tags", "1.0.0")); err != nil {
		t.Fatal(err)
	}
	before := files(t, folder)
	code, out, stderr := chartroom(t, folder, "gc", "--dry-run", "--grace", "1ms", "-o", "json")
	var result collected
	if err := json.Unmarshal([]byte(out), &result); err != nil || code != 0 {
		t.Fatalf("dry run: exit code %d, %v: %s%s", code, err, out, stderr)
	}
	if !result.DryRun || result.Summary.Condemned.Objects != 3 || len(result.Garbage) != 5 || result.Garbage[4].Action != repository.Condemned {
		t.Errorf("dry run: %+v", result)
	}
	if diff := cmp.Diff(before, files(t, folder)); diff != "" {
		t.Errorf("a dry run changes something:\n%s", diff)
	}
	if code, out, _ := chartroom(t, folder, "gc", "--dry-run", "web"); code != 0 || !strings.Contains(out, "1 chart: 0 objects (0 B) would be condemned") {
		t.Errorf("within the grace period: exit code %d: %s", code, out)
	}
	if code, out, _ := chartroom(t, folder, "gc", "--grace", "1ms", "web"); code != 0 || !strings.Contains(out, "condemned: manifest of web: sha256:") || !strings.Contains(out, "3 objects") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if code, out, _ := chartroom(t, folder, "gc", "--grace", "1ms", "--undo", "1ms"); code != 0 || !strings.Contains(out, "0 objects (0 B) condemned, 0 objects brought back, 3 objects") {
		t.Errorf("exit code %d: %s", code, out)
	}
	_, layer, manifest := chartOf("web-2.0.0", 5000)
	if got := p.get("/v2/default/charts/web/manifests/2.0.0"); string(got) != string(manifest) {
		t.Errorf("the version that stays: %s", got)
	}
	if got := p.get("/v2/default/charts/web/blobs/" + digestOf(layer)); string(got) != string(layer) {
		t.Errorf("its layer has %d bytes", len(got))
	}
	if code, out, _ := chartroom(t, folder, "verify"); code != 0 || !strings.Contains(out, "0 problems") {
		t.Errorf("afterwards: exit code %d: %s", code, out)
	}
}

func TestGCThatFails(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if code, _, stderr := chartroom(t, folder, "gc"); code != 1 || !strings.Contains(stderr, "holds no registry") {
		t.Errorf("no storage: exit code %d: %s", code, stderr)
	}
	for _, args := range [][]string{{"gc", "--output", "xml"}, {"gc", "--undo", "0s"}, {"gc", "--grace", "-1h"}, {"gc", "--grace", "soon"}} {
		if code, _, stderr := chartroom(t, folder, args...); code != 2 {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "data")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it has made something: %v", err)
	}
	p := serveDir(t, folder)
	if err := p.push("web", "1.0.0", 5000); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(objectFile(folder, "charts", "web", "tags", "1.0.0"), 0); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := chartroom(t, folder, "gc", "--grace", "1ms"); code != 1 || !strings.Contains(stderr, "the tag 1.0.0 of web is damaged") {
		t.Errorf("a damaged tag: exit code %d: %s", code, stderr)
	}
	if code, out, stderr := chartroom(t, folder, "gc", "web", "wbe"); code != 1 || out != "" || !strings.Contains(stderr, "repository unknown: wbe") {
		t.Errorf("a chart that is not there: exit code %d: %s%s", code, out, stderr)
	}
	if code, _, stderr := chartroom(t, folder, "gc", "Web"); code != 2 || !strings.Contains(stderr, "invalid repository name") {
		t.Errorf("a chart that cannot be: exit code %d: %s", code, stderr)
	}
}

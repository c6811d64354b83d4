// Package architecture holds the tests of what the folders promise about each other.
package architecture

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/chartroom-dev/chartroom/"

// listedPackage is what `go list -json` says of a package.
type listedPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func goList(t *testing.T, patterns ...string) []listedPackage {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Imports,Deps"}, patterns...)...)
	command.Dir = "../.."
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listedPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listedPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func readTable(t *testing.T) map[string][]string {
	t.Helper()
	f, err := os.Open("imports.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := map[string][]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		room, allowed, found := strings.Cut(lines.Text(), ":")
		if found && !strings.HasPrefix(room, "#") {
			table[room] = strings.Fields(allowed)
		}
	}
	return table
}

// roomOf is the nearest folder with a row of its own.
func roomOf(table map[string][]string, folder string) string {
	for ; folder != "."; folder = path.Dir(folder) {
		if _, ok := table[folder]; ok {
			return folder
		}
	}
	return ""
}

func TestImportsFollowTheTable(t *testing.T) {
	table := readTable(t)
	for _, p := range goList(t, "./api/...", "./cmd/...", "./controllers/...", "./registryserver/...") {
		folder := strings.TrimPrefix(p.ImportPath, module)
		room := roomOf(table, folder)
		if room == "" {
			t.Errorf("%s has no row in imports.txt", folder)
			continue
		}
		for _, i := range p.Imports {
			imported, ours := strings.CutPrefix(i, module)
			if !ours {
				continue
			}
			if target := roomOf(table, imported); target != room && !slices.Contains(table[room], target) {
				t.Errorf("%s imports %s: the room %s may import only %v", folder, imported, room, table[room])
			}
		}
	}
}

// The data plane is a plain server: nothing of Kubernetes is linked into it, not even through somebody else.
func TestServerKnowsNothingOfKubernetes(t *testing.T) {
	for _, p := range goList(t, "./registryserver/...", "./cmd/chartroom") {
		for _, dependency := range p.Deps {
			host, _, _ := strings.Cut(dependency, "/")
			if host == "k8s.io" || strings.HasSuffix(host, ".k8s.io") {
				t.Errorf("%s depends on %s", p.ImportPath, dependency)
			}
		}
	}
}

// Kinds are read by other programs' code too, which should not have to take more than this.
func TestKindsNeedOnlyApimachineryAndCoreTypes(t *testing.T) {
	for _, p := range goList(t, "./api/...") {
		for _, i := range p.Imports {
			if strings.Contains(strings.SplitN(i, "/", 2)[0], ".") && !strings.HasPrefix(i, "k8s.io/apimachinery/") && !strings.HasPrefix(i, "k8s.io/api/") {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
		}
	}
}

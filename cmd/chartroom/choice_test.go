package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFlagsWithChoices(t *testing.T) {
	t.Parallel()
	for command, words := range map[string]string{
		"gc --output": "table\njson\n", "verify --output": "table\njson\n", "storage check --output": "table\njson\n",
		"retention plan --output": "table\njson\n", "import --output": "table\njson\n", "import --artifacts": "charts\nany\n",
		"serve --visibility": "private\npublic\n", "serve --artifacts": "Any\nCharts\n", "serve --tags-policy": "Immutable\nMutable\n",
		"serve --log-format": "text\njson\n", "serve --s3-redirect": "Never\nLarge\n",
	} {
		args := strings.Fields(command)
		code, out, _ := chartroom(t, t.TempDir(), append(append([]string{"__complete"}, args...), "")...)
		if code != 0 || !strings.HasPrefix(out, words) {
			t.Errorf("%s is completed with %q", command, out)
		}
		if args[0] == "serve" {
			continue // Its words are those of the configuration, which reads them in any case.
		}
		if code, _, stderr := chartroom(t, t.TempDir(), append(args, "xml")...); code != 2 || !strings.Contains(stderr, "there are "+strings.Join(strings.Fields(words), " and ")) {
			t.Errorf("%s xml: exit code %d: %s", command, code, stderr)
		}
	}
}

func TestErrorsAreOneLine(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "policy.yaml"), []byte("rules: [{keepNewst: 1, oldrThan: 1h}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := chartroom(t, folder, "retention", "plan", "--policy", "policy.yaml")
	if want := "errors: line 1: the field keepNewst is unknown; line 1: the field oldrThan is unknown\n"; code != 2 || !strings.HasSuffix(stderr, want) {
		t.Errorf("exit code %d: %q", code, stderr)
	}
}

package cel

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/chartroom-dev/chartroom/registryserver/access/policy"
)

// The reference of the kinds names every field, and what it shows can be applied.
func TestReferenceOfTheKinds(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "kinds.md"))
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1)
	if len(examples) != 3 {
		t.Fatalf("there are %d examples, want one of each kind", len(examples))
	}
	for _, example := range examples {
		u := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(example[1], &u.Object); err != nil {
			t.Fatal(err)
		}
		u.SetNamespace("default")
		if err := env.Client.Create(t.Context(), u, client.DryRunAll, client.FieldValidation("Strict")); err != nil {
			t.Errorf("the example of %s is refused: %v", u.GetKind(), err)
		}
	}
	for _, name := range []string{"helmregistries", "registrytokens", "oidcpolicies"} {
		file, err := os.ReadFile(filepath.Join("..", "..", "config", "crd", "bases", "chartroom.dev_"+name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var crd map[string]any
		if err := yaml.Unmarshal(file, &crd); err != nil {
			t.Fatal(err)
		}
		versions, _, err := unstructured.NestedSlice(crd, "spec", "versions")
		if err != nil || len(versions) != 1 {
			t.Fatalf("%s has %d versions: %v", name, len(versions), err)
		}
		for _, part := range []string{"spec", "status"} {
			schema, found, err := unstructured.NestedMap(versions[0].(map[string]any), "schema", "openAPIV3Schema", "properties", part)
			if err != nil || !found {
				t.Fatalf("%s has no %s: %v", name, part, err)
			}
			for _, field := range fields(schema) {
				if !regexp.MustCompile(`\b` + field + `\b`).Match(text) {
					t.Errorf("the field %s in the %s of %s is not in the reference", field, part, name)
				}
			}
		}
	}
}

// fields returns the names of all fields that are the project's own: not those of conditions and label selectors.
func fields(schema map[string]any) []string {
	var names []string
	properties, _ := schema["properties"].(map[string]any)
	for name, value := range properties {
		names = append(names, name)
		if child, ok := value.(map[string]any); ok && name != "selector" && name != "registrySelector" {
			names = append(names, fields(child)...)
		}
	}
	return names
}

// A policy that exists as text pastes into statements and into policy, and the API server keeps it as it is.
func TestPoliciesPasteIn(t *testing.T) {
	texts := map[string]string{"buildkite's own": `
- iss: https://agent.buildkite.com
  scopes:
    - read_packages
    - write_packages
  claims:
    organization_slug: your-org
    pipeline_slug:
      in: [one, two]
    build_branch:
      matches: [main, feature/*]
      not_equals: feature/not-this-one
    build_number: 1.50
    runner_hosted: false
`}
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "oidc-*.md"))
	if err != nil || len(pages) < 5 {
		t.Fatalf("the pages are %v: %v", pages, err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(page)] = string(regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(text)[1])
	}
	for name, text := range texts {
		want, err := policy.Parse([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, field := range []string{"statements:", "policy: |"} {
			u := object(t, "OIDCPolicy", "paste", token+field+"\n  "+strings.ReplaceAll(text, "\n", "\n  "))
			if err := env.Client.Create(t.Context(), u, client.FieldValidation("Strict"), client.DryRunAll); err != nil {
				t.Errorf("%s in %s is refused: %v", name, field, err)
				continue
			}
			stored, err := u.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			got, err := policy.ParseObject(stored)
			if err != nil {
				t.Errorf("%s in %s is kept as %s: %v", name, field, stored, err)
				continue
			}
			// Of a number, the value is kept.
			if strings.ReplaceAll(string(got.JSON()), "1.5,", "1.50,") != string(want.JSON()) {
				t.Errorf("%s in %s is kept as %s, want %s", name, field, got.JSON(), want.JSON())
			}
		}
	}
}

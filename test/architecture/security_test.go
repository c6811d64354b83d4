package architecture

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What users write is matched by globs, whose cost is bounded: nothing that reads it can make a regular expression.
func TestUsersWriteNoRegularExpressions(t *testing.T) {
	for _, p := range goList(t, "./registryserver/glob", "./registryserver/access/...", "./registryserver/retention/...", "./registryserver/strictjson") {
		for _, i := range p.Imports {
			if i == "regexp" || i == "path" || strings.Contains(i, "glob") && !strings.HasPrefix(i, module) {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
		}
	}
}

// Nothing that a chart names is resolved: what resolves schemas, renders templates or follows dependencies is not linked
// into the server.
func TestServerKnowsNothingOfSchemasAndTemplates(t *testing.T) {
	for _, p := range goList(t, "./registryserver/...", "./cmd/chartroom") {
		for _, d := range p.Deps {
			if strings.Contains(d, "jsonschema") || strings.HasPrefix(d, "helm.sh/") || strings.Contains(d, "sprig") {
				t.Errorf("%s depends on %s", p.ImportPath, d)
			}
		}
	}
}

// The operator has no right with which it could take others, or read what is none of its business.
func TestOperatorCannotTakeRights(t *testing.T) {
	text, err := os.ReadFile("../../config/rbac/role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// Who may do something to these may do everything, in one step or two.
	forbidden := []string{
		"*", "roles", "rolebindings", "clusterroles", "clusterrolebindings", "serviceaccounts", "serviceaccounts/token", "pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers",
		"nodes", "nodes/proxy", "services/proxy", "pods/proxy", "tokenreviews", "subjectaccessreviews", "certificatesigningrequests", "customresourcedefinitions", "mutatingwebhookconfigurations",
		"validatingwebhookconfigurations", "daemonsets", "statefulsets", "jobs", "cronjobs", "persistentvolumes",
	}
	found := 0
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var document map[string]any
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		rules, _ := document["rules"].([]any)
		for _, element := range rules {
			rule, _ := element.(map[string]any)
			found++
			for _, resource := range names(rule["resources"]) {
				if slices.Contains(forbidden, resource) {
					t.Errorf("%v: the operator has a right to %s", document["kind"], resource)
				}
			}
			for _, verb := range names(rule["verbs"]) {
				if slices.Contains([]string{"*", "escalate", "bind", "impersonate", "deletecollection"}, verb) {
					t.Errorf("%v: the operator may %s %v", document["kind"], verb, rule["resources"])
				}
			}
			if slices.Contains(names(rule["apiGroups"]), "*") {
				t.Errorf("%v: a rule is for every group: %v", document["kind"], rule)
			}
			// What every service account may read: who the cluster's issuer is, and its public keys.
			for _, path := range names(rule["nonResourceURLs"]) {
				if path != "/.well-known/openid-configuration" && path != "/openid/v1/jwks" {
					t.Errorf("%v: the operator may ask the API server for %s", document["kind"], path)
				}
			}
			if slices.Contains(names(rule["resources"]), "pods") && slices.Contains(names(rule["verbs"]), "create") {
				t.Errorf("%v: the operator may create pods itself", document["kind"])
			}
		}
	}
	if found == 0 {
		t.Error("there is no rule in it")
	}
}

func names(list any) []string {
	var all []string
	elements, _ := list.([]any)
	for _, e := range elements {
		text, _ := e.(string)
		all = append(all, text)
	}
	return all
}

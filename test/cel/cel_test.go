// Package cel tries every rule of the CRDs against a real API server: what is accepted, what is refused, and with which
// words.
package cel

import (
	"fmt"
	"os"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/chartroom-dev/chartroom/test/integration/environment"
)

var env *environment.Environment

func TestMain(m *testing.M) {
	var err error
	if env, err = environment.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := env.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// object reads a spec, in YAML, into an object of the kind.
func object(t *testing.T, kind, name, spec string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{}}
	body := map[string]any{}
	if err := yaml.Unmarshal([]byte(spec), &body); err != nil {
		t.Fatalf("the test's own YAML: %v", err)
	}
	u.Object["spec"] = body
	u.SetAPIVersion("chartroom.dev/v1alpha1")
	u.SetKind(kind)
	u.SetName(name)
	u.SetNamespace("default")
	return u
}

// judge checks that err is nil where words is empty, and a refusal that says words otherwise.
func judge(t *testing.T, err error, words string) {
	t.Helper()
	switch {
	case words == "" && err != nil:
		t.Errorf("refused: %v", err)
	case words != "" && err == nil:
		t.Errorf("accepted, want a refusal that says %q", words)
	case words != "" && !apierrors.IsInvalid(err):
		t.Errorf("failed otherwise than refused: %v", err)
	case words != "" && !strings.Contains(err.Error(), words):
		t.Errorf("refused with\n%v\nwant the words %q", err, words)
	}
}

const token = "registryRef: {name: charts}\n"

func TestCreate(t *testing.T) {
	long := strings.Repeat("x", 2000)
	tests := []struct {
		name, kind, object, spec, words string
	}{
		{"the empty spec", "HelmRegistry", "charts", `{}`, ""},
		{"everything", "HelmRegistry", "charts", `{organization: team-a, slug: charts.stable, displayName: T, description: D, visibility: Public,
		  storage: {filesystem: {size: 20Gi, storageClassName: fast, accessMode: ReadWriteMany}}, tls: {mode: Secret, secretRef: {name: t}},
		  exposure: {host: "charts.example.com:8443", service: {type: LoadBalancer, annotations: {a.example/b: c}}}, deletionPolicy: Delete,
		  allowedNamespaces: {from: Selector, selector: {matchLabels: {a: b}}, maxScopes: [read_packages, write_packages]},
		  podTemplate: {metadata: {labels: {a: b}}, spec: {priorityClassName: high, containers: [{name: registry, resources: {limits: {memory: 1Gi}}}]}}, suspend: true}`, ""},
		{"empty strings mean the default", "HelmRegistry", "charts", `{organization: "", slug: "", exposure: {host: ""}, storage: {filesystem: {existingClaim: ""}}}`, ""},
		{"a name of 52 characters", "HelmRegistry", strings.Repeat("a", 52), `{}`, ""},
		{"a name of 53 characters", "HelmRegistry", strings.Repeat("a", 53), `{}`, "metadata.name must have at most 52 characters"},
		{"a name with a dot", "HelmRegistry", "a.b", `{}`, "metadata.name must have at most 52 characters, begin with a letter"},
		{"a name that no Service can have", "HelmRegistry", "1a", `{}`, "begin with a letter"},
		{"organization in upper case", "HelmRegistry", "charts", `{organization: Team}`, "organization must be one lower-case part of a repository path"},
		{"organization of two parts", "HelmRegistry", "charts", `{organization: a/b}`, "organization must be one lower-case part"},
		{"organization too long", "HelmRegistry", "charts", `{organization: ` + strings.Repeat("a", 64) + `}`, "may not be more than 63"},
		{"organization v2", "HelmRegistry", "charts", `{organization: v2}`, "organization is a reserved word"},
		{"organization api", "HelmRegistry", "charts", `{organization: api}`, "organization is a reserved word"},
		{"organization healthz", "HelmRegistry", "charts", `{organization: healthz}`, "organization is a reserved word"},
		{"organization readyz", "HelmRegistry", "charts", `{organization: readyz}`, "organization is a reserved word"},
		{"organization metrics", "HelmRegistry", "charts", `{organization: metrics}`, "organization is a reserved word"},
		{"organization static", "HelmRegistry", "charts", `{organization: static}`, "organization is a reserved word"},
		{"organization -", "HelmRegistry", "charts", `{organization: "-"}`, "organization is a reserved word"},
		{"slug with a dash at its end", "HelmRegistry", "charts", `{slug: a-}`, "slug must be one lower-case part"},
		{"displayName too long", "HelmRegistry", "charts", `{displayName: ` + long + `}`, "may not be more than 128"},
		{"description too long", "HelmRegistry", "charts", `{description: ` + long + `}`, "may not be more than 1024"},
		{"unknown visibility", "HelmRegistry", "charts", `{visibility: Hidden}`, `"Private", "Public"`},
		{"size as a number of bytes", "HelmRegistry", "charts", `{storage: {filesystem: {size: 1073741824}}}`, ""},
		{"size too small", "HelmRegistry", "charts", `{storage: {filesystem: {size: 1Ki}}}`, "size must be at least 1Mi"},
		{"size negative", "HelmRegistry", "charts", `{storage: {filesystem: {size: -1Gi}}}`, "size must be at least 1Mi"},
		{"size is no quantity", "HelmRegistry", "charts", `{storage: {filesystem: {size: big}}}`, "spec.storage.filesystem.size"},
		{"unknown access mode", "HelmRegistry", "charts", `{storage: {filesystem: {accessMode: ReadOnlyMany}}}`, `"ReadWriteOnce", "ReadWriteMany"`},
		{"an existing claim", "HelmRegistry", "charts", `{storage: {filesystem: {existingClaim: c}}}`, ""},
		{"an existing claim with a size", "HelmRegistry", "charts", `{storage: {filesystem: {existingClaim: c, size: 1Gi}}}`, "write existingClaim alone"},
		{"an existing claim with a class", "HelmRegistry", "charts", `{storage: {filesystem: {existingClaim: c, storageClassName: s}}}`, "write existingClaim alone"},
		{"an existing claim with an access mode", "HelmRegistry", "charts", `{storage: {filesystem: {existingClaim: c, accessMode: ReadWriteOnce}}}`, "write existingClaim alone"},
		{"an existing claim of a name that no claim can have", "HelmRegistry", "charts", `{storage: {filesystem: {existingClaim: "../c"}}}`, "existingClaim must be a name that a PersistentVolumeClaim can have"},
		{"a storage class of a name that none can have", "HelmRegistry", "charts", `{storage: {filesystem: {storageClassName: "a b"}}}`, "storageClassName must be a name that a StorageClass can have"},
		{"no storage class at all", "HelmRegistry", "charts", `{storage: {filesystem: {storageClassName: ""}}}`, ""},
		{"a certificate of a name that no Secret can have", "HelmRegistry", "charts", `{tls: {mode: Secret, secretRef: {name: a/b}}}`, "name must be a name that a Secret can have"},
		{"an existing claim that would be deleted", "HelmRegistry", "charts", `{deletionPolicy: Delete, storage: {filesystem: {existingClaim: c}}}`, "write deletionPolicy: Retain"},
		{"unknown deletion policy", "HelmRegistry", "charts", `{deletionPolicy: Keep}`, `"Retain", "Delete"`},
		{"TLS None", "HelmRegistry", "charts", `{tls: {mode: None}}`, ""},
		{"TLS Secret without a Secret", "HelmRegistry", "charts", `{tls: {mode: Secret}}`, "write mode: Secret and secretRef"},
		{"a Secret without TLS Secret", "HelmRegistry", "charts", `{tls: {secretRef: {name: t}}}`, "write mode: Secret and secretRef"},
		{"a Secret without a name", "HelmRegistry", "charts", `{tls: {mode: Secret, secretRef: {name: ""}}}`, "should be at least 1 chars long"},
		{"unknown TLS mode", "HelmRegistry", "charts", `{tls: {mode: Magic}}`, `"SelfSigned", "Secret", "None"`},
		{"host without a port", "HelmRegistry", "charts", `{exposure: {host: charts.example.com}}`, ""},
		{"host with a scheme", "HelmRegistry", "charts", `{exposure: {host: "https://charts.example.com"}}`, "host must be a lower-case host name"},
		{"host with a path", "HelmRegistry", "charts", `{exposure: {host: charts.example.com/x}}`, "host must be a lower-case host name"},
		{"host with a port out of range", "HelmRegistry", "charts", `{exposure: {host: "charts.example.com:65536"}}`, "host must be a lower-case host name"},
		{"host with an empty port", "HelmRegistry", "charts", `{exposure: {host: "charts.example.com:"}}`, "host must be a lower-case host name"},
		{"host in upper case", "HelmRegistry", "charts", `{exposure: {host: Charts}}`, "host must be a lower-case host name"},
		{"unknown Service type", "HelmRegistry", "charts", `{exposure: {service: {type: ExternalName}}}`, `"ClusterIP", "NodePort", "LoadBalancer"`},
		{"a Service annotation too long", "HelmRegistry", "charts", `{exposure: {service: {annotations: {a: ` + strings.Repeat("x", 4097) + `}}}}`, "values of at most 4096"},
		{"a selector without from: Selector", "HelmRegistry", "charts", `{allowedNamespaces: {selector: {}}}`, "selector belongs to from: Selector"},
		{"from: Selector without a selector", "HelmRegistry", "charts", `{allowedNamespaces: {from: Selector}}`, "selector belongs to from: Selector"},
		{"a selector too large", "HelmRegistry", "charts", `{allowedNamespaces: {from: Selector, selector: {matchLabels: {` + pairs(17) + `}}}}`, "at most 16 matchLabels"},
		{"no scopes at most", "HelmRegistry", "charts", `{allowedNamespaces: {from: All, maxScopes: []}}`, "should have at least 1 items"},
		{"a scope at most twice", "HelmRegistry", "charts", `{allowedNamespaces: {from: All, maxScopes: [read_packages, read_packages]}}`, "Duplicate value"},
		{"a pod template that is no object", "HelmRegistry", "charts", `{podTemplate: [1]}`, "spec.podTemplate"},

		{"the smallest token", "RegistryToken", "ci", token, ""},
		{"every field of a token", "RegistryToken", "ci", `{registryRef: {name: charts, namespace: team-a}, description: D, scopes: [read_packages, write_packages, delete_packages],
		  charts: ["*", "web-?", "team/*"], ttl: 720h, secretTemplate: {name: ci.secret, labels: {a: b}, annotations: {c: d}}, state: Revoked}`, ""},
		{"a token with an expiry", "RegistryToken", "ci", token + `expiresAt: "2030-01-01T00:00:00Z"`, ""},
		{"a token of a name too long", "RegistryToken", strings.Repeat("a", 64), token, "metadata.name must have at most 63 characters"},
		{"no registry", "RegistryToken", "ci", `{}`, "spec.registryRef"},
		{"an unnamed registry", "RegistryToken", "ci", `{registryRef: {name: ""}}`, "should be at least 1 chars long"},
		{"a registry of a name that none can have", "RegistryToken", "ci", `{registryRef: {name: a/b}}`, "name must be a name that a HelmRegistry can have"},
		{"a registry in a namespace of a name that none can have", "RegistryToken", "ci", `{registryRef: {name: charts, namespace: a/b}}`, "namespace must be a name that a namespace can have"},
		{"ttl and expiresAt", "RegistryToken", "ci", token + "ttl: 1h\nexpiresAt: \"2030-01-01T00:00:00Z\"", "ttl and expiresAt exclude each other"},
		{"ttl of days", "RegistryToken", "ci", token + `ttl: 30d`, "ttl must be a duration in hours"},
		{"ttl of words", "RegistryToken", "ci", token + `ttl: 1 week`, "ttl must be a duration in hours"},
		{"ttl empty", "RegistryToken", "ci", token + `ttl: ""`, "ttl must be a duration in hours"},
		{"ttl negative", "RegistryToken", "ci", token + `ttl: -1h`, "ttl must be a duration in hours"},
		{"ttl too short", "RegistryToken", "ci", token + `ttl: 59s`, "ttl must be a duration in hours"},
		{"ttl too long", "RegistryToken", "ci", token + `ttl: 87601h`, "ttl must be a duration in hours"},
		{"ttl mixed", "RegistryToken", "ci", token + `ttl: 1h30m5s`, ""},
		{"expiresAt is no instant", "RegistryToken", "ci", token + `expiresAt: tomorrow`, "spec.expiresAt"},
		{"no scopes", "RegistryToken", "ci", token + `scopes: []`, "should have at least 1 items"},
		{"a scope twice", "RegistryToken", "ci", token + `scopes: [read_packages, read_packages]`, "Duplicate value"},
		{"an unknown scope", "RegistryToken", "ci", token + `scopes: [admin]`, `"read_packages", "write_packages", "delete_packages"`},
		{"no charts", "RegistryToken", "ci", token + `charts: []`, "should have at least 1 items"},
		{"a chart twice", "RegistryToken", "ci", token + `charts: [a, a]`, "Duplicate value"},
		{"an empty glob", "RegistryToken", "ci", token + `charts: [""]`, "charts are globs over lower-case chart paths"},
		{"a glob in upper case", "RegistryToken", "ci", token + `charts: [Web]`, "charts are globs over lower-case chart paths"},
		{"a glob too long", "RegistryToken", "ci", token + `charts: [` + strings.Repeat("a", 257) + `]`, "may not be more than 256"},
		{"too many globs", "RegistryToken", "ci", token + `charts: [` + numbers(65) + `]`, "must have at most 64 items"},
		{"a Secret name that no Secret can have", "RegistryToken", "ci", token + `secretTemplate: {name: a_b}`, "name must be a name that a Secret can have"},
		{"a label of the operator", "RegistryToken", "ci", token + `secretTemplate: {labels: {chartroom.dev/registry-token: x}}`, "labels may not hold"},
		{"the label managed-by", "RegistryToken", "ci", token + `secretTemplate: {labels: {app.kubernetes.io/managed-by: x}}`, "labels may not hold"},
		{"a label too long", "RegistryToken", "ci", token + `secretTemplate: {labels: {a: ` + strings.Repeat("x", 64) + `}}`, "values of at most 63"},
		{"an annotation of the operator", "RegistryToken", "ci", token + `secretTemplate: {annotations: {chartroom.dev/token-id: x}}`, "annotations may not hold"},
		{"an annotation too long", "RegistryToken", "ci", token + `secretTemplate: {annotations: {a: ` + strings.Repeat("x", 4097) + `}}`, "values of at most 4096"},
		{"an unknown state", "RegistryToken", "ci", token + `state: Paused`, `"Active", "Revoked"`},
	}
	for _, test := range tests {
		t.Run(test.kind+"/"+test.name, func(t *testing.T) {
			err := env.Client.Create(t.Context(), object(t, test.kind, test.object, test.spec), client.DryRunAll)
			judge(t, err, test.words)
		})
	}
}

func TestUpdate(t *testing.T) {
	tests := []struct {
		name, kind, before, after, words string
	}{
		{"texts, visibility and the rest", "HelmRegistry", `{}`, `{displayName: x, description: text, visibility: Public, tls: {mode: None}, exposure: {host: a.example}, deletionPolicy: Delete, suspend: true}`, ""},
		{"organization", "HelmRegistry", `{organization: a}`, `{organization: b}`, "organization is immutable"},
		{"organization added", "HelmRegistry", `{}`, `{organization: b}`, "organization is immutable"},
		{"organization removed", "HelmRegistry", `{organization: a}`, `{}`, "organization is immutable"},
		{"slug", "HelmRegistry", `{slug: a}`, `{slug: b}`, "slug is immutable"},
		{"slug added", "HelmRegistry", `{}`, `{slug: b}`, "slug is immutable"},
		{"slug removed", "HelmRegistry", `{slug: a}`, `{}`, "slug is immutable"},
		{"the storage written out", "HelmRegistry", `{}`, `{storage: {filesystem: {size: 10Gi, accessMode: ReadWriteOnce}}}`, ""},
		{"a larger size", "HelmRegistry", `{storage: {filesystem: {size: 1Gi}}}`, `{storage: {filesystem: {size: 2048Mi}}}`, ""},
		{"a smaller size", "HelmRegistry", `{storage: {filesystem: {size: 1Gi}}}`, `{storage: {filesystem: {size: 1023Mi}}}`, "storage.filesystem.size can only grow"},
		{"smaller than the default", "HelmRegistry", `{}`, `{storage: {filesystem: {size: 9Gi}}}`, "storage.filesystem.size can only grow"},
		{"back to a smaller default", "HelmRegistry", `{storage: {filesystem: {size: 11Gi}}}`, `{}`, "storage.filesystem.size can only grow"},
		{"the storage class", "HelmRegistry", `{}`, `{storage: {filesystem: {storageClassName: x}}}`, "storageClassName is immutable"},
		{"the access mode", "HelmRegistry", `{}`, `{storage: {filesystem: {accessMode: ReadWriteMany}}}`, "accessMode is immutable"},
		{"to an existing claim", "HelmRegistry", `{}`, `{storage: {filesystem: {existingClaim: c}}}`, "existingClaim is immutable"},
		{"from an existing claim", "HelmRegistry", `{storage: {filesystem: {existingClaim: c}}}`, `{}`, "existingClaim is immutable"},

		{"what a token may do", "RegistryToken", token, `{registryRef: {name: charts}, scopes: [write_packages], charts: [a], ttl: 1h, description: x, state: Revoked}`, ""},
		{"the registry", "RegistryToken", token, `{registryRef: {name: other}}`, "registryRef is immutable"},
		{"the registry's namespace", "RegistryToken", token, `{registryRef: {name: charts, namespace: x}}`, "registryRef is immutable"},
		{"the Secret's name", "RegistryToken", token, `{registryRef: {name: charts}, secretTemplate: {name: x}}`, "secretTemplate.name is immutable"},
		{"back from Revoked", "RegistryToken", token + "state: Revoked", token + "state: Active", "state Revoked is final"},
		{"back from Revoked by leaving it out", "RegistryToken", token + "state: Revoked", token, "state Revoked is final"},
	}
	for i, test := range tests {
		t.Run(test.kind+"/"+test.name, func(t *testing.T) {
			u := object(t, test.kind, fmt.Sprintf("update-%d", i), test.before)
			if err := env.Client.Create(t.Context(), u); err != nil {
				t.Fatal(err)
			}
			u.Object["spec"] = object(t, test.kind, u.GetName(), test.after).Object["spec"]
			judge(t, env.Client.Update(t.Context(), u), test.words)
		})
	}
}

// A new object looks unfinished to every tool that judges by kstatus, before the operator has seen it.
func TestNewObjectsAreNotObserved(t *testing.T) {
	for kind, spec := range map[string]string{"HelmRegistry": `{}`, "RegistryToken": token} {
		u := object(t, kind, "new", spec)
		if err := env.Client.Create(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		if got, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration"); got != -1 {
			t.Errorf("a new %s has observedGeneration %d, want -1", kind, got)
		}
	}
}

// kubectl apply keeps the whole object in an annotation, which may have 256 KiB together with all others.
func TestCRDsFitClientSideApply(t *testing.T) {
	for _, name := range []string{"helmregistries", "registrytokens"} {
		text, err := os.ReadFile("../../config/crd/bases/chartroom.dev_" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		asJSON, err := yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		if len(asJSON) > 200<<10 {
			t.Errorf("the CRD %s has %d bytes, too many for kubectl apply", name, len(asJSON))
		}
	}
}

func pairs(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("k%d: v", i))
	}
	return strings.Join(out, ", ")
}

func numbers(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("c%d", i))
	}
	return strings.Join(out, ", ")
}

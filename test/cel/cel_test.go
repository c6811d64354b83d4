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

// statement is a policy of one statement that has these fields beside the needed ones, or instead of them.
func statement(fields string) string {
	return "{registryRef: {name: charts}, statements: [{" + fields + "}]}"
}

// receiver is a notification that has these fields beside the needed ones, or instead of them.
func receiver(fields string) string {
	out := fields
	for _, f := range []string{`name: a`, `url: "https://example.com/"`, `format: cloudevents`} {
		if key, _, _ := strings.Cut(f, ":"); !strings.HasPrefix(fields, key+":") {
			out += ", " + f
		}
	}
	return "{" + strings.TrimPrefix(out, ", ") + "}"
}

// manyReceivers are so many notifications of different names, each as long as may be.
func manyReceivers(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`{name: r%d, url: "https://example.com/%s", format: flux}`, i, strings.Repeat("x", 2000)))
	}
	return strings.Join(all, ", ")
}

const github = `iss: "https://token.actions.githubusercontent.com", scopes: [read_packages], claims: {repository: acme/web}`

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
		{"color", "HelmRegistry", "charts", `{emoji: "🌻", color: "#F0ccff"}`, ""},
		{"color by name", "HelmRegistry", "charts", `{color: red}`, "six hexadecimal digits"},
		{"color with more", "HelmRegistry", "charts", `{color: "#f0ccfg"}`, "six hexadecimal digits"},
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
		{"everything that a bucket can have", "HelmRegistry", "charts", `{replicas: 3, artifacts: Charts, tags: {policy: Mutable, mutable: ["*-dev", "v?.x_1"]},
		  storage: {s3: {bucket: team-a.charts, prefix: registries/charts, region: eu-central-1, endpoint: "https://s3.example.com:9000", pathStyle: true,
		  credentialsSecretRef: {name: s}, caSecretRef: {name: c}, redirect: Large, staleness: 1m30s}}, deletionPolicy: Delete}`, ""},
		{"all of retention", "HelmRegistry", "charts", `{retention: {dryRun: true, delay: 1m, keepPulledWithin: 720h, rules: [
		  {charts: ["team/*", "web-?"], tags: ["*-dev", "V?.x_1"], versions: "<1.0.0-0 || ^2", keepNewest: 10, olderThan: 2160h30m}, {keepNewest: 1}]}}`, ""},
		{"retention without rules", "HelmRegistry", "charts", `{retention: {dryRun: true}}`, "spec.retention.rules"},
		{"retention with no rule", "HelmRegistry", "charts", `{retention: {rules: []}}`, "should have at least 1 items"},
		{"retention with too many rules", "HelmRegistry", "charts", `{retention: {rules: [` + strings.Repeat("{keepNewest: 1},", 17) + `]}}`, "must have at most 16 items"},
		{"a rule that keeps nothing", "HelmRegistry", "charts", `{retention: {rules: [{tags: ["*"]}]}}`, "a rule needs keepNewest or olderThan"},
		{"a rule that keeps none", "HelmRegistry", "charts", `{retention: {rules: [{keepNewest: 0}]}}`, "greater than or equal to 1"},
		{"a rule with a chart in upper case", "HelmRegistry", "charts", `{retention: {rules: [{keepNewest: 1, charts: [Web]}]}}`, "charts are globs over lower-case chart paths"},
		{"a rule with a plus in a tag", "HelmRegistry", "charts", `{retention: {rules: [{keepNewest: 1, tags: ["1.0+*"]}]}}`, "a version's + is _ in its tag"},
		{"a rule with a long constraint", "HelmRegistry", "charts", `{retention: {rules: [{keepNewest: 1, versions: "` + long + `"}]}}`, "may not be more than 256"},
		{"a rule with an age in days", "HelmRegistry", "charts", `{retention: {rules: [{olderThan: 30d}]}}`, "olderThan must be a duration in hours, minutes and seconds"},
		{"a rule with no age", "HelmRegistry", "charts", `{retention: {rules: [{olderThan: 0s}]}}`, "olderThan must be a duration"},
		{"a delay that nobody can see", "HelmRegistry", "charts", `{retention: {delay: 59s, rules: [{keepNewest: 1}]}}`, "delay must be a duration in hours, minutes and seconds from 1m"},
		{"pulled within days", "HelmRegistry", "charts", `{retention: {keepPulledWithin: 30d, rules: [{keepNewest: 1}]}}`, "keepPulledWithin must be a duration in hours, minutes and seconds"},
		{"all of notifications", "HelmRegistry", "charts", `{notifications: [
		  {name: flux, url: "https://flux.example.com/hook/1234?a=b", format: flux, events: [package.created, package.copied, package.deleted, tag.moved, registry.storage_failed, registry.quota],
		   filter: {charts: ["team/*", "web-?"], prereleases: Exclude}, auth: {hmac: {dialect: generic, secretRef: {name: s, key: hmac.key}}}, tls: {caSecretRef: {name: c}}, disabled: true},
		  {name: argocd, url: "https://argocd.example.com/api/webhook", format: harbor, auth: {header: {secretRef: {name: s}}}, tls: {insecureSkipVerify: true}},
		  {name: ci, url: "http://10.0.0.1:8080", format: buildkite, headerPrefix: Acme-Corp, auth: {header: {name: X-Acme-Token, secretRef: {name: s}}}},
		  {name: six, url: "http://[fd00::1]:80/x", format: cloudevents, auth: {serviceAccountToken: {audience: notification-controller, expirationSeconds: 600}}}]}`, ""},
		{"too many notifications", "HelmRegistry", "charts", `{notifications: [` + manyReceivers(17) + `]}`, "must have at most 16 items"},
		{"as many notifications as there may be", "HelmRegistry", "charts", `{notifications: [` + manyReceivers(16) + `]}`, ""},
		{"two notifications of a name", "HelmRegistry", "charts", `{notifications: [` + receiver("") + `, ` + receiver("") + `]}`, "Duplicate value"},
		{"a notification without an address", "HelmRegistry", "charts", `{notifications: [{name: a, format: flux}]}`, "notifications[0].url"},
		{"a notification of a wrong name", "HelmRegistry", "charts", `{notifications: [` + receiver(`name: A`) + `]}`, "name must be lower-case letters and digits"},
		{"a notification to a file", "HelmRegistry", "charts", `{notifications: [` + receiver(`url: "file:///etc/passwd"`) + `]}`, "url must be an address with neither user"},
		{"a notification with a password", "HelmRegistry", "charts", `{notifications: [` + receiver(`url: "https://u:p@example.com/"`) + `]}`, "url must be an address with neither user"},
		{"a notification with a fragment", "HelmRegistry", "charts", `{notifications: [` + receiver(`url: "https://example.com/#x"`) + `]}`, "url must be an address with neither user"},
		{"a notification to a long address", "HelmRegistry", "charts", `{notifications: [` + receiver(`url: "https://example.com/`+long+long+`"`) + `]}`, "may not be more than 2048"},
		{"a notification in an unknown format", "HelmRegistry", "charts", `{notifications: [` + receiver(`format: slack`) + `]}`, `"buildkite", "harbor", "flux", "cloudevents"`},
		{"a notification with a prefix for nothing", "HelmRegistry", "charts", `{notifications: [` + receiver(`headerPrefix: Acme`) + `]}`, "headerPrefix is for format buildkite alone"},
		{"a notification with a prefix with a colon", "HelmRegistry", "charts", `{notifications: [` + receiver(`format: buildkite, headerPrefix: "a:b"`) + `]}`, "headerPrefix must be letters and digits"},
		{"a notification of an unknown event", "HelmRegistry", "charts", `{notifications: [` + receiver(`events: [package.renamed]`) + `]}`, `"package.created"`},
		{"a notification of no event", "HelmRegistry", "charts", `{notifications: [` + receiver(`events: []`) + `]}`, "should have at least 1 items"},
		{"a notification of the quota to Harbor", "HelmRegistry", "charts", `{notifications: [` + receiver(`format: harbor, events: [registry.quota]`) + `]}`, "format harbor has no events of the registry"},
		{"a notification of charts in upper case", "HelmRegistry", "charts", `{notifications: [` + receiver(`filter: {charts: [Web]}`) + `]}`, "charts are globs over lower-case chart paths"},
		{"a notification of other pre-releases", "HelmRegistry", "charts", `{notifications: [` + receiver(`filter: {prereleases: Some}`) + `]}`, `"Include", "Exclude", "Only"`},
		{"a notification with two proofs", "HelmRegistry", "charts", `{notifications: [` + receiver(`auth: {header: {secretRef: {name: s}}, hmac: {secretRef: {name: s}}}`) + `]}`, "auth has one member"},
		{"a notification with a header with a space", "HelmRegistry", "charts", `{notifications: [` + receiver(`auth: {header: {name: "X Y", secretRef: {name: s}}}`) + `]}`, "name must be the name of a header"},
		{"a notification with a Secret that none can be", "HelmRegistry", "charts", `{notifications: [` + receiver(`auth: {hmac: {secretRef: {name: "../s"}}}`) + `]}`, "name must be a name that a Secret can have"},
		{"a notification with an entry that none can be", "HelmRegistry", "charts", `{notifications: [` + receiver(`auth: {hmac: {secretRef: {name: s, key: "../k"}}}`) + `]}`, "key must be a name that an entry of a Secret can have"},
		{"a notification to Flux in another dialect", "HelmRegistry", "charts", `{notifications: [` + receiver(`format: flux, auth: {hmac: {dialect: github, secretRef: {name: s}}}`) + `]}`, "dialect must be generic with format flux"},
		{"a notification with a token for the API server", "HelmRegistry", "charts", `{notifications: [` + receiver(`auth: {serviceAccountToken: {audience: "https://kubernetes.default.svc"}}`) + `]}`, "audience must not be the API server"},
		{"a notification with a token for nobody", "HelmRegistry", "charts", `{notifications: [` + receiver(`auth: {serviceAccountToken: {audience: ""}}`) + `]}`, "auth.serviceAccountToken.audience"},
		{"a notification with a short token", "HelmRegistry", "charts", `{notifications: [` + receiver(`auth: {serviceAccountToken: {audience: a, expirationSeconds: 599}}`) + `]}`, "greater than or equal to 600"},
		{"a notification with authorities for nothing", "HelmRegistry", "charts", `{notifications: [` + receiver(`tls: {caSecretRef: {name: c}, insecureSkipVerify: true}`) + `]}`, "caSecretRef is of no use with insecureSkipVerify"},
		{"a notification with TLS without TLS", "HelmRegistry", "charts", `{notifications: [` + receiver(`url: "http://10.0.0.1", tls: {caSecretRef: {name: c}}`) + `]}`, "tls is for a url that begins with https://"},
		{"the smallest bucket", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc}}}`, ""},
		{"no member of storage", "HelmRegistry", "charts", `{storage: {}}`, ""},
		{"two members of storage", "HelmRegistry", "charts", `{storage: {filesystem: {}, s3: {bucket: abc}}}`, "storage has exactly one member"},
		{"no bucket", "HelmRegistry", "charts", `{storage: {s3: {}}}`, "spec.storage.s3.bucket"},
		{"a bucket too short", "HelmRegistry", "charts", `{storage: {s3: {bucket: ab}}}`, "bucket must be a name that a bucket can have"},
		{"a bucket in upper case", "HelmRegistry", "charts", `{storage: {s3: {bucket: Charts}}}`, "bucket must be a name that a bucket can have"},
		{"a bucket too long", "HelmRegistry", "charts", `{storage: {s3: {bucket: ` + strings.Repeat("a", 64) + `}}}`, "may not be more than 63"},
		{"a prefix with a slash at its end", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, prefix: a/}}}`, "prefix must be letters"},
		{"a prefix with two slashes", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, prefix: a//b}}}`, "prefix must be letters"},
		{"a prefix that goes up", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, prefix: a/../b}}}`, "prefix must be letters"},
		{"a prefix of a dot", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, prefix: .}}}`, "prefix must be letters"},
		{"a prefix with dots within", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, prefix: a..b/.c}}}`, ""},
		{"a region of words", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, region: "eu central"}}}`, "region must be letters"},
		{"an endpoint of IPv6", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, endpoint: "http://[::1]:9000"}}}`, ""},
		{"an endpoint without a scheme", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, endpoint: s3.example.com}}}`, "endpoint must be http:// or https://"},
		{"an endpoint with a path", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, endpoint: "https://s3.example.com/x"}}}`, "endpoint must be http:// or https://"},
		{"an endpoint with a password", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, endpoint: "https://a:b@s3.example.com"}}}`, "endpoint must be http:// or https://"},
		{"no staleness", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, staleness: 0s}}}`, ""},
		{"the longest staleness", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, staleness: 300s}}}`, ""},
		{"too long a staleness", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, staleness: 5m1s}}}`, "staleness must be a duration"},
		{"a negative staleness", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, staleness: -1s}}}`, "staleness must be a duration"},
		{"an empty staleness", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, staleness: ""}}}`, "staleness must be a duration"},
		{"unknown redirect", "HelmRegistry", "charts", `{storage: {s3: {bucket: abc, redirect: Always}}}`, `"Never", "Large"`},
		{"no replicas", "HelmRegistry", "charts", `{replicas: 0}`, "should be greater than or equal to 1"},
		{"too many replicas", "HelmRegistry", "charts", `{replicas: 101}`, "should be less than or equal to 100"},
		{"unknown artifacts", "HelmRegistry", "charts", `{artifacts: Some}`, `"Any", "Charts"`},
		{"unknown policy of tags", "HelmRegistry", "charts", `{tags: {policy: Sticky}}`, `"Immutable", "Mutable"`},
		{"a mutable tag with a comma", "HelmRegistry", "charts", `{tags: {mutable: ["a,b"]}}`, "mutable are globs over tags"},
		{"an empty mutable tag", "HelmRegistry", "charts", `{tags: {mutable: [""]}}`, "mutable are globs over tags"},
		{"a mutable tag twice", "HelmRegistry", "charts", `{tags: {mutable: [a, a]}}`, "Duplicate value"},
		{"too many mutable tags", "HelmRegistry", "charts", `{tags: {mutable: [` + numbers(33) + `]}}`, "must have at most 32 items"},
		{"proxies", "HelmRegistry", "charts", `{trustedProxies: [10.0.0.0/8, "fd00::/8"], limits: {requestsPerSecond: 1}, audit: {reads: true}}`, ""},
		{"a proxy that is no network", "HelmRegistry", "charts", `{trustedProxies: [10.0.0.1/8]}`, "trustedProxies must be networks such as 10.244.0.0/16"},
		{"a proxy that is a name", "HelmRegistry", "charts", `{trustedProxies: [proxy.example.com]}`, "trustedProxies must be networks such as 10.244.0.0/16"},
		{"a limit of nothing", "HelmRegistry", "charts", `{limits: {requestsPerSecond: 0}}`, "should be greater than or equal to 1"},
		{"all of garbage collection", "HelmRegistry", "charts", `{garbageCollection: {interval: 1m, grace: 1h, undo: 10m}}`, ""},
		{"rounds that are too close", "HelmRegistry", "charts", `{garbageCollection: {interval: 59s}}`, "interval must be a duration in hours, minutes and seconds from 1m to 168h"},
		{"a grace that is too short", "HelmRegistry", "charts", `{garbageCollection: {grace: 59m}}`, "grace must be a duration in hours, minutes and seconds from 1h to 8760h"},
		{"an undo that is too long", "HelmRegistry", "charts", `{garbageCollection: {undo: 9000h}}`, "undo must be a duration in hours, minutes and seconds from 10m to 8760h"},
		{"every limit of a quota", "HelmRegistry", "charts", `{quota: {size: 10Gi, charts: 100, versions: 5000, chartSize: 10M}}`, ""},
		{"a quota in bytes", "HelmRegistry", "charts", `{quota: {size: 1048576, chartSize: 1024}}`, ""},
		{"an empty quota", "HelmRegistry", "charts", `{quota: {}}`, ""},
		{"a quota of no bytes", "HelmRegistry", "charts", `{quota: {size: 0}}`, "size must be at least 1 and at most 1Ei"},
		{"a quota of too many bytes", "HelmRegistry", "charts", `{quota: {size: 2Ei}}`, "size must be at least 1 and at most 1Ei"},
		{"a quota that is no quantity", "HelmRegistry", "charts", `{quota: {size: big}}`, "spec.quota.size"},
		{"a quota of no charts", "HelmRegistry", "charts", `{quota: {charts: 0}}`, "should be greater than or equal to 1"},
		{"a quota of no versions", "HelmRegistry", "charts", `{quota: {versions: 0}}`, "should be greater than or equal to 1"},
		{"a chart over the largest blob", "HelmRegistry", "charts", `{quota: {chartSize: 1025Mi}}`, "chartSize must be at least 1 and at most 1Gi"},
		{"a chart of no bytes", "HelmRegistry", "charts", `{quota: {chartSize: -1}}`, "chartSize must be at least 1 and at most 1Gi"},
		{"a chart over the quota", "HelmRegistry", "charts", `{quota: {size: 1Mi, chartSize: 1.1Mi}}`, "quota.chartSize must not be more than quota.size"},
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
		  charts: ["*", "web-?", "team/*"], ttl: 720h, rotation: {interval: 168h, overlap: 24h}, secretTemplate: {name: ci.secret, labels: {a: b}, annotations: {c: d}, formats: [dockerconfigjson, argocd]}, state: Revoked}`, ""},
		{"a token with an expiry", "RegistryToken", "ci", token + `expiresAt: "2030-01-01T00:00:00Z"`, ""},
		{"a token of a name too long", "RegistryToken", strings.Repeat("a", 64), token, "metadata.name must have at most 63 characters"},
		{"no registry", "RegistryToken", "ci", `{}`, "write either registryRef or registrySelector"},
		{"a registry and a selector", "RegistryToken", "ci", token + `registrySelector: {}`, "write either registryRef or registrySelector"},
		{"all registries", "RegistryToken", "ci", `{registrySelector: {}}`, ""},
		{"some registries", "RegistryToken", "ci", `{registrySelector: {matchLabels: {team: web}, matchExpressions: [{key: a, operator: Exists}]}, secretTemplate: {formats: [flux]}}`, ""},
		{"a selector too large", "RegistryToken", "ci", `{registrySelector: {matchLabels: {` + pairs(17) + `}}}`, "at most 16 matchLabels"},
		{"several registries for Argo CD", "RegistryToken", "ci", `{registrySelector: {}, secretTemplate: {formats: [argocd]}}`, "argocd is for one registry"},
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
		{"a rotation", "RegistryToken", "ci", token + `rotation: {interval: 168h}`, ""},
		{"a rotation and an end", "RegistryToken", "ci", token + "rotation: {interval: 168h}\nexpiresAt: \"2030-01-01T00:00:00Z\"", ""},
		{"a rotation without interval", "RegistryToken", "ci", token + `rotation: {overlap: 1h}`, "spec.rotation.interval"},
		{"a rotation of days", "RegistryToken", "ci", token + `rotation: {interval: 7d}`, "interval must be a duration in hours"},
		{"a rotation too often", "RegistryToken", "ci", token + `rotation: {interval: 9m59s}`, "interval must be a duration in hours"},
		{"a rotation too seldom", "RegistryToken", "ci", token + `rotation: {interval: 87601h}`, "interval must be a duration in hours"},
		{"an overlap too short", "RegistryToken", "ci", token + `rotation: {interval: 1h, overlap: 59s}`, "overlap must be a duration in hours"},
		{"an overlap of words", "RegistryToken", "ci", token + `rotation: {interval: 1h, overlap: a bit}`, "overlap must be a duration in hours"},
		{"an overlap as long as the interval", "RegistryToken", "ci", token + `rotation: {interval: 1h, overlap: 60m}`, "overlap must be shorter than interval"},
		{"an overlap just shorter", "RegistryToken", "ci", token + `rotation: {interval: 1h, overlap: 59m59s}`, ""},
		{"a ttl that ends within the overlap", "RegistryToken", "ci", token + "ttl: 25h59m\nrotation: {interval: 24h, overlap: 2h}", "ttl must be at least rotation.interval and rotation.overlap together"},
		{"a ttl that ends with the overlap", "RegistryToken", "ci", token + "ttl: 26h\nrotation: {interval: 24h, overlap: 2h}", ""},
		{"a ttl shorter than the interval", "RegistryToken", "ci", token + "ttl: 24h\nrotation: {interval: 24h}", "ttl must be at least rotation.interval"},
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
		{"no formats", "RegistryToken", "ci", token + `secretTemplate: {formats: []}`, "should have at least 1 items"},
		{"an unknown format", "RegistryToken", "ci", token + `secretTemplate: {formats: [tekton]}`, `"dockerconfigjson", "argocd", "flux"`},
		{"the format of Flux", "RegistryToken", "ci", token + `secretTemplate: {formats: [flux]}`, ""},
		{"the format of Flux with another", "RegistryToken", "ci", token + `secretTemplate: {formats: [flux, argocd]}`, "flux excludes the others"},
		{"a secret made elsewhere", "RegistryToken", "ci", token + "ttl: 1h\nsecretSHA256: " + strings.Repeat("0a", 32), ""},
		{"a hash in upper case", "RegistryToken", "ci", token + `secretSHA256: ` + strings.Repeat("0A", 32), "secretSHA256 must be 64 lower-case hexadecimal digits"},
		{"a hash too short", "RegistryToken", "ci", token + `secretSHA256: ` + strings.Repeat("0a", 31), "secretSHA256 must be 64 lower-case hexadecimal digits"},
		{"a secret made elsewhere that rotates", "RegistryToken", "ci", token + "rotation: {interval: 1h}\nsecretSHA256: " + strings.Repeat("0a", 32), "secretSHA256 excludes rotation and secretTemplate"},
		{"a secret made elsewhere, published", "RegistryToken", "ci", token + "secretTemplate: {name: x}\nsecretSHA256: " + strings.Repeat("0a", 32), "secretSHA256 excludes rotation and secretTemplate"},
		{"an unknown state", "RegistryToken", "ci", token + `state: Paused`, `"Active", "Revoked"`},

		{"a policy", "OIDCPolicy", "ci", statement(github), ""},
		{"every field of a policy", "OIDCPolicy", "ci", `{registryRef: {name: charts, namespace: team-a}, statements: [
		  {iss: kubernetes, scopes: [read_packages, write_packages, delete_packages], charts: ["*", "web-?"], maxTokenLifetime: 24h, audiences: [a],
		   claims: {sub: x, /kubernetes.io/namespace: {in: [a, 1, true]}, n: 1.5, b: false, m: {equals: x, not_equals: 2, not_in: [z], matches: ["a*", b]}, g: {matches: a}}},
		  {iss: "https://issuer.example:8443/realms/a", scopes: [read_packages], claims: {a: b}, jwks: "{}"},
		  {iss: "https://issuer.example", scopes: [read_packages], claims: {a: b}, ca: x}, {iss: "https://issuer.example/", scopes: [read_packages], claims: {a: b}, caSecretRef: {name: ca}}]}`, ""},
		{"a policy for several registries", "OIDCPolicy", "ci", `{registrySelector: {matchLabels: {a: b}}, statements: [{` + github + `}]}`, ""},
		{"a policy for all registries", "OIDCPolicy", "ci", `{registrySelector: {}, statements: [{` + github + `}]}`, ""},
		{"a policy as a string", "OIDCPolicy", "ci", token + "policy: |\n  - iss: kubernetes\n", ""},
		{"a policy for nothing", "OIDCPolicy", "ci", `{statements: [{` + github + `}]}`, "write either registryRef or registrySelector"},
		{"a policy for a registry and for several", "OIDCPolicy", "ci", `{registryRef: {name: charts}, registrySelector: {}, statements: [{` + github + `}]}`, "write either registryRef or registrySelector"},
		{"a policy with a large selector", "OIDCPolicy", "ci", `{registrySelector: {matchLabels: {` + pairs(17) + `}}, statements: [{` + github + `}]}`, "at most 16 matchLabels"},
		{"a policy that says nothing", "OIDCPolicy", "ci", token, "statements and policy are two ways to write the same"},
		{"a policy twice", "OIDCPolicy", "ci", token + "policy: x\nstatements: [{" + github + "}]", "statements and policy are two ways to write the same"},
		{"an empty policy", "OIDCPolicy", "ci", token + `policy: ""`, "should be at least 1 chars long"},
		{"a policy that is a list", "OIDCPolicy", "ci", token + `policy: [{iss: kubernetes}]`, "spec.policy"},
		{"no statements", "OIDCPolicy", "ci", token + `statements: []`, "should have at least 1 items"},
		{"too many statements", "OIDCPolicy", "ci", token + `statements: [` + strings.Repeat("{"+github+"},", 65) + `]`, "must have at most 64 items"},
		{"no issuer", "OIDCPolicy", "ci", statement(`scopes: [read_packages], claims: {a: b}`), "spec.statements[0].iss"},
		{"an issuer without TLS", "OIDCPolicy", "ci", statement(`iss: "http://issuer.example", scopes: [read_packages], claims: {a: b}`), "iss must be the issuer's https address"},
		{"an issuer without a scheme", "OIDCPolicy", "ci", statement(`iss: issuer.example, scopes: [read_packages], claims: {a: b}`), "iss must be the issuer's https address"},
		{"an issuer with a user", "OIDCPolicy", "ci", statement(`iss: "https://a@issuer.example", scopes: [read_packages], claims: {a: b}`), "iss must be the issuer's https address"},
		{"an issuer with a query", "OIDCPolicy", "ci", statement(`iss: "https://issuer.example/?a", scopes: [read_packages], claims: {a: b}`), "iss must be the issuer's https address"},
		{"an issuer that is too long", "OIDCPolicy", "ci", statement(`iss: "https://issuer.example/` + long + `", scopes: [read_packages], claims: {a: b}`), "may not be more than 512"},
		{"a statement without scopes", "OIDCPolicy", "ci", statement(`iss: kubernetes, claims: {a: b}`), "spec.statements[0].scopes"},
		{"a statement that grants nothing", "OIDCPolicy", "ci", statement(`iss: kubernetes, scopes: [], claims: {a: b}`), "should have at least 1 items"},
		{"a statement that grants something twice", "OIDCPolicy", "ci", statement(`iss: kubernetes, scopes: [read_packages, read_packages], claims: {a: b}`), "scopes holds a scope twice"},
		{"a statement that grants what there is not", "OIDCPolicy", "ci", statement(`iss: kubernetes, scopes: [push], claims: {a: b}`), `"read_packages", "write_packages", "delete_packages"`},
		{"a statement without claims", "OIDCPolicy", "ci", statement(`iss: kubernetes, scopes: [read_packages]`), "spec.statements[0].claims"},
		{"a statement with no claim", "OIDCPolicy", "ci", statement(`iss: kubernetes, scopes: [read_packages], claims: {}`), "should have at least 1 properties"},
		{"a statement with a list of claims", "OIDCPolicy", "ci", statement(`iss: kubernetes, scopes: [read_packages], claims: [a]`), "spec.statements[0].claims"},
		{"a statement with too many claims", "OIDCPolicy", "ci", statement(`iss: kubernetes, scopes: [read_packages], claims: {` + pairs(33) + `}`), "must have at most 32 items"},
		{"a statement for no charts", "OIDCPolicy", "ci", statement(github + `, charts: []`), "should have at least 1 items"},
		{"a statement for a chart in upper case", "OIDCPolicy", "ci", statement(github + `, charts: [Web]`), "charts are globs over lower-case chart paths"},
		{"tokens that live for more than a day", "OIDCPolicy", "ci", statement(github + `, maxTokenLifetime: 24h1s`), "maxTokenLifetime must be a duration"},
		{"tokens that do not live", "OIDCPolicy", "ci", statement(github + `, maxTokenLifetime: 0s`), "maxTokenLifetime must be a duration"},
		{"a lifetime that is a number", "OIDCPolicy", "ci", statement(github + `, maxTokenLifetime: 300`), "maxTokenLifetime"},
		{"an empty audience", "OIDCPolicy", "ci", statement(github + `, audiences: [""]`), "should be at least 1 chars long"},
		{"too many audiences", "OIDCPolicy", "ci", statement(github + `, audiences: [` + numbers(17) + `]`), "must have at most 16 items"},
		{"keys of the cluster", "OIDCPolicy", "ci", statement(`iss: kubernetes, scopes: [read_packages], claims: {a: b}, jwks: "{}"`), "do not go with iss: kubernetes"},
		{"an authority of the cluster", "OIDCPolicy", "ci", statement(`iss: kubernetes, scopes: [read_packages], claims: {a: b}, caSecretRef: {name: a}`), "do not go with iss: kubernetes"},
		{"keys and an authority", "OIDCPolicy", "ci", statement(github + `, jwks: "{}", ca: x`), "jwks, ca and caSecretRef exclude each other"},
		{"two authorities", "OIDCPolicy", "ci", statement(github + `, ca: x, caSecretRef: {name: a}`), "jwks, ca and caSecretRef exclude each other"},
		{"an authority of a name that no Secret can have", "OIDCPolicy", "ci", statement(github + `, caSecretRef: {name: a/b}`), "name must be a name that a Secret can have"},
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

		{"the kind of storage", "HelmRegistry", `{storage: {filesystem: {}}}`, `{storage: {s3: {bucket: abc}}}`, "the kind of storage is immutable"},
		{"the kind of storage that was not written", "HelmRegistry", `{}`, `{storage: {s3: {bucket: abc}}}`, "the kind of storage is immutable"},
		{"back from a bucket", "HelmRegistry", `{storage: {s3: {bucket: abc}}}`, `{}`, "the kind of storage is immutable"},
		{"the bucket", "HelmRegistry", `{storage: {s3: {bucket: abc}}}`, `{storage: {s3: {bucket: abd}}}`, "storage.s3.bucket is immutable"},
		{"the prefix", "HelmRegistry", `{storage: {s3: {bucket: abc, prefix: a}}}`, `{storage: {s3: {bucket: abc, prefix: b}}}`, "storage.s3.prefix is immutable"},
		{"the prefix added", "HelmRegistry", `{storage: {s3: {bucket: abc}}}`, `{storage: {s3: {bucket: abc, prefix: b}}}`, "storage.s3.prefix is immutable"},
		{"how the bucket is reached", "HelmRegistry", `{storage: {s3: {bucket: abc}}}`, `{replicas: 2, storage: {s3: {bucket: abc, region: r, endpoint: "http://x", pathStyle: true, credentialsSecretRef: {name: s}, caSecretRef: {name: c}, redirect: Large, staleness: 5s}}}`, ""},

		{"what a token may do", "RegistryToken", token, `{registryRef: {name: charts}, scopes: [write_packages], charts: [a], ttl: 1h, description: x, state: Revoked}`, ""},
		{"the registry", "RegistryToken", token, `{registryRef: {name: other}}`, "registryRef is immutable"},
		{"the registry's namespace", "RegistryToken", token, `{registryRef: {name: charts, namespace: x}}`, "registryRef is immutable"},
		{"a selector instead of the registry", "RegistryToken", token, `{registrySelector: {}}`, "registryRef is immutable"},
		{"a registry instead of the selector", "RegistryToken", `{registrySelector: {}}`, token, "registryRef is immutable"},
		{"the selector", "RegistryToken", `{registrySelector: {matchLabels: {a: b}}}`, `{registrySelector: {}}`, "registrySelector is immutable"},
		{"the selector's expressions", "RegistryToken", `{registrySelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}`, `{registrySelector: {matchExpressions: [{key: a, operator: In, values: [b, c]}]}}`, "registrySelector is immutable"},
		{"what the token of several may do", "RegistryToken", `{registrySelector: {matchLabels: {a: b}}}`, `{registrySelector: {matchLabels: {a: b}}, ttl: 1h}`, ""},
		{"the Secret's name", "RegistryToken", token, `{registryRef: {name: charts}, secretTemplate: {name: x}}`, "secretTemplate.name is immutable"},
		{"a format for Argo CD", "RegistryToken", token, `{registryRef: {name: charts}, secretTemplate: {formats: [dockerconfigjson, argocd]}}`, ""},
		{"the format of Flux", "RegistryToken", token, `{registryRef: {name: charts}, secretTemplate: {formats: [flux]}}`, "flux cannot be added or taken away"},
		{"no format of Flux", "RegistryToken", `{registryRef: {name: charts}, secretTemplate: {formats: [flux]}}`, token, "flux cannot be added or taken away"},
		{"a secret made elsewhere", "RegistryToken", token, token + "secretSHA256: " + strings.Repeat("0a", 32), "secretSHA256 is immutable"},
		{"where a policy is in force", "OIDCPolicy", statement(github), `{registrySelector: {}, policy: x}`, ""},
		{"a policy emptied", "OIDCPolicy", statement(github), `{registryRef: {name: charts}}`, "statements and policy are two ways to write the same"},

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
	for kind, spec := range map[string]string{"HelmRegistry": `{}`, "RegistryToken": token, "OIDCPolicy": statement(github)} {
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
	for _, name := range []string{"helmregistries", "registrytokens", "oidcpolicies"} {
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

package cel

import (
	"strings"
	"testing"
)

// What the documentation says to type works with kubectl's ordinary, client-side apply, twice, and without a warning.
func TestInstallWithKubectl(t *testing.T) {
	for _, arguments := range []string{
		"apply -k config/default", "apply -k config/default", "apply -k config/samples", "apply -k config/samples",
		"apply -n default -f config/samples/ci.yaml",
	} {
		out, err := env.Kubectl(t.Context(), strings.Fields(arguments)...)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			// The test's API server had the objects before kubectl came.
			if strings.Contains(line, "Warning") && !strings.Contains(line, "last-applied-configuration") {
				t.Errorf("kubectl %s: %s", arguments, line)
			}
		}
	}
	for arguments, columns := range map[string]string{
		"get hreg":           "NAME READY REASON URL CHARTS VERSIONS SIZE LAST PUSH AGE",
		"get rtok":           "NAME READY REASON REGISTRY EXPIRES AGE",
		"get oidcp":          "NAME READY REASON REGISTRY ISSUER AGE",
		"get hreg -o wide":   "NAME READY REASON URL CHARTS VERSIONS SIZE LAST PUSH DOWNLOADS MESSAGE IMAGE AGE",
		"get helmregistries": "NAME READY REASON URL CHARTS VERSIONS SIZE LAST PUSH AGE",
	} {
		out, err := env.Kubectl(t.Context(), strings.Fields(arguments)...)
		if err != nil {
			t.Fatal(err)
		}
		header, _, _ := strings.Cut(out, "\n")
		if got := strings.Join(strings.Fields(header), " "); got != columns {
			t.Errorf("kubectl %s has the columns %s, want %s", arguments, got, columns)
		}
	}
	out, err := env.Kubectl(t.Context(), "get", "chartroom", "-A", "-o", "name")
	if err != nil || !strings.Contains(out, "helmregistry.chartroom.dev/charts") || !strings.Contains(out, "registrytoken.chartroom.dev/") {
		t.Errorf("kubectl get chartroom: %s %v", out, err)
	}
}

package tokens

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The Secrets that others depend on, entry by entry.
func TestSecretFormats(t *testing.T) {
	for name, c := range map[string]struct {
		formats []v1alpha1.SecretFormat
		tls     v1alpha1.TLSMode
		several bool
	}{
		"default":           {},
		"argocd":            {formats: []v1alpha1.SecretFormat{v1alpha1.FormatArgoCD}},
		"argocd-plain-http": {formats: []v1alpha1.SecretFormat{v1alpha1.FormatDockerConfigJSON, v1alpha1.FormatArgoCD}, tls: v1alpha1.TLSNone},
		"flux":              {formats: []v1alpha1.SecretFormat{v1alpha1.FormatFlux}},
		"several":           {several: true},
		"several-flux":      {several: true, formats: []v1alpha1.SecretFormat{v1alpha1.FormatFlux}},
	} {
		t.Run(name, func(t *testing.T) {
			token, registry := newToken(), newRegistry()
			token.Spec.SecretTemplate.Formats, registry.Spec.TLS.Mode = c.formats, c.tls
			all := registries(registry)
			if c.several {
				token = choosing()
				token.Spec.SecretTemplate.Formats = c.formats
				other := newRegistry()
				other.Name, other.Spec.Exposure.Host = "other", "charts.example.com:8443"
				all = registries(registry, other)
			}
			ca := []byte("PEM")
			if c.tls == v1alpha1.TLSNone {
				ca = nil
			}
			secret := BuildSecret(token, all, current(token, mint(t, 1), 0), ca)
			readable := map[string]string{}
			for key, value := range secret.Data {
				readable[key] = string(value)
			}
			secret.StringData, secret.Data = readable, nil
			got, err := yaml.Marshal(secret)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
				t.Error(diff)
			}
			// Whatever its form, it is read back, and recognised as the token's own.
			secret.StringData = nil
			secret.Data = BuildSecret(token, all, current(token, mint(t, 1), 0), ca).Data
			if d := Decide(Input{Token: token, Registries: all, Secret: secret, Now: now}); d.Action != Keep {
				t.Errorf("decided %v, %s (%s)", d.Action, d.Reason, d.Message)
			}
		})
	}
}

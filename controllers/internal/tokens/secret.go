package tokens

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// reservedDomains are those whose labels steer other controllers: with one of Argo CD's, for example, a tenant could
// make Argo CD take the Secret for a cluster's credentials.
// What they may be set to comes through secretTemplate.formats.
var reservedDomains = []string{"chartroom.dev", "kubernetes.io", "k8s.io", "argoproj.io", "fluxcd.io"}

// CheckTemplate says what is wrong with the labels and annotations of a template, and what to write instead.
func CheckTemplate(t v1alpha1.SecretTemplate) error {
	for _, key := range slices.Sorted(maps.Keys(t.Labels)) {
		if problems := validation.IsQualifiedName(key); len(problems) > 0 {
			return fmt.Errorf("secretTemplate.labels: the key %q is not one of a label: %s", key, problems[0])
		}
		if problems := validation.IsValidLabelValue(t.Labels[key]); len(problems) > 0 {
			return fmt.Errorf("secretTemplate.labels: the value of %q is not one of a label: %s", key, problems[0])
		}
		if reserved(key) {
			return fmt.Errorf("secretTemplate.labels: %q steers other controllers and cannot be set here; write a key of your own domain", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(t.Annotations)) {
		if problems := validation.IsQualifiedName(strings.ToLower(key)); len(problems) > 0 {
			return fmt.Errorf("secretTemplate.annotations: the key %q is not one of an annotation: %s", key, problems[0])
		}
		if below(key, "chartroom.dev") {
			return fmt.Errorf("secretTemplate.annotations: %q is the operator's own; write a key of your own domain", key)
		}
	}
	return nil
}

func reserved(key string) bool {
	if below(key, "app.kubernetes.io") {
		return key == v1alpha1.LabelManagedBy
	}
	return slices.ContainsFunc(reservedDomains, func(domain string) bool { return below(key, domain) })
}

// below reports whether a key's prefix is a domain or below it.
func below(key, domain string) bool {
	prefix, _, found := strings.Cut(key, "/")
	return found && (prefix == domain || strings.HasSuffix(prefix, "."+domain))
}

// BuildSecret returns the Secret that a RegistryToken publishes for its tokens of some registries, whole, owned by the
// RegistryToken. ca are the certificates of the registries' authorities in PEM, empty when there is none.
func BuildSecret(t *v1alpha1.RegistryToken, registries []*v1alpha1.HelmRegistry, c Credentials, ca []byte) *corev1.Secret {
	password := c.Current.Token.Reveal()
	data := map[string][]byte{
		KeyUsername: []byte(Username),
		KeyPassword: []byte(password),
	}
	if t.SecretType() == corev1.SecretTypeDockerConfigJson {
		data[corev1.DockerConfigJsonKey] = dockerConfig(registries, password)
	}
	if _, named := t.RegistryKey(); named {
		maps.Copy(data, single(t, registries[0]))
	}
	if len(ca) > 0 {
		data[KeyCA] = ca
	}
	labels := maps.Clone(t.Spec.SecretTemplate.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[v1alpha1.LabelManagedBy] = v1alpha1.ManagedBy
	labels[v1alpha1.LabelToken] = t.Name
	if t.HasFormat(v1alpha1.FormatArgoCD) {
		labels[labelArgoCD] = "repository"
	}
	if c.Next != nil {
		data[KeyNext] = []byte(c.Next.Token.Reveal())
	}
	yes := true
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		Type:     t.SecretType(),
		Data:     data,
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   t.Namespace,
			Name:        t.SecretName(),
			Labels:      labels,
			Annotations: annotations(t, c),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "RegistryToken", Name: t.Name, UID: t.UID, Controller: &yes,
			}},
		},
	}
}

// single returns the entries that tell of the one registry that a token is for. They would mean nothing with several.
func single(t *v1alpha1.RegistryToken, r *v1alpha1.HelmRegistry) map[string][]byte {
	data := map[string][]byte{KeyRegistry: []byte(r.Host()), KeyURL: []byte(r.URL())}
	if t.HasFormat(v1alpha1.FormatArgoCD) {
		maps.Copy(data, argoCDRepository(r))
	}
	return data
}

// annotations returns those of the Secret: the template's, and what a restore needs to know of the tokens.
func annotations(t *v1alpha1.RegistryToken, c Credentials) map[string]string {
	out := maps.Clone(t.Spec.SecretTemplate.Annotations)
	if out == nil {
		out = map[string]string{}
	}
	out[v1alpha1.AnnotationTokenID] = c.Current.ID
	out[v1alpha1.AnnotationIssuedAt] = c.Current.IssuedAt.UTC().Format(time.RFC3339)
	if at := c.Current.ExpiresAt; at != nil {
		out[v1alpha1.AnnotationExpiresAt] = at.UTC().Format(time.RFC3339)
	}
	if c.Next != nil {
		out[v1alpha1.AnnotationNextIssuedAt] = c.Next.IssuedAt.UTC().Format(time.RFC3339)
	}
	if c.Previous != nil {
		out[v1alpha1.AnnotationPreviousID] = c.Previous.ID
		out[v1alpha1.AnnotationPreviousSHA256] = c.Previous.SHA256
		out[v1alpha1.AnnotationPreviousExpiresAt] = c.Previous.ExpiresAt.UTC().Format(time.RFC3339)
	}
	if c.Handled != "" {
		out[v1alpha1.AnnotationRotationRequested] = c.Handled
	}
	return out
}

// labelArgoCD tells Argo CD what a Secret in its namespace is.
const labelArgoCD = "argocd.argoproj.io/secret-type"

// argoCDRepository returns the entries by which Argo CD knows a repository of Helm charts in an OCI registry. It writes the
// address without a scheme. An authority of the registry's own it must be told in its ConfigMap argocd-tls-certs-cm.
func argoCDRepository(r *v1alpha1.HelmRegistry) map[string][]byte {
	out := map[string][]byte{
		"type":      []byte("helm"),
		"name":      []byte(r.Name),
		"enableOCI": []byte("true"),
		KeyURL:      []byte(strings.TrimPrefix(r.OCIURL(), "oci://")),
	}
	if r.TLSMode() == v1alpha1.TLSNone {
		out["insecureOCIForceHttp"] = []byte("true")
	}
	return out
}

// dockerConfig returns the file that docker, helm and the kubelet read. helm keeps one credential for each host, so the
// keys are the bare host[:port].
func dockerConfig(registries []*v1alpha1.HelmRegistry, password string) []byte {
	type auth struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     string `json:"auth"`
	}
	auths := map[string]auth{}
	for _, r := range registries {
		auths[r.Host()] = auth{
			Username: Username,
			Password: password,
			Auth:     base64.StdEncoding.EncodeToString([]byte(Username + ":" + password)),
		}
	}
	//nolint:gosec // Holding the password is what the file is for.
	out, err := json.Marshal(map[string]map[string]auth{"auths": auths})
	if err != nil {
		panic(err) // Strings always encode.
	}
	return out
}

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
var reservedDomains = []string{"chartroom.dev", "kubernetes.io", "k8s.io", "argoproj.io"}

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

// BuildSecret returns the Secret that a RegistryToken publishes for a credential of a registry, whole, owned by the
// token. ca is the certificate of the registry's authority in PEM, empty when there is none.
func BuildSecret(t *v1alpha1.RegistryToken, r *v1alpha1.HelmRegistry, c Credential, ca []byte) *corev1.Secret {
	password := c.Token.Reveal()
	data := map[string][]byte{
		KeyUsername:                []byte(Username),
		KeyPassword:                []byte(password),
		KeyRegistry:                []byte(r.Host()),
		KeyURL:                     []byte(r.URL()),
		corev1.DockerConfigJsonKey: dockerConfig(r.Host(), password),
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
	annotations := maps.Clone(t.Spec.SecretTemplate.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[v1alpha1.AnnotationTokenID] = c.Token.ID()
	annotations[v1alpha1.AnnotationIssuedAt] = c.IssuedAt.UTC().Format(time.RFC3339)
	if c.ExpiresAt != nil {
		annotations[v1alpha1.AnnotationExpiresAt] = c.ExpiresAt.UTC().Format(time.RFC3339)
	}
	yes := true
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		Type:     corev1.SecretTypeDockerConfigJson,
		Data:     data,
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   t.Namespace,
			Name:        t.SecretName(),
			Labels:      labels,
			Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "RegistryToken", Name: t.Name, UID: t.UID, Controller: &yes,
			}},
		},
	}
}

// dockerConfig returns the file that docker, helm and the kubelet read. helm keeps one credential for each host, so the
// key is the bare host[:port].
func dockerConfig(host, password string) []byte {
	type auth struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     string `json:"auth"`
	}
	//nolint:gosec // Holding the password is what the file is for.
	out, err := json.Marshal(map[string]map[string]auth{"auths": {host: {
		Username: Username,
		Password: password,
		Auth:     base64.StdEncoding.EncodeToString([]byte(Username + ":" + password)),
	}}})
	if err != nil {
		panic(err) // Strings always encode.
	}
	return out
}

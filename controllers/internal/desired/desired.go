// Package desired says what should be in the cluster for one HelmRegistry. Everything here is a pure function of
// [Params]: the same parameters give the same objects.
//
// A change to what these functions give for an unchanged HelmRegistry rolls every registry when the operator is
// upgraded, so the golden files change on purpose or not at all.
package desired

import (
	"encoding/base64"
	"maps"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// Ports of a registry pod.
const (
	PortRegistry = 5000
	PortAdmin    = 5443
	PortMetrics  = 9090
)

// LabelMonitoring with the value "true" on a namespace lets its pods reach the metrics port of registries.
const LabelMonitoring = "chartroom.dev/monitoring"

// Entries of the Secrets and the ConfigMap.
const (
	EntryKeys        = "upload.keys"
	EntryCertificate = corev1.TLSCertKey
	EntryKey         = corev1.TLSPrivateKeyKey
	EntryAuthorities = "ca.crt"
)

// Params are all that the objects of a registry depend on.
type Params struct {
	// Registry is the HelmRegistry.
	Registry *v1alpha1.HelmRegistry
	// Image is the image of the registry server.
	Image string
	// AllowPodImages lets the pod template name images.
	AllowPodImages bool
	// AllowEgressCIDRs are networks in which the registry may ask issuers of OIDC tokens, and tell receivers of events,
	// although they are not public.
	AllowEgressCIDRs []string
	// OperatorNamespace is where the operator's pods are.
	OperatorNamespace string
	// ClaimSize is what the claim asks for.
	ClaimSize resource.Quantity
	// Shared says that the storage is of a kind that several pods can use at once.
	Shared bool
	// SingleWriter says that two of them must not write at once all the same, or that it is not known yet.
	SingleWriter bool
	// Purging says that the registry is being deleted with its charts: its pod only deletes, and what it needs has no owner,
	// so that it does not go before the registry does.
	Purging bool
	// Replicas is the number of pods, at least 1.
	Replicas int32
	// UploadKeys is the file of the keys that sign upload addresses.
	UploadKeys []byte
	// Serving is the certificate that clients see, with its key, when the operator signs it.
	Serving KeyPair
	// ServingAuthorities are the authorities that clients should trust, in PEM; empty when there is nothing to publish.
	ServingAuthorities []byte
	// Admin is the certificate of the admin port, with its key.
	Admin KeyPair
	// AdminAuthorities are the authorities of the operator's certificate, in PEM.
	AdminAuthorities []byte
}

// KeyPair is a certificate with its key, in PEM.
type KeyPair struct{ Certificate, Key []byte }

// KeysName is the name of the Secret of the upload keys.
func KeysName(r *v1alpha1.HelmRegistry) string { return r.Name + "-keys" }

// CertificateName is the name of the Secret of the certificate that the operator signs for clients.
func CertificateName(r *v1alpha1.HelmRegistry) string { return r.Name + "-tls" }

// AdminName is the name of the Secret of the admin port's certificate.
func AdminName(r *v1alpha1.HelmRegistry) string { return r.Name + "-admin" }

// AccessName is the name of the Secret of the access snapshot, which accesssync writes.
func AccessName(r *v1alpha1.HelmRegistry) string { return r.Name + "-access" }

// AuthoritiesName is the name of the ConfigMap of the authorities that clients should trust.
func AuthoritiesName(r *v1alpha1.HelmRegistry) string { return r.Name + "-ca" }

// ClaimName is the name of the claim that holds the charts.
func ClaimName(r *v1alpha1.HelmRegistry) string {
	if fs := r.Spec.Storage.Filesystem; fs != nil && fs.ExistingClaim != "" {
		return fs.ExistingClaim
	}
	return r.Name
}

// OwnsClaim says whether the operator makes the claim.
func OwnsClaim(r *v1alpha1.HelmRegistry) bool {
	if r.Spec.Storage.S3 != nil {
		return false
	}
	return r.Spec.Storage.Filesystem == nil || r.Spec.Storage.Filesystem.ExistingClaim == ""
}

// defaultClaimSize is what a claim asks for where nothing is written.
var defaultClaimSize = resource.MustParse("10Gi")

// ClaimSize is what the spec asks for.
func ClaimSize(r *v1alpha1.HelmRegistry) resource.Quantity {
	if fs := r.Spec.Storage.Filesystem; fs != nil && fs.Size != nil {
		return *fs.Size
	}
	return defaultClaimSize
}

// AccessMode is the access mode that the spec asks for.
func AccessMode(r *v1alpha1.HelmRegistry) corev1.PersistentVolumeAccessMode {
	if fs := r.Spec.Storage.Filesystem; fs != nil && fs.AccessMode != "" {
		return fs.AccessMode
	}
	return corev1.ReadWriteOnce
}

// ServiceNames are the names by which pods of the cluster reach the registry's Service.
func ServiceNames(r *v1alpha1.HelmRegistry) []string {
	short := r.Name + "." + r.Namespace
	return []string{short + ".svc", short + ".svc.cluster.local", short, r.Name}
}

// CertificateNames are the DNS names and addresses of the certificate that the operator signs for clients.
func CertificateNames(r *v1alpha1.HelmRegistry, allowedSuffixes []string) ([]string, []net.IP) {
	names := append(ServiceNames(r), "localhost")
	if host := Hostname(r); HostAllowed(r, allowedSuffixes) && host != names[0] && net.ParseIP(host) == nil {
		names = append(names, host)
	}
	return names, []net.IP{net.IPv4(127, 0, 0, 1).To4()}
}

// Hostname is the registry's host without its port.
func Hostname(r *v1alpha1.HelmRegistry) string {
	host, _, _ := strings.Cut(r.Host(), ":")
	return host
}

// HostAllowed says whether the operator may sign a certificate for the registry's host: one of its own Service names,
// localhost, 127.0.0.1, or a name below one of the suffixes. A suffix matches whole labels only.
func HostAllowed(r *v1alpha1.HelmRegistry, allowedSuffixes []string) bool {
	host := Hostname(r)
	for _, own := range append(ServiceNames(r), "localhost", "127.0.0.1") {
		if host == own {
			return true
		}
	}
	for _, suffix := range allowedSuffixes {
		suffix = strings.TrimPrefix(suffix, ".")
		if suffix != "" && (host == suffix || strings.HasSuffix(host, "."+suffix)) {
			return true
		}
	}
	return false
}

// Build returns every object of a registry.
func Build(p Params) ([]client.Object, error) {
	var out []client.Object
	if OwnsClaim(p.Registry) {
		out = append(out, Claim(p))
	}
	out = append(out, Keys(p), Admin(p))
	if p.Registry.TLSMode() == v1alpha1.TLSSelfSigned {
		out = append(out, Certificate(p))
	}
	if len(p.ServingAuthorities) > 0 {
		out = append(out, Authorities(p))
	}
	deployment, err := Deployment(p)
	if err != nil {
		return nil, err
	}
	out = append(out, deployment, Service(p), NetworkPolicy(p))
	if p.Replicas > 1 {
		out = append(out, DisruptionBudget(p))
	}
	return out, nil
}

// Labels are on every object of a registry.
func Labels(r *v1alpha1.HelmRegistry) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name":     "chartroom",
		"app.kubernetes.io/instance": r.Name,
		v1alpha1.LabelManagedBy:      v1alpha1.ManagedBy,
		v1alpha1.LabelRegistry:       r.Name,
	}
}

// selector chooses the pods of a registry. A Deployment's selector can never change, so neither does this.
func selector(r *v1alpha1.HelmRegistry) map[string]string {
	return map[string]string{"app.kubernetes.io/name": "chartroom", v1alpha1.LabelRegistry: r.Name}
}

// meta is the metadata of an object that goes when the registry goes.
func meta(r *v1alpha1.HelmRegistry, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: r.Namespace, Name: name, Labels: Labels(r),
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r, v1alpha1.GroupVersion.WithKind("HelmRegistry"))},
	}
}

// Claim is the claim that holds the charts. It has no owner reference: it outlives the registry, see deletionPolicy.
func Claim(p Params) *corev1.PersistentVolumeClaim {
	m := meta(p.Registry, ClaimName(p.Registry))
	m.OwnerReferences = nil
	claim := &corev1.PersistentVolumeClaim{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}, ObjectMeta: m,
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{AccessMode(p.Registry)},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: p.ClaimSize}},
		},
	}
	if fs := p.Registry.Spec.Storage.Filesystem; fs != nil {
		claim.Spec.StorageClassName = fs.StorageClassName
	}
	return claim
}

// Keys is the Secret of the keys that sign upload addresses.
func Keys(p Params) *corev1.Secret {
	return secret(p.Registry, KeysName(p.Registry), corev1.SecretTypeOpaque, map[string][]byte{EntryKeys: p.UploadKeys})
}

// Certificate is the Secret of the certificate that the operator signs for clients.
func Certificate(p Params) *corev1.Secret {
	return secret(p.Registry, CertificateName(p.Registry), corev1.SecretTypeTLS,
		map[string][]byte{EntryCertificate: p.Serving.Certificate, EntryKey: p.Serving.Key})
}

// Admin is the Secret of the admin port: its certificate, and the authorities of those whom it lets in.
func Admin(p Params) *corev1.Secret {
	out := secret(p.Registry, AdminName(p.Registry), corev1.SecretTypeTLS, map[string][]byte{
		EntryCertificate: p.Admin.Certificate, EntryKey: p.Admin.Key, EntryAuthorities: p.AdminAuthorities,
	})
	if p.Purging {
		out.OwnerReferences = nil
	}
	return out
}

func secret(r *v1alpha1.HelmRegistry, name string, kind corev1.SecretType, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: meta(r, name), Type: kind, Data: data,
	}
}

// Authorities is the ConfigMap of the authorities that clients should trust.
func Authorities(p Params) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: meta(p.Registry, AuthoritiesName(p.Registry)),
		Data:       map[string]string{EntryAuthorities: string(p.ServingAuthorities)},
	}
}

// Service is where clients in the cluster reach the registry. It sends them only to pods that carry LabelServing, and
// LabelManagedBy, without which the operator does not see them and cannot tell them of a revocation.
func Service(p Params) *corev1.Service {
	m := meta(p.Registry, p.Registry.Name)
	m.Annotations = maps.Clone(p.Registry.Spec.Exposure.Service.Annotations)
	pods := selector(p.Registry)
	pods[v1alpha1.LabelServing] = "true"
	pods[v1alpha1.LabelManagedBy] = v1alpha1.ManagedBy
	port := corev1.ServicePort{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(PortRegistry)}
	if p.Registry.TLSMode() == v1alpha1.TLSNone {
		port.Name, port.Port = "http", 80
	}
	kind := p.Registry.Spec.Exposure.Service.Type
	if kind == "" {
		kind = corev1.ServiceTypeClusterIP
	}
	return &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: m,
		Spec: corev1.ServiceSpec{Type: kind, Selector: pods, Ports: []corev1.ServicePort{port}},
	}
}

// DisruptionBudget lets those who drain nodes take one pod at a time. A pod that is not ready serves nobody and holds
// nobody up.
func DisruptionBudget(p Params) *policyv1.PodDisruptionBudget {
	one, always := intstr.FromInt32(1), policyv1.AlwaysAllow
	return &policyv1.PodDisruptionBudget{
		TypeMeta:   metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"},
		ObjectMeta: meta(p.Registry, p.Registry.Name),
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable:             &one,
			UnhealthyPodEvictionPolicy: &always,
			Selector:                   &metav1.LabelSelector{MatchLabels: selector(p.Registry)},
		},
	}
}

// NetworkPolicy leaves the public port open, and admits to the admin port only the operator's pods and to the metrics
// port only namespaces that are labelled for it. The kubelet's probes come from the pod's own node, whose traffic
// Kubernetes always lets through. What pods connect to, an S3 server for one, is not restricted. Whether a policy is enforced is up to the cluster's network plugin.
func NetworkPolicy(p Params) *networkingv1.NetworkPolicy {
	tcp := corev1.ProtocolTCP
	port := func(number int32) []networkingv1.NetworkPolicyPort {
		value := intstr.FromInt32(number)
		return []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &value}}
	}
	operator := networkingv1.NetworkPolicyPeer{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: p.OperatorNamespace}},
		PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": "chartroom-operator"}},
	}
	monitoring := networkingv1.NetworkPolicyPeer{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{LabelMonitoring: "true"}},
	}
	return &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: meta(p.Registry, p.Registry.Name),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: selector(p.Registry)},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{
				{Ports: port(PortRegistry)},
				{Ports: port(PortAdmin), From: []networkingv1.NetworkPolicyPeer{operator}},
				{Ports: port(PortMetrics), From: []networkingv1.NetworkPolicyPeer{monitoring}},
			},
		},
	}
}

// EncodeKey writes an upload key as the server reads it.
func EncodeKey(key [32]byte) []byte {
	return []byte(base64.StdEncoding.EncodeToString(key[:]) + "\n")
}

// ValidKeys says whether the server can read a file of upload keys.
func ValidKeys(file []byte) bool {
	for line := range strings.Lines(string(file)) {
		key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(line))
		if err != nil || len(key) != 32 {
			return false
		}
	}
	return len(file) > 0
}

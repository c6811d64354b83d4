// Package v1alpha1 holds the kinds of the group chartroom.dev.
//
// +kubebuilder:object:generate=true
// +groupName=chartroom.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is chartroom.dev/v1alpha1.
var GroupVersion = schema.GroupVersion{Group: "chartroom.dev", Version: "v1alpha1"}

// AddToScheme registers the kinds with a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &HelmRegistry{}, &HelmRegistryList{}, &RegistryToken{}, &RegistryTokenList{}, &OIDCPolicy{}, &OIDCPolicyList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

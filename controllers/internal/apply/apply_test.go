package apply_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/chartroom-dev/chartroom/controllers/internal/apply"
)

const owner = "manager"

func service() *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s", Labels: map[string]string{"a": "b"}, Finalizers: []string{"x/y"}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"c": "d"},
			Ports:    []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(5000)}},
		},
	}
}

// owned is what an API server writes down after service() was applied.
const owned = `{"f:metadata":{"f:labels":{"f:a":{}},"f:finalizers":{"v:\"x/y\"":{}}},"f:spec":{"f:ports":{"k:{\"port\":443,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:targetPort":{}}},"f:selector":{}}}`

// live is service() as an API server answers it, with its defaults and what others added.
func live(fields string) *corev1.Service {
	s := service()
	s.Spec.Ports[0].Protocol = corev1.ProtocolTCP
	s.Spec.ClusterIP = "10.0.0.1"
	s.Labels["theirs"] = "x"
	s.ManagedFields = []metav1.ManagedFieldsEntry{
		{Manager: "other", Operation: metav1.ManagedFieldsOperationUpdate, FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:theirs":{}}}}`)},
		{Manager: owner, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(fields)},
	}
	return s
}

func TestHolds(t *testing.T) {
	tests := map[string]struct {
		live, want func(*corev1.Service)
		fields     string
		holds      bool
	}{
		"unchanged":                            {nil, nil, owned, true},
		"never applied":                        {func(s *corev1.Service) { s.ManagedFields = nil }, nil, owned, false},
		"applied to a subresource":             {func(s *corev1.Service) { s.ManagedFields[1].Subresource = "status" }, nil, owned, false},
		"another wanted value":                 {nil, func(s *corev1.Service) { s.Labels["a"] = "c" }, owned, false},
		"another wanted field":                 {nil, func(s *corev1.Service) { s.Labels["n"] = "c" }, owned, false},
		"a field no longer wanted":             {nil, func(s *corev1.Service) { s.Labels = nil }, owned, false},
		"another wanted item":                  {nil, func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 1}) }, owned, false},
		"an item no longer wanted":             {nil, func(s *corev1.Service) { s.Spec.Ports = nil }, owned, false},
		"another key":                          {nil, func(s *corev1.Service) { s.Spec.Ports[0].Port = 80 }, owned, false},
		"another value in an item":             {nil, func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(1) }, owned, false},
		"another value in a whole":             {nil, func(s *corev1.Service) { s.Spec.Selector["c"] = "e" }, owned, false},
		"a member of a set no longer wanted":   {nil, func(s *corev1.Service) { s.Finalizers = nil }, owned, false},
		"another member of a set":              {nil, func(s *corev1.Service) { s.Finalizers = []string{"z/z"} }, owned, false},
		"a set that lost its member":           {func(s *corev1.Service) { s.Finalizers = nil }, nil, owned, false},
		"a field that somebody else has taken": {nil, nil, `{"f:metadata":{"f:labels":{},"f:finalizers":{"v:\"x/y\"":{}}},"f:spec":{"f:ports":{"k:{\"port\":443,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{}}},"f:selector":{}}}`, false},
		"a live value that is gone":            {func(s *corev1.Service) { s.Spec.Selector = nil }, nil, owned, false},
		"an item that is gone":                 {func(s *corev1.Service) { s.Spec.Ports = nil }, nil, owned, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			have, want := live(test.fields), service()
			if test.live != nil {
				test.live(have)
			}
			if test.want != nil {
				test.want(want)
			}
			got, err := apply.Applier{Owner: owner}.Holds(have, want)
			if err != nil || got != test.holds {
				t.Errorf("holds is %t (%v), want %t", got, err, test.holds)
			}
		})
	}
}

func TestApplyCallsOnlyWhenNeeded(t *testing.T) {
	c := fake.NewClientBuilder().WithReturnManagedFields().Build()
	a := apply.Applier{Client: c, Owner: owner}
	want := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}, Data: map[string]string{"a": "b"}}
	steps := []struct {
		data    map[string]string
		changed bool
	}{
		{map[string]string{"a": "b"}, true}, {map[string]string{"a": "b"}, false}, {map[string]string{"a": "c"}, true}, {map[string]string{"x": "y"}, true}, {map[string]string{"x": "y"}, false},
	}
	var have *corev1.ConfigMap
	for i, step := range steps {
		want.Data = step.data
		var changed bool
		var err error
		if have == nil {
			changed, err = a.Apply(t.Context(), nil, want)
			have = &corev1.ConfigMap{}
		} else {
			changed, err = a.Apply(t.Context(), have, want)
		}
		if err != nil || changed != step.changed {
			t.Fatalf("step %d: changed is %t (%v), want %t", i, changed, err, step.changed)
		}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(want), have); err != nil {
			t.Fatal(err)
		}
		if len(have.Data) != len(step.data) {
			t.Fatalf("step %d: there is %v, want %v", i, have.Data, step.data)
		}
	}
}

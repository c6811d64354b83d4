package helmregistry_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/pki"
)

func TestReadyOnlyWhenEverythingIsInForce(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	condition(t, r, v1alpha1.ConditionStorageReady, metav1.ConditionFalse, "ClaimNotBound")
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, "ClaimNotBound")
	bind(t, r, "charts")
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, "RolloutInProgress")
	condition(t, r, v1alpha1.ConditionCertificateReady, metav1.ConditionTrue, "")
	cutOff.Store(true)
	rollOut(t, r)
	condition(t, r, v1alpha1.ConditionAvailable, metav1.ConditionFalse, "ServiceNotReached")
	cutOff.Store(false)
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, "Pending")
	accesses.Set(client.ObjectKeyFromObject(r), ledger.State{Generation: 1, Revision: 3, Total: 1, Reason: ledger.ReasonWaitingForReplicas, Message: "waiting"})
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, ledger.ReasonWaitingForReplicas)
	accesses.Set(client.ObjectKeyFromObject(r), ledger.State{Generation: 2, Revision: 3, Confirmed: 1, Total: 1})
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")

	want := v1alpha1.HelmRegistryStatus{
		ObservedGeneration: 1,
		URL:                "https://charts." + r.Namespace + ".svc/" + r.Namespace + "/charts",
		OCIURL:             "oci://charts." + r.Namespace + ".svc/" + r.Namespace + "/charts",
		RepositoryURL:      "https://charts." + r.Namespace + ".svc/" + r.Namespace + "/charts/helm",
		Image:              image,
		Replicas:           1,
		ReadyReplicas:      1,
		Access:             &v1alpha1.AccessStatus{Revision: 3, Confirmed: 1, Total: 1},
		Instructions:       r.Status.Instructions,
	}
	got := r.Status
	got.Conditions = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if !strings.Contains(r.Status.Instructions.Login, "configmap charts-ca") {
		t.Errorf("the login line does not fetch the authority: %s", r.Status.Instructions.Login)
	}
	var list eventsv1.EventList
	eventually(t, "there is an event of becoming ready", func() bool {
		if err := env.Client.List(t.Context(), &list, client.InNamespace(r.Namespace)); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool { return e.Reason == "Ready" && e.Type == corev1.EventTypeNormal })
	})

	// A change that rolls pods takes Ready back until the last old pod is gone.
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.TLS.Mode = v1alpha1.TLSNone })
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, "RolloutInProgress")
	rollOut(t, r)
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")
}

func TestServingCertificateIsValidForTheService(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{Exposure: v1alpha1.Exposure{Host: "one.example.com:8443"}})
	bringUp(t, r)
	secret := get(t, &corev1.Secret{}, r.Namespace, "charts-tls")
	bundle := get(t, &corev1.ConfigMap{}, r.Namespace, "charts-ca").Data["ca.crt"]
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(bundle))
	for _, host := range []string{"charts." + r.Namespace + ".svc", "charts." + r.Namespace + ".svc.cluster.local", "charts." + r.Namespace, "charts", "localhost", "127.0.0.1", "one.example.com"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots}); err != nil {
			t.Errorf("the certificate is not valid for %s: %v", host, err)
		}
	}
	if names := pair.Leaf.DNSNames; len(names) != 6 {
		t.Errorf("the certificate is for %q, want no other names", names)
	}
}

func TestDriftComesBack(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{Description: "before"})
	bringUp(t, r)
	children := map[string]struct {
		name string
		make func() client.Object
		edit func(client.Object)
	}{
		"Deployment": {"charts", func() client.Object { return &appsv1.Deployment{} }, func(o client.Object) {
			o.(*appsv1.Deployment).Spec.Template.Spec.Containers[0].Args = []string{"serve"}
		}},
		"Deployment's replicas": {"charts", func() client.Object { return &appsv1.Deployment{} }, func(o client.Object) {
			*o.(*appsv1.Deployment).Spec.Replicas = 0
		}},
		"Deployment's label": {"charts", func() client.Object { return &appsv1.Deployment{} }, func(o client.Object) {
			delete(o.GetLabels(), v1alpha1.LabelManagedBy)
		}},
		"Service": {"charts", func() client.Object { return &corev1.Service{} }, func(o client.Object) {
			o.(*corev1.Service).Spec.Selector[v1alpha1.LabelServing] = "false"
		}},
		"NetworkPolicy": {"charts", func() client.Object { return &networkingv1.NetworkPolicy{} }, func(o client.Object) {
			p := o.(*networkingv1.NetworkPolicy)
			p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
		}},
		"keys": {"charts-keys", func() client.Object { return &corev1.Secret{} }, func(o client.Object) {
			o.(*corev1.Secret).Data = map[string][]byte{"upload.keys": []byte("nonsense")}
		}},
		"certificate": {"charts-tls", func() client.Object { return &corev1.Secret{} }, func(o client.Object) {
			s := o.(*corev1.Secret)
			s.Data["tls.crt"] = []byte("nonsense")
		}},
		"admin certificate": {"charts-admin", func() client.Object { return &corev1.Secret{} }, func(o client.Object) {
			o.(*corev1.Secret).Data["ca.crt"] = []byte("nonsense")
		}},
		"authorities": {"charts-ca", func() client.Object { return &corev1.ConfigMap{} }, func(o client.Object) {
			o.(*corev1.ConfigMap).Data["ca.crt"] = "nonsense"
		}},
	}
	for name, child := range children {
		t.Run(name+" edited", func(t *testing.T) {
			live := get(t, child.make(), r.Namespace, child.name)
			edited := live.DeepCopyObject().(client.Object)
			child.edit(edited)
			if err := env.Client.Update(t.Context(), edited); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the edit is undone", func() bool { return restored(t, live, edited, child.make()) })
		})
		t.Run(name+" deleted", func(t *testing.T) {
			live := get(t, child.make(), r.Namespace, child.name)
			if err := env.Client.Delete(t.Context(), live); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is back", func() bool {
				back := child.make()
				err := env.Client.Get(t.Context(), client.ObjectKeyFromObject(live), back)
				return err == nil && back.GetUID() != live.GetUID()
			})
		})
	}
	becomeReady(t, r)
}

// restored says whether an edited object is as before: spec and data equal, where they are not made anew.
func restored(t *testing.T, before, edited, now client.Object) bool {
	t.Helper()
	get(t, now, before.GetNamespace(), before.GetName())
	if now.GetResourceVersion() == edited.GetResourceVersion() {
		return false
	}
	if !reflect.DeepEqual(before.GetLabels(), now.GetLabels()) {
		return false
	}
	switch b := before.(type) {
	case *appsv1.Deployment:
		return reflect.DeepEqual(b.Spec, now.(*appsv1.Deployment).Spec)
	case *corev1.Service:
		return reflect.DeepEqual(b.Spec, now.(*corev1.Service).Spec)
	case *networkingv1.NetworkPolicy:
		return reflect.DeepEqual(b.Spec, now.(*networkingv1.NetworkPolicy).Spec)
	case *corev1.ConfigMap:
		return reflect.DeepEqual(b.Data, now.(*corev1.ConfigMap).Data)
	case *corev1.Secret:
		for _, value := range now.(*corev1.Secret).Data {
			if string(value) == "nonsense" {
				return false
			}
		}
	}
	return true
}

func TestNothingChangedMeansNoMutatingCall(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{
		PodTemplate: &runtime.RawExtension{Raw: []byte(`{"metadata":{"annotations":{"a":"b"}},"spec":{"tolerations":[{"key":"x","operator":"Exists"}],"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"ScheduleAnyway"}],"containers":[{"name":"registry","env":[{"name":"A","value":"b"}],"resources":{"limits":{"memory":"0.5Gi","cpu":1}}}]}}`)},
		Exposure:    v1alpha1.Exposure{Service: v1alpha1.ServiceExposure{Annotations: map[string]string{"a": "b"}}},
	})
	bringUp(t, r)
	given := registry(t, v1alpha1.HelmRegistrySpec{TLS: v1alpha1.TLS{Mode: v1alpha1.TLSNone}})
	bringUp(t, given)
	settle(t)
	before, err := env.OperatorCalls()
	if err != nil {
		t.Fatal(err)
	}
	// Each of these wakes the controller without changing anything that it is responsible for.
	for i := range 3 {
		for _, each := range []*v1alpha1.HelmRegistry{r, given} {
			get(t, each, each.Namespace, each.Name)
			metav1.SetMetaDataAnnotation(&each.ObjectMeta, "touched", strings.Repeat("x", i+1))
			if err := env.Client.Update(t.Context(), each); err != nil {
				t.Fatal(err)
			}
			child := get(t, &corev1.Service{}, each.Namespace, "charts")
			metav1.SetMetaDataAnnotation(&child.ObjectMeta, "touched", strings.Repeat("x", i+1))
			if err := env.Client.Update(t.Context(), child); err != nil {
				t.Fatal(err)
			}
		}
		settle(t)
	}
	// Neither does an operator that has just started, which sees everything for the first time.
	second, err := operator(accesses)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- second.Start(ctx) }()
	if !second.GetCache().WaitForCacheSync(ctx) {
		t.Fatal("the second operator did not start")
	}
	settle(t)
	cancel()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	after, err := env.OperatorCalls()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the operator made calls (-before +after):\n%s", diff)
	}
}

// settle waits until the operator has made no call for a second.
func settle(t *testing.T) {
	t.Helper()
	count, since := -1, time.Now()
	eventually(t, "the operator is at rest", func() bool {
		calls, err := env.OperatorCalls()
		if err != nil {
			t.Fatal(err)
		}
		if len(calls) != count {
			count, since = len(calls), time.Now()
		}
		return time.Since(since) > time.Second
	})
}

// The API server's own admission judges the pods, in a namespace that enforces the restricted profile.
func TestPodsAreAdmittedWhereRestrictedIsEnforced(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	enforced := get(t, &corev1.Namespace{}, "", r.Namespace)
	enforced.Labels["pod-security.kubernetes.io/enforce"] = "restricted"
	if err := env.Client.Update(t.Context(), enforced); err != nil {
		t.Fatal(err)
	}
	template := get(t, &appsv1.Deployment{}, r.Namespace, "charts").Spec.Template
	pod := func() *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: "probe", Labels: template.Labels}, Spec: *template.Spec.DeepCopy()}
	}
	if err := env.Client.Create(t.Context(), pod(), client.DryRunAll); err != nil {
		t.Error(err)
	}
	loose := pod()
	loose.Spec.SecurityContext.SeccompProfile = nil
	eventually(t, "the namespace enforces the profile", func() bool {
		return apierrors.IsForbidden(env.Client.Create(t.Context(), loose.DeepCopy(), client.DryRunAll))
	})
	if err := env.Client.Create(t.Context(), pod(), client.DryRunAll); err != nil {
		t.Error(err)
	}
}

func TestTextsRollNothing(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	before := get(t, &appsv1.Deployment{}, r.Namespace, "charts")
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) {
		s.DisplayName, s.Description, s.Visibility = "x", "text", v1alpha1.VisibilityPublic
		s.AllowedNamespaces.From, s.DeletionPolicy = v1alpha1.NamespacesAll, v1alpha1.DeletionDelete
	})
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionTrue, "")
	if after := get(t, &appsv1.Deployment{}, r.Namespace, "charts"); after.Generation != before.Generation {
		t.Errorf("the Deployment changed: %s", cmp.Diff(before.Spec, after.Spec))
	}
}

func TestForeignObjectsAreNotTouched(t *testing.T) {
	foreign := map[string]client.Object{
		"Deployment": &appsv1.Deployment{Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		}},
		"Service":               &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}},
		"NetworkPolicy":         &networkingv1.NetworkPolicy{},
		"PersistentVolumeClaim": &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}},
		"Secret":                &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "charts-keys"}, Data: map[string][]byte{"a": []byte("b")}},
		"ConfigMap":             &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "charts-ca"}, Data: map[string]string{"a": "b"}},
	}
	for kind, object := range foreign {
		t.Run(kind, func(t *testing.T) {
			r := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: namespace(t), Name: "charts"}}
			object.SetNamespace(r.Namespace)
			if object.GetName() == "" {
				object.SetName("charts")
			}
			create(t, object)
			version := object.GetResourceVersion()
			create(t, r)
			c := condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NameTaken")
			if !strings.Contains(c.Message, kind+" "+object.GetName()) {
				t.Errorf("the message does not name the object: %s", c.Message)
			}
			if get(t, object, r.Namespace, object.GetName()); object.GetResourceVersion() != version {
				t.Errorf("the foreign %s was changed", kind)
			}
			if err := env.Client.Delete(t.Context(), object); err != nil {
				t.Fatal(err)
			}
			// No event need tell of the end of an object that is nobody's; an edit of the registry does.
			update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Description = "again" })
			if kind == "PersistentVolumeClaim" {
				object.SetFinalizers(nil)
				if err := env.Client.Update(t.Context(), object); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
					t.Fatal(err)
				}
			}
		})
	}
}

// A name under which somebody else's Service is, is not the registry's own.
func TestNoCertificateForTheNameOfAForeignService(t *testing.T) {
	n := namespace(t)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: n, Name: "bank"}}
	service.Spec.Ports = []corev1.ServicePort{{Port: 443}}
	create(t, service)
	r := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: n, Name: "bank"}}
	create(t, r)
	condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NameTaken")
	condition(t, r, v1alpha1.ConditionCertificateReady, metav1.ConditionFalse, "NameTaken")
	err := env.Client.Get(t.Context(), types.NamespacedName{Namespace: n, Name: "bank-tls"}, &corev1.Secret{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("a certificate was signed for bank.%s.svc: %v", n, err)
	}
	if err := env.Client.Delete(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Description = "so that the operator looks again at once" })
	condition(t, r, v1alpha1.ConditionCertificateReady, metav1.ConditionTrue, "")
}

func TestAddressBelongsToTheOlder(t *testing.T) {
	older := registry(t, v1alpha1.HelmRegistrySpec{Exposure: v1alpha1.Exposure{Host: "taken.example.com"}})
	bringUp(t, older)
	eventually(t, "it is another second, in which times of creation are kept", func() bool {
		return time.Since(older.CreationTimestamp.Time) > 1100*time.Millisecond
	})
	younger := registry(t, v1alpha1.HelmRegistrySpec{Exposure: v1alpha1.Exposure{Host: "taken.example.com"}})
	c := condition(t, younger, v1alpha1.ConditionStalled, metav1.ConditionTrue, "AddressTaken")
	if strings.Contains(c.Message, older.Namespace) {
		t.Errorf("the message gives another namespace away: %s", c.Message)
	}
	condition(t, older, v1alpha1.ConditionReady, metav1.ConditionTrue, "")
	if err := env.Client.Delete(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	bringUp(t, younger)

	// Nobody takes away the name of another's Service.
	squatter := registry(t, v1alpha1.HelmRegistrySpec{Exposure: v1alpha1.Exposure{Host: "charts." + younger.Namespace + ".svc"}})
	update(t, younger, func(s *v1alpha1.HelmRegistrySpec) { s.Exposure.Host = "" })
	condition(t, squatter, v1alpha1.ConditionStalled, metav1.ConditionTrue, "AddressTaken")
	becomeReady(t, younger)
}

func TestAddressIsTheSameHoweverItIsWritten(t *testing.T) {
	older := registry(t, v1alpha1.HelmRegistrySpec{Exposure: v1alpha1.Exposure{Host: "one-name.example.com"}})
	bringUp(t, older)
	eventually(t, "it is another second, in which times of creation are kept", func() bool {
		return time.Since(older.CreationTimestamp.Time) > 1100*time.Millisecond
	})
	for name, spec := range map[string]v1alpha1.HelmRegistrySpec{
		"the usual port": {Exposure: v1alpha1.Exposure{Host: "one-name.example.com:443"}},
		"the usual port without TLS": {
			Exposure: v1alpha1.Exposure{Host: "one-name.example.com:80"}, TLS: v1alpha1.TLS{Mode: v1alpha1.TLSNone}},
		"the name of another's Service": {
			Exposure: v1alpha1.Exposure{Host: "charts." + older.Namespace + ".svc.cluster.local:8443"}, TLS: v1alpha1.TLS{}},
		// A certificate is for a name, whatever the port.
		"another port, with a certificate of the operator's": {Exposure: v1alpha1.Exposure{Host: "one-name.example.com:8443"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := registry(t, spec)
			c := condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "")
			if c.Reason != "AddressTaken" && c.Reason != "HostNotAllowed" || strings.Contains(c.Message, "namespace "+older.Namespace) {
				t.Errorf("%s: %s", c.Reason, c.Message)
			}
			if r.TLSMode() == v1alpha1.TLSNone {
				return
			}
			secret := get(t, &corev1.Secret{}, r.Namespace, "charts-tls")
			pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
			if err != nil {
				t.Fatal(err)
			}
			if host, _, _ := strings.Cut(r.Spec.Exposure.Host, ":"); pair.Leaf.VerifyHostname(host) == nil {
				t.Errorf("it has a certificate for %s", host)
			}
		})
	}
	beside := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: older.Namespace, Name: "beside"},
		Spec: v1alpha1.HelmRegistrySpec{Exposure: v1alpha1.Exposure{Host: "one-name.example.com:8443"}}}
	create(t, beside)
	condition(t, beside, v1alpha1.ConditionCertificateReady, metav1.ConditionTrue, "")
	refresh(t, beside)
	if c := beside.Status.Conditions[0]; c.Reason == "AddressTaken" {
		t.Errorf("a second port of one's own name: %s", c.Message)
	}
}

// What the API server says to an object of the registry is told to its owner, who cannot read the operator's log.
func TestRefusalsOfTheAPIServerAreTold(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{Exposure: v1alpha1.Exposure{Service: v1alpha1.ServiceExposure{Annotations: map[string]string{"no key": "x"}}}})
	bind(t, r, "charts")
	if c := condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "ObjectRefused"); !strings.Contains(c.Message, "no key") {
		t.Errorf("the message does not say what is wrong: %s", c.Message)
	}
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Exposure.Service.Annotations = nil })
	bringUp(t, r)

	full := namespace(t)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: full, Name: "none"}}
	quota.Spec.Hard = corev1.ResourceList{corev1.ResourceSecrets: resource.MustParse("0")}
	create(t, quota)
	quota.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard, Used: quota.Spec.Hard}
	if err := env.Client.Status().Update(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	r = &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: full, Name: "charts"}}
	create(t, r)
	if c := condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, "ObjectRefused"); !strings.Contains(c.Message, "exceeded quota: none") {
		t.Errorf("the message does not name the quota: %s", c.Message)
	}
}

func TestHostOutsideOfTheAllowedDomains(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{Exposure: v1alpha1.Exposure{Host: "www.bank.test"}})
	condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "HostNotAllowed")
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Exposure.Host = "" })
	bringUp(t, r)
}

func TestPodTemplate(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	before := get(t, &appsv1.Deployment{}, r.Namespace, "charts")
	for template, field := range map[string]string{
		`{"spec":{"serviceAccountName":"admin"}}`:                                         "spec.serviceAccountName",
		`{"spec":{"containers":[{"name":"registry","image":"other"}]}}`:                   "spec.containers[registry].image",
		`{"spec":{"runtimeClassName":"Not A Name"}}`:                                      "runtimeClassName",
		`{"spec":{"volumes":[{"name":"x","hostPath":{"path":"/"}}]}}`:                     "spec.volumes[x]",
		`{"spec":{"containers":[{"name":"registry","securityContext":{"runAsUser":0}}]}}`: "spec.containers[registry].securityContext.runAsUser",
	} {
		update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.PodTemplate = &runtime.RawExtension{Raw: []byte(template)} })
		c := condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "PodTemplateRefused")
		if !strings.Contains(c.Message, field) {
			t.Errorf("%s: the message does not name the field %s: %s", template, field, c.Message)
		}
	}
	if after := get(t, &appsv1.Deployment{}, r.Namespace, "charts"); after.Generation != before.Generation {
		t.Error("a refused template changed the Deployment")
	}
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) {
		s.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"priorityClassName":"high","containers":[{"name":"registry","resources":{"limits":{"memory":"1Gi"}}}]}}`)}
	})
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, "RolloutInProgress")
	after := get(t, &appsv1.Deployment{}, r.Namespace, "charts").Spec.Template.Spec
	if after.PriorityClassName != "high" || after.Containers[0].Resources.Limits.Memory().String() != "1Gi" {
		t.Errorf("the template was not merged: %+v", after)
	}
	// What is taken out of the template is taken out of the Deployment.
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.PodTemplate = nil })
	eventually(t, "the Deployment is as it was", func() bool {
		return reflect.DeepEqual(before.Spec, get(t, &appsv1.Deployment{}, r.Namespace, "charts").Spec)
	})
}

func TestClaimGrows(t *testing.T) {
	size := func(s string) v1alpha1.Storage {
		q := resource.MustParse(s)
		return v1alpha1.Storage{Filesystem: &v1alpha1.FilesystemStorage{Size: &q, StorageClassName: ptr("stiff")}}
	}
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "stiff"}, Provisioner: "x.test/y"}
	create(t, class)
	r := registry(t, v1alpha1.HelmRegistrySpec{Storage: size("1Gi")})
	bringUp(t, r)
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Storage = size("2Gi") })
	condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "ExpansionNotSupported")
	class.AllowVolumeExpansion = ptr(true)
	if err := env.Client.Update(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Description = "again" })
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionTrue, "")
	claim := get(t, &corev1.PersistentVolumeClaim{}, r.Namespace, "charts")
	if got := claim.Spec.Resources.Requests[corev1.ResourceStorage]; got.String() != "2Gi" {
		t.Errorf("the claim asks for %s, want 2Gi", got.String())
	}
}

func TestExistingClaimIsOnlyUsed(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{Storage: v1alpha1.Storage{Filesystem: &v1alpha1.FilesystemStorage{ExistingClaim: "mine"}}})
	condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "ClaimNotFound")
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: "mine"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	create(t, claim)
	bind(t, r, "mine")
	confirm(r)
	becomeReady(t, r)
	if s := get(t, &appsv1.Deployment{}, r.Namespace, "charts").Spec.Strategy; s.Type != appsv1.RollingUpdateDeploymentStrategyType || s.RollingUpdate.MaxUnavailable.IntValue() != 0 {
		t.Errorf("a volume for many is rolled by %+v", s)
	}
}

func TestSuspendPausesTheWorkloadAlone(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Suspend = true })
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionTrue, "")
	before := get(t, &appsv1.Deployment{}, r.Namespace, "charts")
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) {
		s.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"priorityClassName":"high"}}`)}
	})
	condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "Suspended")
	if after := get(t, &appsv1.Deployment{}, r.Namespace, "charts"); after.Generation != before.Generation {
		t.Error("a suspended registry's Deployment was changed")
	}
	// Certificates go on.
	secret := get(t, &corev1.Secret{}, r.Namespace, "charts-tls")
	if err := env.Client.Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the certificate is back", func() bool {
		return env.Client.Get(t.Context(), client.ObjectKeyFromObject(secret), &corev1.Secret{}) == nil
	})
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.Suspend = false })
	condition(t, r, v1alpha1.ConditionReady, metav1.ConditionFalse, "RolloutInProgress")
	becomeReady(t, r)
}

func TestCertificateOfTheUser(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{TLS: v1alpha1.TLS{Mode: v1alpha1.TLSSecret, SecretRef: &v1alpha1.LocalObjectReference{Name: "mine"}}})
	condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "SecretNotFound")
	authority, _, err := pki.NewAuthority("mine", pki.Durations{}).Advance(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(host string) map[string][]byte {
		leaf, err := authority.Issue(pki.Request{Names: []string{host}, Usage: x509.ExtKeyUsageServerAuth}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return map[string][]byte{"tls.crt": leaf.Certificate, "tls.key": leaf.Key, "ca.crt": authority.Bundle()}
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: "mine"}, Type: corev1.SecretTypeTLS, Data: issue("other.test")}
	create(t, secret)
	condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "CertificateInvalid")
	secret.Data = issue("charts." + r.Namespace + ".svc")
	if err := env.Client.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	bringUp(t, r)
	if got := get(t, &corev1.ConfigMap{}, r.Namespace, "charts-ca").Data["ca.crt"]; got != string(authority.Bundle()) {
		t.Error("the user's authority is not published")
	}
	update(t, r, func(s *v1alpha1.HelmRegistrySpec) { s.TLS = v1alpha1.TLS{Mode: v1alpha1.TLSNone} })
	becomeReady(t, r)
	err = env.Client.Get(t.Context(), types.NamespacedName{Namespace: r.Namespace, Name: "charts-ca"}, &corev1.ConfigMap{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the authority is still published for plain HTTP: %v", err)
	}
}

func TestNamespaceWithAReservedName(t *testing.T) {
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "metrics"}})
	r := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "metrics", Name: "charts"}}
	create(t, r)
	condition(t, r, v1alpha1.ConditionStalled, metav1.ConditionTrue, "OrganizationReserved")
}

// The rights in config/rbac are enough: no call of the tests above was refused, but by a quota.
func TestNoCallWasForbidden(t *testing.T) {
	calls, err := env.OperatorCalls()
	if err != nil {
		t.Fatal(err)
	}
	var quotas corev1.ResourceQuotaList
	if err := env.Client.List(t.Context(), &quotas); err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		bounded := slices.ContainsFunc(quotas.Items, func(q corev1.ResourceQuota) bool { return q.Namespace == c.Namespace })
		if c.Code == 403 && !bounded {
			t.Errorf("the API server refused the operator: %+v", c)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// What the pods enforce is confirmed for the spec as it is, and not for the one before: who makes a registry private must not
// be told that it is while pods answer strangers.
func TestAccessIsConfirmedForTheSpecAsItIs(t *testing.T) {
	r := registry(t, v1alpha1.HelmRegistrySpec{})
	bringUp(t, r)
	confirmed := func(generation int64) {
		accesses.Set(client.ObjectKeyFromObject(r), ledger.State{Generation: generation, Revision: 1, Confirmed: 1, Total: 1})
	}
	confirmed(r.Generation)
	update(t, r, func(spec *v1alpha1.HelmRegistrySpec) { spec.Visibility = v1alpha1.VisibilityPublic })
	condition(t, r, v1alpha1.ConditionAccessConfirmed, metav1.ConditionFalse, ledger.ReasonWaitingForReplicas)
	confirmed(r.Generation)
	condition(t, r, v1alpha1.ConditionAccessConfirmed, metav1.ConditionTrue, "Confirmed")
}

package desired_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// input is what a golden test is about.
type input struct {
	Registry         v1alpha1.HelmRegistry `json:"registry"`
	Shared           bool                  `json:"shared,omitempty"`
	SingleWriter     bool                  `json:"singleWriter,omitempty"`
	Purging          bool                  `json:"purging,omitempty"`
	AllowPodImages   bool                  `json:"allowPodImages,omitempty"`
	AllowEgressCIDRs []string              `json:"allowEgressCIDRs,omitempty"`
	// Authorities says that there is something for clients to trust.
	Authorities bool `json:"authorities,omitempty"`
}

func params(in input) desired.Params {
	p := desired.Params{
		Registry: &in.Registry, Image: "localhost/chartroom:v0.1.0", AllowPodImages: in.AllowPodImages, AllowEgressCIDRs: in.AllowEgressCIDRs,
		OperatorNamespace: "chartroom-system", ClaimSize: desired.ClaimSize(&in.Registry), Shared: in.Shared,
		SingleWriter: in.SingleWriter, Purging: in.Purging, Replicas: in.Registry.Replicas(),
		UploadKeys: []byte("keys"), Serving: desired.KeyPair{Certificate: []byte("serving certificate"), Key: []byte("serving key")},
		Admin: desired.KeyPair{Certificate: []byte("admin certificate"), Key: []byte("admin key")}, AdminAuthorities: []byte("admin authorities"),
	}
	if in.Purging {
		p.Replicas = 1
	}
	if in.Authorities {
		p.ServingAuthorities = []byte("serving authorities")
	}
	return p
}

func readInput(t *testing.T, file string) input {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var in input
	if err := yaml.UnmarshalStrict(text, &in); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return in
}

func TestBuild(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			in := readInput(t, file)
			objects, err := desired.Build(params(in))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			for _, object := range objects {
				text, err := yaml.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				out.WriteString("---\n")
				out.Write(text)
			}
			instructions, err := yaml.Marshal(desired.Instructions(&in.Registry, in.Authorities))
			if err != nil {
				t.Fatal(err)
			}
			out.WriteString("---\n")
			out.Write(instructions)
			golden := strings.Replace(file, ".in.yaml", ".out.yaml", 1)
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Errorf("the objects changed; a change of the pod template restarts every registry when the operator is upgraded (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPresentation(t *testing.T) {
	r := &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "charts"}}
	r.Spec.DisplayName, r.Spec.Description, r.Spec.Emoji, r.Spec.Color = "Charts", "What it is for.", "🌻", "#f0ccff"
	want := wire.Presentation{DisplayName: "Charts", Description: "What it is for.", Emoji: "🌻", Color: "#f0ccff", Authority: "team-a/charts-ca"}
	if got := desired.Presentation(r); got != want {
		t.Errorf("%+v", got)
	}
	// Where clients need no authority of ours, they are told of none.
	for _, mode := range []v1alpha1.TLSMode{v1alpha1.TLSNone, v1alpha1.TLSSecret} {
		r.Spec.TLS.Mode = mode
		if got := desired.Presentation(r); got.Authority != "" {
			t.Errorf("%s: %+v", mode, got)
		}
	}
}

// What could be secret is in no setting that pods are told.
func TestSettings(t *testing.T) {
	for _, name := range []string{"empty", "full", "notifications", "s3"} {
		in := readInput(t, filepath.Join("testdata", name+".in.yaml"))
		at := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
		settings, err := desired.Settings(&in.Registry, []metav1.Condition{
			{Type: "Stalled", Status: metav1.ConditionTrue, Reason: "NameTaken", Message: "it is taken", LastTransitionTime: at, ObservedGeneration: 2}, {Type: "Ready", Status: metav1.ConditionFalse, LastTransitionTime: at},
		})
		if err != nil {
			t.Fatal(err)
		}
		document, err := yaml.JSONToYAML(settings.Encode())
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name+".settings.yaml")
		if *update {
			if err := os.WriteFile(golden, document, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(document)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	r := &v1alpha1.HelmRegistry{}
	r.Spec.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"containers":[{"name":"registry","env":[{"name":"A","value":"hunter2"}]}]}}`)}
	r.Spec.Notifications = []v1alpha1.Notification{{Name: "chat", URL: "https://chat.example/hunter2?t=hunter2"}, {Name: "odd", URL: "https://%zz/hunter2"}}
	settings, err := desired.Settings(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(settings.Spec, "hunter2") || !strings.Contains(settings.Spec, "https://chat.example/…") || !strings.Contains(settings.Spec, "podTemplate: (not shown)") {
		t.Errorf("%s", settings.Spec)
	}
	if r.Spec.Notifications[0].URL == "https://chat.example/…" {
		t.Error("the object itself was changed")
	}
}

// A change of a field rolls pods only where pods must change.
func TestWhatRollsPods(t *testing.T) {
	tests := map[string]struct {
		change func(*v1alpha1.HelmRegistrySpec)
		rolls  bool
	}{
		"displayName":       {func(s *v1alpha1.HelmRegistrySpec) { s.DisplayName = "x" }, false},
		"emoji":             {func(s *v1alpha1.HelmRegistrySpec) { s.Emoji = "🌻" }, false},
		"color":             {func(s *v1alpha1.HelmRegistrySpec) { s.Color = "#f0ccff" }, false},
		"description":       {func(s *v1alpha1.HelmRegistrySpec) { s.Description = "x" }, false},
		"visibility":        {func(s *v1alpha1.HelmRegistrySpec) { s.Visibility = v1alpha1.VisibilityPublic }, false},
		"allowedNamespaces": {func(s *v1alpha1.HelmRegistrySpec) { s.AllowedNamespaces.From = v1alpha1.NamespacesAll }, false},
		"deletionPolicy":    {func(s *v1alpha1.HelmRegistrySpec) { s.DeletionPolicy = v1alpha1.DeletionDelete }, false},
		"service":           {func(s *v1alpha1.HelmRegistrySpec) { s.Exposure.Service.Type = corev1.ServiceTypeLoadBalancer }, false},
		"suspend":           {func(s *v1alpha1.HelmRegistrySpec) { s.Suspend = true }, false},
		"size": {func(s *v1alpha1.HelmRegistrySpec) {
			s.Storage.Filesystem = &v1alpha1.FilesystemStorage{AccessMode: corev1.ReadWriteOnce}
		}, false},
		"host": {func(s *v1alpha1.HelmRegistrySpec) { s.Exposure.Host = "charts.example.com" }, true},
		"retention": {func(s *v1alpha1.HelmRegistrySpec) {
			s.Retention = &v1alpha1.Retention{Rules: []v1alpha1.RetentionRule{{KeepNewest: 1}}}
		}, true},
		"notifications": {func(s *v1alpha1.HelmRegistrySpec) {
			s.Notifications = []v1alpha1.Notification{{Name: "a", URL: "https://example.com", Format: "flux"}}
		}, true},
		"tls":         {func(s *v1alpha1.HelmRegistrySpec) { s.TLS.Mode = v1alpha1.TLSNone }, true},
		"podTemplate": {func(s *v1alpha1.HelmRegistrySpec) { s.PodTemplate = raw(`{"metadata":{"annotations":{"a":"b"}}}`) }, true},
	}
	in := readInput(t, "testdata/empty.in.yaml")
	before := deployment(t, params(in)).Spec.Template
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			changed := input{Registry: *in.Registry.DeepCopy()}
			test.change(&changed.Registry.Spec)
			after := deployment(t, params(changed)).Spec.Template
			if rolls := !reflect.DeepEqual(before, after); rolls != test.rolls {
				t.Errorf("rolls pods: %t, want %t\n%s", rolls, test.rolls, cmp.Diff(before, after))
			}
		})
	}
}

// What the operator starts a server with is what the server takes.
func TestReceiversAreValid(t *testing.T) {
	in := readInput(t, "testdata/notifications.in.yaml")
	if problems := receivers.Validate(desired.Receivers(&in.Registry)); problems != nil {
		t.Error(problems)
	}
}

func raw(text string) *runtime.RawExtension { return &runtime.RawExtension{Raw: []byte(text)} }

func deployment(t *testing.T, p desired.Params) *appsv1.Deployment {
	t.Helper()
	d, err := desired.Deployment(p)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPodTemplateIsRefused(t *testing.T) {
	own := func(fields string) string {
		return `{"spec":{"containers":[{"name":"registry",` + fields + `}]}}`
	}
	tests := []struct{ template, field string }{
		{`{"spec":{"serviceAccountName":"x"}}`, "spec.serviceAccountName"},
		{`{"spec":{"automountServiceAccountToken":true}}`, "spec.automountServiceAccountToken"},
		{`{"spec":{"automountServiceAccountToken":null}}`, "spec.automountServiceAccountToken"},
		{`{"spec":{"hostNetwork":true}}`, "spec.hostNetwork"},
		{`{"spec":{"hostPID":true}}`, "spec.hostPID"},
		{`{"spec":{"hostIPC":true}}`, "spec.hostIPC"},
		{`{"spec":{"restartPolicy":"Never"}}`, "spec.restartPolicy"},
		{`{"spec":{"os":{"name":"windows"}}}`, "spec.os.name"},
		{`{"spec":{"activeDeadlineSeconds":1}}`, "spec.activeDeadlineSeconds"},
		{`{"spec":{"terminationGracePeriodSeconds":1}}`, "spec.terminationGracePeriodSeconds"},
		{`{"spec":{"ephemeralContainers":[{"name":"x","image":"x"}]}}`, "spec.ephemeralContainers"},
		{`{"spec":{"securityContext":null}}`, "spec.securityContext"},
		{`{"spec":{"securityContext":{"runAsNonRoot":false}}}`, "spec.securityContext.runAsNonRoot"},
		{`{"spec":{"securityContext":{"runAsUser":0}}}`, "spec.securityContext.runAsUser"},
		{`{"spec":{"securityContext":{"sysctls":[{"name":"a","value":"b"}]}}}`, "spec.securityContext.sysctls"},
		{`{"spec":{"securityContext":{"seccompProfile":{"type":"Unconfined"}}}}`, "spec.securityContext.seccompProfile.type"},
		{`{"spec":{"securityContext":{"appArmorProfile":{"type":"Unconfined"}}}}`, "spec.securityContext.appArmorProfile.type"},
		{`{"spec":{"securityContext":{"seLinuxOptions":{"user":"x"}}}}`, "spec.securityContext.seLinuxOptions"},
		{`{"spec":{"securityContext":{"windowsOptions":{"hostProcess":true}}}}`, "spec.securityContext.windowsOptions"},
		{`{"spec":{"volumes":[{"name":"x","hostPath":{"path":"/"}}]}}`, "spec.volumes[x]"},
		{`{"spec":{"volumes":[{"name":"x","secret":{"secretName":"y"}}]}}`, "spec.volumes[x]"},
		{`{"spec":{"volumes":[{"name":"x","projected":{"sources":[{"serviceAccountToken":{"path":"t"}}]}}]}}`, "spec.volumes[x]"},
		{`{"spec":{"volumes":[{"name":"x","emptyDir":{},"hostPath":{"path":"/"}}]}}`, "spec.volumes[x]"},
		{`{"spec":{"volumes":[{"name":"data","persistentVolumeClaim":{"claimName":"other"}}]}}`, "spec.volumes[data]"},
		{`{"spec":{"volumes":null}}`, "spec.volumes"},
		{`{"spec":{"containers":[{"name":"x","image":"x"}]}}`, "spec.containers[x].image"},
		{`{"spec":{"initContainers":[{"name":"x","image":"x"}]}}`, "spec.initContainers[x].image"},
		{`{"spec":{"containers":[null]}}`, "cannot be merged"},
		{`{"spec":{"containers":[{}]}}`, "cannot be merged"},
		{`{"spec":{"initContainers":[{"name":"x","image":"x","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}}`, "spec.initContainers[x].image"},
		{`{"spec":{"containers":null}}`, "spec.containers"},
		{own(`"image":"x"`), "spec.containers[registry].image"},
		{own(`"command":["x"]`), "spec.containers[registry].command"},
		{own(`"args":["x"]`), "spec.containers[registry].args"},
		{own(`"args":null`), "spec.containers[registry].args"},
		{own(`"ports":[{"containerPort":5443,"hostPort":5443}]`), "spec.containers[registry].ports"},
		{own(`"livenessProbe":null`), "spec.containers[registry].livenessProbe"},
		{own(`"readinessProbe":{"periodSeconds":99}`), "spec.containers[registry].readinessProbe"},
		{own(`"startupProbe":{"periodSeconds":99}`), "spec.containers[registry].startupProbe"},
		{own(`"lifecycle":{"preStop":{"httpGet":{"host":"x","port":1}}}`), "spec.containers[registry].lifecycle.preStop"},
		{own(`"securityContext":null`), "spec.containers[registry].securityContext"},
		{own(`"securityContext":{"readOnlyRootFilesystem":false}`), "spec.containers[registry].securityContext.readOnlyRootFilesystem"},
		{own(`"securityContext":{"allowPrivilegeEscalation":true}`), "spec.containers[registry].securityContext.allowPrivilegeEscalation"},
		{own(`"securityContext":{"privileged":true}`), "spec.containers[registry].securityContext.privileged"},
		{own(`"securityContext":{"capabilities":{"add":["NET_ADMIN"]}}`), "spec.containers[registry].securityContext.capabilities.add"},
		{own(`"securityContext":{"capabilities":{"drop":["CHOWN"]}}`), "spec.containers[registry].securityContext.capabilities.drop"},
		{own(`"securityContext":{"runAsNonRoot":false}`), "spec.containers[registry].securityContext.runAsNonRoot"},
		{own(`"securityContext":{"runAsUser":0}`), "spec.containers[registry].securityContext.runAsUser"},
		{own(`"securityContext":{"seccompProfile":{"type":"Unconfined"}}`), "spec.containers[registry].securityContext.seccompProfile.type"},
		{own(`"securityContext":{"procMount":"Unmasked"}`), "spec.containers[registry].securityContext.procMount"},
		{own(`"volumeMounts":null`), "spec.containers[registry].volumeMounts"},
		{own(`"volumeMounts":[{"name":"data","mountPath":"/etc/chartroom/access"}]`), "spec.containers[registry].volumeMounts[/etc/chartroom/access]"},
		{own(`"volumeMounts":[{"name":"data","mountPath":"/etc"}]`), "spec.containers[registry].volumeMounts[/etc]"},
		{own(`"volumeMounts":[{"name":"data","mountPath":"/chartroom"}]`), "spec.containers[registry].volumeMounts[/chartroom]"},
		{`{"metadata":{"name":"x"}}`, "metadata"},
		{`{"metadata":{"labels":{"app.kubernetes.io/name":"x"}}}`, "metadata.labels[app.kubernetes.io/name]"},
		{`{"metadata":{"labels":{"chartroom.dev/serving":"false"}}}`, "metadata.labels[chartroom.dev/serving]"},
		{`{"metadata":{"labels":{"chartroom.dev/other":"x"}}}`, "metadata.labels[chartroom.dev/other]"},
		{`{"metadata":{"annotations":{"chartroom.dev/other":"x"}}}`, "metadata.annotations[chartroom.dev/other]"},
		{`{"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/registry":"unconfined"}}}`, "metadata.annotations["},
		{`{"spec":{"misspelt":1}}`, "misspelt"},
		{`{"spec":{"$patch":"replace"}}`, "$patch"},
		{`{"spec":{"containers":[{"$patch":"delete","name":"registry"}]}}`, "$patch"},
		{`[]`, "spec.podTemplate"},
		{`{"metadata":{"annotations":{"a":"` + strings.Repeat("x", 70000) + `"}}}`, "spec.podTemplate has"},
	}
	in := readInput(t, "testdata/empty.in.yaml")
	for _, test := range tests {
		t.Run(test.template[:min(len(test.template), 90)], func(t *testing.T) {
			in.Registry.Spec.PodTemplate = raw(test.template)
			_, err := desired.Deployment(params(in))
			var refused *desired.PodTemplateError
			if err == nil || !asPodTemplateError(err, &refused) || !strings.Contains(err.Error(), test.field) {
				t.Errorf("got %v, want a refusal that names %s", err, test.field)
			} else if n := len(err.Error()); n > 400 {
				t.Errorf("the refusal has %d bytes: %v", n, err)
			}
		})
	}
}

func asPodTemplateError(err error, into **desired.PodTemplateError) bool {
	return errors.As(err, into)
}

func TestPodTemplateMayBringContainersWhereImagesAreAllowed(t *testing.T) {
	in := readInput(t, "testdata/empty.in.yaml")
	in.AllowPodImages = true
	in.Registry.Spec.PodTemplate = raw(`{"spec":{"containers":[{"name":"sidecar","image":"x","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}}`)
	if got := len(deployment(t, params(in)).Spec.Template.Spec.Containers); got != 2 {
		t.Errorf("there are %d containers, want 2", got)
	}
	in.Registry.Spec.PodTemplate = raw(`{"spec":{"containers":[{"name":"sidecar","image":"x"}]}}`)
	if _, err := desired.Deployment(params(in)); err == nil {
		t.Error("a sidecar that is not restricted was let in")
	}
}

func TestGoMemoryLimitFollowsTheMergedLimit(t *testing.T) {
	in := readInput(t, "testdata/empty.in.yaml")
	in.Registry.Spec.PodTemplate = raw(`{"spec":{"containers":[{"name":"registry","env":[{"name":"GOMEMLIMIT","value":"off"}],"resources":{"limits":{"memory":"1000Mi"}}}]}}`)
	env := deployment(t, params(in)).Spec.Template.Spec.Containers[0].Env
	if want := []corev1.EnvVar{{Name: "GOMEMLIMIT", Value: "943718400"}}; !slices.Equal(env, want) {
		t.Errorf("the environment is %v, want %v", env, want)
	}
}

func TestHostAllowed(t *testing.T) {
	tests := map[string]bool{
		"": true, "charts.team-a.svc": true, "charts.team-a.svc.cluster.local": true, "charts.team-a": true, "localhost:5000": true, "127.0.0.1": true,
		"x.example.com": true, "example.com:8443": true, "badexample.com": false, "example.com.evil.test": false,
		"other.team-a.svc": false, "charts.team-b.svc": false, "10.0.0.1": false,
	}
	for host, want := range tests {
		r := &v1alpha1.HelmRegistry{}
		r.Namespace, r.Name, r.Spec.Exposure.Host = "team-a", "charts", host
		if got := desired.HostAllowed(r, []string{".example.com", ""}); got != want {
			t.Errorf("%q: allowed is %t, want %t", host, got, want)
		}
		names, _ := desired.CertificateNames(r, []string{".example.com"})
		for _, name := range names {
			probe := &v1alpha1.HelmRegistry{}
			probe.Namespace, probe.Name, probe.Spec.Exposure.Host = "team-a", "charts", name
			if name != "charts" && !desired.HostAllowed(probe, []string{"example.com"}) {
				t.Errorf("%q: a certificate for %s", host, name)
			}
		}
	}
}

// FuzzPodTemplate: whatever a user writes, nothing panics, and what comes out is restricted and still the registry.
func FuzzPodTemplate(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"spec":{"containers":[{"name":"registry","resources":{"limits":{"memory":"1Gi"}}}]}}`,
		`{"spec":{"volumes":[{"name":"x","emptyDir":{}}],"tolerations":[{"key":"a"}]}}`, `{"metadata":{"labels":{"a":"b"}}}`,
		`{"spec":{"hostNetwork":true,"containers":[{"name":"x","image":"y","securityContext":{"privileged":true}}]}}`, `null`, `[1]`, `{"spec":null}`,
		`{"spec":{"containers":[{"name":"registry","securityContext":{"capabilities":{"add":["SYS_ADMIN"]}}}]}}`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, template []byte, images bool) {
		if !json.Valid(template) {
			return
		}
		r := v1alpha1.HelmRegistry{}
		r.Namespace, r.Name = "team-a", "charts"
		plain := deployment(t, params(input{Registry: r}))
		r.Spec.PodTemplate = &runtime.RawExtension{Raw: template}
		d, err := desired.Deployment(params(input{Registry: r, AllowPodImages: images}))
		if err != nil {
			return
		}
		spec := d.Spec.Template.Spec
		if spec.HostNetwork || spec.HostPID || spec.HostIPC || spec.ServiceAccountName != "" || *spec.AutomountServiceAccountToken || !*spec.SecurityContext.RunAsNonRoot {
			t.Errorf("not restricted: %+v", spec)
		}
		for _, v := range spec.Volumes {
			if v.HostPath != nil || v.Projected != nil {
				t.Errorf("a volume that is not allowed: %+v", v)
			}
		}
		for _, c := range append(spec.Containers, spec.InitContainers...) {
			s := c.SecurityContext
			if *s.AllowPrivilegeEscalation || (s.Privileged != nil && *s.Privileged) || len(s.Capabilities.Add) > 0 || !slices.Contains(s.Capabilities.Drop, "ALL") {
				t.Errorf("not restricted: %+v", c)
			}
			if own := plain.Spec.Template.Spec.Containers[0]; c.Name == desired.Container && (!slices.Equal(c.Args, own.Args) || !slices.Equal(c.Command, own.Command)) {
				t.Errorf("not the registry any more: %+v", c)
			}
		}
	})
}

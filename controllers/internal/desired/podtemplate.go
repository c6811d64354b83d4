package desired

import (
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	strictjson "sigs.k8s.io/json"
)

// PodTemplateError says why spec.podTemplate is refused.
type PodTemplateError struct {
	// Field is the path of the field below spec.podTemplate.
	Field string
	// Problem says what is wrong with it and what to write instead.
	Problem string
}

func (e *PodTemplateError) Error() string {
	if e.Field == "" {
		return "spec.podTemplate " + e.Problem
	}
	return "spec.podTemplate." + e.Field + " " + e.Problem
}

// maxPodTemplate bounds spec.podTemplate, in bytes of JSON.
const maxPodTemplate = 64 << 10

// mergePodTemplate merges the user's partial template over the operator's and checks the result.
func mergePodTemplate(base corev1.PodTemplateSpec, partial *runtime.RawExtension, allowImages bool) (corev1.PodTemplateSpec, error) {
	if partial == nil || len(partial.Raw) == 0 {
		return base, nil
	}
	if len(partial.Raw) > maxPodTemplate {
		return base, &PodTemplateError{"", fmt.Sprintf("has %d bytes: write at most %d", len(partial.Raw), maxPodTemplate)}
	}
	// Strictly, so that a misspelt field is not silently without effect. This refuses the directives of a strategic merge,
	// such as $patch, too: with them a template could take away instead of adding.
	if err := decodeStrictly(partial.Raw, &corev1.PodTemplateSpec{}); err != nil {
		return base, err
	}
	original, err := json.Marshal(base)
	if err != nil {
		return base, fmt.Errorf("encoding the pod template: %w", err)
	}
	merged, err := strategicpatch.StrategicMergePatch(original, partial.Raw, corev1.PodTemplateSpec{})
	if err != nil {
		// The words of the merge print whole objects.
		return base, &PodTemplateError{"", fmt.Sprintf("cannot be merged over the operator's pod template: %.200s", err)}
	}
	var result corev1.PodTemplateSpec
	if err := decodeStrictly(merged, &result); err != nil {
		return base, err
	}
	c := &checker{base: base, result: result, allowImages: allowImages}
	c.checkMetadata()
	c.checkSpec()
	c.checkVolumes()
	c.checkContainers()
	if c.problem != nil {
		return base, c.problem
	}
	return result, nil
}

func decodeStrictly(text []byte, into *corev1.PodTemplateSpec) error {
	problems, err := strictjson.UnmarshalStrict(text, into)
	if err == nil && len(problems) > 0 {
		err = problems[0]
	}
	if err != nil {
		return &PodTemplateError{"", "is not a pod template: " + err.Error()}
	}
	return nil
}

// checker compares a merged template with the operator's own. It keeps the first problem.
type checker struct {
	base, result corev1.PodTemplateSpec
	allowImages  bool
	problem      error
}

func (c *checker) refuse(bad bool, field, problem string) {
	if bad && c.problem == nil {
		c.problem = &PodTemplateError{field, problem}
	}
}

func (c *checker) checkMetadata() {
	m := c.result.ObjectMeta
	m.Labels, m.Annotations = nil, nil
	c.refuse(!reflect.DeepEqual(m, metav1.ObjectMeta{}), "metadata", "can hold labels and annotations only: remove the rest")
	for key, value := range c.base.Labels {
		c.refuse(c.result.Labels[key] != value, "metadata.labels["+key+"]", "is the operator's own: remove it")
	}
	for key := range c.result.Labels {
		_, ours := c.base.Labels[key]
		c.refuse(!ours && strings.HasPrefix(key, "chartroom.dev/"), "metadata.labels["+key+"]", "is a name of the operator's: choose another")
	}
	for key, value := range c.result.Annotations {
		c.refuse(strings.HasPrefix(key, "chartroom.dev/"), "metadata.annotations["+key+"]", "is a name of the operator's: choose another")
		c.refuse(strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) && value != "runtime/default" && !strings.HasPrefix(value, "localhost/"),
			"metadata.annotations["+key+"]", "must be runtime/default or localhost/PROFILE")
	}
}

func (c *checker) checkSpec() {
	s := c.result.Spec
	c.refuse(s.ServiceAccountName != "" || s.DeprecatedServiceAccount != "", "spec.serviceAccountName", "is not allowed, because registries need no right in the cluster: remove it")
	c.refuse(s.AutomountServiceAccountToken == nil || *s.AutomountServiceAccountToken, "spec.automountServiceAccountToken", "must stay false: remove it")
	c.refuse(s.HostNetwork, "spec.hostNetwork", "is not allowed: remove it")
	c.refuse(s.HostPID, "spec.hostPID", "is not allowed: remove it")
	c.refuse(s.HostIPC, "spec.hostIPC", "is not allowed: remove it")
	c.refuse(len(s.EphemeralContainers) > 0, "spec.ephemeralContainers", "is not allowed: remove it")
	c.refuse(s.RestartPolicy != "" && s.RestartPolicy != corev1.RestartPolicyAlways, "spec.restartPolicy", "must be Always: remove it")
	c.refuse(s.OS != nil && s.OS.Name != corev1.Linux, "spec.os.name", "must be linux: remove it")
	c.refuse(s.ActiveDeadlineSeconds != nil, "spec.activeDeadlineSeconds", "is not allowed: remove it")
	c.refuse(s.TerminationGracePeriodSeconds == nil || *s.TerminationGracePeriodSeconds < int64(grace.Seconds()), "spec.terminationGracePeriodSeconds",
		fmt.Sprintf("must be at least %d, or a pod would be ended before its running requests are finished", int64(grace.Seconds())))
	security := s.SecurityContext
	if security == nil {
		c.refuse(true, "spec.securityContext", "cannot be taken away: remove it from the template")
		return
	}
	at := "spec.securityContext."
	c.refuse(security.RunAsNonRoot == nil || !*security.RunAsNonRoot, at+"runAsNonRoot", "must be true")
	c.refuse(security.RunAsUser != nil && *security.RunAsUser == 0, at+"runAsUser", "must not be 0")
	c.refuse(len(security.Sysctls) > 0, at+"sysctls", "is not allowed: remove it")
	c.refuse(security.WindowsOptions != nil, at+"windowsOptions", "is not allowed: remove it")
	c.refuse(security.SeccompProfile == nil || !allowedSeccomp(security.SeccompProfile), at+"seccompProfile.type", "must be RuntimeDefault or Localhost")
	c.refuse(!allowedAppArmor(security.AppArmorProfile), at+"appArmorProfile.type", "must be RuntimeDefault or Localhost")
	c.refuse(!allowedSELinux(security.SELinuxOptions), at+"seLinuxOptions", "can hold a level and one of the container types only")
}

func (c *checker) checkVolumes() {
	ours := map[string]corev1.Volume{}
	for _, v := range c.base.Spec.Volumes {
		ours[v.Name] = v
	}
	seen := 0
	for _, v := range c.result.Spec.Volumes {
		field := "spec.volumes[" + v.Name + "]"
		if own, ok := ours[v.Name]; ok {
			seen++
			c.refuse(!reflect.DeepEqual(v, own), field, "is the operator's own: choose another name")
			continue
		}
		allowed := corev1.VolumeSource{EmptyDir: v.EmptyDir, ConfigMap: v.ConfigMap, CSI: v.CSI}
		c.refuse(!reflect.DeepEqual(v.VolumeSource, allowed) || reflect.DeepEqual(allowed, corev1.VolumeSource{}), field, "must be an emptyDir, a configMap or a csi volume")
	}
	c.refuse(seen != len(ours), "spec.volumes", "must keep the operator's own volumes")
}

func (c *checker) checkContainers() {
	own := c.base.Spec.Containers[0]
	found := false
	for _, container := range c.result.Spec.Containers {
		field := "spec.containers[" + container.Name + "]."
		if container.Name == Container {
			found = true
			c.checkOwn(own, container, field)
		} else {
			c.refuse(!c.allowImages, field+"image", noImage+"remove the container")
		}
		c.checkSecurity(container, field)
	}
	c.refuse(!found, "spec.containers", "must keep the container "+Container)
	for _, container := range c.result.Spec.InitContainers {
		field := "spec.initContainers[" + container.Name + "]."
		c.refuse(!c.allowImages, field+"image", noImage+"remove the container")
		c.checkSecurity(container, field)
	}
}

const noImage = "is not allowed, because the operator runs without --allow-pod-images: "

// checkOwn sees that the registry's container does what the operator started it for.
func (c *checker) checkOwn(own, container corev1.Container, field string) {
	const keep = "is the operator's own: remove it"
	c.refuse(container.Image != own.Image && !c.allowImages, field+"image", noImage+"remove it")
	c.refuse(!slices.Equal(container.Command, own.Command), field+"command", keep)
	c.refuse(!slices.Equal(container.Args, own.Args), field+"args", keep)
	c.refuse(!reflect.DeepEqual(container.Ports, own.Ports), field+"ports", keep)
	c.refuse(!reflect.DeepEqual(container.LivenessProbe, own.LivenessProbe), field+"livenessProbe", keep)
	c.refuse(!reflect.DeepEqual(container.ReadinessProbe, own.ReadinessProbe), field+"readinessProbe", keep)
	c.refuse(container.StartupProbe != nil, field+"startupProbe", keep)
	c.refuse(container.SecurityContext == nil || container.SecurityContext.ReadOnlyRootFilesystem == nil || !*container.SecurityContext.ReadOnlyRootFilesystem,
		field+"securityContext.readOnlyRootFilesystem", "must stay true: remove it")
	kept := 0
	for _, mount := range container.VolumeMounts {
		if slices.ContainsFunc(own.VolumeMounts, func(m corev1.VolumeMount) bool { return reflect.DeepEqual(m, mount) }) {
			kept++
			continue
		}
		for _, m := range own.VolumeMounts {
			c.refuse(within(mount.MountPath, m.MountPath) || within(m.MountPath, mount.MountPath) || within(mount.MountPath, own.Command[0]),
				field+"volumeMounts["+mount.MountPath+"]", "hides what the operator mounts at "+m.MountPath+": choose another path")
		}
	}
	c.refuse(kept != len(own.VolumeMounts), field+"volumeMounts", "must keep the operator's own mounts")
}

// within says whether folder is name, or is inside of it.
func within(folder, name string) bool {
	folder, name = path.Clean("/"+folder), path.Clean("/"+name)
	return folder == name || name == "/" || strings.HasPrefix(folder, name+"/")
}

// checkSecurity holds a container against the restricted pod security standard.
func (c *checker) checkSecurity(container corev1.Container, field string) {
	for _, p := range container.Ports {
		c.refuse(p.HostPort != 0 || p.HostIP != "", field+"ports", "cannot have a hostPort: remove it")
	}
	for name, p := range map[string]*corev1.Probe{"livenessProbe": container.LivenessProbe, "readinessProbe": container.ReadinessProbe, "startupProbe": container.StartupProbe} {
		if p != nil {
			c.refuse(hostOf(p.HTTPGet, p.TCPSocket) != "", field+name, "cannot name a host: remove it")
		}
	}
	if l := container.Lifecycle; l != nil {
		for name, h := range map[string]*corev1.LifecycleHandler{"postStart": l.PostStart, "preStop": l.PreStop} {
			if h != nil {
				c.refuse(hostOf(h.HTTPGet, h.TCPSocket) != "", field+"lifecycle."+name, "cannot name a host: remove it")
			}
		}
	}
	s := container.SecurityContext
	if s == nil {
		c.refuse(true, field+"securityContext", "must have allowPrivilegeEscalation: false and capabilities: {drop: [ALL]}")
		return
	}
	at := field + "securityContext."
	c.refuse(s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation, at+"allowPrivilegeEscalation", "must be false")
	c.refuse(s.Privileged != nil && *s.Privileged, at+"privileged", "is not allowed: remove it")
	c.refuse(s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL"), at+"capabilities.drop", "must hold ALL")
	c.refuse(s.Capabilities != nil && len(s.Capabilities.Add) > 0, at+"capabilities.add", "is not allowed: remove it")
	c.refuse(s.RunAsNonRoot != nil && !*s.RunAsNonRoot, at+"runAsNonRoot", "must be true")
	c.refuse(s.RunAsUser != nil && *s.RunAsUser == 0, at+"runAsUser", "must not be 0")
	c.refuse(s.SeccompProfile != nil && !allowedSeccomp(s.SeccompProfile), at+"seccompProfile.type", "must be RuntimeDefault or Localhost")
	c.refuse(!allowedAppArmor(s.AppArmorProfile), at+"appArmorProfile.type", "must be RuntimeDefault or Localhost")
	c.refuse(!allowedSELinux(s.SELinuxOptions), at+"seLinuxOptions", "can hold a level and one of the container types only")
	c.refuse(s.ProcMount != nil && *s.ProcMount != corev1.DefaultProcMount, at+"procMount", "must be Default")
	c.refuse(s.WindowsOptions != nil, at+"windowsOptions", "is not allowed: remove it")
}

func hostOf(get *corev1.HTTPGetAction, socket *corev1.TCPSocketAction) string {
	switch {
	case get != nil:
		return get.Host
	case socket != nil:
		return socket.Host
	}
	return ""
}

func allowedSeccomp(p *corev1.SeccompProfile) bool {
	return p.Type == corev1.SeccompProfileTypeRuntimeDefault || p.Type == corev1.SeccompProfileTypeLocalhost
}

func allowedAppArmor(p *corev1.AppArmorProfile) bool {
	return p == nil || p.Type == corev1.AppArmorProfileTypeRuntimeDefault || p.Type == corev1.AppArmorProfileTypeLocalhost
}

// allowedSELinux follows the baseline pod security standard.
func allowedSELinux(o *corev1.SELinuxOptions) bool {
	types := []string{"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
	return o == nil || (o.User == "" && o.Role == "" && slices.Contains(types, o.Type))
}

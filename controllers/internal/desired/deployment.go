package desired

import (
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// ArgumentPurge is the argument of a pod that only deletes.
const ArgumentPurge = "--purge"

// Container is the name of the registry's container in its pods.
const Container = "registry"

// Where the pod finds what it is given.
const (
	folderData        = "/data"
	folderAccess      = "/etc/chartroom/access"
	folderAccessState = "/var/lib/chartroom/access"
	folderKeys        = "/etc/chartroom/keys"
	folderTLS         = "/etc/chartroom/tls"
	folderAdmin       = "/etc/chartroom/admin"
)

const (
	// user is who the image runs as.
	user int64 = 65532
	// drain is how long running pushes may take when a pod stops; grace leaves time to close after it.
	drain = 30 * time.Second
	grace = 45 * time.Second
	// drainDelay is how long a pod that stops while others serve goes on taking connections: every node must learn
	// first that the Service does not lead there any more.
	drainDelay = 5 * time.Second
)

// Deployment runs the registry. A pod template that is refused is a [*PodTemplateError].
func Deployment(p Params) (*appsv1.Deployment, error) {
	template, err := mergePodTemplate(podTemplate(p), p.Registry.Spec.PodTemplate, p.AllowPodImages)
	if err != nil {
		return nil, err
	}
	limitGoMemory(&template.Spec)
	strategy := appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	if p.Shared && !p.SingleWriter && !p.Purging {
		none, one := intstr.FromInt32(0), intstr.FromInt32(1)
		strategy = appsv1.DeploymentStrategy{
			Type:          appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &none, MaxSurge: &one},
		}
	}
	metadata := meta(p.Registry, p.Registry.Name)
	if p.Purging {
		metadata.OwnerReferences = nil
	}
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metadata,
		Spec: appsv1.DeploymentSpec{
			Replicas:             ptr(p.Replicas),
			RevisionHistoryLimit: ptr(int32(2)),
			Selector:             &metav1.LabelSelector{MatchLabels: selector(p.Registry)},
			Strategy:             strategy,
			Template:             template,
		},
	}, nil
}

// podTemplate is the operator's own pod template, before the user's is merged over it.
func podTemplate(p Params) corev1.PodTemplateSpec {
	labels := Labels(p.Registry)
	if !p.Purging {
		labels[v1alpha1.LabelServing] = "true"
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken:  ptr(false),
			EnableServiceLinks:            ptr(false),
			TerminationGracePeriodSeconds: ptr(int64(grace.Seconds())),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr(true), RunAsUser: ptr(user), RunAsGroup: ptr(user), FSGroup: ptr(user),
				// A volume with many charts is not walked at each start when its root is right already.
				FSGroupChangePolicy: ptr(corev1.FSGroupChangeOnRootMismatch),
				SeccompProfile:      &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers:                []corev1.Container{container(p)},
			Volumes:                   volumes(p),
			TopologySpreadConstraints: spread(p),
		},
	}
}

// spread asks, without insisting, for pods on different nodes and in different zones. It does not depend on the number of
// pods, so that scaling rolls nothing.
func spread(p Params) []corev1.TopologySpreadConstraint {
	if !p.Shared || p.Purging {
		return nil
	}
	var out []corev1.TopologySpreadConstraint
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelHostname} {
		out = append(out, corev1.TopologySpreadConstraint{
			TopologyKey: key, MaxSkew: 1, WhenUnsatisfiable: corev1.ScheduleAnyway,
			LabelSelector: &metav1.LabelSelector{MatchLabels: selector(p.Registry)},
			// Pods that a rollout is about to end do not count.
			MatchLabelKeys: []string{appsv1.DefaultDeploymentUniqueLabelKey},
		})
	}
	return out
}

func container(p Params) corev1.Container {
	r := p.Registry
	// serving is what a pod that only deletes does not need.
	serving := func(arguments ...string) []string {
		if p.Purging {
			return nil
		}
		return arguments
	}
	args := slices.Concat(
		[]string{"serve", "--listen=:" + strconv.Itoa(PortRegistry), "--organization=" + r.Organization(), "--registry=" + r.Slug()},
		storageArguments(r),
		serving(contentArguments(r)...),
		serving(quotaArguments(r.Spec.Quota)...),
		serving(garbageArguments(r.Spec.GarbageCollection)...),
		serving(clientArguments(r.Spec)...),
		serving(egressArguments(p)...),
		serving(notificationArguments(r)...),
		serving("--access="+folderAccess+"/access.json"),
		[]string{"--access-state=" + folderAccessState},
		serving("--keys="+folderKeys+"/"+EntryKeys, "--external-url="+r.BaseURL()),
		[]string{
			"--admin-listen=:" + strconv.Itoa(PortAdmin),
			"--admin-cert=" + folderAdmin + "/" + EntryCertificate,
			"--admin-key=" + folderAdmin + "/" + EntryKey,
			"--admin-client-ca=" + folderAdmin + "/" + EntryAuthorities,
			"--metrics-listen=:" + strconv.Itoa(PortMetrics),
		},
		serving("--drain-timeout="+drain.String()),
		[]string{"--log-format=json"},
	)
	mounts := append(storageMounts(r),
		corev1.VolumeMount{Name: "access-state", MountPath: folderAccessState},
		corev1.VolumeMount{Name: "admin", MountPath: folderAdmin, ReadOnly: true},
	)
	if p.Purging {
		args = append(args, ArgumentPurge)
	} else {
		mounts = append(storageMounts(r),
			corev1.VolumeMount{Name: "access", MountPath: folderAccess, ReadOnly: true},
			corev1.VolumeMount{Name: "access-state", MountPath: folderAccessState},
			corev1.VolumeMount{Name: "keys", MountPath: folderKeys, ReadOnly: true},
			corev1.VolumeMount{Name: "admin", MountPath: folderAdmin, ReadOnly: true},
		)
	}
	if notificationVolume(r) != nil && !p.Purging {
		mounts = append(mounts, corev1.VolumeMount{Name: "notifications", MountPath: folderNotifications, ReadOnly: true})
	}
	if p.Shared && !p.Purging {
		args = append(args, "--drain-delay="+drainDelay.String())
	}
	if r.TLSMode() != v1alpha1.TLSNone && !p.Purging {
		args = append(args, "--tls-cert="+folderTLS+"/"+EntryCertificate, "--tls-key="+folderTLS+"/"+EntryKey)
		mounts = append(mounts, corev1.VolumeMount{Name: "tls", MountPath: folderTLS, ReadOnly: true})
	}
	return corev1.Container{
		Name:            Container,
		Image:           p.Image,
		ImagePullPolicy: corev1.PullIfNotPresent,
		Command:         []string{"/chartroom"},
		Args:            args,
		Ports: []corev1.ContainerPort{
			{Name: "registry", ContainerPort: PortRegistry, Protocol: corev1.ProtocolTCP},
			{Name: "admin", ContainerPort: PortAdmin, Protocol: corev1.ProtocolTCP},
			{Name: "metrics", ContainerPort: PortMetrics, Protocol: corev1.ProtocolTCP},
		},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			// No limit on the processor: throttling makes pushes slow and saves nothing.
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
		},
		LivenessProbe:  probe("/healthz", 10, 3),
		ReadinessProbe: probe("/readyz", 2, 3),
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr(false),
			ReadOnlyRootFilesystem:   ptr(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		VolumeMounts: mounts,
	}
}

func egressArguments(p Params) []string {
	if len(p.AllowEgressCIDRs) == 0 {
		return nil
	}
	return []string{"--allow-egress-cidrs=" + strings.Join(p.AllowEgressCIDRs, ",")}
}

func probe(path string, period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(PortMetrics)}},
		PeriodSeconds:    period,
		TimeoutSeconds:   5,
		FailureThreshold: failures,
	}
}

func volumes(p Params) []corev1.Volume {
	r := p.Registry
	state := corev1.Volume{Name: "access-state", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr(resource.MustParse("16Mi"))}}}
	if p.Purging {
		return append(storageVolumes(r), state, secretVolume("admin", AdminName(r)))
	}
	out := append(storageVolumes(r), secretVolume("access", AccessName(r)), state, secretVolume("keys", KeysName(r)), secretVolume("admin", AdminName(r)))
	switch r.TLSMode() {
	case v1alpha1.TLSSelfSigned:
		out = append(out, secretVolume("tls", CertificateName(r)))
	case v1alpha1.TLSSecret:
		// Only what serving needs is put into the pod of what the user's Secret holds.
		out = append(out, secretVolume("tls", r.Spec.TLS.SecretRef.Name, EntryCertificate, EntryKey))
	}
	if v := notificationVolume(r); v != nil {
		out = append(out, *v)
	}
	return out
}

// secretVolume holds the entries of a Secret, or all where none is named.
func secretVolume(volume, name string, entries ...string) corev1.Volume {
	source := &corev1.SecretVolumeSource{SecretName: name, DefaultMode: ptr(int32(0o440)), Items: items(entries)}
	return corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{Secret: source}}
}

func items(entries []string) []corev1.KeyToPath {
	var out []corev1.KeyToPath
	for _, e := range entries {
		out = append(out, corev1.KeyToPath{Key: e, Path: e})
	}
	return out
}

// limitGoMemory tells Go's collector about the memory limit that the merged template gives the container, so that it
// works harder before the kernel ends the process.
func limitGoMemory(spec *corev1.PodSpec) {
	for i := range spec.Containers {
		c := &spec.Containers[i]
		limit, ok := c.Resources.Limits[corev1.ResourceMemory]
		if c.Name != Container || !ok {
			continue
		}
		c.Env = slices.DeleteFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "GOMEMLIMIT" })
		c.Env = append(c.Env, corev1.EnvVar{Name: "GOMEMLIMIT", Value: strconv.FormatInt(limit.Value()/10*9, 10)})
	}
}

func ptr[T any](v T) *T { return &v }

package desired

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// Where the pod finds the credentials of the bucket and the authorities of its server.
const (
	folderS3   = "/etc/chartroom/s3"
	folderS3CA = "/etc/chartroom/s3-ca"
)

// Entries of the Secret of the bucket's credentials. The last one may be missing.
const (
	EntryAccessKeyID     = "accessKeyID"
	EntrySecretAccessKey = "secretAccessKey"
	EntrySessionToken    = "sessionToken"
)

// storageArguments tell the server where the content is.
func storageArguments(r *v1alpha1.HelmRegistry) []string {
	s3 := r.Spec.Storage.S3
	if s3 == nil {
		return []string{"--dir=" + folderData + "/registry"}
	}
	out := []string{"--s3-bucket=" + s3.Bucket}
	for _, f := range []struct{ flag, value string }{
		{"--s3-prefix=", s3.Prefix}, {"--s3-region=", s3.Region}, {"--s3-endpoint=", s3.Endpoint},
	} {
		if f.value != "" {
			out = append(out, f.flag+f.value)
		}
	}
	if s3.PathStyle {
		out = append(out, "--s3-path-style")
	}
	if s3.CredentialsSecretRef != nil {
		out = append(out, "--s3-credentials="+folderS3)
	}
	if s3.CASecretRef != nil {
		out = append(out, "--s3-ca="+folderS3CA+"/"+EntryAuthorities)
	}
	if s3.Redirect == v1alpha1.RedirectLarge {
		out = append(out, "--s3-redirect=Large")
	}
	if s3.Staleness != nil && s3.Staleness.Duration > 0 {
		out = append(out, "--staleness="+s3.Staleness.Duration.String())
	}
	return out
}

// contentArguments tell the server what may be pushed, replaced, deleted and collected. What is not asked for is left to the
// server's own defaults, which are those of the fields.
func contentArguments(r *v1alpha1.HelmRegistry) []string {
	var out []string
	if r.Spec.Artifacts == v1alpha1.ArtifactsCharts {
		out = append(out, "--artifacts=Charts")
	}
	if r.Spec.Tags.Policy == v1alpha1.TagsMutable {
		out = append(out, "--tags-policy=Mutable")
	}
	if globs := r.Spec.Tags.Mutable; len(globs) > 0 {
		out = append(out, "--mutable-tags="+strings.Join(globs, ","))
	}
	return append(out, retentionArguments(r)...)
}

func storageMounts(r *v1alpha1.HelmRegistry) []corev1.VolumeMount {
	s3 := r.Spec.Storage.S3
	if s3 == nil {
		return []corev1.VolumeMount{{Name: "data", MountPath: folderData}}
	}
	var out []corev1.VolumeMount
	if s3.CredentialsSecretRef != nil {
		out = append(out, corev1.VolumeMount{Name: "s3", MountPath: folderS3, ReadOnly: true})
	}
	if s3.CASecretRef != nil {
		out = append(out, corev1.VolumeMount{Name: "s3-ca", MountPath: folderS3CA, ReadOnly: true})
	}
	return out
}

// storageVolumes are the claim, or what opens the bucket. Secrets are volumes, not variables, so that the server sees
// their changes without a restart.
func storageVolumes(r *v1alpha1.HelmRegistry) []corev1.Volume {
	s3 := r.Spec.Storage.S3
	if s3 == nil {
		return []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: ClaimName(r)},
		}}}
	}
	var out []corev1.Volume
	if ref := s3.CredentialsSecretRef; ref != nil {
		// Projected from the Secret twice: an entry that may be missing must not let the others be.
		from := func(optional bool, entries ...string) corev1.VolumeProjection {
			source := &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: ref.Name}, Items: items(entries)}
			if optional {
				source.Optional = ptr(true)
			}
			return corev1.VolumeProjection{Secret: source}
		}
		out = append(out, corev1.Volume{Name: "s3", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			DefaultMode: ptr(int32(0o440)),
			Sources:     []corev1.VolumeProjection{from(false, EntryAccessKeyID, EntrySecretAccessKey), from(true, EntrySessionToken)},
		}}})
	}
	if ref := s3.CASecretRef; ref != nil {
		out = append(out, secretVolume("s3-ca", ref.Name, EntryAuthorities))
	}
	return out
}

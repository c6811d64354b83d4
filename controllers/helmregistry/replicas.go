package helmregistry

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/pki"
)

// readBucketSecrets looks at the Secrets that open the bucket. The pods mount them themselves and see their changes.
func (r *Reconciler) readBucketSecrets(ctx context.Context, s *scope) error {
	s3 := s.registry.Spec.Storage.S3
	if ref := s3.CredentialsSecretRef; ref != nil {
		if _, err := r.readEntries(ctx, s, ref.Name, "Credentials", desired.EntryAccessKeyID, desired.EntrySecretAccessKey); err != nil {
			return err
		}
	}
	if ref := s3.CASecretRef; ref != nil {
		found, err := r.readEntries(ctx, s, ref.Name, "CA", desired.EntryAuthorities)
		if err != nil {
			return err
		}
		if err := pki.CheckBundle(found.Data[desired.EntryAuthorities]); err != nil {
			return stalled("CAInvalid", "%s of Secret %s: %s", desired.EntryAuthorities, ref.Name, err)
		}
	}
	return nil
}

// readEntries reads a Secret of the user's that must have entries. what is the beginning of the reasons why not.
func (r *Reconciler) readEntries(ctx context.Context, s *scope, name, what string, entries ...string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := r.APIReader.Get(ctx, types.NamespacedName{Namespace: s.registry.Namespace, Name: name}, secret)
	if apierrors.IsNotFound(err) {
		return nil, stalled(what+"NotFound", "there is no Secret %s in this namespace: create it with %s", name, strings.Join(entries, " and "))
	}
	if err != nil {
		return nil, fmt.Errorf("reading Secret %s: %w", name, err)
	}
	var missing []string
	for _, entry := range entries {
		if len(secret.Data[entry]) == 0 {
			missing = append(missing, entry)
		}
	}
	if len(missing) > 0 {
		return nil, stalled(what+"Incomplete", "Secret %s has no %s: add what is missing", name, strings.Join(missing, " and no "))
	}
	return secret, nil
}

// reconcileReplicas decides how many pods there are, and whether two may write at once.
func (r *Reconciler) reconcileReplicas(ctx context.Context, s *scope) error {
	s.params.Replicas = s.registry.Replicas()
	if !s.params.Shared {
		if s.params.Replicas > 1 && s.storage.refused == nil {
			return stalled("ReplicasNotPossible", "replicas: %d needs storage that several pods can use at once, and claim %s is not ReadWriteMany: write replicas: 1, or create another HelmRegistry with storage.s3 or accessMode: ReadWriteMany",
				s.params.Replicas, desired.ClaimName(s.registry))
		}
		return nil
	}
	single, known := s.reports.SingleWriter()
	if !known && s.registry.Spec.Storage.S3 != nil {
		// Before a pod has tried the bucket, one is enough to find out; what runs was right when it was last known.
		live, err := r.liveDeployment(ctx, s)
		if err != nil {
			return err
		}
		s.params.SingleWriter, s.params.Replicas = whileUnknown(live, s.params.Replicas)
		return nil
	}
	s.params.SingleWriter = single
	if single {
		s.params.Replicas = 1
		s.singleWriter = true
	}
	return nil
}

// whileUnknown is what to run until a pod has said whether the storage bears several writers.
func whileUnknown(live *appsv1.Deployment, wanted int32) (singleWriter bool, replicas int32) {
	if live == nil || live.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || live.Spec.Replicas == nil {
		return true, 1
	}
	return false, min(max(*live.Spec.Replicas, 1), wanted)
}

// tooManyReplicas says why there are fewer pods than asked for; nil when there are not.
func (s *scope) tooManyReplicas() error {
	if !s.singleWriter || s.registry.Replicas() == 1 {
		return nil
	}
	return stalled("SingleWriter", "one pod runs, not %d, because the storage cannot write conditionally and two pods would overwrite each other's versions: write replicas: 1, or use an S3 server that honours If-None-Match", s.registry.Replicas())
}

// storageKind is the storage in a sentence.
func storageKind(r *v1alpha1.HelmRegistry) string {
	if s3 := r.Spec.Storage.S3; s3 != nil {
		return "bucket " + s3.Bucket
	}
	return "claim " + desired.ClaimName(r)
}

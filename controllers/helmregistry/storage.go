package helmregistry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
)

// storageOutcome is the claim as it is after the phase; nil when there is none, as with a bucket.
type storageOutcome struct {
	claim *corev1.PersistentVolumeClaim
	// refused says why the claim could not be made as asked for.
	refused error
	// growth says why the claim is still smaller than asked for. It does not hold the workload up: a claim may be bound
	// only once a pod wants it.
	growth error
}

// reconcileStorage makes, adopts and grows the claim, or looks at the one that the user made, or at what opens the bucket.
func (r *Reconciler) reconcileStorage(ctx context.Context, s *scope) error {
	if s.registry.Spec.Storage.S3 != nil {
		s.params.Shared = true
		s.storage.refused = r.readBucketSecrets(ctx, s)
		return s.storage.refused
	}
	s.params.ClaimSize = desired.ClaimSize(s.registry)
	s.params.Shared = desired.AccessMode(s.registry) == corev1.ReadWriteMany
	if !desired.OwnsClaim(s.registry) {
		s.storage.refused = r.readGivenClaim(ctx, s)
		return s.storage.refused
	}
	s.storage.refused = r.reconcileClaim(ctx, s)
	return s.storage.refused
}

func (r *Reconciler) readGivenClaim(ctx context.Context, s *scope) error {
	claim := &corev1.PersistentVolumeClaim{}
	key := types.NamespacedName{Namespace: s.registry.Namespace, Name: desired.ClaimName(s.registry)}
	err := r.APIReader.Get(ctx, key, claim)
	switch {
	case apierrors.IsNotFound(err):
		return stalled("ClaimNotFound", "there is no PersistentVolumeClaim %s in this namespace: create it", key.Name)
	case err != nil:
		return fmt.Errorf("reading claim %s: %w", key.Name, err)
	case claim.DeletionTimestamp != nil:
		return stalled("ClaimDeleting", "the PersistentVolumeClaim %s is being deleted: a new pod could not use it", key.Name)
	}
	s.storage.claim = claim
	s.params.Shared = slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany)
	return nil
}

func (r *Reconciler) reconcileClaim(ctx context.Context, s *scope) error {
	claim := &corev1.PersistentVolumeClaim{}
	want := desired.Claim(s.params)
	there, err := r.read(ctx, s, want, claim)
	if err != nil {
		return err
	}
	if there {
		s.storage.claim = claim
		s.params.ClaimSize, s.storage.growth = r.claimSize(ctx, s, claim)
		want = desired.Claim(s.params)
	}
	err = r.reconcileChild(ctx, s, want, claim)
	switch {
	case apierrors.IsInvalid(err):
		// The claim is of an earlier registry that asked for something else.
		return stalled("ClaimRefused", "the claim cannot be brought to what is asked for: %s", rootMessage(err))
	case apierrors.IsForbidden(err):
		// The API server's words name the quota.
		return waiting("ClaimRefused", "the claim was refused: %s", rootMessage(err))
	}
	if err == nil && claim.UID != "" {
		s.storage.claim = claim
	}
	return err
}

// claimSize is what the claim should ask for now, and why that is not what the spec asks for. A claim never shrinks,
// and one that cannot grow is left alone instead of being refused at each attempt.
func (r *Reconciler) claimSize(ctx context.Context, s *scope, claim *corev1.PersistentVolumeClaim) (resource.Quantity, error) {
	have, want := claim.Spec.Resources.Requests[corev1.ResourceStorage], s.params.ClaimSize
	if have.Cmp(want) >= 0 {
		return have, nil
	}
	if claim.Status.Phase != corev1.ClaimBound {
		return have, waiting("ClaimNotBound", "the claim will grow from %s to %s when it is bound", have.String(), want.String())
	}
	class := ""
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	var found storagev1.StorageClass
	err := r.APIReader.Get(ctx, types.NamespacedName{Name: class}, &found)
	if class != "" && err != nil && !apierrors.IsNotFound(err) {
		return have, fmt.Errorf("reading storage class %s: %w", class, err)
	}
	if class == "" || err != nil || found.AllowVolumeExpansion == nil || !*found.AllowVolumeExpansion {
		return have, stalled("ExpansionNotSupported", "the storage class %q of the claim does not allow it to grow from %s to %s: set allowVolumeExpansion in the class if its driver can", class, have.String(), want.String())
	}
	return want, nil
}

// rootMessage is what the API server said, without the wrapping, and without the comparison of specs that it may add.
func rootMessage(err error) string {
	var answer apierrors.APIStatus
	message := err.Error()
	if errors.As(err, &answer) {
		message = answer.Status().Message
	}
	message, _, _ = strings.Cut(message, "\n")
	return message
}

package helmregistry

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/status"
)

// Reasons of Available that pass by themselves.
const (
	reasonRolloutInProgress = "RolloutInProgress"
	reasonServiceNotReached = "ServiceNotReached"
)

// announce takes Ready back before any work is done for a new generation, so that nobody who waits for it is told yes
// about the old one. The observed generation stays what it was until the work is done.
func (r *Reconciler) announce(ctx context.Context, registry *v1alpha1.HelmRegistry) error {
	ready := meta.FindStatusCondition(registry.Status.Conditions, v1alpha1.ConditionReady)
	if ready != nil && ready.ObservedGeneration == registry.Generation {
		return nil
	}
	after := registry.Status.DeepCopy()
	started := status.Summary{Ready: status.Unknown("Progressing", "The operator has begun with this generation of the spec.")}
	after.Conditions = status.Conditions(registry.Status.Conditions, registry.Generation, started, nil)
	for _, c := range registry.Status.Conditions {
		if c.Type != v1alpha1.ConditionStalled && meta.FindStatusCondition(after.Conditions, c.Type) == nil {
			after.Conditions = append(after.Conditions, c) // With the generation that it was found for.
		}
	}
	return r.patchStatus(ctx, registry, after)
}

// writeStatus says what the scope found, and records an event when Ready changed.
func (r *Reconciler) writeStatus(ctx context.Context, s *scope) error {
	before := meta.FindStatusCondition(s.registry.Status.Conditions, v1alpha1.ConditionReady).DeepCopy()
	used, retention := s.registry.Status.Usage, s.registry.Status.Retention
	if err := r.patchStatus(ctx, s.registry, s.status()); err != nil {
		return err
	}
	r.warnOfQuota(s.registry, used)
	r.announceRetention(s.registry, retention)
	after := meta.FindStatusCondition(s.registry.Status.Conditions, v1alpha1.ConditionReady)
	if before != nil && before.Status == after.Status && before.Reason == after.Reason {
		return nil
	}
	kind := corev1.EventTypeNormal
	if s.summary(nil).Stalled || len(s.failures) > 0 {
		kind = corev1.EventTypeWarning
	}
	r.Events.Eventf(s.registry, nil, kind, after.Reason, "Reconcile", "%s", status.Note(after.Message))
	return nil
}

// patchStatus writes the status when it says anything new.
func (r *Reconciler) patchStatus(ctx context.Context, registry *v1alpha1.HelmRegistry, after *v1alpha1.HelmRegistryStatus) error {
	if equality.Semantic.DeepEqual(registry.Status, *after) {
		return nil
	}
	before := registry.DeepCopy()
	registry.Status = *after
	err := r.Client.Status().Patch(ctx, registry, client.MergeFrom(before), client.FieldOwner(FieldManager))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}

// status is what is to be said of all that the scope found.
func (s *scope) status() *v1alpha1.HelmRegistryStatus {
	r := s.registry
	instructions := desired.Instructions(r, len(s.params.ServingAuthorities) > 0)
	parts := []status.Part{
		{Type: v1alpha1.ConditionStorageReady, Finding: s.storageReady()},
		{Type: v1alpha1.ConditionCertificateReady, Finding: s.certificateReady()},
		{Type: v1alpha1.ConditionAvailable, Finding: s.available()},
		{Type: v1alpha1.ConditionAccessConfirmed, Finding: s.accessConfirmed()},
	}
	summary := s.summary(parts)
	// A registry whose inventory is not known serves all the same.
	parts = append(parts, status.Part{Type: v1alpha1.ConditionInventoryFresh, Finding: s.inventoryFresh()})
	inventory, charts := s.inventoryStatus()
	out := &v1alpha1.HelmRegistryStatus{
		Conditions:         status.Conditions(r.Status.Conditions, r.Generation, summary, parts),
		Inventory:          inventory,
		Charts:             charts,
		ObservedGeneration: r.Generation,
		URL:                r.URL(),
		OCIURL:             r.OCIURL(),
		RepositoryURL:      r.RepositoryURL(),
		Usage:              s.usage(),
		GarbageCollection:  s.garbage(),
		Instructions:       &instructions,
		Retention:          s.retentionStatus(),
	}
	if d := s.workload.deployment; d != nil {
		out.Replicas, out.ReadyReplicas = *d.Spec.Replicas, d.Status.ReadyReplicas
		if c := registryContainer(d); c != nil {
			out.Image = c.Image
		}
	}
	if s.accessKnown && s.access.Revision > 0 {
		out.Access = &v1alpha1.AccessStatus{Revision: s.access.Revision, Confirmed: s.access.Confirmed, Total: s.access.Total}
	}
	return out
}

// summary sums up: what somebody must change comes first, then what failed, then what is waited for, then the first
// part that does not hold.
func (s *scope) summary(parts []status.Part) status.Summary {
	switch {
	case s.stalled != nil:
		return status.Summary{Ready: status.IsNot(s.stalled.reason, s.stalled.message), Stalled: true}
	case s.accessKnown && s.access.Stalled:
		return status.Summary{Ready: status.IsNot(s.access.Reason, s.access.Message), Stalled: true}
	case s.pending:
		return status.Summary{Ready: status.IsNot("Suspended", "changes wait until spec.suspend is false"), Stalled: true}
	case len(s.failures) > 0:
		// Errors can hold what differs at each attempt; written here, they would wake the controller again and again.
		return status.Summary{Ready: status.IsNot("ReconcileFailed", "something failed and is tried again; the operator's log says what")}
	case s.waiting != nil:
		return status.Summary{Ready: status.IsNot(s.waiting.reason, s.waiting.message)}
	}
	for _, part := range parts {
		if !part.True() {
			return status.Summary{Ready: status.IsNot(part.Reason, part.Message)}
		}
	}
	return status.Summary{Ready: status.Is("Ready", "the registry serves, and all that its spec asks for is in force")}
}

// refusal turns what a phase returned into a finding.
func refusal(err error) status.Finding {
	err = judged(err)
	var stop *stalledError
	var wait *waitingError
	switch {
	case errors.As(err, &stop):
		return status.IsNot(stop.reason, stop.message)
	case errors.As(err, &wait):
		return status.IsNot(wait.reason, wait.message)
	}
	return status.Unknown("ReconcileFailed", "something failed and is tried again; the operator's log says what")
}

// storageReady says whether the storage is there, and whether the pods that answer can use it.
func (s *scope) storageReady() status.Finding {
	finding := s.claimReady()
	if s.registry.Spec.Storage.S3 != nil {
		finding = s.bucketReady()
	}
	if !finding.True() {
		return finding
	}
	if pod := s.reports.Problem(); pod != nil {
		return status.IsNot("StorageFailing", fmt.Sprintf("pod %s cannot use %s: %s", pod.Name, storageKind(s.registry), pod.Storage.Problem))
	}
	if s.singleWriter {
		return status.Is("SingleWriter", storageKind(s.registry)+" can be used, but cannot write conditionally: one pod runs, and it is ended before the next one starts")
	}
	return finding
}

// bucketReady says whether pods have opened the bucket. Those that could keep serving while a new operator asks them.
func (s *scope) bucketReady() status.Finding {
	before := meta.FindStatusCondition(s.registry.Status.Conditions, v1alpha1.ConditionStorageReady)
	switch {
	case s.storage.refused != nil:
		return refusal(s.storage.refused)
	case len(s.reports.Pods) > 0:
		return status.Is("BucketUsable", storageKind(s.registry)+" can be read and written to")
	case !s.reported && before != nil && before.Status == metav1.ConditionTrue:
		return status.Is(before.Reason, before.Message)
	}
	return status.Unknown("Pending", "no pod has said yet whether it can use "+storageKind(s.registry))
}

func (s *scope) claimReady() status.Finding {
	claim := s.storage.claim
	switch {
	case s.storage.refused != nil:
		return refusal(s.storage.refused)
	case s.storage.growth != nil:
		return refusal(s.storage.growth)
	case claim == nil:
		return status.IsNot("ClaimMissing", "there is no claim yet")
	case claim.Status.Phase == corev1.ClaimLost:
		return status.IsNot("ClaimLost", "the volume of claim "+claim.Name+" is gone")
	case claim.Status.Phase != corev1.ClaimBound:
		return status.IsNot("ClaimNotBound", "claim "+claim.Name+" is not bound to a volume yet")
	}
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if have, ok := claim.Status.Capacity[corev1.ResourceStorage]; ok && have.Cmp(want) < 0 {
		return status.IsNot("ClaimGrowing", fmt.Sprintf("claim %s grows from %s to %s", claim.Name, have.String(), want.String()))
	}
	return status.Is("ClaimBound", "claim "+claim.Name+" is bound")
}

func (s *scope) certificateReady() status.Finding {
	if s.certificate.refused != nil {
		return refusal(s.certificate.refused)
	}
	switch s.registry.TLSMode() {
	case v1alpha1.TLSNone:
		return status.Is("PlainHTTP", "no certificate is asked for: the registry speaks plain HTTP")
	case v1alpha1.TLSSecret:
		return status.Is("CertificateValid", "the certificate in Secret "+s.registry.Spec.TLS.SecretRef.Name+" is valid until "+s.certificate.expires.UTC().Format(time.RFC3339))
	}
	return status.Is("CertificateIssued", "the certificate will be renewed at "+s.certificate.expires.UTC().Format(time.RFC3339))
}

// available says whether clients find pods that serve.
func (s *scope) available() status.Finding {
	finding := rolledOut(s.workload.deployment)
	if finding.True() && s.workload.unreached {
		return status.IsNot(reasonServiceNotReached, "the pods are ready, but the Service does not lead to them yet")
	}
	return finding
}

// rolledOut says whether the Deployment, as it is asked for now, is rolled out to the last pod. ReadyReplicas alone would
// count pods of before the change.
func rolledOut(d *appsv1.Deployment) status.Finding {
	if d == nil {
		return status.IsNot("NotDeployed", "there is no Deployment yet")
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	have := d.Status
	if have.ObservedGeneration >= d.Generation && have.UpdatedReplicas == want && have.Replicas == want && have.AvailableReplicas == want && have.ReadyReplicas == want {
		return status.Is("RolledOut", fmt.Sprintf("%d of %d pods serve", have.ReadyReplicas, want))
	}
	for _, c := range d.Status.Conditions {
		failed := (c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse) || (c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue)
		if failed && have.ObservedGeneration >= d.Generation {
			return status.IsNot(c.Reason, "the pods do not come up: "+c.Message)
		}
	}
	return status.IsNot(reasonRolloutInProgress, fmt.Sprintf("%d of %d pods are up to date and ready", min(have.UpdatedReplicas, have.ReadyReplicas), want))
}

func (s *scope) accessConfirmed() status.Finding {
	switch {
	case !s.accessKnown:
		return status.Unknown("Pending", "the pods have not been asked yet which tokens they enforce")
	case s.access.Reason != "":
		return status.IsNot(s.access.Reason, s.access.Message)
	case s.access.Generation < s.registry.Generation:
		return status.IsNot(ledger.ReasonWaitingForReplicas, "the registry was changed, and the pods have not been told yet what that means for access")
	case s.access.Total == 0 || s.access.Confirmed < s.access.Total:
		return status.IsNot("WaitingForReplicas", fmt.Sprintf("%d of %d pods enforce revision %d of the access snapshot", s.access.Confirmed, s.access.Total, s.access.Revision))
	}
	return status.Is("Confirmed", fmt.Sprintf("every pod enforces revision %d of the access snapshot", s.access.Revision))
}

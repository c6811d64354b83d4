package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/record"
)

const (
	provisionerName = "chartroom.dev/local-path"

	// askedFor is set by the controller manager on a claim that waits for the provisioner it names; for a class that
	// waits for the first consumer, only once a node is chosen.
	askedFor = "volume.kubernetes.io/storage-provisioner"
	// madeBy keeps the controller manager from reclaiming the volume itself.
	madeBy = "pv.kubernetes.io/provisioned-by"
)

// provisioner makes, grows and deletes volumes.
type provisioner struct {
	client  kubernetes.Interface
	folder  string
	node    string
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	events  record.EventRecorder
}

// serve gives a claim its volume, or grows the one it has.
func (p *provisioner) serve(ctx context.Context, namespace, name string) error {
	claim, err := p.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case claim.Annotations[askedFor] != provisionerName || claim.DeletionTimestamp != nil:
		return nil
	case claim.Spec.VolumeName != "":
		return p.grow(ctx, claim)
	case claim.Spec.StorageClassName == nil:
		return nil
	}
	class, err := p.classes.Get(*claim.Spec.StorageClassName)
	if err != nil {
		return fmt.Errorf("read the class: %w", err)
	}
	if reason := cannotServe(claim); reason != "" {
		p.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", reason)
		return nil
	}
	return p.make(ctx, claim, class)
}

// cannotServe says why a folder cannot be what the claim asks for; empty when it can.
func cannotServe(claim *corev1.PersistentVolumeClaim) string {
	switch {
	case claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return "this class gives folders, not block devices"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "this class cannot copy from a data source"
	case claim.Spec.Selector != nil:
		return "this class cannot choose by a selector"
	}
	return ""
}

// make makes the folder first: a volume without one would never mount. Its name is the claim's identity, so making it
// twice is making it once.
func (p *provisioner) make(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	volume := p.volumeFor(claim, class)
	if err := os.MkdirAll(volume.Spec.Local.Path, 0o755); err != nil {
		return err
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make the volume: %w", err)
	}
	p.events.Eventf(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Made volume %s", volume.Name)
	return nil
}

// volumeFor is the volume that a claim gets.
func (p *provisioner) volumeFor(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) *corev1.PersistentVolume {
	name := "pvc-" + string(claim.UID)
	reclaim := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		reclaim = *class.ReclaimPolicy
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{madeBy: provisionerName}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			StorageClassName:              class.Name,
			PersistentVolumeReclaimPolicy: reclaim,
			MountOptions:                  class.MountOptions,
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: filepath.Join(p.folder, name)},
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{p.node},
				}}}},
			}},
		},
	}
}

// grow records a bigger size. A folder has all the room that its disk has, so nothing else is to be done.
func (p *provisioner) grow(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	wanted := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	has := claim.Status.Capacity[corev1.ResourceStorage]
	if claim.Status.Phase != corev1.ClaimBound || has.Cmp(wanted) >= 0 {
		return nil
	}
	volume, err := p.volumes.Get(claim.Spec.VolumeName)
	if err != nil {
		return fmt.Errorf("read the volume: %w", err)
	}
	if volume.Annotations[madeBy] != provisionerName {
		return nil
	}
	capacity := map[string]any{"capacity": map[string]any{"storage": wanted.String()}}
	if recorded := volume.Spec.Capacity[corev1.ResourceStorage]; recorded.Cmp(wanted) < 0 {
		patch, err := json.Marshal(map[string]any{"spec": capacity})
		if err != nil {
			return err
		}
		if _, err := p.client.CoreV1().PersistentVolumes().Patch(ctx, volume.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("grow the volume: %w", err)
		}
	}
	capacity["conditions"] = nil
	patch, err := json.Marshal(map[string]any{"status": capacity})
	if err != nil {
		return err
	}
	_, err = p.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("record the claim's new size: %w", err)
	}
	p.events.Eventf(claim, corev1.EventTypeNormal, "FileSystemResizeSuccessful", "The volume has room for %s", wanted.String())
	return nil
}

// reclaim deletes a volume whose claim is gone, and its folder before it: while the volume is there, this is tried again.
func (p *provisioner) reclaim(ctx context.Context, name string) error {
	volume, err := p.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if volume.Annotations[madeBy] != provisionerName || volume.Status.Phase != corev1.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || volume.Spec.Local == nil {
		return nil
	}
	// Whoever can edit a volume must not be able to have any other folder of the machine deleted.
	if path := volume.Spec.Local.Path; path != filepath.Join(p.folder, name) {
		return fmt.Errorf("the volume's path %s is not of our making", path)
	}
	if err := os.RemoveAll(volume.Spec.Local.Path); err != nil {
		return err
	}
	err = p.client.CoreV1().PersistentVolumes().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the volume: %w", err)
	}
	return nil
}

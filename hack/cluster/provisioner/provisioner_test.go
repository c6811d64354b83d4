package main

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// newProvisioner is one whose caches hold these objects.
func newProvisioner(t *testing.T, objects ...runtime.Object) (*provisioner, *record.FakeRecorder) {
	t.Helper()
	client := fake.NewClientset(objects...)
	shared := informers.NewSharedInformerFactory(client, 0)
	events := record.NewFakeRecorder(10)
	made := &provisioner{
		client: client, folder: t.TempDir(), node: "node", events: events,
		claims:  shared.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: shared.Core().V1().PersistentVolumes().Lister(),
		classes: shared.Storage().V1().StorageClasses().Lister(),
	}
	shared.Start(t.Context().Done())
	shared.WaitForCacheSync(t.Context().Done())
	return made, events
}

func class() *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local-path"}, Provisioner: provisionerName}
}

func claim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	name := "local-path"
	made := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "data", UID: "1", Annotations: map[string]string{askedFor: provisionerName}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &name,
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	if change != nil {
		change(made)
	}
	return made
}

func TestClaimGetsAVolumeWithAFolder(t *testing.T) {
	worker, _ := newProvisioner(t, class(), claim(nil))
	for range 2 { // doing it again changes nothing
		if err := worker.serve(t.Context(), "team", "data"); err != nil {
			t.Fatal(err)
		}
	}
	volume, err := worker.client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(volume.Spec.Local.Path); err != nil || !info.IsDir() {
		t.Errorf("the volume has no folder: %v", err)
	}
	if volume.Spec.ClaimRef.UID != "1" || volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		t.Errorf("the volume is not bound to its claim and deleted with it: %+v", volume.Spec)
	}
}

func TestClaimsThatGetNothing(t *testing.T) {
	block := corev1.PersistentVolumeBlock
	for _, c := range []struct {
		name   string
		change func(*corev1.PersistentVolumeClaim)
		event  bool
	}{
		{"not asked of us yet", func(c *corev1.PersistentVolumeClaim) { c.Annotations = nil }, false},
		{"asked of another", func(c *corev1.PersistentVolumeClaim) { c.Annotations[askedFor] = "other" }, false},
		{"a block device", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = &block }, true},
		{"a selector", func(c *corev1.PersistentVolumeClaim) { c.Spec.Selector = &metav1.LabelSelector{} }, true},
		{"a copy", func(c *corev1.PersistentVolumeClaim) { c.Spec.DataSource = &corev1.TypedLocalObjectReference{} }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			worker, events := newProvisioner(t, class(), claim(c.change))
			if err := worker.serve(t.Context(), "team", "data"); err != nil {
				t.Fatal(err)
			}
			if _, err := worker.client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("a volume was made: %v", err)
			}
			if said := len(events.Events) > 0; said != c.event {
				t.Errorf("told the user: %v; want %v", said, c.event)
			}
		})
	}
}

func volume(worker string, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	made := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-1", Annotations: map[string]string{madeBy: provisionerName}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: worker}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeReleased},
	}
	if change != nil {
		change(made)
	}
	return made
}

func TestClaimGrows(t *testing.T) {
	grown := claim(func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName = "pvc-1"
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("2Gi")
		c.Status.Phase = corev1.ClaimBound
		c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	})
	worker, _ := newProvisioner(t, class(), grown, volume("/nowhere", nil))
	if err := worker.serve(t.Context(), "team", "data"); err != nil {
		t.Fatal(err)
	}
	gotVolume, err := worker.client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	gotClaim, err := worker.client.CoreV1().PersistentVolumeClaims("team").Get(t.Context(), "data", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if size := gotVolume.Spec.Capacity.Storage().String(); size != "2Gi" {
		t.Errorf("the volume's size is %s", size)
	}
	if size := gotClaim.Status.Capacity.Storage().String(); size != "2Gi" {
		t.Errorf("the claim's size is %s", size)
	}
}

func TestReclaim(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*corev1.PersistentVolume)
		gone   bool
		fails  bool
	}{
		{"released", nil, true, false},
		{"still bound", func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeBound }, false, false},
		{"to be kept", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		}, false, false},
		{"of another's making", func(v *corev1.PersistentVolume) { v.Annotations = nil }, false, false},
		{"a path that is not ours", func(v *corev1.PersistentVolume) { v.Spec.Local.Path += "/.." }, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			path := filepath.Join(folder, "pvc-1")
			if err := os.MkdirAll(filepath.Join(path, "charts"), 0o755); err != nil {
				t.Fatal(err)
			}
			worker, _ := newProvisioner(t, volume(path, c.change))
			worker.folder = folder
			if err := worker.reclaim(t.Context(), "pvc-1"); (err != nil) != c.fails {
				t.Fatalf("got %v; want a failure: %v", err, c.fails)
			}
			_, statErr := os.Stat(path)
			_, getErr := worker.client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-1", metav1.GetOptions{})
			if os.IsNotExist(statErr) != c.gone || apierrors.IsNotFound(getErr) != c.gone {
				t.Errorf("folder: %v, volume: %v; want them gone: %v", statErr, getErr, c.gone)
			}
		})
	}
}

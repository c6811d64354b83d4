package accesssync

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/apply"
	"github.com/chartroom-dev/chartroom/controllers/internal/desired"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// documentKey is the entry of the Secret that holds the snapshot.
const documentKey = "access.json"

// tellEvery is how far apart two writes are that do no more than tell pods of conditions. The kubelet takes a minute or so
// to bring them.
const tellEvery = 15 * time.Second

// floor is the snapshot in the Secret, which pods boot from.
type floor struct {
	// access is the snapshot; without a revision when there is none that can be read.
	access wire.Access
	// intact says that the Secret is as this controller wrote it.
	intact bool
	// taken says that the Secret is somebody else's.
	taken bool
}

// readFloor reads the Secret of a registry's snapshot; nil when there is none.
func readFloor(registry *v1alpha1.HelmRegistry, told []metav1.Condition, secret *corev1.Secret) (floor, error) {
	if secret == nil {
		return floor{}, nil
	}
	owner := metav1.GetControllerOf(secret)
	labelled := secret.Labels[v1alpha1.LabelManagedBy] == v1alpha1.ManagedBy && secret.Labels[v1alpha1.LabelRegistry] == registry.Name
	owned := metav1.IsControlledBy(secret, registry)
	// After a restore the owner is missing, or is the registry from before.
	ours := owned || labelled && (owner == nil || owner.Kind == "HelmRegistry" && owner.Name == registry.Name)
	if !ours {
		return floor{taken: true}, nil
	}
	access, err := wire.DecodeAccess(secret.Data[documentKey])
	if err != nil {
		return floor{}, nil //nolint:nilerr // It is written anew.
	}
	entries, err := entriesOf(registry, told, access)
	if err != nil {
		return floor{}, err
	}
	intact := labelled && owned
	for name, content := range entries {
		intact = intact && bytes.Equal(content, secret.Data[name])
	}
	return floor{access: access, intact: intact}, nil
}

// settle makes the newest snapshot durable, in the Secret, and takes it into memory. Until that is done no pod hears of
// it: a pod that restarts must not fall back behind what others have confirmed. It reports whether the Secret's name is
// taken; then the snapshot is in memory only.
func (r *Reconciler) settle(ctx context.Context, registry *v1alpha1.HelmRegistry, m *memory, c compiled, now time.Time) (bool, error) {
	key := client.ObjectKey{Namespace: registry.Namespace, Name: desired.AccessName(registry)}
	f, err := fetchFloor(ctx, r.Owned, registry, m.told, key)
	if err != nil {
		return false, err
	}
	digest := c.access.ContentDigest()
	if !m.upToDate(f, digest) {
		// The cache may lag behind what was written a moment ago, and does not show what lacks our labels.
		if f, err = fetchFloor(ctx, r.Live, registry, m.told, key); err != nil {
			return false, err
		}
	}
	if m.upToDate(f, digest) {
		m.take(f.access, c)
		return false, nil
	}
	before := f.access
	if before.Revision == 0 && m.newest != nil {
		before = m.newest.Access // Deleted, damaged or not ours: memory knows what was last written.
	}
	next := c.access
	next.Revision = m.nextRevision(before, digest)
	next.Digest = digest
	if !f.taken {
		secret, err := buildSecret(registry, m.told, next)
		if err != nil {
			return false, err
		}
		_, err = r.applier().Apply(ctx, nil, secret)
		// In a namespace that is being deleted nothing new can be made, while its pods still serve.
		if err != nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return false, fmt.Errorf("writing the access snapshot to the Secret %s: %w", key.Name, err)
		}
	}
	if next.Revision > before.Revision {
		m.narrowed = m.narrowed || narrows(before, next, now)
		if m.since.IsZero() {
			m.since = now
		}
	}
	m.take(next, c)
	return f.taken, nil
}

func fetchFloor(ctx context.Context, reader client.Reader, registry *v1alpha1.HelmRegistry, told []metav1.Condition, key client.ObjectKey) (floor, error) {
	secret := &corev1.Secret{}
	if err := reader.Get(ctx, key, secret); apierrors.IsNotFound(err) {
		secret = nil
	} else if err != nil {
		return floor{}, fmt.Errorf("reading the Secret %s of the access snapshot: %w", key.Name, err)
	}
	return readFloor(registry, told, secret)
}

// upToDate reports whether the Secret holds what it should, and no pod is ahead of it.
func (m *memory) upToDate(f floor, digest string) bool {
	return f.intact && f.access.Digest == digest && f.access.Revision > 0 && !m.outranked(f.access)
}

// outranked reports whether a pod enforces what a snapshot cannot replace.
func (m *memory) outranked(a wire.Access) bool {
	for _, pod := range m.pods {
		if pod.state.Revision > a.Revision || pod.state.Revision == a.Revision && pod.state.Digest != a.Digest {
			return true
		}
	}
	return false
}

// nextRevision returns the revision for a snapshot with that digest: that of the one before when it is the same and
// stands, else one above all that are known.
func (m *memory) nextRevision(before wire.Access, digest string) uint64 {
	if before.Revision > 0 && before.Digest == digest && !m.outranked(before) {
		return before.Revision
	}
	highest := before.Revision
	if m.newest != nil {
		highest = max(highest, m.newest.Access.Revision)
	}
	for _, pod := range m.pods {
		highest = max(highest, pod.state.Revision)
	}
	return highest + 1
}

// take makes a snapshot the newest.
func (m *memory) take(a wire.Access, c compiled) {
	if m.newest == nil || m.newest.Access.Revision != a.Revision || m.newest.Access.Digest != a.Digest {
		m.document, m.rounds = a.Encode(), 0
		for uid, pod := range m.pods {
			pod.refused = false
			m.pods[uid] = pod
		}
	} else if maps.Equal(m.newest.Refused, c.refused) && maps.Equal(m.newest.LeftOut, c.policiesLeftOut) {
		return
	}
	m.newest = &ledger.Snapshot{Access: a, Refused: c.refused, LeftOut: c.policiesLeftOut}
}

// tell takes the conditions that pods are to be told, unless that was done a moment ago; then it returns when to come back.
//
// They are written beside the snapshot, and nothing that they are made of depends on what is written there: what was told
// leads to nothing more to tell.
func (m *memory) tell(conditions []metav1.Condition, now time.Time) time.Duration {
	if equality.Semantic.DeepEqual(m.told, conditions) {
		return 0
	}
	if left := m.toldAt.Add(tellEvery).Sub(now); left > 0 {
		return left
	}
	m.told, m.toldAt = slices.Clone(conditions), now
	return 0
}

// entriesOf are the entries of the Secret: the snapshot, what the registry is called, and, as far as there is room for it,
// what its object says.
func entriesOf(registry *v1alpha1.HelmRegistry, told []metav1.Condition, a wire.Access) (map[string][]byte, error) {
	entries := map[string][]byte{documentKey: a.Encode(), wire.PresentationFile: desired.Presentation(registry).Encode()}
	settings, err := desired.Settings(registry, told)
	if err != nil {
		return nil, err
	}
	room := corev1.MaxSecretSize - len(entries[documentKey]) - len(entries[wire.PresentationFile])
	document := settings.Encode()
	if len(document) > min(room, wire.MaxSettingsBytes) {
		settings.Spec = ""
		document = settings.Encode()
	}
	if len(document) <= room {
		entries[wire.SettingsFile] = document
	}
	return entries, nil
}

// buildSecret returns the Secret that holds a snapshot, and what people are told of the registry.
func buildSecret(registry *v1alpha1.HelmRegistry, told []metav1.Condition, a wire.Access) (*corev1.Secret, error) {
	yes := true
	entries, err := entriesOf(registry, told, a)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		Type:     corev1.SecretTypeOpaque,
		Data:     entries,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: registry.Namespace,
			Name:      desired.AccessName(registry),
			Labels:    map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelRegistry: registry.Name},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "HelmRegistry", Name: registry.Name, UID: registry.UID, Controller: &yes,
			}},
		},
	}, nil
}

func (r *Reconciler) applier() apply.Applier {
	return apply.Applier{Client: r.Client, Owner: FieldManager}
}

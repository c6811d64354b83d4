package policies

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// Secrets reads the Secrets that policies refer to. The cache has the metadata of all Secrets; a Secret itself is read
// from the API server when that has changed, so that a snapshot is made without a call as a rule.
type Secrets struct {
	// Cached has metadata, Live has all.
	Cached, Live client.Reader

	mu    sync.Mutex
	known map[types.NamespacedName]known
}

// maxKnown bounds how many Secrets are remembered, and maxAuthorities what is of each.
const (
	maxKnown       = 256
	maxAuthorities = 64 << 10
)

type known struct {
	version     string
	authorities []byte
	found       bool
}

// Authorities reads what a policy refers to.
func (s *Secrets) Authorities(ctx context.Context, p *v1alpha1.OIDCPolicy) (Authorities, error) {
	out := Authorities{}
	for _, name := range SecretsOf(p) {
		key := types.NamespacedName{Namespace: p.Namespace, Name: name}
		authorities, found, err := s.read(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("reading the Secret %s of the policy %s/%s: %w", name, p.Namespace, p.Name, err)
		}
		if found {
			out[name] = authorities
		}
	}
	return out, nil
}

func (s *Secrets) read(ctx context.Context, key types.NamespacedName) ([]byte, bool, error) {
	metadata := &metav1.PartialObjectMetadata{}
	metadata.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := s.Cached.Get(ctx, key, metadata); apierrors.IsNotFound(err) {
		s.keep(key, nil)
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	before, ok := s.known[key]
	s.mu.Unlock()
	if ok && before.version == metadata.ResourceVersion {
		return before.authorities, before.found, nil
	}
	secret := &corev1.Secret{}
	if err := s.Live.Get(ctx, key, secret); apierrors.IsNotFound(err) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	authorities, found := secret.Data[entryAuthorities]
	authorities = authorities[:min(len(authorities), maxAuthorities+1)] // One more, so that it shows.
	s.keep(key, &known{version: secret.ResourceVersion, authorities: authorities, found: found})
	return authorities, found, nil
}

// keep remembers what was read; nil forgets it.
func (s *Secrets) keep(key types.NamespacedName, k *known) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k == nil {
		delete(s.known, key)
		return
	}
	if s.known == nil || len(s.known) >= maxKnown {
		s.known = map[types.NamespacedName]known{}
	}
	s.known[key] = *k
}

// Of lists the policies that may be, or may have been, for a registry. The reader's cache must have IndexRegistry.
func Of(ctx context.Context, reader client.Reader, registry types.NamespacedName) ([]*v1alpha1.OIDCPolicy, error) {
	var all []*v1alpha1.OIDCPolicy
	seen := map[types.UID]bool{}
	for _, key := range []string{registry.String(), anyIn(registry.Namespace)} {
		list := &v1alpha1.OIDCPolicyList{}
		if err := reader.List(ctx, list, client.MatchingFields{IndexRegistry: key}); err != nil {
			return nil, fmt.Errorf("listing the registry's policies: %w", err)
		}
		for i := range list.Items {
			if p := &list.Items[i]; !seen[p.UID] {
				seen[p.UID] = true
				all = append(all, p)
			}
		}
	}
	return all, nil
}

package repository_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

// memory is a bucket for tests that make very many calls. As in S3, ETags tell contents apart, not writes, and a copy is
// as new as any object; it lists without delimiters only.
type memory struct {
	mu      sync.Mutex
	objects map[string]memoryObject
}

type memoryObject struct {
	content []byte
	info    bucket.Info
}

func (m *memory) get(key string) (memoryObject, error) {
	o, found := m.objects[key]
	if !found {
		return o, fmt.Errorf("read %s: %w", key, bucket.ErrNotFound)
	}
	return o, nil
}

func (m *memory) Get(_ context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.get(key)
	content := o.content
	if r != nil && err == nil {
		content = content[r.Offset:]
		if r.Length >= 0 {
			content = content[:min(r.Length, int64(len(content)))]
		}
	}
	return io.NopCloser(bytes.NewReader(content)), o.info, err
}

func (m *memory) Head(_ context.Context, key string) (bucket.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.get(key)
	return o.info, err
}

func (m *memory) Put(_ context.Context, key string, body io.Reader, _ int64, c bucket.Condition) (bucket.Info, error) {
	content, err := io.ReadAll(body)
	if err != nil {
		return bucket.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before, found := m.objects[key]
	switch {
	case c.Absent && found:
		return bucket.Info{}, bucket.ErrExists
	case c.ETag != "" && before.info.ETag != c.ETag:
		return bucket.Info{}, bucket.ErrChanged
	}
	return m.put(key, content), nil
}

func (m *memory) put(key string, content []byte) bucket.Info {
	info := bucket.Info{Key: key, Size: int64(len(content)), ETag: digest.FromBytes(content).Encoded(), Modified: time.Now()}
	m.objects[key] = memoryObject{content, info}
	return info
}

func (m *memory) Delete(_ context.Context, key string, c bucket.Condition) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o, found := m.objects[key]; found && c.ETag != "" && o.info.ETag != c.ETag {
		return bucket.ErrChanged
	}
	delete(m.objects, key)
	return nil
}

func (m *memory) List(_ context.Context, o bucket.ListOptions) (bucket.Page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var p bucket.Page
	for _, key := range slices.Sorted(maps.Keys(m.objects)) {
		if strings.HasPrefix(key, o.Prefix) && key > o.StartAfter {
			p.Objects = append(p.Objects, m.objects[key].info)
		}
	}
	if o.Limit > 0 && len(p.Objects) > o.Limit {
		p.Objects = p.Objects[:o.Limit]
		p.Next = p.Objects[o.Limit-1].Key
	}
	return p, nil
}

func (m *memory) Copy(_ context.Context, from, to string) (bucket.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.get(from)
	if err != nil {
		return bucket.Info{}, err
	}
	return m.put(to, o.content), nil
}

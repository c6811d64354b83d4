package repository

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

// CacheOptions bound what a store keeps in memory of what is asked for again and again. The zero value keeps nothing.
//
// Manifests that are asked for by digest, and tags unless TagsFresh allows otherwise, are compared with the bucket each
// time, by one Head or less: what another process deletes or moves is gone, or moved, at once. A manifest that is asked
// for by a tag is not looked at beside the tag: it is never deleted before its tags. Only a delete that was killed can
// leave a tag whose manifest is served from memory and nowhere else.
type CacheOptions struct {
	// Bytes bounds all that is kept, what it takes to keep it included.
	Bytes int64
	// BlobBytes is the size up to which a blob is kept.
	BlobBytes int64
	// TagsFresh is for how long a tag is served without a look at the bucket, and so how long what another process has
	// deleted, or moved, may be served under it. 0: it is compared each time. What this store changes is seen at once.
	TagsFresh time.Duration
	// BlobsFresh is for how long a blob is served without a look at the bucket, and so how long one that another process
	// has deleted may be served. What this store deletes is gone at once.
	BlobsFresh time.Duration
}

const (
	// entryOverhead is what an entry takes beside its content, about: its key, its place in the map and in the list.
	entryOverhead = 600
	// maxKeptManifest is the size up to which a manifest is kept, which those of charts are far below.
	maxKeptManifest = 64 << 10
)

// cache holds objects as they were read, the least recently used of which go first.
type cache struct {
	o CacheOptions

	mu      sync.Mutex
	size    int64
	entries map[string]*list.Element
	// order has each *kept, the most recently used first.
	order list.List
	// removals counts them, so that what was read before one is not kept after it.
	removals uint64
}

// kept is an object in the cache: a tag, a manifest, or a blob's content. It is not changed once it is there, but for
// checked.
type kept struct {
	key      string
	info     bucket.Info
	tag      tagObject
	manifest stored
	content  []byte
	// checked is when the object was last known to be in the bucket.
	checked time.Time
}

func (k *kept) cost() int64 { return entryOverhead + int64(2*len(k.key)+len(k.content)) }

// get returns what is kept under key, nil when there is nothing, and what to give to put if it has to be read.
func (c *cache) get(key string) (k *kept, checked time.Time, removals uint64) {
	if c.o.Bytes <= 0 {
		return nil, time.Time{}, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	place, ok := c.entries[key]
	if !ok {
		return nil, time.Time{}, c.removals
	}
	c.order.MoveToFront(place)
	k, _ = place.Value.(*kept)
	return k, k.checked, c.removals
}

// put keeps an object that was read after a get which gave this number of removals.
func (c *cache) put(k *kept, removals uint64) {
	if k.cost() > c.o.Bytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if removals != c.removals {
		return
	}
	if c.entries == nil {
		c.entries = map[string]*list.Element{}
	}
	if place, ok := c.entries[k.key]; ok {
		c.drop(place)
	}
	c.entries[k.key] = c.order.PushFront(k)
	c.size += k.cost()
	for c.size > c.o.Bytes {
		c.drop(c.order.Back())
	}
}

// confirm notes that an object was in the bucket at that time.
func (c *cache) confirm(k *kept, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.checked.Before(at) {
		k.checked = at
	}
}

// remove forgets an object that is deleted, or was found to be.
func (c *cache) remove(key string) {
	if c.o.Bytes <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removals++
	if place, ok := c.entries[key]; ok {
		c.drop(place)
	}
}

func (c *cache) drop(place *list.Element) {
	k, _ := c.order.Remove(place).(*kept)
	delete(c.entries, k.key)
	c.size -= k.cost()
}

// current returns what is kept under key if it is what the bucket has now, and nil otherwise. Errors: bucket.ErrNotFound
// where the bucket no longer has it.
func (s *Store) current(ctx context.Context, key string) (k *kept, removals uint64, err error) {
	k, _, removals = s.cache.get(key)
	if k == nil {
		return nil, removals, nil
	}
	now := s.o.Now()
	if c, ok := s.bucket.(bucket.Comparer); ok && c.Same(ctx, key, k.info.ETag) {
		s.cache.confirm(k, now)
		return k, removals, nil
	}
	info, err := s.bucket.Head(ctx, key)
	if err == nil && info.ETag == k.info.ETag {
		s.cache.confirm(k, now)
		return k, removals, nil
	}
	if errors.Is(err, bucket.ErrNotFound) {
		s.cache.remove(key)
	}
	return nil, removals, err
}

// contentOf is the reader of content that is shared: nobody changes it.
type contentOf struct{ bytes.Reader }

func (*contentOf) Close() error { return nil }

func readerOf(content []byte) io.ReadCloser {
	c := &contentOf{}
	c.Reset(content)
	return c
}

// open opens a blob, or the part that rng names. A small one it takes out of the cache, or reads and keeps; sound says
// that it did, and that the content has the digest.
func (r *Repository) open(ctx context.Context, d digest.Digest, rng *bucket.Range) (content io.ReadCloser, info bucket.Info, sound bool, err error) {
	key, now, o := r.blobKey(d), r.s.o.Now(), r.s.cache.o
	if rng != nil || o.Bytes <= 0 || o.BlobBytes <= 0 {
		content, info, err = r.s.getThrough(ctx, key, rng)
		return content, info, false, err
	}
	k, checked, removals := r.s.cache.get(key)
	if k != nil && now.Sub(checked) >= o.BlobsFresh {
		if k, removals, err = r.s.current(ctx, key); err != nil && !errors.Is(err, bucket.ErrNotFound) {
			return nil, bucket.Info{}, false, err
		}
	}
	if k != nil {
		return readerOf(k.content), k.info, true, nil
	}
	content, info, err = r.s.getThrough(ctx, key, nil)
	if err != nil || info.Size > o.BlobBytes || info.Size == 0 {
		return content, info, false, err
	}
	defer content.Close()
	read := make([]byte, info.Size)
	if _, err := io.ReadFull(content, read); err != nil {
		return nil, info, false, fmt.Errorf("%w: %w", bucket.ErrUnavailable, err)
	}
	good, known := r.s.verdicts.of(info)
	if !known {
		good = d.Algorithm().FromBytes(read) == d
		r.settle(d, info, good)
	}
	if !good {
		return nil, info, false, r.damaged(d, ErrBlobUnknown)
	}
	if info.Key == key {
		r.s.cache.put(&kept{key: key, info: info, content: read, checked: now}, removals)
	}
	return readerOf(read), info, true, nil
}

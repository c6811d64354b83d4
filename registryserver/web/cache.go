package web

import (
	"container/list"
	"sync"
)

// cache keeps what was made of blobs and manifests, by their repository and digest, as long as there is room: a digest
// names the same content forever. What nobody has asked for the longest goes first.
type cache struct {
	// most is how many bytes there may be.
	most int

	mu    sync.Mutex
	size  int
	known map[string]*list.Element
	// order has the one that was asked for last in front.
	order list.List
}

type cached struct {
	key   string
	value any
	size  int
}

func (c *cache) get(key string) (any, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.known[key]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	entry, _ := e.Value.(*cached)
	return entry.value, true
}

// put keeps a value of about so many bytes, unless it alone would take a quarter of the room.
func (c *cache) put(key string, value any, size int) {
	size += len(key) + 200 // What it takes to keep it.
	if size > c.most/4 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[string]*list.Element{}
	}
	if _, ok := c.known[key]; ok {
		return
	}
	c.known[key] = c.order.PushFront(&cached{key, value, size})
	for c.size += size; c.size > c.most; {
		oldest := c.order.Back()
		entry, _ := c.order.Remove(oldest).(*cached)
		delete(c.known, entry.key)
		c.size -= entry.size
	}
}

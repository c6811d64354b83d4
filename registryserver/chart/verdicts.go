package chart

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// maxVerdicts bounds the record, which holds about 300 bytes for each.
const maxVerdicts = 1024

// verdictKey names a manifest within its repository: what another repository has must be judged anew, as that one need
// not have it.
type verdictKey struct {
	repository string
	manifest   digest.Digest
}

// verdict is what a manifest's chart calls itself, or the reason to refuse it.
type verdict struct {
	name, version string
	reason        string
}

// verdicts is a record of the last verdicts. A digest names the same content forever, so they stay right.
type verdicts struct {
	mu    sync.Mutex
	known map[verdictKey]verdict
	// order is a ring of the keys; next is the oldest once it is full.
	order []verdictKey
	next  int
}

func (v *verdicts) get(k verdictKey) (verdict, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found, ok := v.known[k]
	return found, ok
}

func (v *verdicts) put(k verdictKey, found verdict) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.known[k]; ok {
		return
	}
	v.known[k] = found
	if len(v.order) < maxVerdicts {
		v.order = append(v.order, k)
		return
	}
	delete(v.known, v.order[v.next])
	v.order[v.next] = k
	v.next = (v.next + 1) % maxVerdicts
}

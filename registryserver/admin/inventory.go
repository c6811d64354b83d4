package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// inventoryBurst is how long it is waited, after a change, for others that come with it.
	inventoryBurst = 200 * time.Millisecond
	// inventoryFresh is how long an inventory is answered with that has not changed but for downloads.
	inventoryFresh = 30 * time.Second
	// inventorySending is how long the answer itself may take.
	inventorySending = 15 * time.Second
)

// Inventory is what the registry holds.
type Inventory interface {
	Wire() wire.Inventory
	// Changed returns a number that grows with every change but of downloads, and a channel that is closed at the next one.
	Changed() (revision uint64, next <-chan struct{})
}

// inventory serves [wire.PathInventory].
type inventory struct {
	of Inventory
	// wait is for how long a request may wait for a change.
	wait time.Duration

	mu   sync.Mutex
	last inventoryDocument
}

// inventoryDocument is an inventory as it was at a time.
type inventoryDocument struct {
	revision uint64
	at       time.Time
	body     []byte
	etag     string
}

// current is the document as it is now. Downloads alone make another one now and then only, so that they wake nobody all
// the time.
func (v *inventory) current() (inventoryDocument, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	revision, _ := v.of.Changed()
	if v.last.body != nil && v.last.revision == revision && time.Since(v.last.at) < inventoryFresh {
		return v.last, nil
	}
	body, err := json.Marshal(v.of.Wire())
	if err != nil {
		return inventoryDocument{}, err
	}
	sum := sha256.Sum256(body)
	v.last = inventoryDocument{revision: revision, at: time.Now(), body: body, etag: `"` + hex.EncodeToString(sum[:16]) + `"`}
	return v.last, nil
}

func (v *inventory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The listener's own deadlines are for requests that wait for nothing. Where there are none, there is nothing to put off.
	until, control := time.Now().Add(v.wait+inventorySending), http.NewResponseController(w)
	_ = errors.Join(control.SetReadDeadline(until), control.SetWriteDeadline(until))
	d, err := v.await(r.Context(), r.Header.Get("If-None-Match"))
	if err != nil {
		http.Error(w, "the inventory cannot be written as JSON", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("ETag", d.etag)
	if names(r.Header.Get("If-None-Match"), d.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(d.body) // The only error is a client that has gone.
}

// names says whether an If-None-Match names an ETag (RFC 9110 section 13.1.2).
func names(ifNoneMatch, etag string) bool {
	for name := range strings.SplitSeq(ifNoneMatch, ",") {
		if name = strings.TrimSpace(name); name == "*" || strings.TrimPrefix(name, "W/") == etag {
			return true
		}
	}
	return false
}

// await returns the newest document: at once, unless known names it; then when there is another, or once the time is up.
func (v *inventory) await(ctx context.Context, known string) (inventoryDocument, error) {
	timer := time.NewTimer(v.wait)
	defer timer.Stop()
	for {
		_, next := v.of.Changed()
		d, err := v.current()
		if err != nil || !names(known, d.etag) {
			return d, err
		}
		select {
		case <-next:
		case <-timer.C:
			return v.current()
		case <-ctx.Done():
			return d, nil
		}
		burst := time.NewTimer(inventoryBurst)
		select {
		case <-burst.C:
		case <-ctx.Done():
		}
		burst.Stop()
	}
}

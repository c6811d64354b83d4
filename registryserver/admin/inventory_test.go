package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// holding is an Inventory that a test changes.
type holding struct {
	mu       sync.Mutex
	w        wire.Inventory
	revision uint64
	next     chan struct{}
	asked    chan struct{}
}

func (h *holding) Wire() wire.Inventory {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.w
}

func (h *holding) Changed() (uint64, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case h.asked <- struct{}{}:
	default:
	}
	return h.revision, h.next
}

// change changes it; unseen: nobody is told, as of downloads.
func (h *holding) change(versions int64, unseen bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.w.Totals.Versions = versions
	if !unseen {
		h.revision++
		close(h.next)
		h.next = make(chan struct{})
	}
}

type answer struct {
	status int
	etag   string
	body   wire.Inventory
}

// The listener's own deadlines are shorter than the wait.
func serveInventory(t *testing.T, wait time.Duration) (*holding, func(etag string) answer) {
	t.Helper()
	h := &holding{next: make(chan struct{}), asked: make(chan struct{}, 1)}
	s := httptest.NewUnstartedServer(&inventory{of: h, wait: wait})
	s.Config.ReadTimeout, s.Config.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	s.Start()
	t.Cleanup(s.Close)
	return h, func(etag string) answer {
		t.Helper()
		request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.URL+wire.PathInventory, nil)
		if err != nil {
			t.Fatal(err)
		}
		if etag != "" {
			request.Header.Set("If-None-Match", etag)
		}
		response, err := s.Client().Do(request)
		if err != nil {
			t.Error(err)
			return answer{}
		}
		defer response.Body.Close()
		a := answer{status: response.StatusCode, etag: response.Header.Get("ETag")}
		content, err := io.ReadAll(response.Body)
		if err == nil && a.status == http.StatusOK {
			err = json.Unmarshal(content, &a.body)
		}
		if err != nil {
			t.Error(err)
		}
		return a
	}
}

func TestInventoryIsAnsweredAtOnceToWhoDoesNotKnowIt(t *testing.T) {
	h, get := serveInventory(t, time.Hour)
	h.change(3, false)
	first := get("")
	if first.status != http.StatusOK || first.body.Totals.Versions != 3 || len(first.etag) != 34 {
		t.Errorf("the answer is %+v", first)
	}
	if again := get(`"another"`); again.status != http.StatusOK || again.etag != first.etag {
		t.Errorf("the answer is %+v", again)
	}
}

func TestInventoryIsWaitedForByWhoKnowsIt(t *testing.T) {
	h, get := serveInventory(t, time.Hour)
	known := get("").etag
	<-h.asked
	got := make(chan answer)
	go func() { got <- get(`"x", ` + known) }()
	<-h.asked
	// What comes together is answered together.
	for i := range int64(3) {
		h.change(i+1, false)
	}
	if a := <-got; a.status != http.StatusOK || a.body.Totals.Versions != 3 || a.etag == known {
		t.Errorf("the answer is %+v", a)
	}
}

func TestInventoryThatDoesNotChange(t *testing.T) {
	h, get := serveInventory(t, 150*time.Millisecond)
	known := get("").etag
	h.change(7, true)
	if a := get(known); a.status != http.StatusNotModified || a.etag != known {
		t.Errorf("the answer is %+v", a)
	}
	h.change(0, false) // A change that nobody can see.
	if a := get(known); a.status != http.StatusNotModified || a.etag != known {
		t.Errorf("the answer is %+v", a)
	}
}

// Downloads alone are told when what was answered is old enough.
func TestInventoryTellsOfDownloadsNowAndThen(t *testing.T) {
	h := &holding{next: make(chan struct{}), asked: make(chan struct{}, 1)}
	v := &inventory{of: h, wait: time.Hour}
	before, err := v.current()
	if err != nil {
		t.Fatal(err)
	}
	h.change(7, true)
	v.last.at = v.last.at.Add(-inventoryFresh)
	if after, err := v.current(); err != nil || after.etag == before.etag {
		t.Errorf("the ETag is %s as before, %v", after.etag, err)
	}
}

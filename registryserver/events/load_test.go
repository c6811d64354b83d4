package events_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

// counting is a receiver that keeps no more of what it gets than what the test asks.
type counting struct {
	mu   sync.Mutex
	seen int
	last map[string]string
	// wrong is what came out of order.
	wrong []string
	// most is the most that was in memory, in bytes.
	most uint64
}

func (c *counting) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var e cloudEvent
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch last := c.last[e.Data.Chart]; {
	case e.ID == last:
		return // It is told again, where an answer came too late.
	case e.ID < last:
		c.wrong = append(c.wrong, e.Subject)
	}
	c.last[e.Data.Chart] = e.ID
	if c.seen++; c.seen%1000 == 0 {
		c.most = max(c.most, inUse())
	}
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Ten thousand events wait: all are told, in order for each chart, in memory that does not grow with them.
func TestTenThousandEvents(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	const n, charts = 10_000, 25
	c := &counting{last: map[string]string{}}
	server := httptest.NewServer(c)
	defer server.Close()
	who := receivers.Receiver{Name: "hook", URL: server.URL, Format: receivers.CloudEvents}
	b := newBucket(t)
	var marks sync.Map
	r := newReplica(t, b, func(o *events.Options) {
		o.LeaseTTL, o.Timeout = time.Minute, time.Minute
		// In place of the tags of ten thousand pushes.
		o.Standing = func(_ context.Context, chart, tag string) (digest.Digest, string, error) {
			mark, _ := marks.Load(chart + ":" + tag)
			return digest.FromString("x"), mark.(string), nil
		}
	}, who)
	before := inUse()
	var pushing errgroup.Group
	pushing.SetLimit(16)
	for i := range n {
		pushing.Go(func() error {
			change := repository.Change{Repository: fmt.Sprintf("team/%d", i%charts), Tag: fmt.Sprintf("1.0.%d", i), Digest: digest.FromString("x"), By: "ci"}
			mark, done, err := r.Record(t.Context(), change)
			if err == nil {
				marks.Store(change.Repository+":"+change.Tag, mark)
				done(true)
			}
			return err
		})
	}
	if err := pushing.Wait(); err != nil {
		t.Fatal(err)
	}
	before = max(before, inUse())
	r.run()
	eventually(t, "all are delivered", func() bool { return r.seen.of("hook", events.Delivered) == n })
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen != n || len(c.wrong) > 0 {
		t.Errorf("%d were told, and wrong were %d: %.200v", c.seen, len(c.wrong), c.wrong)
	}
	if grown := int64(c.most) - int64(before); grown > 16<<20 {
		t.Errorf("%d bytes more are in memory", grown)
	} else {
		t.Logf("%d bytes more are in memory", grown)
	}
}

package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/test/bench/load"
	"github.com/opencontainers/go-digest"
)

// pool is content that versions share, so that most of what is pushed was named, and is no longer, a moment ago.
func pool(n int) []load.Blob {
	var blobs []load.Blob
	for i := range n {
		content := []byte(strings.Repeat(fmt.Sprintf("shared content %d\n", i), 50*(i+1)))
		blobs = append(blobs, load.Blob{Digest: digest.FromBytes(content).String(), Content: content})
	}
	return blobs
}

// artifact is a version made of two blobs.
func artifact(repository, tag string, config, layer load.Blob, note string) load.Chart {
	describe := func(b load.Blob) string {
		return fmt.Sprintf(`{"mediaType":"text/plain","digest":%q,"size":%d}`, b.Digest, len(b.Content))
	}
	manifest := []byte(fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[%s],"annotations":{"note":%q}}`, describe(config), describe(layer), note))
	return load.Chart{
		Repository: folder + repository, Tag: tag, Config: config, Layer: layer,
		Manifest: load.Blob{Digest: digest.FromBytes(manifest).String(), Content: manifest},
	}
}

// Garbage is collected all the time, by three servers, one of which is killed again and again, and by the command, with
// periods of milliseconds, while clients delete versions and push others that are made of the same blobs.
func TestGarbageCollectionUnderPushes(t *testing.T) {
	eachStorage(t, func(t *testing.T, s *storage) {
		l := newLedger(t)
		allowDeletes(t, s)
		flags := []string{"--gc-interval", "100ms", "--gc-grace", "5ms", "--gc-undo", "50ms"}
		servers := make([]atomic.Pointer[server], 3)
		for i := range servers {
			servers[i].Store(s.serve(t, flags...))
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var background sync.WaitGroup
		var sum repository.Collection
		background.Go(func() {
			for ctx.Err() == nil {
				gc := exec.CommandContext(ctx, binary, append([]string{"gc", "-o", "json", "--grace", "5ms", "--undo", "50ms"}, s.flags...)...)
				gc.Dir = s.folder
				out, err := gc.Output()
				var done struct{ Summary repository.Collection }
				if err := errors.Join(err, json.Unmarshal(out, &done)); err != nil && ctx.Err() == nil {
					t.Errorf("gc: %v: %s", err, out)
				}
				sum = sum.Plus(done.Summary)
			}
		})
		background.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(time.Duration(rand.Int64N(int64(2 * time.Second))))
				servers[2].Load().kill()
				servers[2].Store(s.serve(t, flags...))
			}
		})
		blobs := pool(5)
		var tries, lost atomic.Int64
		var workers sync.WaitGroup
		for i := range 4 {
			workers.Go(func() {
				w := &worker{t: t, l: l, servers: servers, tries: &tries, lost: &lost}
				for n := range rounds(t, 40) {
					repository := fmt.Sprintf("shared-%d", n%2)
					chart := artifact(repository, fmt.Sprintf("%d.0.%d", i, n%4), blobs[rand.IntN(len(blobs))], blobs[rand.IntN(len(blobs))], fmt.Sprint(i, n))
					w.replace(chart)
				}
			})
		}
		workers.Wait()
		for range 3 {
			l.audit(t, servers[rand.IntN(2)].Load())
		}
		stop()
		background.Wait()
		l.audit(t, servers[0].Load())
		verify := exec.Command(binary, append([]string{"verify"}, s.flags...)...)
		verify.Dir = s.folder
		if out, err := verify.CombinedOutput(); err != nil {
			t.Errorf("verify: %v: %s", err, out)
		}
		t.Logf("%d pushes and deletes took %d tries, %d of which were told that a blob is gone; the command alone condemned %d objects, brought %d back and freed %d; %d versions are left, and all are there",
			rounds(t, 40)*4, tries.Load(), lost.Load(), sum.Condemned.Objects, sum.Restored.Objects, sum.Freed.Objects, l.size())
		if sum.Condemned.Objects == 0 || sum.Freed.Objects == 0 {
			t.Error("there was nothing to collect for the command")
		}
	})
}

// allowDeletes makes the token that servers are asked with, before the first of them makes one that may not delete.
func allowDeletes(t *testing.T, s *storage) {
	t.Helper()
	token := exec.Command(binary, "token", "create", "--access", "access.json", "--scopes", "read_packages,write_packages,delete_packages")
	token.Dir = s.folder
	out, err := token.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.folder, "access.token"), out, 0o600); err != nil {
		t.Fatal(err)
	}
}

// worker pushes and deletes through whatever server.
type worker struct {
	t           *testing.T
	l           *ledger
	servers     []atomic.Pointer[server]
	tries, lost *atomic.Int64
}

// again calls f with a client of some server until it succeeds, or fails otherwise than because that server is killed, or
// a blob is gone that was there when the client asked for it.
func (w *worker) again(f func(c *client) error) {
	for range 100 {
		w.tries.Add(1)
		c := newClient(w.servers[rand.IntN(len(w.servers))].Load())
		err := f(c)
		c.http.CloseIdleConnections()
		if err == nil {
			return
		}
		status := new(statusError)
		if errors.As(err, &status) {
			if !strings.Contains(status.message, "MANIFEST_BLOB_UNKNOWN") {
				w.t.Error(err)
				return
			}
			w.lost.Add(1)
		}
	}
	w.t.Error("it does not succeed in a hundred tries")
}

// replace deletes a version, if it is there, and pushes it with other content.
func (w *worker) replace(chart load.Chart) {
	w.l.begin(chart)
	if before, ok := w.l.forgetTag(chart); ok {
		reference := before.Tag
		if rand.IntN(2) == 0 {
			reference = before.Manifest.Digest
		}
		w.again(func(c *client) error {
			err := c.delete(w.t.Context(), before, reference)
			if status := new(statusError); errors.As(err, &status) && status.status == http.StatusNotFound {
				return nil // By a try whose answer was lost.
			}
			return err
		})
	}
	w.again(func(c *client) error { return c.push(w.t.Context(), chart) })
	w.l.acknowledged(chart)
}

package registryserver_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func (r *running) purge(client *http.Client, method string) (status int, state wire.PurgeState) {
	r.t.Helper()
	status = r.admin(client, method, wire.PathPurge, nil, &state)
	return status, state
}

// in keeps the content in a folder, and all else where it was.
func in(folder string) func(*registryserver.Config) {
	return func(c *registryserver.Config) {
		c.Access.File, c.Storage.Dir = filepath.Join(c.Storage.Dir+".state", "access.json"), folder
	}
}

// filesBelow are the names of the files in a folder.
func filesBelow(t *testing.T, folder string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// The charts of a deleted registry must not come back, nor be served while they go.
func TestPurge(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "data")
	r, operator := startOperated(t, in(folder))
	r.untilReady()
	r.pushBlob("a layer")
	if status, state := r.purge(operator, http.MethodPost); status != http.StatusConflict || state.Phase != wire.PurgeIdle || state.Problem == "" {
		t.Errorf("a pod that serves answers a purge with %d %+v", status, state)
	}
	if answer := r.request("GET", r.public+"/v2/", nil, nil); answer.StatusCode != http.StatusOK {
		t.Errorf("afterwards it answers %d", answer.StatusCode)
	}
	r.stop()

	only := func(c *registryserver.Config) {
		in(folder)(c)
		c.Purge = true
	}
	purging, operator := startOperated(t, only)
	if answer := purging.request("GET", purging.public+"/v2/", nil, nil); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a pod that only deletes answers a client with %d", answer.StatusCode)
	}
	if ok, body := purging.ready(); ok || !strings.Contains(body, "is being deleted") {
		t.Errorf("a pod that only deletes is ready: %s", body)
	}
	if status, state := purging.purge(operator, http.MethodGet); status != http.StatusOK || state.Phase != wire.PurgeIdle {
		t.Errorf("before it is told to, its state is %d %+v", status, state)
	}
	if len(filesBelow(t, filepath.Join(folder, "objects"))) == 0 {
		t.Error("it deleted before it was told to")
	}
	purging.purge(operator, http.MethodPost)
	eventually(t, "everything is deleted", func() bool {
		_, state := purging.purge(operator, http.MethodGet)
		return state.Phase == wire.PurgeDone && state.Deleted > 0
	})
	// A pod that starts again afterwards finds nothing and makes nothing.
	again, operator := startOperated(t, only)
	again.purge(operator, http.MethodPost)
	eventually(t, "nothing is left to delete", func() bool {
		_, state := again.purge(operator, http.MethodPost)
		return state.Phase == wire.PurgeDone && state.Deleted == 0
	})
	if left := filesBelow(t, filepath.Join(folder, "objects")); len(left) > 0 {
		t.Errorf("these are left: %q", left)
	}
}

func TestPurgeTellsWhatFails(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "data")
	r := start(t, func(c *registryserver.Config) { c.Storage.Dir, c.Organization = folder, "somebody" })
	r.stop()
	purging, operator := startOperated(t, func(c *registryserver.Config) { c.Storage.Dir, c.Purge = folder, true })
	purging.purge(operator, http.MethodPost)
	eventually(t, "the purge fails", func() bool {
		_, state := purging.purge(operator, http.MethodGet)
		return state.Phase == wire.PurgeFailed && strings.Contains(state.Problem, "belongs to the registry somebody/charts, not to acme/charts")
	})
}

// While nodes learn that a pod goes away, it must answer, and send those who hold connections elsewhere.
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *registryserver.Config) { c.DrainDelay = registryserver.Duration(time.Second) })
	r.untilReady()
	r.stop()
	eventually(t, "the server is not ready any more", func() bool { ok, _ := r.ready(); return !ok })
	answer := r.request("GET", r.public+"/v2/", nil, nil)
	if answer.StatusCode != http.StatusOK || !answer.Close {
		t.Errorf("during the delay the answer is %d, closing: %t", answer.StatusCode, answer.Close)
	}
}

// A load balancer that learns later than the delay goes on sending clients, and none of them may be lost.
func TestDrainDelayGoesOnWhileClientsCome(t *testing.T) {
	t.Parallel()
	const delay = time.Second
	r := start(t, func(c *registryserver.Config) { c.DrainDelay = registryserver.Duration(delay) })
	r.untilReady()
	r.stop()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for began, last := time.Now(), time.Now(); time.Since(began) < 3*delay; {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.public+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			if time.Since(last) < delay {
				t.Errorf("%s after the server was told to stop, a client was turned away: %v", time.Since(began), err)
			}
			return // Nothing else was running for so long that the server may have stopped.
		}
		answer.Body.Close()
		last = time.Now()
	}
}

package registryserver_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// inventory asks the admin port, as who knows what has the ETag.
func (r *running) inventory(operator *http.Client, etag string) (status int, newETag string, w wire.Inventory) {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "https://"+r.server.Addresses()["admin"].String()+wire.PathInventory, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if etag != "" {
		request.Header.Set("If-None-Match", etag)
	}
	answer, err := operator.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode == http.StatusOK {
		err = json.Unmarshal(content, &w)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.StatusCode, answer.Header.Get("ETag"), w
}

// What is pushed, downloaded and deleted is told the operator, the metrics and the other faces, also by the next server.
func TestInventoryOfAServer(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	in := func(c *registryserver.Config) {
		c.Access.File = filepath.Join(c.Storage.Dir+".state", "access.json")
		c.Storage.Dir = data
	}
	r, operator := startOperated(t, in)
	r.untilReady()
	eventually(t, "nothing is known to be stored", func() bool { return !r.server.Inventory().Building() })
	_, known, w := r.inventory(operator, "")
	if w.Totals.Charts != 0 || w.Building || known == "" {
		t.Errorf("before any push the operator is told %+v", w)
	}
	c := charttest.New("web", "1.0.0", 5000)
	if status, body := r.putChart("1.0.0", c); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	status, known, w := r.inventory(operator, known)
	if status != http.StatusOK || len(w.Charts) != 1 || w.Charts[0].Name != "web" || w.Charts[0].LatestVersion != "1.0.0" || w.Charts[0].Digest != digest.FromBytes(c.Manifest).String() {
		t.Errorf("after a push the operator is told %d %+v", status, w)
	}
	if size := int64(len(c.Config) + len(c.Content) + len(c.Manifest)); w.Totals.SizeBytes != size {
		t.Errorf("%d bytes are stored, want %d", w.Totals.SizeBytes, size)
	}
	blobs := r.public + repositoryPath + "/blobs/"
	for range 3 {
		for _, content := range [][]byte{c.Content, c.Config} {
			if answer := r.request("GET", blobs+digest.FromBytes(content).String(), nil, nil); text(t, answer) != string(content) {
				t.Fatal(answer.Status)
			}
		}
	}
	downloads := func(r *running) int64 {
		v, _ := r.server.Inventory().Version("web", "1.0.0")
		return v.Downloads
	}
	eventually(t, "three downloads are counted", func() bool { return downloads(r) == 3 })
	metrics := text(t, r.request("GET", r.metrics+"/metrics", nil, nil))
	for _, want := range []string{"chartroom_charts 1", "chartroom_versions 1", "chartroom_downloads_total 3", "chartroom_inventory_building 0", "chartroom_inventory_failures_total 0"} {
		if !strings.Contains(metrics, "\n"+want+"\n") {
			t.Errorf("the metrics have no %s", want)
		}
	}
	r.stop()
	err := <-r.done
	r.done <- err

	next, operator := startOperated(t, in)
	eventually(t, "the next server knows the same", func() bool { return !next.server.Inventory().Building() && downloads(next) == 3 })
	_, _, w = next.inventory(operator, "")
	if len(w.Charts) != 1 || w.Charts[0].Downloads != 3 || w.Totals.Downloads != 3 {
		t.Errorf("the next server tells the operator %+v", w)
	}
	if again, _, _ := next.inventory(operator, known); again != http.StatusOK {
		t.Errorf("what has changed is answered with %d", again)
	}
}

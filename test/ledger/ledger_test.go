package ledger_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/chartroom-dev/chartroom/test/bench/load"
	"github.com/opencontainers/go-digest"
)

const folder = "default/charts/"

// ledger is what was acknowledged, in memory and in a file.
type ledger struct {
	t    *testing.T
	mu   sync.Mutex
	file *os.File
	// charts are by repository and tag.
	charts map[string]load.Chart
	// repositories are all that anything was ever sent to.
	repositories map[string]bool
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return &ledger{t: t, file: file, charts: map[string]load.Chart{}, repositories: map[string]bool{}}
}

func reference(c load.Chart) string { return c.Repository + ":" + c.Tag }

// begin notes that a push is tried.
func (l *ledger) begin(c load.Chart) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.repositories[c.Repository] = true
}

// acknowledged notes that a push succeeded, or, with a minus, that a version is about to be deleted.
func (l *ledger) acknowledged(c load.Chart) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, ok := l.charts[reference(c)]; ok && before.Manifest.Digest != c.Manifest.Digest {
		l.t.Errorf("%s was acknowledged as %s and as %s", reference(c), before.Manifest.Digest, c.Manifest.Digest)
	}
	l.charts[reference(c)] = c
	if _, err := fmt.Fprintln(l.file, "+", reference(c), c.Manifest.Digest); err != nil {
		l.t.Error(err)
	}
}

func (l *ledger) forget(c load.Chart) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.charts, reference(c))
	if _, err := fmt.Fprintln(l.file, "-", reference(c)); err != nil {
		l.t.Error(err)
	}
}

// forgetTag forgets what was acknowledged under the same tag, and returns it.
func (l *ledger) forgetTag(c load.Chart) (before load.Chart, ok bool) {
	l.mu.Lock()
	before, ok = l.charts[reference(c)]
	l.mu.Unlock()
	if ok {
		l.forget(before)
	}
	return before, ok
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.charts)
}

// audit looks, through one server, for everything that was acknowledged, and that all that is listed is whole.
func (l *ledger) audit(t *testing.T, r *server) {
	t.Helper()
	l.mu.Lock()
	charts, repositories := maps.Clone(l.charts), slices.Sorted(maps.Keys(l.repositories))
	l.mu.Unlock()
	c := newClient(r)
	for _, name := range slices.Sorted(maps.Keys(charts)) {
		chart := charts[name]
		base := "/v2/" + chart.Repository
		for path, want := range map[string]load.Blob{
			base + "/manifests/" + chart.Tag:             chart.Manifest,
			base + "/manifests/" + chart.Manifest.Digest: chart.Manifest,
			base + "/blobs/" + chart.Config.Digest:       chart.Config,
			base + "/blobs/" + chart.Layer.Digest:        chart.Layer,
		} {
			got, err := c.get(t.Context(), path)
			if err != nil {
				t.Errorf("lost: %s: %v", name, err)
			} else if !bytes.Equal(got, want.Content) {
				t.Errorf("changed: %s has %d bytes with %s, not %s", path, len(got), digest.FromBytes(got), want.Digest)
			}
		}
	}
	for _, repository := range repositories {
		c.auditListed(t, repository)
	}
	if t.Failed() {
		t.Fatalf("of %d acknowledged pushes some are lost, or something is there by halves:\n%s", len(charts), r.log.end())
	}
}

// auditListed looks whether all versions of a chart that are listed can be pulled.
func (c *client) auditListed(t *testing.T, repository string) {
	t.Helper()
	content, err := c.get(t.Context(), "/v2/"+repository+"/tags/list")
	if status, ok := err.(*statusError); ok && status.status == http.StatusNotFound { //nolint:errorlint // get does not wrap it.
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	var list struct{ Tags []string }
	if err := json.Unmarshal(content, &list); err != nil {
		t.Error(err)
	}
	for _, tag := range list.Tags {
		content, err := c.get(t.Context(), "/v2/"+repository+"/manifests/"+tag)
		if err != nil {
			t.Errorf("half-visible: %s:%s is listed: %v", repository, tag, err)
			continue
		}
		var manifest struct {
			Config struct{ Digest digest.Digest }
			Layers []struct{ Digest digest.Digest }
		}
		if err := json.Unmarshal(content, &manifest); err != nil {
			t.Errorf("half-visible: %s:%s: %v", repository, tag, err)
		}
		for _, d := range append(manifest.Layers, manifest.Config) {
			blob, err := c.get(t.Context(), "/v2/"+repository+"/blobs/"+d.Digest.String())
			if err != nil || digest.FromBytes(blob) != d.Digest {
				t.Errorf("half-visible: %s:%s needs %s, of which %d bytes come: %v", repository, tag, d.Digest, len(blob), err)
			}
		}
	}
}

// client pushes as helm does.
type client struct {
	server *server
	http   *http.Client
}

func newClient(r *server) *client {
	return &client{server: r, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}}
}

// statusError is an answer that was not hoped for.
type statusError struct {
	what    string
	status  int
	message string
}

func (e *statusError) Error() string { return fmt.Sprintf("%s: %d: %s", e.what, e.status, e.message) }

// do does a request and returns the body and the Location of its answer.
func (c *client) do(ctx context.Context, method, path string, body []byte, want int) ([]byte, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.server.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	r.SetBasicAuth("ledger", c.server.token)
	r.Header.Set("Content-Type", load.ManifestType)
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, "", err
	}
	if answer.StatusCode != want {
		return nil, "", &statusError{method + " " + path, answer.StatusCode, string(content)}
	}
	return content, answer.Header.Get("Location"), nil
}

func (c *client) get(ctx context.Context, path string) ([]byte, error) {
	content, _, err := c.do(ctx, http.MethodGet, path, nil, http.StatusOK)
	return content, err
}

// push pushes a chart: what is there already is not sent again. nil means that it was acknowledged.
func (c *client) push(ctx context.Context, chart load.Chart) error {
	base := "/v2/" + chart.Repository
	for _, b := range []load.Blob{chart.Config, chart.Layer} {
		if _, _, err := c.do(ctx, http.MethodHead, base+"/blobs/"+b.Digest, nil, http.StatusOK); err == nil {
			continue
		}
		_, location, err := c.do(ctx, http.MethodPost, base+"/blobs/uploads/", nil, http.StatusAccepted)
		if err != nil {
			return err
		}
		if _, _, err := c.do(ctx, http.MethodPut, location+"?digest="+b.Digest, b.Content, http.StatusCreated); err != nil {
			return err
		}
	}
	for _, reference := range []string{chart.Manifest.Digest, chart.Tag} {
		if _, _, err := c.do(ctx, http.MethodPut, base+"/manifests/"+reference, chart.Manifest.Content, http.StatusCreated); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) delete(ctx context.Context, chart load.Chart, reference string) error {
	_, _, err := c.do(ctx, http.MethodDelete, "/v2/"+chart.Repository+"/manifests/"+reference, nil, http.StatusAccepted)
	return err
}

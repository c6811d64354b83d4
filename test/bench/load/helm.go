package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
)

// Pull is what helm sends to pull one version: the manifest by tag, the chart, the configuration.
type Pull struct {
	heads   [3][]byte
	lengths [3]int64
	digests [3]string
}

// Pull prepares the requests.
func (t *Target) Pull(c Chart) Pull {
	var p Pull
	for i, part := range []struct {
		path string
		blob Blob
	}{
		{"manifests/" + c.Tag, c.Manifest},
		{"blobs/" + c.Layer.Digest, c.Layer},
		{"blobs/" + c.Config.Digest, c.Config},
	} {
		p.heads[i] = t.Head(http.MethodGet, "/v2/"+c.Repository+"/"+part.path, -1, "Accept: "+ManifestType)
		p.lengths[i], p.digests[i] = int64(len(part.blob.Content)), part.blob.Digest
	}
	return p
}

// Do pulls.
func (p *Pull) Do(ctx context.Context, c *Conn) error {
	for i := range p.heads {
		answer, err := c.Do(ctx, http.StatusOK, p.heads[i], nil)
		if err != nil {
			return err
		}
		if answer.Length != p.lengths[i] {
			return fmt.Errorf("%s: %d bytes in place of %d", firstLine(p.heads[i]), answer.Length, p.lengths[i])
		}
	}
	return nil
}

// Verify pulls and compares the digests.
func (p *Pull) Verify(ctx context.Context, c *Conn) error {
	defer func() { c.Body = nil }()
	for i := range p.heads {
		var body bytes.Buffer
		c.Body = &body
		if _, err := c.Do(ctx, http.StatusOK, p.heads[i], nil); err != nil {
			return err
		}
		if got := fmt.Sprintf("sha256:%x", sha256.Sum256(body.Bytes())); got != p.digests[i] {
			return fmt.Errorf("%s: the content has the digest %s, not %s", firstLine(p.heads[i]), got, p.digests[i])
		}
	}
	return nil
}

// Push pushes a chart with the ten requests of helm 3.18 and later, one after the other.
func (t *Target) Push(ctx context.Context, c *Conn, chart Chart) error {
	base := "/v2/" + chart.Repository
	manifest := base + "/manifests/" + chart.Manifest.Digest
	if _, err := c.Do(ctx, http.StatusNotFound, t.Head(http.MethodHead, manifest, -1), nil); err != nil {
		return err
	}
	for _, b := range []Blob{chart.Config, chart.Layer} {
		if _, err := c.Do(ctx, http.StatusNotFound, t.Head(http.MethodHead, base+"/blobs/"+b.Digest, -1), nil); err != nil {
			return err
		}
	}
	if err := t.upload(ctx, c, base, chart); err != nil {
		return err
	}
	if err := t.put(ctx, c, manifest, chart.Manifest); err != nil {
		return err
	}
	if _, err := c.Do(ctx, http.StatusOK, t.Head(http.MethodGet, manifest, -1, "Accept: "+ManifestType), nil); err != nil {
		return err
	}
	return t.put(ctx, c, base+"/manifests/"+chart.Tag, chart.Manifest)
}

// Seed pushes a chart with the fewest requests that every registry takes.
func (t *Target) Seed(ctx context.Context, c *Conn, chart Chart) error {
	base := "/v2/" + chart.Repository
	if err := t.upload(ctx, c, base, chart); err != nil {
		return err
	}
	return t.put(ctx, c, base+"/manifests/"+chart.Tag, chart.Manifest)
}

func (t *Target) put(ctx context.Context, c *Conn, path string, b Blob) error {
	_, err := c.Do(ctx, http.StatusCreated, t.Head(http.MethodPut, path, len(b.Content), "Content-Type: "+ManifestType), b.Content)
	return err
}

func (t *Target) upload(ctx context.Context, c *Conn, base string, chart Chart) error {
	for _, b := range []Blob{chart.Config, chart.Layer} {
		if err := t.PutBlob(ctx, c, base, b.Digest, b.Content, 1); err != nil {
			return err
		}
	}
	return nil
}

// PutBlob uploads a blob, which consists of times the same piece, with POST and PUT below base ("/v2/" and the
// repository).
func (t *Target) PutBlob(ctx context.Context, c *Conn, base, digest string, piece []byte, times int) error {
	answer, err := c.Do(ctx, http.StatusAccepted, t.Head(http.MethodPost, base+"/blobs/uploads/", 0), nil)
	if err != nil {
		return err
	}
	separator := "?"
	if strings.Contains(answer.Location, "?") {
		separator = "&"
	}
	path := answer.Location + separator + "digest=" + strings.Replace(digest, ":", "%3A", 1)
	head := t.Head(http.MethodPut, path, len(piece)*times, "Content-Type: application/octet-stream")
	_, err = c.Stream(ctx, http.StatusCreated, head, piece, times)
	return err
}

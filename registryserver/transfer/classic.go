package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.yaml.in/yaml/v3"
)

const (
	// maxRepositoryIndex bounds an index.yaml. In memory it takes several times as much; one of 100,000 versions has
	// about 60 MiB.
	maxRepositoryIndex = 128 << 20
	maxProvenance      = 1 << 20
	// attempts bounds how often a download that breaks off in the middle is begun again.
	attempts = 3
)

// Classic is a chart repository with an index.yaml, as ChartMuseum and plain web servers have them, as a source.
type Classic struct {
	remote  Remote
	client  *http.Client
	index   *url.URL
	maxBlob int64
}

// NewClassic returns the repository whose index.yaml is in the folder r.URL, or is r.URL itself. maxArchive bounds a
// chart, in bytes.
func NewClassic(ctx context.Context, r Remote, maxArchive int64) *Classic {
	index := *r.URL
	if !strings.HasSuffix(index.Path, "/index.yaml") {
		index = *index.JoinPath("index.yaml")
	}
	return &Classic{remote: r, client: r.client(ctx), index: &index, maxBlob: maxArchive}
}

// entry is a version in an index.yaml (Helm's documentation, "The Index File").
type entry struct {
	Name    string    `json:"name" yaml:"name"`
	Version string    `json:"version" yaml:"version"`
	Digest  string    `json:"digest" yaml:"digest"`
	URLs    []string  `json:"urls" yaml:"urls"`
	Created time.Time `json:"created" yaml:"created"`
}

// Versions implements Source.
func (c *Classic) Versions(ctx context.Context) ([]Version, error) {
	body, err := c.get(ctx, c.index)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.index.Redacted(), err)
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, maxRepositoryIndex+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.index.Redacted(), err)
	}
	if len(content) > maxRepositoryIndex {
		return nil, fmt.Errorf("%s has more than %d bytes", c.index.Redacted(), maxRepositoryIndex)
	}
	entries, err := parseIndex(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.index.Redacted(), err)
	}
	var versions []Version
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		for _, e := range entries[name] {
			if e.Name == "" {
				e.Name = name
			}
			versions = append(versions, Version{Chart: e.Name, Tag: strings.ReplaceAll(e.Version, "+", "_"), move: func(ctx context.Context, t Target, dry bool) (moved, error) {
				return c.move(ctx, e, t, dry)
			}})
		}
	}
	return versions, nil
}

// parseIndex reads the entries of an index.yaml, which may be JSON.
func parseIndex(content []byte) (map[string][]entry, error) {
	var index struct {
		Entries map[string][]entry `json:"entries" yaml:"entries"`
	}
	read := yaml.Unmarshal
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("{")) {
		read = json.Unmarshal
	}
	if err := read(content, &index); err != nil {
		return nil, fmt.Errorf("it is not the index of a chart repository: %w", err)
	}
	if index.Entries == nil {
		return nil, errors.New("it is not the index of a chart repository: it has no entries")
	}
	return index.Entries, nil
}

// move makes an OCI artifact of a version, as `helm push` would.
func (c *Classic) move(ctx context.Context, e entry, t Target, dry bool) (moved, error) {
	tag := strings.ReplaceAll(e.Version, "+", "_")
	stands, err := layerOf(ctx, t, e.Name, tag)
	if err != nil {
		return moved{}, err
	}
	announced := digest.Digest("")
	if e.Digest != "" {
		announced = digest.Digest("sha256:" + strings.TrimPrefix(strings.ToLower(e.Digest), "sha256:"))
		if err := announced.Validate(); err != nil {
			return moved{}, fmt.Errorf("the index has the digest %.80q for it, which is none: %w", e.Digest, err)
		}
	}
	switch {
	case stands != "" && stands == announced:
		return moved{outcome: Present}, nil
	case stands != "" && announced != "":
		return moved{}, &ConflictError{Stands: stands}
	case dry && stands == "":
		return moved{outcome: Missing}, nil
	}
	archive, d, err := c.download(ctx, e, announced)
	if err != nil {
		return moved{}, err
	}
	defer archive.Close()
	switch {
	case stands == d.Digest:
		return moved{outcome: Present}, nil
	case stands != "":
		return moved{}, &ConflictError{Stands: stands}
	}
	return c.push(ctx, e, t, tag, archive, d)
}

// layerOf returns the digest of the chart archive that a tag stands for, "" where there is no such tag. What stands for
// something else than a chart is a conflict.
func layerOf(ctx context.Context, t Target, chart, tag string) (digest.Digest, error) {
	_, manifest, err := t.Manifest(ctx, chart, tag)
	if errors.Is(err, ErrNotThere) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	parsed, err := parse(manifest)
	if err != nil {
		return "", err
	}
	for _, l := range parsed.Layers {
		if l.MediaType == chartType {
			return l.Digest, nil
		}
	}
	return "", &ConflictError{Stands: digest.FromBytes(manifest)}
}

func (c *Classic) push(ctx context.Context, e entry, t Target, tag string, archive *spooled, d ocispec.Descriptor) (moved, error) {
	provenance, err := c.provenance(ctx, archive.from)
	if err != nil {
		return moved{}, err
	}
	made, err := publish.Make(archive.reader(), publish.Archive{Digest: d.Digest, Size: d.Size, Provenance: provenance, Created: e.Created})
	if err != nil {
		return moved{}, err
	}
	if made.Name != e.Name || made.Version != e.Version {
		return moved{}, fmt.Errorf("the index says %s %s, but the Chart.yaml in the archive says %s %s", e.Name, e.Version, made.Name, made.Version)
	}
	m := moved{outcome: Imported}
	put := func(d digest.Digest, size int64, content io.Reader) error {
		there, err := t.HasBlob(ctx, e.Name, d)
		if err != nil || there {
			return err
		}
		m.bytes += size
		return t.PutBlob(ctx, e.Name, d, size, content)
	}
	if err := put(d.Digest, d.Size, archive.reader()); err != nil {
		return m, fmt.Errorf("store the chart: %w", err)
	}
	if err := put(digest.FromBytes(made.Config), int64(len(made.Config)), bytes.NewReader(made.Config)); err != nil {
		return m, fmt.Errorf("store the config: %w", err)
	}
	if provenance != nil {
		if err := put(digest.FromBytes(provenance), int64(len(provenance)), bytes.NewReader(provenance)); err != nil {
			return m, fmt.Errorf("store the provenance: %w", err)
		}
	}
	return m, t.PutManifest(ctx, e.Name, tag, ocispec.MediaTypeImageManifest, made.Manifest)
}

// spooled is a download in a temporary file.
type spooled struct {
	file *os.File
	size int64
	from *url.URL
}

func (s *spooled) reader() io.Reader { return io.NewSectionReader(s.file, 0, s.size) }

// Close removes the file.
func (s *spooled) Close() {
	_ = s.file.Close()
	_ = os.Remove(s.file.Name())
}

// download fetches a chart from the first of its addresses that has it, and checks its digest.
func (c *Classic) download(ctx context.Context, e entry, announced digest.Digest) (*spooled, ocispec.Descriptor, error) {
	if len(e.URLs) == 0 {
		return nil, ocispec.Descriptor{}, errors.New("the index has no address for it")
	}
	var failed error
	for _, address := range e.URLs {
		at, err := c.resolve(address)
		for attempt := 0; err == nil && attempt < attempts; attempt++ {
			var archive *spooled
			var d ocispec.Descriptor
			if archive, d, err = c.spool(ctx, at); err == nil {
				if announced == "" || d.Digest == announced {
					return archive, d, nil
				}
				archive.Close()
				err = fmt.Errorf("the chart at %s has the digest %s, but the index says %s", at.Redacted(), d.Digest, announced)
				break
			}
			var answer *statusError
			if ctx.Err() != nil || errors.As(err, &answer) || errors.Is(err, repository.ErrTooLarge) {
				break
			}
			if attempt+1 < attempts {
				err = nil
			}
		}
		failed = errors.Join(failed, err)
	}
	return nil, ocispec.Descriptor{}, failed
}

// resolve makes an address of an index whole: it may be relative to the index.
func (c *Classic) resolve(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("the index has the address %.200q for it, which is none", address)
	}
	at := c.index.ResolveReference(u)
	if at.Scheme != "https" && at.Scheme != "http" {
		return nil, fmt.Errorf("the index has the address %.200q for it, which is not HTTP", address)
	}
	return at, nil
}

func (c *Classic) spool(ctx context.Context, at *url.URL) (_ *spooled, d ocispec.Descriptor, err error) {
	body, err := c.get(ctx, at)
	if err != nil {
		return nil, d, fmt.Errorf("fetch %s: %w", at.Redacted(), err)
	}
	defer body.Close()
	file, err := os.CreateTemp("", "chartroom-import-*")
	if err != nil {
		return nil, d, err
	}
	s := &spooled{file: file, from: at}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	hash := digest.SHA256.Digester()
	s.size, err = io.Copy(io.MultiWriter(file, hash.Hash()), io.LimitReader(body, c.maxBlob+1))
	if err != nil {
		return nil, d, fmt.Errorf("fetch %s: %w", at.Redacted(), err)
	}
	if s.size > c.maxBlob {
		return nil, d, fmt.Errorf("%s has more than %d bytes: %w", at.Redacted(), c.maxBlob, repository.ErrTooLarge)
	}
	return s, ocispec.Descriptor{MediaType: chartType, Digest: hash.Digest(), Size: s.size}, nil
}

// provenance fetches the signature beside a chart; nil where there is none.
func (c *Classic) provenance(ctx context.Context, chart *url.URL) ([]byte, error) {
	at := *chart
	at.Path += ".prov"
	at.RawPath = ""
	body, err := c.get(ctx, &at)
	if answer := new(statusError); errors.As(err, &answer) && answer.status < http.StatusInternalServerError && answer.status != http.StatusTooManyRequests {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", at.Redacted(), err)
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, maxProvenance+1))
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", at.Redacted(), err)
	}
	// Some servers answer with a page for what they do not have.
	if len(content) > maxProvenance || !bytes.HasPrefix(bytes.TrimSpace(content), []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, nil
	}
	return content, nil
}

// statusError is an answer that is not 200.
type statusError struct{ status int }

func (e *statusError) Error() string {
	text := fmt.Sprintf("the server answered %d %s", e.status, http.StatusText(e.status))
	if e.status == http.StatusUnauthorized || e.status == http.StatusForbidden {
		text += ": give --username and --password-stdin of somebody who may read it"
	}
	return text
}

// get fetches an address. Credentials go to the host of the index alone, at the first request, as helm sends them.
func (c *Classic) get(ctx context.Context, at *url.URL) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "chartroom")
	if at.Scheme == c.index.Scheme && at.Host == c.index.Host {
		username, password, err := c.remote.credential(ctx, at.Host)
		if err != nil {
			return nil, err
		}
		if username != "" || password != "" {
			request.SetBasicAuth(username, password)
		}
	}
	answer, err := c.client.Do(request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		_ = answer.Body.Close()
		return nil, &statusError{answer.StatusCode}
	}
	return answer.Body, nil
}

// Package publish makes of a chart archive what `helm push` makes of it, and stores that: for those who have an archive and
// no client that speaks OCI.
//
// An archive goes straight into the bucket while it is hashed. It is never whole in memory, and never in a file of its own.
package publish

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/limits"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// headBytes of an archive are held in memory, in which its Chart.yaml is looked for. helm writes it first, and most
	// charts are smaller than this as a whole.
	headBytes = 256 << 10
	// maxProvenance bounds a provenance file: a Chart.yaml and a signature.
	maxProvenance = 1 << 20
	// maxAtOnce bounds the charts that are published at the same time, each of which takes up to headBytes and
	// maxProvenance, and maxEach those of one who publishes. One more waits for patience.
	maxAtOnce = 32
	maxEach   = 8
	patience  = 5 * time.Second
	// maxParsing bounds the archives in which metadata is read at once: YAML takes many times its text.
	maxParsing = 4
)

// ErrBusy says that too many charts are being published at this moment.
var ErrBusy = errors.New("too many charts are being published at once")

// Publisher stores archives in one registry. Make it with New.
type Publisher struct {
	store *repository.Store
	gate  *limits.Gate
	// parsing are places for those who read metadata.
	parsing limits.Places
}

// New returns a publisher.
func New(store *repository.Store) *Publisher {
	return &Publisher{store: store, gate: limits.NewGate(maxAtOnce, maxEach, patience), parsing: make(limits.Places, maxParsing)}
}

// Request says what is published, for whom.
type Request struct {
	// To is the chart's path below the registry, whose last element is the chart's name. Empty: the name alone.
	To string
	// By names who publishes, for the record.
	By string
	// May judges whether the chart of that path may be published. It is asked before anything is stored, and again before
	// anybody can see it. Its error is passed on.
	May func(chart string) error
}

// Result is what was published.
type Result struct {
	// Chart is its path below the registry.
	Chart, Version, Tag string
	// Digest is that of the manifest, Archive that of the archive, whose size Size is in bytes.
	Digest, Archive digest.Digest
	Size            int64
	// Present is true when the version was there already with the same archive.
	Present bool
}

// archive is one that is stored, and that nothing names yet.
type archive struct {
	r      *repository.Repository
	digest digest.Digest
	size   int64
}

// take stores an archive.
func (p *Publisher) take(ctx context.Context, content io.Reader, q Request) (*archive, error) {
	if q.To != "" {
		if err := q.May(q.To); err != nil {
			return nil, err
		}
	}
	content = &bounded{r: content, left: chart.MaxArchiveBytes}
	head, err := io.ReadAll(io.LimitReader(content, headBytes))
	if err != nil {
		return nil, err
	}
	whole := len(head) < headBytes
	if q.To == "" {
		name, err := p.nameOf(ctx, head)
		if name == "" && !whole {
			return nil, refuse("the Chart.yaml is not in the first %d KiB of the archive: package the chart with helm package, which puts it first, or say with ?to= where it goes", headBytes>>10)
		}
		if err != nil {
			return nil, err
		}
		if name == "" {
			return nil, errNoChart
		}
		if q.To = name; name != path.Base(name) {
			return nil, refuse("the chart is named %.100q, which no chart may be", name)
		}
		if err := q.May(name); err != nil {
			return nil, err
		}
	}
	r, err := p.store.Repository(q.To)
	if err != nil {
		return nil, err
	}
	if err := r.Admit(ctx); err != nil {
		return nil, err
	}
	if whole {
		a := &archive{r, digest.FromBytes(head), int64(len(head))}
		return a, put(ctx, r, a.digest, head)
	}
	return stream(ctx, r, io.MultiReader(bytes.NewReader(head), content))
}

func (p *Publisher) nameOf(ctx context.Context, head []byte) (string, error) {
	leave, err := p.parsing.Enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	return readName(head)
}

// stream stores an archive whose digest is known once all of it has come.
func stream(ctx context.Context, r *repository.Repository, content io.Reader) (*archive, error) {
	u := r.Upload(rand.Text())
	hash := digest.SHA256.Digester()
	// What breaks off is not stored.
	size, err := u.Append(ctx, 0, io.TeeReader(content, hash.Hash()), -1)
	if err != nil {
		return nil, err
	}
	a := &archive{r, hash.Digest(), size}
	if err := u.Commit(ctx, a.digest, size, bytes.NewReader(nil), 0); err != nil {
		// The client may be gone; what stays behind is garbage.
		_ = u.Cancel(context.WithoutCancel(ctx))
		return nil, err
	}
	return a, nil
}

// put stores a small blob, unless it is there.
func put(ctx context.Context, r *repository.Repository, d digest.Digest, content []byte) error {
	if _, err := r.HoldBlob(ctx, d); !errors.Is(err, repository.ErrBlobUnknown) {
		return err
	}
	return r.PutBlob(ctx, d, bytes.NewReader(content), int64(len(content)))
}

// finish stores what belongs to an archive, and at last the tag.
func (p *Publisher) finish(ctx context.Context, a *archive, provenance []byte, q Request) (Result, error) {
	if err := a.checkProvenance(provenance); err != nil {
		return Result{}, err
	}
	made, err := p.read(ctx, a, provenance)
	if err != nil {
		return Result{}, err
	}
	result := Result{Chart: a.r.Name(), Version: made.Version, Tag: made.Tag(), Archive: a.digest, Size: a.size}
	if result.Digest, err = a.standing(ctx, result.Tag, provenance); err != nil {
		return Result{}, err
	}
	if err := q.May(a.r.Name()); err != nil {
		return Result{}, err
	}
	if result.Digest != "" {
		result.Present = true
		return result, nil
	}
	for _, blob := range [][]byte{made.Config, provenance} {
		if blob == nil {
			continue
		}
		if err := put(ctx, a.r, digest.FromBytes(blob), blob); err != nil {
			return Result{}, err
		}
	}
	m, err := a.r.PutManifest(ctx, result.Tag, ocispec.MediaTypeImageManifest, made.Manifest, q.By)
	result.Digest = m.Digest
	return result, err
}

func (p *Publisher) read(ctx context.Context, a *archive, provenance []byte) (Chart, error) {
	leave, err := p.parsing.Enter(ctx)
	if err != nil {
		return Chart{}, err
	}
	defer leave()
	content, _, err := a.r.OpenBlob(ctx, a.digest, nil)
	if err != nil {
		return Chart{}, err
	}
	defer content.Close()
	return Make(content, Archive{Digest: a.digest, Size: a.size, Provenance: provenance})
}

// checkProvenance refuses what helm could not verify the archive with (Helm's documentation, "Helm Provenance and
// Integrity"). The signature is for those to check who know the key.
func (a *archive) checkProvenance(provenance []byte) error {
	switch {
	case provenance == nil:
		return nil
	case !bytes.HasPrefix(bytes.TrimSpace(provenance), []byte("-----BEGIN PGP SIGNED MESSAGE-----")):
		return refuse("the provenance is not a signed message: it is the .prov file that helm package --sign writes")
	case !bytes.Contains(provenance, []byte(a.digest.String())):
		return refuse("the provenance is of another archive: it does not name %s", a.digest)
	}
	return nil
}

// standing is the digest that the version stands for if that is the same archive, with the same provenance or with none
// being given: helm writes the time of pushing into the manifest, so that its digest alone does not tell. It is "" otherwise.
func (a *archive) standing(ctx context.Context, tag string, provenance []byte) (digest.Digest, error) {
	layers, d, err := Layers(ctx, a.r, tag)
	if errors.Is(err, repository.ErrManifestUnknown) || errors.Is(err, repository.ErrReferenceInvalid) || errors.Is(err, ErrNoChart) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	same := layers.Archive.Digest == a.digest && (provenance == nil || layers.Provenance.Digest == digest.FromBytes(provenance))
	if !same {
		return "", nil
	}
	return d, nil
}

// ErrNoChart says that a tag stands for something else than a Helm chart.
var ErrNoChart = errors.New("not a Helm chart")

// Stored is what a chart's manifest names.
type Stored struct {
	Config, Archive ocispec.Descriptor
	// Provenance is empty where there is none.
	Provenance ocispec.Descriptor
}

// maxManifest bounds the manifests that are read: a chart's has what its Chart.yaml says, and little else.
const maxManifest = 2 << 20

// Layers returns what the chart behind a tag or digest consists of, and the digest of its manifest. Errors: ErrNoChart, and
// those of repository.OpenManifest.
func Layers(ctx context.Context, r *repository.Repository, reference string) (s Stored, d digest.Digest, err error) {
	content, m, err := r.OpenManifest(ctx, reference)
	if err != nil {
		return s, "", err
	}
	defer content.Close()
	if m.Size > maxManifest {
		return s, "", ErrNoChart
	}
	var parsed struct {
		Config ocispec.Descriptor   `json:"config"`
		Layers []ocispec.Descriptor `json:"layers"`
	}
	if err := json.NewDecoder(content).Decode(&parsed); err != nil {
		return s, "", fmt.Errorf("read the manifest %s: %w", m.Digest, err)
	}
	s.Config = parsed.Config
	for _, l := range parsed.Layers {
		switch l.MediaType {
		case chart.ContentMediaType, chart.LegacyContentMediaType:
			s.Archive = l
		case chart.ProvenanceMediaType:
			s.Provenance = l
		}
	}
	if s.Config.MediaType != chart.ConfigMediaType || s.Archive.Digest == "" {
		return s, "", ErrNoChart
	}
	return s, m.Digest, nil
}

// bounded fails when more comes than a chart may have.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, &repository.TooLargeError{What: "chart archive", Limit: chart.MaxArchiveBytes}
	}
	return n, err
}

package repository_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// model is what a repository should hold.
type model struct {
	blobs     map[string]bool
	manifests map[string]bool   // by their layer
	tags      map[string]string // tag to layer
	uploads   map[string]string // what came so far; "ended" is behind their end
}

const ended = "ended"

// step does one random operation on both, and compares the answers.
type step struct {
	t      *testing.T
	random *rand.Rand
	r      *repository.Repository
	m      *model
	// check compares what is counted with what there is.
	check func()
}

// TestModel compares random sequences of operations with a model in memory, on a store that is opened anew now and then.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	for sequence := range uint64(8) {
		t.Run(fmt.Sprintf("seed %d,%d", seed, sequence), func(t *testing.T) {
			b := newBucket(t)
			s := &step{t: t, random: rand.New(rand.NewPCG(seed, sequence)), m: &model{
				blobs: map[string]bool{}, manifests: map[string]bool{}, tags: map[string]string{}, uploads: map[string]string{},
			}}
			options := repository.Options{TagMutable: func(tag string) bool { return tag == "dev" }}
			s.check = func() {}
			if sequence%2 == 0 {
				options.Quota = newTracker(t, b, quota.Limits{Bytes: 1 << 20, Charts: 10, Versions: 10})
				s.check = func() { wantCounted(t, b, options.Quota) }
			}
			operations := []func() string{s.putBlob, s.deleteBlob, s.putManifest, s.putManifest, s.deleteTag, s.deleteDigest, s.chunk, s.chunk, s.commit, s.cancel}
			var log []string
			for i := range 150 {
				if i%10 == 0 {
					s.r = openRepository(t, openStore(t, b, options), "a")
				}
				log = append(log, operations[s.random.IntN(len(operations))]())
				s.compare()
				s.check()
				if t.Failed() {
					t.Fatalf("after:\n%s", strings.Join(log, "\n"))
				}
			}
		})
	}
}

func (s *step) pick(of ...string) string { return of[s.random.IntN(len(of))] }

func (s *step) layer() string  { return s.pick("red", "green", "blue") }
func (s *step) tag() string    { return s.pick("1.0.0", "1.0.1", "dev", "artifacthub.io") }
func (s *step) upload() string { return s.pick("u1", "u2") }

func (s *step) expect(what string, err, want error) {
	s.t.Helper()
	if !errors.Is(err, want) || (err == nil) != (want == nil) {
		s.t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// when is err if the condition holds.
func when(condition bool, err error) error {
	if condition {
		return err
	}
	return nil
}

func (s *step) putBlob() string {
	content := s.pick("config", s.layer())
	s.expect("put blob", s.r.PutBlob(s.t.Context(), digest.FromString(content), strings.NewReader(content), -1), nil)
	s.m.blobs[content] = true
	return "put blob " + content
}

func (s *step) deleteBlob() string {
	content := s.layer()
	err := s.r.DeleteBlob(s.t.Context(), digest.FromString(content))
	s.expect("delete blob", err, when(!s.m.blobs[content], repository.ErrBlobUnknown))
	delete(s.m.blobs, content)
	return "delete blob " + content
}

func (s *step) putManifest() string {
	layer, tag := s.layer(), s.tag()
	content := chart(s.t, layer)
	byDigest := s.random.IntN(3) == 0
	reference := tag
	if byDigest {
		reference = digest.FromBytes(content).String()
	}
	_, err := s.r.PutManifest(s.t.Context(), reference, imageType, content, "ci")
	stands, tagged := s.m.tags[tag]
	var unknown *repository.UnknownBlobsError
	switch {
	case !byDigest && tagged && stands != layer && strings.HasPrefix(tag, "1."):
		s.expect("put manifest", err, repository.ErrTagImmutable)
	case !s.m.blobs["config"] || !s.m.blobs[layer]:
		if !errors.As(err, &unknown) {
			s.t.Errorf("put manifest: %v, want unknown blobs", err)
		}
	default:
		s.expect("put manifest", err, nil)
		s.m.manifests[layer] = true
		if !byDigest {
			s.m.tags[tag] = layer
		}
	}
	return "put manifest of " + layer + " as " + reference
}

func (s *step) deleteTag() string {
	tag := s.tag()
	_, tagged := s.m.tags[tag]
	s.expect("delete tag", s.r.DeleteManifest(s.t.Context(), tag), when(!tagged, repository.ErrManifestUnknown))
	delete(s.m.tags, tag)
	return "delete tag " + tag
}

func (s *step) deleteDigest() string {
	layer := s.layer()
	err := s.r.DeleteManifest(s.t.Context(), digest.FromBytes(chart(s.t, layer)).String())
	s.expect("delete manifest", err, when(!s.m.manifests[layer], repository.ErrManifestUnknown))
	delete(s.m.manifests, layer)
	maps.DeleteFunc(s.m.tags, func(_, stands string) bool { return stands == layer })
	return "delete manifest of " + layer
}

func (s *step) chunk() string {
	id, chunk := s.upload(), s.pick("r", "red", "green", "")
	_, err := s.r.Upload(id).Append(s.t.Context(), -1, strings.NewReader(chunk), -1)
	s.expect("chunk", err, when(s.m.uploads[id] == ended, repository.ErrUploadUnknown))
	if err == nil {
		s.m.uploads[id] += chunk
	}
	return "chunk " + chunk + " of " + id
}

func (s *step) commit() string {
	id, rest := s.upload(), s.pick("red", "", "ed")
	whole := s.m.uploads[id] + rest
	announced := s.pick(whole, whole, "other")
	err := s.r.Upload(id).Commit(s.t.Context(), digest.FromString(announced), -1, strings.NewReader(rest), -1)
	switch {
	case s.m.uploads[id] == ended:
		s.expect("commit", err, repository.ErrUploadUnknown)
	case announced != whole:
		s.expect("commit", err, repository.ErrDigestMismatch)
		s.m.uploads[id] = ended
	default:
		s.expect("commit", err, nil)
		s.m.blobs[whole] = true
		if s.m.uploads[id] != "" {
			s.m.uploads[id] = ended
		}
	}
	return "commit " + rest + " of " + id + " as " + announced
}

func (s *step) cancel() string {
	id := s.upload()
	if s.m.uploads[id] == "" || s.random.IntN(2) == 0 {
		return "nothing"
	}
	s.expect("cancel", s.r.Upload(id).Cancel(s.t.Context()), when(s.m.uploads[id] == ended, repository.ErrUploadUnknown))
	s.m.uploads[id] = ended
	return "cancel " + id
}

func (s *step) compare() {
	s.t.Helper()
	ctx := s.t.Context()
	for _, layer := range []string{"red", "green", "blue"} {
		_, err := s.r.StatBlob(ctx, digest.FromString(layer))
		s.expect("blob "+layer, err, when(!s.m.blobs[layer], repository.ErrBlobUnknown))
		m, err := getManifest(ctx, s.r, digest.FromBytes(chart(s.t, layer)).String())
		s.expect("manifest of "+layer, err, when(!s.m.manifests[layer], repository.ErrManifestUnknown))
		if err == nil && string(m.Content) != string(chart(s.t, layer)) {
			s.t.Errorf("the manifest of %s is %q", layer, m.Content)
		}
	}
	for tag, layer := range s.m.tags {
		if m, err := getManifest(ctx, s.r, tag); err != nil || string(m.Content) != string(chart(s.t, layer)) {
			s.t.Errorf("%s is %q, %v; want that of %s", tag, m.Content, err, layer)
		}
	}
	tags, _, err := s.r.Tags(ctx, 0, "")
	s.expect("tags", err, when(len(s.m.manifests) == 0, repository.ErrRepositoryUnknown))
	if want := slices.Sorted(maps.Keys(s.m.tags)); !slices.Equal(tags, want) {
		s.t.Errorf("the tags are %v, want %v", tags, want)
	}
	for _, id := range []string{"u1", "u2"} {
		offset, err := s.r.Upload(id).Offset(ctx)
		s.expect("offset", err, when(s.m.uploads[id] == ended, repository.ErrUploadUnknown))
		if err == nil && offset != int64(len(s.m.uploads[id])) {
			s.t.Errorf("%s stands at %d, want %d", id, offset, len(s.m.uploads[id]))
		}
	}
}

package repository_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// hooked calls a function once, before the first change of a key.
type hooked struct {
	bucket.Bucket
	putKey, deleteKey string
	hook              func()
}

func (h *hooked) run(key, at string) {
	if hook := h.hook; key == at && hook != nil {
		h.hook = nil
		hook()
	}
}

func (h *hooked) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	h.run(key, h.putKey)
	return h.Bucket.Put(ctx, key, body, size, c)
}

func (h *hooked) Delete(ctx context.Context, key string, c bucket.Condition) error {
	h.run(key, h.deleteKey)
	return h.Bucket.Delete(ctx, key, c)
}

func TestPushInTheMiddleOfADelete(t *testing.T) {
	b := newBucket(t)
	other := openRepository(t, openStore(t, b, repository.Options{}), "a")
	m := mustPutChart(t, other, "1.0.0", "layer")
	h := &hooked{Bucket: b, deleteKey: "charts/a/manifests/sha256/" + m.Digest.Encoded(), hook: func() { mustPutChart(t, other, "2.0.0", "layer") }}
	ok(t, openRepository(t, openStore(t, h, repository.Options{}), "a").DeleteManifest(t.Context(), m.Digest.String()))
	// The push counts as before the delete: its tag must not point at nothing.
	_, _, err := other.Tags(t.Context(), 0, "")
	want(t, err, repository.ErrRepositoryUnknown)
	wantUnknown(t, other, "2.0.0")
}

func TestDeleteInTheMiddleOfAPush(t *testing.T) {
	b := newBucket(t)
	other := openRepository(t, openStore(t, b, repository.Options{}), "a")
	content := chart(t, "layer")
	h := &hooked{Bucket: b, putKey: "charts/a/tags/1.0.0", hook: func() {
		ok(t, other.DeleteManifest(t.Context(), digest.FromBytes(content).String()))
	}}
	mustPutChart(t, openRepository(t, openStore(t, h, repository.Options{}), "a"), "1.0.0", "layer")
	// The push counts as after the delete, and was acknowledged.
	wantManifest(t, other, "1.0.0", content)
}

func TestTwoPushesTakeOverATagWithoutItsManifest(t *testing.T) {
	b := newBucket(t)
	other := openRepository(t, openStore(t, b, repository.Options{}), "a")
	m := mustPutChart(t, other, "1.0.0", "gone")
	ok(t, b.Delete(t.Context(), "charts/a/manifests/sha256/"+m.Digest.Encoded(), bucket.Condition{}))

	h := &hooked{Bucket: b, putKey: "charts/a/tags/1.0.0"}
	h.hook = func() {
		// The first try finds the tag; the second is to replace it.
		h.hook = func() { mustPutChart(t, other, "1.0.0", "faster") }
	}
	r := openRepository(t, openStore(t, h, repository.Options{}), "a")
	_, err := putChart(t, r, "1.0.0", "slower")
	want(t, err, repository.ErrTagImmutable)
	wantManifest(t, other, "1.0.0", chart(t, "faster"))
}

// failingAt fails all changes from one on, as if the process had been killed there.
type failingAt struct {
	bucket.Bucket
	left atomic.Int64
}

var errKilled = errors.New("killed")

func (f *failingAt) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	if f.left.Add(-1) < 0 {
		return bucket.Info{}, errKilled
	}
	return f.Bucket.Put(ctx, key, body, size, c)
}

func (f *failingAt) Delete(ctx context.Context, key string, c bucket.Condition) error {
	if f.left.Add(-1) < 0 {
		return errKilled
	}
	return f.Bucket.Delete(ctx, key, c)
}

// Whatever change an operation was killed before, nothing half-done is visible, and the same operation succeeds later.
func TestKilledBeforeEachChange(t *testing.T) {
	content := chart(t, "layer")
	d := digest.FromBytes(content).String()
	blobDigest := digest.FromString("one two")
	for name, c := range map[string]struct {
		prepare, operation func(r *repository.Repository) error
	}{
		"push": {
			func(*repository.Repository) error { return nil },
			func(r *repository.Repository) error {
				_, err := r.PutManifest(t.Context(), "1.0.0", imageType, content, "ci")
				return err
			},
		},
		"delete": {
			func(r *repository.Repository) error {
				for _, tag := range []string{"1.0.0", "1.0.1", "1.0.2"} {
					mustPutChart(t, r, tag, "layer")
				}
				return nil
			},
			func(r *repository.Repository) error { return r.DeleteManifest(t.Context(), d) },
		},
		"commit": {
			func(r *repository.Repository) error {
				_, err := r.Upload("id").Append(t.Context(), 0, strings.NewReader("one "), 4)
				return err
			},
			func(r *repository.Repository) error {
				err := r.Upload("id").Commit(t.Context(), blobDigest, -1, strings.NewReader("two"), 3)
				if errors.Is(err, repository.ErrUploadUnknown) && blob(t, r, blobDigest, nil) == "one two" {
					return nil // The client sees that the blob is there.
				}
				return err
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for changes := 0; ; changes++ {
				b := newBucket(t)
				r := openRepository(t, openStore(t, b, repository.Options{}), "a")
				putBlob(t, r, "config")
				putBlob(t, r, "layer")
				ok(t, c.prepare(r))
				f := &failingAt{Bucket: b}
				f.left.Store(int64(changes))
				err := c.operation(openRepository(t, openStore(t, f, repository.Options{}), "a"))
				tags, _, tagsErr := r.Tags(t.Context(), 0, "")
				if tagsErr != nil && !errors.Is(tagsErr, repository.ErrRepositoryUnknown) {
					t.Fatal(tagsErr)
				}
				for _, tag := range tags {
					wantManifest(t, r, tag, content)
				}
				if f.left.Load() >= 0 {
					ok(t, err)
					if changes < 2 {
						t.Fatalf("it makes only %d changes", changes)
					}
					return
				}
				ok(t, c.operation(r))
			}
		})
	}
}

package repository_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

func appendChunk(t *testing.T, u *repository.Upload, offset int64, chunk string, wantOffset int64) {
	t.Helper()
	got, err := u.Append(t.Context(), offset, strings.NewReader(chunk), int64(len(chunk)))
	if err != nil || got != wantOffset {
		t.Fatalf("the upload stands at %d, %v; want %d", got, err, wantOffset)
	}
	wantOffsetOf(t, u, wantOffset)
}

func wantOffsetOf(t *testing.T, u *repository.Upload, want int64) {
	t.Helper()
	if got, err := u.Offset(t.Context()); err != nil || got != want {
		t.Fatalf("the upload stands at %d, %v; want %d", got, err, want)
	}
}

func wantEnded(t *testing.T, u *repository.Upload) {
	t.Helper()
	_, err := u.Offset(t.Context())
	want(t, err, repository.ErrUploadUnknown)
	_, err = u.Append(t.Context(), -1, strings.NewReader("x"), 1)
	want(t, err, repository.ErrUploadUnknown)
	want(t, u.Commit(t.Context(), digest.FromString("x"), -1, strings.NewReader("x"), 1), repository.ErrUploadUnknown)
	want(t, u.Cancel(t.Context()), repository.ErrUploadUnknown)
}

func TestUploadInChunks(t *testing.T) {
	for name, c := range map[string]struct {
		chunks []string
		rest   string
	}{
		"no chunk":               {nil, "all at once"},
		"nothing at all":         {nil, ""},
		"one chunk":              {[]string{"all in one"}, ""},
		"several":                {[]string{"one ", "two ", strings.Repeat("three", 100_000)}, ""},
		"rest in the last step":  {[]string{"one ", "two "}, "three"},
		"chunks without content": {[]string{"", "one ", "", "two", ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t)
			s := openStore(t, b, repository.Options{})
			offset, content := int64(0), ""
			for i, chunk := range c.chunks {
				// Every step may reach another replica, and may or may not say where it begins.
				u := openRepository(t, openStore(t, b, repository.Options{}), "a").Upload("id-1")
				content += chunk
				at := offset
				if i%2 == 1 {
					at = -1
				}
				appendChunk(t, u, at, chunk, int64(len(content)))
				offset = int64(len(content))
			}
			r := openRepository(t, s, "a")
			content += c.rest
			d := digest.FromString(content)
			ok(t, r.Upload("id-1").Commit(t.Context(), d, offset, strings.NewReader(c.rest), -1))
			if got := blob(t, r, d, nil); got != content {
				t.Fatalf("the blob is %.50q", got)
			}
			if strings.Join(c.chunks, "") != "" {
				wantEnded(t, r.Upload("id-1"))
			}
			for _, key := range keys(t, b) {
				if strings.Contains(key, "/000") {
					t.Errorf("the chunk %s is left", key)
				}
			}
		})
	}
}

func TestUploadOffsets(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{}), "a")
	u := r.Upload("id")
	wantOffsetOf(t, u, 0)
	appendChunk(t, u, 0, "12345", 5)
	for _, offset := range []int64{0, 4, 6, 1 << 60} {
		var offsetError *repository.OffsetError
		_, err := u.Append(t.Context(), offset, strings.NewReader("x"), 1)
		if !errors.As(err, &offsetError) || offsetError.Offset != 5 {
			t.Errorf("a chunk at %d: %v", offset, err)
		}
		err = u.Commit(t.Context(), digest.FromString("12345"), offset, strings.NewReader(""), 0)
		if !errors.As(err, &offsetError) || offsetError.Offset != 5 {
			t.Errorf("an end at %d: %v", offset, err)
		}
	}
	wantOffsetOf(t, u, 5)
	ok(t, u.Commit(t.Context(), digest.FromString("12345678"), 5, strings.NewReader("678"), 3))
}

func TestChunkThatBreaksOffAddsNothing(t *testing.T) {
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	u := r.Upload("id")
	appendChunk(t, u, 0, "12345", 5)
	broken := errors.New("the connection broke")
	for _, before := range []string{"", "678"} {
		_, err := u.Append(t.Context(), 5, io.MultiReader(strings.NewReader(before), failing{broken}), -1)
		want(t, err, broken)
		_, err = u.Append(t.Context(), 5, strings.NewReader(before), 10)
		want(t, err, io.ErrUnexpectedEOF)
		err = u.Commit(t.Context(), digest.FromString("12345678"), 5, io.MultiReader(strings.NewReader(before), failing{broken}), -1)
		want(t, err, broken)
		want(t, u.Commit(t.Context(), digest.FromString("12345678"), 5, strings.NewReader(before), 10), io.ErrUnexpectedEOF)
	}
	if _, err := u.Append(t.Context(), 5, strings.NewReader("x"), 0); err == nil {
		t.Error("a chunk that is longer than announced was added")
	}
	if len(keys(t, b)) != 1 {
		t.Errorf("the bucket has %v", keys(t, b))
	}
	// The session goes on where it stood.
	appendChunk(t, u, 5, "678", 8)
	ok(t, u.Commit(t.Context(), digest.FromString("12345678"), 8, strings.NewReader(""), 0))
}

func TestUploadEnds(t *testing.T) {
	for _, chunk := range []string{"", "12345"} {
		b := newBucket(t)
		r := openRepository(t, openStore(t, b, repository.Options{}), "a")
		cancelled, mismatched := r.Upload("cancelled"), r.Upload("mismatched")
		appendChunk(t, cancelled, 0, chunk, int64(len(chunk)))
		appendChunk(t, mismatched, 0, chunk, int64(len(chunk)))

		ok(t, cancelled.Cancel(t.Context()))
		wantEnded(t, cancelled)
		want(t, mismatched.Commit(t.Context(), digest.FromString("other"), -1, strings.NewReader("end"), -1), repository.ErrDigestMismatch)
		wantEnded(t, mismatched)
		if left := keys(t, b); len(left) != 2 {
			t.Errorf("beside the two marks the bucket has %v", left)
		}
	}
}

func TestUploadIDs(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{}), "a")
	for _, id := range []string{"", "a/b", "..", "a.b", "ä", strings.Repeat("i", 65)} {
		wantEnded(t, r.Upload(id))
	}
	appendChunk(t, r.Upload(strings.Repeat("i", 64)), 0, "x", 1)
	// Sessions of other repositories, and those whose id begins alike, are others.
	wantOffsetOf(t, openRepository(t, openStore(t, newBucket(t), repository.Options{}), "b").Upload(strings.Repeat("i", 64)), 0)
	wantOffsetOf(t, r.Upload(strings.Repeat("i", 63)), 0)
}

func TestUploadIsBounded(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{MaxBlobBytes: 10}), "a")
	u := r.Upload("id")
	appendChunk(t, u, 0, "1234567", 7)
	for _, size := range []int64{4, -1} {
		_, err := u.Append(t.Context(), 7, strings.NewReader("8901"), size)
		want(t, err, repository.ErrTooLarge)
		err = u.Commit(t.Context(), digest.FromString("12345678901"), 7, strings.NewReader("8901"), size)
		want(t, err, repository.ErrTooLarge)
	}
	appendChunk(t, u, 7, "890", 10)
	ok(t, u.Commit(t.Context(), digest.FromString("1234567890"), 10, strings.NewReader(""), -1))
}

// manyParts claims that an upload has many chunks of one byte.
type manyParts struct{ bucket.Bucket }

func (m manyParts) List(_ context.Context, o bucket.ListOptions) (bucket.Page, error) {
	var p bucket.Page
	for i := range 10_000 {
		p.Objects = append(p.Objects, bucket.Info{Key: fmt.Sprintf("%s%020d", o.Prefix, i), Size: 1})
	}
	return p, nil
}

func TestUploadsHaveBoundedlyManyChunks(t *testing.T) {
	b := newBucket(t)
	openStore(t, b, repository.Options{})
	u := openRepository(t, openStore(t, manyParts{b}, repository.Options{}), "a").Upload("id")
	_, err := u.Append(t.Context(), 10_000, strings.NewReader("x"), 1)
	want(t, err, repository.ErrTooLarge)
}

func TestChunksAtOneOffset(t *testing.T) {
	r := openRepository(t, openStore(t, newBucket(t), repository.Options{}), "a")
	for round := range 5 {
		u := r.Upload(fmt.Sprintf("id-%d", round))
		var winners atomic.Int32
		var wait sync.WaitGroup
		for i := range 8 {
			wait.Go(func() {
				chunk := strings.Repeat("x", 10+i)
				_, err := u.Append(t.Context(), 0, strings.NewReader(chunk), -1)
				var offsetError *repository.OffsetError
				switch {
				case err == nil:
					winners.Add(1)
				case !errors.As(err, &offsetError) || offsetError.Offset < 10:
					t.Errorf("the loser is told %v", err)
				}
			})
		}
		wait.Wait()
		if winners.Load() != 1 {
			t.Fatalf("%d chunks won", winners.Load())
		}
	}
}

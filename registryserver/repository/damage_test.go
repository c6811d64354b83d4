package repository_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// reading counts the bytes that are read from a bucket.
type reading struct {
	bucket.Bucket
	bytes int
}

type countedReader struct {
	io.ReadCloser
	bytes *int
}

func (b *reading) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	content, info, err := b.Bucket.Get(ctx, key, r)
	return countedReader{content, &b.bytes}, info, err
}

func (c countedReader) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	*c.bytes += n
	return n, err
}

// fetch reads a blob, or a part of it, as far as it can be read.
func fetch(t *testing.T, r *repository.Repository, d digest.Digest, part *bucket.Range) (string, error) {
	t.Helper()
	content, _, err := r.OpenBlob(t.Context(), d, part)
	if err != nil {
		return "", err
	}
	defer content.Close()
	got, err := io.ReadAll(content)
	return string(got), err
}

func TestDamagedBlobsAreNeverServedWhole(t *testing.T) {
	t.Parallel()
	intact := strings.Repeat("0123456789", 20_000)
	d := digest.FromString(intact)
	for name, damaged := range map[string]string{
		"empty": "", "cut": intact[:len(intact)-1], "longer": intact + "x", "flipped": "x" + intact[1:],
		"flipped at the end": intact[:len(intact)-1] + "x",
	} {
		for way, part := range map[string]*bucket.Range{"whole": nil, "in part": {Offset: 10, Length: 10}} {
			if damaged == "" && part != nil {
				continue // No range is within what is empty.
			}
			t.Run(name+" "+way, func(t *testing.T) {
				t.Parallel()
				var told []string
				b := newBucket(t)
				s := openStore(t, b, repository.Options{Damaged: func(name string, d digest.Digest) { told = append(told, name+" "+d.String()) }})
				r := openRepository(t, s, "a")
				key := "charts/a/blobs/sha256/" + d.Encoded()
				putObject(t, b, key, damaged)
				for range 2 {
					got, err := fetch(t, r, d, part)
					want(t, err, repository.ErrDamaged)
					want(t, err, repository.ErrBlobUnknown)
					if len(got) >= len(damaged) && damaged != "" {
						t.Errorf("%d of %d bytes were served", len(got), len(damaged))
					}
				}
				_, err := r.StatBlob(t.Context(), d)
				want(t, err, repository.ErrBlobUnknown)
				if len(told) != 1 || told[0] != "a "+d.String() {
					t.Errorf("told of %v", told)
				}
				ok(t, r.PutBlob(t.Context(), d, strings.NewReader(intact), -1))
				if got, err := fetch(t, r, d, nil); got != intact || err != nil {
					t.Errorf("after it was mended: %d bytes, %v", len(got), err)
				}
				putObject(t, b, key, damaged)
				if _, err := fetch(t, r, d, part); !errors.Is(err, repository.ErrDamaged) {
					t.Errorf("damaged again: %v", err)
				}
				ok(t, r.DeleteBlob(t.Context(), d))
			})
		}
	}
}

func TestBlobsAreHashedOnce(t *testing.T) {
	t.Parallel()
	b := &reading{Bucket: newBucket(t)}
	content := strings.Repeat("x", 100_000)
	d := putBlob(t, openRepository(t, openStore(t, b, repository.Options{}), "a"), content)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	b.bytes = 0
	part := &bucket.Range{Offset: 99_990, Length: -1}
	for i, want := range []int{100_010, 10, 10} {
		b.bytes = 0
		if got, err := fetch(t, r, d, part); got != "xxxxxxxxxx" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		if b.bytes != want {
			t.Errorf("part, time %d: %d bytes were read, want %d", i, b.bytes, want)
		}
	}
	empty := putBlob(t, r, "")
	if got, err := fetch(t, openRepository(t, openStore(t, b, repository.Options{}), "a"), empty, nil); got != "" || err != nil {
		t.Errorf("the empty blob: %q, %v", got, err)
	}
}

// A storage that breaks off in the middle of a good blob is no reason to take it for damaged.
func TestBrokenReadIsNoDamage(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	d := putBlob(t, openRepository(t, openStore(t, b, repository.Options{}), "a"), "content")
	r := openRepository(t, openStore(t, cutting{b}, repository.Options{}), "a")
	_, err := fetch(t, r, d, nil)
	want(t, err, bucket.ErrUnavailable)
	if _, err := r.StatBlob(t.Context(), d); err != nil {
		t.Error(err)
	}
}

// cutting ends every blob's content early.
type cutting struct{ bucket.Bucket }

func (b cutting) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	content, info, err := b.Bucket.Get(ctx, key, r)
	if err != nil || !strings.Contains(key, "/blobs/") {
		return content, info, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(content, info.Size-1), content}, info, nil
}

// A push of what is damaged mends it, though helm asks first what is there.
func TestPushMendsATornBlob(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	r := openRepository(t, openStore(t, b, repository.Options{}), "a")
	m := mustPutChart(t, r, "1.0.0", "layer")
	d := digest.FromString("layer")
	putObject(t, b, "charts/a/blobs/sha256/"+d.Encoded(), "lay")
	var unknown *repository.UnknownBlobsError
	if _, err := r.PutManifest(t.Context(), "1.0.0", m.MediaType, m.Content, ""); !errors.As(err, &unknown) {
		t.Errorf("a manifest of a torn blob: %v", err)
	}
	_, err := r.StatBlob(t.Context(), d)
	want(t, err, repository.ErrBlobUnknown)
	mustPutChart(t, r, "1.0.0", "layer")
}

package dir_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// BenchmarkPut stores objects of 20 KB, hashed as they come, and reports the rate in relation to a ceiling, which does
// nothing but create, write, hash, fsync, rename and fsync of the directory. The two take turns.
func BenchmarkPut(b *testing.B) {
	content := make([]byte, 20_000)
	_, _ = rand.Read(content)
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			root := b.TempDir()
			store := open(b, filepath.Join(root, "bucket"))
			if err := os.MkdirAll(filepath.Join(root, "ceiling", "objects"), 0o700); err != nil {
				b.Fatal(err)
			}
			ours := func(i int64) error {
				_, err := store.Put(b.Context(), "charts/a/blobs/sha256/"+strconv.FormatInt(i, 10),
					&hashed{bytes.NewReader(content), sha256.New()}, int64(len(content)), bucket.Condition{})
				return err
			}
			ceiling := func(i int64) error {
				return ceilingPut(filepath.Join(root, "ceiling"), strconv.FormatInt(i, 10), content)
			}
			took := [2]time.Duration{}
			var next atomic.Int64
			for done := 0; done < b.N; {
				n := min(b.N-done, 64*writers)
				for i, put := range []func(int64) error{ours, ceiling} {
					started := time.Now()
					inParallel(b, writers, n, func() error { return put(next.Add(1)) })
					took[i] += time.Since(started)
				}
				done += n
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(b.N)/took[0].Seconds(), "puts/s")
			b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "of-ceiling")
		})
	}
}

func inParallel(b *testing.B, writers, n int, f func() error) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			for left.Add(-1) >= 0 {
				if err := f(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wait.Wait()
}

type hashed struct {
	io.Reader
	hash hash.Hash
}

func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	_, _ = h.hash.Write(p[:n])
	return n, err
}

func ceilingPut(root, name string, content []byte) error {
	tmp := filepath.Join(root, name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	_, _ = sum.Write(content)
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	objects := filepath.Join(root, "objects")
	if err := os.Rename(tmp, filepath.Join(objects, name)); err != nil {
		return err
	}
	d, err := os.Open(objects)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func BenchmarkRead(b *testing.B) {
	store := open(b, b.TempDir())
	if err := put(b, store, "charts/a/tags/1.0.0", "the content of a small object"); err != nil {
		b.Fatal(err)
	}
	b.Run("Head", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := store.Head(b.Context(), "charts/a/tags/1.0.0"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		content := make([]byte, 100)
		for b.Loop() {
			body, _, err := store.Get(b.Context(), "charts/a/tags/1.0.0", nil)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := body.Read(content); err != nil {
				b.Fatal(err)
			}
			_ = body.Close()
		}
	})
}

func BenchmarkList(b *testing.B) {
	root := b.TempDir()
	store := open(b, root)
	if err := put(b, store, "tags/1.0.0", "x"); err != nil {
		b.Fatal(err)
	}
	for i := range 10_000 {
		if err := os.WriteFile(filepath.Join(root, "objects", "tags", fmt.Sprintf("1.%d.%d", i/100, i%100)), nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for _, o := range []bucket.ListOptions{{NamesOnly: true}, {NamesOnly: true, Limit: 100}, {}} {
		b.Run(fmt.Sprintf("of=10000/names=%t/limit=%d", o.NamesOnly, o.Limit), func(b *testing.B) {
			o.Prefix = "tags/"
			for b.Loop() {
				if p, err := store.List(b.Context(), o); err != nil || len(p.Objects) == 0 {
					b.Fatal(err)
				}
			}
		})
	}
}

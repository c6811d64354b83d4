package dir_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// ledgered is a bucket that notes what each key may have after a crash: what was acknowledged, or what is being done.
type ledgered struct {
	bucket.Bucket
	mu  sync.Mutex
	may map[string][][]byte // nil is absence.
}

func (l *ledgered) begin(key string, outcome []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.may[key] == nil {
		l.may[key] = [][]byte{nil}
	}
	l.may[key] = append(l.may[key], outcome)
}

// end notes an acknowledgement. A key that another writer was first with is there for good, with what that one wrote.
func (l *ledgered) end(key string, outcome []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.may[key] = [][]byte{outcome}
	case errors.Is(err, bucket.ErrExists):
		var there [][]byte
		for _, m := range l.may[key] {
			if m != nil {
				there = append(there, m)
			}
		}
		l.may[key] = there
	}
}

func (l *ledgered) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	content, err := io.ReadAll(body)
	if err != nil {
		return l.Bucket.Put(ctx, key, io.MultiReader(strings.NewReader(string(content)), broken{err}), size, c)
	}
	l.begin(key, content)
	i, err := l.Bucket.Put(ctx, key, strings.NewReader(string(content)), size, c)
	l.end(key, content, err)
	return i, err
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

func (l *ledgered) Delete(ctx context.Context, key string, c bucket.Condition) error {
	l.begin(key, nil)
	err := l.Bucket.Delete(ctx, key, c)
	l.end(key, nil, err)
	return err
}

func (l *ledgered) Copy(ctx context.Context, from, to string) (bucket.Info, error) {
	l.mu.Lock()
	content := l.may[from][len(l.may[from])-1]
	l.mu.Unlock()
	l.begin(to, content)
	i, err := l.Bucket.Copy(ctx, from, to)
	l.end(to, content, err)
	return i, err
}

// check compares what is there after a crash with what may be.
func (l *ledgered) check(files map[string][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	objects := map[string][]byte{}
	for name, content := range files {
		if key, ok := strings.CutPrefix(name, "objects/"); ok && content != nil {
			objects[key] = content
			if l.may[key] == nil {
				return fmt.Errorf("%s appeared", key)
			}
		}
	}
	for key, may := range l.may {
		if got := objects[key]; !sameBytes(may, got) {
			return fmt.Errorf("%s has %d bytes (absent: %t), which is none of %d outcomes", key, len(got), got == nil, len(may))
		}
	}
	return nil
}

// crashing runs steps on a bucket on a disk that may stop after each call, and returns what first was not as it must be.
type crashing struct {
	disk   *disk
	ledger *ledgered
	points int
	// recovered, when not nil, looks at a bucket after one of the crashes of a point.
	recovered func(b bucket.Bucket) error
	err       error
}

func crashable(t *testing.T, plain bool) *crashing {
	t.Helper()
	root := t.TempDir()
	d, err := newDisk(root)
	if err != nil {
		t.Fatal(err)
	}
	b, err := dir.NewOn(root, d)
	if err != nil {
		t.Fatal(err)
	}
	if plain {
		b.Plain()
	}
	c := &crashing{disk: d, ledger: &ledgered{Bucket: b, may: map[string][][]byte{}}}
	random := rand.New(rand.NewPCG(1, 2))
	d.changed = func(call string) {
		if c.err != nil {
			return
		}
		c.points++
		for i, r := range []remains{{}, {all: true}, {chance: random}, {chance: random}, {chance: random}} {
			files := d.files(r)
			err := c.ledger.check(files)
			if err == nil && c.recovered != nil && i == c.points%10/2 {
				err = c.recover(t, files)
			}
			if err != nil {
				c.err = fmt.Errorf("a crash after call %d, a %s, remains %d: %w", c.points, call, i, err)
				return
			}
		}
	}
	return c
}

func (c *crashing) recover(t *testing.T, files map[string][]byte) error {
	t.Helper()
	root := path.Join(t.TempDir(), "after")
	if err := restore(path.Dir(root), map[string][]byte{"after": nil}); err != nil {
		return err
	}
	if err := restore(root, files); err != nil {
		return err
	}
	b, err := dir.NewOn(root, lazy{dir.Kernel})
	if err != nil {
		return err
	}
	return c.recovered(b)
}

const (
	crashOwner = "acme/charts"
	imageType  = "application/vnd.oci.image.manifest.v1+json"
)

// pusher pushes to a store and remembers which tags were acknowledged with which manifest.
type pusher struct {
	store *repository.Store
	acked map[string]digest.Digest
}

func manifestOf(config, layer string) []byte {
	describe := func(mediaType, content string) map[string]any {
		return map[string]any{"mediaType": mediaType, "digest": digest.FromString(content), "size": len(content)}
	}
	m, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": imageType,
		"config": describe("application/vnd.cncf.helm.config.v1+json", config),
		"layers": []any{describe("application/vnd.cncf.helm.chart.content.v1.tar+gzip", layer)},
	})
	must(err)
	return m
}

func (p *pusher) push(ctx context.Context, name, tag, layer string) error {
	r, err := p.store.Repository(name)
	if err != nil {
		return err
	}
	config := "the configuration of " + tag
	for _, content := range []string{config, layer} {
		if err := r.PutBlob(ctx, digest.FromString(content), strings.NewReader(content), int64(len(content))); err != nil {
			return err
		}
	}
	delete(p.acked, name+":"+tag)
	m, err := r.PutManifest(ctx, tag, imageType, manifestOf(config, layer), "ci")
	if err == nil {
		p.acked[name+":"+tag] = m.Digest
	}
	return err
}

// check reads all that was acknowledged, looks for anything that is not as it should be, and pushes once more.
func (p *pusher) check(ctx context.Context, b bucket.Bucket) error {
	s, err := repository.Open(ctx, b, crashOwner, repository.Options{TagMutable: func(string) bool { return true }})
	if err != nil {
		return err
	}
	after := &pusher{store: s, acked: map[string]digest.Digest{}}
	if err := after.push(ctx, "a", "99.0.0", "a layer that comes after the crash"); err != nil {
		return err
	}
	for tag, d := range after.acked {
		p.acked[tag] = d
	}
	for reference, want := range p.acked {
		name, tag, _ := strings.Cut(reference, ":")
		r, err := s.Repository(name)
		if err != nil {
			return err
		}
		m, err := r.StatManifest(ctx, tag)
		if err != nil || m.Digest != want {
			return fmt.Errorf("%s is %s, not %s; %w", reference, m.Digest, want, err)
		}
	}
	delete(p.acked, "a:99.0.0")
	var findings []string
	_, err = s.Verify(ctx, repository.VerifyOptions{}, func(f repository.Finding) {
		if !f.Harmless {
			findings = append(findings, f.Key+": "+f.Problem)
		}
	})
	if err == nil && findings != nil {
		err = fmt.Errorf("%q", findings)
	}
	return err
}

// run does all that changes a repository.
func (p *pusher) run(ctx context.Context, b bucket.Bucket) error {
	var err error
	p.store, err = repository.Open(ctx, b, crashOwner, repository.Options{TagMutable: func(string) bool { return true }})
	if err != nil {
		return err
	}
	a, err := p.store.Repository("a")
	if err != nil {
		return err
	}
	other, err := p.store.Repository("team/b")
	if err != nil {
		return err
	}
	layers := []string{strings.Repeat("first layer ", 30), strings.Repeat("second layer ", 40), strings.Repeat("third layer ", 50)}
	chunked := digest.FromString("one, two")
	steps := map[int]func() error{
		0: func() error { return p.push(ctx, "a", "1.0.0", layers[0]) },
		1: func() error { return p.push(ctx, "a", "1.1.0", layers[1]) },
		2: func() error { return p.push(ctx, "a", "1.0.0", layers[2]) },
		3: func() error { return p.push(ctx, "a", "1.0.0", layers[2]) },
		4: func() error {
			_, err := a.Upload("session").Append(ctx, 0, strings.NewReader("one, "), 5)
			return err
		},
		5: func() error { return a.Upload("session").Commit(ctx, chunked, 5, strings.NewReader("two"), 3) },
		6: func() error {
			_, err := other.Mount(ctx, chunked, a)
			return err
		},
		7: func() error { return a.DeleteBlob(ctx, chunked) },
		8: func() error { return p.push(ctx, "team/b", "2.0.0", layers[0]) },
		9: func() error {
			delete(p.acked, "a:1.1.0")
			return a.DeleteManifest(ctx, "1.1.0")
		},
		10: func() error {
			d := p.acked["a:1.0.0"]
			delete(p.acked, "a:1.0.0")
			return a.DeleteManifest(ctx, d.String())
		},
		11: func() error { return p.push(ctx, "a", "1.1.0", layers[2]) },
	}
	for i := range len(steps) {
		if err := steps[i](); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// The machine stops after each single call that pushes and deletes make. Whatever of what was not synced is on the disk
// then: what was acknowledged is there, nothing is there in part, and pushing goes on.
func TestCrashesOfPushes(t *testing.T) {
	for name, plain := range map[string]bool{"unnamed files": false, "named files": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := crashable(t, plain)
			p := &pusher{acked: map[string]digest.Digest{}}
			opened := false
			c.recovered = func(b bucket.Bucket) error {
				if opened {
					return p.check(t.Context(), b)
				}
				_, opened = c.ledger.may["charts/a/tags/1.0.0"]
				return nil
			}
			if err := p.run(t.Context(), c.ledger); err != nil {
				t.Fatal(err)
			}
			if c.err != nil {
				t.Fatal(c.err)
			}
			t.Logf("%d points", c.points)
			if c.points < 100 {
				t.Errorf("the disk saw %d calls", c.points)
			}
		})
	}
}

// A test that no crash can fail would be worth nothing.
func TestCrashesAreSeen(t *testing.T) {
	for name, forget := range map[string]func(d *disk){
		"content that is not synced": func(d *disk) { d.forgetsFiles = true },
		"names that are not synced":  func(d *disk) { d.forgetsNames = true },
	} {
		t.Run(name, func(t *testing.T) {
			c := crashable(t, false)
			forget(c.disk)
			p := &pusher{acked: map[string]digest.Digest{}}
			if err := p.run(t.Context(), c.ledger); err != nil {
				t.Fatal(err)
			}
			if c.err == nil {
				t.Error("nothing was noticed")
			}
			t.Log(c.err)
		})
	}
}

// Those who write to one directory at the same time share syncs. None may take one for its own that began too early,
// and none may take a name for durable that another is still at.
func TestCrashesOfConcurrentPuts(t *testing.T) {
	c := crashable(t, false)
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 6 {
				for _, key := range []string{fmt.Sprintf("x/%d/y/%d", i, w), fmt.Sprintf("x/%d/raced", i)} {
					body := fmt.Sprintf("%s of %d", key, w)
					_, err := c.ledger.Put(t.Context(), key, strings.NewReader(body), int64(len(body)), bucket.Condition{Absent: true})
					if err != nil && !errors.Is(err, bucket.ErrExists) {
						t.Error(err)
					}
				}
				if err := c.ledger.Delete(t.Context(), fmt.Sprintf("x/%d/y/%d", i, w), bucket.Condition{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if c.err != nil {
		t.Error(c.err)
	}
}

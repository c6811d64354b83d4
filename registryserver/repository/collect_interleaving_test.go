package repository_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// stepping counts the calls of one process to the bucket, calls a function before one of them, and fails all from another
// one on, as if the process had been killed.
type stepping struct {
	bucket.Bucket
	mu         sync.Mutex
	calls      int
	at, killAt int
	hook       func()
}

func (s *stepping) step() error {
	s.mu.Lock()
	s.calls++
	calls := s.calls
	s.mu.Unlock()
	if calls == s.at && s.hook != nil {
		s.hook()
	}
	if s.killAt > 0 && calls >= s.killAt {
		return errKilled
	}
	return nil
}

func (s *stepping) Head(ctx context.Context, key string) (bucket.Info, error) {
	if err := s.step(); err != nil {
		return bucket.Info{}, err
	}
	return s.Bucket.Head(ctx, key)
}

func (s *stepping) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if err := s.step(); err != nil {
		return nil, bucket.Info{}, err
	}
	return s.Bucket.Get(ctx, key, r)
}

func (s *stepping) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	if err := s.step(); err != nil {
		return bucket.Info{}, err
	}
	return s.Bucket.Put(ctx, key, body, size, c)
}

func (s *stepping) Delete(ctx context.Context, key string, c bucket.Condition) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.Bucket.Delete(ctx, key, c)
}

func (s *stepping) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	if err := s.step(); err != nil {
		return bucket.Page{}, err
	}
	return s.Bucket.List(ctx, o)
}

func (s *stepping) Copy(ctx context.Context, from, to string) (bucket.Info, error) {
	if err := s.step(); err != nil {
		return bucket.Info{}, err
	}
	return s.Bucket.Copy(ctx, from, to)
}

// scene is a repository with garbage in it, and several processes.
type scene struct {
	*aging
	t     *testing.T
	grace time.Duration
}

// newScene has a living version and one that was deleted, which share a blob, everything being old.
func newScene(t *testing.T, graceful bool) *scene {
	t.Helper()
	s := &scene{aging: &aging{Bucket: &memory{objects: map[string]memoryObject{}}, old: map[int64]time.Duration{}}, t: t, grace: time.Nanosecond}
	if graceful {
		s.grace = grace
	}
	r := s.process(s)
	mustPutChart(t, r, "0.1.0", "living")
	mustPutChart(t, r, "1.0.0", "shared")
	signed := digest.FromBytes(chart(t, "shared"))
	first := putSignature(t, r, signature(t, signed, object{"n": "1"}))
	putSignature(t, r, signature(t, first.Digest, object{"n": "2"}))
	ok(t, r.DeleteManifest(t.Context(), "1.0.0"))
	s.pass(2 * grace)
	return s
}

// process is the view of a process of its own, whose calls go through b.
func (s *scene) process(b bucket.Bucket) *repository.Repository {
	s.t.Helper()
	store := openStore(s.t, b, repository.Options{Grace: s.grace, Now: s.now, Sparse: func(m repository.Manifest) bool { return m.MediaType == indexType }})
	return openRepository(s.t, store, "a")
}

func (s *scene) collector(b bucket.Bucket) *repository.Collector {
	s.t.Helper()
	store := openStore(s.t, b, repository.Options{Grace: s.grace, Now: s.now})
	return store.NewCollector(repository.CollectorOptions{})
}

func (s *scene) collect() {
	s.t.Helper()
	_, err := s.collector(s).Collect(s.t.Context(), "a")
	ok(s.t, err)
}

// offer is a push as clients do it: what is there is not sent again.
func offer(ctx context.Context, r *repository.Repository, b string) error {
	d := digest.FromString(b)
	_, err := r.HoldBlob(ctx, d)
	if errors.Is(err, repository.ErrBlobUnknown) {
		return r.PutBlob(ctx, d, strings.NewReader(b), int64(len(b)))
	}
	return err
}

// pushes are what is pushed, and how to see that all of it is there.
var pushes = map[string]struct {
	push  func(t *testing.T, r *repository.Repository) error
	check func(t *testing.T, r *repository.Repository)
}{
	"chart": {
		func(t *testing.T, r *repository.Repository) error { return pushShared(t, r, "1.0.1") },
		func(t *testing.T, r *repository.Repository) { wantChart(t, r, "1.0.1", "shared") },
	},
	"index": {
		func(t *testing.T, r *repository.Repository) error {
			child := chart(t, "shared")
			d := digest.FromBytes(child)
			if _, err := r.HoldManifest(t.Context(), d.String()); errors.Is(err, repository.ErrManifestUnknown) {
				if err := errors.Join(offer(t.Context(), r, "config"), offer(t.Context(), r, "shared")); err != nil {
					return err
				}
				if _, err := r.PutManifest(t.Context(), d.String(), imageType, child, "ci"); err != nil {
					return err
				}
			} else if err != nil {
				return err
			}
			_, err := r.PutManifest(t.Context(), "all", indexType, indexOf(t, child), "ci")
			return err
		},
		func(t *testing.T, r *repository.Repository) {
			wantContent(t, r, "all", indexOf(t, chart(t, "shared")))
			// It is sparse where its child had gone; then that is written down.
			if m, err := r.StatManifest(t.Context(), "all"); err != nil || len(m.Missing) == 0 {
				ok(t, err)
				wantChart(t, r, digest.FromBytes(chart(t, "shared")).String(), "shared")
			}
		},
	},
	"referrer": {
		func(t *testing.T, r *repository.Repository) error {
			if err := offer(t.Context(), r, "{}"); err != nil {
				return err
			}
			content := sharedSignature(t)
			_, err := r.PutManifest(t.Context(), digest.FromBytes(content).String(), imageType, content, "ci")
			return err
		},
		func(t *testing.T, r *repository.Repository) {
			content := sharedSignature(t)
			wantContent(t, r, digest.FromBytes(content).String(), content)
			if got := blob(t, r, digest.FromString("{}"), nil); got != "{}" {
				t.Errorf("the config is %q", got)
			}
			if list := referrers(t, r, digest.FromBytes(chart(t, "living")), ""); len(list) != 1 {
				t.Errorf("the referrers are %v", list)
			}
		},
	},
}

func pushShared(t *testing.T, r *repository.Repository, tag string) error {
	t.Helper()
	if err := errors.Join(offer(t.Context(), r, "config"), offer(t.Context(), r, "shared")); err != nil {
		return err
	}
	content := chart(t, "shared")
	for _, reference := range []string{digest.FromBytes(content).String(), tag} {
		if _, err := r.PutManifest(t.Context(), reference, imageType, content, "ci"); err != nil {
			return err
		}
	}
	return nil
}

func indexOf(t *testing.T, child []byte) []byte {
	t.Helper()
	return encode(t, object{"schemaVersion": 2, "mediaType": indexType, "manifests": []object{describe(imageType, string(child))}})
}

// sharedSignature refers to the version that lives.
func sharedSignature(t *testing.T) []byte {
	t.Helper()
	return signature(t, digest.FromBytes(chart(t, "living")), nil)
}

func wantContent(t *testing.T, r *repository.Repository, reference string, content []byte) {
	t.Helper()
	m, err := getManifest(t.Context(), r, reference)
	ok(t, err)
	if !bytes.Equal(m.Content, content) {
		t.Errorf("%s is %s", reference, m.Content)
	}
}

func wantChart(t *testing.T, r *repository.Repository, reference, layer string) {
	t.Helper()
	wantContent(t, r, reference, chart(t, layer))
	for _, b := range []string{"config", layer} {
		if got := blob(t, r, digest.FromString(b), nil); got != b {
			t.Errorf("the blob %q of %s is %q", b, reference, got)
		}
	}
}

// wantAll looks whether all is there, now and after everything was collected that can be, by processes that know nothing.
func (s *scene) wantAll(check func(t *testing.T, r *repository.Repository)) {
	s.t.Helper()
	for range 3 {
		check(s.t, s.process(s))
		wantChart(s.t, s.process(s), "0.1.0", "living")
		s.pass(2 * time.Hour)
		s.collect()
	}
	check(s.t, s.process(s))
	summary, err := openStore(s.t, s, repository.Options{Now: s.now}).Verify(s.t.Context(), repository.VerifyOptions{}, func(f repository.Finding) { s.t.Logf("%+v", f) })
	if err != nil || summary.Problems > 0 {
		s.t.Errorf("%+v, %v", summary, err)
	}
}

// eachStep runs a test for each call that something makes to the bucket, until at returns how many there are.
func eachStep(t *testing.T, run func(t *testing.T, graceful bool, at int) (calls int)) {
	t.Helper()
	for _, graceful := range []bool{true, false} {
		for at := 1; ; at++ {
			calls := 0
			if !t.Run(fmt.Sprintf("grace %t step %d", graceful, at), func(t *testing.T) { calls = run(t, graceful, at) }) || at > calls {
				break
			}
		}
	}
}

// A push runs from beginning to end before each call that a collection makes.
func TestPushInTheMiddleOfACollection(t *testing.T) {
	for name, p := range pushes {
		t.Run(name, func(t *testing.T) {
			eachStep(t, func(t *testing.T, graceful bool, at int) int {
				s := newScene(t, graceful)
				pusher := s.process(s)
				b := &stepping{Bucket: s, at: at, hook: func() { ok(t, p.push(t, pusher)) }}
				c := s.collector(b)
				_, err := c.Collect(t.Context(), "a")
				ok(t, err)
				if b.calls < at {
					ok(t, p.push(t, pusher))
				}
				s.wantNothingLivingInTrash()
				s.wantAll(p.check)
				return b.calls
			})
		})
	}
}

// wantNothingLivingInTrash looks whether the collection itself, or the push, has brought back what was named meanwhile.
// The referrers of a version that lives again are not the push's to look for; the next collection finds them.
func (s *scene) wantNothingLivingInTrash() {
	s.t.Helper()
	pushed := []digest.Digest{digest.FromString("config"), digest.FromString("shared"), digest.FromBytes(chart(s.t, "shared"))}
	_, err := openStore(s.t, s, repository.Options{Grace: s.grace, Now: s.now}).NewCollector(repository.CollectorOptions{
		DryRun: true, Found: func(g repository.Garbage) {
			if g.Action == repository.Restored && slices.Contains(pushed, digest.Digest(g.Name)) {
				s.t.Errorf("left in the trash although something names it: %+v", g)
			}
		},
	}).Collect(s.t.Context(), "a")
	ok(s.t, err)
}

// The same, and the collector is killed a few calls later.
func TestPushInTheMiddleOfACollectionThatIsKilled(t *testing.T) {
	p := pushes["chart"]
	for _, later := range []int{0, 1, 2, 5} {
		t.Run(fmt.Sprint(later), func(t *testing.T) {
			eachStep(t, func(t *testing.T, graceful bool, at int) int {
				s := newScene(t, graceful)
				pusher := s.process(s)
				b := &stepping{Bucket: s}
				c := s.collector(b)
				b.calls, b.at, b.killAt, b.hook = 0, at, at+later, func() { ok(t, p.push(t, pusher)) }
				_, err := c.Collect(t.Context(), "a")
				if err != nil {
					want(t, err, errKilled)
				}
				if b.calls < at {
					ok(t, p.push(t, pusher))
				}
				s.wantAll(p.check)
				return b.calls
			})
		})
	}
}

// One or more whole collections, by several collectors, run before each call that a push makes.
func TestCollectionInTheMiddleOfAPush(t *testing.T) {
	for name, p := range pushes {
		for _, collections := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%s, %d", name, collections), func(t *testing.T) {
				eachStep(t, func(t *testing.T, graceful bool, at int) int {
					s := newScene(t, graceful)
					b := &stepping{Bucket: s}
					pusher := s.process(b)
					b.calls, b.at, b.hook = 0, at, func() {
						for range collections {
							s.collect()
						}
					}
					// A push that is refused was not acknowledged, and succeeds when it is tried again.
					if err := p.push(t, pusher); err != nil {
						unknown := new(repository.UnknownBlobsError)
						if !errors.As(err, &unknown) {
							t.Fatal(err)
						}
						ok(t, p.push(t, s.process(s)))
					}
					s.wantAll(p.check)
					return b.calls
				})
			})
		}
	}
}

// A collection begins before each call of a push, and stands still in the middle, or is killed there, until the push is
// at its end.
func TestCollectionAroundAPush(t *testing.T) {
	for _, middle := range []int{3, 6, 9, 12, 18, 24, 36} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d killed %t", middle, killed), func(t *testing.T) {
				eachStep(t, func(t *testing.T, graceful bool, at int) int {
					s := newScene(t, graceful)
					// reached is closed when the collection stands still, or is over; pushed, when it may go on.
					reached, pushed, collected := make(chan struct{}), make(chan struct{}), make(chan error, 1)
					var once sync.Once
					stand := func() { once.Do(func() { close(reached) }) }
					cb := &stepping{Bucket: s}
					c := s.collector(cb)
					cb.calls, cb.at, cb.hook = 0, middle, func() {
						stand()
						<-pushed
					}
					if killed {
						cb.killAt = middle + 1
					}
					pb := &stepping{Bucket: s}
					pusher := s.process(pb)
					pb.calls, pb.at, pb.hook = 0, at, func() {
						go func() {
							_, err := c.Collect(t.Context(), "a")
							stand()
							collected <- err
						}()
						<-reached
					}
					err := pushShared(t, pusher, "1.0.1")
					close(pushed)
					if pb.calls >= at {
						if err := <-collected; err != nil {
							want(t, err, errKilled)
						}
					}
					if err != nil {
						unknown := new(repository.UnknownBlobsError)
						if !errors.As(err, &unknown) {
							t.Fatal(err)
						}
						ok(t, pushShared(t, s.process(s), "1.0.1"))
					}
					s.wantAll(pushes["chart"].check)
					return pb.calls
				})
			})
		}
	}
}

// Blobs that nobody asked for before are named by a manifest, and freed before each call of its push, or in the middle of
// another push of the same manifest, which then leaves it behind without its blobs.
func TestBlobsAreFreedInTheMiddleOfAPush(t *testing.T) {
	content := chart(t, "shared")
	d := digest.FromBytes(content).String()
	for _, reference := range []string{d, "1.0.1"} {
		for middle := range 15 {
			t.Run(fmt.Sprintf("%.6s, other push until %d", reference, middle), func(t *testing.T) {
				eachStep(t, func(t *testing.T, graceful bool, at int) int {
					s := newScene(t, graceful)
					free := func() {
						for range 3 {
							s.collect()
						}
					}
					b := &stepping{Bucket: s, at: at, hook: free}
					if middle > 0 {
						b.hook = func() {
							other := &stepping{Bucket: s, at: middle, hook: free}
							_, _ = s.process(other).PutManifest(t.Context(), d, imageType, content, "ci")
						}
					}
					_, err := s.process(b).PutManifest(t.Context(), reference, imageType, content, "ci")
					unknown := new(repository.UnknownBlobsError)
					if errors.As(err, &unknown) {
						return b.calls // It was not acknowledged.
					}
					ok(t, err)
					if graceful || reference != d {
						s.collect()
						s.collect()
						wantChart(t, s.process(s), reference, "shared")
					}
					return b.calls
				})
			})
		}
	}
}

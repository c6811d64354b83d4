package repository_test

import (
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
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// aging is a bucket in which everything can be made old. All times that it tells are its clock's.
type aging struct {
	bucket.Bucket
	mu sync.Mutex
	// ahead is by how much the clock is; old says by how much it was when something was written, by its real time.
	ahead time.Duration
	old   map[int64]time.Duration
}

func newAging(t *testing.T) *aging {
	t.Helper()
	return &aging{Bucket: newBucket(t), old: map[int64]time.Duration{}}
}

// pass lets time go by.
func (a *aging) pass(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ahead += d
}

func (a *aging) now() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Add(a.ahead)
}

// stamp moves an object's time to what the clock said when it was first seen. Writes are told apart by their times, so
// that a hard link keeps its.
func (a *aging) stamp(i bucket.Info) bucket.Info {
	if i.Modified.IsZero() {
		return i
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	written := i.Modified.UnixNano()
	if _, seen := a.old[written]; !seen {
		a.old[written] = a.ahead
	}
	i.Modified = i.Modified.Add(a.old[written])
	return i
}

func (a *aging) Head(ctx context.Context, key string) (bucket.Info, error) {
	i, err := a.Bucket.Head(ctx, key)
	return a.stamp(i), err
}

func (a *aging) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	content, i, err := a.Bucket.Get(ctx, key, r)
	return content, a.stamp(i), err
}

func (a *aging) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	i, err := a.Bucket.Put(ctx, key, body, size, c)
	return a.stamp(i), err
}

func (a *aging) Copy(ctx context.Context, from, to string) (bucket.Info, error) {
	i, err := a.Bucket.Copy(ctx, from, to)
	return a.stamp(i), err
}

func (a *aging) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	p, err := a.Bucket.List(ctx, o)
	for n, i := range p.Objects {
		p.Objects[n] = a.stamp(i)
	}
	return p, err
}

const (
	grace = 24 * time.Hour
	undo  = time.Hour
)

// yard is a repository with a collector.
type yard struct {
	*aging
	r *repository.Repository
	c *repository.Collector
	// found is what the collector told of.
	found []repository.Garbage
}

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{aging: newAging(t)}
	s := openStore(t, y, repository.Options{Now: y.now, Sparse: func(m repository.Manifest) bool { return m.MediaType == indexType }})
	y.r = openRepository(t, s, "a")
	y.c = s.NewCollector(repository.CollectorOptions{Undo: undo, Found: func(g repository.Garbage) { y.found = append(y.found, g) }})
	return y
}

func (y *yard) collect(t *testing.T) repository.Collection {
	t.Helper()
	y.found = nil
	o, err := y.c.Collect(t.Context(), "a")
	ok(t, err)
	return o
}

// actions counts what was done by the last collection, by kind.
func (y *yard) actions() map[string]int {
	n := map[string]int{}
	for _, g := range y.found {
		n[g.Action+" "+g.Kind]++
	}
	return n
}

func (y *yard) wantActions(t *testing.T, want map[string]int) {
	t.Helper()
	if diff := cmp.Diff(want, y.actions()); diff != "" {
		t.Errorf("the collection (-want +got):\n%s%v", diff, y.found)
	}
}

func TestGarbageIsCondemnedAndThenFreed(t *testing.T) {
	y := newYard(t)
	mustPutChart(t, y.r, "1.0.0", "one")
	gone := mustPutChart(t, y.r, "2.0.0", "two")
	ok(t, y.r.DeleteManifest(t.Context(), "2.0.0"))
	y.collect(t)
	y.wantActions(t, map[string]int{})

	y.pass(grace)
	o := y.collect(t)
	y.wantActions(t, map[string]int{"condemned blob": 1, "condemned manifest": 1})
	if o.Condemned != o.Waiting || o.Condemned.Objects != 2 || o.Condemned.Bytes <= int64(len("two")) || o.Freed.Objects != 0 {
		t.Errorf("%+v", o)
	}
	if o.Due.Before(y.now().Add(undo-time.Minute)) || o.Due.After(y.now().Add(undo)) {
		t.Errorf("the next is due at %v", o.Due)
	}
	// Until it is freed, it can be read.
	_, err := y.r.StatManifest(t.Context(), gone.Digest.String())
	ok(t, err)
	if got := blob(t, y.r, digest.FromString("two"), nil); got != "two" {
		t.Errorf("the condemned blob is %q", got)
	}

	y.pass(undo - time.Minute)
	y.collect(t)
	y.wantActions(t, map[string]int{})
	y.pass(2 * time.Minute)
	o = y.collect(t)
	y.wantActions(t, map[string]int{"freed blob": 1, "freed manifest": 1})
	if o.Waiting.Objects != 0 || o.Freed.Objects != 2 {
		t.Errorf("%+v", o)
	}
	wantUnknown(t, y.r, gone.Digest.String())
	_, err = y.r.StatBlob(t.Context(), digest.FromString("two"))
	want(t, err, repository.ErrBlobUnknown)

	y.collect(t)
	wantManifest(t, y.r, "1.0.0", chart(t, "one"))
	if left := keys(t, y.Bucket); len(left) != 4 {
		t.Errorf("left are %v", left)
	}
}

func TestWhatLivesIsSpared(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, y *yard)
		// collected are the kinds of what is condemned when everything is old.
		collected map[string]int
	}{
		"an index and its children": {func(t *testing.T, y *yard) {
			child := mustPutChart(t, y.r, digest.FromBytes(chart(t, "one")).String(), "one")
			putIndex(t, y.r, "all", child)
		}, map[string]int{}},
		"a referrer of a referrer": {func(t *testing.T, y *yard) {
			m := mustPutChart(t, y.r, "1.0.0", "one")
			first := putSignature(t, y.r, signature(t, m.Digest, object{"n": "1"}))
			putSignature(t, y.r, signature(t, first.Digest, object{"n": "2"}))
		}, map[string]int{}},
		"not the referrers of what is gone": {func(t *testing.T, y *yard) {
			mustPutChart(t, y.r, "1.0.0", "one")
			first := putSignature(t, y.r, signature(t, digest.FromString("never pushed"), object{"n": "1"}))
			putSignature(t, y.r, signature(t, first.Digest, object{"n": "2"}))
		}, map[string]int{"condemned manifest": 2, "condemned blob": 1}},
		"what a sparse index names, when it comes": {func(t *testing.T, y *yard) {
			content := encode(t, object{"schemaVersion": 2, "mediaType": indexType, "manifests": []object{describe(imageType, string(chart(t, "one")))}})
			_, err := y.r.PutManifest(t.Context(), "all", indexType, content, "ci")
			ok(t, err)
			mustPutChart(t, y.r, digest.FromBytes(chart(t, "one")).String(), "one")
		}, map[string]int{}},
		"blobs in fields that nobody knows": {func(t *testing.T, y *yard) {
			putBlob(t, y.r, "config")
			putBlob(t, y.r, "elsewhere")
			putBlob(t, y.r, "strange")
			foreign := describe("application/vnd.oci.image.layer.nondistributable.v1.tar", "elsewhere")
			content := encode(t, object{
				"schemaVersion": 2, "config": describe("application/json", "config"), "layers": []object{foreign},
				"blobs": []object{describe("text/plain", "strange")},
			})
			_, err := y.r.PutManifest(t.Context(), "1.0.0", imageType, content, "ci")
			ok(t, err)
		}, map[string]int{}},
		"not what a moved tag stood for": {func(t *testing.T, y *yard) {
			ok(t, errors.Join(
				second(putChart(t, y.r, "sha256-a", "one")),
				second(putChart(t, y.r, "sha256-a", "two")),
			))
		}, map[string]int{"condemned manifest": 1, "condemned blob": 1}},
		"not blobs without a manifest": {func(t *testing.T, y *yard) {
			putBlob(t, y.r, "alone")
			ok(t, y.r.PutBlob(t.Context(), digest.SHA512.FromString("long"), strings.NewReader("long"), -1))
		}, map[string]int{"condemned blob": 2}},
		"sha512": {func(t *testing.T, y *yard) {
			ok(t, y.r.PutBlob(t.Context(), digest.SHA512.FromString("config"), strings.NewReader("config"), -1))
			content := encode(t, object{"schemaVersion": 2, "config": object{"mediaType": "application/json", "digest": digest.SHA512.FromString("config"), "size": 6}})
			_, err := y.r.PutManifest(t.Context(), digest.SHA512.FromBytes(content).String(), imageType, content, "ci", "1.0.0")
			ok(t, err)
		}, map[string]int{}},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t)
			c.prepare(t, y)
			y.collect(t)
			y.wantActions(t, map[string]int{})
			y.pass(grace)
			y.collect(t)
			y.wantActions(t, c.collected)
			y.collect(t)
			y.wantActions(t, map[string]int{})
		})
	}
}

func second[T any](_ T, err error) error { return err }

func putIndex(t *testing.T, r *repository.Repository, reference string, children ...repository.Manifest) repository.Manifest {
	t.Helper()
	list := []object{}
	for _, m := range children {
		list = append(list, object{"mediaType": m.MediaType, "digest": m.Digest, "size": m.Size})
	}
	m, err := r.PutManifest(t.Context(), reference, indexType, encode(t, object{"schemaVersion": 2, "mediaType": indexType, "manifests": list}), "ci")
	ok(t, err)
	return m
}

// What was condemned comes back when somebody pushes it, names it, asks for it in order to push, or mounts it.
func TestCondemnedComesBack(t *testing.T) {
	content := chart(t, "one")
	d := digest.FromBytes(content)
	for name, again := range map[string]func(t *testing.T, y *yard){
		"by a push of the manifest": func(t *testing.T, y *yard) {
			_, err := y.r.PutManifest(t.Context(), "1.0.0", imageType, content, "ci")
			ok(t, err)
		},
		"by an index": func(t *testing.T, y *yard) {
			putIndex(t, y.r, "all", repository.Manifest{MediaType: imageType, Digest: d, Size: int64(len(content))})
		},
		"by a question": func(t *testing.T, y *yard) {
			_, err := y.r.HoldManifest(t.Context(), d.String())
			ok(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t)
			mustPutChart(t, y.r, "1.0.0", "one")
			ok(t, y.r.DeleteManifest(t.Context(), "1.0.0"))
			y.pass(grace)
			y.collect(t)
			y.wantActions(t, map[string]int{"condemned blob": 2, "condemned manifest": 1})
			y.pass(undo - time.Minute)
			again(t, y)
			y.collect(t)
			y.pass(2 * time.Minute)
			y.collect(t)
			y.collect(t)
			wantManifest(t, y.r, d.String(), content)
			for _, b := range []string{"config", "one"} {
				if got := blob(t, y.r, digest.FromString(b), nil); got != b {
					t.Errorf("the blob %q is %q", b, got)
				}
			}
			for _, key := range keys(t, y.Bucket) {
				if strings.Contains(key, "/trash/") {
					t.Errorf("left in the trash: %s", key)
				}
			}
		})
	}
}

func TestLeases(t *testing.T) {
	y := newYard(t)
	d := putBlob(t, y.r, "one")
	hold := func(want int) {
		t.Helper()
		_, err := y.r.HoldBlob(t.Context(), d)
		ok(t, err)
		leases := slices.DeleteFunc(keys(t, y.Bucket), func(key string) bool { return !strings.Contains(key, "/leases/") })
		if len(leases) != want {
			t.Fatalf("the leases are %v", leases)
		}
	}
	hold(0) // It is young.
	y.pass(grace - time.Minute)
	hold(1)
	before, err := y.Head(t.Context(), "charts/a/leases/sha256-"+d.Encoded())
	ok(t, err)
	y.pass(9 * time.Minute)
	hold(1)
	if after, err := y.Head(t.Context(), before.Key); err != nil || after.ETag != before.ETag {
		t.Errorf("the lease is written again after 9 minutes: %v", err)
	}
	y.collect(t)
	y.wantActions(t, map[string]int{})
	y.pass(time.Minute)
	hold(1)
	if after, err := y.Head(t.Context(), before.Key); err != nil || after.ETag == before.ETag {
		t.Errorf("the lease is not written again after 10 minutes: %v", err)
	}
	y.pass(grace - time.Minute)
	y.collect(t)
	y.wantActions(t, map[string]int{})
	y.pass(2 * time.Minute)
	y.collect(t)
	y.wantActions(t, map[string]int{"condemned blob": 1})
	// Who asks in order to push brings it back.
	hold(1)
	if _, err := y.Head(t.Context(), "charts/a/blobs/sha256/"+d.Encoded()); err != nil {
		t.Error(err)
	}
	y.collect(t)
	y.wantActions(t, map[string]int{})
}

func TestPushOfAChartWritesOneObjectEach(t *testing.T) {
	y := newYard(t)
	for _, b := range []string{"config", "one"} {
		_, err := y.r.HoldBlob(t.Context(), digest.FromString(b))
		want(t, err, repository.ErrBlobUnknown)
	}
	mustPutChart(t, y.r, digest.FromBytes(chart(t, "one")).String(), "one")
	mustPutChart(t, y.r, "1.0.0", "one")
	if got := keys(t, y.Bucket); len(got) != 4 {
		t.Errorf("a push writes %v", got)
	}
}

func TestOldManifestPushedAgainByDigestIsSpared(t *testing.T) {
	y := newYard(t)
	m := mustPutChart(t, y.r, "1.0.0", "one")
	ok(t, y.r.DeleteManifest(t.Context(), "1.0.0"))
	y.pass(grace)
	_, err := y.r.PutManifest(t.Context(), m.Digest.String(), imageType, chart(t, "one"), "ci")
	ok(t, err)
	y.collect(t)
	y.wantActions(t, map[string]int{})
}

func TestMountedBlobIsSpared(t *testing.T) {
	y := newYard(t)
	s := openStore(t, y, repository.Options{Now: y.now})
	from := openRepository(t, s, "b")
	d := putBlob(t, from, "one")
	y.pass(grace)
	_, err := s.NewCollector(repository.CollectorOptions{Undo: undo}).Collect(t.Context(), "b")
	ok(t, err)
	// From the trash of the other.
	_, err = y.r.Mount(t.Context(), d, from)
	ok(t, err)
	y.collect(t)
	y.wantActions(t, map[string]int{})
	y.pass(grace)
	y.collect(t)
	y.wantActions(t, map[string]int{"condemned blob": 1})
	_, err = y.r.MountFound(t.Context(), d, func(string) bool { return true })
	ok(t, err)
	y.collect(t)
	y.wantActions(t, map[string]int{})
}

func TestDeleteReachesTheTrash(t *testing.T) {
	y := newYard(t)
	m := mustPutChart(t, y.r, "1.0.0", "one")
	ok(t, y.r.DeleteManifest(t.Context(), "1.0.0"))
	y.pass(grace)
	y.collect(t)
	ok(t, y.r.DeleteManifest(t.Context(), m.Digest.String()))
	wantUnknown(t, y.r, m.Digest.String())
	for _, b := range []string{"config", "one"} {
		ok(t, y.r.DeleteBlob(t.Context(), digest.FromString(b)))
		_, err := y.r.StatBlob(t.Context(), digest.FromString(b))
		want(t, err, repository.ErrBlobUnknown)
	}
	want(t, y.r.DeleteManifest(t.Context(), m.Digest.String()), repository.ErrManifestUnknown)
	want(t, y.r.DeleteBlob(t.Context(), digest.FromString("one")), repository.ErrBlobUnknown)
}

func TestUploadsAreCleared(t *testing.T) {
	y := newYard(t)
	appendTo := func(id, chunk string) {
		t.Helper()
		_, err := y.r.Upload(id).Append(t.Context(), -1, strings.NewReader(chunk), -1)
		ok(t, err)
	}
	appendTo("abandoned", "one")
	appendTo("abandoned", "two")
	appendTo("slow", "one")
	appendTo("cancelled", "one")
	ok(t, y.r.Upload("cancelled").Cancel(t.Context()))
	y.pass(grace - time.Minute)
	appendTo("slow", "two")
	y.collect(t)
	y.wantActions(t, map[string]int{})
	y.pass(2 * time.Minute)
	o := y.collect(t)
	y.wantActions(t, map[string]int{"freed upload": 2})
	if o.Freed.Bytes != int64(len("onetwo")+len("{}")) {
		t.Errorf("%+v", o)
	}
	if offset, err := y.r.Upload("slow").Offset(t.Context()); err != nil || offset != 6 {
		t.Errorf("the slow upload stands at %d, %v", offset, err)
	}
	if got := keys(t, y.Bucket); len(got) != 2 {
		t.Errorf("left are %v", got)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	y := newYard(t)
	mustPutChart(t, y.r, "1.0.0", "one")
	mustPutChart(t, y.r, "2.0.0", "two")
	putSignature(t, y.r, signature(t, digest.FromString("gone"), nil))
	_, err := y.r.Upload("abandoned").Append(t.Context(), 0, strings.NewReader("x"), 1)
	ok(t, err)
	ok(t, y.r.DeleteManifest(t.Context(), "2.0.0"))
	y.pass(grace)
	y.collect(t)
	ok(t, y.r.DeleteManifest(t.Context(), "1.0.0"))
	y.pass(undo + time.Minute)
	before, err := y.List(t.Context(), bucket.ListOptions{})
	ok(t, err)
	var found []repository.Garbage
	dry := openStore(t, y, repository.Options{Now: y.now}).NewCollector(repository.CollectorOptions{
		Undo: undo, DryRun: true, Found: func(g repository.Garbage) { found = append(found, g) },
	})
	planned, err := dry.Collect(t.Context(), "a")
	ok(t, err)
	after, err := y.List(t.Context(), bucket.ListOptions{})
	ok(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("a dry run changes something:\n%s", diff)
	}
	done := y.collect(t)
	if planned.Condemned != done.Condemned || planned.Freed != done.Freed || done.Condemned.Objects == 0 || done.Freed.Objects == 0 {
		t.Errorf("planned was %+v, and this was done: %+v", planned, done)
	}
	byName := func(a, b repository.Garbage) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	slices.SortFunc(found, byName)
	slices.SortFunc(y.found, byName)
	if diff := cmp.Diff(found, y.found); diff != "" {
		t.Errorf("planned (-) and done (+):\n%s", diff)
	}
}

// What cannot be read may name anything.
func TestDamagedManifestOrTagSparesTheChart(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, y *yard, m repository.Manifest) (mend func()){
		"manifest": func(t *testing.T, y *yard, m repository.Manifest) func() {
			putObject(t, y.Bucket, "charts/a/manifests/sha256/"+m.Digest.Encoded(), "{}\n{")
			return func() { mustPutChart(t, y.r, "1.0.0", "one") }
		},
		"tag": func(t *testing.T, y *yard, _ repository.Manifest) func() {
			putObject(t, y.Bucket, "charts/a/tags/1.0.0", "")
			return func() {
				ok(t, y.r.DeleteManifest(t.Context(), "1.0.0"))
				mustPutChart(t, y.r, "1.0.0", "one")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t)
			m := mustPutChart(t, y.r, "1.0.0", "one")
			mend := damage(t, y, m)
			y.pass(grace)
			if _, err := y.c.Collect(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "is damaged") {
				t.Errorf("the error is %v", err)
			}
			y.wantActions(t, map[string]int{})
			mend()
			putBlob(t, y.r, "alone")
			y.pass(grace)
			y.collect(t)
			y.wantActions(t, map[string]int{"condemned blob": 1})
		})
	}
}

func TestListsOfReferrersAreTidied(t *testing.T) {
	y := newYard(t)
	m := mustPutChart(t, y.r, "1.0.0", "one")
	gone := putSignature(t, y.r, signature(t, m.Digest, object{"n": "1"}))
	kept := putSignature(t, y.r, signature(t, m.Digest, object{"n": "2"}))
	entry := func(of repository.Manifest) string {
		return "charts/a/referrers/sha256-" + m.Digest.Encoded() + "/sha256-" + of.Digest.Encoded()
	}
	// What a process leaves that is killed in a delete, and in a push.
	ok(t, y.Delete(t.Context(), "charts/a/manifests/sha256/"+gone.Digest.Encoded(), bucket.Condition{}))
	ok(t, y.Delete(t.Context(), entry(kept), bucket.Condition{}))
	y.pass(grace)
	y.collect(t)
	y.wantActions(t, map[string]int{"freed referrer": 1})
	if _, err := y.Head(t.Context(), entry(gone)); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("the entry of what is gone: %v", err)
	}
	wantReferrers(t, y.r, m.Digest, kept)
}

func TestCollectAllGoesOn(t *testing.T) {
	b := newAging(t)
	s := openStore(t, b, repository.Options{Now: b.now})
	for _, name := range []string{"a", "b", "c"} {
		putBlob(t, openRepository(t, s, name), name)
	}
	putObject(t, b, "charts/b/tags/1.0.0", "")
	b.pass(grace)
	outcomes := map[string]int64{}
	ok(t, s.NewCollector(repository.CollectorOptions{Undo: undo}).CollectAll(t.Context(), func(name string, o repository.Collection, err error) error {
		if outcomes[name] = o.Condemned.Objects; err != nil {
			outcomes[name] = -1
		}
		return nil
	}))
	if diff := cmp.Diff(map[string]int64{"a": 1, "b": -1, "c": 1}, outcomes); diff != "" {
		t.Error(diff)
	}
}

func TestVerifyKnowsTrashAndLeases(t *testing.T) {
	y := newYard(t)
	s := openStore(t, y, repository.Options{Now: y.now})
	m := mustPutChart(t, y.r, "1.0.0", "one")
	mustPutChart(t, y.r, "2.0.0", "two")
	ok(t, y.r.DeleteManifest(t.Context(), "2.0.0"))
	y.pass(grace)
	_, err := y.r.HoldBlob(t.Context(), digest.FromString("config"))
	ok(t, err)
	y.collect(t)
	// A collector that was killed leaves what lives in the trash, from where it is served.
	for _, key := range []string{"manifests/sha256/" + m.Digest.Encoded(), "blobs/sha256/" + digest.FromString("one").Encoded()} {
		trashed := "charts/a/trash/" + strings.ReplaceAll(key, "/", "-") + "/20260101T000000.000000000Z-A"
		_, err := y.Copy(t.Context(), "charts/a/"+key, trashed)
		ok(t, errors.Join(err, y.Delete(t.Context(), "charts/a/"+key, bucket.Condition{})))
	}
	summary, err := s.Verify(t.Context(), repository.VerifyOptions{}, func(f repository.Finding) { t.Errorf("%+v", f) })
	if err != nil || summary.Objects < 9 {
		t.Errorf("%+v, %v", summary, err)
	}
	wantManifest(t, y.r, "1.0.0", chart(t, "one"))
	_, err = putChart(t, y.r, "1.0.0", "other")
	want(t, err, repository.ErrTagImmutable)
	y.collect(t)
	y.wantActions(t, map[string]int{"restored blob": 1, "restored manifest": 1})
}

package repository_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// record is what Options.Record was told, and then done.
type record struct {
	mu      sync.Mutex
	changes []repository.Change
	// done has an entry for each change: "" while nothing was said, then "happened" or "not".
	done []string
	err  error
	// before is called within.
	before func(c repository.Change)
}

func (r *record) add(_ context.Context, c repository.Change) (string, func(bool), error) {
	if r.before != nil {
		r.before(c)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return "", nil, r.err
	}
	n := len(r.changes)
	r.changes, r.done = append(r.changes, c), append(r.done, "")
	return fmt.Sprint("mark", n), func(happened bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.done[n] = "not"
		if happened {
			r.done[n] = "happened"
		}
	}, nil
}

// take returns what was told since the last call, as far as the test is about it.
func (r *record) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var told []string
	for i, c := range r.changes {
		line := c.Tag + " "
		if c.Before != "" {
			line += "from " + c.Before.Encoded()[:6] + " "
		}
		if c.BeforeMark != "" {
			line += "(" + c.BeforeMark + ") "
		}
		if c.Digest != "" {
			line += "to " + c.Digest.Encoded()[:6] + " "
		}
		if c.CopiedFrom != "" {
			line += "copied " + c.CopiedFrom + " "
		}
		told = append(told, line+c.By+" "+r.done[i])
	}
	r.changes, r.done = nil, nil
	return told
}

func short(d digest.Digest) string { return d.Encoded()[:6] }

func recording(t *testing.T, b bucket.Bucket, o repository.Options) (*record, *repository.Repository) {
	t.Helper()
	told := &record{}
	o.Record = told.add
	return told, openRepository(t, openStore(t, b, o), "team/web")
}

func told(t *testing.T, r *record, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, r.take()); diff != "" {
		t.Errorf("what was told (-want +got):\n%s", diff)
	}
}

func TestChangesAreRecorded(t *testing.T) {
	dev := func(tag string) bool { return tag == "1.0.0-dev" }
	b := &memory{objects: map[string]memoryObject{}}
	r, repo := recording(t, b, repository.Options{TagMutable: dev})
	first := mustPutChart(t, repo, "1.0.0", "one")
	if c := r.changes[0]; c.Repository != "team/web" || c.MediaType != first.MediaType || c.Size != first.Size {
		t.Errorf("told of %+v", c)
	}
	told(t, r, "1.0.0 to "+short(first.Digest)+" ci happened")
	d, mark, err := repo.Standing(t.Context(), "1.0.0")
	ok(t, err)
	if d != first.Digest || mark != "mark0" {
		t.Errorf("it stands for %s by %q", d, mark)
	}

	// The same again, by tag and by digest, changes nothing.
	mustPutChart(t, repo, "1.0.0", "one")
	mustPutChart(t, repo, string(first.Digest), "one")
	told(t, r)
	// Nor does what is refused.
	_, err = putChart(t, repo, "1.0.0", "two")
	want(t, err, repository.ErrTagImmutable)
	want(t, repo.DeleteManifest(t.Context(), "2.0.0"), repository.ErrManifestUnknown)
	told(t, r)
	// Signatures are no versions.
	mustPutChart(t, repo, "sha256-abc.sig", "one")
	ok(t, repo.DeleteManifest(t.Context(), "sha256-abc.sig"))
	told(t, r)

	a := mustPutChart(t, repo, "1.0.0-dev", "three")
	moved := mustPutChart(t, repo, "1.0.0-dev", "four")
	told(t, r, "1.0.0-dev to "+short(a.Digest)+" ci happened", "1.0.0-dev from "+short(a.Digest)+" (mark0) to "+short(moved.Digest)+" ci happened")

	ok(t, repo.DeleteManifest(t.Context(), "1.0.0-dev"))
	told(t, r, "1.0.0-dev from "+short(moved.Digest)+" (mark1)  happened")
	d, mark, err = repo.Standing(t.Context(), "1.0.0-dev")
	if d != "" || mark != "" || err != nil {
		t.Errorf("a deleted tag stands for %s by %q, %v", d, mark, err)
	}

	// By digest, every tag that stands for it.
	mustPutChart(t, repo, "1.0.0-dev", "one")
	r.take()
	ok(t, repo.DeleteManifest(t.Context(), string(first.Digest)))
	got := r.take()
	slices.Sort(got)
	if diff := cmp.Diff([]string{"1.0.0 from " + short(first.Digest) + " (mark0)  happened", "1.0.0-dev from " + short(first.Digest) + " (mark0)  happened"}, got); diff != "" {
		t.Error(diff)
	}

	// As retention deletes.
	mustPutChart(t, repo, "3.0.0", "one")
	r.take()
	versions, err := repo.Versions(t.Context())
	ok(t, err)
	ok(t, repo.DeleteVersion(t.Context(), versions[0]))
	told(t, r, "3.0.0 from "+short(first.Digest)+" (mark0)  happened")

	// A copy says so.
	putBlob(t, repo, "config")
	putBlob(t, repo, "one")
	_, err = repo.PutManifest(repository.Copying(t.Context(), "web:9.0.0"), "9.0.0", first.MediaType, chart(t, "one"), "me")
	ok(t, err)
	told(t, r, "9.0.0 to "+short(first.Digest)+" copied web:9.0.0 me happened")
}

// What was pushed before changes were recorded has no mark.
func TestRecordingBeginsLater(t *testing.T) {
	b := &memory{objects: map[string]memoryObject{}}
	old := mustPutChart(t, openRepository(t, openStore(t, b, repository.Options{}), "team/web"), "1.0.0", "one")
	r, repo := recording(t, b, repository.Options{TagMutable: func(string) bool { return true }})
	mustPutChart(t, repo, "1.0.0", "one")
	told(t, r)
	next := mustPutChart(t, repo, "1.0.0", "two")
	told(t, r, "1.0.0 from "+short(old.Digest)+" to "+short(next.Digest)+" ci happened")
}

func TestWhatCannotBeRecordedIsNotDone(t *testing.T) {
	b := &memory{objects: map[string]memoryObject{}}
	r, repo := recording(t, b, repository.Options{})
	mustPutChart(t, repo, "1.0.0", "one")
	r.err = fmt.Errorf("no room: %w", bucket.ErrFull)
	_, err := putChart(t, repo, "2.0.0", "one")
	want(t, err, bucket.ErrFull)
	want(t, repo.DeleteManifest(t.Context(), "1.0.0"), bucket.ErrFull)
	tags, _, err := repo.Tags(t.Context(), 0, "")
	ok(t, err)
	if !slices.Equal(tags, []string{"1.0.0"}) {
		t.Errorf("there are %v", tags)
	}
}

// Whatever comes between the look and the write, what was recorded is what happened.
func TestChangesRace(t *testing.T) {
	everything := repository.Options{TagMutable: func(string) bool { return true }}
	var other *repository.Repository
	for name, c := range map[string]struct {
		prepare, between, act func(r *repository.Repository)
		want                  func(one, two string) []string
	}{
		"a push against a push": {
			prepare: func(*repository.Repository) {},
			between: func(*repository.Repository) { mustPutChart(t, other, "1.0.0", "one") },
			act:     func(r *repository.Repository) { mustPutChart(t, r, "1.0.0", "two") },
			want: func(one, two string) []string {
				return []string{"1.0.0 to " + two + " ci not", "1.0.0 from " + one + " to " + two + " ci happened"}
			},
		},
		"a push against the same push": {
			prepare: func(*repository.Repository) {},
			between: func(*repository.Repository) { mustPutChart(t, other, "1.0.0", "two") },
			act:     func(r *repository.Repository) { mustPutChart(t, r, "1.0.0", "two") },
			want:    func(_, two string) []string { return []string{"1.0.0 to " + two + " ci not"} },
		},
		"a delete against a push": {
			prepare: func(r *repository.Repository) { mustPutChart(t, r, "1.0.0", "one") },
			between: func(*repository.Repository) { mustPutChart(t, other, "1.0.0", "two") },
			act:     func(r *repository.Repository) { ok(t, r.DeleteManifest(t.Context(), "1.0.0")) },
			want: func(one, two string) []string {
				return []string{"1.0.0 from " + one + " (mark0)  not", "1.0.0 from " + two + "  happened"}
			},
		},
		"a delete against a delete": {
			prepare: func(r *repository.Repository) { mustPutChart(t, r, "1.0.0", "one") },
			between: func(*repository.Repository) { ok(t, other.DeleteManifest(t.Context(), "1.0.0")) },
			act:     func(r *repository.Repository) { ok(t, r.DeleteManifest(t.Context(), "1.0.0")) },
			want:    func(one, _ string) []string { return []string{"1.0.0 from " + one + " (mark0)  not"} },
		},
		"a delete by digest against a delete": {
			prepare: func(r *repository.Repository) { mustPutChart(t, r, "1.0.0", "one") },
			between: func(*repository.Repository) { ok(t, other.DeleteManifest(t.Context(), "1.0.0")) },
			act: func(r *repository.Repository) {
				ok(t, r.DeleteManifest(t.Context(), digest.FromBytes(chart(t, "one")).String()))
			},
			want: func(one, _ string) []string { return []string{"1.0.0 from " + one + " (mark0)  not"} },
		},
		"a push against a delete": {
			prepare: func(r *repository.Repository) { mustPutChart(t, r, "1.0.0", "one") },
			between: func(*repository.Repository) { ok(t, other.DeleteManifest(t.Context(), "1.0.0")) },
			act:     func(r *repository.Repository) { mustPutChart(t, r, "1.0.0", "two") },
			want: func(one, two string) []string {
				return []string{"1.0.0 from " + one + " (mark0) to " + two + " ci ", "1.0.0 to " + two + " ci happened"}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t) // Which tells of several who delete one object that only one did.
			r, repo := recording(t, b, everything)
			other = openRepository(t, openStore(t, b, everything), "team/web")
			c.prepare(repo)
			r.take()
			var once sync.Once
			r.before = func(repository.Change) { once.Do(func() { c.between(repo) }) }
			c.act(repo)
			one, two := digest.FromBytes(chart(t, "one")), digest.FromBytes(chart(t, "two"))
			if diff := cmp.Diff(c.want(short(one), short(two)), r.take()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is over the quota is refused before it is recorded.
func TestRecordingWithinAQuota(t *testing.T) {
	b := &memory{objects: map[string]memoryObject{}}
	tracker := quota.New(quota.Options{
		Bucket: b, Limits: quota.Limits{Versions: 1}, Alone: func(ctx context.Context, work func(context.Context)) (bool, error) { work(ctx); return true, nil },
		Count: func(ctx context.Context) (quota.Usage, error) { return repository.Count(ctx, b) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { tracker.Run(ctx, func(err error) { t.Error(err) }) })
	defer running.Wait()
	defer cancel()
	r, repo := recording(t, b, repository.Options{Quota: tracker})
	mustPutChart(t, repo, "1.0.0", "one")
	r.take()
	_, err := putChart(t, repo, "2.0.0", "one")
	var over *quota.Error
	if !errors.As(err, &over) {
		t.Fatalf("error is %v", err)
	}
	told(t, r)
}

// A process that is killed at whatever moment leaves a record of all that it did.
func TestNothingHappensUnrecorded(t *testing.T) {
	for killAt := 1; ; killAt++ {
		b := &memory{objects: map[string]memoryObject{}}
		everything := repository.Options{TagMutable: func(string) bool { return true }}
		before := openRepository(t, openStore(t, b, everything), "team/web")
		mustPutChart(t, before, "1.0.0", "one")
		mustPutChart(t, before, "2.0.0", "one")
		putBlob(t, before, "two")
		dying := &stepping{Bucket: b}
		r, repo := recording(t, dying, everything)
		dying.calls, dying.killAt = 0, killAt
		_, pushErr := repo.PutManifest(t.Context(), "1.0.0", imageType, chart(t, "two"), "me")
		deleteErr := repo.DeleteManifest(t.Context(), "2.0.0")
		changed := map[string]bool{}
		for tag, was := range map[string]digest.Digest{"1.0.0": digest.FromBytes(chart(t, "one")), "2.0.0": digest.FromBytes(chart(t, "one"))} {
			d, _, err := before.Standing(t.Context(), tag)
			ok(t, err)
			changed[tag] = d != was
		}
		for _, c := range r.changes {
			delete(changed, c.Tag)
		}
		for tag, did := range changed {
			if did {
				t.Errorf("killed at %d: %s was changed unrecorded", killAt, tag)
			}
		}
		if pushErr == nil && deleteErr == nil {
			return
		}
	}
}

// What a damaged tag stands for nobody can tell, and that is no failure of the storage.
func TestStandingOfADamagedTag(t *testing.T) {
	b := &memory{objects: map[string]memoryObject{}}
	r := openRepository(t, openStore(t, b, repository.Options{}), "team/web")
	for _, content := range []string{"{", `{"digest":"x"}`, strings.Repeat("x", 100<<10)} {
		_, err := b.Put(t.Context(), "charts/team+web/tags/1.0.0", strings.NewReader(content), int64(len(content)), bucket.Condition{})
		ok(t, err)
		_, _, err = r.Standing(t.Context(), "1.0.0")
		want(t, err, repository.ErrTagDamaged)
	}
	_, _, err := r.Standing(t.Context(), "../x")
	want(t, err, repository.ErrReferenceInvalid)
}

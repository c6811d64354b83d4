package repository

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"golang.org/x/sync/errgroup"
)

const (
	// collectParallel is how many requests to the bucket a collection makes at once: few, so that who pushes and pulls
	// does not notice.
	collectParallel = 4

	// maxCondemning bounds the time in which one run moves things into the trash; what is left is for the next.
	maxCondemning = 10 * time.Minute
	// maxMoving bounds the move of one object.
	maxMoving = 5 * time.Minute
	// brokenOffAfter is the age at which a run that has not said that it is finished cannot move anything any more. A
	// process that was paused longer, exactly between its last look at the clock and a delete, could remove something
	// whose copy in the trash is freed already; so this is far more than the sum of the two above.
	brokenOffAfter = time.Hour

	// runTimeFormat is the beginning of a run's name, which sorts runs by time.
	runTimeFormat = "20060102T150405.000000000Z"
)

// What a collection does with something.
const (
	// Condemned is moved into the trash, from where it comes back when it is named after all.
	Condemned = "condemned"
	// Restored is brought back from the trash, since something names it.
	Restored = "restored"
	// Freed is deleted for good.
	Freed = "freed"
)

// Garbage is one thing that a collection has done something with, or would do.
type Garbage struct {
	Repository string `json:"repository"`
	// Kind is blob, manifest, upload, lease or referrer.
	Kind string `json:"kind"`
	// Name is the digest of a blob or manifest, and the id of an upload.
	Name string `json:"name"`
	// Bytes is its size.
	Bytes int64 `json:"bytes"`
	// Action is Condemned, Restored or Freed.
	Action string `json:"action"`
	// Why, in a few words.
	Why string `json:"why"`
}

// Tally counts objects and their bytes.
type Tally struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// Add adds to both.
func (t *Tally) Add(objects, bytes int64) {
	t.Objects += objects
	t.Bytes += bytes
}

// Collection is what came of collecting one repository, or the sum of several.
type Collection struct {
	Condemned Tally `json:"condemned"`
	Restored  Tally `json:"restored"`
	Freed     Tally `json:"freed"`
	// Waiting is what is in the trash at the end, copies of what was brought back too.
	Waiting Tally `json:"waiting"`
	// Due is when there will be something to do again, as far as can be told; zero when nothing can.
	Due time.Time `json:"-"`
}

// Plus is the sum of two collections.
func (c Collection) Plus(o Collection) Collection {
	c.Condemned.Add(o.Condemned.Objects, o.Condemned.Bytes)
	c.Restored.Add(o.Restored.Objects, o.Restored.Bytes)
	c.Freed.Add(o.Freed.Objects, o.Freed.Bytes)
	c.Waiting.Add(o.Waiting.Objects, o.Waiting.Bytes)
	c.due(o.Due)
	return c
}

func (c *Collection) due(at time.Time) {
	if !at.IsZero() && (c.Due.IsZero() || at.Before(c.Due)) {
		c.Due = at
	}
}

// CollectorOptions say how garbage is collected. How long what is new is left alone is the store's Options.Grace.
type CollectorOptions struct {
	// Undo is how long what was condemned stays in the trash at least.
	Undo time.Duration
	// DryRun changes nothing.
	DryRun bool
	// Found, when not nil, is told of each thing, of one at a time.
	Found func(Garbage)
}

// Collector collects the garbage of a store's repositories: what no tag leads to. Any number of collectors, in any
// number of processes, may run at the same time, beside pushes and deletes, and be killed at any moment.
//
// Living are the manifests that tags stand for, those that were pushed within the grace period, and those under a lease;
// of what lives, everything that it names, and the manifests that refer to it as their subject. Everything else is
// condemned: moved into the trash. Then the collector looks again at what names what, and brings back what was named
// meanwhile; see Repository.store for the other half of that. What is not named when the undo window has passed is freed.
type Collector struct {
	s *Store
	o CollectorOptions
	// busy is held while one repository is collected, so that nothing is counted twice.
	busy sync.Mutex
}

// NewCollector returns a collector.
func (s *Store) NewCollector(o CollectorOptions) *Collector { return &Collector{s: s, o: o} }

// Collect collects one repository. One that nothing is stored under has no garbage. Error: ErrNameInvalid.
func (c *Collector) Collect(ctx context.Context, name string) (Collection, error) {
	r, err := c.s.Repository(name)
	if err != nil {
		return Collection{}, err
	}
	var all Collection
	err = c.looks(ctx, r.key(""), func(l *look) error {
		all, err = c.collect(ctx, l)
		return err
	})
	return all, err
}

// CollectAll collects all repositories, one after the other, and calls done after each with what came of it. It goes on
// when one fails, unless done returns an error, which ends it.
func (c *Collector) CollectAll(ctx context.Context, done func(name string, o Collection, err error) error) error {
	return c.looks(ctx, chartsPrefix, func(l *look) error {
		o, err := c.collect(ctx, l)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return done(l.name, o, err)
	})
}

// run is one collection of one repository.
type run struct {
	*Collector
	*look
	name string
	now  time.Time

	// mutex guards what follows.
	mutex sync.Mutex
	out   Collection
	// moved are the usual keys of what was condemned, with sizes.
	moved map[string]bucket.Info
	// uncertain says that a delete may still come into force, whose outcome is not known.
	uncertain bool
}

func (c *Collector) collect(ctx context.Context, l *look) (Collection, error) {
	c.busy.Lock()
	defer c.busy.Unlock()
	now := c.s.o.Now().UTC()
	r := &run{Collector: c, look: l, now: now, name: now.Format(runTimeFormat) + "-" + rand.Text(), moved: map[string]bucket.Info{}}
	err := r.collect(ctx)
	if err != nil {
		err = fmt.Errorf("collect the garbage of %s: %w", l.name, err)
	}
	return r.out, err
}

func (r *run) collect(ctx context.Context) error {
	living, err := r.mark(ctx, r.look)
	if err != nil {
		return err
	}
	if err := r.emptyTrash(ctx, living); err != nil {
		return err
	}
	if err := r.clearUploads(ctx); err != nil {
		return err
	}
	if err := r.clearLeases(ctx); err != nil {
		return err
	}
	if err := r.tidyReferrers(ctx); err != nil {
		return err
	}
	return r.condemn(ctx, living)
}

// mark finds out what lives.
func (c *Collector) mark(ctx context.Context, l *look) (map[id]bool, error) {
	if l.unreadable != nil {
		return nil, l.unreadable
	}
	living := map[id]bool{}
	referrers := map[id][]id{}
	for of, f := range l.facts {
		if f.subject != "" {
			referrers[f.subject] = append(referrers[f.subject], of)
		}
	}
	spread := func(from id) {
		for open := []id{from}; len(open) > 0; {
			next := open[len(open)-1]
			open = open[:len(open)-1]
			if living[next] {
				continue
			}
			living[next] = true
			open = append(append(open, l.facts[next].names...), referrers[next]...)
		}
	}
	for root := range l.roots {
		spread(root)
	}
	for _, e := range l.manifests {
		if living[e.id] {
			continue
		}
		modified, err := c.modified(ctx, l.manifestKey(e.id.digest()), e.modified)
		if errors.Is(err, bucket.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if c.fresh(modified) {
			spread(e.id)
		}
	}
	return living, nil
}

func (c *Collector) fresh(modified time.Time) bool {
	return c.s.o.Now().Sub(modified) < c.s.o.Grace
}

// modified is when an object was written, where the listing did not say so.
func (c *Collector) modified(ctx context.Context, key string, listed time.Time) (time.Time, error) {
	if !listed.IsZero() {
		return listed, nil
	}
	info, err := c.s.bucket.Head(ctx, key)
	return info.Modified, err
}

// tell reports what was done, or would be.
func (r *run) tell(t *Tally, g Garbage) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	t.Add(1, g.Bytes)
	if g.Repository = r.Repository.name; r.o.Found != nil {
		r.o.Found(g)
	}
}

func (r *run) dueLater(at time.Time) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.out.due(at)
}

// emptyTrash brings back what lives, and frees what has been in the trash for long enough. How old the look is does not
// matter: what has been named since was brought back by who named it.
func (r *run) emptyTrash(ctx context.Context, living map[id]bool) error {
	inUse := map[string]bool{}
	for _, t := range r.trash {
		inUse[t.run] = true
		info, err := r.s.bucket.Head(ctx, t.key)
		if errors.Is(err, bucket.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		g := Garbage{Kind: t.kind(), Name: t.id.digest().String(), Bytes: info.Size}
		restored := false
		if living[t.id] {
			if restored, err = r.bringBack(ctx, t.usual, g); err != nil {
				return err
			}
		}
		due, err := r.freeAt(ctx, t.run)
		if err != nil {
			return err
		}
		if restored || due.After(r.now) {
			r.out.Waiting.Add(1, info.Size)
			r.dueLater(due)
			continue
		}
		if !r.o.DryRun {
			if err := r.s.bucket.Delete(ctx, t.key, bucket.Condition{}); err != nil {
				return err
			}
		}
		g.Action, g.Why = Freed, "it was condemned before, and nothing has named it since"
		if living[t.id] {
			g.Why = "it was brought back, and this copy is left over"
		}
		r.tell(&r.out.Freed, g)
	}
	for name := range r.finished {
		due, err := r.freeAt(ctx, name)
		if err != nil {
			return err
		}
		if !inUse[name] && due.Before(r.now) && !r.o.DryRun {
			if err := r.s.bucket.Delete(ctx, r.finishedKey(name), bucket.Condition{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// bringBack restores what lives, where it is not at its usual key.
func (r *run) bringBack(ctx context.Context, usual string, g Garbage) (bool, error) {
	_, err := r.s.bucket.Head(ctx, usual)
	if !errors.Is(err, bucket.ErrNotFound) {
		return false, err
	}
	if !r.o.DryRun {
		if restored, err := r.s.restore(ctx, usual); err != nil || !restored {
			return false, err
		}
	}
	g.Action, g.Why = Restored, "something names it"
	r.tell(&r.out.Restored, g)
	return true, nil
}

// freeAt is when what a run has put into the trash may be freed.
func (r *run) freeAt(ctx context.Context, name string) (time.Time, error) {
	if since, ok := r.finished[name]; ok {
		at, err := r.modified(ctx, r.finishedKey(name), since)
		if err == nil {
			r.finished[name] = at
			return at.Add(r.o.Undo), nil
		}
		if !errors.Is(err, bucket.ErrNotFound) {
			return time.Time{}, err
		}
	}
	begun, _, _ := strings.Cut(name, "-")
	at, err := time.Parse(runTimeFormat, begun)
	if err != nil {
		return r.now.Add(brokenOffAfter), nil //nolint:nilerr // It is not this program's.
	}
	return at.Add(brokenOffAfter + r.o.Undo), nil
}

func (r *Repository) finishedKey(run string) string {
	return r.key(trashSection, finishedName, run)
}

// condemn moves what does not live into the trash, looks again, and brings back what was named meanwhile.
func (r *run) condemn(ctx context.Context, living map[id]bool) error {
	moveErr := r.moveAll(ctx, living)
	if len(r.moved) == 0 || r.o.DryRun {
		return moveErr
	}
	// Also when a move has failed: those before it must not wait.
	again, err := r.lookAgain(ctx)
	if err == nil {
		living, err = r.mark(ctx, again)
	}
	if errors.Is(err, errUnreadable) {
		err = errors.Join(err, r.bringAllBack(ctx, nil))
	} else if err == nil {
		err = r.bringAllBack(ctx, living)
	}
	if err != nil || moveErr != nil {
		return errors.Join(moveErr, err)
	}
	if r.uncertain {
		return nil
	}
	// From here on the undo window is counted. Without this, after brokenOffAfter, in which no delete can be under way.
	return r.s.write(ctx, r.finishedKey(r.name), []byte("{}"), bucket.Condition{})
}

// bringAllBack restores those of the moved that live; all of them where it is not known what lives.
func (r *run) bringAllBack(ctx context.Context, living map[id]bool) error {
	for usual, info := range r.moved {
		d, kind := placeOf(usual)
		if living != nil && !living[d] {
			continue
		}
		g := Garbage{Kind: kind, Name: d.digest().String(), Bytes: info.Size}
		if _, err := r.bringBack(ctx, usual, g); err != nil {
			return err
		}
	}
	return nil
}

// moveAll moves everything into the trash that does not live and is not fresh.
func (r *run) moveAll(ctx context.Context, living map[id]bool) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(collectParallel)
	for _, section := range []struct {
		entries []entry
		key     func(e entry) string
	}{
		{r.blobs, func(e entry) string { return r.blobKey(e.id.digest()) }},
		{r.manifests, func(e entry) string { return r.manifestKey(e.id.digest()) }},
	} {
		for _, e := range section.entries {
			if living[e.id] {
				continue
			}
			if !e.modified.IsZero() && r.fresh(e.modified) {
				r.dueLater(e.modified.Add(r.s.o.Grace))
				continue
			}
			if groupCtx.Err() != nil {
				break
			}
			if r.s.o.Now().Sub(r.now) > maxCondemning {
				r.dueLater(r.now)
				break
			}
			group.Go(func() error { return r.move(groupCtx, section.key(e)) })
		}
	}
	return group.Wait()
}

// move moves a blob or manifest into the trash, unless it was written again meanwhile.
func (r *run) move(ctx context.Context, usual string) error {
	ctx, cancel := context.WithTimeout(ctx, maxMoving)
	defer cancel()
	info, err := r.s.bucket.Head(ctx, usual)
	switch {
	case errors.Is(err, bucket.ErrNotFound):
		return nil
	case err != nil:
		return err
	case r.fresh(info.Modified):
		r.dueLater(info.Modified.Add(r.s.o.Grace))
		return nil
	}
	d, kind := placeOf(usual)
	g := Garbage{
		Kind: kind, Name: d.digest().String(), Bytes: info.Size, Action: Condemned,
		Why: "no tag leads to it, and it is older than the grace period",
	}
	if r.o.DryRun {
		r.tell(&r.out.Condemned, g)
		return nil
	}
	_, err = r.s.bucket.Copy(ctx, usual, trashPrefix(usual)+r.name)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	r.mutex.Lock()
	r.moved[usual] = info
	r.mutex.Unlock()
	err = r.s.bucket.Delete(ctx, usual, bucket.Condition{ETag: info.ETag})
	r.s.cache.remove(usual)
	if errors.Is(err, bucket.ErrChanged) {
		return nil // Pushed again; or another collector was faster.
	}
	if err != nil {
		r.mutex.Lock()
		defer r.mutex.Unlock()
		r.uncertain = true
		return err
	}
	r.tell(&r.out.Condemned, g)
	r.mutex.Lock()
	r.out.Waiting.Add(1, info.Size)
	r.mutex.Unlock()
	r.dueLater(r.s.o.Now().Add(r.o.Undo))
	return nil
}

// clearUploads removes the sessions to which nothing was added for the grace period, and the marks of those that ended
// so long ago.
func (r *run) clearUploads(ctx context.Context) error {
	for session, keys := range r.uploads {
		var newest time.Time
		var parts []bucket.Info
		for _, key := range keys {
			info, err := r.s.bucket.Head(ctx, key)
			if errors.Is(err, bucket.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			parts = append(parts, info)
			if info.Modified.After(newest) {
				newest = info.Modified
			}
		}
		if len(parts) == 0 {
			continue
		}
		if r.fresh(newest) {
			r.dueLater(newest.Add(r.s.o.Grace))
			continue
		}
		// In order: without its first chunk the session is unknown to who comes late, and the mark of its end is the last.
		for _, part := range parts {
			if r.o.DryRun {
				break
			}
			if err := r.s.bucket.Delete(ctx, part.Key, bucket.Condition{}); err != nil {
				return err
			}
		}
		var size int64
		for _, part := range parts {
			size += part.Size
		}
		r.tell(&r.out.Freed, Garbage{
			Kind: "upload", Name: session, Bytes: size, Action: Freed, Why: "nothing was added to it for longer than the grace period",
		})
	}
	return nil
}

// clearLeases removes those that hold nothing any more.
func (r *run) clearLeases(ctx context.Context) error {
	for _, l := range r.leases {
		if r.fresh(l.info.Modified) {
			r.dueLater(l.info.Modified.Add(r.s.o.Grace))
			continue
		}
		if !r.o.DryRun {
			// One that is renewed meanwhile stays.
			err := r.s.bucket.Delete(ctx, l.info.Key, bucket.Condition{ETag: l.info.ETag})
			if err != nil && !errors.Is(err, bucket.ErrChanged) {
				return err
			}
		}
	}
	return nil
}

// tidyReferrers removes the entries of manifests that are gone, and writes those that a process which was killed has
// left out.
func (r *run) tidyReferrers(ctx context.Context) error {
	for place, modified := range r.entries {
		if r.facts[place.id].subject == place.subject {
			continue
		}
		key := r.referrerKey(place.subject.digest(), place.id.digest())
		modified, err := r.modified(ctx, key, modified)
		if errors.Is(err, bucket.ErrNotFound) || err == nil && r.fresh(modified) {
			continue
		}
		if err == nil {
			_, err = r.s.headThrough(ctx, r.manifestKey(place.id.digest()))
		}
		if err == nil {
			continue // Pushed since the look.
		}
		if !errors.Is(err, bucket.ErrNotFound) {
			return err
		}
		if !r.o.DryRun {
			if err := r.removeEntry(ctx, key, place); err != nil {
				return err
			}
		}
		r.tell(&r.out.Freed, Garbage{Kind: "referrer", Name: place.id.digest().String(), Action: Freed, Why: "the manifest that it lists is gone"})
	}
	for of, f := range r.facts {
		if f.subject == "" || r.o.DryRun {
			continue
		}
		if _, listed := r.entries[referrerPlace{f.subject, of}]; !listed {
			if err := r.list(ctx, of); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeEntry removes the entry of a manifest, and writes it again if the manifest was pushed meanwhile.
func (r *run) removeEntry(ctx context.Context, key string, place referrerPlace) error {
	defer r.referred(place.subject.digest())
	if err := r.s.bucket.Delete(ctx, key, bucket.Condition{}); err != nil {
		return err
	}
	return r.list(ctx, place.id)
}

// list writes the entry of a manifest, if it is there, among the referrers of its subject.
func (r *run) list(ctx context.Context, of id) error {
	d := of.digest()
	object, _, err := r.s.read(ctx, r.manifestKey(d), maxHeaderBytes+MaxManifestBytes)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.Repository.list(ctx, object, d)
}

// placeOf says what has a usual key: the inverse of blobKey and manifestKey.
func placeOf(usual string) (of id, kind string) {
	hash := path.Base(usual)
	algorithm := path.Base(path.Dir(usual))
	kind = strings.TrimSuffix(path.Base(path.Dir(path.Dir(usual))), "s")
	return idOf(digestOf(algorithm, hash)), kind
}

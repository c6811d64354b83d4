package inventory

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"hash/maphash"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/limits"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

const (
	// maxManifestBytes is what every manifest has room in. Of those over largeBytes, one is read at a time.
	maxManifestBytes = repository.MaxManifestBytes
	maxConfigBytes   = 1 << 20
	largeBytes       = 64 << 10

	// maxPending bounds the tags of one repository that wait to be read; beyond that all of the repository is looked at.
	maxPending = 1000
	// maxBatch and maxBatchBytes bound what was read and is not part of the inventory yet.
	maxBatch      = 512
	maxBatchBytes = 4 << 20

	// tries is how often what cannot be read is tried again before it is left out, see backOff.
	tries = 5

	defaultParallel = 8
	stripes         = 64
)

// Downloads says how often archives were downloaded.
type Downloads interface {
	// Of is how often an archive was downloaded, and the day on which it last was.
	Of(chart string, archive digest.Digest) (n int64, last time.Time)
	// Revision grows with what Of says of a chart.
	Revision(chart string) uint64
}

// Options configure an Inventory.
type Options struct {
	// Store is the content, and Bucket where it is kept; below "inventory/" the inventory keeps what it can do without.
	Store  *repository.Store
	Bucket bucket.Bucket
	// Downloads, when not nil, says how often archives were downloaded.
	Downloads Downloads
	// Address is the registry's in OCI, "oci://HOST/ORGANIZATION/REGISTRY", for the index.
	Address func() string
	// ContextPath is the path behind which archives are published, which the index tells `helm cm-push`: that of the Helm
	// repository, of letters, digits, "-" and "/". Empty: it is told nothing.
	ContextPath string
	// Alone, when not nil, does work if no other replica does so at this moment: writing the cache.
	Alone func(ctx context.Context, work func(context.Context)) (did bool, err error)
	// Parallel bounds the requests to the bucket at the same time; 0 means 8.
	Parallel int
	// Poll is how often it is looked for changes of other replicas while there are such, and PollIdle while there are none.
	// 0 means one second, and five.
	Poll, PollIdle time.Duration
	// CompareEvery is how often everything is compared with the bucket; 0 means six hours.
	CompareEvery time.Duration
	// CacheFrom is the number of tags, and of manifests that something refers to, from which on there is a cache; 0 means 1,000.
	CacheFrom int
	// Log is told how long it took to see all that is stored, and what went wrong, which is tried again.
	Log *slog.Logger
}

// Inventory is a Reader that is kept by the changes of this process, which [Inventory.Tagged] is told of, and of others,
// which say in the bucket what they have changed. Run fills it.
type Inventory struct {
	o Options
	// process names this one alone.
	process string
	// reading are places for requests, and large is held while something large is read.
	reading limits.Places
	large   sync.Mutex
	// updating are places, by repository, for who brings up to date what is known of it.
	updating [stripes]limits.Places
	seed     maphash.Seed
	// comparing is held while everything is compared.
	comparing sync.Mutex

	queue   queue
	changes changes
	cache   cacheState

	mu    sync.RWMutex
	repos map[string]*repo
	// order are they by name; nil when that is to be found out again.
	order []*repo
	// newest are the versions, what was pushed last first; nil when that is to be found out again, which is done by one at a time.
	newest   []placed
	ordering sync.Mutex
	building bool
	revision uint64
	next     chan struct{}
	failures int64
	built    time.Duration
}

// repo is what is known of one repository now.
type repo struct {
	content atomic.Pointer[content]
	// downloads is the sum for a content, as long as nothing is downloaded.
	downloads atomic.Pointer[downloadSum]
}

type downloadSum struct {
	of       *content
	revision uint64
	n        int64
}

var _ Reader = (*Inventory)(nil)

// New returns an inventory that knows of nothing yet.
func New(o Options) *Inventory {
	o.Parallel = cmp.Or(o.Parallel, defaultParallel)
	o.Poll, o.PollIdle = cmp.Or(o.Poll, time.Second), cmp.Or(o.PollIdle, 5*time.Second)
	o.CompareEvery = cmp.Or(o.CompareEvery, 6*time.Hour)
	o.CacheFrom = cmp.Or(o.CacheFrom, defaultCacheFrom)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Address == nil {
		o.Address = func() string { return "oci://localhost" }
	}
	i := &Inventory{
		o: o, process: rand.Text(), reading: make(limits.Places, o.Parallel), seed: maphash.MakeSeed(),
		repos: map[string]*repo{}, building: true, next: make(chan struct{}),
	}
	for n := range i.updating {
		i.updating[n] = make(limits.Places, 1)
	}
	i.queue.init()
	i.changes.init()
	return i
}

// Tagged tells that a tag was put, moved or deleted by this process. It does not wait for anything.
func (i *Inventory) Tagged(repository, tag string) {
	i.queue.add(repository, tag, func() uint64 { return i.changes.note(repository) })
}

// Run keeps the inventory until ctx ends.
func (i *Inventory) Run(ctx context.Context) {
	var running sync.WaitGroup
	for range i.o.Parallel {
		running.Go(func() { i.work(ctx) })
	}
	running.Go(func() { i.tell(ctx) })
	began := time.Now()
	cached := i.recall(ctx)
	if !cached {
		i.build(ctx)
	}
	if ctx.Err() == nil {
		i.finishBuilding(began, cached)
	}
	running.Go(func() { i.listen(ctx) })
	running.Go(func() {
		if cached {
			i.compareAtLast(ctx)
		}
		i.keepCache(ctx)
	})
	running.Go(func() { i.compareOften(ctx) })
	running.Wait()
}

// recall takes over what the cache has, and what others have changed since. It returns false where it cannot be told what
// that is, or there is no good cache.
func (i *Inventory) recall(ctx context.Context) bool {
	loaded, stale := i.loadCache(ctx)
	if !loaded {
		return false
	}
	n, err := i.ask(ctx)
	for _, name := range stale {
		n.charts[name] = true
	}
	if err == nil && !n.all {
		err = i.follow(ctx, n)
	}
	if err != nil && ctx.Err() == nil {
		i.problem("what was changed since the cache of the inventory was written could not be read; all is compared first", err)
	}
	return err == nil && !n.all
}

// build sees all that is stored before anything is said of it.
func (i *Inventory) build(ctx context.Context) {
	// What is told before all is looked at is part of it then.
	n, err := i.ask(ctx)
	if err != nil && ctx.Err() == nil {
		i.problem("what other servers have changed could not be read; it is tried again", err)
	}
	i.compareAtLast(ctx)
	if err != nil || ctx.Err() != nil {
		return
	}
	i.reach(n)
	if len(n.told) > 0 {
		// Nobody can say what a process that was killed had changed and not told others yet.
		i.changes.noteAll()
	}
}

// compareAtLast compares everything, and tries again until that succeeds but for what cannot be read.
func (i *Inventory) compareAtLast(ctx context.Context) {
	for try := 1; ctx.Err() == nil; try++ {
		err := i.compare(ctx, !i.Building())
		if err == nil || try >= tries && errors.Is(err, errUnread) || ctx.Err() != nil {
			return
		}
		i.problem("not all that is stored could be looked at for the inventory; it is tried again", err)
		pause(ctx, backOff(try))
	}
}

func (i *Inventory) finishBuilding(began time.Time, cached bool) {
	tags, took := i.tagCount(), time.Since(began)
	i.mu.Lock()
	i.building, i.built = false, took
	i.changed()
	i.mu.Unlock()
	if tags > 0 {
		i.o.Log.Info("the inventory knows all that is stored", "tags", tags, "cached", cached, "took", took.Round(time.Millisecond),
			"tagsPerSecond", int64(float64(tags)/took.Seconds()))
	}
}

// changed tells readers. mu is held.
func (i *Inventory) changed() {
	i.revision++
	i.newest = nil
	close(i.next)
	i.next = make(chan struct{})
}

func (i *Inventory) problem(what string, err error) {
	i.mu.Lock()
	i.failures++
	i.mu.Unlock()
	i.o.Log.Warn(what, "error", err)
}

// backOff is the pause before something is tried once more: a second, two, four, and so on up to a minute.
func backOff(try int) time.Duration { return min(time.Second<<min(try-1, 6), time.Minute) }

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// compareOften compares everything now and then: who was killed between a push and telling of it is heard of no more.
func (i *Inventory) compareOften(ctx context.Context) {
	for {
		pause(ctx, i.o.CompareEvery)
		if ctx.Err() != nil {
			return
		}
		if err := i.compare(ctx, true); err != nil && ctx.Err() == nil {
			i.problem("the inventory could not be compared with what is stored; it is tried again", err)
		}
	}
}

// errUnread says that something could not be read, and is left out.
var errUnread = errors.New("some tags or referrers could not be read")

// compare brings all up to date. What nobody has told of is told, where that is asked for.
func (i *Inventory) compare(ctx context.Context, tell bool) error {
	i.comparing.Lock()
	defer i.comparing.Unlock()
	names, _, err := i.o.Store.Repositories(ctx, 0, "")
	if err != nil {
		return err
	}
	listed := make(map[string]bool, len(names))
	for _, name := range names {
		listed[name] = true
	}
	for _, r := range i.contents(nil) {
		if !listed[r.name] {
			names = append(names, r.name)
		}
	}
	err = i.refreshAll(ctx, names, func(name string) {
		if tell {
			i.changes.note(name)
		}
	})
	// Very much was read and is not needed any more, and the next time is far off.
	debug.FreeOSMemory()
	return err
}

// refreshAll brings repositories up to date, and calls changed with those in which something was found. It goes on where
// one fails.
func (i *Inventory) refreshAll(ctx context.Context, names []string, changed func(name string)) error {
	var group errgroup.Group
	group.SetLimit(i.o.Parallel)
	var mu sync.Mutex
	var failed error
	for _, name := range names {
		group.Go(func() error {
			found, err := i.refresh(ctx, name, nil)
			if found {
				changed(name)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				// What can be read after all outweighs what cannot.
				if failed == nil || errors.Is(failed, errUnread) {
					failed = err
				}
			}
			return nil
		})
	}
	_ = group.Wait() // None returns an error.
	return cmp.Or(ctx.Err(), failed)
}

// refresh brings what is known of some tags and subjects of a repository up to date, or, without any, of all. changed says
// that it was not. Error: errUnread where one of them could not be read.
func (i *Inventory) refresh(ctx context.Context, name string, queued []string) (changed bool, err error) {
	r, err := i.o.Store.Repository(name)
	if err != nil {
		return false, nil // It is not this program's.
	}
	leave, err := i.updating[maphash.String(i.seed, name)%stripes].Enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	gone := map[string]bool{}
	tags, subjects := apart(queued)
	if queued == nil {
		if tags, gone, err = i.stale(ctx, r); err != nil {
			return false, err
		}
		if subjects, err = i.staleSubjects(ctx, r); err != nil {
			return false, err
		}
	}
	var unread bool
	for batch := range slices.Chunk(tags, maxBatch) {
		items, missing, missed, err := i.read(ctx, r, batch)
		if err != nil {
			return changed, err
		}
		unread = unread || missed
		for _, tag := range missing {
			gone[tag] = true
		}
		found, err := i.apply(name, items, gone)
		if err != nil {
			return changed, err
		}
		changed = changed || found
		gone = map[string]bool{}
	}
	if len(gone) > 0 {
		found, err := i.apply(name, nil, gone)
		if err != nil {
			return changed, err
		}
		changed = changed || found
	}
	found, missed, err := i.readReferrers(ctx, r, subjects)
	changed, unread = changed || found, unread || missed
	switch {
	case err != nil:
		return changed, err
	case unread:
		return changed, errUnread
	}
	return changed, nil
}

// stale lists the tags of a repository and says which of them are to be read, and which are gone.
func (i *Inventory) stale(ctx context.Context, r *repository.Repository) (tags []string, gone map[string]bool, err error) {
	leave, err := i.reading.Enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	known := map[string]uint64{}
	gone = map[string]bool{}
	if c := i.content(r.Name()); c != nil {
		for _, record := range c.records {
			known[record.tag()] = record.etag
			gone[record.tag()] = true
		}
	}
	err = r.EachTag(ctx, func(tag, etag string) error {
		delete(gone, tag)
		if at, ok := known[tag]; !ok || at != hashETag(etag) {
			tags = append(tags, tag)
		}
		return nil
	})
	return tags, gone, err
}

// read reads tags, and returns those that are not there. unread says that there is one of which something could not be
// read.
func (i *Inventory) read(ctx context.Context, r *repository.Repository, tags []string) (items []item, missing []string, unread bool, err error) {
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(i.o.Parallel)
	for _, tag := range tags {
		group.Go(func() error {
			leave, err := i.reading.Enter(groupCtx)
			if err != nil {
				return err
			}
			defer leave()
			found, err := i.readTag(groupCtx, r, tag)
			if groupCtx.Err() != nil {
				return groupCtx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			found.unread = err != nil
			unread = unread || found.unread
			if found.record != nil {
				items = append(items, found)
			} else if err == nil {
				missing = append(missing, tag)
			}
			return nil
		})
	}
	err = group.Wait()
	return items, missing, unread, err
}

// readTag reads a tag, and what it stands for. It returns no record of one that is not there or damaged. With an error,
// the record says what could be read, and that it is to be read again.
func (i *Inventory) readTag(ctx context.Context, r *repository.Repository, tag string) (item, error) {
	v, err := r.ReadVersion(ctx, tag)
	if errors.Is(err, repository.ErrManifestUnknown) || errors.Is(err, repository.ErrTagDamaged) {
		return item{}, nil
	}
	if err != nil {
		return item{}, err
	}
	if v.Size > largeBytes {
		i.large.Lock()
		defer i.large.Unlock()
	}
	content, _, err := r.ReadManifest(ctx, v.Digest, maxManifestBytes)
	if err != nil {
		return item{record: describe(v, nil)}, lasting(err)
	}
	found := item{record: describe(v, content)}
	if !found.record.has(isChart) || found.record.hash(configHash) == "" || found.record.configSize > maxConfigBytes {
		return found, nil
	}
	if found.record.configSize > largeBytes && v.Size <= largeBytes {
		i.large.Lock()
		defer i.large.Unlock()
	}
	config, err := r.ReadBlob(ctx, digestOf(found.record.hash(configHash)), maxConfigBytes)
	if err != nil {
		found.record.etag = 0
		return found, lasting(err)
	}
	m := readMetadata(config)
	found.record.say(m)
	found.line = entryLine(r.Name(), found.record, m)
	return found, nil
}

// lasting is nil for what will not be otherwise when it is tried again soon.
func lasting(err error) error {
	for _, known := range []error{repository.ErrManifestUnknown, repository.ErrBlobUnknown, repository.ErrDamaged, repository.ErrTooLarge, repository.ErrDigestMismatch} {
		if errors.Is(err, known) {
			return nil
		}
	}
	return err
}

// apply changes what is known of a repository, and says whether that changes anything.
func (i *Inventory) apply(name string, items []item, gone map[string]bool) (bool, error) {
	before := i.content(name)
	if before == nil {
		before = &content{name: name}
	}
	after, err := before.with(items, gone)
	if err != nil {
		// Only its blocks can be damaged: all is read anew.
		i.put(&content{name: name, refers: before.refers})
		return true, err
	}
	if after == before {
		return false, nil
	}
	i.put(after)
	return true, nil
}

// content is nil for a repository of which nothing is known.
func (i *Inventory) content(name string) *content {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if r := i.repos[name]; r != nil {
		return r.content.Load()
	}
	return nil
}

func (i *Inventory) put(c *content) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.putAll(c)
	i.changed()
}

// putAll is put without telling readers. mu is held.
func (i *Inventory) putAll(all ...*content) {
	for _, c := range all {
		r := i.repos[c.name]
		switch {
		case c.empty() && r != nil:
			delete(i.repos, c.name)
			i.order = nil
		case c.empty():
		case r == nil:
			r = &repo{}
			r.content.Store(c)
			i.repos[c.name] = r
			i.order = nil
		default:
			r.content.Store(c)
		}
	}
}

// contents are those of which something is known and that may lets through, by name.
func (i *Inventory) contents(may func(string) bool) []*content {
	all := i.sorted()
	contents := make([]*content, 0, len(all))
	for _, r := range all {
		if c := r.content.Load(); may == nil || may(c.name) {
			contents = append(contents, c)
		}
	}
	return contents
}

// sorted are the repositories by name. Nobody changes the slice.
func (i *Inventory) sorted() []*repo {
	i.mu.RLock()
	order := i.order
	i.mu.RUnlock()
	if order != nil {
		return order
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.order == nil {
		i.order = make([]*repo, 0, len(i.repos))
		for _, r := range i.repos {
			i.order = append(i.order, r)
		}
		slices.SortFunc(i.order, func(a, b *repo) int { return cmp.Compare(a.content.Load().name, b.content.Load().name) })
	}
	return i.order
}

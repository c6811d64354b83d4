package pulls

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	downloadsPrefix = "downloads/"
	partsPrefix     = downloadsPrefix + "parts/"
	foldedKey       = downloadsPrefix + "folded"

	// RefreshInterval is how often a replica learns what others have counted.
	RefreshInterval = 30 * time.Second
	// foldEvery is how often a replica looks whether there is anything to be folded.
	foldEvery = time.Hour
	// maxPart is the number of archives from which on a replica begins another part, so that what it writes every Interval
	// stays small.
	maxPart = 10_000
	// maxUnsure bounds what waits for the inventory to say what it is, and unsureFor is how long it does once the inventory
	// has seen all that is stored: another server's push is heard of in seconds, unless the storage does not answer.
	maxUnsure = 10_000
	unsureFor = 10 * time.Minute
	// rememberAbsorbed is for how many days it is remembered that a part is in the sum, after the part itself was deleted:
	// somebody may be reading it.
	rememberAbsorbed = 2
	// maxRefreshes bounds how often a listing is read again that was folded meanwhile.
	maxRefreshes = 4
)

// DownloadsOptions configure Downloads.
type DownloadsOptions struct {
	// Bucket is where the counts are kept, below "downloads/".
	Bucket bucket.Bucket
	// Archive says whether a blob is the archive of a version that is there, and whether that is known; what is not known yet
	// is asked for again for ten minutes. It must be quick.
	Archive func(chart string, d digest.Digest) (is, known bool)
	// Building, when not nil, says that Archive does not know of all that is stored yet: that time does not count.
	Building func() bool
	// Alone, when not nil, does work if no other replica does so at this moment.
	Alone func(ctx context.Context, work func(context.Context)) (did bool, err error)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Downloads counts how often each archive of a chart was downloaded, over all replicas.
//
// Each replica writes what it has counted, every [Interval], into an object of its own, its part. The count of an archive
// is the sum of all parts, and of what was folded: the parts of replicas that are gone are added to one object. A part is
// sealed before that, on condition that it has not changed; a replica that turns out not to be gone finds it sealed, and
// goes on with another. The sum names the parts that are in it, so that none counts twice while it is still there.
type Downloads struct {
	o DownloadsOptions
	// replica names this process alone.
	replica string
	// exchanging is held while objects are read and written.
	exchanging sync.Mutex

	mu sync.Mutex
	// own is the part that is being written, as the bucket has it; trying is what was sent last, until it is known that it
	// arrived; fresh is what came since.
	own    part
	trying *book
	fresh  counts
	unsure map[archive]doubt
	// built is since when it is known of all that is stored; zero while it is not.
	built time.Time
	// parts are those of others, and earlier ones of this process; folded is the sum of all others.
	parts  map[string]part
	folded part
	// epoch and revisions grow with what changes, see Revision.
	epoch     uint64
	revisions map[string]uint64
	counted   int64
}

// part is a book as it was read or written.
type part struct {
	book
	name, etag string
}

type archive struct {
	chart string
	hash  hash
}

// doubt is what was downloaded of what may be an archive.
type doubt struct {
	digest digest.Digest
	tally  tally
	since  time.Time
}

// NewDownloads returns a count of nothing; Run tells it what was counted before.
func NewDownloads(o DownloadsOptions) *Downloads {
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &Downloads{o: o, replica: rand.Text(), fresh: counts{}, unsure: map[archive]doubt{}, parts: map[string]part{}, revisions: map[string]uint64{}}
	d.own.name = d.replica + "-1"
	return d
}

// Downloaded counts one whole download of a blob, if that is an archive. It does not wait for anything.
func (d *Downloads) Downloaded(chart string, of digest.Digest) {
	h, ok := hashOf(of)
	if !ok {
		return
	}
	is, sure := d.o.Archive(chart, of)
	if sure && !is {
		return
	}
	now := d.o.Now()
	one := tally{n: 1, last: dayOf(now)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if sure {
		d.count(strings.Clone(chart), h, one)
		return
	}
	a := archive{chart, h}
	before, known := d.unsure[a]
	if !known && len(d.unsure) >= maxUnsure {
		return
	}
	if !known {
		// The strings may be parts of a larger one, which is not to stay in memory.
		a.chart, before = strings.Clone(chart), doubt{digest: digest.Digest(strings.Clone(string(of))), since: now}
	}
	before.tally.add(one)
	d.unsure[a] = before
}

func (d *Downloads) count(chart string, h hash, t tally) {
	d.fresh.add(chart, h, t)
	d.revisions[chart]++
	d.counted += t.n
}

// settle asks again what is unsure. last says that it cannot be asked any more: what is still unsure then counts, since what is
// no archive is asked for by nobody.
func (d *Downloads) settle(last bool) {
	now := d.o.Now()
	building := d.o.Building != nil && d.o.Building()
	d.mu.Lock()
	unsure := maps.Clone(d.unsure)
	if d.built.IsZero() && !building {
		d.built = now
	}
	forget := !building && now.Sub(d.built) >= unsureFor
	d.mu.Unlock()
	for a, doubt := range unsure {
		is, sure := d.o.Archive(a.chart, doubt.digest)
		if !sure && !last && !(forget && now.Sub(doubt.since) >= unsureFor) {
			continue
		}
		is = is || !sure && last
		d.mu.Lock()
		if is {
			d.count(a.chart, a.hash, d.unsure[a].tally) // It may have grown.
		}
		delete(d.unsure, a)
		d.mu.Unlock()
	}
}

// Of is how often an archive of a chart was downloaded, as far as it is known here, and the beginning of the day on which
// it last was; the zero time for never.
func (d *Downloads) Of(chart string, of digest.Digest) (n int64, last time.Time) {
	h, ok := hashOf(of)
	if !ok {
		return 0, time.Time{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	sum := d.fresh[chart][h]
	sum.add(d.own.counts[chart][h])
	if d.trying != nil {
		sum = d.trying.counts[chart][h]
		sum.add(d.fresh[chart][h])
	}
	for _, p := range d.parts {
		sum.add(p.counts[chart][h])
	}
	sum.add(d.folded.counts[chart][h])
	if sum.n == 0 {
		return 0, time.Time{}
	}
	return sum.n, sum.last.begin()
}

// Revision is another number after any change of what Of says about a chart, and grows.
func (d *Downloads) Revision(chart string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.epoch + d.revisions[chart]
}

// Counted is how many downloads this process has counted.
func (d *Downloads) Counted() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counted
}

// Run keeps the count until ctx ends, and then writes the rest. problem is told what went wrong; it is tried again.
func (d *Downloads) Run(ctx context.Context, problem func(error)) {
	flush, refresh, fold := time.NewTicker(Interval), time.NewTicker(RefreshInterval), time.NewTicker(foldEvery)
	defer flush.Stop()
	defer refresh.Stop()
	defer fold.Stop()
	work := d.Refresh
	for ctx.Err() == nil {
		if err := work(ctx); err != nil && ctx.Err() == nil {
			problem(err)
		}
		select {
		case <-ctx.Done():
		case <-flush.C:
			work = d.Flush
		case <-refresh.C:
			work = d.Refresh
		case <-fold.C:
			work = d.foldAlone
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPatience)
	defer cancel()
	if err := d.Close(last); err != nil {
		problem(err)
	}
}

// Flush writes what is new.
func (d *Downloads) Flush(ctx context.Context) error {
	d.exchanging.Lock()
	defer d.exchanging.Unlock()
	d.settle(false)
	return d.flush(ctx, false)
}

// Close is Flush for the last time: the part can be folded at once. What may be an archive counts for one.
func (d *Downloads) Close(ctx context.Context) error {
	d.exchanging.Lock()
	defer d.exchanging.Unlock()
	d.settle(true)
	return d.flush(ctx, true)
}

func (d *Downloads) flush(ctx context.Context, last bool) error {
	for range maxTries {
		if !d.try(last) {
			return nil
		}
		if err := d.send(ctx); err != nil {
			return fmt.Errorf("note what was downloaded: %w", err)
		}
	}
	return fmt.Errorf("note what was downloaded: %w: it is changed by somebody else again and again", bucket.ErrUnavailable)
}

// try prepares what is to be sent, unless something was sent of which it is not known whether it arrived: that is sent
// again as it was. It returns false when there is nothing to be sent.
func (d *Downloads) try(last bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.trying != nil {
		return true
	}
	if len(d.fresh) == 0 && (!last || d.own.Sequence == 0) {
		return false
	}
	next := d.own.clone()
	next.counts.merge(d.fresh)
	next.Sequence++
	next.Written = dayOf(d.o.Now())
	next.Sealed = last || next.counts.archives() >= maxPart
	d.trying, d.fresh = &next, counts{}
	return true
}

// send writes what is being tried, and finds out what became of it.
func (d *Downloads) send(ctx context.Context) error {
	d.mu.Lock()
	trying, condition := *d.trying, bucket.Condition{ETag: d.own.etag}
	name := d.own.name
	d.mu.Unlock()
	if condition.ETag == "" {
		condition = bucket.Condition{Absent: true}
	}
	etag, err := putBook(ctx, d.o.Bucket, partsPrefix+name, trying, condition)
	if err == nil {
		d.sent(trying, etag)
		return nil
	}
	if !errors.Is(err, bucket.ErrExists) && !errors.Is(err, bucket.ErrChanged) {
		return err
	}
	// It arrived before, and the answer was lost; or somebody has sealed it; or sealed, folded and deleted it.
	there, etag, err := getBook(ctx, d.o.Bucket, partsPrefix+name)
	switch {
	case err == nil && there.Sequence == trying.Sequence:
		trying.Sealed = there.Sealed
		d.sent(trying, etag)
	case err == nil && !there.Sealed:
		d.mu.Lock()
		d.own.etag = etag
		d.mu.Unlock()
	case err == nil:
		d.mu.Lock()
		d.leave(false)
		d.mu.Unlock()
	case errors.Is(err, bucket.ErrNotFound):
		sum, _, err := getBook(ctx, d.o.Bucket, foldedKey)
		if err != nil && !errors.Is(err, bucket.ErrNotFound) {
			return err
		}
		d.mu.Lock()
		d.leave(sum.Absorbed[name].Sequence == trying.Sequence)
		d.mu.Unlock()
	default:
		return err
	}
	return nil
}

// sent notes that what was tried is in the bucket.
func (d *Downloads) sent(b book, etag string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.own.book, d.own.etag, d.trying = b, etag, nil
	if b.Sealed {
		d.leave(true)
	}
}

// leave goes on with another part, because this one is sealed. arrived says that what was tried is in it; otherwise it is
// to go into the next.
func (d *Downloads) leave(arrived bool) {
	if d.trying != nil && arrived {
		d.own.book = *d.trying
	} else if d.trying != nil {
		rest := d.trying.counts.minus(d.own.counts)
		rest.merge(d.fresh)
		d.fresh = rest
	}
	d.trying = nil
	if d.own.Sequence > 0 {
		// Until it is read again, or found in the sum.
		if _, inSum := d.folded.Absorbed[d.own.name]; !inSum {
			d.parts[d.own.name] = part{book: d.own.book, name: d.own.name}
		}
	}
	_, number, _ := strings.Cut(d.own.name, "-")
	n, _ := strconv.Atoi(number)
	d.own = part{name: d.replica + "-" + strconv.Itoa(n+1)}
}

// Refresh learns what others have counted.
func (d *Downloads) Refresh(ctx context.Context) error {
	d.exchanging.Lock()
	defer d.exchanging.Unlock()
	var err error
	for range maxRefreshes {
		var again bool
		if again, err = d.refresh(ctx); err != nil || !again {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("learn what others have counted of downloads: %w", err)
	}
	return nil
}

// refresh returns true when what it read was folded meanwhile.
func (d *Downloads) refresh(ctx context.Context) (again bool, err error) {
	d.mu.Lock()
	before, sum, own := maps.Clone(d.parts), d.folded, d.own.name
	d.mu.Unlock()
	listed, foldedETag, err := d.list(ctx)
	if err != nil {
		return false, err
	}
	parts := make(map[string]part, len(listed))
	for name, etag := range listed {
		if name == own {
			continue
		}
		p := before[name]
		if p.etag != etag {
			p.name = name
			p.book, p.etag, err = getBook(ctx, d.o.Bucket, partsPrefix+name)
			if errors.Is(err, bucket.ErrNotFound) {
				return true, nil
			}
			if err != nil && !errors.Is(err, errDamaged) {
				return false, err
			}
			if p.etag == "" {
				p.etag = etag
			}
		}
		parts[name] = p
	}
	// Behind the parts, so that one that was folded meanwhile is named in it.
	if foldedETag != sum.etag || gone(before, parts) {
		b, etag, err := getBook(ctx, d.o.Bucket, foldedKey)
		if err != nil && !errors.Is(err, bucket.ErrNotFound) && !errors.Is(err, errDamaged) {
			return false, err
		}
		sum = part{book: b, etag: etag}
	}
	for name := range sum.Absorbed {
		delete(parts, name)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parts, d.folded = parts, sum
	if a, ok := sum.Absorbed[own]; ok {
		d.leave(d.trying != nil && a.Sequence == d.trying.Sequence)
	}
	d.epoch++
	return false, nil
}

func gone(before, after map[string]part) bool {
	for name := range before {
		if _, ok := after[name]; !ok {
			return true
		}
	}
	return false
}

// list returns the ETags of all parts, and that of the sum.
func (d *Downloads) list(ctx context.Context) (parts map[string]string, folded string, err error) {
	parts = map[string]string{}
	for after := ""; ; {
		p, err := d.o.Bucket.List(ctx, bucket.ListOptions{Prefix: downloadsPrefix, StartAfter: after})
		if err != nil {
			return nil, "", err
		}
		for _, i := range p.Objects {
			if i.Key == foldedKey {
				folded = i.ETag
			} else if name, ok := strings.CutPrefix(i.Key, partsPrefix); ok {
				parts[name] = i.ETag
			}
		}
		if after = p.Next; after == "" {
			return parts, folded, nil
		}
	}
}

func (d *Downloads) foldAlone(ctx context.Context) error {
	if d.o.Alone == nil {
		return d.Fold(ctx)
	}
	var failed error
	_, err := d.o.Alone(ctx, func(ctx context.Context) { failed = d.Fold(ctx) })
	return errors.Join(failed, err)
}

// Fold adds the parts of replicas that are gone to the sum. Only one replica should do so at a time; of more, one is told
// that the storage is not available.
func (d *Downloads) Fold(ctx context.Context) error {
	if err := d.fold(ctx); err != nil {
		return fmt.Errorf("fold what was downloaded: %w", err)
	}
	return d.Refresh(ctx)
}

func (d *Downloads) fold(ctx context.Context) error {
	listed, _, err := d.list(ctx)
	if err != nil {
		return err
	}
	sum, etag, err := getBook(ctx, d.o.Bucket, foldedKey)
	condition := bucket.Condition{ETag: etag}
	switch {
	case errors.Is(err, bucket.ErrNotFound):
		condition = bucket.Condition{Absent: true}
	case err != nil:
		return err
	}
	today, changed := dayOf(d.o.Now()), false
	done := map[string]string{}
	for name := range listed {
		if _, ok := sum.Absorbed[name]; ok {
			done[name] = ""
			continue
		}
		p, err := d.seal(ctx, name, today)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		sum.absorb(name, *p, today)
		done[name], changed = p.etag, true
	}
	for name, a := range sum.Absorbed {
		if _, there := listed[name]; !there && a.Day < today-rememberAbsorbed {
			delete(sum.Absorbed, name)
			changed = true
		}
	}
	if changed {
		sum.Sequence++
		sum.Written = today
		sum.counts.bound()
		if _, err := putBook(ctx, d.o.Bucket, foldedKey, sum, condition); err != nil {
			return err
		}
	}
	for name := range done {
		// Nobody writes a sealed one any more.
		if err := d.o.Bucket.Delete(ctx, partsPrefix+name, bucket.Condition{}); err != nil {
			return err
		}
	}
	return nil
}

// seal returns a part that is sealed, and seals one that is not written any more. It returns nil for one that is, and for
// one that cannot be read: that is left for people to look at.
func (d *Downloads) seal(ctx context.Context, name string, today day) (*part, error) {
	b, etag, err := getBook(ctx, d.o.Bucket, partsPrefix+name)
	switch {
	case errors.Is(err, bucket.ErrNotFound), errors.Is(err, errDamaged):
		return nil, nil //nolint:nilnil // Documented above.
	case err != nil:
		return nil, err
	case b.Sealed:
		return &part{book: b, name: name, etag: etag}, nil
	case b.Written > today-goneAfter:
		return nil, nil //nolint:nilnil // As above.
	}
	b.Sealed = true
	etag, err = putBook(ctx, d.o.Bucket, partsPrefix+name, b, bucket.Condition{ETag: etag})
	if errors.Is(err, bucket.ErrChanged) {
		return nil, nil //nolint:nilnil // It is written after all.
	}
	if err != nil {
		return nil, err
	}
	return &part{book: b, name: name, etag: etag}, nil
}

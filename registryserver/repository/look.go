package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// lookPage is how many names a listing is asked for at once, where it can give more than a thousand.
const lookPage = 20_000

// look is what a listing of a repository has found, in as few bytes as will do: there may be very much.
type look struct {
	*Repository
	blobs, manifests []entry
	// facts are those of the manifests, in the trash too; earlier has those that an earlier look has found.
	facts, earlier map[id]facts
	// roots are what tags and leases stand for.
	roots  map[id]bool
	leases []lease
	// uploads are the keys of each session's objects, in order.
	uploads map[string][]string
	// entries are those of the lists of referrers, with the time of their writing where the listing told it.
	entries map[referrerPlace]time.Time
	trash   []trashed
	// finished are the runs that are, and since when where the listing told it.
	finished map[string]time.Time
	// unreadable is why it cannot be told what lives.
	unreadable error

	mu sync.Mutex
	// tags and wanted are yet to be read.
	tags   []bucket.Info
	wanted []wantedFacts
}

// wantedFacts are those of a manifest. From one that is only in the trash nothing leads, should it be damaged.
type wantedFacts struct {
	of      id
	trashed bool
}

// entry is a blob or manifest. modified is zero where the listing did not tell.
type entry struct {
	id       id
	modified time.Time
}

// lease holds what it has the digest of.
type lease struct {
	of   id
	info bucket.Info
}

// referrerPlace is an entry in the list of a subject's referrers.
type referrerPlace struct{ subject, id id }

// trashed is an object in the trash.
type trashed struct {
	id id
	// key is where it is, usual where it was.
	key, usual string
	run        string
}

func (t trashed) kind() string {
	_, kind := placeOf(t.usual)
	return kind
}

func digestOf(algorithm, hash string) digest.Digest { return digest.Digest(algorithm + ":" + hash) }

// looks lists what is below a prefix, and calls each with one repository after the other.
func (c *Collector) looks(ctx context.Context, prefix string, each func(*look) error) error {
	var l *look
	finish := func() error {
		if l == nil {
			return nil
		}
		done := l
		l = nil
		if err := c.readAll(ctx, done); err != nil {
			return err
		}
		return each(done)
	}
	err := c.list(ctx, prefix, "", func(i bucket.Info) error {
		segment, within, _ := strings.Cut(strings.TrimPrefix(i.Key, chartsPrefix), "/")
		if l == nil || encodeName(l.name) != segment {
			if err := finish(); err != nil {
				return err
			}
			r, err := c.s.Repository(decodeName(segment))
			if err != nil {
				return nil //nolint:nilerr // It is not this program's.
			}
			l = newLook(r)
		}
		return c.add(ctx, l, i, strings.Split(within, "/"))
	})
	if err != nil {
		return err
	}
	return finish()
}

// lookAgain lists what decides over what lives: everything but blobs.
func (r *run) lookAgain(ctx context.Context) (*look, error) {
	l := newLook(r.Repository)
	l.earlier = r.facts
	// There may be very much of both.
	r.blobs, r.manifests = nil, nil
	prefix := r.key("")
	// Behind all blobs, since "0" is behind "/".
	err := r.Collector.list(ctx, prefix, prefix+blobsSection+"0", func(i bucket.Info) error {
		return r.add(ctx, l, i, strings.Split(strings.TrimPrefix(i.Key, prefix), "/"))
	})
	if err == nil {
		err = r.readAll(ctx, l)
	}
	return l, err
}

func newLook(r *Repository) *look {
	return &look{
		Repository: r, facts: map[id]facts{}, roots: map[id]bool{}, uploads: map[string][]string{},
		entries: map[referrerPlace]time.Time{}, finished: map[string]time.Time{},
	}
}

func (c *Collector) list(ctx context.Context, prefix, after string, f func(bucket.Info) error) error {
	return c.s.eachOf(ctx, bucket.ListOptions{Prefix: prefix, StartAfter: after, NamesOnly: true, Limit: lookPage}, f)
}

// add adds an object; at is its key within the repository.
func (c *Collector) add(ctx context.Context, l *look, i bucket.Info, at []string) error {
	if len(at) == 3 && (at[0] == blobsSection || at[0] == manifestsSection) {
		d := digestOf(at[1], at[2])
		if checkDigest(d) != nil {
			return nil //nolint:nilerr // It is not this program's.
		}
		e := entry{idOf(d), i.Modified}
		if at[0] == blobsSection {
			l.blobs = append(l.blobs, e)
			return nil
		}
		l.manifests = append(l.manifests, e)
		return c.want(ctx, l, wantedFacts{e.id, false})
	}
	switch {
	case at[0] == leasesSection && len(at) == 2:
		return c.addLease(ctx, l, i.Key, at[1])
	case at[0] == referrersSection && len(at) == 3:
		subject, subjectOK := fromSegment(at[1])
		if d, ok := fromSegment(at[2]); ok && subjectOK {
			l.entries[referrerPlace{idOf(subject), idOf(d)}] = i.Modified
		}
	case at[0] == tagsSection && len(at) == 2:
		if to, ok := c.s.learnt.tag(i.Key, i.ETag); ok {
			l.roots[to] = true
			return nil
		}
		l.tags = append(l.tags, i)
		return c.readSome(ctx, l)
	case at[0] == trashSection && len(at) == 3 && at[1] == finishedName:
		l.finished[at[2]] = i.Modified
	case at[0] == trashSection && len(at) == 3:
		return c.addTrashed(ctx, l, i.Key, at[2])
	case at[0] == uploadsSection && len(at) == 3:
		l.uploads[at[1]] = append(l.uploads[at[1]], i.Key)
	}
	return nil
}

func (c *Collector) addLease(ctx context.Context, l *look, key, segment string) error {
	d, ok := fromSegment(segment)
	if !ok {
		return nil
	}
	info, err := c.s.bucket.Head(ctx, key)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	l.leases = append(l.leases, lease{idOf(d), info})
	if c.fresh(info.Modified) {
		l.roots[idOf(d)] = true
	}
	return nil
}

func (c *Collector) addTrashed(ctx context.Context, l *look, key, run string) error {
	usual, ok := l.usualKey(key)
	if !ok || checkDigest(digestOf(path.Base(path.Dir(usual)), path.Base(usual))) != nil {
		return nil //nolint:nilerr // It is not this program's.
	}
	of, kind := placeOf(usual)
	l.trash = append(l.trash, trashed{id: of, key: key, usual: usual, run: run})
	if kind == "manifest" {
		return c.want(ctx, l, wantedFacts{of, true})
	}
	return nil
}

// want notes that a manifest's facts are wanted.
func (c *Collector) want(ctx context.Context, l *look, w wantedFacts) error {
	f, ok := l.earlier[w.of]
	if !ok {
		f, ok = c.s.learnt.manifest(w.of)
	}
	if ok {
		l.facts[w.of] = f
		return nil
	}
	l.wanted = append(l.wanted, w)
	return c.readSome(ctx, l)
}

// readSome reads what is to be read when there is much of it, so that it does not add up.
func (c *Collector) readSome(ctx context.Context, l *look) error {
	if len(l.tags)+len(l.wanted) < 1000 {
		return nil
	}
	return c.readAll(ctx, l)
}

// readAll reads the tags and manifests that are to be read.
func (c *Collector) readAll(ctx context.Context, l *look) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(collectParallel)
	for _, tag := range l.tags {
		group.Go(func() error { return l.readTagAt(groupCtx, tag.Key) })
	}
	for _, w := range l.wanted {
		group.Go(func() error { return l.readFacts(groupCtx, w) })
	}
	l.tags, l.wanted = nil, nil
	return group.Wait()
}

func (l *look) readTagAt(ctx context.Context, key string) error {
	content, info, err := l.s.read(ctx, key, maxDocumentBytes)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil
	}
	var t tagObject
	if info.Size > maxDocumentBytes || err == nil && (json.Unmarshal(content, &t) != nil || checkDigest(t.Digest) != nil) {
		err = fmt.Errorf("%w: the tag %s of %s is damaged: delete it and push again", errUnreadable, path.Base(key), l.name)
	} else if err == nil {
		l.s.learnt.setTag(key, info.ETag, idOf(t.Digest))
	}
	return l.learned(err, func() { l.roots[idOf(t.Digest)] = true })
}

func (l *look) readFacts(ctx context.Context, w wantedFacts) error {
	f, err := l.learn(ctx, w.of)
	if errors.Is(err, bucket.ErrNotFound) || w.trashed && errors.Is(err, errUnreadable) {
		return nil // Deleted meanwhile; or nothing to be relied on.
	}
	return l.learned(err, func() { l.facts[w.of] = f })
}

// learned takes what was read; of what cannot be read it notes that there is such.
func (l *look) learned(err error, take func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, errUnreadable):
		l.unreadable = err
		return nil
	case err != nil:
		return err
	}
	take()
	return nil
}

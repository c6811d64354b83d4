package repository

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
)

// counted is a bucket that keeps count of what is written to it and deleted from it: the bytes of blobs and manifests,
// versions, which are tags but for those of ExemptTag, and charts, which have a version. What does not fit is not
// written.
//
// Within one process the count is exact, whatever happens at the same moment, but for a blob that is mounted and pushed
// at once. Between processes it is where the bucket honours conditions, but for the first and last versions of a chart.
// The next recount corrects the rest.
type counted struct {
	bucket.Bucket
	tracker *quota.Tracker
	now     func() time.Time

	seed maphash.Seed
	// tags are held, by chart, for writing while a chart may become one or cease to be one, and for reading while another
	// version is added to it.
	tags [lockStripes]sync.RWMutex
	// copies are held, by key, while an object is copied to it, or deleted: a copy asks for no condition.
	copies    [lockStripes]sync.Mutex
	versioned versioned
}

// lockStripes is the number of locks that charts and keys share.
const lockStripes = 64

func newCounted(b bucket.Bucket, tracker *quota.Tracker, now func() time.Time) *counted {
	return &counted{Bucket: b, tracker: tracker, now: now, seed: maphash.MakeSeed()}
}

// Count adds up what is counted, by listing everything.
func Count(ctx context.Context, b bucket.Bucket) (quota.Usage, error) {
	var sum quota.Usage
	chart := ""
	err := (&Store{bucket: b}).each(ctx, chartsPrefix, func(i bucket.Info) error {
		switch o := objectOf(i.Key); {
		case o.sized():
			sum.Bytes += i.Size
		case o.version():
			sum.Versions++
			if o.chart != chart {
				chart = o.chart
				sum.Charts++
			}
		}
		return nil
	})
	return sum, err
}

// object is what a key says of an object of a chart.
type object struct{ chart, section, name string }

func objectOf(key string) object {
	rest, inCharts := strings.CutPrefix(key, chartsPrefix)
	if !inCharts {
		return object{}
	}
	var o object
	o.chart, rest, _ = strings.Cut(rest, "/")
	o.section, o.name, _ = strings.Cut(rest, "/")
	return o
}

// sized is true for objects whose bytes count.
func (o object) sized() bool { return o.section == "blobs" || o.section == "manifests" }

// version is true for tags that are versions.
func (o object) version() bool { return o.section == "tags" && !ExemptTag(o.name) }

// Put implements bucket.Bucket.
func (c *counted) Put(ctx context.Context, key string, body io.Reader, size int64, condition bucket.Condition) (bucket.Info, error) {
	switch o := objectOf(key); {
	case o.sized():
		return c.putSized(ctx, key, body, size, condition)
	case o.version() && condition.Absent:
		return c.addVersion(ctx, key, func() (bucket.Info, error) { return c.Bucket.Put(ctx, key, body, size, condition) })
	}
	return c.Bucket.Put(ctx, key, body, size, condition)
}

// putSized makes a put without a condition one with, so that of several at once each adds what it has changed.
func (c *counted) putSized(ctx context.Context, key string, body io.Reader, size int64, condition bucket.Condition) (bucket.Info, error) {
	before, exact := int64(0), condition
	if !condition.Absent {
		info, err := c.Head(ctx, key)
		switch {
		case err == nil:
			before = info.Size
			exact = bucket.Condition{ETag: info.ETag}
		case errors.Is(err, bucket.ErrNotFound):
			exact = bucket.Condition{Absent: true}
		default:
			return bucket.Info{}, err
		}
		if condition.ETag != "" {
			exact = condition
		}
	}
	need := quota.Usage{Bytes: size - before}
	if size < 0 {
		need.Bytes = 1 - before // Where there is no room at all, nothing need come.
	}
	room, release, err := c.room(ctx, need)
	if err != nil {
		return bucket.Info{}, err
	}
	defer release()
	if size < 0 {
		body = room.Meter(body, -before)
	}
	info, err := c.Bucket.Put(ctx, key, body, size, exact)
	if err == nil {
		room.Store(quota.Usage{Bytes: info.Size - before})
		return info, nil
	}
	if exact != condition && (errors.Is(err, bucket.ErrExists) || errors.Is(err, bucket.ErrChanged)) {
		// Somebody else has stored the same meanwhile, and counted it.
		if info, err = c.Head(ctx, key); errors.Is(err, bucket.ErrNotFound) {
			err = fmt.Errorf("put %s: %w: it was deleted at the same moment", key, bucket.ErrUnavailable)
		}
	}
	return info, err
}

// addVersion counts a tag that put makes where there is none, under key.
func (c *counted) addVersion(ctx context.Context, key string, put func() (bucket.Info, error)) (bucket.Info, error) {
	add, chart := quota.Usage{Versions: 1}, objectOf(key).chart
	lock := &c.tags[c.stripe(chart)]
	lock.RLock()
	if known := c.versioned.has(chart, c.now()); known {
		defer lock.RUnlock()
	} else {
		lock.RUnlock()
		lock.Lock()
		defer lock.Unlock()
		has, err := c.hasVersion(ctx, chart)
		if err != nil {
			return bucket.Info{}, err
		}
		if !has {
			add.Charts = 1
		}
	}
	room, release, err := c.room(ctx, add)
	if err != nil {
		// A tag that is there adds nothing.
		if _, headErr := c.Head(ctx, key); headErr == nil {
			err = fmt.Errorf("put %s: %w", key, bucket.ErrExists)
		}
		return bucket.Info{}, err
	}
	defer release()
	info, err := put()
	if err == nil {
		room.Store(add)
		c.versioned.add(chart, c.now())
	}
	return info, err
}

// Copy implements bucket.Bucket.
func (c *counted) Copy(ctx context.Context, from, to string) (bucket.Info, error) {
	o := objectOf(to)
	if !o.sized() && !o.version() {
		return c.Bucket.Copy(ctx, from, to)
	}
	lock := &c.copies[c.stripe(to)]
	lock.Lock()
	defer lock.Unlock()
	before, err := c.Head(ctx, to)
	if err != nil && !errors.Is(err, bucket.ErrNotFound) {
		return bucket.Info{}, err
	}
	there := err == nil
	do := func() (bucket.Info, error) { return c.Bucket.Copy(ctx, from, to) }
	if o.version() {
		if there {
			return do()
		}
		return c.addVersion(ctx, to, do)
	}
	if objectOf(from).chart == o.chart {
		// What is brought back within a chart is needed, however full the registry is.
		info, err := do()
		if err == nil {
			c.tracker.Record(quota.Usage{Bytes: info.Size - before.Size})
		}
		return info, err
	}
	source, err := c.Head(ctx, from)
	if err != nil {
		return bucket.Info{}, err
	}
	room, release, err := c.room(ctx, quota.Usage{Bytes: source.Size - before.Size})
	if err != nil {
		return bucket.Info{}, err
	}
	defer release()
	info, err := do()
	if err == nil {
		room.Store(quota.Usage{Bytes: info.Size - before.Size})
	}
	return info, err
}

// Delete implements bucket.Bucket.
func (c *counted) Delete(ctx context.Context, key string, condition bucket.Condition) error {
	o := objectOf(key)
	switch {
	case o.sized():
		lock := &c.copies[c.stripe(key)]
		lock.Lock()
		defer lock.Unlock()
		size, _, err := c.deleteExactly(ctx, key, condition)
		c.tracker.Record(quota.Usage{Bytes: -size})
		return err
	case !o.version():
		return c.Bucket.Delete(ctx, key, condition)
	}
	lock := &c.tags[c.stripe(o.chart)]
	lock.Lock()
	defer lock.Unlock()
	if _, deleted, err := c.deleteExactly(ctx, key, condition); !deleted {
		return err
	}
	c.tracker.Record(quota.Usage{Versions: -1})
	c.versioned.forget(o.chart)
	// The tag is gone, whether or not it can be found out if it was the last.
	if has, err := c.hasVersion(ctx, o.chart); err == nil && !has {
		c.tracker.Record(quota.Usage{Charts: -1})
	}
	return nil
}

// deleteExactly deletes an object as it is, and says whether it was this call that did, and how large it was.
func (c *counted) deleteExactly(ctx context.Context, key string, condition bucket.Condition) (size int64, deleted bool, err error) {
	for {
		info, err := c.Head(ctx, key)
		if errors.Is(err, bucket.ErrNotFound) && condition.ETag == "" {
			return 0, false, nil // What is put from now on is not what is to be deleted.
		}
		if errors.Is(err, bucket.ErrNotFound) {
			return 0, false, c.Bucket.Delete(ctx, key, condition)
		}
		if err != nil {
			return 0, false, err
		}
		exact := condition
		if condition.ETag == "" {
			exact = bucket.Condition{ETag: info.ETag}
		}
		err = c.Bucket.Delete(ctx, key, exact)
		if err == nil {
			return info.Size, true, nil
		}
		if condition.ETag != "" || !errors.Is(err, bucket.ErrChanged) {
			return 0, false, err
		}
	}
}

// hasVersion reports whether a chart has a tag that is a version, by listing no more than it must.
func (c *counted) hasVersion(ctx context.Context, chart string) (bool, error) {
	if c.versioned.has(chart, c.now()) {
		return true, nil
	}
	prefix := chartsPrefix + chart + "/tags/"
	for after := ""; ; {
		p, err := c.List(ctx, bucket.ListOptions{Prefix: prefix, StartAfter: after, Limit: 1})
		if err != nil {
			return false, fmt.Errorf("list tags: %w", err)
		}
		if len(p.Objects) == 0 {
			return false, nil
		}
		tag := strings.TrimPrefix(p.Objects[0].Key, prefix)
		if !ExemptTag(tag) {
			c.versioned.add(chart, c.now())
			return true, nil
		}
		after = prefix + lastLike(tag)
	}
}

// lastLike is the last of the tags that ExemptTag lets through for the same reason as tag.
func lastLike(tag string) string {
	const beginning = len("sha256-")
	if !strings.HasPrefix(tag, "sha") {
		return tag
	}
	// "z" is the last of the characters that tags are made of.
	return tag[:beginning] + strings.Repeat("z", maxTagBytes-beginning)
}

func (c *counted) stripe(s string) uint64 { return maphash.String(c.seed, s) % lockStripes }

// versioned remembers which charts have versions, for a while: another process may delete the last of them. The zero
// value is ready for use.
type versioned struct {
	mu    sync.Mutex
	since map[string]time.Time
}

const (
	// maxVersioned bounds what is remembered; an entry takes about 100 bytes.
	maxVersioned = 10_000
	// versionedFor is for how long it is.
	versionedFor = 10 * time.Minute
)

func (v *versioned) has(chart string, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	since, ok := v.since[chart]
	return ok && now.Sub(since) < versionedFor
}

func (v *versioned) add(chart string, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.since == nil || len(v.since) >= maxVersioned {
		v.since = map[string]time.Time{}
	}
	v.since[chart] = now
}

func (v *versioned) forget(chart string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.since, chart)
}

// Version implements bucket.Versioner as well as the bucket behind it can.
func (c *counted) Version(ctx context.Context, prefix string) (string, error) {
	if v, ok := c.Bucket.(bucket.Versioner); ok {
		return v.Version(ctx, prefix)
	}
	return "", nil
}

// Presign implements bucket.Presigner where the bucket behind it does.
func (c *counted) Presign(ctx context.Context, key, contentType string, expires time.Duration) (string, error) {
	if p, ok := c.Bucket.(bucket.Presigner); ok {
		return p.Presign(ctx, key, contentType, expires)
	}
	return "", fmt.Errorf("presign %s: this storage has no addresses of its own", key)
}

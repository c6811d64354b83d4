package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

// quarantinePrefix is where damaged objects are moved: "quarantine/<time>/<key>".
const quarantinePrefix = "quarantine/"

// VerifyOptions say what Verify reads and what it may change; the zero value reads all and changes nothing.
type VerifyOptions struct {
	// Repositories to verify; empty means all.
	Repositories []string
	// Repair moves damaged objects aside, so that a push of the same content mends them, and puts right what can be
	// derived from good content. It never deletes the only copy of any bytes.
	Repair bool
	// Progress, when not nil, is called after each object.
	Progress func(Progress)
}

// Progress counts what was read, and all that there was to read when it began.
type Progress struct {
	Objects, TotalObjects int64
	Bytes, TotalBytes     int64
}

// Finding is one thing that is not as it should be.
type Finding struct {
	// Repository is the chart it belongs to; empty for objects outside of all charts.
	Repository string `json:"repository,omitempty"`
	// Key of the object in the bucket.
	Key string `json:"key"`
	// Tags are the versions that cannot be pulled because of it.
	Tags []string `json:"tags,omitempty"`
	// Problem is what is wrong, and Advice what to do, in a sentence each.
	Problem string `json:"problem"`
	Advice  string `json:"advice"`
	// Harmless is true for leftovers that take room and do no other harm.
	Harmless bool `json:"harmless,omitempty"`
	// Repaired says what was done about it; empty when nothing was.
	Repaired string `json:"repaired,omitempty"`
}

// Summary counts what Verify saw.
type Summary struct {
	Repositories int   `json:"repositories"`
	Objects      int64 `json:"objects"`
	Bytes        int64 `json:"bytes"`
	// Problems are findings that are not harmless, of which Repaired are put right.
	Problems int `json:"problems"`
	Repaired int `json:"repaired"`
	Harmless int `json:"harmless"`
}

// Verify reads every object of the store and reports what is damaged, missing or foreign. It may run beside servers:
// what is pushed or deleted meanwhile is not reported. It holds no content in memory but one manifest. An error means
// that it could not go on.
func (s *Store) Verify(ctx context.Context, o VerifyOptions, report func(Finding)) (Summary, error) {
	v := &verification{s: s, o: o, report: report, stamp: s.o.Now().UTC().Format("20060102T150405.000000000Z")}
	prefixes := []string{""}
	if len(o.Repositories) > 0 {
		prefixes = nil
		for _, name := range o.Repositories {
			r, err := s.Repository(name)
			if err == nil {
				err = r.CheckStored(ctx)
			}
			if err != nil {
				return v.summary, err
			}
			prefixes = append(prefixes, r.key(""))
		}
	}
	if err := v.measure(ctx, prefixes); err != nil {
		return v.summary, err
	}
	for _, prefix := range prefixes {
		if err := s.each(ctx, prefix, func(i bucket.Info) error { return v.object(ctx, i) }); err != nil {
			return v.summary, fmt.Errorf("verify: %w", err)
		}
		if err := v.finish(ctx); err != nil {
			return v.summary, fmt.Errorf("verify: %w", err)
		}
	}
	return v.summary, nil
}

// CheckStored returns ErrRepositoryUnknown when nothing at all is stored under the name.
func (r *Repository) CheckStored(ctx context.Context) error {
	p, err := r.s.bucket.List(ctx, bucket.ListOptions{Prefix: r.key(""), Limit: 1})
	if err == nil && len(p.Objects) == 0 {
		return fmt.Errorf("%w: %s", ErrRepositoryUnknown, r.name)
	}
	return err
}

// verification is one run. Objects come in the order of their keys, so those of a repository come together, its blobs
// before its manifests before its tags.
type verification struct {
	s       *Store
	o       VerifyOptions
	report  func(Finding)
	stamp   string
	summary Summary
	total   Progress
	// chart is the one whose objects are being read; nil between two.
	chart *chartContent
}

// chartContent is what is known of the repository that is being read.
type chartContent struct {
	*Repository
	// sizes of the blobs and of the manifests that are good.
	blobs, manifests map[digest.Digest]int64
	// wanted are the blobs and manifests that are named and were not seen, by the manifest that names them.
	wanted map[digest.Digest][]descriptor
	// referrers are the entries that good manifests must have and that were not seen.
	referrers map[digest.Digest]expected
	tags      map[digest.Digest][]string
	// bad has the ETags of damaged objects, by their keys.
	bad map[string]string
}

func (v *verification) measure(ctx context.Context, prefixes []string) error {
	if v.o.Progress == nil {
		return nil
	}
	for _, prefix := range prefixes {
		err := v.s.each(ctx, prefix, func(i bucket.Info) error {
			v.total.TotalObjects++
			v.total.TotalBytes += i.Size
			return nil
		})
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
	return nil
}

// object verifies one object.
func (v *verification) object(ctx context.Context, i bucket.Info) error {
	if strings.HasPrefix(i.Key, quarantinePrefix) {
		v.harmless("", i.Key, "it was moved aside by an earlier repair", "delete it once nobody needs its bytes any more")
		return v.counted(i)
	}
	rest, inCharts := strings.CutPrefix(i.Key, chartsPrefix)
	if !inCharts {
		if i.Key != layoutKey && i.Key != probeKey && !isBeside(i.Key) {
			v.foreign(i.Key)
		}
		return v.counted(i)
	}
	segment, within, _ := strings.Cut(rest, "/")
	if v.chart == nil || encodeName(v.chart.name) != segment {
		if err := v.finish(ctx); err != nil {
			return err
		}
		r, err := v.s.Repository(decodeName(segment))
		if err != nil {
			v.foreign(i.Key)
			return v.counted(i)
		}
		v.summary.Repositories++
		v.chart = &chartContent{
			Repository: r,
			blobs:      map[digest.Digest]int64{}, manifests: map[digest.Digest]int64{},
			wanted: map[digest.Digest][]descriptor{}, referrers: map[digest.Digest]expected{}, tags: map[digest.Digest][]string{}, bad: map[string]string{},
		}
	}
	if err := v.within(ctx, i, strings.Split(within, "/")); err != nil {
		return err
	}
	return v.counted(i)
}

// within verifies an object of the chart. at is the rest of its key.
func (v *verification) within(ctx context.Context, i bucket.Info, at []string) error {
	section, d := at[0], digest.Digest("")
	if len(at) == 3 {
		d = digest.Digest(at[1] + ":" + at[2])
	}
	switch {
	case section == blobsSection && checkDigest(d) == nil:
		return v.blob(ctx, i.Key, d)
	case section == manifestsSection && checkDigest(d) == nil:
		return v.manifest(ctx, i.Key, d)
	case section == referrersSection && len(at) == 3:
		return v.referrer(ctx, i.Key, at[1], at[2])
	case section == tagsSection && len(at) == 2 && isTag(at[1]):
		return v.tag(ctx, i.Key, at[1])
	case section == leasesSection && len(at) == 2:
		if _, ok := fromSegment(at[1]); !ok {
			v.foreign(i.Key)
		}
	case section == trashSection && len(at) == 3:
		if _, ok := v.chart.usualKey(i.Key); !ok && at[1] != finishedName {
			v.foreign(i.Key)
		}
	case section == uploadsSection && len(at) == 3 && uploadPattern.MatchString(at[1]):
		if age := v.s.o.Now().Sub(i.Modified); age > abandonedAfter {
			v.harmless(v.chart.name, i.Key, fmt.Sprintf("it is left of an upload that ended %d hours ago", age/time.Hour), "nothing: garbage collection removes it")
		}
	default:
		v.foreign(i.Key)
	}
	return nil
}

// abandonedAfter is the age at which a chunk does not belong to an upload that is still going on.
const abandonedAfter = 24 * time.Hour

// check reads an object and says what is wrong with its content. info describes what it has read.
type check func() (info bucket.Info, problem string, err error)

// settled runs a check, and reports what it finds once it is certain that the object was not replaced or deleted
// meanwhile. A damaged object is moved aside where repairs are wanted. bad is told the ETag of an object that is
// damaged or cannot be read, and stays.
func (v *verification) settled(ctx context.Context, key string, read check, bad func(etag string)) error {
	for {
		info, problem, err := read()
		if errors.Is(err, bucket.ErrNotFound) || err == nil && problem == "" {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now, headErr := v.s.bucket.Head(ctx, key)
		if errors.Is(headErr, bucket.ErrNotFound) {
			return nil
		}
		f := Finding{Repository: v.chart.name, Key: key, Problem: problem, Advice: "push the same content again, or restore it from a backup"}
		switch {
		case err != nil:
			f.Problem, f.Advice = fmt.Sprintf("it cannot be read: %v", err), "look after the disk or the storage service; if the object is lost, restore it from a backup or push it again"
			bad(now.ETag)
		case headErr != nil:
			return headErr
		case now.ETag != info.ETag:
			continue
		case v.o.Repair:
			moved, err := v.quarantine(ctx, info)
			if errors.Is(err, bucket.ErrChanged) {
				continue
			}
			if err != nil {
				return err
			}
			f.Repaired = "moved to " + moved
		default:
			f.Advice += "; --repair moves it aside, so that a push takes it for missing"
			bad(info.ETag)
		}
		v.problem(f)
		return nil
	}
}

func (v *verification) blob(ctx context.Context, key string, d digest.Digest) error {
	c := v.chart
	return v.settled(ctx, key, func() (bucket.Info, string, error) {
		content, info, err := v.s.bucket.Get(ctx, key, nil)
		if err != nil {
			return info, "", err
		}
		defer content.Close()
		verifier := d.Verifier()
		n, err := io.Copy(verifier, content)
		if err != nil {
			return info, "", err
		}
		if n < info.Size {
			return info, "", io.ErrUnexpectedEOF
		}
		if !verifier.Verified() {
			return info, damaged(n), nil
		}
		c.blobs[d] = n
		return info, "", nil
	}, func(etag string) { c.bad[key] = etag })
}

func damaged(size int64) string {
	if size == 0 {
		return "it is empty, and its digest is that of other content"
	}
	return fmt.Sprintf("its %d bytes do not have the digest that it is stored under", size)
}

func (v *verification) manifest(ctx context.Context, key string, d digest.Digest) error {
	c := v.chart
	return v.settled(ctx, key, func() (bucket.Info, string, error) {
		object, info, err := v.s.read(ctx, key, maxHeaderBytes+MaxManifestBytes)
		if info.Size > maxHeaderBytes+MaxManifestBytes {
			return info, fmt.Sprintf("it has %d bytes, more than any manifest", info.Size), nil
		}
		if err != nil {
			return info, "", err
		}
		e, content, found := cutEnvelope(object)
		switch {
		case len(object) == 0:
			return info, damaged(0), nil
		case !found:
			return info, "its first line, which says of what type it is and who pushed it, cannot be read", nil
		case d.Algorithm().FromBytes(content) != d:
			return info, damaged(int64(len(content))), nil
		}
		parsed, err := parseManifest(e.MediaType, content)
		if err != nil {
			return info, fmt.Sprintf("clients cannot read it: %v", err), nil
		}
		c.manifests[d] = int64(len(content))
		delete(c.wanted, d)
		for _, n := range parsed.needs {
			if slices.Contains(e.Missing, n.digest) {
				continue // A sparse manifest may lack it.
			}
			if size, ok := c.blobs[n.digest]; n.manifest || !ok || size != n.size {
				c.wanted[d] = append(c.wanted[d], n)
			}
		}
		return info, "", c.expect(d, e, parsed, len(content))
	}, func(etag string) { c.bad[key] = etag })
}

// cutEnvelope divides a manifest's object; ok is false for one whose envelope cannot be read.
func cutEnvelope(object []byte) (e envelope, content []byte, ok bool) {
	header, content, found := bytes.Cut(object, []byte{'\n'})
	ok = found && len(header) < maxHeaderBytes && json.Unmarshal(header, &e) == nil && e.MediaType != ""
	return e, content, ok
}

func (v *verification) tag(ctx context.Context, key, tag string) error {
	c := v.chart
	return v.settled(ctx, key, func() (bucket.Info, string, error) {
		t, info, err := c.readTag(ctx, tag)
		if err == nil {
			c.tags[t.Digest] = append(c.tags[t.Digest], tag)
			return info, "", nil
		}
		if errors.Is(err, ErrTagDamaged) {
			return info, "what it stands for cannot be read", nil
		}
		return info, "", err
	}, func(etag string) { c.bad[key] = etag })
}

// finish reports what the chart's objects lack of each other.
func (v *verification) finish(ctx context.Context) error {
	c := v.chart
	v.chart = nil
	if c == nil {
		return nil
	}
	for _, d := range slices.Sorted(maps.Keys(c.wanted)) {
		if err := v.incomplete(ctx, c, d); err != nil {
			return err
		}
	}
	if err := v.unlisted(ctx, c); err != nil {
		return err
	}
	for _, d := range slices.Sorted(maps.Keys(c.tags)) {
		if _, ok := c.manifests[d]; ok {
			continue
		}
		if err := v.dangling(ctx, c, d); err != nil {
			return err
		}
	}
	return nil
}

// incomplete reports a manifest that names what is missing or damaged.
func (v *verification) incomplete(ctx context.Context, c *chartContent, d digest.Digest) error {
	var lacks []string
	for _, n := range c.wanted[d] {
		have, key := c.blobs, c.blobKey(n.digest)
		if n.manifest {
			have, key = c.manifests, c.manifestKey(n.digest)
		}
		if size, ok := have[n.digest]; ok {
			if size != n.size {
				lacks = append(lacks, fmt.Sprintf("%s with %d bytes, which has %d", n.digest, n.size, size))
			}
			continue
		}
		state, err := v.state(ctx, c, key)
		if err != nil {
			return err
		}
		if state != "" {
			lacks = append(lacks, n.digest.String()+", which is "+state)
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	if _, err := v.s.bucket.Head(ctx, c.manifestKey(d)); errors.Is(err, bucket.ErrNotFound) {
		return nil
	}
	again := fmt.Sprintf("push what it names to %s again, or delete the manifest %s", c.name, d)
	if tags := c.tags[d]; tags != nil {
		again = fmt.Sprintf("push %s %s again, or delete it", c.name, strings.Join(tags, ", "))
	}
	v.problem(Finding{Repository: c.name, Key: c.manifestKey(d), Tags: c.tags[d], Problem: "it names " + strings.Join(lacks, "; "), Advice: again})
	return nil
}

// state says what is wrong with an object that was not read or not good; nothing for one that was pushed since.
func (v *verification) state(ctx context.Context, c *chartContent, key string) (string, error) {
	// What is in the trash is served from there, and brought back by garbage collection.
	info, err := v.s.headThrough(ctx, key)
	switch {
	case errors.Is(err, bucket.ErrNotFound):
		return "missing", nil
	case err != nil:
		return "", err
	case c.bad[key] == info.ETag:
		return "damaged", nil
	}
	return "", nil
}

// dangling reports tags that stand for a manifest that is missing or damaged.
func (v *verification) dangling(ctx context.Context, c *chartContent, d digest.Digest) error {
	state, err := v.state(ctx, c, c.manifestKey(d))
	if state == "" || err != nil {
		return err
	}
	for _, tag := range c.tags[d] {
		t, _, err := c.readTag(ctx, tag)
		if errors.Is(err, bucket.ErrNotFound) || err == nil && t.Digest != d {
			continue // Deleted or moved meanwhile.
		}
		if err != nil {
			return err
		}
		v.problem(Finding{
			Repository: c.name, Key: c.tagKey(tag), Tags: []string{tag},
			Problem: fmt.Sprintf("it stands for the manifest %s, which is %s", d, state),
			Advice:  fmt.Sprintf("push %s %s again, or delete it; until then nobody can pull it", c.name, tag),
		})
	}
	return nil
}

// quarantine moves an object aside, unless it was replaced meanwhile, and returns its new key.
func (v *verification) quarantine(ctx context.Context, i bucket.Info) (key string, err error) {
	key = path.Join(quarantinePrefix, v.stamp, i.Key)
	if _, err := v.s.bucket.Copy(ctx, i.Key, key); err != nil {
		return "", fmt.Errorf("move %s aside: %w", i.Key, err)
	}
	if err := v.s.bucket.Delete(ctx, i.Key, bucket.Condition{ETag: i.ETag}); err != nil {
		return "", fmt.Errorf("move %s aside: %w", i.Key, err)
	}
	return key, nil
}

func (v *verification) foreign(key string) {
	v.problem(Finding{
		Key:     key,
		Problem: "this program writes no such object",
		Advice:  "find out where it comes from; if nobody needs it, delete it by hand",
	})
}

func (v *verification) harmless(repository, key, problem, advice string) {
	v.summary.Harmless++
	v.report(Finding{Repository: repository, Key: key, Problem: problem, Advice: advice, Harmless: true})
}

func (v *verification) problem(f Finding) {
	v.summary.Problems++
	if f.Repaired != "" {
		v.summary.Repaired++
	}
	v.report(f)
}

func (v *verification) counted(i bucket.Info) error {
	v.summary.Objects++
	v.summary.Bytes += i.Size
	if v.o.Progress != nil {
		p := v.total
		p.Objects, p.Bytes = v.summary.Objects, v.summary.Bytes
		v.o.Progress(p)
	}
	return nil
}

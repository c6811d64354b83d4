package inventory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	prefix        = "inventory/"
	changesPrefix = prefix + "changes/"
	changesSuffix = ".json"

	// tellEvery is how often what was changed is told at most.
	tellEvery = time.Second
	// maxTold bounds the charts that are named.
	maxTold = 1000
	// maxChangesBytes bounds what others tell, when it is read.
	maxChangesBytes = 1 << 20
	// newsFor is for how long after news it is looked for more of them often.
	newsFor = time.Minute
	// silentAfter is how long what a process has told is kept after it has told anything. One that still runs tells it all
	// again three times in that time.
	silentAfter = 24 * time.Hour
	// lastPatience is how long the last write may take.
	lastPatience = 5 * time.Second
)

// told is what a process tells others of its changes.
type told struct {
	// Count is how many there were.
	Count uint64 `json:"count"`
	// From is the number of the last change that Charts may lack.
	From uint64 `json:"from"`
	// Charts are those that were changed, each with the number of its last change.
	Charts map[string]uint64 `json:"charts"`
}

// decodeTold refuses what no process writes.
func decodeTold(content []byte) (told, error) {
	var t told
	if err := json.Unmarshal(content, &t); err != nil {
		return told{}, err
	}
	if len(t.Charts) > maxTold || t.From > t.Count {
		return told{}, fmt.Errorf("it names %d charts, and counts from %d to %d", len(t.Charts), t.From, t.Count)
	}
	return t, nil
}

// note adds a change.
func (t *told) note(chart string) {
	t.Count++
	t.Charts[strings.Clone(chart)] = t.Count
	if len(t.Charts) <= maxTold {
		return
	}
	oldest := chart
	for name, n := range t.Charts {
		if n < t.Charts[oldest] {
			oldest = name
		}
	}
	t.From = t.Charts[oldest]
	delete(t.Charts, oldest)
}

// since are the charts that were changed after the change with a number; known is false where that cannot be told.
func (t *told) since(n uint64) (charts []string, known bool) {
	for chart, last := range t.Charts {
		if last > n {
			charts = append(charts, chart)
		}
	}
	return charts, t.From <= n
}

// changes are those of this process, and what is known of those of others.
type changes struct {
	mu    sync.Mutex
	own   told
	dirty bool
	// woken has something in it when there is something to tell.
	woken chan struct{}
	// heard are others: how many of their changes are part of the inventory, and the ETag of what they told of them.
	heard map[string]heard
}

type heard struct {
	count uint64
	etag  string
}

// init has it told at once that there is nothing yet: who knows of this process sees what it lacks of its first change.
func (c *changes) init() {
	c.own.Charts, c.heard, c.woken = map[string]uint64{}, map[string]heard{}, make(chan struct{}, 1)
	c.change(func(*told) {})
}

// note adds a change, and returns its number.
func (c *changes) note(chart string) uint64 {
	return c.change(func(t *told) { t.note(chart) })
}

// noteAll adds a change of which it is not known what it was.
func (c *changes) noteAll() {
	c.change(func(t *told) {
		t.Count++
		t.From = t.Count
		clear(t.Charts)
	})
}

func (c *changes) change(f func(*told)) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.own)
	c.dirty = true
	select {
	case c.woken <- struct{}{}:
	default:
	}
	return c.own.Count
}

func (c *changes) count() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.own.Count
}

// clock says how many changes of each process are part of the inventory.
func (i *Inventory) clock() map[string]uint64 {
	clock := map[string]uint64{i.process: i.queue.applied(i.changes.count)}
	i.changes.mu.Lock()
	defer i.changes.mu.Unlock()
	for process, h := range i.changes.heard {
		clock[process] = h.count
	}
	return clock
}

// tell writes what this process has changed until ctx ends, and then the rest.
func (i *Inventory) tell(ctx context.Context) {
	again := time.NewTicker(silentAfter / 3)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			i.changes.change(func(*told) {})
			continue
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPatience)
			defer cancel()
			if err := i.tellOnce(last); err != nil {
				i.problem("what was changed last could not be told other servers; they find it out when they compare all", err)
			}
			return
		case <-i.changes.woken:
		}
		if err := i.tellOnce(ctx); err != nil && ctx.Err() == nil {
			i.problem("what was changed could not be told other servers; it is tried again", err)
		}
		pause(ctx, tellEvery)
	}
}

func (i *Inventory) tellOnce(ctx context.Context) error {
	c := &i.changes
	c.mu.Lock()
	content, err := json.Marshal(c.own)
	dirty := c.dirty
	c.dirty = false
	c.mu.Unlock()
	if err != nil || !dirty {
		return err
	}
	key := changesPrefix + i.process + changesSuffix
	if _, err := i.o.Bucket.Put(ctx, key, bytes.NewReader(content), int64(len(content)), bucket.Condition{}); err != nil {
		c.change(func(*told) {})
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// listen takes over what others have changed until ctx ends.
func (i *Inventory) listen(ctx context.Context) {
	news := time.Now()
	for {
		interval := i.o.PollIdle
		if time.Since(news) < newsFor {
			interval = i.o.Poll
		}
		before := i.changes.count()
		pause(ctx, interval)
		if ctx.Err() != nil {
			return
		}
		told, err := i.hear(ctx)
		if err != nil && ctx.Err() == nil {
			i.problem("what other servers have changed could not be read; it is tried again", err)
		}
		if told || i.changes.count() != before {
			news = time.Now()
		}
	}
}

// news are what others have told that is not part of the inventory yet.
type news struct {
	// told is what is heard of each process that there is once it is.
	told map[string]heard
	// charts are to be looked at; all says that nothing less than everything is.
	charts map[string]bool
	all    bool
	// fresh says that there is anything new at all.
	fresh bool
}

// hear takes over what others have changed, and says whether they have.
func (i *Inventory) hear(ctx context.Context) (bool, error) {
	n, err := i.ask(ctx)
	if err != nil || !n.fresh {
		return false, err
	}
	return true, i.follow(ctx, n)
}

// follow brings up to date what others have changed.
func (i *Inventory) follow(ctx context.Context, n news) error {
	var err error
	if n.all {
		err = i.compare(ctx, false)
	} else {
		err = i.refreshAll(ctx, slices.Collect(maps.Keys(n.charts)), func(string) {})
	}
	if err == nil {
		i.reach(n)
	}
	return err
}

// reach notes that news are part of the inventory.
func (i *Inventory) reach(n news) {
	i.changes.mu.Lock()
	defer i.changes.mu.Unlock()
	i.changes.heard = n.told
}

// ask reads what others have told since it was read last.
func (i *Inventory) ask(ctx context.Context) (news, error) {
	i.changes.mu.Lock()
	before := maps.Clone(i.changes.heard)
	i.changes.mu.Unlock()
	n := news{told: map[string]heard{}, charts: map[string]bool{}}
	for after := ""; ; {
		p, err := i.o.Bucket.List(ctx, bucket.ListOptions{Prefix: changesPrefix, StartAfter: after})
		if err != nil {
			return n, fmt.Errorf("list what other servers have changed: %w", err)
		}
		for _, o := range p.Objects {
			process := strings.TrimSuffix(strings.TrimPrefix(o.Key, changesPrefix), changesSuffix)
			if process == i.process {
				continue
			}
			h := before[process]
			if h.etag != o.ETag {
				if h, err = i.askOne(ctx, o, h, &n); err != nil {
					return n, err
				}
				n.fresh = true
			}
			n.told[process] = h
		}
		if after = p.Next; after == "" {
			n.fresh = n.fresh || len(n.told) != len(before)
			return n, nil
		}
	}
}

func (i *Inventory) askOne(ctx context.Context, o bucket.Info, h heard, n *news) (heard, error) {
	body, info, err := i.o.Bucket.Get(ctx, o.Key, nil)
	if errors.Is(err, bucket.ErrNotFound) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("read %s: %w", o.Key, err)
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, maxChangesBytes))
	if err != nil {
		return h, fmt.Errorf("read %s: %w: %w", o.Key, bucket.ErrUnavailable, err)
	}
	h.etag = info.ETag
	t, err := decodeTold(content)
	if err != nil {
		// It is whole again with the next change of that process.
		i.problem("what another server has told of its changes is not understood", fmt.Errorf("%s: %w", o.Key, err))
		return h, nil
	}
	if t.Count > h.count {
		charts, known := t.since(h.count)
		n.all = n.all || !known
		for _, chart := range charts {
			n.charts[chart] = true
		}
		h.count = t.Count
	}
	return h, nil
}

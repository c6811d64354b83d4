package events

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

const (
	// neverHappened is the age at which what has not happened yet never will: no process stands still for so long.
	neverHappened = time.Hour
	// chartsAtOnce and intentsAtOnce bound what is looked at in parallel; batch bounds what is in memory of one chart.
	chartsAtOnce  = 4
	intentsAtOnce = 4
	batch         = 200
	// tidied is how often what receivers that are gone have left behind is looked for.
	tidied = time.Hour
)

// lead moves events from the outbox into the queues and has them delivered, while this is the replica to do so.
func (n *Notifier) lead(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for _, w := range n.workers {
		running.Go(func() { w.run(ctx) })
	}
	running.Go(func() {
		for ctx.Err() == nil {
			if err := n.tidy(ctx); err != nil && ctx.Err() == nil {
				n.o.Log.Warn("what receivers that are no more have left behind cannot be cleared away", "error", err)
			}
			wait(ctx, nil, tidied)
		}
	})
	failed := false
	for ctx.Err() == nil {
		err := n.empty(ctx)
		if err != nil && ctx.Err() == nil && !failed {
			n.o.Log.Warn("events cannot be told, and wait", "error", err)
		}
		failed = err != nil
		wait(ctx, n.woken, n.o.Poll)
	}
}

// empty goes once through the outbox.
func (n *Notifier) empty(ctx context.Context) error {
	for _, w := range n.workers {
		if !w.loaded.Load() {
			return nil // It is not known yet who is to be told.
		}
	}
	// Each chart for itself: what fails in one must not hold up others.
	var group errgroup.Group
	group.SetLimit(chartsAtOnce)
	err := n.folders(ctx, outboxPrefix, func(chart string) error {
		group.Go(func() error { return n.emptyChart(ctx, chart) })
		return nil
	})
	return errors.Join(err, group.Wait())
}

// waiting is an intent that is looked at.
type waiting struct {
	key string
	intent
	// damaged says that the object is not what was written there.
	damaged bool
	// mark and stands are what the tag is and stands for now; unclear says that this could not be found out.
	mark, stands string
	unclear      bool
}

// emptyChart moves what has happened in one chart into the queues, in order.
//
// What has happened by now is seen by looking at the tag, or else, if that was replaced since, at the names of what is in
// the outbox: what replaced it was written there before it did. So those names are listed after the tags were looked at.
// What is not in the first list was begun after it, and so after the end of all that had an end by then.
//
// A list may lack what is written while it is made, and have what is written later. So it is made twice: all that came
// before what the first has is in the second.
func (n *Notifier) emptyChart(ctx context.Context, chart string) error {
	prefix, last := outboxPrefix+chart+"/", ""
	err := n.names(ctx, prefix, func(key string) bool {
		last = key
		return true
	})
	if err != nil {
		return err
	}
	var keys []string
	err = n.names(ctx, prefix, func(key string) bool {
		if key <= last {
			keys = append(keys, key)
		}
		return key < last && len(keys) < n.o.MaxQueued
	})
	for ; err == nil && len(keys) > 0; keys = keys[min(batch, len(keys)):] {
		err = n.settle(ctx, prefix, keys[:min(batch, len(keys))])
	}
	return err
}

func (n *Notifier) settle(ctx context.Context, prefix string, keys []string) error {
	all := make([]*waiting, len(keys))
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(intentsAtOnce)
	for i, key := range keys {
		group.Go(func() (err error) {
			all[i], err = n.look(within, key)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var replaced map[string][]string
	if slices.ContainsFunc(all, (*waiting).needsMore) {
		var err error
		if replaced, err = n.replaced(ctx, prefix); err != nil {
			return err
		}
	}
	for _, w := range all {
		if w == nil {
			continue // Withdrawn meanwhile.
		}
		if err := n.move(ctx, w, replaced); err != nil {
			return err
		}
	}
	return nil
}

// needsMore reports that the tag alone does not tell what became of an intent.
func (w *waiting) needsMore() bool {
	return w != nil && !w.damaged && !w.Certain && w.mark != w.Event.ID
}

// look reads an intent and, where it matters, its tag. It returns nil for one that is gone.
func (n *Notifier) look(ctx context.Context, key string) (*waiting, error) {
	w := &waiting{key: key}
	err := n.read(ctx, key, maxDocumentBytes, &w.intent)
	switch {
	case errors.Is(err, bucket.ErrNotFound):
		return nil, nil //nolint:nilnil // It was withdrawn.
	case errors.Is(err, errDamaged):
		w.damaged = true
		return w, nil
	case err != nil:
		return nil, err
	}
	id, _, _ := strings.Cut(path.Base(key), ".")
	switch {
	case !isID(w.Event.ID), !w.Certain && (w.Event.ID != id || segment(w.Event.Chart) != path.Base(path.Dir(key))):
		w.damaged = true
		return w, nil
	case w.Certain:
		return w, nil
	}
	stands, mark, err := n.o.Standing(ctx, w.Event.Chart, w.Event.Tag)
	w.stands, w.mark = string(stands), mark
	switch {
	case errors.Is(err, repository.ErrNameInvalid), errors.Is(err, repository.ErrReferenceInvalid):
		w.damaged = true
	case errors.Is(err, repository.ErrTagDamaged), err != nil && n.o.Now().Sub(w.Event.Time) >= neverHappened:
		w.unclear = true // It must not hold up others forever.
	case err != nil:
		return nil, err // What comes behind it may have happened later.
	}
	return w, nil
}

// replaced lists which marks were replaced by which.
func (n *Notifier) replaced(ctx context.Context, prefix string) (map[string][]string, error) {
	by := map[string][]string{}
	err := n.names(ctx, prefix, func(key string) bool {
		if id, mark, found := strings.Cut(path.Base(key), "."); found {
			by[mark] = append(by[mark], id)
		}
		return len(by) < n.o.MaxQueued
	})
	return by, err
}

// Verdicts on what is in the outbox.
type verdict int

const (
	notYet verdict = iota
	happened
	never
)

func (w *waiting) judge(replaced map[string][]string) verdict {
	id := w.Event.ID
	switch {
	case w.damaged:
		return never
	case w.Certain:
		return happened
	case w.Event.Type != receivers.PackageDeleted:
		if w.mark == id || len(replaced[id]) > 0 {
			return happened
		}
		return notYet
	}
	for _, other := range replaced[w.Replaces] {
		if w.mark == other || len(replaced[other]) > 0 {
			return never // Something else was made of the tag before it could be removed.
		}
	}
	switch {
	case w.unclear, w.stands != "" && identity(w.mark, w.stands) == w.Replaces:
		return notYet
	}
	return happened
}

// move puts an event that has happened into the queues of those who want it, and takes it out of the outbox.
func (n *Notifier) move(ctx context.Context, w *waiting, replaced map[string][]string) error {
	switch w.judge(replaced) {
	case notYet:
		if n.o.Now().Sub(w.Event.Time) < neverHappened {
			return nil
		}
	case happened:
		for _, to := range n.workers {
			if err := to.queue(ctx, w.intent); err != nil {
				return err
			}
		}
	case never:
		if w.damaged {
			n.o.Log.Error("an event is damaged, and is not told", "object", w.key)
		}
	}
	if err := n.o.Bucket.Delete(ctx, w.key, bucket.Condition{}); err != nil {
		return fmt.Errorf("empty the outbox: %w", err)
	}
	return nil
}

// tidy deletes what waits for longer than anything is tried for receivers that there are no more, or that are told nothing.
func (n *Notifier) tidy(ctx context.Context) error {
	for _, prefix := range []string{queuePrefix, deadPrefix} {
		err := n.folders(ctx, prefix, func(receiver string) error {
			w := n.worker(receiver)
			if w != nil && (prefix == deadPrefix || !w.silent()) {
				return nil
			}
			err := n.deleteOld(ctx, prefix+receiver+"/")
			if w != nil && err == nil {
				err = w.count(ctx)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	var gone []string
	err := n.names(ctx, receiversPrefix, func(key string) bool {
		if n.worker(strings.TrimSuffix(path.Base(key), ".json")) == nil {
			gone = append(gone, key)
		}
		return true
	})
	for _, key := range gone {
		err = errors.Join(err, n.deleteOld(ctx, key))
	}
	return err
}

func (n *Notifier) deleteOld(ctx context.Context, prefix string) error {
	for after := ""; ; {
		p, err := n.o.Bucket.List(ctx, bucket.ListOptions{Prefix: prefix, StartAfter: after})
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, i := range p.Objects {
			if n.o.Now().Sub(i.Modified) < n.o.Patience {
				continue
			}
			if err := n.o.Bucket.Delete(ctx, i.Key, bucket.Condition{}); err != nil {
				return err
			}
		}
		if p.Next == "" {
			return nil
		}
		after = p.Next
	}
}

// Package sweep carries out a retention policy: on one replica at a time, it deletes the versions that the policy lets
// go, after it has shown for a while which they are.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/lease"
	"github.com/chartroom-dev/chartroom/registryserver/pulls"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
)

const (
	// defaultInterval is the time between two runs.
	defaultInterval = time.Hour
	// retryAfter is when to look again after something failed, or while another replica is at work.
	retryAfter = time.Minute
	// foldInterval is how often what replicas that are gone have noted of pulls is put together.
	foldInterval = 24 * time.Hour
	// page is how many charts are listed at once.
	page = 1000
	// leaseName is that of the lease of the replica that works.
	leaseName = "retention"
)

// Options configure a Sweeper.
type Options struct {
	// Store is the registry's content, and Bucket where it is kept.
	Store  *repository.Store
	Bucket bucket.Bucket
	// Rules are the policy.
	Rules *retention.Rules
	// Pulls knows what was pulled. It must be there where the policy asks for it.
	Pulls *pulls.Recorder
	// Log is told of every deletion.
	Log *slog.Logger
	// Deleted, when not nil, is called after each deletion, with why.
	Deleted func(chart, tag, digest, reason string)
	// Interval is the time between two runs; 0 means an hour.
	Interval time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Sweeper is one replica's part.
type Sweeper struct {
	o      Options
	policy retention.Policy
	hash   string
	lease  *lease.Lease
	state  atomic.Pointer[State]
}

// State is what is known of the last run, on whichever replica it was.
type State struct {
	// Plan is that of another policy, or empty, until there is one by this one's.
	Plan Plan
	// Current is true where Plan is by the policy in force.
	Current bool
	// DeletesAfter is the earliest time of the first deletion; zero while nothing is to be deleted at all.
	DeletesAfter time.Time
	// Problem is what went wrong last on this replica; nil when nothing did.
	Problem error
}

// New returns a sweeper; Run makes it work.
func New(o Options) (*Sweeper, error) {
	if o.Interval <= 0 {
		o.Interval = defaultInterval
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l, err := lease.New(lease.Options{Bucket: o.Bucket, Name: leaseName})
	if err != nil {
		return nil, err
	}
	s := &Sweeper{o: o, policy: o.Rules.Policy(), hash: o.Rules.Policy().Hash(), lease: l}
	s.state.Store(&State{})
	return s, nil
}

// State may be called at any time.
func (s *Sweeper) State() State { return *s.state.Load() }

// Run works until ctx ends.
func (s *Sweeper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		pause, err := s.Once(ctx)
		if err != nil && ctx.Err() == nil {
			s.o.Log.Error("retention could not do its work, and tries again", "error", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Once does what is due, if no other replica is at it, and says when to look again.
func (s *Sweeper) Once(ctx context.Context) (pause time.Duration, err error) {
	defer func() {
		after := *s.state.Load()
		after.Problem = err
		s.state.Store(&after)
	}()
	plan, _, err := readPlan(ctx, s.o.Bucket)
	if err != nil {
		return retryAfter, err
	}
	s.show(plan)
	if pause := s.until(plan); pause > 0 {
		return pause, nil
	}
	var workErr error
	had, err := s.lease.Try(ctx, func(ctx context.Context) { workErr = s.work(ctx) })
	if err := errors.Join(workErr, err); err != nil || !had {
		return retryAfter, err
	}
	return s.until(s.state.Load().Plan), nil
}

// show makes a plan known to who asks this replica.
func (s *Sweeper) show(p Plan) {
	state := State{Plan: p, Current: p.Policy == s.hash, Problem: s.state.Load().Problem}
	if state.Current && !s.policy.DryRun {
		state.DeletesAfter = s.firstDeletion(p)
	}
	s.state.Store(&state)
}

// firstDeletion is when a plan has been shown for long enough.
func (s *Sweeper) firstDeletion(p Plan) time.Time {
	return p.PlannedAt.Add(time.Duration(s.policy.Delay))
}

// until is how long it is to the next run, as far as the last one says.
func (s *Sweeper) until(p Plan) time.Duration {
	if p.Policy != s.hash {
		return 0
	}
	due := p.LastRun.Add(s.o.Interval)
	if first := s.firstDeletion(p); !s.policy.DryRun && p.LastRun.Before(first) && first.Before(due) {
		due = first
	}
	// A clock that was ahead must not put the next run off for long.
	return min(max(due.Sub(s.o.Now()), 0), s.o.Interval)
}

// work is one run, while the lease is held.
func (s *Sweeper) work(ctx context.Context) error {
	before, etag, err := readPlan(ctx, s.o.Bucket)
	if err != nil {
		return err
	}
	// Another replica may have been quicker.
	if s.until(before) > 0 {
		s.show(before)
		return nil
	}
	now := s.o.Now().UTC()
	plan, known := before, before.Policy == s.hash
	if !known {
		plan = Plan{Policy: s.hash, Folded: before.Folded}
	}
	plan.PullsSince, plan.PullsKept = pullsKnown(before, time.Duration(s.policy.KeepPulledWithin), now)
	plan.Planned, plan.Examples = 0, nil
	if s.o.Pulls != nil {
		if err := s.o.Pulls.Flush(ctx); err != nil {
			return err
		}
	}
	deleting := known && !s.policy.DryRun && !now.Before(s.firstDeletion(before))
	if err := each(ctx, s.o, func(r *repository.Repository) error { return s.chart(ctx, r, &plan, now, deleting) }); err != nil {
		return err
	}
	if err := s.fold(ctx, &plan, now); err != nil {
		return err
	}
	plan.LastRun = s.o.Now().UTC()
	if !known {
		// From now on it can be seen.
		plan.PlannedAt = plan.LastRun
	}
	if err := s.write(ctx, plan, etag); err != nil {
		return err
	}
	s.show(plan)
	s.o.Log.Info("retention has run", "deleted", plan.Deleted-before.deletedUnder(s.hash), "planned", plan.Planned, "dryRun", s.policy.DryRun, "deletesAfter", s.firstDeletion(plan))
	return nil
}

// each calls f with all charts that the policy is about.
func each(ctx context.Context, o Options, f func(r *repository.Repository) error) error {
	for last, more := "", true; more; {
		var names []string
		var err error
		if names, more, err = o.Store.Repositories(ctx, page, last); err != nil {
			return err
		}
		for _, name := range names {
			last = name
			if !o.Rules.Covers(name) {
				continue
			}
			r, err := o.Store.Repository(name)
			if err == nil {
				err = f(r)
			}
			if err != nil {
				return fmt.Errorf("chart %s: %w", name, err)
			}
		}
	}
	return nil
}

func (s *Sweeper) chart(ctx context.Context, r *repository.Repository, plan *Plan, now time.Time, deleting bool) error {
	all, err := judge(ctx, r, s.o, plan.PullsSince, now)
	if err != nil {
		return err
	}
	if !deleting {
		for _, d := range all {
			if d.Delete {
				plan.add(r.Name(), d.Decision)
			}
		}
		return nil
	}
	return s.delete(ctx, r, all, plan)
}

// delete removes what may go: versions first, and then the signatures of those that nothing stands for any more.
func (s *Sweeper) delete(ctx context.Context, r *repository.Repository, all []judged, plan *Plan) error {
	var following []judged
	for _, d := range all {
		switch {
		case !d.Delete:
		case d.Exempt:
			following = append(following, d)
		default:
			if err := s.deleteOne(ctx, r, d, plan); err != nil {
				return err
			}
		}
	}
	if len(following) == 0 {
		return nil
	}
	// Somebody may have pushed, meanwhile, a version of the same content.
	left, err := r.Versions(ctx)
	if err != nil {
		return err
	}
	alive := map[string]bool{}
	for _, v := range left {
		if !repository.ExemptTag(v.Tag) {
			alive[v.Digest.String()] = true
		}
	}
	for _, d := range following {
		if alive[d.With] {
			continue
		}
		if err := s.deleteOne(ctx, r, d, plan); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sweeper) deleteOne(ctx context.Context, r *repository.Repository, d judged, plan *Plan) error {
	log := s.o.Log.With("who", "retention", "chart", r.Name(), "tag", d.Tag, "digest", d.Digest)
	err := r.DeleteVersion(ctx, d.stored)
	switch {
	case errors.Is(err, bucket.ErrChanged), errors.Is(err, repository.ErrManifestUnknown):
		log.Info("a version was changed before it could be deleted, and is left alone")
		return nil
	case err != nil:
		return err
	}
	log.Info("a version was deleted", "rule", d.Rule, "reason", d.Reason)
	plan.Deleted++
	if s.o.Deleted != nil {
		s.o.Deleted(r.Name(), d.Tag, d.Digest, d.Reason)
	}
	return nil
}

// fold tidies up once a day.
func (s *Sweeper) fold(ctx context.Context, plan *Plan, now time.Time) error {
	if s.o.Pulls == nil || now.Sub(plan.Folded) < foldInterval {
		return nil
	}
	charts, err := s.o.Pulls.Charts(ctx)
	if err != nil {
		return err
	}
	for _, chart := range charts {
		if err := s.o.Pulls.Fold(ctx, chart); err != nil {
			return err
		}
	}
	plan.Folded = now
	return nil
}

package sweep

import (
	"context"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
)

// maxGap is how long nobody may have worked for it still to be known what was pulled: while no server runs, nothing is
// pulled, but one that runs without a policy does not note it.
const maxGap = 24 * time.Hour

// judged is a decision on a version as it was read.
type judged struct {
	retention.Decision
	stored repository.Version
}

// judge reads all versions of a chart and decides on them, in the order of their tags. What was pushed before since may
// have been pulled at any time until then.
func judge(ctx context.Context, r *repository.Repository, o Options, since, now time.Time) ([]judged, error) {
	stored, err := r.Versions(ctx)
	if err != nil {
		return nil, err
	}
	last := map[string]time.Time{}
	if o.Pulls != nil {
		if last, err = o.Pulls.Last(ctx, r.Name()); err != nil {
			return nil, err
		}
	}
	byTag := make(map[string]repository.Version, len(stored))
	versions := make([]retention.Version, 0, len(stored))
	for _, v := range stored {
		byTag[v.Tag] = v
		at := last[v.Digest.String()]
		if !v.PushedAt.After(since) && at.Before(since) {
			at = since
		}
		versions = append(versions, retention.Version{
			Tag: v.Tag, Digest: v.Digest.String(), Pushed: v.PushedAt, Pulled: at, Exempt: repository.ExemptTag(v.Tag),
		})
	}
	decisions := o.Rules.Decide(r.Name(), versions, now)
	all := make([]judged, len(decisions))
	for i, d := range decisions {
		all[i] = judged{Decision: d, stored: byTag[d.Tag]}
	}
	return all, nil
}

// Preview tells report what would become of every version of the charts that the policy is about, if it was carried out
// now, and deletes nothing. Of o it needs Store, Bucket, Rules, Pulls and perhaps Now.
func Preview(ctx context.Context, o Options, report func(chart string, d retention.Decision)) error {
	now := time.Now().UTC()
	if o.Now != nil {
		now = o.Now().UTC()
	}
	plan, _, err := readPlan(ctx, o.Bucket)
	if err != nil {
		return err
	}
	since, _ := pullsKnown(plan, time.Duration(o.Rules.Policy().KeepPulledWithin), now)
	return each(ctx, o, func(r *repository.Repository) error {
		all, err := judge(ctx, r, o, since, now)
		for _, d := range all {
			report(r.Name(), d.Decision)
		}
		return err
	})
}

// pullsKnown is since when all pulls are known, and for how long they are kept, at the run that follows that of before.
func pullsKnown(before Plan, keep time.Duration, now time.Time) (since time.Time, kept retention.Duration) {
	if keep == 0 {
		return time.Time{}, 0
	}
	since = before.PullsSince
	if since.IsZero() || now.Sub(before.LastRun) > maxGap {
		since = now
	}
	// What was forgotten for being too old is not known any more when older is asked for.
	if had := time.Duration(before.PullsKept); keep > had && since.Before(now.Add(-had)) {
		since = now.Add(-had)
	}
	return since, retention.Duration(keep)
}

package sweep

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
)

const (
	planKey = "retention/plan.json"
	// maxExamples bounds the versions that a plan names.
	maxExamples = 20
	// maxPlanBytes bounds a plan when it is read.
	maxPlanBytes = 256 << 10
)

// Plan is what a run found, kept in the bucket for all replicas and for the next run.
type Plan struct {
	// Policy is the hash of the policy that it is by.
	Policy string `json:"policy"`
	// PlannedAt is when a plan by this policy could be seen first.
	PlannedAt time.Time `json:"plannedAt"`
	// LastRun is when the last run ended.
	LastRun time.Time `json:"lastRun"`
	// Planned is how many versions would have gone in it, had they not to wait.
	Planned int64 `json:"planned"`
	// Deleted is how many have gone by this policy.
	Deleted int64 `json:"deleted"`
	// Examples are some of the planned ones, as "chart:tag (reason)".
	Examples []string `json:"examples,omitempty"`
	// PullsSince is since when all pulls are known, and PullsKept for how long they are; zero where they do not matter.
	PullsSince time.Time          `json:"pullsSince"`
	PullsKept  retention.Duration `json:"pullsKept"`
	// Folded is when what was noted of pulls was last put together.
	Folded time.Time `json:"folded"`
}

func (p *Plan) add(chart string, d retention.Decision) {
	p.Planned++
	if len(p.Examples) < maxExamples {
		p.Examples = append(p.Examples, fmt.Sprintf("%s:%s (%s)", chart, d.Tag, d.Reason))
	}
}

// deletedUnder is how many have gone by the policy of that hash.
func (p Plan) deletedUnder(hash string) int64 {
	if p.Policy != hash {
		return 0
	}
	return p.Deleted
}

// readPlan returns the plan in the bucket, with the ETag of its object; an empty one where there is none, or a damaged
// one. With that all begins anew: nothing is deleted before a plan was shown.
func readPlan(ctx context.Context, b bucket.Bucket) (p Plan, etag string, err error) {
	r, info, err := b.Get(ctx, planKey, nil)
	if errors.Is(err, bucket.ErrNotFound) {
		return Plan{}, "", nil
	}
	if err != nil {
		return Plan{}, "", fmt.Errorf("read %s: %w", planKey, err)
	}
	defer r.Close()
	content, err := io.ReadAll(io.LimitReader(r, maxPlanBytes))
	if err != nil {
		return Plan{}, "", fmt.Errorf("read %s: %w: %w", planKey, bucket.ErrUnavailable, err)
	}
	if json.Unmarshal(content, &p) != nil {
		p = Plan{}
	}
	return p, info.ETag, nil
}

// write replaces the plan that was read.
func (s *Sweeper) write(ctx context.Context, p Plan, etag string) error {
	content, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write %s: %w", planKey, err)
	}
	condition := bucket.Condition{ETag: etag, Absent: etag == ""}
	if _, err := s.o.Bucket.Put(ctx, planKey, bytes.NewReader(content), int64(len(content)), condition); err != nil {
		return fmt.Errorf("write %s: %w", planKey, err)
	}
	return nil
}

package inventory

import (
	"context"
	"time"
)

// Await waits until done, which it asks at each change, and for patience at most. It returns what done said at last.
func Await(ctx context.Context, r Reader, patience time.Duration, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		_, next := r.Changed()
		if done() {
			return true
		}
		select {
		case <-next:
		case <-ctx.Done():
			return done()
		}
	}
}

// AwaitBuilt waits until all that is stored has been seen, and for patience at most. It returns whether it has.
func AwaitBuilt(ctx context.Context, r Reader, patience time.Duration) bool {
	return Await(ctx, r, patience, func() bool { return !r.Building() })
}

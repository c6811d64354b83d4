package inventory

import (
	"context"
	"errors"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/chartroom-dev/chartroom/controllers/internal/registryclient"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// pace is the time between two questions to a pod in the long run, and burst how many may follow each other at once,
	// however fast the pod answers.
	pace  = time.Second
	burst = 5
	// fullPeriod is the time until a pod is asked for all that it knows, whatever was heard of it.
	fullPeriod = 10 * time.Minute
	// outdatedPause is the time until a pod is asked again whose program knows of no inventories.
	outdatedPause = 5 * time.Minute
	// firstPause and longestPause bound the time until a pod is asked again that did not answer.
	firstPause   = time.Second
	longestPause = 30 * time.Second
)

// pod is one that is asked.
type pod struct {
	uid types.UID
	ip  string
}

// answer is what a pod said: an inventory, or why it has none.
type answer struct {
	from      pod
	inventory *wire.Inventory
	err       error
}

// ask asks a pod as registryclient.Client.Inventory does.
type ask func(ctx context.Context, ip, etag string) (*wire.Inventory, string, error)

// poll asks a pod until ctx ends, and hands over what is new.
func poll(ctx context.Context, from pod, ask ask, heard chan<- answer) {
	limit, pause := rate.NewLimiter(rate.Every(pace), burst), newPause()
	etag := ""
	var full time.Time
	for limit.Wait(ctx) == nil {
		if now := time.Now(); !now.Before(full) {
			etag, full = "", now.Add(wait.Jitter(fullPeriod, 0.2))
		}
		inventory, newer, err := ask(ctx, from.ip, etag)
		if err == nil && inventory == nil {
			continue // Nothing has changed.
		}
		if inventory != nil {
			*inventory = tidy(*inventory)
		}
		select {
		case heard <- answer{from, inventory, err}:
		case <-ctx.Done():
			return
		}
		// After an error another process may be there, which means something else by the same ETag.
		etag = newer
		switch {
		case err == nil:
			pause = newPause()
		case errors.Is(err, registryclient.ErrNoInventory):
			sleep(ctx, wait.Jitter(outdatedPause, 0.2))
		default:
			sleep(ctx, pause.Step())
		}
	}
}

// newPause returns the pauses after one error after another.
func newPause() wait.Backoff {
	return wait.Backoff{Duration: firstPause, Factor: 2, Jitter: 0.5, Steps: 6, Cap: longestPause}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Package check tries out what a bucket's storage can do: whether it writes conditionally, which several servers on one
// storage rely on, and, one by one, every operation that a registry needs.
package check

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	// prefix is reserved: all that is below it is a check's.
	prefix = "check/"
	// racers write at the same moment, in each of so many rounds.
	racers = 8
	rounds = 2
	// cleanPatience is how long clearing away may take, and lastPatience when the check was cancelled, which somebody waits
	// for.
	cleanPatience = 10 * time.Second
	lastPatience  = 2 * time.Second
	// staleAfter is the age at which an object cannot belong to a check that is still going on.
	staleAfter = time.Hour
	// maxContent bounds what is read back.
	maxContent = 1 << 10
)

// ConditionalWrites reports whether b decides between writers: of several that create one object, or replace the same
// version of it, at the same moment, exactly one must win, and the others must be told. It leaves nothing behind. An
// error says that it could not be found out.
func ConditionalWrites(ctx context.Context, b bucket.Bucket) (bool, error) {
	key := newKey("race")
	defer clean(ctx, b, key)
	for range rounds {
		won, info, err := race(ctx, b, key, bucket.Condition{Absent: true}, bucket.ErrExists)
		if err != nil || !won {
			return false, err
		}
		if won, _, err = race(ctx, b, key, bucket.Condition{ETag: info.ETag}, bucket.ErrChanged); err != nil || !won {
			return false, err
		}
		// The version that was replaced is no longer there to be replaced.
		switch _, err := put(ctx, b, key, "late", bucket.Condition{ETag: info.ETag}); {
		case err == nil:
			return false, nil
		case !errors.Is(err, bucket.ErrChanged):
			return false, fmt.Errorf("trying out conditional writes: %w", err)
		}
		if err := b.Delete(ctx, key, bucket.Condition{}); err != nil {
			return false, fmt.Errorf("trying out conditional writes: %w", err)
		}
	}
	return true, nil
}

// ConditionalDeletes reports whether b keeps an object when it is told to delete another version of it, which garbage
// collection relies on where several servers share a storage. An error says that it could not be found out.
func ConditionalDeletes(ctx context.Context, b bucket.Bucket) (bool, error) {
	key := newKey("delete")
	defer clean(ctx, b, key)
	first, err := put(ctx, b, key, "first", bucket.Condition{})
	if err == nil {
		_, err = put(ctx, b, key, "second", bucket.Condition{})
	}
	if err != nil {
		return false, fmt.Errorf("trying out conditional deletes: %w", err)
	}
	if err := b.Delete(ctx, key, bucket.Condition{ETag: first.ETag}); err != nil && !errors.Is(err, bucket.ErrChanged) {
		return false, fmt.Errorf("trying out conditional deletes: %w", err)
	}
	_, err = b.Head(ctx, key)
	if err != nil && !errors.Is(err, bucket.ErrNotFound) {
		return false, fmt.Errorf("trying out conditional deletes: %w", err)
	}
	return err == nil, nil
}

// race has several write key at the same moment. won is true when one was told that it won, all others that they lost,
// and what is stored is the winner's.
func race(ctx context.Context, b bucket.Bucket, key string, c bucket.Condition, lost error) (won bool, winner bucket.Info, err error) {
	var (
		wait    sync.WaitGroup
		infos   [racers]bucket.Info
		errs    [racers]error
		names   [racers]string
		winners []int
	)
	start := make(chan struct{})
	for i := range racers {
		names[i] = rand.Text()
		wait.Go(func() {
			<-start
			infos[i], errs[i] = put(ctx, b, key, names[i], c)
		})
	}
	close(start)
	wait.Wait()
	for i, err := range errs {
		switch {
		case err == nil:
			winners = append(winners, i)
		case !errors.Is(err, lost):
			return false, winner, fmt.Errorf("trying out conditional writes: %w", err)
		}
	}
	if len(winners) != 1 {
		return false, winner, nil
	}
	content, err := get(ctx, b, key)
	if err != nil {
		return false, winner, fmt.Errorf("trying out conditional writes: %w", err)
	}
	return content == names[winners[0]], infos[winners[0]], nil
}

func newKey(name string) string { return prefix + name + "-" + strings.ToLower(rand.Text()) }

func put(ctx context.Context, b bucket.Bucket, key, content string, c bucket.Condition) (bucket.Info, error) {
	return b.Put(ctx, key, strings.NewReader(content), int64(len(content)), c)
}

func get(ctx context.Context, b bucket.Bucket, key string) (string, error) {
	body, _, err := b.Get(ctx, key, nil)
	if err != nil {
		return "", err
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, maxContent))
	return string(content), err
}

// clean removes what a check wrote, and what killed ones left behind.
func clean(ctx context.Context, b bucket.Bucket, keys ...string) {
	patience := cleanPatience
	if ctx.Err() != nil {
		patience = lastPatience
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	// What cannot be deleted now, the next check deletes.
	for _, key := range keys {
		_ = b.Delete(ctx, key, bucket.Condition{})
	}
	p, err := b.List(ctx, bucket.ListOptions{Prefix: prefix})
	if err != nil {
		return
	}
	for _, i := range p.Objects {
		if time.Since(i.Modified) > staleAfter {
			_ = b.Delete(ctx, i.Key, bucket.Condition{})
		}
	}
}

// Package buckettest holds the tests that every implementation of bucket.Bucket must pass.
package buckettest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// Promise is what an implementation keeps beyond what all do.
type Promise int

// DeletesOnce says that of several deletes that name the ETag of one object, exactly one succeeds.
const DeletesOnce Promise = iota

// Run tests an implementation. open returns an empty bucket each time it is called.
func Run(t *testing.T, open func(t *testing.T) bucket.Bucket, promises ...Promise) {
	t.Helper()
	if slices.Contains(promises, DeletesOnce) {
		t.Run("DeletesOnce", func(t *testing.T) { testDeletesOnce(t, open(t)) })
	}
	for name, test := range map[string]func(t *testing.T, b bucket.Bucket){
		"RoundTrip":          testRoundTrip,
		"Replace":            testReplace,
		"Missing":            testMissing,
		"Keys":               testKeys,
		"Conditions":         testConditions,
		"Copy":               testCopy,
		"Ranges":             testRanges,
		"Sizes":              testSizes,
		"BodyError":          testBodyError,
		"CancelledContext":   testCancelledContext,
		"ReaderOutlivesKey":  testReaderOutlivesKey,
		"List":               testList,
		"ListMany":           testListMany,
		"ListAfterDelete":    testListAfterDelete,
		"ListNames":          testListNames,
		"Version":            testVersion,
		"Same":               testSame,
		"RaceAbsent":         testRaceAbsent,
		"RaceCounter":        testRaceCounter,
		"RaceReplace":        testRaceReplace,
		"RacePutAndDelete":   testRacePutAndDelete,
		"RaceInOneDirectory": testRaceInOneDirectory,
		"RaceList":           testRaceList,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func put(ctx context.Context, b bucket.Bucket, key, content string, c bucket.Condition) (bucket.Info, error) {
	return b.Put(ctx, key, strings.NewReader(content), int64(len(content)), c)
}

func mustPut(t *testing.T, b bucket.Bucket, key, content string) bucket.Info {
	t.Helper()
	info, err := put(t.Context(), b, key, content, bucket.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func get(ctx context.Context, b bucket.Bucket, key string, r *bucket.Range) (string, bucket.Info, error) {
	body, info, err := b.Get(ctx, key, r)
	if err != nil {
		return "", info, err
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	return string(content), info, err
}

func wantContent(t *testing.T, b bucket.Bucket, key, want string) {
	t.Helper()
	got, info, err := get(t.Context(), b, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got != want || info.Size != int64(len(want)) || info.Key != key {
		t.Fatalf("%s has %.100q (%+v), want %.100q", key, got, info, want)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func wantNothing(t *testing.T, b bucket.Bucket) {
	t.Helper()
	p, err := b.List(t.Context(), bucket.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Objects) != 0 {
		t.Fatalf("the bucket has %v", p.Objects)
	}
}

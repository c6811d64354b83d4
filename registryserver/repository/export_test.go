package repository

import (
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
)

// Counted is the bucket that a store with a tracker has.
func Counted(b bucket.Bucket, tracker *quota.Tracker) bucket.Bucket {
	return newCounted(b, tracker, time.Now)
}

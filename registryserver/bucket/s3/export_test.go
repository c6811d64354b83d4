package s3

import "time"

// SetPatience shortens the time that the server may take for whatever is asked of it.
func (b *Bucket) SetPatience(d time.Duration) {
	b.sender.patience = func(string) time.Duration { return d }
}

// SetMaxBackoff shortens the waiting before a request is sent again.
func (b *Bucket) SetMaxBackoff(d time.Duration) { b.sender.maxBackoff = d }

// SetCopySizes makes copies of more than most bytes be made in parts of this size.
func (b *Bucket) SetCopySizes(most, part int64) { b.maxCopy, b.copyPart = most, part }

// BuffersLent is how many buffers puts have now.
func (b *Bucket) BuffersLent() int { return len(b.small.lent) + len(b.large.lent) }

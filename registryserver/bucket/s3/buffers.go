package s3

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	// partBytes is the size of the parts of a multipart upload, and of the largest put in one request. A part is kept
	// until the server has it, so that it can be sent again.
	partBytes = 8 << 20
	// smallBuffer holds what nearly all charts, manifests and tags have, so that they do not wait behind large uploads.
	smallBuffer = 128 << 10
	// So many puts of each kind read their bodies at once; together their buffers have 160 MiB at most.
	maxSmallBuffers = 512
	maxLargeBuffers = 12
	// bufferPatience is how long a put waits for a buffer.
	bufferPatience = time.Minute
)

// buffers are lent to puts: a bounded number at once, however many puts there are. What is given back is used again or,
// after a while, freed.
type buffers struct {
	lent chan struct{}
	free sync.Pool
}

func newBuffers(size, most int) *buffers {
	return &buffers{
		lent: make(chan struct{}, most),
		free: sync.Pool{New: func() any { b := make([]byte, size); return &b }},
	}
}

// take waits for a buffer. Errors: the end of ctx, bucket.ErrUnavailable.
func (b *buffers) take(ctx context.Context) (*[]byte, error) {
	timer := time.NewTimer(bufferPatience)
	defer timer.Stop()
	select {
	case b.lent <- struct{}{}:
		return b.free.Get().(*[]byte), nil //nolint:forcetypeassert // Nothing else is put there.
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, fmt.Errorf("%w: %d uploads of this size are running already", bucket.ErrUnavailable, cap(b.lent))
	}
}

func (b *buffers) giveBack(buffer *[]byte) {
	b.free.Put(buffer)
	<-b.lent
}

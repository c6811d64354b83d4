package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// markName is metadata by which a put recognises its own object, when it was sent again because the first answer was
// lost, and the second says that the condition does not hold any more.
const markName = "chartroom-put"

// put is one call of Put.
type put struct {
	b    *Bucket
	ctx  context.Context //nolint:containedctx // A put lives as long as one call.
	key  string
	mark string
	body io.Reader
	// size was announced; negative when nothing was. read counts what has come.
	size, read int64
	condition  bucket.Condition
}

// Put implements bucket.Bucket. Many puts at once wait for each other's buffers.
func (b *Bucket) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	if err := bucket.CheckKey(key); err != nil {
		return bucket.Info{}, err
	}
	p := &put{b: b, ctx: ctx, key: key, mark: rand.Text(), body: body, size: size, condition: c}
	// What is in memory already, as tags are, needs no buffer.
	if r, ok := body.(*bytes.Reader); ok && int64(r.Len()) == size && size <= partBytes {
		return p.whole(io.NewSectionReader(r, r.Size()-size, size), size)
	}
	buffer, err := b.small.take(ctx)
	if err != nil {
		return bucket.Info{}, fmt.Errorf("put %s: %w", key, err)
	}
	n, bodyErr := p.fill(*buffer)
	if bodyErr == io.EOF { //nolint:errorlint // It is never wrapped.
		defer b.small.giveBack(buffer)
		return p.whole(bytes.NewReader((*buffer)[:n]), n)
	}
	if bodyErr != nil {
		b.small.giveBack(buffer)
		return bucket.Info{}, bodyErr
	}
	large, err := b.large.take(ctx)
	if err == nil {
		copy(*large, *buffer)
		defer b.large.giveBack(large)
	}
	b.small.giveBack(buffer)
	if err != nil {
		return bucket.Info{}, fmt.Errorf("put %s: %w", key, err)
	}
	more, bodyErr := p.fill((*large)[n:])
	if bodyErr == io.EOF { //nolint:errorlint // It is never wrapped.
		return p.whole(bytes.NewReader((*large)[:n+more]), n+more)
	}
	if bodyErr != nil {
		return bucket.Info{}, bodyErr
	}
	return p.inParts(*large)
}

// fill reads the body until buffer is full. io.EOF says that the body ended, where it may.
func (p *put) fill(buffer []byte) (n int64, err error) {
	for n < int64(len(buffer)) {
		if err := p.ctx.Err(); err != nil {
			return n, err
		}
		more, err := p.body.Read(buffer[n:])
		n += int64(more)
		p.read += int64(more)
		switch {
		case p.size >= 0 && p.read > p.size:
			return n, fmt.Errorf("put %s: the body has more than the %d bytes announced", p.key, p.size)
		case err == io.EOF && p.read < p.size:
			return n, fmt.Errorf("put %s: %d of %d bytes came: %w", p.key, p.read, p.size, io.ErrUnexpectedEOF)
		case err != nil:
			return n, err
		}
	}
	return n, nil
}

// whole stores the object with one request.
func (p *put) whole(content io.ReadSeeker, size int64) (bucket.Info, error) {
	if err := p.ctx.Err(); err != nil {
		return bucket.Info{}, err
	}
	absent, etag := conditions(p.condition)
	ctx, sent := counted(p.ctx)
	out, err := p.b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: p.b.bucket(), Key: p.b.name(p.key), Body: content, ContentLength: &size,
		Metadata: map[string]string{markName: p.mark}, IfNoneMatch: absent, IfMatch: etag,
	})
	if err != nil {
		return p.settle(sent, err)
	}
	return bucket.Info{Key: p.key, Size: size, ETag: aws.ToString(out.ETag), Modified: answered(out.ResultMetadata)}, nil
}

// answered is the time of an answer by the server's clock.
func answered(metadata middleware.Metadata) time.Time {
	if at, ok := awsmiddleware.GetServerTime(metadata); ok {
		return at
	}
	return time.Now()
}

func conditions(c bucket.Condition) (ifNoneMatch, ifMatch *string) {
	if c.Absent {
		ifNoneMatch = aws.String("*")
	}
	if c.ETag != "" {
		ifMatch = &c.ETag
	}
	return ifNoneMatch, ifMatch
}

// settle finds out what became of a put that the server refused. If it was sent more than once, the first may have
// succeeded and the answer been lost.
func (p *put) settle(sent *call, err error) (bucket.Info, error) {
	conditional := p.condition != (bucket.Condition{})
	refused := conditional && (isRefused(err) || p.condition.ETag != "" && isNotFound(err))
	if sent.sent.Load() > 1 && (refused || code(err) == conflict || code(err) == "NoSuchUpload") {
		info, metadata, headErr := p.b.head(p.ctx, p.key)
		if headErr == nil && metadata[markName] == p.mark {
			return info, nil
		}
		if headErr != nil && !errors.Is(headErr, bucket.ErrNotFound) {
			return bucket.Info{}, fmt.Errorf("put %s: it is not known whether it was stored: %w", p.key, headErr)
		}
	}
	switch {
	case refused && p.condition.Absent:
		return bucket.Info{}, fmt.Errorf("put %s: %w", p.key, bucket.ErrExists)
	case refused:
		return bucket.Info{}, fmt.Errorf("put %s: %w", p.key, bucket.ErrChanged)
	}
	return bucket.Info{}, p.b.failedWriting(p.ctx, "put", p.key, err)
}

// Delete implements bucket.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string, c bucket.Condition) error {
	if err := bucket.CheckKey(key); err != nil {
		return err
	}
	if c.Absent {
		return fmt.Errorf("delete %s: absence is no condition of a delete", key)
	}
	_, etag := conditions(c)
	counting, sent := counted(ctx)
	_, err := b.client.DeleteObject(counting, &s3.DeleteObjectInput{Bucket: b.bucket(), Key: b.name(key), IfMatch: etag})
	switch {
	case err == nil, c.ETag == "" && isNotFound(err):
		return nil
	case c.ETag != "" && (isRefused(err) || isNotFound(err)):
		// The object with this ETag is gone, which may be what the first sending did.
		if sent.sent.Load() > 1 {
			if _, err := b.Head(ctx, key); errors.Is(err, bucket.ErrNotFound) {
				return nil
			}
		}
		return fmt.Errorf("delete %s: %w", key, bucket.ErrChanged)
	}
	return b.failedWriting(ctx, "delete", key, err)
}

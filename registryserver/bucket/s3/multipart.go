package s3

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	// maxParts is the most that S3 takes.
	maxParts = 10_000
	// abortPatience is how long the clearing away of an upload may take, which goes on when its client is gone.
	abortPatience = 30 * time.Second
	// staleAfter is the age at which an upload cannot belong to a put that is still going on.
	staleAfter = 24 * time.Hour
)

// upload is a multipart upload: nothing of it is visible before it is complete.
type upload struct {
	b     *Bucket
	key   string
	id    *string
	parts []types.CompletedPart
}

func (b *Bucket) beginUpload(ctx context.Context, key string, metadata map[string]string) (*upload, error) {
	out, err := b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: b.bucket(), Key: b.name(key), Metadata: metadata})
	if err != nil {
		return nil, b.failedWriting(ctx, "put", key, err)
	}
	return &upload{b: b, key: key, id: out.UploadId}, nil
}

// next is the number of the next part.
func (u *upload) next() (*int32, error) {
	if len(u.parts) >= maxParts {
		return nil, fmt.Errorf("put %s: an object in S3 has at most %d parts of %d MiB", u.key, maxParts, partBytes>>20)
	}
	return aws.Int32(int32(len(u.parts)) + 1), nil //nolint:gosec // At most maxParts.
}

func (u *upload) add(number *int32, etag *string) {
	u.parts = append(u.parts, types.CompletedPart{PartNumber: number, ETag: etag})
}

func (u *upload) send(ctx context.Context, part []byte) error {
	number, err := u.next()
	if err != nil {
		return err
	}
	out, err := u.b.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: u.b.bucket(), Key: u.b.name(u.key), UploadId: u.id, PartNumber: number,
		Body: bytes.NewReader(part), ContentLength: aws.Int64(int64(len(part))),
	})
	if err != nil {
		return u.b.failedWriting(ctx, "put", u.key, err)
	}
	u.add(number, out.ETag)
	return nil
}

func (u *upload) complete(ctx context.Context, c bucket.Condition) (*s3.CompleteMultipartUploadOutput, error) {
	absent, etag := conditions(c)
	return u.b.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: u.b.bucket(), Key: u.b.name(u.key), UploadId: u.id, IfNoneMatch: absent, IfMatch: etag,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: u.parts},
	})
}

// abort frees the room of the parts. An upload that is complete after all is not touched by it.
func (u *upload) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortPatience)
	defer cancel()
	// What it leaves behind, AbortStale finds.
	_, _ = u.b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: u.b.bucket(), Key: u.b.name(u.key), UploadId: u.id})
}

// inParts stores a body of which buffer is full already.
func (p *put) inParts(buffer []byte) (_ bucket.Info, err error) {
	u, err := p.b.beginUpload(p.ctx, p.key, map[string]string{markName: p.mark})
	if err != nil {
		return bucket.Info{}, err
	}
	defer func() {
		if err != nil {
			u.abort(p.ctx)
		}
	}()
	for n, bodyErr := int64(len(buffer)), error(nil); ; n, bodyErr = p.fill(buffer) {
		if bodyErr != nil && bodyErr != io.EOF { //nolint:errorlint // The end of a reader is io.EOF itself, as io.Reader says.
			return bucket.Info{}, bodyErr
		}
		if n > 0 {
			if err := u.send(p.ctx, buffer[:n]); err != nil {
				return bucket.Info{}, err
			}
		}
		if bodyErr == io.EOF { //nolint:errorlint // It is never wrapped.
			break
		}
	}
	ctx, sent := counted(p.ctx)
	out, err := u.complete(ctx, p.condition)
	if err != nil {
		return p.settle(sent, err)
	}
	return bucket.Info{Key: p.key, Size: p.read, ETag: aws.ToString(out.ETag), Modified: answered(out.ResultMetadata)}, nil
}

// Copy implements bucket.Bucket. Above 5 GiB, the most that S3 copies with one request, it copies in parts.
func (b *Bucket) Copy(ctx context.Context, from, to string) (bucket.Info, error) {
	if err := bucket.CheckKey(to); err != nil {
		return bucket.Info{}, err
	}
	for tries := 0; ; tries++ {
		source, err := b.Head(ctx, from)
		if err != nil {
			return bucket.Info{}, err
		}
		var info bucket.Info
		if source.Size > b.maxCopy {
			info, err = b.copyParts(ctx, source, to)
		} else {
			info, err = b.copyWhole(ctx, source, to)
		}
		// The source was replaced since it was looked at.
		if err == nil || !isRefused(err) {
			return info, err
		}
		if tries == maxAttempts {
			return bucket.Info{}, b.failedWriting(ctx, "copy "+from+" to", to, err)
		}
	}
}

func (b *Bucket) copyWhole(ctx context.Context, source bucket.Info, to string) (bucket.Info, error) {
	out, err := b.client.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket: b.bucket(), Key: b.name(to), CopySource: b.copySource(source.Key), CopySourceIfMatch: &source.ETag,
	})
	if err != nil {
		return bucket.Info{}, b.failedCopying(ctx, source.Key, to, err)
	}
	info := bucket.Info{Key: to, Size: source.Size, Modified: answered(out.ResultMetadata)}
	if out.CopyObjectResult != nil {
		info.ETag = aws.ToString(out.CopyObjectResult.ETag)
	}
	return info, nil
}

func (b *Bucket) copyParts(ctx context.Context, source bucket.Info, to string) (_ bucket.Info, err error) {
	u, err := b.beginUpload(ctx, to, nil)
	if err != nil {
		return bucket.Info{}, err
	}
	defer func() {
		if err != nil {
			u.abort(ctx)
		}
	}()
	for first := int64(0); first < source.Size; first += b.copyPart {
		number, err := u.next()
		if err != nil {
			return bucket.Info{}, err
		}
		part := fmt.Sprintf("bytes=%d-%d", first, min(first+b.copyPart, source.Size)-1)
		out, err := b.client.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
			Bucket: b.bucket(), Key: b.name(to), UploadId: u.id, PartNumber: number,
			CopySource: b.copySource(source.Key), CopySourceRange: &part, CopySourceIfMatch: &source.ETag,
		})
		if err != nil {
			return bucket.Info{}, b.failedCopying(ctx, source.Key, to, err)
		}
		if out.CopyPartResult == nil {
			return bucket.Info{}, fmt.Errorf("copy %s to %s: %w: the server does not say what it copied", source.Key, to, bucket.ErrUnavailable)
		}
		u.add(number, out.CopyPartResult.ETag)
	}
	out, err := u.complete(ctx, bucket.Condition{})
	if err != nil {
		return bucket.Info{}, b.failedCopying(ctx, source.Key, to, err)
	}
	return bucket.Info{Key: to, Size: source.Size, ETag: aws.ToString(out.ETag), Modified: answered(out.ResultMetadata)}, nil
}

// failedCopying keeps the server's answer for Copy to judge.
func (b *Bucket) failedCopying(ctx context.Context, from, to string, err error) error {
	if ctx.Err() == nil && isRefused(err) {
		return err
	}
	return b.failedWriting(ctx, "copy "+from+" to", to, err)
}

// copySource is an object as the server wants it named in a header: with everything encoded that could mean something
// else, "+" above all.
func (b *Bucket) copySource(key string) *string {
	var encoded bytes.Buffer
	for _, c := range []byte(*b.bucket() + "/" + *b.name(key)) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '/', c == '-', c == '_', c == '.':
			encoded.WriteByte(c)
		default:
			fmt.Fprintf(&encoded, "%%%02X", c)
		}
	}
	return aws.String(encoded.String())
}

// AbortStale frees the room of uploads that killed processes left behind more than a day before now, by the server's
// clock. They are not visible as objects.
func (b *Bucket) AbortStale(ctx context.Context, now time.Time) error {
	input := &s3.ListMultipartUploadsInput{Bucket: b.bucket(), Prefix: b.name("")}
	for {
		out, err := b.client.ListMultipartUploads(ctx, input)
		if err != nil {
			return b.failed(ctx, "list uploads below", b.o.Prefix, err)
		}
		for _, u := range out.Uploads {
			if now.Sub(aws.ToTime(u.Initiated)) < staleAfter {
				continue
			}
			_, err := b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: b.bucket(), Key: u.Key, UploadId: u.UploadId})
			if err != nil && code(err) != "NoSuchUpload" {
				return b.failedWriting(ctx, "abort an upload of", aws.ToString(u.Key), err)
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		input.KeyMarker, input.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}

package s3

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// SetTags gives an object these tags in place of those it has. Errors: bucket.ErrNotFound, bucket.ErrReadOnly,
// bucket.ErrUnavailable.
func (b *Bucket) SetTags(ctx context.Context, key string, tags map[string]string) error {
	set := &types.Tagging{TagSet: []types.Tag{}}
	for name, value := range tags {
		set.TagSet = append(set.TagSet, types.Tag{Key: aws.String(name), Value: aws.String(value)})
	}
	_, err := b.client.PutObjectTagging(ctx, &s3.PutObjectTaggingInput{Bucket: b.bucket(), Key: b.name(key), Tagging: set})
	if err != nil {
		return b.failedWriting(ctx, "tag", key, err)
	}
	return nil
}

// Tags returns an object's tags. Errors: bucket.ErrNotFound, bucket.ErrUnavailable.
func (b *Bucket) Tags(ctx context.Context, key string) (map[string]string, error) {
	out, err := b.client.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: b.bucket(), Key: b.name(key)})
	if err != nil {
		return nil, b.failed(ctx, "read the tags of", key, err)
	}
	tags := map[string]string{}
	for _, t := range out.TagSet {
		tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return tags, nil
}

package s3

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// maxPage is the most that one page of a listing has.
const maxPage = 1000

// Get implements bucket.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if err := bucket.CheckKey(key); err != nil {
		return nil, bucket.Info{}, err
	}
	input := &s3.GetObjectInput{Bucket: b.bucket(), Key: b.name(key)}
	if r != nil {
		asked := fmt.Sprintf("bytes=%d-", r.Offset)
		if r.Length >= 0 {
			// There is no way to ask for no byte.
			asked += strconv.FormatInt(r.Offset+min(max(r.Length, 1), 1<<62-r.Offset)-1, 10)
		}
		input.Range = &asked
	}
	out, err := b.client.GetObject(ctx, input)
	if err != nil {
		return nil, bucket.Info{}, b.failed(ctx, "get", key, err)
	}
	size, err := wholeSize(out, r)
	if err != nil {
		_ = out.Body.Close()
		return nil, bucket.Info{}, fmt.Errorf("get %s: %w: %w", key, bucket.ErrUnavailable, err)
	}
	if r != nil && r.Length == 0 {
		_ = out.Body.Close()
		return http.NoBody, describe(key, size, out.ETag, out.LastModified), nil
	}
	return &body{b: b, ctx: ctx, key: key, ReadCloser: out.Body, left: *out.ContentLength},
		describe(key, size, out.ETag, out.LastModified), nil
}

// wholeSize is the size of the object of which an answer has the whole, or the part that was asked for.
func wholeSize(out *s3.GetObjectOutput, r *bucket.Range) (int64, error) {
	// Without its length, a body that is cut short cannot be told from a whole one.
	if out.ContentLength == nil || *out.ContentLength < 0 {
		return 0, fmt.Errorf("the server does not say how long the answer is")
	}
	if r == nil {
		return *out.ContentLength, nil
	}
	// Content-Range: bytes first-last/size (RFC 9110 section 14.4).
	text := aws.ToString(out.ContentRange)
	part, total, _ := strings.Cut(strings.TrimPrefix(text, "bytes "), "/")
	size, err := strconv.ParseInt(total, 10, 64)
	if want := fmt.Sprintf("%d-%d", r.Offset, r.Offset+*out.ContentLength-1); err != nil || part != want {
		return 0, fmt.Errorf("the server answered a request for a range with the range %q", text)
	}
	return size, nil
}

// body yields an error in place of io.EOF when it ends early.
type body struct {
	io.ReadCloser
	b    *Bucket
	ctx  context.Context //nolint:containedctx // That of the Get that the body is of.
	key  string
	left int64
}

// Read implements io.Reader.
func (o *body) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	o.left -= int64(n)
	if err != nil && (err != io.EOF || o.left != 0) { //nolint:errorlint // The end of a reader is io.EOF itself, as io.Reader says.
		err = o.b.interrupted(o.ctx, o.key, err)
	}
	return n, err
}

// Head implements bucket.Bucket.
func (b *Bucket) Head(ctx context.Context, key string) (bucket.Info, error) {
	info, _, err := b.head(ctx, key)
	return info, err
}

// head is Head with the metadata.
func (b *Bucket) head(ctx context.Context, key string) (bucket.Info, map[string]string, error) {
	if err := bucket.CheckKey(key); err != nil {
		return bucket.Info{}, nil, err
	}
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: b.bucket(), Key: b.name(key)})
	if err != nil {
		return bucket.Info{}, nil, b.failed(ctx, "look up", key, err)
	}
	return describe(key, aws.ToInt64(out.ContentLength), out.ETag, out.LastModified), out.Metadata, nil
}

func describe(key string, size int64, etag *string, modified *time.Time) bucket.Info {
	return bucket.Info{Key: key, Size: size, ETag: aws.ToString(etag), Modified: aws.ToTime(modified)}
}

// List implements bucket.Bucket.
func (b *Bucket) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	if o.Delimiter != "" && o.Delimiter != "/" {
		return bucket.Page{}, fmt.Errorf("list %s: the delimiter %q is not supported", o.Prefix, o.Delimiter)
	}
	if o.Limit <= 0 || o.Limit > maxPage {
		o.Limit = maxPage
	}
	if !beginsKeys(o.Prefix) {
		return bucket.Page{}, ctx.Err()
	}
	after, some := startAfter(o)
	if !some {
		return bucket.Page{}, ctx.Err()
	}
	input := &s3.ListObjectsV2Input{Bucket: b.bucket(), Prefix: b.name(o.Prefix), MaxKeys: aws.Int32(int32(o.Limit))} //nolint:gosec // At most 1,000.
	if o.Delimiter != "" {
		input.Delimiter = &o.Delimiter
	}
	if after != "" {
		input.StartAfter = b.name(after)
	}
	for {
		out, err := b.client.ListObjectsV2(ctx, input)
		if err != nil {
			return bucket.Page{}, b.failed(ctx, "list", o.Prefix, err)
		}
		p := b.page(out, o)
		// A server may send pages that have nothing, or nothing of what is asked for, and go on behind them.
		if p.Next != "" || !aws.ToBool(out.IsTruncated) || aws.ToString(out.NextContinuationToken) == "" {
			return p, nil
		}
		input.ContinuationToken, input.StartAfter = out.NextContinuationToken, nil
	}
}

// page is an answer of the server without what is not greater than StartAfter.
func (b *Bucket) page(out *s3.ListObjectsV2Output, o bucket.ListOptions) bucket.Page {
	var p bucket.Page
	cut := len(*b.name(""))
	last := ""
	for _, object := range out.Contents {
		// Folders that other programs made are empty objects whose names end in a slash.
		if key := aws.ToString(object.Key)[cut:]; key > o.StartAfter && bucket.CheckKey(key) == nil {
			p.Objects = append(p.Objects, describe(key, aws.ToInt64(object.Size), object.ETag, object.LastModified))
			last = max(last, key)
		}
	}
	for _, prefix := range out.CommonPrefixes {
		if key := aws.ToString(prefix.Prefix)[cut:]; key > o.StartAfter {
			p.Prefixes = append(p.Prefixes, key)
			last = max(last, key)
		}
	}
	if aws.ToBool(out.IsTruncated) {
		p.Next = last
	}
	return p
}

// beginsKeys is false for what no key begins with.
func beginsKeys(prefix string) bool {
	base := prefix[:strings.LastIndexByte(prefix, '/')+1]
	tail := prefix[len(base):]
	return (base == "" || bucket.CheckKey(strings.TrimSuffix(base, "/")) == nil) &&
		(tail == "" || tail == "." || tail == ".." || bucket.CheckKey(tail) == nil)
}

// startAfter is from where to have the server list; empty from the beginning. some is false where nothing is left.
func startAfter(o bucket.ListOptions) (after string, some bool) {
	if o.StartAfter < o.Prefix {
		return "", true
	}
	rest, within := strings.CutPrefix(o.StartAfter, o.Prefix)
	if !within {
		return "", false
	}
	// The common prefix that StartAfter is in, or is, does not come again. No key has a "~", which is behind all
	// characters that keys have.
	if i := strings.Index(rest, "/"); o.Delimiter != "" && i >= 0 {
		rest = rest[:i+1] + "~"
	}
	// What no key has need not survive the way to the server. It lists more then, which is left out afterwards.
	for i := range len(rest) {
		if c := rest[i]; c != '/' && c != '~' && bucket.CheckKey(string(rune(c))+"x") != nil {
			rest = rest[:i]
			break
		}
	}
	return o.Prefix + rest, true
}
